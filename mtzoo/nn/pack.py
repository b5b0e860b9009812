"""Layers whose weights lie as the processor's kernels read them, for inference on a CPU.

oneDNN, which computes torch's convolutions on x86, wants weights in blocks of its own. In eager
mode torch arranges them so at each call; with few pictures that takes longer than the arithmetic.
The layers here keep what was arranged, as ``torch.compile`` does with constant weights
(``freezing``), and apply a ReLU or leaky ReLU that follows in the same call.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtzoo.nn.conv3d import Conv3d

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


def can_pack() -> bool:
    """Whether this machine and this torch have what packed layers call."""
    return (
        platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()
        and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATIONS)
    )


class _Packed(nn.Module):
    """What packed layers have in common: the other base class is the layer's own.

    A call goes to the layer's own forward pass wherever oneDNN would not do the same: on other
    devices, while gradients or a compiler are at work, under autocast, and for types that it lacks.
    """

    weight: Tensor
    bias: Tensor | None
    activation: str = "none"
    slope: float = 0.0
    _arranged: tuple[Any, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self._runs(x):
            plain = super().forward(x)
            if self.activation == "none":
                return plain
            return F.leaky_relu(plain, self.slope)  # of slope 0 for a ReLU
        weight = self.weight
        version = 0 if weight.is_inference() else weight._version
        key = (x.shape, weight.dtype, weight.data_ptr(), version)
        arranged = self._arranged
        if arranged is None or arranged[0] != key:
            with torch.no_grad():
                arranged = (key, self._arrange(x))
            self._arranged = arranged
        scalars = [self.slope] if self.activation == "leaky_relu" else []
        return self._call(x, arranged[1], (self.activation, scalars, ""))

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
            and torch.backends.mkldnn.enabled
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        )

    def _takes(self, x: Tensor) -> bool:
        raise NotImplementedError

    def _arrange(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _call(self, x: Tensor, weight: Tensor, after: tuple[str, list[float], str]) -> Tensor:
        raise NotImplementedError


class _PackedConv(_Packed):
    padding: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def _takes(self, x: Tensor) -> bool:
        return x.dim() == self.weight.dim()

    def _arrange(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_convolution_weight(
            self.weight, self.padding, self.stride, self.dilation, self.groups, x.shape
        )

    def _call(self, x: Tensor, weight: Tensor, after: tuple[str, list[float], str]) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            x, weight, self.bias, self.padding, self.stride, self.dilation, self.groups, *after
        )


class PackedConv2d(_PackedConv, nn.Conv2d):
    """`torch.nn.Conv2d`, packed."""


class PackedConv3d(_PackedConv, Conv3d):
    """`mtzoo.nn.conv3d.Conv3d`, packed."""


class PackedConvTranspose2d(_Packed, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d`, packed."""

    def _takes(self, x: Tensor) -> bool:
        return x.dim() == 4

    def _how(self) -> tuple[Any, ...]:
        return self.padding, self.output_padding, self.stride, self.dilation, self.groups

    def _arrange(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_convolution_transpose_weight(
            self.weight, *self._how(), x.shape
        )

    def _call(self, x: Tensor, weight: Tensor, after: tuple[str, list[float], str]) -> Tensor:
        return torch.ops.mkldnn._convolution_transpose_pointwise(
            x, weight, self.bias, *self._how(), *after
        )


class PackedLinear(_Packed, nn.Linear):
    """`torch.nn.Linear`, packed."""

    def _takes(self, x: Tensor) -> bool:
        return x.dim() >= 2

    def _arrange(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(self.weight, x.shape[:-1].numel())

    def _call(self, x: Tensor, weight: Tensor, after: tuple[str, list[float], str]) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, weight, self.bias, *after)


_PACKED: dict[type[nn.Module], type[_Packed]] = {
    nn.Conv2d: PackedConv2d,
    nn.Conv3d: PackedConv3d,
    Conv3d: PackedConv3d,
    nn.ConvTranspose2d: PackedConvTranspose2d,
    nn.Linear: PackedLinear,
}


def pack_(module: nn.Module) -> None:
    """Pack a module's convolutions and linear layers in place, where this machine can.

    Layers keep their names, attributes and weights, and the rest of the module calls them as
    before. A ReLU or leaky ReLU behind one in an ``nn.Sequential`` becomes part of it. Each
    packed layer holds its weights twice once it has run.

    Args:
        module: Ready for inference, with norms folded; parts on other devices stay as they are.
    """
    if not can_pack():
        return
    for part in module.modules():
        packed = _PACKED.get(type(part))
        if packed is not None and _gains(part):
            part.__class__ = packed
    for part in module.modules():
        if isinstance(part, nn.Sequential):
            _take_in_activations(part)


def _gains(layer: Any) -> bool:
    return (
        layer.weight.device.type == "cpu"
        and layer.weight.numel() >= LEAST
        and getattr(layer, "padding_mode", "zeros") == "zeros"
        and not isinstance(getattr(layer, "padding", ()), str)
    )


def _take_in_activations(sequence: nn.Sequential) -> None:
    last: nn.Module | None = None
    for index, part in enumerate(sequence):
        if isinstance(part, nn.Identity):
            continue
        if isinstance(last, _Packed) and last.activation == "none":
            if isinstance(part, nn.ReLU):
                last.activation = "relu"
            elif isinstance(part, nn.LeakyReLU):
                last.activation, last.slope = "leaky_relu", part.negative_slope
            if last.activation != "none":
                sequence[index] = nn.Identity()
        last = part
