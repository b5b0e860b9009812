"""How a camera moves: where the background of a video lies, from frame to frame."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mtzoo.nn.precision import without_autocast

_MIDDLE = 0.45  # how far things in the middle reach, in half sides; what lies farther out counts
_SOFT = 0.1  # differences above it, of a range of 2, count as something else and not as worse
_COARSE = (2, 5)  # how far to look, down and across, in pixels of frames of half the size
_FINE = 2  # likewise about that, in both directions, in pixels of the frames themselves
_REST = 1e-5  # what a pixel's square costs: where all is alike, nothing has moved


@torch.no_grad()
def camera_motion(video: Tensor) -> Tensor:
    """Where the background lies in each frame, found from the frames alone.

    A shift of the whole picture from each frame to the next, by search: the one with the least
    sum of ``d / (d + s)`` over squared differences ``d`` of brightness (Geman, McClure, 1985),
    which what moves otherwise does not add up in; first at half the size, then about the best at
    full size, then between pixels by a parabola. Pixels count the more the farther they lie from
    the vertical middle line, since cameras are turned to what they film.

    It sees up to 10 of 64 pixels across and 4 down from a frame to the next, no turns and no
    changes of size. Shifts are right to a third of a pixel from frame to frame, and what they add
    up to in 16 frames to a pixel or a twentieth of the way. What cannot be told, such as the shift
    of a wall without any marks, is about 0. Nothing learns through it.

    Args:
        video: ``(B, T, C, H, W)`` in [-1, 1], T at least 1, H and W even.

    Returns:
        float32 ``(B, T, 2)`` in half sides of the frame, x to the right and y down: how far the
        background lies from where it lay in the first frame. NaN from the first frame on that is
        not finite, but for the first of all.
    """
    count, frames = video.shape[:2]
    height, width = video.shape[-2:]
    if frames < 2:
        return video.new_zeros(count, frames, 2, dtype=torch.float32)
    with without_autocast(video):
        grey = video.float().mean(2)
        half = F.avg_pool2d(grey, 2)
        # As far for larger frames, whose pixels are smaller.
        down, across = (math.ceil(reach * width / 64) for reach in _COARSE)
        start = torch.zeros(count * (frames - 1), 2, dtype=torch.long, device=video.device)
        coarse = _search(*_neighbours(half), start, down, across)
        found = _search(*_neighbours(grey), (2 * coarse).round().long(), _FINE, _FINE)
        # Where nothing can be compared, the search takes the first shift that it tries.
        unknown = ~(grey.sum((2, 3)).isfinite())
        unknown = (unknown[:, :-1] | unknown[:, 1:]).flatten()
        x, y = found.masked_fill(unknown[:, None], torch.nan).unbind(1)
        steps = torch.stack((x * (2 / width), y * (2 / height)), 1)
        return F.pad(steps.unflatten(0, (count, frames - 1)).cumsum(1), (0, 0, 1, 0))


def _neighbours(frames: Tensor) -> tuple[Tensor, Tensor]:
    """``(B, T, H, W)`` to each frame but the last and each but the first, ``(N, H, W)``."""
    return frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1)


def _search(before: Tensor, after: Tensor, start: Tensor, down: int, across: int) -> Tensor:
    """The best shift from ``before`` to ``after``, ``(N, H, W)`` each.

    Args:
        before: Earlier frames.
        after: Later frames.
        start: Shifts to look about, x and y in pixels, int64 ``(N, 2)``.
        down: How far to look up and down.
        across: How far to look left and right.

    Returns:
        x and y in pixels, ``(N, 2)``.
    """
    count, height, width = before.shape
    device = before.device
    x = (torch.arange(width, device=device) * 2 + 1) / width - 1
    weight = 1 - torch.exp(-((x / _MIDDLE) ** 2) / 2)
    # What is asked for: pixels of the later frame about each shift, and beyond.
    y = start[:, 1, None] + torch.arange(-down, height + down, device=device)
    x = start[:, 0, None] + torch.arange(-across, width + across, device=device)
    inside_y, inside_x = (y >= 0) & (y < height), (x >= 0) & (x < width)
    each = torch.arange(count, device=device)[:, None, None]
    wide = after[each, y.clamp(0, height - 1)[:, :, None], x.clamp(0, width - 1)[:, None]]

    # All shifts to the side at once, as windows: (N, H, shifts, W), and whether they are inside.
    beside = wide.unfold(2, width, 1)
    xs = inside_x.float().unfold(1, width, 1) * weight
    aside = start[:, :1] + torch.arange(-across, across + 1, device=device)
    costs: list[Tensor] = []
    room = torch.empty_like(beside[:, :height], memory_format=torch.contiguous_format)
    for up in range(2 * down + 1):
        apart = torch.sub(beside[:, up : up + height], before[:, :, None], out=room)
        # d / (d + s) is 1 - s / (d + s).
        alike = apart.square_().add_(_SOFT**2).reciprocal_().mul_(xs[:, None]).sum(3)
        ys = inside_y[:, up : up + height].float()
        total = ys.sum(1, keepdim=True) * xs.sum(2)
        cost = 1 - _SOFT**2 * (alike * ys[:, :, None]).sum(1) / total.clamp(min=1e-6)
        away = aside.square() + (start[:, 1:] + up - down).square()
        costs.append(cost + _REST * away)
    table = torch.stack(costs, 1)
    best = table.flatten(1).argmin(1)
    row, column = best // table.shape[2], best % table.shape[2]
    n = torch.arange(count, device=device)
    lines = table[n, row], table[n, :, column]
    between = [_between(line, at) for line, at in zip(lines, (column, row), strict=True)]
    found = torch.stack((column - across + between[0], row - down + between[1]), 1)
    return found + start


def _between(line: Tensor, at: Tensor) -> Tensor:
    """Where between its points costs ``(N, n)`` are least, from ``at``: by a parabola."""
    last = line.shape[1] - 1
    left, middle, right = (
        line.gather(1, (at + i).clamp(0, last)[:, None])[:, 0] for i in (-1, 0, 1)
    )
    curve = left + right - 2 * middle
    moved = (left - right) / (2 * curve.clamp(min=1e-9))
    return torch.where((at > 0) & (at < last) & (curve > 1e-9), moved.clamp(-0.5, 0.5), 0.0)
