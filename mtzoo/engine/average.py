"""Averaged generators (EMA): what is evaluated, sampled and saved.

torch's and timm's own averages hold a fixed decay or count their updates on the device. Here the
decay follows from the step alone, so that a resumed run needs nothing but the weights.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from mtzoo.interfaces import Model


class Average:
    """A copy of a model whose generators follow the original's slowly.

    Args:
        model: The model that trains; copied as it is.
        decay: Share of the average that a step keeps; ramped up as (1 + step) / (10 + step), so
            that the initial weights are soon forgotten.

    Attributes:
        model: The copy, in eval mode, without gradients. Its discriminators stay as they were.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._averages: list[Tensor] = list(self.model.generators().parameters())
        self._average_buffers: list[Tensor] = list(self.model.generators().buffers())
        self._sources: list[Tensor] = list(model.generators().parameters())
        self._source_buffers: list[Tensor] = list(model.generators().buffers())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the model's weights after ``step`` (from 0); buffers are copied."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            self._averages, self._sources, 1.0 - decay
        )
        if self._average_buffers:
            torch._foreach_copy_(  # pyright: ignore[reportPrivateImportUsage]
                self._average_buffers, self._source_buffers
            )
