"""Triton kernels beside the layers whose work they do, in Triton's interpreter without a GPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mtzoo.nn import kernels
from mtzoo.nn.fold import fold
from mtzoo.nn.kernels import DoubleSize, blocks, by_place, double_size

pytest.importorskip("triton", reason="Triton is not installed here")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


CONVOLUTIONS: Any = torch.backends.cudnn.conv


@pytest.fixture(autouse=True)
def no_tf32() -> Iterator[None]:
    """float32 as such: by default torch lets a GPU's convolutions take TF32."""
    before = CONVOLUTIONS.fp32_precision
    CONVOLUTIONS.fp32_precision = "ieee"
    yield
    CONVOLUTIONS.fp32_precision = before


def drawn(*size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(size, device=DEVICE).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("slope", [1.0, 0.0, 0.2])
@pytest.mark.parametrize(
    ("count", "inputs", "outputs", "height", "width"),
    [(1, 16, 16, 1, 1), (2, 24, 40, 3, 5), (3, 70, 3, 4, 4), (2, 16, 130, 2, 3)],
)
def test_doubling_is_a_transposed_convolution(count, inputs, outputs, height, width, slope, dtype):
    torch.manual_seed(0)
    x = drawn(count, inputs, height, width, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = drawn(inputs, outputs, 4, 4, dtype=dtype) / (4 * inputs) ** 0.5
    bias = drawn(outputs, dtype=dtype)
    found = double_size(x, by_place(weight), bias, slope)
    expected = F.conv_transpose2d(x.double(), weight.double(), bias.double(), 2, 1)
    expected = torch.where(expected < 0, expected * slope, expected)
    assert found.shape == (count, outputs, 2 * height, 2 * width)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    close = TOLERANCE[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=close, atol=close)


def test_weights_by_place_are_two_by_two_convolutions():
    layer = nn.ConvTranspose2d(3, 2, 4, 2, 1, bias=False).requires_grad_(False)
    x = torch.randn(1, 3, 5, 6)
    matrices = by_place(layer.weight).unflatten(0, (4, 4))
    padded = F.pad(x, (1, 1, 1, 1))
    for place in range(4):
        down, right = divmod(place, 2)
        made = 0
        for tap in range(4):
            up, left = divmod(tap, 2)
            part = padded[:, :, up + down : up + down + 5, left + right : left + right + 6]
            made = made + torch.einsum("nchw,co->nohw", part, matrices[place, tap])
        torch.testing.assert_close(made, layer(x)[:, :, down::2, right::2])


def test_pictures_that_lie_otherwise_are_refused():
    with pytest.raises(RuntimeError, match="channels_last"):
        double_size(drawn(1, 16, 4, 4), drawn(16, 16, 16), drawn(16))
    x = drawn(1, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="weight and bias must be contiguous"):
        double_size(x, drawn(16, 16, 16).transpose(1, 2), drawn(16))


def test_blocks_are_powers_of_two_and_fill_a_gpu():
    for rows in (1, 16, 1000, 10**6):
        for outputs in (3, 64, 200, 512):
            sizes = blocks(rows, 100, outputs)
            assert all(size >= 16 and size & (size - 1) == 0 for size in sizes)
    assert blocks(10**6, 512, 256) == (128, 128, 64)
    assert blocks(256, 512, 256)[0] == 16


def pair() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.ConvTranspose2d(16, 24, 4, 2, 1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(24, 16, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(16, 3, 4, 2, 1),
        nn.Tanh(),
    ).to(DEVICE)


def test_a_folded_network_fuses_and_gives_the_same(monkeypatch):
    whole = pair().eval()
    whole[1].running_mean.normal_(0, 0.3)
    whole[1].running_var.uniform_(0.5, 2.0)
    fused = fold(whole, fused=True)
    assert sum(isinstance(part, DoubleSize) for part in fused) == 2
    assert not any(isinstance(part, nn.ReLU | nn.LeakyReLU) for part in fused)
    # The interpreter's tensors are on the CPU, where the layers run otherwise.
    monkeypatch.setattr(DoubleSize, "_fuses", DoubleSize._may)
    ran: list[torch.Size] = []
    kernel = kernels.double_size
    monkeypatch.setattr(
        kernels, "double_size", lambda x, *more: (ran.append(x.shape), kernel(x, *more))[1]
    )
    x = drawn(2, 16, 3, 3)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), whole(x), rtol=1e-4, atol=1e-5)
    assert len(ran) == 2
    torch.testing.assert_close(fused(x), whole(x), rtol=1e-4, atol=1e-5)
    assert len(ran) == 2, "with gradients the layers run"


def test_a_cpu_runs_the_layers():
    layer = nn.ConvTranspose2d(16, 16, 4, 2, 1)
    fused, x = DoubleSize(copy.deepcopy(layer), 0.2), torch.randn(1, 16, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), F.leaky_relu(layer(x), 0.2))
    assert list(fused.state_dict()) == ["layer.weight", "layer.bias"]


def fusing(monkeypatch: pytest.MonkeyPatch) -> tuple[DoubleSize, list[int]]:
    """A layer that takes the kernel where nothing but the CPU is against it, and its calls."""
    torch.manual_seed(0)
    ran: list[int] = []
    kernel = kernels.double_size
    monkeypatch.setattr(DoubleSize, "_fuses", DoubleSize._may)
    monkeypatch.setattr(
        kernels, "double_size", lambda x, *more: (ran.append(len(x)), kernel(x, *more))[1]
    )
    layer = nn.ConvTranspose2d(16, 16, 4, 2, 1).to(DEVICE).requires_grad_(False)
    return DoubleSize(layer, 0.2), ran


@torch.no_grad()
@pytest.mark.parametrize("way", ["loaded", "in place", "data", "copied", "assigned"])
def test_weights_that_change_reach_the_kernel(way, monkeypatch):
    fused, ran = fusing(monkeypatch)
    x = drawn(1, 16, 3, 3)
    before = fused(x)
    weights = {name: 2 * value for name, value in fused.state_dict().items()}
    if way == "loaded":
        fused.load_state_dict(weights)
    elif way == "assigned":
        fused.load_state_dict(weights, assign=True)
    elif way == "data":
        for parameter in fused.parameters():
            parameter.data = 2 * parameter.data
    else:
        if way == "copied":
            fused = copy.deepcopy(fused)
        for parameter in fused.parameters():
            parameter.mul_(2)
    torch.testing.assert_close(fused(x), 2 * before)
    assert ran == [1, 1]


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # by jvp
def test_what_a_kernel_would_skip_runs_the_layer(monkeypatch):
    fused, ran = fusing(monkeypatch)
    x = drawn(1, 16, 3, 3)
    expected = fused(x)
    assert ran == [1]
    with torch.autocast(DEVICE.type, torch.bfloat16):
        assert fused(x).dtype == torch.bfloat16
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(torch.func.vmap(fused)(x[None])[0], expected, **close)
    changed = torch.func.jvp(fused, (x,), (x,))[1]
    assert changed.shape == expected.shape
    seen: list[object] = []
    handle = fused.layer.register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(fused(x), expected, **close)
    assert (ran, seen) == ([1], [1])
    handle.remove()
    fused(x)
    assert ran == [1, 1]


@pytest.mark.gpu
def test_a_gpu_takes_tf32_where_its_convolutions_do():
    torch.manual_seed(0)
    x = drawn(2, 64, 8, 8).contiguous(memory_format=torch.channels_last)
    weight, bias = drawn(64, 32, 4, 4) / 16, drawn(32)
    exact = F.conv_transpose2d(x.double(), weight.double(), bias.double(), 2, 1)
    errors = []
    for precision in ("ieee", "tf32"):
        CONVOLUTIONS.fp32_precision = precision
        found = double_size(x, by_place(weight), bias)
        errors.append(float((found - exact).norm() / exact.norm()))
    assert errors[0] < 1e-6
    assert 1e-5 < errors[1] < 5e-3


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_gpu_runs_the_kernel_at_the_recipes_sizes(dtype):
    torch.manual_seed(0)
    x = drawn(64, 512, 4, 4, dtype=dtype).contiguous(memory_format=torch.channels_last)
    layer = nn.ConvTranspose2d(512, 256, 4, 2, 1).to(DEVICE, dtype).requires_grad_(False)
    fused = DoubleSize(layer, 0.0)
    with torch.no_grad():
        assert fused._fuses(x)
        close = 10 * TOLERANCE[dtype]
        torch.testing.assert_close(fused(x), F.relu(layer(x)), rtol=close, atol=close)
