"""Recurrent layers that survive being copied and autocast.

cuDNN wants all weights of a layer in one block of memory. torch keeps them so when a module moves
between devices but not when it is copied: a deep copy (an EMA of the weights is one) then warns
and gathers its weights anew at every call.

Under autocast they keep the precision of their weights: rounding adds up over the steps of a
recurrence, and oneDNN has no bfloat16 LSTM for most CPUs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtzoo.nn.precision import without_autocast


class _Kept(nn.RNNBase):
    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.flatten_parameters()

    def _fit(self, value: Tensor) -> Tensor:
        return value.to(next(self.parameters()).dtype)


class LSTM(_Kept, nn.LSTM):
    """torch's LSTM with a forget gate that starts open (bias 1, Jozefowicz et al. 2015)."""

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as torch does, except for the biases: 1 at the forget gates, 0 elsewhere."""
        super().reset_parameters()
        for name, parameter in self.named_parameters():
            if name.startswith("bias"):
                parameter.zero_()
            if name.startswith("bias_ih"):
                parameter[self.hidden_size : 2 * self.hidden_size] = 1.0

    def forward(self, inputs: Tensor, start: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Unroll ``(B, T, features)`` from a hidden and a cell state, 0 unless given.

        Returns:
            The hidden states ``(B, T, hidden)`` of the last layer.
        """
        with without_autocast(inputs):
            states = None if start is None else (self._fit(start[0]), self._fit(start[1]))
            return super().forward(self._fit(inputs), states)[0]


class GRU(_Kept, nn.GRU):
    """torch's GRU."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Unroll ``(B, T, features)`` from a hidden state of 0.

        Returns:
            The hidden states ``(B, T, hidden)`` of the last layer.
        """
        with without_autocast(inputs):
            return super().forward(self._fit(inputs))[0]
