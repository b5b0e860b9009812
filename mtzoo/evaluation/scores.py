"""Scoring a model on test pairs: every method beside its baselines, by frame, with intervals.

Three questions, each with what needs no model beside it:

- **transfer**: the motion of V on the appearance of y, against the truth that a synthetic world can
  render; beside copying y, copying V, and the truth itself taken apart and put together again, an
  upper mark;
- **prediction**: motions drawn for the first picture of V, the best of them against V; beside
  repeating that picture, and the reconstruction of V;
- **reconstruction**: V taken apart and put together again, against V; beside repeating V's first
  frame.

In the last two the first frame is given, so it does not count. What has no truth is judged by
networks (`Judges`): whether classifiers see the target's content and the source's motion, and how
far the features of made videos lie from those of real ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from mtzoo.engine.evaluate import decibels
from mtzoo.engine.loader import Steps, batches, to_batch
from mtzoo.engine.samples import spread
from mtzoo.errors import MtzooError
from mtzoo.evaluation import frechet, metrics
from mtzoo.evaluation.classifiers import Classifiers
from mtzoo.evaluation.perceptual import Lpips
from mtzoo.interfaces import Batch, Model, PairDataset, as_frames, as_video

METRICS = ("psnr", "ssim")
"""What is measured of every frame that has a truth, whatever else is."""

LOWER = ("lpips",)
"""Metrics of frames that are the better the lower."""

MEAN = "mean of samples"
FIRST = "first sample"

# What all protocols have in common, for who reads their results.
_ALWAYS = {"ssim_border": "window wholly inside", "psnr_range": 255, "given_frames": 1}

Progress = Callable[[int, int], None]
"""Called with how many videos are done, and how many there are."""


def silent(done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Judges:
    """Networks that score beside PSNR and SSIM, where there are any.

    Attributes:
        lpips: For distances to the truth and between samples.
        detector: For FVD.
        classifiers: For content and motion.
    """

    lpips: Lpips | None = None
    detector: frechet.Detector | None = None
    classifiers: Classifiers | None = None

    def as_json(self, videos: int) -> dict[str, object]:
        """Which networks they are, as JSON values."""
        told: dict[str, object] = {"lpips": None, "fvd": None, "classes": None}
        if self.classifiers is not None:
            told["classes"] = self.classifiers.classes
        if self.lpips is not None:
            told["lpips"] = {
                "backbone": self.lpips.backbone,
                "weights_sha256": self.lpips.weights_sha256,
            }
        if self.detector is not None:
            told["fvd"] = {
                "detector_sha256": self.detector.sha256,
                "videos": videos,
                "enough": videos >= frechet.ENOUGH,
            }
        return told

    def notes(self, videos: int) -> list[str]:
        """What readers of the figures have to know."""
        if self.detector is None or videos >= frechet.ENOUGH:
            return []
        return [
            f"FVD of {videos} videos means little: it grows as videos get fewer, and published "
            f"values stand on {frechet.ENOUGH} or more; compare equal counts only"
        ]


TakenFor = Mapping[str, Mapping[str, Mapping[str, Mapping[str, int]]]]
"""By side, by label, by what should be seen: how often each name was."""


@dataclass(frozen=True)
class Method:
    """A model or a baseline on one task.

    Attributes:
        task: ``transfer``, ``prediction``, ``reconstruction``, or ``real``: test videos as they
            are, for classifiers.
        name: For people.
        values: By metric, float64: ``(videos, T)`` for metrics of frames (``psnr``, ``ssim``,
            ``lpips``), ``(videos,)`` for metrics of videos (``psnr_video``: PSNR of the mean
            squared error over all channels and frames that count; ``content`` and ``motion``: 1
            where classifiers see in all labels what should be seen, or the share of samples in
            which they do, and ``content_kind`` and the like for single labels).
        first: The first frame that counts; those before it were given.
        fvd: Fréchet Video Distance to the real videos, where it was measured.
        taken_for: What classifiers took videos for: by ``content`` or ``motion``, by label, by
            what should be seen, how often each name was.
        origins: The source video of each clip; empty where each has its own.
    """

    task: str
    name: str
    values: Mapping[str, Tensor]
    first: int = 0
    fvd: float | None = None
    taken_for: TakenFor = field(default_factory=dict)
    origins: Sequence[str] = ()

    def figure(self, metric: str, *, first: int | None = None) -> metrics.Figure:
        """Mean over frames that count and over clips, with its interval over source videos.

        Args:
            metric: One of ``values``.
            first: Another first frame.
        """
        return metrics.figure(self.counted(metric, first=first), self.origins)

    def counted(self, metric: str, *, first: int | None = None) -> Tensor:
        """Each clip's mean over frames that count, ``(videos,)``; arguments as of `figure`."""
        values = self.values[metric]
        if values.ndim == 2:
            values = values[:, self.first if first is None else first :].mean(1)
        return values

    def as_json(self) -> dict[str, object]:
        """Figures with intervals, means by time and each video's values, as JSON values."""
        told: dict[str, object] = {"task": self.task, "method": self.name}
        told["first_frame"] = self.first
        told |= {metric: dataclasses.asdict(self.figure(metric)) for metric in self.values}
        if self.fvd is not None:
            told["fvd"] = self.fvd
        if self.taken_for:
            told["taken_for"] = {
                side: {
                    label: {asked: dict(sorted(seen.items())) for asked, seen in sorted(by.items())}
                    for label, by in labels.items()
                }
                for side, labels in self.taken_for.items()
            }
        told["by_time"] = {
            metric: values.mean(0).tolist()
            for metric, values in self.values.items()
            if values.ndim == 2
        }
        told["by_video"] = {metric: self.counted(metric).tolist() for metric in self.values}
        return told


@dataclass
class Scores:
    """What an evaluation found.

    Attributes:
        protocol: How it was measured.
        videos: How many clips were scored; of worlds each is a video of its own, of stores a
            window of a video.
        samples: Samples a video in the prediction.
        frames: Frames a video.
        methods: The model and the baselines, task by task.
        diversity: Mean absolute difference of a pixel between two samples of one picture, in
            [0, 255], a video; ``(videos,)``. 0 where all samples are alike, empty where there are
            fewer than two.
        diversity_lpips: The same as LPIPS, which is the diversity of the paper's Table II;
            ``(videos,)``, empty where it was not measured.
        positions: Which pairs of the test split they are.
        available: How many it has.
        origins: The source video of each clip; empty where each has its own.
        left_out: How many videos of the split are too short for a clip.
    """

    protocol: metrics.Protocol
    videos: int
    samples: int
    frames: int
    methods: list[Method] = field(default_factory=list)
    diversity: Tensor = field(default_factory=lambda: torch.zeros(0))
    diversity_lpips: Tensor = field(default_factory=lambda: torch.zeros(0))
    positions: Sequence[int] = ()
    available: int = 0
    origins: Sequence[str] = ()
    left_out: int = 0

    @property
    def sources(self) -> int:
        """How many source videos the clips are cut from."""
        return len(set(self.origins)) or self.videos

    def figure(self, values: Tensor) -> metrics.Figure:
        """Mean of one value a clip, ``(videos,)``, with its interval over source videos."""
        return metrics.figure(values, self.origins)

    def counted(self) -> str:
        """How many of what was scored, in words."""
        if not self.origins:
            return f"{self.videos:,} video{'s' * (self.videos != 1)} of {self.frames} frames"
        of = f" of {self.available:,}" if self.videos < self.available else ""
        return (
            f"{self.videos:,}{of} window{'s' * (self.available != 1)} of {self.frames} frames from "
            f"{self.sources:,} video{'s' * (self.sources != 1)}"
        )

    def counts(self) -> dict[str, object]:
        """The same as JSON values, with which they are."""
        return {
            "videos": self.videos,
            "available": self.available,
            "sources": self.sources,
            "left_out": self.left_out,
            "positions": list(self.positions),
            "origins": list(self.origins) or None,
        }

    def method(self, task: str, name: str) -> Method:
        """One of ``methods``."""
        return next(m for m in self.methods if (m.task, m.name) == (task, name))

    def as_json(self) -> dict[str, object]:
        """Everything, as JSON values: figures with intervals, and each video's values."""
        apart = {
            name: dataclasses.asdict(self.figure(values)) if len(values) else None
            for name, values in (
                ("diversity", self.diversity),
                ("diversity_lpips", self.diversity_lpips),
            )
        }
        return {
            "protocol": {**dataclasses.asdict(self.protocol), **_ALWAYS},
            **self.counts(),
            "samples": self.samples,
            "frames": self.frames,
            **apart,
            "methods": [method.as_json() for method in self.methods],
        }


def chosen(pairs: PairDataset, videos: int) -> Sequence[int]:
    """Positions of the ``videos`` test pairs that are scored, fewer where there are fewer.

    Of a world the first, for its pairs are alike; of a store, whose windows of one person and one
    video lie side by side, windows throughout the split.
    """
    if pairs.on_disk:
        return spread(videos, len(pairs))
    return range(min(videos, len(pairs)))


def score(
    model: Model | None,
    pairs: PairDataset,
    *,
    protocol: metrics.Protocol,
    videos: int,
    samples: int | None = None,
    device: torch.device,
    seed: int = 0,
    judges: Judges | None = None,
    workers: int = 0,
    progress: Progress = silent,
) -> Scores:
    """Score a model on test pairs, those that `chosen` names.

    The model sees one video at a time, each with a stream of random numbers of its own, so that a
    video's scores depend neither on how many others are scored nor on who loads them.

    Args:
        model: In evaluation mode; ``None`` scores the baselines alone.
        pairs: The test split, of the model's resolution and channels.
        protocol: Settings of the metrics.
        videos: How many pairs to take; fewer where the split is shorter.
        samples: Samples a video; ``None`` takes the protocol's number, 0 draws none.
        device: Where the model is.
        seed: Of the samples.
        judges: Networks that score, too.
        workers: Processes that load or render the pairs.
        progress: Told of every video.

    Raises:
        MtzooError: The model is not in evaluation mode, is of another size than the data, or
            gives values that are not finite.
    """
    if model is not None:
        check_fit(model, pairs)
    judges = judges or Judges()
    positions = chosen(pairs, videos)
    count = len(positions)
    samples = protocol.samples if samples is None else samples
    tally = _Tally(protocol, judges)
    steps = Steps(pairs, 1, positions=positions)
    items = batches(steps, 0, count, workers=workers, pin=False)
    devices = [device] if device.type == "cuda" else []
    with contextlib.closing(items), _exact(), torch.random.fork_rng(devices=devices):
        for done, (position, item) in enumerate(zip(positions, items, strict=True)):
            progress(done, count)
            clips = _clips(model, item, samples, device=device, seed=seed, index=position)
            tally.add(clips, pairs.labels(position))
    progress(count, count)
    origins = [name for position in positions if (name := pairs.origin(position)) is not None]
    return Scores(
        protocol,
        count,
        samples,
        pairs.frames,
        [dataclasses.replace(method, origins=origins) for method in tally.methods()],
        tally.spread("pixels"),
        tally.spread("lpips"),
        positions=positions,
        available=len(pairs),
        origins=origins,
        left_out=pairs.left_out,
    )


class Row(NamedTuple):
    """What is compared with what.

    Attributes:
        task: Of a `Method`.
        name: Of a `Method`; ``samples`` stands for the methods made of all samples.
        made: Name of a clip.
        truth: Name of the clip that it should be; empty for none.
        first: First frame that counts.
        content: Which clip of the pair has the content that should be seen.
        motion: Which has the motion; empty where any motion will do.
    """

    task: str
    name: str
    made: str
    truth: str
    first: int = 0
    content: str = "video"
    motion: str = "video"


ROWS = (
    Row("transfer", "model", "transfer", "truth", content="target_video"),
    Row("transfer", "copying the target", "target", "truth", content="target_video"),
    Row("transfer", "copying the source", "video", "truth", content="target_video"),
    Row("transfer", "reconstructing the truth", "rebuilt", "truth", content="target_video"),
    Row("prediction", "samples", "samples", "video", first=1, motion=""),
    Row("prediction", "repeating the picture", "first", "video", first=1, motion=""),
    Row("prediction", "reconstruction", "reconstruction", "video", first=1, motion=""),
    Row("reconstruction", "model", "reconstruction", "video", first=1),
    Row("reconstruction", "repeating the first frame", "first", "video", first=1),
    Row("real", "test videos", "video", ""),
)
"""The comparisons; those are made whose clips there are, or which classifiers or FVD can judge."""


@torch.inference_mode()
def _clips(
    model: Model | None,
    item: Mapping[str, Tensor],
    samples: int,
    *,
    device: torch.device,
    seed: int,
    index: int,
) -> dict[str, Tensor]:
    """All there is of one test pair, uint8 ``(N, T, H, W, C)``; T is 1 for what stands still."""
    batch: Batch = to_batch(dict(item), device)
    video = item["video"]
    clips = {
        "video": video,
        "first": video[:, :1],
        "target": as_frames(batch.target).cpu().unsqueeze(1),
    }
    if "truth" in item:
        clips["truth"] = item["truth"]
    if model is not None:
        # For motion generators that draw noise, whichever pair was before.
        torch.manual_seed(_stream(seed, index))
        clips["transfer"] = _frames(model.transfer(batch.target, batch.video))
        clips["reconstruction"] = _frames(model.reconstruct(batch.video))
        if "truth" in clips:
            clips["rebuilt"] = _frames(model.reconstruct(as_video(clips["truth"].to(device))))
        if samples:
            clips["samples"] = draw(
                model, batch.video[:, 0], samples, video.shape[1], seed=seed, index=index
            )
    return clips


class _Tally:
    """Values of videos as they are scored, by method."""

    def __init__(self, protocol: metrics.Protocol, judges: Judges) -> None:
        self._protocol = protocol
        self._judges = judges
        self._values: dict[tuple[str, str], dict[str, list[Tensor]]] = {}
        self._first: dict[tuple[str, str], int] = {}
        self._spread: dict[str, list[Tensor]] = {"pixels": [], "lpips": []}
        self._features: dict[str, list[Tensor]] = {}
        self._shown: dict[tuple[str, str], str] = {}
        self._taken: dict[tuple[str, str], dict[str, dict[str, dict[str, Counter[str]]]]] = {}

    def add(self, clips: Mapping[str, Tensor], labels: Mapping[str, Mapping[str, str]]) -> None:
        """Score one video of which ``labels`` are known."""
        rows = [row for row in ROWS if row.made in clips]
        distances = self._distances(clips, [row for row in rows if row.truth in clips])
        seen = self._seen(clips)
        for row in rows:
            values = {}
            if row.truth in clips:
                values = self._compare(clips[row.made], clips[row.truth], row.first)
                values |= distances.get((row.made, row.truth), {})
            found = _right(seen.get(row.made), row, labels)
            featured = self._judges.detector is not None and row.made not in ("video", "samples")
            if not (values or found or featured):
                continue
            name = row.name
            if name == "samples":
                name = MEAN
                for method, reduced in _of_samples(values, row.first, self._protocol.best).items():
                    self._put(row.task, method, row.first, reduced)
                found = {metric: value.mean(0) for metric, value in found.items()}
                if self._judges.detector is not None:  # which sees one made video for a real one
                    self._put(row.task, FIRST, row.first, {})
                    self._shown[row.task, FIRST] = row.made
            else:
                found = {metric: value[0] for metric, value in {**values, **found}.items()}
            self._put(row.task, name, row.first, found)
            self._take(name, seen.get(row.made), row, labels)
            if row.made != "samples":
                self._shown[row.task, name] = row.made
        if len(clips.get("samples", ())) > 1:
            self._spread["pixels"].append(_difference(clips["samples"]))
        self._look(clips)

    def _compare(self, made: Tensor, truth: Tensor, first: int) -> dict[str, Tensor]:
        """By metric, ``(N, T)`` or ``(N,)``."""
        made = made.expand(-1, truth.shape[1], -1, -1, -1)
        error = metrics.square_errors(made, truth)
        pooled = self._protocol.psnr == "pooled"
        return {
            "psnr": decibels(error) if pooled else metrics.psnr(made, truth, "channels"),
            "ssim": metrics.ssim(made, truth, self._protocol.ssim),
            "psnr_video": decibels(error[:, first:].mean(1)),
        }

    def _seen(self, clips: Mapping[str, Tensor]) -> dict[str, dict[str, dict[str, list[str]]]]:
        """What classifiers take each clip for."""
        if self._judges.classifiers is None:
            return {}
        shape = clips["video"].shape[1:]
        wanted = {row.made for row in ROWS} & clips.keys()
        return {
            name: self._judges.classifiers.see(clips[name].expand(-1, *shape)) for name in wanted
        }

    def _take(
        self,
        name: str,
        seen: Mapping[str, Mapping[str, Sequence[str]]] | None,
        row: Row,
        labels: Mapping[str, Mapping[str, str]],
    ) -> None:
        """Count what a video, or each of its samples, was taken for."""
        for side, label, asked, names in _asked(seen, row, labels):
            counts = self._taken.setdefault((row.task, name), {}).setdefault(side, {})
            counts.setdefault(label, {}).setdefault(asked, Counter()).update(names)

    def _put(self, task: str, name: str, first: int, values: Mapping[str, Tensor]) -> None:
        self._first[task, name] = first
        found = self._values.setdefault((task, name), {})
        for metric, value in values.items():
            found.setdefault(metric, []).append(value)

    def _distances(
        self, clips: Mapping[str, Tensor], rows: list[Row]
    ) -> dict[tuple[str, str], dict[str, Tensor]]:
        if self._judges.lpips is None:
            return {}
        pairs = list(dict.fromkeys((row.made, row.truth) for row in rows))
        shown = {
            name: clips[name] for name in dict.fromkeys(name for pair in pairs for name in pair)
        }
        sampled = ["samples"] if len(shown.get("samples", ())) > 1 else []
        distances, within = self._judges.lpips.compare(shown, pairs, sampled)
        self._spread["lpips"] += within.values()
        return {pair: {"lpips": distance} for pair, distance in distances.items()}

    def _look(self, clips: Mapping[str, Tensor]) -> None:
        """Take the features for FVD; of samples, the first's: one made video for a real one."""
        if self._judges.detector is None:
            return
        shown = {clip for clip in self._shown.values() if clip != "video"}
        for name in sorted(shown | {"video"}):
            clip = clips[name][:1].expand_as(clips["video"])
            self._features.setdefault(name, []).append(self._judges.detector.features(clip))

    def _fvd(self, key: tuple[str, str]) -> float | None:
        made = self._shown.get(key)
        if made not in self._features or made == "video":
            return None
        real, seen = (torch.cat(self._features[name]) for name in ("video", made))
        return frechet.frechet_distance(real, seen)

    def methods(self) -> list[Method]:
        """What was found, method by method."""
        return [
            Method(
                *key,
                {metric: torch.stack(rows) for metric, rows in values.items()},
                self._first[key],
                self._fvd(key),
                self._taken.get(key, {}),
            )
            for key, values in self._values.items()
        ]

    def spread(self, what: str) -> Tensor:
        """How far the samples of each video differ, ``(videos,)``; empty if not measured."""
        values = self._spread[what]
        return torch.stack(values) if values else torch.zeros(0)


def _right(
    seen: Mapping[str, Mapping[str, Sequence[str]]] | None,
    row: Row,
    labels: Mapping[str, Mapping[str, str]],
) -> dict[str, Tensor]:
    """Whether what is seen in N videos is what should be, float64 ``(N,)``, by metric."""
    right: dict[str, dict[str, Tensor]] = {}
    for side, label, asked, names in _asked(seen, row, labels):
        right.setdefault(side, {})[f"{side}_{label}"] = torch.tensor([n == asked for n in names])
    found = {}
    for side, by_label in right.items():
        found[side] = torch.stack(list(by_label.values())).all(0).double()
        if len(by_label) > 1:
            found |= {metric: value.double() for metric, value in by_label.items()}
    return found


def _asked(
    seen: Mapping[str, Mapping[str, Sequence[str]]] | None,
    row: Row,
    labels: Mapping[str, Mapping[str, str]],
) -> Iterator[tuple[str, str, str, Sequence[str]]]:
    """Side, label, what should be seen and what is, for each label that says what should be."""
    for side, clip in (("content", row.content), ("motion", row.motion)):
        if seen and clip:
            for label, names in seen[side].items():
                if label in labels[clip]:
                    yield side, label, labels[clip][label], names


def _of_samples(
    values: Mapping[str, Tensor], first: int, best: str
) -> dict[str, dict[str, Tensor]]:
    """The best sample, all of them, and the best of each frame.

    Args:
        values: By metric, ``(samples, T)`` or ``(samples,)``.
        first: The first frame that counts.
        best: Of the protocol.

    Returns:
        By method, by metric, ``(T,)`` or a scalar.
    """
    best_by = {
        metric: metrics.best_sample(value, first=first, lower=metric in LOWER)
        for metric, value in values.items()
    }
    if best == "ssim":
        best_by = dict.fromkeys(best_by, best_by["ssim"])
    count = len(values["ssim"])
    return {
        f"best of {count}": {metric: value[best_by[metric]] for metric, value in values.items()},
        MEAN: {metric: value.mean(0) for metric, value in values.items()},
        f"best of {count} at each frame": {
            metric: value.amin(0) if metric in LOWER else value.amax(0)
            for metric, value in values.items()
            if value.ndim == 2
        },
    }


@contextlib.contextmanager
def _exact() -> Iterator[None]:
    """Let a GPU compute in float32, not TF32, so that scores do not depend on the device."""
    precise = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False)
    try:
        with flags:
            yield
    finally:
        torch.set_float32_matmul_precision(precise)


def check_fit(model: Model, pairs: PairDataset) -> None:
    """Refuse a model in training mode, or one for other frames than the data have.

    Raises:
        MtzooError: It is either.
    """
    if model.training:
        raise MtzooError("the model is in training mode: call eval() before scoring it")
    size = (model.resolution, model.channels)
    if size != (pairs.resolution, pairs.channels):
        raise MtzooError(
            f"the model is for {size[0]}x{size[0]} pixels of {size[1]} channels, the data have "
            f"{pairs.resolution}x{pairs.resolution} of {pairs.channels}; give data of its size"
        )


def draw(
    model: Model, picture: Tensor, samples: int, frames: int, *, seed: int, index: int
) -> Tensor:
    """Move the first picture of test video ``index`` in ``samples`` ways.

    The motions follow from ``seed`` and ``index``, so a video's samples are the same in every
    table and figure. Only the sheet beside an evaluation's results shows others: motions of the
    target's picture, not of the video's.

    Args:
        model: In evaluation mode.
        picture: ``(1, C, H, W)`` in [-1, 1].
        samples: How many motions.
        frames: Frames of each.
        seed: Of the evaluation.
        index: Position of the video in the test split.

    Returns:
        uint8 ``(samples, frames, H, W, C)`` on the CPU.

    Raises:
        MtzooError: The model gives values that are not finite.
    """
    generator = torch.Generator().manual_seed(_stream(seed, index))
    return _frames(model.sample(picture, samples, frames, generator))[0]


def _frames(made: Tensor) -> Tensor:
    if not made.isfinite().all():
        raise MtzooError("the model gives values that are not finite; its training went wrong")
    return as_frames(made).cpu()


def _difference(drawn: Tensor) -> Tensor:
    """Mean absolute difference of a pixel over all pairs of samples, uint8 ``(N, ...)``, N > 1."""
    flat = drawn.flatten(1).float()
    total = torch.pdist(flat, p=1).double().sum()
    return total / (flat.shape[1] * len(flat) * (len(flat) - 1) / 2)


def _stream(seed: int, index: int) -> int:
    """A seed for one video that its neighbours do not share."""
    digest = hashlib.blake2b(f"{seed} evaluate {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
