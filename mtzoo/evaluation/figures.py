"""The paper's Table II and Figs. 3, 4 and 6 of any model: what is in them, and how it is laid out.

Yang et al., arXiv 2102.13329. Numbers come from `mtzoo.evaluation.scores`; nothing is scored here
in another way. Matplotlib is imported where a curve is drawn, and only there.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mtzoo import media
from mtzoo.engine.loader import load, to_batch
from mtzoo.errors import MtzooError
from mtzoo.evaluation import metrics
from mtzoo.evaluation.scores import METRICS, Method, Progress, Scores, check_fit, draw, silent
from mtzoo.interfaces import Batch, Model, PairDataset, as_frames

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 128
"""Least side in pixels at which a frame is shown."""

_BORDER = 3  # around what the model was given
_GAP = 2  # between that and the picture, which may be as red as the border
_SPACE = 16  # between blocks of rows
_RED = (214, 39, 40)

# Okabe and Ito's colours, told apart by the colour-blind, too; each with a line of its own for
# print in grey.
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_MARKS = ("o", "s", "^", "D", "v", "P", "X")


# Sheets of frames ---------------------------------------------------------------------------


class Row(NamedTuple):
    """One row of a sheet.

    Attributes:
        label: Written to its left.
        cells: Pictures uint8 ``(H, W, C)``, or ``None`` for a blank.
        inputs: Columns that hold what the model was given; framed in red, as in Fig. 4.
    """

    label: str
    cells: Sequence[Tensor | None]
    inputs: frozenset[int] = frozenset()


def lay_out(blocks: Sequence[Sequence[Row]], heads: Sequence[str] | None = None) -> Tensor:
    """Lay rows of pictures out, enlarged to `SHOWN` pixels, inputs framed in red.

    Args:
        blocks: At least one, of at least one row with one picture at least; there is some space
            between them. All pictures are of one size.
        heads: A line of text above each column.

    Returns:
        uint8 ``(H', W', 3)``.
    """
    some = next(cell for rows in blocks for row in rows for cell in row.cells if cell is not None)
    scale = max(1, SHOWN // some.shape[0])
    space = torch.full((1, _SPACE, 1, 3), 255, dtype=torch.uint8)
    clips, labels = [], []
    for rows in blocks:
        if clips:
            clips.append(space)
            labels.append("")
        for row in rows:
            framed = [
                _framed(cell, scale, some.shape, column in row.inputs)
                for column, cell in enumerate(row.cells)
            ]
            clips.append(torch.stack(framed))
            labels.append(row.label)
    return media.sheet(clips, labels=labels, heads=heads, text=max(14, scale * some.shape[0] // 8))


def _framed(cell: Tensor | None, scale: int, like: Sequence[int], given: bool) -> Tensor:
    height, width = like[0] * scale, like[1] * scale
    margin = _BORDER + _GAP
    canvas = torch.full((height + 2 * margin, width + 2 * margin, 3), 255, dtype=torch.uint8)
    if given:
        canvas[:] = torch.tensor(_RED, dtype=torch.uint8)
        canvas[_BORDER:-_BORDER, _BORDER:-_BORDER] = 255
    if cell is not None:
        shown = cell.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
        canvas[margin:-margin, margin:-margin] = shown
    return canvas


def times(frames: int, columns: int) -> list[int]:
    """Which of a clip's frames a sheet of ``columns`` shows: evenly, the first and the last too."""
    columns = min(columns, frames)
    if columns == 1:
        return [0]
    return [round(i * (frames - 1) / (columns - 1)) for i in range(columns)]


# Fig. 3 -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transfers:
    """Every source's motion on every target (Fig. 3).

    Attributes:
        sources: Positions of the sources V in the test split, S of them.
        targets: Positions of the pairs whose targets y are taken, K of them.
        videos: V, uint8 ``(S, T, H, W, C)``.
        pictures: y, uint8 ``(K, H, W, C)``.
        made: V~_{y,d}, uint8 ``(S, K, T, H, W, C)``.
        truths: The true answer, uint8 ``(T, H, W, C)``, by (source, target), where a world
            knows it: a source and a target of one pair.
    """

    sources: list[int]
    targets: list[int]
    videos: Tensor
    pictures: Tensor
    made: Tensor
    truths: Mapping[tuple[int, int], Tensor]

    def blocks(self, columns: int) -> list[list[Row]]:
        """A block a source: its frames, then a row a target, which begins with the target."""
        at = times(self.videos.shape[1], columns)
        blocks = []
        for s, video in enumerate(self.videos):
            rows = [Row(f"source {s + 1}", [None, *video[at]])]
            for k, picture in enumerate(self.pictures):
                cells = [picture, *self.made[s, k][at]]
                rows.append(Row(f"on target {k + 1}", cells, frozenset({0})))
                if (s, k) in self.truths:
                    rows.append(Row("truth", [None, *self.truths[s, k][at]]))
            blocks.append(rows)
        return blocks


@torch.inference_mode()
def transfers(
    model: Model,
    pairs: PairDataset,
    *,
    sources: Sequence[int],
    targets: Sequence[int],
    device: torch.device,
    progress: Progress = silent,
) -> Transfers:
    """Transfer every source's motion to every target.

    Args:
        model: In evaluation mode.
        pairs: The test split, of the model's size.
        sources: Positions of the sources.
        targets: Positions of the pairs whose targets are taken.
        device: Where the model is.
        progress: Told of every source.

    Raises:
        MtzooError: The model is of another size than the data, or gives values that are not
            finite.
    """
    check_fit(model, pairs)
    batches = {position: _batch(pairs, position, device) for position in {*sources, *targets}}
    pictures = torch.cat([batches[k][1].target for k in targets])
    made = []
    for done, s in enumerate(sources):
        progress(done, len(sources))
        video = batches[s][1].video.expand(len(targets), -1, -1, -1, -1)
        made.append(_finite(model.transfer(pictures, video)))
    truths = {
        (s, targets.index(position)): batches[position][0]["truth"][0]
        for s, position in enumerate(sources)
        if pairs.has_truth and position in targets
    }
    videos = torch.cat([batches[s][0]["video"] for s in sources])
    return Transfers(
        list(sources), list(targets), videos, as_frames(pictures).cpu(), torch.stack(made), truths
    )


# Fig. 4 -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """Motions drawn for the first picture of one video (Fig. 4).

    Attributes:
        position: Of the video in the test split.
        video: V, the ground truth, uint8 ``(T, H, W, C)``.
        samples: uint8 ``(N, T, H, W, C)``.
        ssim: Of each sample, mean over the frames after the first, float64 ``(N,)``.
    """

    position: int
    video: Tensor
    samples: Tensor
    ssim: Tensor

    @property
    def best(self) -> int:
        """The sample of the highest SSIM."""
        return int(self.ssim.argmax())

    def clips(self, shown: int) -> list[tuple[str, Tensor]]:
        """What is shown of it, with labels: the truth, the first samples, the best of all."""
        clips = [("ground truth", self.video)]
        for i in range(min(shown, len(self.samples))):
            clips.append((f"sample {i + 1}, SSIM {self.ssim[i]:.3f}", self.samples[i]))
        label = f"best (no. {self.best + 1}), SSIM {self.ssim[self.best]:.3f}"
        return [*clips, (label, self.samples[self.best])]

    def rows(self, shown: int, columns: int) -> list[Row]:
        """The sheet's rows; the input is the truth's first frame."""
        at = times(len(self.video), columns)
        clips = self.clips(shown)
        return [
            Row(label, list(clip[at]), frozenset({0} if i == 0 else ()))
            for i, (label, clip) in enumerate(clips)
        ]


def drawn(
    model: Model,
    pairs: PairDataset,
    *,
    positions: Sequence[int],
    samples: int,
    settings: metrics.SsimSettings,
    device: torch.device,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Drawn]:
    """Draw motions for videos of the test split, the same as `scores.score` draws for them.

    Args:
        model: In evaluation mode.
        pairs: The test split, of the model's size.
        positions: Which videos.
        samples: Motions a video.
        settings: Of SSIM.
        device: Where the model is.
        seed: Of the evaluation.
        progress: Told of every video.

    Raises:
        MtzooError: The model is of another size than the data, or gives values that are not
            finite.
    """
    clips = draws(model, pairs, positions=positions, samples=samples, device=device, seed=seed)
    found = []
    for done, (position, (video, made)) in enumerate(zip(positions, clips, strict=True)):
        progress(done, len(positions))
        # The first frame is the input and does not count, as in `scores.score`.
        ssim = metrics.ssim(made[:, 1:], video[None, 1:], settings).mean(1)
        found.append(Drawn(position, video, made, ssim))
    return found


def draws(
    model: Model,
    pairs: PairDataset,
    *,
    positions: Sequence[int],
    samples: int,
    device: torch.device,
    seed: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each video at ``positions``, uint8 ``(T, H, W, C)``, and motions drawn for its first picture.

    The arguments are those of `drawn`; the samples are uint8 ``(samples, T, H, W, C)``.
    """
    check_fit(model, pairs)
    for position in positions:
        item, batch = _batch(pairs, position, device)
        video = item["video"][0]
        with torch.inference_mode():
            made = draw(model, batch.video[:, 0], samples, len(video), seed=seed, index=position)
        yield video, made


def play(clips: Sequence[Drawn], shown: int) -> Tensor:
    """All of ``clips`` at once, a column a video and a row each of what is shown of it.

    Returns:
        uint8 ``(T, H', W', 3)``.
    """
    columns = [[clip for _, clip in one.clips(shown)] for one in clips]
    labels = ["truth", *(f"sample {i}" for i in range(1, len(columns[0]) - 1)), "best"]
    frames = []
    for t in range(len(columns[0][0])):
        rows = [
            Row(label, [clips[r][t] for clips in columns], frozenset())
            for r, label in enumerate(labels)
        ]
        frames.append(lay_out([rows]))
    return torch.stack(frames)


def _batch(
    pairs: PairDataset, position: int, device: torch.device
) -> tuple[dict[str, Tensor], Batch]:
    item = {key: value[None] for key, value in load(pairs, [position])[0].items()}
    return item, to_batch(item, device)


def _finite(made: Tensor) -> Tensor:
    if not made.isfinite().all():
        raise MtzooError("the model gives values that are not finite; its training went wrong")
    return as_frames(made).cpu()


# Table II -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A line of Table II.

    Attributes:
        name: Whose it is.
        figures: By metric; ``None`` where it means nothing, as diversity of one answer.
        by_video: By metric, each clip's value behind the figure.
    """

    name: str
    figures: Mapping[str, metrics.Figure | None]
    by_video: Mapping[str, Sequence[float]]


DIVERSITY = "pixel_diversity"
PERCEPTUAL = "lpips_diversity"
COLUMNS = {
    "ssim": ("SSIM", 3),
    "psnr": ("PSNR in dB", 2),
    PERCEPTUAL: ("LPIPS between samples", 4),
    DIVERSITY: ("difference of pixels between samples, of 255", 2),
}
"""Columns of Table II, all the better the larger: heading and digits. The paper has the first and
the third."""


def table2(scored: Mapping[str, Scores]) -> list[Entry]:
    """Lines of Table II: every model, each one's reconstruction, and the picture that stands still.

    Args:
        scored: By model; all with one protocol, on the same videos.
    """
    entries = []
    for name, scores in scored.items():
        best = scores.method("prediction", f"best of {scores.samples}")
        values = {metric: best.counted(metric) for metric in ("ssim", "psnr")}
        if len(scores.diversity_lpips):
            values[PERCEPTUAL] = scores.diversity_lpips
        if len(scores.diversity):
            values[DIVERSITY] = scores.diversity
        entries.append(_entry(name, scores, values, [*values, DIVERSITY]))
    first = next(iter(scored.values()))
    beside = [
        (_rebuilt(name, scored), scores.method("prediction", "reconstruction"))
        for name, scores in scored.items()
    ]
    still = first.method("prediction", "repeating the picture")
    for name, method in [*beside, (still.name, still)]:
        values = {metric: method.counted(metric) for metric in ("ssim", "psnr")}
        entries.append(_entry(name, first, values, entries[0].figures))
    return entries


def _entry(
    name: str, scores: Scores, values: Mapping[str, Tensor], columns: Iterable[str]
) -> Entry:
    """A line of figures of one value a clip, ``(videos,)``; none where a column has no values."""
    return Entry(
        name,
        {key: scores.figure(values[key]) if key in values else None for key in columns},
        {metric: value.tolist() for metric, value in values.items()},
    )


def _rebuilt(name: str, scored: Mapping[str, Scores]) -> str:
    """What the reconstruction of a model's is called beside others."""
    return "reconstruction" if len(scored) == 1 else f"{name}: reconstruction"


def cells(entry: Entry) -> list[str]:
    """An entry as text: mean and interval by column."""
    told = [entry.name]
    for metric, figure in entry.figures.items():
        told.append("n/a" if figure is None else figure.text(f".{COLUMNS[metric][1]}f"))
    return told


# Fig. 6 -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """A figure at every time step, with its interval.

    Attributes:
        name: Whose it is.
        baseline: Whether it is no model.
        steps: The time steps from 1; those of frames that were given are left out.
        figures: By metric, one `metrics.Figure` a time step.
        by_video: By metric, each clip's values at these steps.
    """

    name: str
    baseline: bool
    steps: Sequence[int]
    figures: Mapping[str, Sequence[metrics.Figure]]
    by_video: Mapping[str, Sequence[Sequence[float]]]

    def as_json(self) -> dict[str, object]:
        """All of it but the name, as JSON values."""
        return {
            "time_steps": list(self.steps),
            **{metric: [asdict(one) for one in at] for metric, at in self.figures.items()},
            "by_video": dict(self.by_video),
        }


def curves(scored: Mapping[str, Scores]) -> list[Curve]:
    """SSIM and PSNR over time of every model, best of its samples at each step, and of baselines.

    Those are the first model's reconstruction and the picture that stands still.

    Args:
        scored: By model; all with one protocol, on the same videos.
    """
    chosen = [
        (name, False, scores.method("prediction", f"best of {scores.samples} at each frame"))
        for name, scores in scored.items()
    ]
    first = next(iter(scored.values()))
    rebuilt, still = (
        first.method("prediction", name) for name in ("reconstruction", "repeating the picture")
    )
    baselines = [(_rebuilt(next(iter(scored)), scored), True, rebuilt), (still.name, True, still)]
    return [
        _curve(name, baseline, method, first.frames)
        for name, baseline, method in [*chosen, *baselines]
    ]


def over_time(scores: Scores, task: str) -> list[Curve]:
    """SSIM and PSNR over time of everything scored on a task; empty where nothing has a truth."""
    return [
        _curve(method.name, method.name.startswith(("copying", "repeating")), method, scores.frames)
        for method in scores.methods
        if method.task == task and set(METRICS) <= method.values.keys()
    ]


def _curve(name: str, baseline: bool, method: Method, frames: int) -> Curve:
    """A method's figures at the steps that count."""
    return Curve(
        name,
        baseline,
        range(method.first + 1, frames + 1),
        {
            metric: [
                metrics.figure(at, method.origins)
                for at in method.values[metric].unbind(1)[method.first :]
            ]
            for metric in METRICS
        },
        {metric: method.values[metric][:, method.first :].tolist() for metric in METRICS},
    )


def check_plotting() -> None:
    """Refuse to go on without matplotlib.

    Raises:
        MtzooError: It is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MtzooError(
            "drawing curves needs matplotlib: pip install 'mtzoo[evaluation]'"
        ) from error


def plot(lines: Sequence[Curve]) -> bytes:
    """A `chart` as a PNG file."""
    file = io.BytesIO()
    chart(lines).savefig(file, format="png")
    return file.getvalue()


def chart(lines: Sequence[Curve]) -> Figure:
    """Draw curves as Fig. 6 does: SSIM and PSNR over time, side by side.

    The bands are 95 % intervals over source videos.

    Raises:
        MtzooError: Matplotlib is not installed.
    """
    check_plotting()
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4.6), dpi=150, layout="constrained")
    axes = figure.subplots(1, 2)
    titles = (("ssim", "SSIM"), ("psnr", "PSNR in dB"))
    for axis, (metric, title), letter in zip(axes, titles, "ab", strict=True):
        for number, curve in enumerate(lines):
            style: dict[str, Any] = {
                "color": _COLOURS[number % len(_COLOURS)],
                "linestyle": _LINES[number % len(_LINES)],
                "marker": _MARKS[number % len(_MARKS)],
                "markersize": 4,
                "linewidth": 1.8,
            }
            if curve.baseline:
                line = _LINES[sum(other.baseline for other in lines[:number]) % len(_LINES)]
                style |= {"color": "#888888", "linestyle": line, "marker": "", "linewidth": 1.2}
            mean, low, high = (
                [math.nan if (value := getattr(f, end)) is None else value for f in at]
                for at in [curve.figures[metric]]
                for end in ("mean", "low", "high")
            )
            axis.plot(curve.steps, mean, label=curve.name, **style)
            axis.fill_between(curve.steps, low, high, color=style["color"], alpha=0.12, linewidth=0)
        axis.set_title(f"({letter}) {title}", fontsize=13)
        axis.set_xlabel("time step", fontsize=12)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.tick_params(labelsize=11)
        axis.grid(alpha=0.3)
    # Both panels show the same lines.
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        fontsize=11,
        frameon=False,
        handlelength=3.5,
    )
    return figure
