"""One training step of dual_mtgan_weizmann, whole and by phase, and the loader that feeds it.

    pytest -c benchmarks/pytest.ini benchmarks/step_bench.py --benchmark-json FILE.json

Here mtzoo's step, eager and in fp32, is its own reference, and the variants are what a recipe can
switch. benchmarks/reference_step.py sets it beside a plain implementation of the equations, and
benchmarks/loader.py the loader beside copying.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest
import torch
from bench_kit import DEVICE, ON_GPU, compare, kind_of, tf32
from loader import FRAMES, SIDE, make
from pytest_benchmark.fixture import BenchmarkFixture
from reference_step import RECIPE, random_batch
from torch import Tensor, nn

from mtzoo.data.datasets.clips import ClipsDataset
from mtzoo.engine.graph import WARM_UP
from mtzoo.engine.loader import Steps, batches
from mtzoo.engine.memory import keep_freed
from mtzoo.engine.step import Step
from mtzoo.interfaces import Batch, Draws
from mtzoo.recipe import build_model, build_objective, load_recipe

BATCH = 32 if ON_GPU else 2
ON_GPUS = ["tf32", "bf16, compiled", "cuda graph", "bf16, cuda graph", "bf16, compiled, cuda graph"]
SWITCHES = ["bf16", "compiled", *(ON_GPUS if ON_GPU else [])]
# How far the way of the weights may be from the reference's: Adam makes whole steps of gradients
# that are little more than rounding. Weights that stay are 1 off.
WAYS = {"fp32": 0.2, "tf32": 0.5, "bf16": 0.7}
# A step with the adversarial terms and L_M at work, whatever the recipe's starts.
AT_WORK = ["--objective.motion_start=0", "--objective.adversarial_start=0"]


class Stepper:
    """A run of a step, or of the part of it that ends with a phase; returns its losses.

    Some steps are taken ``before``: those after which recorded ones are replayed.
    """

    def __init__(self, part: str, variant: str, before: int = 0) -> None:
        recipe = load_recipe(RECIPE, AT_WORK)
        torch.manual_seed(0)
        self.model = build_model(recipe.model, resolution=SIDE, channels=3).to(DEVICE)
        objective = build_objective(recipe.objective)
        lower = "bf16" in variant

        def context() -> contextlib.AbstractContextManager[object]:
            lowered = torch.autocast(DEVICE.type, torch.bfloat16)
            return lowered if lower else contextlib.nullcontext()

        options = dataclasses.replace(
            recipe.engine, compile="compiled" in variant, cuda_graph="cuda graph" in variant
        )
        self.step = Step(self.model, objective, options, seed=0, autocast=context)
        if part != "whole":
            self.step.phases = tuple(p for p in self.step.phases if p.name == part)
            assert self.step.phases
        made = random_batch(torch.Generator().manual_seed(0), BATCH, FRAMES, SIDE)
        self.batch = Batch(*(pictures.to(DEVICE) for pictures in made))
        self.draws = Draws(0, 1, 0, BATCH, DEVICE)
        for _ in range(before):
            self()

    def __call__(self) -> list[Tensor]:
        """Take it."""
        found = self.step(1000, self.batch, self.draws)
        return [terms["loss"] for terms in found.values()]

    def checked(self) -> list[Tensor]:
        """Take it: its losses, and the way that all weights go as one vector."""
        before = nn.utils.parameters_to_vector(self.model.parameters()).detach()
        losses = self()
        after = nn.utils.parameters_to_vector(self.model.parameters()).detach()
        return [*losses, after - before]


@pytest.mark.parametrize("variant", SWITCHES)
@pytest.mark.parametrize("part", ["whole", "discriminator", "generator"])
def bench_step(benchmark: BenchmarkFixture, part: str, variant: str) -> None:
    if not ON_GPU:
        keep_freed()  # as `fit` does
    before = WARM_UP + 1 if "cuda graph" in variant else 0
    reference, run = Stepper(part, "reference", before), Stepper(part, variant, before)
    lower = tf32 if variant == "tf32" else lambda of: of
    compare(
        benchmark,
        reference,
        lower(run),
        group=f"training step, batch {BATCH}: {part}",
        kind=kind_of(variant),
        compiled="compiled" in variant or "graph" in variant,  # what is replayed is not counted
        beyond=WAYS,
        checks=(reference.checked, lower(run.checked)),
    )


@pytest.mark.parametrize("workers", [0, 1, 2])
def bench_loading(benchmark: BenchmarkFixture, tmp_path: Path, workers: int) -> None:
    make(tmp_path / "store", videos=64, frames=32)
    pairs = ClipsDataset("train", 0, root=str(tmp_path / "store"), frames=FRAMES)
    benchmark.group = "loading a batch of 32 pairs"
    steps = batches(Steps(pairs, 32), 0, 10**9, workers=workers, pin=False)
    with contextlib.closing(steps):
        batch = benchmark.pedantic(lambda: next(steps), rounds=20, warmup_rounds=2 * workers + 2)
    assert batch is not None
