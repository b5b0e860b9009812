"""Batch norms of two processes: values, gradients and statistics are those of the whole batch."""

from __future__ import annotations

import copy
import os
import socket
from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, distributed, nn

from mtzoo.engine import launch
from mtzoo.nn.fold import fold
from mtzoo.nn.norm import Standard
from mtzoo.nn.sync import synchronise_

KINDS: list[tuple[type[nn.Module], tuple[int, ...], dict[str, Any]]] = [
    (nn.BatchNorm1d, (4, 5), {}),
    (nn.BatchNorm2d, (4, 5, 3, 3), {}),
    (nn.BatchNorm2d, (4, 5, 3, 3), {"affine": False, "momentum": None}),
    (nn.BatchNorm2d, (4, 5, 3, 3), {"track_running_stats": False}),
    (nn.BatchNorm3d, (4, 5, 2, 3, 3), {}),
    (Standard, (2, 5), {}),  # one of each process
    (BatchNormAct2d, (4, 5, 3, 3), {}),
]


def built(kind: type[nn.Module], options: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    layer: Any = kind(5, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(0.5, 2.0)
    return layer.double()


def passed(layer: nn.Module, x: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
    """What it makes of ``x``, and the gradient that comes back."""
    x = x.clone().requires_grad_()
    made = layer(x)
    (made * towards).sum().backward()
    assert x.grad is not None
    return made.detach(), x.grad


def work(rank: int, port: int) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    for kind, shape, options in KINDS:
        whole = built(kind, options)
        shared = copy.deepcopy(whole)
        assert synchronise_(nn.Sequential(shared)) == []
        assert list(shared.state_dict()) == list(whole.state_dict())
        mine = slice(rank * shape[0] // 2, (rank + 1) * shape[0] // 2)
        for turn in range(2):
            torch.manual_seed(turn)
            # Far from 0: sums of squares alone would lose their digits.
            x = 1e6 + 3 * torch.randn(shape, dtype=torch.float64)
            towards = torch.randn(shape, dtype=torch.float64)
            pairs = zip(
                passed(whole, x, towards), passed(shared, x[mine], towards[mine]), strict=True
            )
            for one, two in pairs:
                torch.testing.assert_close(two, one[mine], rtol=1e-7, atol=1e-8)
        for one, two in zip(whole.parameters(), shared.parameters(), strict=True):
            assert two.grad is not None
            distributed.all_reduce(two.grad)
            torch.testing.assert_close(two.grad, one.grad, rtol=1e-7, atol=1e-8)
        for one, two in zip(whole.buffers(), shared.buffers(), strict=True):
            torch.testing.assert_close(two, one)
        whole.eval(), shared.eval()
        torch.testing.assert_close(shared(x[mine]), whole(x[mine]), rtol=1e-7, atol=1e-8)
    launch.leave()


def test_two_processes_normalise_as_one():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(work, (port,), nprocs=2)


@pytest.mark.parametrize(("kind", "shape", "options"), KINDS)
def test_alone_they_do_what_they_did(kind, shape, options):
    one = built(kind, options)
    two = copy.deepcopy(one)
    synchronise_(nn.Sequential(two))
    assert isinstance(two, kind)
    assert type(two) is not kind
    x, towards = torch.randn(shape).double(), torch.randn(shape).double()
    for first, second in zip(passed(one, x, towards), passed(two, x, towards), strict=True):
        assert torch.equal(first, second)
    for first, second in zip(one.buffers(), two.buffers(), strict=True):
        assert torch.equal(first, second)


def test_what_is_not_known_is_named():
    class Own(nn.BatchNorm2d):
        pass

    net = nn.Sequential(Own(3), nn.BatchNorm2d(3), Own(3), nn.SyncBatchNorm(3))
    assert synchronise_(net) == ["Own", "SyncBatchNorm"]
    assert synchronise_(net) == ["Own", "SyncBatchNorm"], "a second time changes nothing"


def test_they_are_folded():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    net[1].running_mean.normal_()
    expected = net(torch.ones(1, 3, 4, 4))
    synchronise_(net)
    folded = fold(net)
    assert isinstance(folded[1], nn.Identity)
    torch.testing.assert_close(folded(torch.ones(1, 3, 4, 4)), expected.detach())
