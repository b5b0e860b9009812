"""Moving maps by a flow or by affine maps."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mtzoo.nn.precision import without_autocast

Outside = Literal["border", "zeros", "reflection"]
"""What lies outside a map: its border on and on, nothing, or the map as in a mirror."""


def warp(maps: Tensor, flow: Tensor) -> Tensor:
    """Move maps by a flow, bilinearly; what lies outside is the border.

    Args:
        maps: ``(B, C, H, W)``, one a video.
        flow: ``(B * T, 2, H, W)``, frames of a video together: where each place looks, x and y
            from where it is, in half sides of the map.

    Returns:
        ``(B * T, C, H, W)``.
    """
    batch, _, height, width = maps.shape
    y = torch.arange(height, device=flow.device, dtype=torch.float32)
    x = torch.arange(width, device=flow.device, dtype=torch.float32)
    y, x = (2 * y + 1) / height - 1, (2 * x + 1) / width - 1
    at = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), -1)
    grid = flow.float().permute(0, 2, 3, 1) + at
    return _look(maps, grid.reshape(batch, -1, width, 2), height, flow.dtype)


def warp_affine(
    maps: Tensor, moves: Tensor, *, outside: Outside = "border", side: int | None = None
) -> Tensor:
    """Move maps by affine maps, bilinearly.

    Args:
        maps: ``(B, C, H, W)``, one a video.
        moves: ``(B, T, 2, 3)``: takes each place of a frame, x, y in half sides from the middle
            and 1, to where it looks.
        outside: What is seen outside the maps.
        side: Of the frames, in pixels; ``None`` makes them as large as the maps.

    Returns:
        ``(B * T, C, H, W)``, or ``(B * T, C, side, side)``.
    """
    batch, frames = moves.shape[:2]
    channels, height, width = maps.shape[1:]
    if side is not None:
        height = width = side
    size = [batch * frames, channels, height, width]
    with without_autocast(moves):  # a pixel is less than bf16 tells
        grid = F.affine_grid(moves.float().flatten(0, 1), size, align_corners=False)
    return _look(maps, grid.reshape(batch, -1, width, 2), height, moves.dtype, outside)


def _look(
    maps: Tensor, grid: Tensor, height: int, dtype: torch.dtype, outside: Outside = "border"
) -> Tensor:
    """What a video's frames, each so high and one below the other, see in its one map."""
    seen = F.grid_sample(
        maps.float(), grid, mode="bilinear", padding_mode=outside, align_corners=False
    )
    return seen.unflatten(2, (-1, height)).transpose(1, 2).flatten(0, 1).to(dtype)
