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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

_CELLS = 8
# Frames of the windows that are compared first, from one window to the next, and how many videos
# are candidates to be a video's twin, as it is and mirrored.
_WINDOW, _HOP, _NEAREST = 8, 4, 4
# How many numbers a block of the matrix product holds: it stays in the processor's cache.
_QUERIES, _WINDOWS = 512, 8192
# Correlation of motions from which a pair is looked at closely.
_PROMISING = 0.7
# From here on it is the same footage. Measured on 64x64 frames of the Weizmann actions, BAIR, the
# GRID faces and this package's worlds: copies that were mirrored, cut by a pixel, shifted in time,
# brightened by 2 % and encoded as JPEG of quality 60 reach 0.97 in motion and 0.997 in appearance;
# different videos of one set stay below 0.94 in motion, most of them far.
_SAME_MOTION = 0.95
_SAME_LOOK = 0.95
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
    across = torch.kron(_averaging(width), _grey(channels)).T
    rows = frames.reshape(count, height, width * channels).float() @ across
    return (_averaging(height) @ rows - 128).half().numpy()


def _grey(channels: int) -> Tensor:
    """Weights ``(1, C)`` of the channels: BT.601's for RGB."""
    if channels == 3:
        return torch.tensor([[0.299, 0.587, 0.114]])
    return torch.full((1, channels), 1 / channels)


def _averaging(size: int) -> Tensor:
    """Matrix ``(8, size)`` that averages neighbours into cells, with a share of those between."""
    edges = torch.linspace(0, size, _CELLS + 1)
    pixel = torch.arange(size)
    low = torch.maximum(edges[:-1, None], pixel[None])
    high = torch.minimum(edges[1:, None], pixel[None] + 1.0)
    return (high - low).clamp(min=0) * (_CELLS / size)


def find_twins(
    prints: Sequence[npt.NDArray[np.float16]],
    sources: Sequence[object],
    read: Callable[[int], Tensor],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Twins]:
    """Find the videos that show the same footage.

    Pairs count that have half of the shorter video in common, at any lag. Compared are videos of
    different sources only; what one source's clips have in common, their ranges say. Memory beside
    the fingerprints: about as much again. Time grows with the number of videos times the number
    of frames.

    Args:
        prints: `fingerprint` of each video. Leave out those without motion: they all look alike.
        sources: What each video was made from.
        read: Gives the frames of a video, uint8 ``(T, H, W, C)``.
        progress: Told how many videos of how many are compared.

    Returns:
        The pairs, ordered.
    """
    names = {source: number for number, source in enumerate(dict.fromkeys(sources))}
    numbers = np.array([names[source] for source in sources], np.int64)
    found = []
    pairs = _candidates(prints, torch.from_numpy(numbers), progress)
    for first, second, mirrored in sorted(pairs):
        lag = _best_lag(prints[first], _mirror(prints[second]) if mirrored else prints[second])
        if lag.likeness < _PROMISING:
            continue
        one, other = read(first)[lag.first :], read(second)[lag.second :]
        middle = max(0, lag.frames - _STRETCH) // 2
        stretch = slice(middle, middle + min(lag.frames, _STRETCH))
        motion, look = compare(one[stretch], other[stretch].flip(2) if mirrored else other[stretch])
        if motion >= _SAME_MOTION and look >= _SAME_LOOK:
            found.append(Twins(first, second, mirrored, lag.first, lag.second, lag.frames, motion))
    return found


def _mirror(cells: npt.NDArray[np.float16]) -> npt.NDArray[np.float16]:
    return cells[..., ::-1]


# Step 1 -------------------------------------------------------------------------------------


def _candidates(
    prints: Sequence[npt.NDArray[np.float16]],
    sources: Tensor,
    progress: Callable[[int, int], None],
) -> set[tuple[int, int, bool]]:
    """The videos nearest to each video's middle, as it is and mirrored."""
    chunks = _chunks([_describe(cells, _starts(len(cells))) for cells in prints])
    pairs: set[tuple[int, int, bool]] = set()
    for begin in range(0, len(prints), _QUERIES):
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
        progress(rows.stop, len(prints))
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
    """Where two videos agree best: frame ``first`` on of one, ``second`` on of the other."""

    likeness: float
    first: int
    second: int
    frames: int


def _best_lag(one: npt.NDArray[np.float16], other: npt.NDArray[np.float16]) -> _Lag:
    """Correlate what changes in the cells at every lag with enough in common."""
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
    best = int(np.argmax(common / scale))
    return _Lag(
        float((common / scale)[best]), int(first[best]), int(second[best]), int(count[best])
    )


def _sums(
    values: _Array, start: npt.NDArray[np.int64], count: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sums of frames ``(lags, cells)``, and of all squares ``(lags,)``, over stretches."""
    sums = np.cumsum(values, 0, np.float64)
    squares = np.cumsum((values**2).sum(1), 0, np.float64)
    sums, squares = np.pad(sums, ((1, 0), (0, 0))), np.pad(squares, (1, 0))
    return sums[start + count] - sums[start], squares[start + count] - squares[start]


# Step 3 -------------------------------------------------------------------------------------


def compare(one: Tensor, other: Tensor) -> tuple[float, float]:
    """How alike two stretches of footage are, frame by frame.

    A shift or crop of a pixel is undone first; brightness and contrast do not count. Motion is
    what is left without the mean picture, smoothed over three frames and weighted by where in the
    picture both move, so that an encoder's noise in still parts does not count.

    Args:
        one: uint8 ``(T, H, W, C)``.
        other: The same shape.

    Returns:
        Correlation of the motions and of the mean pictures, at most 1 each.
    """
    grey = _grey(one.shape[-1])[0]
    x, y = ((frames.float() @ grey)[:, None] for frames in (one, other))
    side = min(x.shape[-2:])
    fine, coarse = min(32, side), min(16, side)
    look, x, y = max(
        (
            (_correlation(*(_level(_shrink(v.mean(0, keepdim=True), fine)) for v in views)), *views)
            for views in _views(x, y)
        ),
        key=lambda view: view[0],
    )
    x, y = (_smooth(_level(_shrink(v, coarse), over=0)) for v in (x, y))
    weight = (x.var(0, correction=0) * y.var(0, correction=0)) ** 0.125
    return _correlation(x * weight, y * weight), look


def _views(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The two as they are, shifted by up to a pixel, and with a border cut off either."""
    if min(x.shape[-2:]) < 16:
        return [(x, y)]
    views = []
    for crop_x, crop_y in ((0, 0), (1, 0), (0, 1)):
        inner_x, inner_y = _crop(x, crop_x), _crop(y, crop_y)
        for down in (0, -1, 1):
            for right in (0, -1, 1):
                views.append((_shift(inner_x, down, right), _shift(inner_y, -down, -right)))
    return views


def _crop(video: Tensor, border: int) -> Tensor:
    return video[..., border : video.shape[-2] - border, border : video.shape[-1] - border]


def _shift(video: Tensor, down: int, right: int) -> Tensor:
    height, width = video.shape[-2:]
    return video[..., max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]


def _shrink(video: Tensor, side: int) -> Tensor:
    return F.interpolate(video, size=(side, side), mode="bilinear", antialias=True)


def _level(values: Tensor, over: int | None = None) -> Tensor:
    """Less the mean of all, or over one dimension."""
    return values - (values.mean() if over is None else values.mean(over))


def _smooth(video: Tensor) -> Tensor:
    longer = torch.cat([video[:1], video, video[-1:]])
    return (longer[:-2] + longer[1:-1] + longer[2:]) / 3


def _correlation(a: Tensor, b: Tensor) -> float:
    """Cosine of two vectors; 0 where one has no length."""
    a, b = a.flatten(), b.flatten()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 1e-6 else 0.0
