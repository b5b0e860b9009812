"""Packed layers: same results as the layers they were, in whatever way they are used."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn

from mtzoo.engine.measure import cost
from mtzoo.nn import conv3d
from mtzoo.nn.pack import LEAST, PackedConv2d, _Packed, can_pack, pack_

needs_packing = pytest.mark.skipif(
    not can_pack(), reason="packed layers are for x86 processors with oneDNN"
)

CASES = {
    "conv2d": (nn.Conv2d(24, 48, 4, 2, 1), (2, 24, 10, 8)),
    "conv2d, groups": (nn.Conv2d(64, 128, 3, groups=4, dilation=2), (2, 64, 9, 9)),
    "conv2d, no bias": (nn.Conv2d(128, 16, 4, bias=False), (2, 128, 4, 4)),
    "conv3d": (conv3d.Conv3d(16, 40, (3, 4, 4), (1, 2, 2), (1, 1, 1)), (1, 16, 5, 8, 8)),
    "transposed": (nn.ConvTranspose2d(32, 48, 4, 2, 1), (2, 32, 5, 7)),
    "transposed, unlike": (
        nn.ConvTranspose2d(32, 64, 3, 2, 1, output_padding=1, bias=False),
        (2, 32, 4, 4),
    ),
    "linear": (nn.Linear(64, 300), (3, 5, 64)),
}


def calls(run) -> list[str]:
    """Names of the oneDNN operations that a run dispatches."""
    with torch.profiler.profile() as profile:
        run()
    return [event.name for event in profile.events() if event.name.startswith("mkldnn::_")]


@needs_packing
@pytest.mark.parametrize("layout", ["plain", "channels last"])
@pytest.mark.parametrize("case", CASES)
def test_a_packed_layer_computes_the_same(case, layout):
    torch.manual_seed(0)
    layer, shape = copy.deepcopy(CASES[case])
    plain = nn.Sequential(layer).requires_grad_(False)
    packed = copy.deepcopy(plain)
    pack_(packed)
    assert isinstance(packed[0], _Packed)
    x = torch.randn(shape)
    if layout == "channels last" and x.dim() > 3:
        form = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        x = x.contiguous(memory_format=form)
    assert len(calls(lambda: packed(x))) == 2
    assert len(calls(lambda: packed(x))) == 1, "weights are arranged once"
    torch.testing.assert_close(packed(x), plain(x), rtol=1e-4, atol=1e-5)
    assert packed(x).is_contiguous() == plain(x).is_contiguous(), "what can be viewed still can"
    other = torch.randn(shape[0] + 1, *shape[1:])
    torch.testing.assert_close(packed(other), plain(other), rtol=1e-4, atol=1e-5)
    assert cost(lambda: packed(x)).flops == cost(lambda: plain(x)).flops > 0


@needs_packing
def test_layers_are_called_as_before():
    up, line = nn.ConvTranspose2d(32, 48, 4, 2, 1), nn.Linear(256, 128)
    packed = copy.deepcopy(nn.ModuleList([up, line])).requires_grad_(False)
    pack_(packed)
    x, flat = torch.randn(1, 32, 5, 5), torch.randn(2, 256)
    torch.testing.assert_close(packed[0](x, output_size=[11, 11]), up(x, output_size=[11, 11]))
    torch.testing.assert_close(packed[1](input=flat), line(input=flat))
    with pytest.raises(RuntimeError, match="to have 32 channels, but got 31"):
        packed[0](x[:, 1:])
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        packed[1](flat[:, 1:])


@needs_packing
def test_new_weights_are_noticed():
    packed = nn.Sequential(nn.Conv2d(32, 64, 3)).requires_grad_(False)
    pack_(packed)
    x = torch.randn(1, 32, 6, 6)
    before = packed(x)
    packed.load_state_dict({name: 2 * value for name, value in packed.state_dict().items()})
    torch.testing.assert_close(packed(x), 2 * before)


@needs_packing
def test_gradients_reach_the_input():
    packed = nn.Sequential(nn.Conv2d(32, 64, 3), nn.LeakyReLU(0.2)).requires_grad_(False)
    plain = copy.deepcopy(packed)
    pack_(packed)
    gradients = []
    for network in (packed, plain):
        x = torch.ones(1, 32, 6, 6).requires_grad_()
        network(x).square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0


@needs_packing
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))]
)
def test_a_packed_network_can_be_copied_after_it_ran(copied):
    packed = nn.Sequential(nn.Conv2d(32, 64, 3), nn.ReLU()).requires_grad_(False)
    pack_(packed)
    x = torch.randn(1, 32, 6, 6)
    expected = packed(x)
    assert torch.equal(copied(packed)(x), expected)
    assert list(packed.state_dict()) == ["0.weight", "0.bias"]


@needs_packing
def test_other_types_and_compilers_take_the_layers_own_way():
    packed = nn.Sequential(nn.Conv2d(32, 64, 3), nn.ReLU()).requires_grad_(False)
    plain = copy.deepcopy(packed)
    pack_(packed)
    x = torch.randn(1, 32, 6, 6)
    double = copy.deepcopy(packed).double()
    assert not calls(lambda: double(x.double()))
    torch.testing.assert_close(double(x.double()).float(), plain(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert not calls(lambda: packed(x))
    assert not calls(lambda: packed(x[0])), "a picture without a batch"

    def run(x: Tensor) -> Tensor:
        return packed(x)

    compiled = torch.compile(run, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), plain(x))
    direction = torch.randn_like(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, and still in use
        torch.testing.assert_close(torch.jit.trace(packed, x)(x), plain(x))
        found, expected = (torch.func.jvp(n, (x,), (direction,)) for n in (packed, plain))
    torch.testing.assert_close(found, expected)


@needs_packing
def test_a_grouped_3d_convolution_of_a_short_clip_under_autocast():
    packed = nn.Sequential(nn.Conv3d(64, 64, 3, padding=1, groups=2)).requires_grad_(False)
    plain = copy.deepcopy(packed)
    pack_(packed)
    x = torch.randn(1, 64, 2, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(packed(x), plain(x))


@needs_packing
def test_small_layers_and_unusual_padding_are_left():
    few = nn.Conv2d(3, 8, 3)
    assert few.weight.numel() < LEAST
    network = nn.Sequential(few, nn.Conv2d(32, 64, 3, padding="same"), nn.ReLU())
    pack_(network)
    assert not any(isinstance(part, _Packed) for part in network)


def test_without_onednn_nothing_changes(monkeypatch):
    monkeypatch.setattr("mtzoo.nn.pack.can_pack", lambda: False)
    network = nn.Sequential(nn.Conv2d(32, 64, 3), nn.ReLU())
    pack_(network)
    assert not isinstance(network[0], PackedConv2d)
