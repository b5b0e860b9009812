"""Triton kernels of the image generator's path, each beside the layers whose work it does.

For inference on NVIDIA GPUs. Elsewhere, and where gradients are asked for, the layers themselves
run. Nothing here is used unless asked for (``fold(..., fused=True)``).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

TAPS = 4
"""Input pixels that an output pixel of a 4x4 transposed convolution of stride 2 takes."""


def watched() -> bool:
    """Whether a compiler, a tracer or a transform of torch.func looks at what is called."""
    internals: Any = torch._C
    return (
        torch.compiler.is_compiling()
        or internals._get_tracing_state() is not None
        or forward_ad._current_level >= 0
        or internals._functorch.peek_interpreter_stack() is not None
    )


@functools.cache
def _kernel() -> Any:
    """The kernel, where Triton is installed; else ``None``."""
    try:
        from mtzoo.nn import _triton
    except ImportError:
        return None
    return _triton.doubled


def _interpreted() -> bool:
    """Whether Triton's interpreter runs the kernel; it multiplies bfloat16's bits as integers."""
    return type(_kernel()).__name__ == "InterpretedFunction"


def by_place(weight: Tensor) -> Tensor:
    """Weights of a 4x4 transposed convolution of stride 2 as one matrix a place and tap.

    Output pixel ``2 m + a`` takes input pixels ``m + t + a - 1`` for t in (0, 1), with the kernel's
    row ``3 - a - 2 t``; columns alike.

    Args:
        weight: ``(inputs, outputs, 4, 4)``.

    Returns:
        ``(4 places * 4 taps, inputs, outputs)``, contiguous.
    """
    rows = torch.tensor([[3, 1], [2, 0]], device=weight.device)
    picked = weight[:, :, rows][..., rows]  # inputs, outputs, a, t, b, u
    return picked.permute(2, 4, 3, 5, 0, 1).reshape(4 * TAPS, *weight.shape[:2]).contiguous()


def double_size(x: Tensor, weight: Tensor, bias: Tensor, slope: float = 1.0) -> Tensor:
    """A 4x4 transposed convolution of stride 2 and padding 1, its bias and a leaky ReLU, in one.

    One implicit matrix product over pixels in channels_last, for each of the four places that an
    output pixel may have within the square of its input pixel.

    Args:
        x: ``(N, inputs, H, W)`` in channels_last, float32, float16 or bfloat16, on a GPU.
        weight: Of `by_place`, same type.
        bias: ``(outputs,)``, same type.
        slope: Of what is negative: 1 leaves it, 0 is a ReLU.

    Returns:
        ``(N, outputs, 2 H, 2 W)`` in channels_last, same type; sums are in float32. float32 is
        multiplied as ``torch.backends.cudnn.conv.fp32_precision`` says; for TF32 the bits that
        cuDNN rounds are dropped, so that results lean to 0.

    Raises:
        RuntimeError: Triton is not installed, or ``x``, weight or bias lies otherwise.
    """
    kernel = _kernel()
    if kernel is None:
        raise RuntimeError("Triton is not installed; on Linux it comes with torch")
    if not x.is_contiguous(memory_format=torch.channels_last):
        raise RuntimeError("x must be contiguous in torch.channels_last")
    if not (weight.is_contiguous() and bias.is_contiguous()):
        raise RuntimeError("weight and bias must be contiguous")
    count, inputs, height, width = x.shape
    outputs = weight.shape[-1]
    y = x.new_empty(count, 2 * height, 2 * width, outputs)
    rows = count * height * width
    block_rows, block_outputs, block_inputs = blocks(rows, inputs, outputs)
    columns = -(-outputs // block_outputs)
    with torch.cuda.device_of(x):
        kernel[(4 * columns * -(-rows // block_rows),)](
            x,
            weight,
            bias,
            y,
            rows,
            height,
            width,
            inputs,
            outputs,
            slope,
            columns,
            ieee=_precision() != "tf32",
            widened=_interpreted() and x.dtype == torch.bfloat16,
            block_rows=block_rows,
            block_outputs=block_outputs,
            block_inputs=min(block_inputs, 128 // x.element_size()),  # 96 KiB for three stages
            num_warps=8 if block_rows * block_outputs > 64 * 64 else 4,
            num_stages=3,
        )
    return y.permute(0, 3, 1, 2)


def _precision() -> str:
    """What torch's own convolutions multiply float32 in on a GPU."""
    convolutions: Any = torch.backends.cudnn
    return convolutions.conv.fp32_precision


def blocks(rows: int, inputs: int, outputs: int) -> tuple[int, int, int]:
    """Pixels, output and input channels of a program: powers of 2, at least 16.

    Few pixels make small blocks, so that as many programs run as a GPU has multiprocessors.
    """
    block_outputs = min(128, _power(outputs))
    for block_rows in (128, 64, 32):
        if -(-rows // block_rows) * -(-outputs // block_outputs) * 4 >= 128:
            return block_rows, block_outputs, min(64, _power(inputs))
    return 16, block_outputs, min(64, _power(inputs))


def _power(count: int) -> int:
    return max(16, 1 << (count - 1).bit_length())


class DoubleSize(nn.Module):
    """A transposed convolution that doubles height and width, and the activation after it.

    On a GPU `double_size`. The layer itself runs elsewhere, with gradients, under autocast, where
    a compiler, a tracer or a transform looks on, and where it has hooks, which a kernel would skip.
    New weights are noticed where torch counts the change: by ``load_state_dict`` or in place on the
    parameter, not through ``.data``, nor if the layer was made in inference mode.

    Args:
        layer: Kernel 4, stride 2, padding 1; its weights are held twice once the kernel has run.
        slope: See `double_size`.
    """

    _arranged: tuple[Any, Tensor] | None = None

    def __init__(self, layer: nn.ConvTranspose2d, slope: float = 1.0) -> None:
        super().__init__()
        self.layer, self.slope = layer, slope

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """Whether a layer is such a convolution."""
        return (
            isinstance(layer, nn.ConvTranspose2d)
            and (layer.kernel_size, layer.stride, layer.padding) == ((4, 4), (2, 2), (1, 1))
            and (layer.output_padding, layer.dilation, layer.groups) == ((0, 0), (1, 1), 1)
        )

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(N, inputs, H, W)`` to ``(N, outputs, 2 H, 2 W)``."""
        x = input
        if not self._fuses(x):
            return F.leaky_relu(self.layer(x), self.slope)
        bias = self.layer.bias
        if bias is None:
            bias = x.new_zeros(self.layer.out_channels)
        x = x.contiguous(memory_format=torch.channels_last)
        return double_size(x, self.by_place(), bias, self.slope)

    def by_place(self) -> Tensor:
        """The weights as `double_size` takes them, arranged anew where they have changed."""
        weight = self.layer.weight
        version = 0 if weight.is_inference() else weight._version
        key = (weight.device, weight.data_ptr(), weight.dtype, version)
        if self._arranged is None or self._arranged[0] != key:
            with torch.no_grad():
                self._arranged = (key, by_place(weight))
        return self._arranged[1]

    def __getstate__(self) -> dict[str, Any]:
        # A copy's weights lie elsewhere; what was arranged is soon arranged again.
        return {**self.__dict__, "_arranged": None}

    def _fuses(self, x: Tensor) -> bool:
        return x.device.type == "cuda" == self.layer.weight.device.type and self._may(x)

    def _may(self, x: Tensor) -> bool:
        """Whether nothing but the device speaks against the kernel."""
        return (
            x.dtype == self.layer.weight.dtype
            and x.dtype in (torch.float32, torch.float16, torch.bfloat16)
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled(x.device.type)
            and not watched()
            and not self._hooked()
            and _kernel() is not None
        )

    def _hooked(self) -> bool:
        return bool(self.layer._forward_pre_hooks or self.layer._forward_hooks)
