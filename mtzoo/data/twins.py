"""Stored videos that show the same footage, found by what they show.

A set may hold one recording twice: as a copy under another name, encoded anew, mirrored (a common
way to make a set larger), or cut out at other times. With the copy on the other side of a split, a
test score is that of a model that has seen the answer.

The difficulty is what resembles without being the same: one person doing two things before one
wall, many clips of one table. Hence motion decides, not appearance, and in three steps of which
each passes on fewer pairs and looks closer:

1. each video's middle against windows throughout all others, by mean and spread of 8x8 grey
   cells over the window: a matrix product, the nearest few are candidates;
2. the cells' changes over time, at every lag between the two;
3. the frames themselves, once a shift, a crop of a pixel and a change of brightness are undone.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_CELLS = 8
# Frames of the windows that are compared first, from one window to the next, and how many videos
# are candidates to be a video's twin, as it is and mirrored.
_WINDOW, _HOP, _NEAREST = 8, 4, 4
# How many numbers a block of the matrix product holds: it stays in the processor's cache.
_QUERIES, _WINDOWS = 512, 8192
# Correlation of motions from which a pair is looked at closely.
_PROMISING = 0.7
# At how many lags, and how much less good than the best these may be.
_LAGS, _ABOUT_EQUAL = 6, 0.05
# From here on it is the same footage. Measured on the Weizmann actions, their strips, BAIR and the
# GRID faces at 64x64: copies mirrored, cut by a pixel, later, 2 % brighter, with noise of 3 levels
# or JPEG of quality 60 reach 0.984 in motion and 0.997 in look; different videos stay below 0.91.
# One person who repeats a motion comes close: to 0.99 between two halves of one waving.
_SAME_MOTION = 0.98
_SAME_LOOK = 0.95
# How far noise in the moving parts of the picture may exceed that in the still ones; and its most
# in squared levels of a cell of a sixteenth of the side, about that of JPEG at quality 30.
_UNEVEN, _MOST_NOISE = 4.0, 0.5
# Longest stretch that is compared frame by frame.
_STRETCH = 96

_Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Twins:
    """Two videos that show the same footage in part or in whole.

    Attributes:
        first: Index of one video.
        second: Index of the other, larger than ``first``.
        mirrored: Whether one is the other's mirror image, left to right.
        first_start: Where the common stretch begins in the first video.
        second_start: Where it begins in the second.
        frames: How many frames it has.
        likeness: Correlation of the two motions over the stretch, at most 1.
    """

    first: int
    second: int
    mirrored: bool
    first_start: int
    second_start: int
    frames: int
    likeness: float


def fingerprint(frames: Tensor) -> npt.NDArray[np.float16]:
    """Reduce a video to 8x8 grey cells.

    Args:
        frames: uint8 ``(T, H, W, C)``.

    Returns:
        float16 ``(T, 8, 8)``, the cells' means less 128.
    """
    count, height, width, channels = frames.shape
    # Two matrix products: averaging by views or by pooling takes several times as long.
    across = torch.kron(_averaging(width, _CELLS), _grey(channels)).T
    rows = frames.reshape(count, height, width * channels).float() @ across
    return (_averaging(height, _CELLS) @ rows - 128).half().numpy()


def _grey(channels: int) -> Tensor:
    """Weights ``(1, C)`` of the channels: BT.601's for RGB."""
    if channels == 3:
        return torch.tensor([[0.299, 0.587, 0.114]])
    return torch.full((1, channels), 1 / channels)


@functools.cache
def _averaging(size: int, cells: int, before: int = 0, after: int = 0) -> Tensor:
    """Matrix ``(cells, size)`` that averages neighbours, but for some at either end, into cells."""
    edges = torch.linspace(before, size - after, cells + 1)
    pixel = torch.arange(size)
    low = torch.maximum(edges[:-1, None], pixel[None])
    high = torch.minimum(edges[1:, None], pixel[None] + 1.0)
    return (high - low).clamp(min=0) * (cells / (size - before - after))


def find_twins(
    prints: Sequence[npt.NDArray[np.float16]],
    sources: Sequence[str],
    read: Callable[[int], Tensor],
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Twins]:
    """Find the videos that show the same footage.

    Pairs count that have half of the shorter video in common, at any lag. Compared are videos of
    different sources only; what one source's clips have in common, their ranges say. Takes about
    as much memory as the fingerprints again, and time by the number of videos times that of
    frames.

    Args:
        prints: `fingerprint` of each video. Leave out those without motion: they all look alike.
        sources: What each video was made from.
        read: Gives the frames of a video, uint8 ``(T, H, W, C)``.
        progress: Told what is done, how far it is, and how far it goes.

    Returns:
        The pairs, ordered, each once.
    """
    names = {source: number for number, source in enumerate(dict.fromkeys(sources))}
    pairs = _candidates(prints, torch.tensor([names[source] for source in sources]), progress)
    with one_thread():
        return _confirm(pairs, prints, read, progress)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: waiting for each other takes longer than a small product."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _confirm(
    pairs: Set[tuple[int, int, bool]],
    prints: Sequence[npt.NDArray[np.float16]],
    read: Callable[[int], Tensor],
    progress: Callable[[str, int, int], None],
) -> list[Twins]:
    """Look closely at pairs."""
    found: dict[tuple[int, int], Twins] = {}
    for done, (first, second, mirrored) in enumerate(sorted(pairs)):
        progress("comparing likely twins", done, len(pairs))
        cells = _mirror(prints[second]) if mirrored else prints[second]
        lags = _best_lags(prints[first], cells)
        if lags[0].likeness < _PROMISING:
            continue
        one, other = read(first), read(second)
        other = other.flip(2) if mirrored else other
        looks = [(_look(one, other, lag), lag) for lag in lags]
        likeness, lag = max(looks, key=lambda look: look[0].motion + look[0].look)
        if likeness.motion >= _SAME_MOTION and likeness.look >= _SAME_LOOK:
            start = max(0, -lag.by - likeness.later)
            other_start = start + lag.by + likeness.later
            count = min(len(one) - start, len(other) - other_start)
            twins = Twins(first, second, mirrored, start, other_start, count, likeness.motion)
            # What is symmetrical resembles its twin both as it is and mirrored.
            earlier = found.get((first, second))
            if earlier is None or earlier.likeness < twins.likeness:
                found[first, second] = twins
    return list(found.values())


def _look(one: Tensor, other: Tensor, lag: _Lag) -> Likeness:
    """Compare the middle of what two videos have in common."""
    start = max(0, -lag.by) + max(0, lag.frames - _STRETCH) // 2
    count = min(lag.frames, _STRETCH)
    return compare(one[start : start + count], other[start + lag.by : start + lag.by + count])


def _mirror(cells: npt.NDArray[np.float16]) -> npt.NDArray[np.float16]:
    return cells[..., ::-1]


# Step 1 -------------------------------------------------------------------------------------


def _candidates(
    prints: Sequence[npt.NDArray[np.float16]],
    sources: Tensor,
    progress: Callable[[str, int, int], None],
) -> set[tuple[int, int, bool]]:
    """The videos nearest to each video's middle, as it is and mirrored."""
    chunks = _chunks([_describe(cells, _starts(len(cells))) for cells in prints])
    pairs: set[tuple[int, int, bool]] = set()
    for begin in range(0, len(prints), _QUERIES):
        progress("looking for twins", begin, len(prints))
        rows = range(begin, min(begin + _QUERIES, len(prints)))
        queries = torch.cat(
            [_middle(prints[i], mirrored) for mirrored in (False, True) for i in rows]
        )
        own = sources[begin : rows.stop].repeat(2)[:, None]
        scores, videos = [], []
        for chunk in chunks:
            # Negative squared distance, but for the query's own length.
            products = torch.addmm(chunk.lengths, queries, chunk.windows.T)
            nearness = products.view(len(queries), -1, len(chunk.videos)).amax(1)
            nearness.masked_fill_(own == sources[chunk.videos], -torch.inf)
            best = nearness.topk(min(_NEAREST, len(chunk.videos)))
            scores.append(best.values)
            videos.append(chunk.videos[best.indices])
        score, video = torch.cat(scores, 1), torch.cat(videos, 1)
        best = score.topk(min(_NEAREST, score.shape[1]))
        nearest = video.gather(1, best.indices)
        for row, column in (best.values > -torch.inf).nonzero().tolist():
            i, j = rows[row % len(rows)], int(nearest[row, column])
            pairs.add((min(i, j), max(i, j), row >= len(rows)))
    return pairs


def _starts(count: int) -> npt.NDArray[np.int64]:
    """Where windows begin, throughout the video and at its end."""
    last = max(0, count - _WINDOW)
    return np.unique(np.append(np.arange(0, last, _HOP), last))


def _middle(cells: npt.NDArray[np.float16], mirrored: bool) -> Tensor:
    start = max(0, len(cells) - _WINDOW) // 2
    some = cells[start : start + _WINDOW]
    return _describe(_mirror(some) if mirrored else some, np.zeros(1, np.int64))


def _describe(cells: npt.NDArray[np.float16], starts: npt.NDArray[np.int64]) -> Tensor:
    """Mean and spread of the cells over windows, float32 ``(windows, 128)``."""
    stops = np.minimum(starts + _WINDOW, len(cells))
    flat = cells.reshape(len(cells), -1).astype(np.float64)
    sums = np.pad(flat.cumsum(0), ((1, 0), (0, 0)))
    squares = np.pad((flat**2).cumsum(0), ((1, 0), (0, 0)))
    count = (stops - starts)[:, None]
    mean = (sums[stops] - sums[starts]) / count
    spread = np.sqrt(np.maximum((squares[stops] - squares[starts]) / count - mean**2, 0))
    # Without its own level, so that a brighter copy stays near.
    return torch.from_numpy(np.concatenate([mean - mean.mean(1, keepdims=True), spread], 1)).float()


class _Chunk(NamedTuple):
    """Windows of some videos, as many of each; the first window of all, the second of all, ..."""

    videos: Tensor
    windows: Tensor
    lengths: Tensor  # half their squared lengths, negative


def _chunks(described: Sequence[Tensor]) -> list[_Chunk]:
    """Videos of about as many windows together, so that few are there for filling up only."""
    groups: list[list[int]] = []
    for i in sorted(range(len(described)), key=lambda i: len(described[i])):
        if not groups or (len(groups[-1]) + 1) * len(described[i]) > _WINDOWS:
            groups.append([])
        groups[-1].append(i)
    chunks = []
    for group in groups:
        most = len(described[group[-1]])
        # Window by video: a maximum over windows then runs at memory's speed.
        windows = torch.stack(
            [described[i][torch.arange(most) % len(described[i])] for i in group], 1
        ).flatten(0, 1)
        chunks.append(_Chunk(torch.tensor(group), windows, -(windows**2).sum(1) / 2))
    return chunks


# Step 2 -------------------------------------------------------------------------------------


class _Lag(NamedTuple):
    """How well frame ``t`` of one video agrees with frame ``t + by`` of another, for so many."""

    likeness: float
    by: int
    frames: int


def _best_lags(one: npt.NDArray[np.float16], other: npt.NDArray[np.float16]) -> list[_Lag]:
    """Correlate what changes in the cells at every lag that leaves enough in common.

    Where the motion repeats itself several lags are about equally good; a close look tells.
    """
    x, y = (cells.reshape(len(cells), -1).astype(np.float32) for cells in (one, other))
    x, y = x - x.mean(0), y - y.mean(0)
    shorter = min(len(x), len(y))
    least = min(max(_WINDOW, shorter // 2), shorter)
    lags = np.arange(least - len(x), len(y) - least + 1)
    first, second = np.maximum(-lags, 0), np.maximum(lags, 0)
    count = np.minimum(len(x) - first, len(y) - second)
    # Products of all frames with all; those of one lag lie on a diagonal. In rows that are one
    # wider than they are taken for, diagonals become columns.
    wide = np.zeros((len(x), len(x) + len(y)), np.float32)
    wide[:, : len(y)] = x[::-1] @ y.T
    diagonals = wide.ravel()[: -len(x)].reshape(len(x), -1).sum(0)[lags + len(x) - 1]
    sum_x, square_x = _sums(x, first, count)
    sum_y, square_y = _sums(y, second, count)
    common = diagonals - (sum_x * sum_y).sum(1) / count
    moved_x = square_x - (sum_x**2).sum(1) / count
    moved_y = square_y - (sum_y**2).sum(1) / count
    # Where a cell moves by less than a hundredth of a level, rounding is what correlates.
    scale = np.sqrt(np.maximum(moved_x, 0) * np.maximum(moved_y, 0)) + 1e-4 * count
    likeness = common / scale
    around = np.pad(likeness, 1, constant_values=-np.inf)
    peak = (likeness >= around[:-2]) & (likeness >= around[2:])
    peak &= likeness >= likeness.max() - _ABOUT_EQUAL
    ranked = sorted(np.flatnonzero(peak), key=lambda i: -likeness[i])[:_LAGS]
    return [_Lag(float(likeness[i]), int(lags[i]), int(count[i])) for i in ranked]


def _sums(
    values: _Array, start: npt.NDArray[np.int64], count: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sums of frames ``(lags, cells)``, and of all squares ``(lags,)``, over stretches."""
    sums = np.cumsum(values, 0, np.float64)
    squares = np.cumsum((values**2).sum(1), 0, np.float64)
    sums, squares = np.pad(sums, ((1, 0), (0, 0))), np.pad(squares, (1, 0))
    return sums[start + count] - sums[start], squares[start + count] - squares[start]


# Step 3 -------------------------------------------------------------------------------------


class Likeness(NamedTuple):
    """What two stretches have in common: 1 where they are the same, about 0 where nothing.

    Attributes:
        look: Correlation of the mean pictures.
        motion: The share of what moves that moves in the same way.
        later: How many frames later, -1 to 1, the second must be taken for this.
    """

    look: float
    motion: float
    later: int


def compare(one: Tensor, other: Tensor) -> Likeness:
    """Compare two stretches of footage frame by frame.

    A shift or crop of a pixel is undone first; brightness and contrast do not count. Motion is
    what remains without the mean picture. Noise as an encoder leaves it in still parts of the
    picture is granted to the moving ones too, or else it would outweigh the slight motion of a
    face.

    Args:
        one: uint8 ``(T, H, W, C)``.
        other: The same shape.

    Returns:
        How alike they are.
    """
    grey = _grey(one.shape[-1])[0]
    x, y = (frames.float() @ grey for frames in (one, other))
    look, across, down = _register(x.mean(0), y.mean(0))
    side = min(16, *x.shape[1:])
    x, y = (
        _smooth(_reduce(video, side, down[i], across[i])).flatten(1)
        for i, video in enumerate((x, y))
    )
    if len(x) < 4:
        return Likeness(look, _same_motion(x, y), 0)
    lags = {k: _same_motion(x[1:-1], y[1 + k : len(y) - 1 + k]) for k in (0, -1, 1)}
    later = max(lags, key=lambda k: lags[k])
    return Likeness(look, lags[later], later)


# What is cut off the two along a side, before and after: nothing; a pixel of one at either end or
# both; a pixel of both at opposite ends, which is a shift.
_Trim = tuple[tuple[int, int], tuple[int, int]]
_TRIMS: tuple[_Trim, ...] = (
    ((0, 0), (0, 0)),
    *((ends, (0, 0)) for ends in ((1, 0), (0, 1), (1, 1))),
    *(((0, 0), ends) for ends in ((1, 0), (0, 1), (1, 1))),
    ((1, 0), (0, 1)),
    ((0, 1), (1, 0)),
)


def _register(x: Tensor, y: Tensor) -> tuple[float, _Trim, _Trim]:
    """Which trims bring two pictures ``(H, W)`` together best, and their correlation then."""
    side = min(32, *x.shape)
    trims = _TRIMS if min(x.shape) >= 16 else _TRIMS[:1]

    def alike(across: _Trim, down: _Trim) -> float:
        a, b = (_reduce(p, side, down[i], across[i]) for i, p in enumerate((x, y)))
        return _correlation(a - a.mean(), b - b.mean())

    across = max(trims, key=lambda trim: alike(trim, trims[0]))
    down = max(trims, key=lambda trim: alike(across, trim))
    return alike(across, down), across, down


def _reduce(video: Tensor, side: int, down: tuple[int, int], across: tuple[int, int]) -> Tensor:
    """Reduce ``(..., H, W)`` without its trimmed ends to ``(..., side, side)``."""
    rows = _averaging(video.shape[-2], side, *down)
    columns = _averaging(video.shape[-1], side, *across)
    return rows @ video @ columns.T


def _smooth(video: Tensor) -> Tensor:
    longer = torch.cat([video[:1], video, video[-1:]])
    return (longer[:-2] + longer[1:-1] + longer[2:]) / 3


def _same_motion(x: Tensor, y: Tensor) -> float:
    """The share of the motion in two videos ``(T, cells)`` that is the same."""
    x, y = x - x.mean(0), y - y.mean(0)
    scale = float(x.norm() * y.norm())
    if scale < 1e-6:
        return 0.0
    contrast = float(x.norm() / y.norm())
    y = y * contrast if 0.5 < contrast < 2 else y
    moved_x, moved_y, apart = ((v**2).mean(0) for v in (x, y, x - y))
    noise = _UNEVEN * min(float(apart.quantile(0.25)), _MOST_NOISE)
    # Cells count by how much they move, or else the many that hardly do would outweigh the few.
    weight = (moved_x * moved_y) ** 0.25
    moved = float((weight * (moved_x + moved_y)).sum())
    return 1 - float((weight * (apart - noise).clamp(min=0)).sum()) / moved if moved else 0.0


def _correlation(a: Tensor, b: Tensor) -> float:
    """Cosine of two pictures; 0 where one is black."""
    scale = float(a.norm() * b.norm())
    return float((a * b).sum()) / scale if scale > 1e-6 else 0.0
