"""Averaged generators (EMA): what is evaluated, sampled and saved.

timm keeps the average. Its decay is set here at each step, because it follows from the step alone:
a resumed run needs nothing but the weights.
"""

from __future__ import annotations

import copy

import torch
from timm.utils.model_ema import ModelEmaV3
from torch.nn.utils import parametrize

from mtzoo.interfaces import Model


class Average:
    """A copy of a model whose generators follow the original's slowly.

    Running statistics belong to the weights under which they were taken: those of the newest
    weights do not fit averaged ones, so they are averaged alike. Counters are copied, and so are
    buffers of parametrisations: a mean of the unit vectors that spectral norm iterates is none.

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
        self._source = model.generators()
        self._average = ModelEmaV3(self._source)
        self._average.module = self.model.generators()  # averaged in place, within a whole model
        self._copied = [
            (kept, new)
            for kept, new in zip(
                self._average.module.modules(), self._source.modules(), strict=True
            )
            if isinstance(new, parametrize.ParametrizationList)
        ]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the model's weights and statistics after ``step`` (from 0)."""
        self._average.apply_update_(self._source, min(self.decay, (1 + step) / (10 + step)))
        for kept, new in self._copied:
            for mine, its in zip(kept.buffers(), new.buffers(), strict=True):
                mine.copy_(its)
