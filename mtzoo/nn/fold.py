"""Networks made ready for inference: norms folded away, layers and weights rearranged.

In eval mode batch norm is one multiplication and one addition a channel with fixed numbers, which
the weights before it can take in; spectral norm is a fixed factor. A transposed convolution to
three channels leaves most of a processor's vector idle; as a plain one to four times the channels
and a rearrangement of pixels it takes a third of the time.
"""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any, TypeGuard, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from mtzoo.interfaces import ImageGenerator
from mtzoo.nn.blocks2d import CodeToMap
from mtzoo.nn.kernels import DoubleSize
from mtzoo.nn.pack import pack_
from mtzoo.nn.subpixel import FEW, subpixel_conv, subpixel_weight

M = TypeVar("M", bound=nn.Module)

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

_STRIDE = (2, 2)


def fold(
    module: M, *, dtype: torch.dtype = torch.float32, pack: bool = True, fused: bool = False
) -> M:
    """Copy a module for inference: same inputs, same outputs up to rounding, fewer operations.

    - Spectral norms become plain weights.
    - A batch norm that follows a convolution or a linear layer within an ``nn.Sequential`` is
      folded into it. Other norms depend on their input and stay.
    - A transposed 4x4 convolution of stride 2 to few channels becomes a `SubpixelConv2d`.
    - On an x86 processor weights are kept as its kernels read them (`mtzoo.nn.pack`), instead of
      arranged so at each call.
    - With a lower ``dtype`` image generators, which do nearly all of the arithmetic, compute in it
      and still take and give float32.

    Args:
        module: A component or a whole model, on any device; left as it is.
        dtype: What image generators compute in: ``torch.float32``, or ``torch.bfloat16`` for
            hardware that is faster at it (parity is then that of 8 significant bits).
        pack: Whether weights are kept as an x86 processor's kernels read them, beside the plain
            ones.
        fused: Whether transposed 4x4 convolutions of stride 2 run with their activation in one
            Triton kernel on a GPU (`mtzoo.nn.kernels`), where one follows the other in an
            ``nn.Sequential`` that nobody takes single layers from.

    Returns:
        A copy in eval mode whose parameters need no gradients. It cannot be trained, and its state
        dict has other names.
    """
    folded = copy.deepcopy(module).eval().requires_grad_(False)
    for part in list(folded.modules()):
        if parametrize.is_parametrized(part):
            _settle(part)
    for part in list(folded.modules()):
        if isinstance(part, nn.Sequential):
            _fold_norms(part)
    for part in list(folded.modules()):
        for name, child in part.named_children():
            if _to_few_channels(child):
                setattr(part, name, SubpixelConv2d(child))
    if fused:
        for part in list(folded.modules()):
            if isinstance(part, nn.Sequential):
                _fuse(part)
    if dtype != torch.float32:
        for part in folded.modules():
            if isinstance(part, ImageGenerator):
                part.to(dtype)
                part.register_forward_pre_hook(_Cast(dtype), with_kwargs=True)
                part.register_forward_hook(_widened)
    if pack:
        pack_(folded)
    if any(weight.is_cuda for weight in folded.parameters()):
        _lay_(folded)
    return folded.requires_grad_(False)


class SubpixelConv2d(nn.Module):
    """A transposed convolution as a plain one and a rearrangement of pixels (`mtzoo.nn.subpixel`).

    Args:
        layer: What to compute, 4x4 with stride 2 and padding 1; its weights are copied.
    """

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__()
        weight = subpixel_weight(layer.weight.detach(), _STRIDE)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = None
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().repeat(math.prod(_STRIDE)))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs, H, W)`` to ``(N, outputs, 2 H, 2 W)``."""
        size = (2 * x.shape[2], 2 * x.shape[3])
        return subpixel_conv(x, self.weight, self.bias, _STRIDE, (1, 1), size)


class _Cast:
    """Forward pre-hook that brings floating point arguments to a type."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(map(self._cast, args)), {k: self._cast(v) for k, v in kwargs.items()}

    def _cast(self, value: Any) -> Any:
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(self.dtype) if floating else value


def _widened(_: nn.Module, __: tuple[Any, ...], made: Any) -> Any:
    """Forward hook that brings what was made back to float32."""
    return made.float()


def _lay_(module: nn.Module) -> None:
    """Let weights of 2D convolutions lie as activations do; else cuDNN moves them in every call.

    Not by ``Module.to``, which refuses modules that hold 3D ones, too.
    """
    for weight in module.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


def _settle(part: nn.Module) -> None:
    """Turn parametrised weights into plain ones.

    torch's own way takes the weight's property off the module's class, which a copy shares with
    its original.
    """
    names = list(part.parametrizations)  # type: ignore[arg-type]
    values = {name: getattr(part, name).detach().clone() for name in names}
    part.__class__ = parametrize.type_before_parametrizations(part)
    del part.parametrizations
    for name, value in values.items():
        part.register_parameter(name, nn.Parameter(value))


def _to_few_channels(layer: nn.Module) -> TypeGuard[nn.ConvTranspose2d]:
    return DoubleSize.takes(layer) and cast(Any, layer).out_channels <= FEW


def _fuse(sequence: nn.Sequential) -> None:
    """Make one layer of a transposed convolution and the activation that follows it."""
    if type(sequence) is not nn.Sequential:  # another may use its layers one by one
        return
    places = [i for i, part in enumerate(sequence) if not isinstance(part, nn.Identity)]
    for index, after in itertools.pairwise(places):
        layer, activation = sequence[index], sequence[after]
        if DoubleSize.takes(layer) and type(activation) in (nn.ReLU, nn.LeakyReLU):
            slope = activation.negative_slope if isinstance(activation, nn.LeakyReLU) else 0.0
            sequence[index] = DoubleSize(cast(nn.ConvTranspose2d, layer), slope)
            sequence[after] = nn.Identity()


def _fold_norms(sequence: nn.Sequential) -> None:
    for index in range(1, len(sequence)):
        norm = sequence[index]
        if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
            continue
        place, name = _last(sequence, str(index - 1))
        folded = _folded(getattr(place, name), norm)
        if folded is not None:
            setattr(place, name, folded)
            sequence[index] = nn.Identity()


def _last(place: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Where the layer lies whose output is that of ``place.name``."""
    layer = getattr(place, name)
    while isinstance(layer, nn.Sequential) and len(layer):
        place, name = layer, str(len(layer) - 1)
        layer = getattr(place, name)
    return place, name


def _folded(layer: nn.Module, norm: _BatchNorm) -> nn.Module | None:
    """The layer with the norm in its weights; ``None`` where it cannot take it in."""
    if isinstance(layer, _CONVOLUTIONS):
        return fuse_conv_bn_eval(layer, norm)
    if isinstance(layer, _TRANSPOSED) and layer.groups == 1:
        return fuse_conv_bn_eval(layer, norm, transpose=True)
    if isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
        return fuse_linear_bn_eval(layer, norm)
    if isinstance(layer, CodeToMap) and isinstance(norm, nn.BatchNorm2d):
        layer.fold_(norm)
        return layer
    return None
