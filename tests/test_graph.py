"""Recorded steps: what a recording may take from the host, and that a replay is the step itself.

A CUDA graph cannot be recorded without a GPU, so here a recording runs its step's code again, with
the number of the step that was recorded, the batch's place in memory and the draws that were kept:
whatever a step takes from the host besides shows as a difference. Where there is a GPU, the last
test records for real.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_kit import newest, tiny
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mtzoo.engine import graph
from mtzoo.engine.graph import MOST, WARM_UP, KeptDraws, Recorder
from mtzoo.engine.loop import fit
from mtzoo.engine.step import Step
from mtzoo.errors import MtzooError
from mtzoo.interfaces import Batch, Draws
from mtzoo.objectives.dual_mtgan import DualMTGANObjective
from mtzoo.recipe import Recipe, build_model, build_objective, load_recipe

CPU = torch.device("cpu")
TURNS = [
    "--data.resolution=32",
    "--data.frames=8",
    "--model.content_encoder.width=4",
    "--model.motion_encoder.width=4",
    "--model.motion_encoder.terms=4",
    "--model.motion_generator.hidden=8",
    "--model.image_generator.width=4",
    "--model.image_generator.turns=4",
    "--objective.pose_start=8",
    "--objective.pose_lead=8",
    "--objective.align_start=24",
    "--objective.kl_ramp=6",
    "--engine.warmup_steps=30",
    "--engine.batch_size=2",
]
GAME = [
    "--objective.motion_ramp=3",
    "--objective.kl_ramp=4",
    "--objective.content_ramp=2",
    "--objective.adversarial_ramp=2",
    "--objective.target_videos=random",
    "--engine.schedule=linear",
    "--engine.gradient_clip=1.0",
    "--engine.ema_decay=0.9",
]


class Again:
    """A recording that runs its code again, and the tensor that it fills."""

    played = 0

    def __init__(self, run: Callable[[], Tensor]) -> None:
        self.run = run

    def __call__(self) -> None:
        Again.played += 1
        self.found = self.run()

    def clone(self) -> Tensor:
        return self.found.clone()


def again(run: Callable[[], Tensor]) -> tuple[Any, Any]:
    made = Again(run)
    return made, made


def recipe(tmp_path: Path, kind: str) -> Recipe:
    if kind == "game":
        tiny(tmp_path)
        return load_recipe(tmp_path / "tiny.yaml", GAME)
    path = tmp_path / "turns.yaml"
    path.write_text("base: dual_mtgan_plus_shapes\n", encoding="utf-8")
    return load_recipe(path, TURNS)


def stepper(found: Recipe, device: torch.device = CPU, **engine: object) -> Step:
    torch.manual_seed(0)
    model = build_model(found.model, resolution=32, channels=3).to(device)
    options = dataclasses.replace(found.engine, **engine)
    return Step(model, build_objective(found.objective), options, seed=found.seed, say=pytest.fail)


def batches(found: Recipe, count: int) -> Iterator[Batch]:
    size, generator = (found.engine.batch_size, 8, 32, 32, 3), torch.Generator().manual_seed(1)
    for _ in range(count):
        one, two = (torch.rand(size, generator=generator).permute(0, 1, 4, 2, 3) for _ in range(2))
        yield Batch(one, two, two[:, 3].clone())


def run(
    step: Step, found: Recipe, count: int, device: torch.device = CPU
) -> list[dict[str, float]]:
    figures = []
    for number, batch in enumerate(batches(found, count)):
        draws = Draws(found.seed, number, 0, found.engine.batch_size, device)
        made = step(number, Batch(*(part.to(device) for part in batch)), draws)
        figures.append({f"{p}/{n}": v for p, terms in made.items() for n, v in terms.items()})
    # Read late: a replay may not write over what an earlier one gave.
    return [{name: float(value) for name, value in row.items()} for row in figures]


@pytest.mark.parametrize("kind", ["game", "turns"])
def test_replayed_steps_are_the_steps(tmp_path, kind, monkeypatch):
    # So that Python's numbers are rounded as a recording's are.
    monkeypatch.setattr(Draws, "number", lambda _, name, value: torch.tensor(value))
    found = recipe(tmp_path, kind)
    expected = run(stepper(found), found, 40)
    step = stepper(found)
    step._recorder = Recorder(step._work, pytest.fail, step._seed_all, again)
    before = Again.played
    assert run(step, found, 40) == expected
    assert Again.played - before >= 10
    assert len({tuple(row) for row in expected}) >= 3, "terms came in on the way"


def test_what_a_variant_forgets_shows(tmp_path, monkeypatch):
    found = recipe(tmp_path, "game")
    expected = run(stepper(found), found, 12)
    monkeypatch.setattr(DualMTGANObjective, "variant", lambda *_: ())
    step = stepper(found)
    step._recorder = Recorder(step._work, pytest.fail, step._seed_all, again)
    assert run(step, found, 12) != expected


def numbered(step: int, batch: Batch, draws: Draws) -> dict[str, dict[str, Tensor]]:
    noise = draws.normal(2, 3, 0)
    return {"only": {"loss": batch.video.sum() + noise.sum()}}


def batch_of(value: float, frames: int = 2) -> Batch:
    video = torch.full((2, frames, 1, 4, 4), value)
    return Batch(video, video, video[:, 0])


def draws_of(step: int) -> Draws:
    return Draws(0, step, 0, 2, CPU)


def test_each_kind_warms_up_and_has_a_recording_of_its_own():
    made: list[Callable[[], Tensor]] = []

    def capture(work: Callable[[], Tensor]) -> tuple[Any, Any]:
        made.append(work)
        return again(work)

    recorder = Recorder(numbered, pytest.fail, [].append, capture)
    for step in range(2 * WARM_UP + 4):
        kind, frames = ("odd", 2) if step % 2 else ("even", 2)
        found = recorder(kind, {}, step, batch_of(step, frames), draws_of(step))
        assert (
            found["only"]["loss"] == numbered(step, batch_of(step), draws_of(step))["only"]["loss"]
        )
    assert len(made) == 2
    for step in range(WARM_UP + 1):
        recorder("even", {}, step, batch_of(step, frames=3), draws_of(step))
    assert len(made) == 3, "another shape is another kind"
    for number in range(MOST + 1):
        for step in range(WARM_UP + 1):
            recorder(number, {}, step, batch_of(step), draws_of(step))
    assert len(recorder._made) == MOST
    recorder(None, {}, 0, batch_of(0), draws_of(0))
    assert len(made) == 3 + MOST + 1


def refuse(work: Callable[[], Tensor]) -> tuple[Any, Any]:
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


def test_a_step_that_cannot_be_recorded_goes_on_as_it_is(monkeypatch):
    lines: list[str] = []
    seeded: list[int] = []
    monkeypatch.setattr(graph, "UNWINDS", (2, 0))
    recorder = Recorder(numbered, lines.append, seeded.append, refuse)
    for step in range(2 * WARM_UP + 4):
        found = recorder("kind", {}, step, batch_of(step), draws_of(step))
        assert (
            found["only"]["loss"] == numbered(step, batch_of(step), draws_of(step))["only"]["loss"]
        )
    assert len(lines) == 1
    assert lines[0].startswith(f"warning: engine.cuda_graph: step {WARM_UP} cannot be recorded (op")
    assert "\n" not in lines[0]
    assert seeded == [0, 1, 2, 3, 3, *range(4, 2 * WARM_UP + 4)], "again after what was tried"


def test_a_torch_that_cannot_go_on_says_so(monkeypatch):
    monkeypatch.setattr(graph, "UNWINDS", (99, 0))
    recorder = Recorder(numbered, pytest.fail, [].append, refuse)
    for step in range(WARM_UP):
        recorder("kind", {}, step, batch_of(step), draws_of(step))
    with pytest.raises(
        MtzooError, match=r"step 3 cannot be recorded \(op.*; set it to false and go"
    ):
        recorder("kind", {}, WARM_UP, batch_of(3), draws_of(3))


def test_numbers_are_read_anew():
    def ramped(step: int, batch: Batch, draws: Draws) -> dict[str, dict[str, Tensor]]:
        return {"only": {"loss": draws.number("ramp", step / 7) * batch.video.sum()}}

    recorder = Recorder(ramped, pytest.fail, [].append, again)
    for step in range(2 * WARM_UP):
        found = recorder("kind", {"ramp": step / 7}, step, batch_of(1.0), draws_of(step))
        assert found["only"]["loss"] == torch.tensor(step / 7) * batch_of(1.0).video.sum()
    assert draws_of(0).number("ramp", 0.5) == 0.5


def test_a_recording_draws_nothing_new():
    kept = KeptDraws(0, 5, 0, 4, CPU)
    first = kept.normal(4, 3, 1)
    assert torch.equal(first, Draws(0, 5, 0, 4, CPU).normal(4, 3, 1))
    kept.refill(Draws(0, 6, 0, 4, CPU), {})
    assert kept.normal(4, 3, 1) is first
    assert torch.equal(first, Draws(0, 6, 0, 4, CPU).normal(4, 3, 1))
    sealed = KeptDraws(0, 5, 0, 4, CPU, kept.kept, sealed=True)
    assert sealed.normal(4, 3, 1) is first
    with pytest.raises(RuntimeError, match="other numbers"):
        sealed.integers(4, 3, 1)


class Crossings(TorchDispatchMode):
    """Notes what goes from the CPU to the other device, or waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
        if len({t.device.type for t in tensors}) > 1:
            self.found.append(str(func))
        return result


class MetaDraws(Draws):
    """Draws whose tensors are on the other device already."""

    def _moved(self, values: Tensor) -> Tensor:
        return torch.empty(values.shape, dtype=values.dtype, device="meta")


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("dual_mtgan_weizmann", 1_000_000),
        ("dual_mtgan_nemo", 1_000_000),
        ("dual_mtgan_bair", 1_000_000),
        ("dual_mtgan_plus_shapes", 0),
        ("dual_mtgan_plus_shapes", 1000),
        ("dual_mtgan_plus_shapes", 4000),
        ("dual_mtgan_plus_faces", 1000),
        ("dual_mtgan_plus_weizmann", 1000),
    ],
)
def test_nothing_crosses_from_the_host_in_a_step(name, step, monkeypatch):
    # The device without memory stands for a GPU: mixing it with the CPU, or reading a value off
    # it, shows.
    def autocast(*_: object, **__: object) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()  # of which the device without memory knows nothing

    monkeypatch.setattr(torch, "autocast", autocast)
    made: list[object] = []

    def from_numbers(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def spy(values: object, *given: object, **options: Any) -> Tensor:
            result = make(values, *given, **options)
            # torch's own, where it stands in for a kernel, is no tensor of the step.
            caller = str(sys._getframe(1).f_globals["__name__"]).partition(".")[0]
            if result.is_meta and caller in ("mtzoo", __name__):
                made.append(values)
            return result

        return spy

    found = load_recipe(f"recipes/{name}.yaml")
    with torch.device("meta"):
        model = build_model(found.model, resolution=64, channels=3).to("meta")
    objective = build_objective(found.objective)
    video = torch.empty(2, 16, 64, 64, 3, device="meta").permute(0, 1, 4, 2, 3)
    batch = Batch(video, video, video[:, 0])
    draws = MetaDraws(0, step, 0, 2, torch.device("meta"))
    for name_ in ("tensor", "as_tensor"):  # which the dispatcher does not show
        monkeypatch.setattr(torch, name_, from_numbers(getattr(torch, name_)))
    with Crossings() as crossings:
        shared = objective.forward(model, batch, draws, step)
        for phase in objective.phases():
            objective.loss(phase, model, batch, shared, draws, step)
        assert not made
        torch.tensor([1.0], device="meta")
        assert made
        torch.zeros(1).to("meta")
    assert crossings.found == ["aten._to_copy.default"], "the last line's alone"


def test_cuda_graph_needs_one_process(tmp_path):
    with pytest.raises(MtzooError, match=r"engine.cuda_graph: gradients of engine.devices: 2"):
        tiny(tmp_path, cuda_graph=True, devices=2)


def test_without_a_gpu_steps_run_as_they_are(tmp_path, capsys):
    fit(tiny(tmp_path), tmp_path / "plain")
    fit(tiny(tmp_path, cuda_graph=True), tmp_path / "graph")
    assert "engine.cuda_graph: there is no GPU here" in capsys.readouterr().out
    plain, graph = newest(tmp_path / "plain"), newest(tmp_path / "graph")
    for name, value in plain["generators"].items():
        assert torch.equal(value, graph["generators"][name])


def apart(one: Step, two: Step, found: Recipe, count: int, device: torch.device) -> float:
    """The most that figures of steps from equal states differ, relative or, near 0, absolute.

    States are made equal before every step: what rounding changes in one, Adam makes much of in
    the next.
    """
    most = 0.0
    for number, batch in enumerate(batches(found, count)):
        two.model.load_state_dict(one.model.state_dict())
        for half in one.optimizers:
            two.restore(half, copy.deepcopy(one.state(half)))
        moved = Batch(*(part.to(device) for part in batch))
        draws = Draws(found.seed, number, 0, found.engine.batch_size, device)
        made, other = one(number, moved, draws), two(number, moved, draws)
        for phase, terms in made.items():
            for name, value in terms.items():
                difference = abs(float(value) - float(other[phase][name]))
                most = max(most, difference / max(abs(float(value)), 0.1))
    return most


def test_what_is_compared_step_by_step_is_the_step(tmp_path, monkeypatch):
    monkeypatch.setattr(Draws, "number", lambda _, name, value: torch.tensor(value))
    found = recipe(tmp_path, "game")
    step, plain = stepper(found), stepper(found)
    step._recorder = Recorder(step._work, pytest.fail, step._seed_all, again)
    assert apart(step, plain, found, 12, CPU) == 0
    monkeypatch.setattr(DualMTGANObjective, "variant", lambda *_: ())
    step = stepper(found)
    step._recorder = Recorder(step._work, pytest.fail, step._seed_all, again)
    assert apart(step, plain, found, 12, CPU) > 0.001


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["game", "turns"])
def test_a_gpu_replays_what_it_would_compute(tmp_path, kind):
    gpu, found = torch.device("cuda"), recipe(tmp_path, kind)
    step = stepper(found, gpu, cuda_graph=True)
    assert apart(step, stepper(found, gpu), found, 40, gpu) < 0.005
    assert step._recorder is not None
    assert step._recorder._made
