"""Filling in what is hidden from what lies around it."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from mtzoo.errors import MtzooError

_LEAST = 1e-6  # keeps places of which nothing is known from dividing by nothing


def pull_push(pictures: Tensor, known: Tensor) -> Tensor:
    """Fill pictures in where they are not known, smoothly, from near and far.

    Pictures are halved, known pixels alone counting (pull), until one pixel is left; from there on
    each is laid under the next larger one where that is not known (push). Gortler et al., "The
    Lumigraph", SIGGRAPH 1996, with a box for their filter on the way down. Differentiable in both.

    Args:
        pictures: ``(N, C, H, W)`` of any range; H and W powers of two. Finite where unknown, too.
        known: How far each pixel is known, ``(N, 1, H, W)`` in [0, 1].

    Returns:
        ``(N, C, H, W)``, within the range of what is known by 1e-6 or more: ``pictures`` where
        ``known`` is 1. What is known by less passes for nearer to 0 than it is, all 0 where it is
        not known at all, and weighs as little beside the rest.

    Raises:
        MtzooError: H or W is no power of two.
    """
    height, width = pictures.shape[-2:]
    if height & (height - 1) or width & (width - 1):
        raise MtzooError(
            f"pull_push: sides have to be powers of two to be halved to one pixel, not "
            f"{height}x{width}; resize the pictures or pad them"
        )
    levels = [(pictures, known)]
    while max(pictures.shape[-2:]) > 1:
        height, width = pictures.shape[-2:]
        window = (min(height, 2), min(width, 2))
        mass = F.avg_pool2d(known, window)
        pictures = F.avg_pool2d(pictures * known, window) / mass.clamp(min=_LEAST)
        known = (mass * (window[0] * window[1])).clamp(max=1)
        levels.append((pictures, known))
    filled = levels.pop()[0]
    for pictures, known in reversed(levels):
        below = F.interpolate(
            filled, size=pictures.shape[-2:], mode="bilinear", align_corners=False
        )
        filled = below.lerp(pictures, known)
    return filled
