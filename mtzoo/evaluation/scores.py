"""Scoring a model on test pairs: every method beside its baselines, by frame, with intervals.

Three questions, each with what needs no model beside it:

- **transfer**: the motion of V on the appearance of y, against the truth that a synthetic world can
  render; beside copying y and copying V;
- **prediction**: motions drawn for the first picture of V, the best of them against V; beside
  repeating that picture;
- **reconstruction**: V taken apart and put together again, against V: an upper mark for transfer.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mtzoo.engine.loader import load, to_batch
from mtzoo.errors import MtzooError
from mtzoo.evaluation import metrics
from mtzoo.interfaces import Model, PairDataset, as_frames

METRICS = ("psnr", "ssim")

Progress = Callable[[int, int], None]
"""Called with how many videos are done, and how many there are."""


def _silent(done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Method:
    """A model or a baseline on one task.

    Attributes:
        task: ``transfer``, ``prediction`` or ``reconstruction``.
        name: For people.
        values: By metric, float64 ``(videos, T)``.
    """

    task: str
    name: str
    values: Mapping[str, Tensor]

    def figure(self, metric: str, *, first: int = 0) -> metrics.Figure:
        """Mean over frames from ``first`` on and over videos, with its interval over videos."""
        return metrics.figure(self.values[metric][:, first:].mean(1))


@dataclass
class Scores:
    """What an evaluation found.

    Attributes:
        protocol: How it was measured.
        videos: How many videos.
        samples: Samples a video in the prediction.
        frames: Frames a video.
        methods: The model and the baselines, task by task.
        diversity: Mean absolute difference of a pixel between two samples of one picture, in
            [0, 255], a video; ``(videos,)``. 0 where all samples are alike.
    """

    protocol: metrics.Protocol
    videos: int
    samples: int
    frames: int
    methods: list[Method] = field(default_factory=list)
    diversity: Tensor = field(default_factory=lambda: torch.zeros(0))

    def method(self, task: str, name: str) -> Method:
        """One of ``methods``."""
        return next(m for m in self.methods if (m.task, m.name) == (task, name))

    def as_json(self) -> dict[str, object]:
        """Everything, as JSON values: figures with intervals, and each video's values."""
        figures = [
            {
                "task": method.task,
                "method": method.name,
                **{metric: dataclasses.asdict(method.figure(metric)) for metric in method.values},
                "by_time": {
                    metric: values.mean(0).tolist() for metric, values in method.values.items()
                },
                "by_video": {
                    metric: values.mean(1).tolist() for metric, values in method.values.items()
                },
            }
            for method in self.methods
        ]
        return {
            "protocol": dataclasses.asdict(self.protocol),
            "videos": self.videos,
            "samples": self.samples,
            "frames": self.frames,
            "diversity": dataclasses.asdict(metrics.figure(self.diversity))
            if len(self.diversity)
            else None,
            "methods": figures,
        }


@torch.inference_mode()
def score(
    model: Model,
    pairs: PairDataset,
    *,
    protocol: metrics.Protocol,
    videos: int,
    samples: int | None = None,
    device: torch.device,
    seed: int = 0,
    progress: Progress = _silent,
) -> Scores:
    """Score a model on the first ``videos`` test pairs.

    One video at a time, each with a stream of random numbers of its own, so that a video's scores
    depend neither on how many others are scored nor in which batches.

    Args:
        model: In evaluation mode.
        pairs: The test split, of the model's resolution and channels.
        protocol: Settings of the metrics.
        videos: How many pairs to take; fewer where the split is shorter.
        samples: Samples a video; ``None`` takes the protocol's number, 0 draws none.
        device: Where the model is.
        seed: Of the samples.
        progress: Told of every video.

    Raises:
        MtzooError: The model is not in evaluation mode, is of another size than the data, or
            gives values that are not finite.
    """
    if model.training:
        raise MtzooError("the model is in training mode: call eval() before scoring it")
    size = (model.resolution, model.channels)
    if size != (pairs.resolution, pairs.channels):
        raise MtzooError(
            f"the model is for {size[0]}x{size[0]} pixels of {size[1]} channels, the data have "
            f"{pairs.resolution}x{pairs.resolution} of {pairs.channels}; give data of its size"
        )
    count = min(videos, len(pairs))
    samples = protocol.samples if samples is None else samples
    found: dict[tuple[str, str], dict[str, list[Tensor]]] = {}
    alike: list[Tensor] = []

    def add(task: str, name: str, made: Tensor, truth: Tensor) -> None:
        values = {
            "psnr": metrics.psnr(made, truth),
            "ssim": metrics.ssim(made, truth, protocol.ssim),
        }
        _put(found, task, name, {metric: value[0] for metric, value in values.items()})

    for index in range(count):
        progress(index, count)
        item = {key: value[None] for key, value in load(pairs, [index])[0].items()}
        batch = to_batch(item, device)
        video, still = item["video"], item["video"][:, :1].expand_as(item["video"])
        if pairs.has_truth:
            truth = item["truth"]
            target = as_frames(batch.target).cpu().unsqueeze(1).expand_as(truth)
            made = _frames(model.transfer(batch.target, batch.video))
            add("transfer", "model", made, truth)
            add("transfer", "copying the target", target, truth)
            add("transfer", "copying the source", video, truth)
        if samples:
            generator = torch.Generator().manual_seed(_stream(seed, index))
            first = batch.video[:, 0]
            drawn = _frames(model.sample(first, samples, video.shape[1], generator))[0]
            alike.append(_difference(drawn))
            truths = video.expand_as(drawn)
            psnr = metrics.psnr(drawn, truths)[None]
            ssim = metrics.ssim(drawn, truths, protocol.ssim)[None]
            by = ssim if protocol.best == "ssim" else None
            best = {"psnr": metrics.best_of(psnr, by)[0], "ssim": metrics.best_of(ssim)[0]}
            _put(found, "prediction", f"best of {samples}", best)
            each = {"psnr": psnr[0].mean(0), "ssim": ssim[0].mean(0)}
            _put(found, "prediction", "mean of samples", each)
            moment = {
                "psnr": metrics.best_over_time(psnr)[0],
                "ssim": metrics.best_over_time(ssim)[0],
            }
            _put(found, "prediction", f"best of {samples} at each frame", moment)
            add("prediction", "repeating the picture", still, video)
        add("reconstruction", "model", _frames(model.reconstruct(batch.video)), video)
        add("reconstruction", "repeating the first frame", still, video)
    progress(count, count)
    methods = [
        Method(task, name, {metric: torch.stack(rows) for metric, rows in values.items()})
        for (task, name), values in found.items()
    ]
    return Scores(
        protocol,
        count,
        samples,
        pairs.frames,
        methods,
        torch.stack(alike) if alike else torch.zeros(0),
    )


def _put(
    found: dict[tuple[str, str], dict[str, list[Tensor]]],
    task: str,
    name: str,
    values: Mapping[str, Tensor],
) -> None:
    rows = found.setdefault((task, name), {metric: [] for metric in METRICS})
    for metric, value in values.items():
        rows[metric].append(value.cpu())


def _frames(made: Tensor) -> Tensor:
    if not made.isfinite().all():
        raise MtzooError("the model gives values that are not finite; its training went wrong")
    return as_frames(made).cpu()


def _difference(drawn: Tensor) -> Tensor:
    """Mean absolute difference of a pixel over all pairs of samples, uint8 ``(N, ...)``."""
    flat = drawn.flatten(1).float()
    if len(flat) < 2:
        return torch.zeros((), dtype=torch.float64)
    total = torch.pdist(flat, p=1).double().sum()
    return total / (flat.shape[1] * len(flat) * (len(flat) - 1) / 2)


def _stream(seed: int, index: int) -> int:
    """A seed for one video that its neighbours do not share."""
    digest = hashlib.blake2b(f"{seed} evaluate {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
