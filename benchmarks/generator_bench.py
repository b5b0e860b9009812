"""The generator's hot path, codes to 16 frames of 64x64 (G_T and G_I), and `sample` and `transfer`.

    pytest -c benchmarks/pytest.ini benchmarks/generator_bench.py --benchmark-json FILE.json

The networks are those of dual_mtgan_weizmann at its widths; the reference is eager, in fp32 and
unfolded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from bench_kit import DEVICE, ON_GPU, compare, gpu, graphed, kind_of, tf32
from generation import FRAMES, SIDE, settle
from pytest_benchmark.fixture import BenchmarkFixture
from reference_step import RECIPE
from torch import Tensor

from mtzoo.models.dual_mtgan import DualMTGAN
from mtzoo.nn.fold import fold
from mtzoo.recipe import build_model, load_recipe

BATCHES = [1, 8, *(pytest.param(batch, marks=[pytest.mark.gpu, gpu]) for batch in (32, 128, 512))]
ON_GPU_ONLY = (
    "tf32",
    "folded, tf32",
    "folded, bf16, CUDA graph",
    "folded, fused",
    "folded, bf16, fused",
    "folded, bf16, fused, CUDA graph",
    "folded, max-autotune",
    "folded, max-autotune, CUDA graph",
)
VARIANTS = [
    "folded",
    "folded, compiled",
    "folded, bf16",
    "folded, bf16, compiled",
    *(pytest.param(name, marks=[pytest.mark.gpu, gpu]) for name in ON_GPU_ONLY),
]


@functools.cache
def model() -> DualMTGAN:
    torch.manual_seed(0)
    built = build_model(load_recipe(RECIPE).model, resolution=SIDE, channels=3)
    assert isinstance(built, DualMTGAN)
    settle(built)
    return built.to(DEVICE)


def prepared(variant: str) -> DualMTGAN:
    """The model as a variant has it."""
    ready = model()
    if "folded" in variant:
        dtype = torch.bfloat16 if "bf16" in variant else torch.float32
        ready = fold(ready, dtype=dtype, fused="fused" in variant)
    # Without graphs of its own, one a compiled part, of which a later one reads what a replay of an
    # earlier one writes over; `graphed` records the whole.
    mode = "max-autotune-no-cudagraphs" if "max-autotune" in variant else None
    if mode or "compiled" in variant:
        for part in (ready.content_encoder, ready.image_generator):
            part.compile(mode=mode)
    return ready


def way(variant: str, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A run, captured or with another arithmetic."""
    if "CUDA graph" in variant:
        return graphed(run)
    return tf32(run) if "tf32" in variant else run


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("batch", BATCHES)
def bench_codes_to_frames(benchmark: BenchmarkFixture, batch: int, variant: str) -> None:
    code = torch.randn(batch, model().motion_dim, device=DEVICE)
    content = torch.randn(batch, 128, device=DEVICE)

    def frames(of: DualMTGAN) -> Callable[[], Tensor]:
        @torch.inference_mode()
        def run() -> Tensor:
            return of.image_generator(content, of.motion_generator(code, FRAMES))

        return run

    check(benchmark, variant, frames, f"G_T and G_I, batch {batch}")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("use", ["sample", "transfer"])
def bench_use(benchmark: BenchmarkFixture, use: str, variant: str) -> None:
    batch = 32 if ON_GPU else 2
    video = torch.rand(batch, FRAMES, SIDE, SIDE, 3, device=DEVICE).permute(0, 1, 4, 2, 3) * 2 - 1

    def used(of: DualMTGAN) -> Callable[[], Tensor]:
        @torch.inference_mode()
        def run() -> Tensor:
            if use == "transfer":
                return of.transfer(video[:, 0], video)
            return of.sample(video[:, 0], 4, FRAMES, None)

        return run

    check(benchmark, variant, used, f"{use}, batch {batch}")


def check(
    benchmark: BenchmarkFixture,
    variant: str,
    make: Callable[[DualMTGAN], Callable[[], Tensor]],
    group: str,
) -> None:
    networks = (model().motion_generator, model().image_generator)
    compare(
        benchmark,
        make(model()),
        way(variant, make(prepared(variant))),
        group=group,
        parameters=[p for network in networks for p in network.parameters()],
        kind=kind_of(variant),
        compiled="compiled" in variant or variant in ON_GPU_ONLY,
    )
