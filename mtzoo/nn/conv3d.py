"""A 3D convolution whose gradients on the CPU are right in bf16, and fast for a few channels."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtzoo.nn.subpixel import as_autocast, conv_of_few, gains


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d` with zero padding in space and time, safe for short clips in bf16.

    Where the kernel is longer than the clip, torch 2.15's bf16 gradient of the weight on the CPU
    is wrong by its own size or not finite (oneDNN, kernel 3 on 2 frames). With the padding in
    time made explicit it is right. The gradient of an input of few channels, which a judge hands
    back to what painted it, is computed by `mtzoo.nn.subpixel`. All else is torch's own.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``(B, C, T, H, W)``."""
        time = input.shape[2]
        half = input.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
        if input.device.type != "cpu" or not half or self.kernel_size[0] <= time:
            return self._of_few(input) if self._hands_back(input) else super().forward(input)
        along, *space = cast(tuple[int, int, int], self.padding)
        padded = F.pad(input, (0, 0, 0, 0, along, along))
        how = (self.stride, (0, *space), self.dilation, self.groups)
        return F.conv3d(padded, self.weight, self.bias, *how)

    def _hands_back(self, input: Tensor) -> bool:
        simple = self.groups == 1 and self.dilation == (1, 1, 1) and self.padding_mode == "zeros"
        learning = input.requires_grad and torch.is_grad_enabled()
        return learning and simple and gains(input, self.in_channels)

    def _of_few(self, input: Tensor) -> Tensor:
        x, weight, bias = as_autocast(input), as_autocast(self.weight), as_autocast(self.bias)
        padding = cast(tuple[int, int, int], self.padding)
        return conv_of_few(x, weight, bias, self.stride, padding)
