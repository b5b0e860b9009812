"""Layers whose weights lie as the processor's kernels read them, for inference on a CPU.

oneDNN, which computes torch's convolutions on x86, wants weights in blocks of its own. In eager
mode torch arranges them so at each call; with few pictures that takes longer than the arithmetic.
The layers here keep what was arranged, as ``torch.compile`` does with constant weights
(``freezing``).
"""

from __future__ import annotations

import abc
import platform
from typing import Any

import torch
from torch import Tensor, nn

from mtzoo.nn.conv3d import Conv3d
from mtzoo.nn.kernels import watched

LEAST = 1 << 14
"""Layers with fewer weights are left as they are: arranging them takes no time."""

_OPERATIONS = (
    "_convolution_pointwise",
    "_convolution_transpose_pointwise",
    "_linear_pointwise",
    "_reorder_convolution_weight",
    "_reorder_convolution_transpose_weight",
    "_reorder_linear_weight",
    "_is_mkldnn_bf16_supported",
)


# Nothing follows in the same call.
_ALONE = ("none", [], "")


def can_pack() -> bool:
    """Whether this machine and this torch have what packed layers call."""
    return (
        platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()
        and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATIONS)
    )


class _Packed(nn.Module, abc.ABC):
    """What packed layers have in common: the other base class is the layer's own.

    A call goes to the layer's own forward pass wherever oneDNN would not do the same: on other
    devices, while gradients, a transform, a tracer or a compiler are at work, under autocast, and
    for types and shapes that it does not take.
    """

    weight: Tensor
    bias: Tensor | None
    _arranged: tuple[Any, Tensor] | None = None

    def forward(self, input: Tensor) -> Tensor:
        if not self._runs(input):
            return super().forward(input)
        weight = self.weight
        version = 0 if weight.is_inference() else weight._version
        key = (input.shape, weight.dtype, weight.data_ptr(), version)
        arranged = self._arranged
        if arranged is None or arranged[0] != key:
            with torch.no_grad():
                arranged = (key, self._arrange(input))
            self._arranged = arranged
        return self._call(input, arranged[1])

    def __getstate__(self) -> dict[str, Any]:
        # What was arranged can neither be copied nor pickled, and is soon arranged again.
        return {**self.__dict__, "_arranged": None}

    def _runs(self, x: Tensor) -> bool:
        learning = torch.is_grad_enabled() and (
            x.requires_grad or any(p.requires_grad for p in self.parameters(recurse=False))
        )
        return (
            x.device.type == self.weight.device.type == "cpu"
            and x.dtype == self.weight.dtype
            and (
                x.dtype == torch.float32
                or (x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
            )
            and x.numel() > 0
            and self._takes(x)
            and not learning
            and not watched()
            and torch.backends.mkldnn.enabled
            and not torch.is_autocast_enabled("cpu")
        )

    @abc.abstractmethod
    def _takes(self, x: Tensor) -> bool:
        """Whether the layer takes a tensor of this shape."""

    @abc.abstractmethod
    def _arrange(self, x: Tensor) -> Tensor:
        """Its weights as the kernel reads them, for inputs of the shape of ``x``."""

    @abc.abstractmethod
    def _call(self, x: Tensor, weight: Tensor) -> Tensor:
        """What the layer computes, with weights of `_arrange`."""


class _PackedMaps(_Packed):
    in_channels: int

    def _takes(self, x: Tensor) -> bool:
        return x.dim() == self.weight.dim() and x.shape[1] == self.in_channels

    def _call(self, x: Tensor, weight: Tensor) -> Tensor:
        made = self._convolve(x, weight)
        # oneDNN's result lies in channels_last whatever came in; the layer's own follows its input.
        if _is_channels_last(x) or _is_channels_last(self.weight):
            return made
        return made.contiguous()

    @abc.abstractmethod
    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution, in whatever layout oneDNN gives it."""


class _PackedConv(_PackedMaps):
    padding: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def _arrange(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_convolution_weight(
            self.weight, self.padding, self.stride, self.dilation, self.groups, x.shape
        )

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        how = (self.padding, self.stride, self.dilation, self.groups)
        return torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *how, *_ALONE)


class PackedConv2d(_PackedConv, nn.Conv2d):
    """`torch.nn.Conv2d`, packed."""


class PackedConv3d(_PackedConv, Conv3d):
    """`mtzoo.nn.conv3d.Conv3d`, packed."""


class PackedConvTranspose2d(_PackedMaps, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d`, packed."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """As the layer's; where ``output_size`` is given, the layer's own."""
        if output_size is not None:
            return nn.ConvTranspose2d.forward(self, input, output_size)
        return super().forward(input)

    def _how(self) -> tuple[Any, ...]:
        return self.padding, self.output_padding, self.stride, self.dilation, self.groups

    def _arrange(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_convolution_transpose_weight(
            self.weight, *self._how(), x.shape
        )

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_transpose_pointwise(
            x, weight, self.bias, *self._how(), *_ALONE
        )


class PackedLinear(_Packed, nn.Linear):
    """`torch.nn.Linear`, packed."""

    def _takes(self, x: Tensor) -> bool:
        return x.dim() >= 2 and x.shape[-1] == self.in_features

    def _arrange(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(self.weight, x.shape[:-1].numel())

    def _call(self, x: Tensor, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, weight, self.bias, *_ALONE)


_PACKED: dict[type[nn.Module], type[_Packed]] = {
    nn.Conv2d: PackedConv2d,
    nn.Conv3d: PackedConv3d,
    Conv3d: PackedConv3d,
    nn.ConvTranspose2d: PackedConvTranspose2d,
    nn.Linear: PackedLinear,
}


def pack_(module: nn.Module) -> None:
    """Pack a module's convolutions and linear layers in place, where this machine can.

    Layers keep their names, attributes and weights, and give what they gave, in the same layout of
    memory. Each holds its weights twice once it has run. New weights are noticed where torch counts
    the change: by ``load_state_dict`` or in place on the parameter, not through ``.data``, nor if
    the module was made in inference mode.

    Args:
        module: Ready for inference; parts on other devices stay as they are.
    """
    if not can_pack():
        return
    for part in module.modules():
        packed = _PACKED.get(type(part))
        if packed is not None and _gains(part):
            part.__class__ = packed


def _gains(layer: Any) -> bool:
    return (
        layer.weight.device.type == "cpu"
        and layer.weight.numel() >= LEAST
        and getattr(layer, "padding_mode", "zeros") == "zeros"
        and not isinstance(getattr(layer, "padding", ()), str)
    )


def _is_channels_last(x: Tensor) -> bool:
    form = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return x.is_contiguous(memory_format=form) and not x.is_contiguous()
