"""What the ``*_bench.py`` files share: variants, parity with the reference, and what a run costs.

Every variant is timed by pytest-benchmark, and once more in turn with the reference, since times
that were not taken side by side mean little on a shared machine. ``extra_info`` of each entry holds

- ``speed``: how many times as long the reference takes, the median over rounds taken in turn;
- ``error``: norm of the difference from the reference's outputs relative to theirs, the largest of
  all outputs; of a run with a backward pass gradients are outputs, too;
- ``flops``, ``moved``, ``peak``: see `mtzoo.engine.measure.Cost`; not of compiled variants;
- ``above_floor``: times the seconds that the reference's arithmetic or unavoidable traffic alone
  would take, at ceilings measured in the same run and in the variant's precision;
- ``ms``: the median of a run, and ``allocated``: the largest number of bytes that the allocator of
  a GPU held in one beyond what it held before; on a GPU only.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
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
BOUND = {"fp32": 1e-3, "tf32": 0.02, "bf16": 0.1}

# And its gradients, where norms over few values make much of rounding. What is
# wrong by a factor or a sign is 0.5 off or more.
GRADIENTS = {"fp32": 0.02, "tf32": 0.2, "bf16": 0.45}

# What is called fp32 is that, whatever torch lets a GPU do by default, and so are its ceilings.
torch.backends.cudnn.allow_tf32 = False
torch.set_float32_matmul_precision("highest")


@functools.cache
def limits(device: torch.device, kind: str) -> tuple[float, float]:
    """Ceilings of a precision: ``fp32``, ``tf32`` or ``bf16``."""
    if kind == "tf32":
        return tf32(lambda: ceilings(device))()
    return ceilings(device, torch.bfloat16 if kind == "bf16" else torch.float32)


def kind_of(variant: str) -> str:
    """The precision that a variant's name says."""
    return next((kind for kind in ("bf16", "tf32") if kind in variant), "fp32")


def allocated(run: Callable[[], object], device: torch.device) -> int:
    """The most bytes that a GPU's allocator holds in a run beyond what it held before."""
    wait(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    wait(device)
    return torch.cuda.max_memory_allocated(device) - before


def on_gpu(run: Callable[[], object], seconds: Sequence[float], device: torch.device) -> Any:
    """What tables of a GPU have beside ratios: milliseconds and the allocator's peak."""
    if device.type != "cuda":
        return {}
    return {"ms": 1e3 * statistics.median(seconds), "allocated": allocated(run, device)}


def compare(
    benchmark: BenchmarkFixture,
    reference: Callable[[], Any],
    variant: Callable[[], Any],
    *,
    group: str,
    parameters: Sequence[Tensor] = (),
    kind: str = "fp32",
    compiled: bool = False,
    beyond: Mapping[str, float] = BOUND,
    checks: tuple[Callable[[], Any], Callable[[], Any]] | None = None,
) -> Mapping[str, Any]:
    """Check a variant against the reference, time it, and keep what it costs.

    Args:
        benchmark: pytest-benchmark's fixture.
        reference: Runs the reference; what it returns are tensors, or tuples of them.
        variant: The same computation in another way.
        group: Of the tables.
        parameters: What has to be read whatever the implementation, beside the outputs.
        kind: Of the variant's arithmetic: ``fp32``, ``tf32`` or ``bf16``.
        compiled: Whether the variant goes through the compiler, whose operations cannot be counted.
        beyond: By kind, how far what is compared beyond the results may be from the reference's.
        checks: What is compared of the reference and of the variant, where that is more than what
            the timed runs return: that first.

    Returns:
        ``extra_info``.
    """
    if kind == "bf16" and not has_bf16(DEVICE.type):
        pytest.skip("no instructions for bfloat16 here: it would be imitated")
    ours, theirs = checks or (reference, variant)
    torch.manual_seed(0)
    expected = _leaves(ours())
    torch.manual_seed(0)
    found = _leaves(theirs())
    results = _leaves(reference())
    errors = [_error(a, b) for a, b in zip(found, expected, strict=True)]
    for place, error in enumerate(errors):
        most = (BOUND if place < len(results) else beyond)[kind]
        assert error <= most, f"{group}: {error:.1e} from the reference, over {most:.0e}"

    def timed() -> None:
        variant()
        wait(DEVICE)

    benchmark.group = group
    benchmark.pedantic(timed, rounds=ROUNDS, warmup_rounds=2)
    times = in_turn({"reference": reference, "variant": variant}, repeats=ROUNDS, device=DEVICE)
    info: dict[str, Any] = {
        **surroundings(DEVICE.type),
        "speed": ratio(times["reference"], times["variant"]),
        "error": max(errors),
    }
    # Every variant's floor is that of what the reference computes, in the variant's precision.
    plain = cost(reference)
    inputs = sum(t.numel() * t.element_size() for t in (*parameters, *results))
    info["above_floor"] = min(times["variant"]) / floor(plain, inputs, limits(DEVICE, kind))
    info |= on_gpu(variant, times["variant"], DEVICE)
    if not compiled:
        info |= dataclasses.asdict(cost(variant))
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
