"""What the ``*_bench.py`` files share: variants, parity with the reference, and what a run costs.

Every variant is timed by pytest-benchmark, and once more in turn with the reference, since times
that were not taken side by side mean little on a shared machine. ``extra_info`` of each entry holds

- ``speed``: how many times as long the reference takes, the median over rounds taken in turn;
- ``error``: norm of the difference from the reference's outputs relative to theirs;
- ``flops``, ``moved``, ``peak``: see `mtzoo.engine.measure.Cost`; not of compiled variants;
- ``above_floor``: times the seconds that arithmetic or unavoidable traffic alone would take, at
  ceilings measured in the same run.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from report import surroundings
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mtzoo.engine.launch import has_bf16
from mtzoo.engine.measure import ceilings, cost, floor, in_turn, ratio, wait

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
ROUNDS = 20 if ON_GPU else 5

# How far a variant may be from the reference.
BOUND = {torch.float32: 1e-3, torch.bfloat16: 0.1}

limits = functools.cache(ceilings)

# What is called fp32 is that, whatever torch lets a GPU do by default, and so are its ceilings.
torch.backends.cudnn.allow_tf32 = False
torch.set_float32_matmul_precision("highest")


def compare(
    benchmark: BenchmarkFixture,
    reference: Callable[[], Any],
    variant: Callable[[], Any],
    *,
    group: str,
    parameters: Sequence[Tensor] = (),
    precision: torch.dtype = torch.float32,
    compiled: bool = False,
    bound: float | None = None,
) -> Mapping[str, Any]:
    """Check a variant against the reference, time it, and keep what it costs.

    Args:
        benchmark: pytest-benchmark's fixture.
        reference: Runs the reference; what it returns are tensors, or tuples of them.
        variant: The same computation in another way.
        group: Of the tables.
        parameters: What has to be read whatever the implementation, beside the outputs.
        precision: Of the variant's arithmetic.
        compiled: Whether the variant goes through the compiler, whose operations cannot be counted.
        bound: Largest relative difference; left out, that of the precision.

    Returns:
        ``extra_info``.
    """
    if precision is torch.bfloat16 and not has_bf16(DEVICE.type):
        pytest.skip("no instructions for bfloat16 here: it would be imitated")
    torch.manual_seed(0)
    expected = _leaves(reference())
    torch.manual_seed(0)
    found = _leaves(variant())
    error = max(_error(a, b) for a, b in zip(found, expected, strict=True))
    most = BOUND[precision] if bound is None else bound
    assert error <= most, f"{group}: differs from the reference by {error:.1e}, over {most:.0e}"

    def timed() -> None:
        variant()
        wait(DEVICE)

    benchmark.group = group
    benchmark.pedantic(timed, rounds=ROUNDS, warmup_rounds=2)
    times = in_turn({"reference": reference, "variant": variant}, repeats=ROUNDS, device=DEVICE)
    info: dict[str, Any] = {
        **surroundings(DEVICE.type),
        "speed": ratio(times["reference"], times["variant"]),
        "error": error,
    }
    if not compiled:
        spent = cost(variant)
        inputs = sum(t.numel() * t.element_size() for t in (*parameters, *expected))
        info |= dataclasses.asdict(spent)
        least = floor(spent, inputs, limits(DEVICE, precision))
        info["above_floor"] = min(times["variant"]) / least
    benchmark.extra_info.update(info)
    return info


def _leaves(result: Any) -> list[Tensor]:
    return [leaf.detach().clone() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


def _error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float(
        (found.float() - expected.float()).norm() / expected.float().norm().clamp(min=1e-12)
    )


def graphed(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Capture a run in a CUDA graph; each call replays it into the same output."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


def tf32(run: Callable[[], Any]) -> Callable[[], Any]:
    """The same run with TF32 in matrix products and convolutions, and without it after."""

    def lower() -> Any:
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")
        try:
            return run()
        finally:
            torch.backends.cudnn.allow_tf32 = False
            torch.set_float32_matmul_precision("highest")

    return lower


gpu = pytest.mark.skipif(not ON_GPU, reason="needs an NVIDIA GPU and torch finds none")
