"""The time step as an input: one encoding for every motion generator.

Kept apart from the networks so that "frame 20" means the same to a recurrent and to an attending
generator, and so that no table of a trained length stands in the way of longer clips.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mtzoo.errors import MtzooError
from mtzoo.interfaces import check_frames

SHORTEST = 4.0
LONGEST = 256.0


def check_unroll(code: Tensor, motion_dim: int, frames: int, who: str) -> None:
    """Raise `MtzooError` unless ``code`` is ``(B, motion_dim)`` and ``frames`` at least 1."""
    if code.dim() != 2 or code.shape[1] != motion_dim:
        raise MtzooError(
            f"{who}: built for motion codes (B, {motion_dim}), given {tuple(code.shape)}; "
            f"build it with motion_dim {code.shape[-1] if code.dim() else 1}"
        )
    check_frames(frames, 1, who)


def time_features(frames: int, dim: int, like: Tensor) -> Tensor:
    """Return sines and cosines of the frame number, at periods from 4 to 256 frames.

    The periods lie geometrically between the two: the short ones tell neighbouring frames apart,
    the long ones are nearly straight ramps over a clip, so that frames past the trained length
    get values that continue the trained ones. Row t depends on t alone.

    Args:
        frames: Number of frames T, at least 1.
        dim: Number of features, even.
        like: Tensor whose device and dtype the result takes.

    Returns:
        ``(T, dim)`` in [-1, 1]: ``dim / 2`` sines, then as many cosines.
    """
    half = dim // 2
    exponents = torch.arange(half, device=like.device, dtype=torch.float32) / max(half - 1, 1)
    periods = SHORTEST * (LONGEST / SHORTEST) ** exponents
    steps = torch.arange(frames, device=like.device, dtype=torch.float32)
    angles = 2 * math.pi * steps[:, None] / periods  # (T, dim / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(like.dtype)
