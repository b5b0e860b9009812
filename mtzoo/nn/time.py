"""The time step as an input: one encoding for every motion generator.

And trajectories of cosines, by which a motion encoder and a motion generator can agree on what the
numbers of a motion code mean.

Kept apart from the networks so that "frame 20" means the same to a recurrent and to an attending
generator, and so that no table of a trained length stands in the way of longer clips.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from mtzoo.errors import MtzooError
from mtzoo.interfaces import check_frames

OutputNorm = Literal["none", "layer"]
"""What each frame motion code passes through last: nothing, or layer norm."""

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


def cosines(frames: int, terms: int, period: int, like: Tensor) -> Tensor:
    """Return the first cosines of the discrete cosine transform over ``period`` frames.

    Over the first ``period`` frames their products average to 0 and their squares to 1. Smooth
    tracks are sums of few of them (Akhter et al., "Trajectory Space: A Dual Representation for
    Nonrigid Structure from Motion", IEEE TPAMI 2011). Row t depends on t alone; past the period a
    track runs back as in a mirror.

    Args:
        frames: Number of frames T, at least 1.
        terms: Number of cosines K, at most ``period``; the first is constant.
        period: Frames over which they are orthogonal.
        like: Tensor whose device and dtype the result takes.

    Returns:
        ``(T, K)``: ones, then cosines of size sqrt(2).
    """
    steps = torch.arange(frames, device=like.device, dtype=torch.float32) + 0.5
    terms_ = torch.arange(terms, device=like.device, dtype=torch.float32)
    waves = (math.pi / period * steps[:, None] * terms_).cos()
    return (waves * (1 + (terms_ > 0) * (math.sqrt(2) - 1))).to(like.dtype)


def to_cosines(tracks: Tensor, terms: int, period: int) -> Tensor:
    """Describe tracks by `cosines`: the coefficients of least squares.

    Args:
        tracks: ``(B, T, D)``, any T. Where frames other than ``period`` leave a coefficient open,
            it is held near 0.
        terms: Number of coefficients K.
        period: As for `cosines`.

    Returns:
        ``(B, D, K)``.
    """
    frames = tracks.shape[1]
    basis = cosines(frames, terms, period, tracks)
    found = tracks.transpose(1, 2) @ basis / frames
    if frames == period:
        return found
    wide = basis.float()
    gram = wide.T @ wide / frames + 0.01 * torch.eye(terms, device=wide.device)
    # One system a clip, though all are alike: what solves a single one cannot be recorded.
    gram = gram.expand(tracks.shape[0], -1, -1)
    return torch.linalg.solve_ex(gram, found.float().transpose(1, 2))[0].transpose(1, 2).to(found)
