"""Transposed convolutions to few channels against torch's own, and where each is at work."""

from __future__ import annotations

import copy
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtzoo.interfaces import join_videos
from mtzoo.nn import subpixel
from mtzoo.nn.conv3d import Conv3d
from mtzoo.nn.subpixel import ToFew, conv_of_few, subpixel_conv, subpixel_weight

KINDS = [  # kernel, stride, padding, places of the smaller side
    ((4, 4), (2, 2), (1, 1), (5, 8)),
    ((3, 3), (2, 2), (1, 1), (4, 5)),
    ((3, 5), (1, 1), (1, 2), (6, 7)),
    ((5, 4), (3, 2), (2, 1), (4, 3)),
    ((6, 6), (2, 2), (2, 3), (5, 4)),
    ((1, 1), (2, 2), (0, 0), (3, 3)),
    ((4, 4, 4), (2, 2, 2), (1, 1, 1), (2, 4, 3)),
    ((3, 3, 3), (1, 2, 2), (1, 1, 1), (3, 4, 5)),
    ((3, 4, 4), (1, 2, 2), (1, 1, 1), (3, 2, 4)),
]


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=[torch.channels_last, torch.channels_last_3d][x.dim() - 4])


@pytest.mark.parametrize(("kernel", "stride", "padding", "places"), KINDS)
@pytest.mark.parametrize("extra", [0, 1])
def test_equals_the_transposed_convolution(
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    places: tuple[int, ...],
    extra: int,
) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 7, *places).double(), torch.randn(7, 3, *kernel).double()
    more = [min(extra, step - 1) for step in stride]
    transposed: Callable[..., Tensor] = [F.conv_transpose2d, F.conv_transpose3d][len(kernel) - 2]
    bias = torch.randn(3).double()
    expected = transposed(x, weight, bias, stride, padding, more)
    repeated = bias.repeat(subpixel_weight(weight, stride).shape[0] // 3)
    made = subpixel_conv(
        x, subpixel_weight(weight, stride), repeated, stride, padding, expected.shape[2:]
    )
    torch.testing.assert_close(made, expected)
    assert made.movedim(1, -1).is_contiguous()
    none = subpixel_conv(
        x[:0], subpixel_weight(weight, stride), repeated, stride, padding, expected.shape[2:]
    )
    assert none.shape == (0, *expected.shape[1:])


def hold_to_torchs(mine: nn.Module, torchs: nn.Module, x: Tensor, dtype: torch.dtype) -> None:
    """Outputs and all gradients are those of torch's layer with the same weights."""
    torchs.load_state_dict(mine.state_dict())
    found = []
    for layer in (mine, torchs):
        seen = x.clone(memory_format=torch.preserve_format).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            made = layer(seen)
        made.float().square().sum().backward()
        found.append([made.detach(), seen.grad, layer.weight.grad, layer.bias.grad])
    for left, right in zip(*found, strict=True):
        assert left.dtype == right.dtype
        near = 1e-4 if dtype == torch.float32 else 0.02 * float(right.abs().max())
        torch.testing.assert_close(left, right, rtol=1e-4, atol=near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_equals_torchs_with_its_gradients(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    mine, x = ToFew(16, 3, 4, 2, 1), last(torch.randn(3, 16, 8, 8))
    hold_to_torchs(mine, nn.ConvTranspose2d(16, 3, 4, 2, 1), x, dtype)
    assert "_ToFew" in type(mine(x).grad_fn).__name__


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_of_few_channels_equals_torchs(
    stride: tuple[int, int, int], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    mine, x = Conv3d(3, 16, 3, stride, 1), last(torch.randn(2, 3, 6, 8, 8))
    hold_to_torchs(mine, nn.Conv3d(3, 16, 3, stride, 1), x, dtype)
    assert "_OfFew" in type(mine(x.requires_grad_()).grad_fn).__name__


def test_gradients_that_nobody_wants_are_not_computed() -> None:
    layer = Conv3d(3, 4, 3, (1, 2, 2), 1).requires_grad_(False)
    x = last(torch.randn(1, 3, 4, 8, 8)).requires_grad_()
    with mock.patch.object(
        torch.ops.aten, "convolution_backward", side_effect=AssertionError("called")
    ):
        layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None


def test_both_can_be_derived_twice() -> None:
    # As gradient penalties of a discriminator do.
    torch.manual_seed(0)
    options = {"dtype": torch.float64, "requires_grad": True}
    x, weight = torch.randn(1, 2, 3, 4, 4, **options), torch.randn(3, 2, 3, 3, 3, **options)
    bias = torch.randn(3, **options)

    def strided(*values: Tensor) -> Tensor:
        return conv_of_few(*values, (1, 2, 2), (1, 1, 1))

    assert torch.autograd.gradcheck(strided, (x, weight, bias))
    assert torch.autograd.gradgradcheck(strided, (x, weight, bias))
    small, taps = torch.randn(1, 3, 3, 3, **options), torch.randn(3, 2, 4, 4, **options)
    shift = torch.randn(2, **options)

    def transposed(*values: Tensor) -> Tensor:
        return subpixel._ToFew.apply(*values, (2, 2), (1, 1), (0, 0))

    assert torch.autograd.gradcheck(transposed, (small, taps, shift))
    assert torch.autograd.gradgradcheck(transposed, (small, taps, shift))


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (ToFew(8, 3, 4, 2, 1), torch.randn(2, 8, 4, 4)),
        (ToFew(8, 9, 4, 2, 1), last(torch.randn(2, 8, 4, 4))),
        (ToFew(8, 4, 4, 2, 1, groups=2), last(torch.randn(2, 8, 4, 4))),
        (ToFew(8, 3, 4, 2, 1, dilation=2), last(torch.randn(2, 8, 4, 4))),
        (ToFew(8, 3, 4, 2, 1).double(), last(torch.randn(2, 8, 4, 4).double())),
        (ToFew(8, 3, 4, 2, 1), torch.randn(8, 4, 4)),
        (ToFew(8, 3, 4, 2, 1), last(torch.randn(2, 8, 4, 4))[:0]),
        (Conv3d(3, 8, 3, 2, 1), torch.randn(2, 3, 4, 4, 4)),
        (Conv3d(9, 8, 3, 2, 1), last(torch.randn(2, 9, 4, 4, 4))),
        (Conv3d(4, 8, 3, 2, 1, groups=2), last(torch.randn(2, 4, 4, 4, 4))),
        (Conv3d(3, 8, 3, 2, 1, padding_mode="replicate"), last(torch.randn(2, 3, 4, 4, 4))),
    ],
)
def test_what_they_are_not_made_for_is_torchs(layer: nn.Module, x: Tensor) -> None:
    parent = nn.ConvTranspose2d if isinstance(layer, ToFew) else nn.Conv3d
    seen = x.clone(memory_format=torch.preserve_format).requires_grad_()
    with (
        mock.patch.object(subpixel._ToFew, "apply", side_effect=AssertionError("called")),
        mock.patch.object(subpixel._OfFew, "apply", side_effect=AssertionError("called")),
    ):
        torch.testing.assert_close(layer(seen), parent.forward(layer, seen))


def test_output_size_is_torchs() -> None:
    layer, x = ToFew(8, 3, 3, 2, 1), last(torch.randn(2, 8, 4, 4))
    assert layer(x, output_size=[8, 8]).shape == (2, 3, 8, 8)
    odd = ToFew(8, 3, 3, 2, 1, output_padding=1)
    torch.testing.assert_close(odd(x), nn.ConvTranspose2d.forward(odd, x))


def test_a_copy_and_a_compiled_one_are_the_same() -> None:
    layer, x = ToFew(8, 3, 4, 2, 1), last(torch.randn(2, 8, 4, 4))
    expected = layer(x)
    twin = copy.deepcopy(layer)
    torch.testing.assert_close(twin(x), expected)
    with torch.no_grad():
        exported = torch.export.export(layer, (x,)).module()
        torch.testing.assert_close(exported(x), expected)


def test_joined_videos_lie_as_they_did() -> None:
    videos = [torch.randn(n, 4, 8, 8, 3).movedim(-1, 2) for n in (2, 3)]
    joined = join_videos(videos)
    assert torch.equal(joined, torch.cat(videos))
    assert joined.movedim(2, -1).is_contiguous()
    assert joined.transpose(1, 2).is_contiguous(memory_format=torch.channels_last_3d)
