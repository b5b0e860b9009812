"""Computing as precisely as the weights are, whatever runs around it."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor


def without_autocast(like: Tensor) -> AbstractContextManager[object]:
    """Context in which autocast is off on the tensor's device.

    For what rounding to bfloat16 would spoil: where things lie to less than a pixel, and what adds
    up over the steps of a recurrence. On the device ``meta``, which has no autocast, it does
    nothing.

    Args:
        like: Any tensor on the device.
    """
    if like.device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(like.device.type, enabled=False)
