"""Moving maps by a flow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def warp(maps: Tensor, flow: Tensor) -> Tensor:
    """Move maps by a flow, bilinearly; what lies outside is the border.

    Args:
        maps: ``(B, C, H, W)``, one a video.
        flow: ``(B * T, 2, H, W)``, frames of a video together: where each place looks, x and y
            from where it is, in half sides of the map.

    Returns:
        ``(B * T, C, H, W)``.
    """
    batch, channels, height, width = maps.shape
    y = torch.arange(height, device=flow.device, dtype=torch.float32)
    x = torch.arange(width, device=flow.device, dtype=torch.float32)
    y, x = (2 * y + 1) / height - 1, (2 * x + 1) / width - 1
    at = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), -1)
    grid = flow.float().permute(0, 2, 3, 1) + at
    # All frames of a video look into its one map: T frames one below the other.
    grid = grid.reshape(batch, -1, width, 2)
    moved = F.grid_sample(
        maps.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    moved = moved.unflatten(2, (-1, height)).transpose(1, 2)
    return moved.reshape(-1, channels, height, width).to(flow.dtype)
