"""A 3D convolution whose gradient holds in bf16 on the CPU, too."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d` with zero padding in space and time, safe for short clips in bf16.

    Where the kernel is longer than the clip, torch 2.15's bf16 gradient of the weight on the CPU
    is wrong by its own size or not finite (oneDNN, kernel 3 on 2 frames). With the padding in
    time made explicit it is right; other inputs take torch's own way.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``(B, C, T, H, W)``."""
        time = input.shape[2]
        half = input.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
        if input.device.type != "cpu" or not half or self.kernel_size[0] <= time:
            return super().forward(input)
        along, *space = cast(tuple[int, int, int], self.padding)
        padded = F.pad(input, (0, 0, 0, 0, along, along))
        how = (self.stride, (0, *space), self.dilation, self.groups)
        return F.conv3d(padded, self.weight, self.bias, *how)
