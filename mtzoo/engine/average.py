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
        self._sources: list[Tensor] = list(model.generators().parameters())
        self._counters: list[Tensor] = []
        self._source_counters: list[Tensor] = []
        # Running statistics belong to the weights under which they were taken: those of the
        # newest weights do not fit averaged ones, so they are averaged alike.
        buffers = zip(self.model.generators().buffers(), model.generators().buffers(), strict=True)
        for average, source in buffers:
            floating = source.is_floating_point()
            (self._averages if floating else self._counters).append(average)
            (self._sources if floating else self._source_counters).append(source)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the model's weights and statistics after ``step`` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            self._averages, self._sources, 1.0 - decay
        )
        if self._counters:
            torch._foreach_copy_(  # pyright: ignore[reportPrivateImportUsage]
                self._counters, self._source_counters
            )
