"""Transposed convolutions to few channels as plain ones of stride 1, at which a CPU is faster.

A processor computes channels in blocks, oneDNN in AVX-512 16 of them, whatever their number: where
a layer paints three colours, or hands the gradient of a picture back, four fifths of the arithmetic
are for nothing. With stride s in two dimensions each place of the input becomes s * s places, and
each of these is a convolution of its own with every s-th tap of the kernel. Together they are one
to s * s times the channels (Shi et al., "Is the deconvolution layer the same as a convolutional
layer?", 2016), which fill the blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtzoo.nn.kernels import watched

FEW = 8
"""Up to so many channels: 16 take as long either way."""

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def subpixel_weight(weight: Tensor, stride: Sequence[int]) -> Tensor:
    """The weight of the plain convolution to ``prod(stride)`` times the channels.

    Args:
        weight: Of a transposed convolution, ``(inputs, outputs, *kernel)``.
        stride: Of it, in each dimension.

    Returns:
        ``(prod(stride) * outputs, inputs, *ceil(kernel / stride))``; in the first dimension the
        channel runs fastest, the place within a step slower.
    """
    inputs, outputs, *kernel = weight.shape
    taps = [-(-size // step) for size, step in zip(kernel, stride, strict=True)]
    missing = [t * s - k for t, s, k in zip(taps, stride, kernel, strict=True)]
    if any(missing):
        weight = F.pad(weight, [side for more in reversed(missing) for side in (0, more)])
    parts = [size for pair in zip(taps, stride, strict=True) for size in pair]
    along = [2 + 2 * dim for dim in range(len(taps))]
    within = [1 + dim for dim in along]
    split = weight.reshape(inputs, outputs, *parts).flip(along)
    return split.permute(*within, 1, 0, *along).reshape(-1, inputs, *taps)


def subpixel_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    size: Sequence[int],
) -> Tensor:
    """What a transposed convolution gives, by a weight of `subpixel_weight`.

    Args:
        x: ``(N, inputs, *places)``.
        weight: See `subpixel_weight`.
        bias: ``(prod(stride) * outputs,)``: that of the transposed convolution, repeated.
        stride: Of the transposed convolution.
        padding: Of the transposed convolution.
        size: How large its output is, without batch and channels.

    Returns:
        ``(N, outputs, *size)``, dense with the channel running fastest (channels_last).
    """
    taps, places = weight.shape[2:], x.shape[2:]
    # Whole steps that the padding takes off at both ends need not be computed.
    whole = [
        p // s if (n + t - 1 - 2 * (p // s)) * s >= p % s + wanted else 0
        for p, s, n, t, wanted in zip(padding, stride, places, taps, size, strict=True)
    ]
    around = [t - 1 - w for t, w in zip(taps, whole, strict=True)]
    made = _CONVOLVE[len(taps)](x, weight, bias, 1, around)
    dims = range(len(taps))
    order = [side for dim in dims for side in (2 + len(taps) + dim, 1 + dim)]
    full = [s * n for s, n in zip(stride, made.shape[2:], strict=True)]
    outputs = weight.shape[0] // math.prod(stride)
    split = made.unflatten(1, (*stride, outputs)).permute(0, *order, 1 + len(taps))
    whole_steps = split.reshape(x.shape[0], *full, outputs).contiguous().movedim(-1, 1)
    before = [p - w * s for p, w, s in zip(padding, whole, stride, strict=True)]
    after = [n - b - wanted for n, b, wanted in zip(full, before, size, strict=True)]
    # Last dimension first; a negative padding crops, and copies without gaps.
    crop = [-n for dim in reversed(dims) for n in (before[dim], after[dim])]
    return F.pad(whole_steps, crop) if any(crop) else whole_steps


def gains(x: Tensor, channels: int) -> bool:
    """Whether it is worth it for the few ``channels`` of one side, and nobody looks on.

    Args:
        x: What the layer takes: on the CPU, float32 or bfloat16, in channels_last.
        channels: Of what the transposed convolution gives.
    """
    form = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return (
        channels <= FEW
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.dim() in (4, 5)
        and x.numel() > 0
        and x.is_contiguous(memory_format=form)
        and not watched()
    )


Value = TypeVar("Value", Tensor, Tensor | None)


def as_autocast(value: Value) -> Value:
    """Bring a tensor to the type that autocast on the CPU has layers compute in, if it is on."""
    if value is None or not torch.is_autocast_enabled("cpu"):
        return value
    return value.to(torch.get_autocast_dtype("cpu"))


class ToFew(nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` to few channels, for a last layer: faster on the CPU.

    Weights and results are the same up to rounding. On other devices, for other inputs than float32
    and bfloat16 in channels_last, and under a compiler torch's own layer is at work.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map ``(N, in_channels, H, W)`` as `torch.nn.ConvTranspose2d` does."""
        simple = output_size is None and self.groups == 1 and self.dilation == (1, 1)
        if not (simple and gains(input, self.out_channels)):
            return super().forward(input, output_size)
        x, weight, bias = map(as_autocast, (input, self.weight, self.bias))
        how = (self.stride, self.padding, self.output_padding)
        return cast(Tensor, _ToFew.apply(x, weight, bias, *how))


class _ToFew(torch.autograd.Function):
    """The transposed convolution by `subpixel_conv`; gradients as torch has them."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        extra: Sequence[int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = (list(stride), list(padding), [1] * len(stride), True, list(extra), 1)
        size = [
            (n - 1) * s - 2 * p + k + e
            for n, s, p, k, e in zip(
                x.shape[2:], stride, padding, weight.shape[2:], extra, strict=True
            )
        ]
        repeated = None if bias is None else bias.repeat(math.prod(stride))
        return subpixel_conv(x, subpixel_weight(weight, stride), repeated, stride, padding, size)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        found = torch.ops.aten.convolution_backward(
            gradients[0], x, weight, [weight.shape[1]], *ctx.how, ctx.needs_input_grad[:3]
        )
        return (*found, None, None, None)


def conv_of_few(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """A convolution of few channels whose gradient of the input is a `subpixel_conv`.

    Args:
        x: ``(N, inputs, *places)``.
        weight: ``(outputs, inputs, *kernel)``.
        bias: ``(outputs,)``.
        stride: In each dimension.
        padding: With zeros, in each dimension.
    """
    return cast(Tensor, _OfFew.apply(x, weight, bias, stride, padding))


class _OfFew(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = list(stride), list(padding)
        return _CONVOLVE[len(stride)](x, weight, bias, ctx.stride, ctx.padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        stride, padding = ctx.stride, ctx.padding
        of_x, *others = ctx.needs_input_grad[:3]
        how = (stride, padding, [1] * len(stride), False, [0] * len(stride), 1)
        found = (
            torch.ops.aten.convolution_backward(
                gradient, x, weight, [weight.shape[0]], *how, [False, *others]
            )
            if any(others)
            else (None, None, None)
        )
        first = None
        if of_x:
            taps = subpixel_weight(weight, stride)
            first = subpixel_conv(gradient, taps, None, stride, padding, x.shape[2:])
        return (first, *found[1:], None, None)
