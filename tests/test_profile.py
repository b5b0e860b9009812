"""The profile puts each operation down to its component, and the verb says and keeps it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_kit import TINY, tiny
from torch import nn

from mtzoo.cli import main
from mtzoo.engine import launch, measure
from mtzoo.engine.measure import Tally, cost, floor, in_turn, ratio
from mtzoo.engine.options import EngineOptions
from mtzoo.engine.profile import LAYOUT, REST, Attributed, profile, variants
from mtzoo.engine.step import Step
from mtzoo.errors import MtzooError
from mtzoo.interfaces import Component
from mtzoo.recipe import load_recipe


def test_costs_by_hand():
    # Four operations; the largest three tensors of 4000 bytes live at once.
    def run() -> None:
        x = torch.zeros(1000)
        y = x + 1
        z = y * 2
        del x, y
        z.exp()

    found = cost(run)
    assert (found.operations, found.flops) == (4, 0)
    assert found.moved == 4000 + 3 * 8000
    assert found.peak == 12_000


def test_a_product_is_two_flops_a_multiply_add():
    a, b = torch.zeros(3, 5), torch.zeros(5, 7)
    assert cost(lambda: a @ b).flops == 2 * 3 * 5 * 7


@pytest.mark.parametrize("inference", [True, False])
def test_recurrent_layers_are_counted(inference: bool):
    layer = nn.LSTM(5, 8, 2, batch_first=True)
    x = torch.randn(3, 7, 5, requires_grad=True)
    by_hand = 2 * 3 * 7 * 4 * 8 * ((5 + 8) + (8 + 8))
    with torch.inference_mode(inference):
        assert cost(lambda: layer(x)).flops == by_hand
    made = layer(x)[0].sum()
    assert cost(made.backward).flops == 2 * by_hand


def test_recurrent_layers_are_counted_by_what_a_gpu_calls():
    x, weights = torch.empty(7, 3, 5), [torch.empty(32, 5), torch.empty(32, 8), torch.empty(32)]
    forward, backward = (
        measure._uncounted()[operation]
        for operation in (torch.ops.aten._cudnn_rnn, torch.ops.aten._cudnn_rnn_backward)
    )
    by_hand = 2 * 3 * 7 * 4 * 8 * (5 + 8)
    assert forward((x, weights), None) == by_hand
    assert backward((x, weights, [True, False, False, True]), None) == 2 * by_hand
    assert backward((x, weights, [True, False, False, False]), None) == by_hand


def test_what_was_there_before_is_not_counted():
    x = torch.zeros(1000)
    assert cost(lambda: x.add_(1)).peak == 0


def test_the_floor_is_the_narrower_ceiling():
    found = cost(lambda: torch.zeros(10, 10) @ torch.zeros(10, 10))
    assert floor(found, 100, (2000.0, 1e9)) == pytest.approx(1.0)
    assert floor(found, 100, (1e9, 50.0)) == pytest.approx(2.0)


def test_ceilings_are_those_of_the_faster_of_product_and_convolution(
    monkeypatch: pytest.MonkeyPatch,
):
    times = {"product": [1.0, 2.0], "convolution": [1.0, 4.0], "copy": [0.5, 1.0]}
    monkeypatch.setattr(measure, "in_turn", lambda runs, **_: {name: times[name] for name in runs})
    arithmetic, traffic = measure.ceilings(torch.device("cpu"))
    assert arithmetic == 2 * 8 * 16**2 * 256 * 256 * 4 * 4  # more than 2 * 1024^3
    assert traffic == 4 * (64 << 20)


def test_runs_take_turns():
    order: list[str] = []
    times = in_turn({n: lambda n=n: order.append(n) for n in "ab"}, repeats=2, warmup=1)
    assert order == list("ababab")
    assert [len(found) for found in times.values()] == [2, 2]
    assert ratio([4.0, 9.0, 8.0], [2.0, 3.0, 2.0]) == 3.0


def test_operations_go_to_the_component_that_made_them():
    torch.manual_seed(0)
    one, two = nn.Linear(4, 8), nn.Linear(8, 2)
    tally = Attributed({"one": one, "two": two}, torch.device("cpu"))
    x = torch.randn(3, 4, requires_grad=True)
    with tally.watching():
        (two(one(x).relu()) ** 2).sum().backward()
    first, second = tally.shares["one"], tally.shares["two"]
    assert (first.forward.flops, second.forward.flops) == (2 * 3 * 4 * 8, 2 * 3 * 8 * 2)
    assert (first.backward.flops, second.backward.flops) == (2 * 192, 2 * 96)
    assert (first.parameters, first.calls) == (40, 1)
    assert tally.shares[REST].forward.flops == 0
    parts = [s.forward.operations + s.backward.operations for s in tally.shares.values()]
    assert sum(parts) == tally.cost.operations
    assert not one._forward_hooks
    assert isinstance(tally, Tally)


class Two(Component):
    """A component that is called otherwise than by its forward, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

    def look(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.look(x).relu())


def test_other_methods_of_a_component_are_its_own():
    part = Two()
    tally = Attributed({"two": part}, torch.device("cpu"))
    x = torch.randn(3, 4, requires_grad=True)
    with tally.watching():
        loss = (part.look(x=x) ** 2).sum()
        loss.backward()
    found = tally.shares["two"]
    assert (found.forward.flops, found.backward.flops, found.calls) == (192, 2 * 192, 1)
    assert tally.shares[REST].backward.flops == 0
    with tally.watching():
        part(x)
    assert (found.forward.flops, found.calls) == (192 + 192 + 96, 2)
    assert "look" not in vars(part)
    assert not part._forward_hooks


def test_little_of_a_step_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Its objective takes layers apart and puts them together itself, by the generator's methods.
    path = tmp_path / "plus.yaml"
    path.write_text("base: dual_mtgan_plus_shapes\n", encoding="utf-8")
    sizes = {"content_encoder.width": 4, "motion_encoder.width": 4, "motion_encoder.terms": 4}
    sizes |= {"motion_generator.hidden": 8, "image_generator.width": 4, "image_generator.turns": 4}
    small = [f"--model.{name}={value}" for name, value in sizes.items()]
    small += ["--data.resolution=32", "--data.frames=8", "--objective.align_steps=0"]
    monkeypatch.setattr("mtzoo.engine.profile.variants", lambda *_: {})
    result = profile(load_recipe(path, small), batch_size=1, repeats=1)
    named = {part["name"]: part for part in result["components"]}
    operations = {
        name: part["forward"]["operations"] + part["backward"]["operations"]
        for name, part in named.items()
    }
    assert operations[REST] < 0.3 * sum(operations.values()), operations
    assert named["image_generator"]["calls"] > 3


# torch._dynamo looks at .grad of whatever enters a compiled part, codes as well.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_recipe_is_measured(tmp_path: Path):
    trace = tmp_path / "trace.json"
    result = profile(tiny(tmp_path), batch_size=1, repeats=1, trace=trace)
    assert sum(part["share"] for part in result["components"]) == pytest.approx(1)
    named = {part["name"]: part for part in result["components"]}
    assert set(named) == {
        *(f"{what}_{kind}" for what in ("content", "motion") for kind in ("encoder",)),
        "motion_generator",
        "image_generator",
        "image_discriminator",
        "video_discriminator",
        REST,
    }
    assert named["image_generator"]["calls"] == 1
    # Weights and inputs, but no weights of the first layer's inputs.
    generator = named["image_generator"]
    assert generator["backward"]["flops"] == pytest.approx(2 * generator["forward"]["flops"])
    assert named["video_discriminator"]["calls"] == 2
    advice = {entry["setting"]: entry for entry in result["advice"]}
    halved = ["engine.precision: bf16"] * launch.has_bf16("cpu")
    assert list(advice) == ["engine.compile: true", *halved, LAYOUT]
    assert advice[LAYOUT]["difference"] < 1e-4
    assert min(entry["gain"] for entry in advice.values()) > 0
    assert advice["engine.compile: true"]["difference"] < 1e-4
    for setting in halved:
        assert 1e-6 < advice[setting]["difference"] < 0.2
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"discriminator", "generator", "image_generator"} <= names


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (MtzooError("step 3 cannot be recorded (why)"), "step 3 cannot be recorded (why)"),
        (RuntimeError("\n no compiler\nmore"), "RuntimeError: no compiler"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_a_setting_that_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, why: str
):
    from mtzoo.cli.profile import text

    def two(options: EngineOptions, _: torch.device) -> dict[str, EngineOptions]:
        slower = dataclasses.replace(options, learning_rate=1e-4)
        return {"a": slower, "engine.cuda_graph: true": dataclasses.replace(slower, ema_decay=0.5)}

    def step(self: Step, *given: Any) -> Any:
        if self.options.ema_decay == 0.5:
            raise fault
        return whole(self, *given)

    whole = Step.__call__
    monkeypatch.setattr("mtzoo.engine.profile.variants", two)
    monkeypatch.setattr(Step, "__call__", step)
    result = profile(tiny(tmp_path), batch_size=1, repeats=1)
    tried = ["a", LAYOUT, "engine.cuda_graph: true"]
    assert [entry["setting"] for entry in result["advice"]] == tried
    said = text(result).splitlines()[-1]
    assert said == f"- engine.cuda_graph: true: does not work here: {why}"


def test_what_is_measured_is_the_recipes_own_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[EngineOptions] = []

    def step(self: Step, *given: Any) -> Any:
        seen.append(self.options)
        return whole(self, *given)

    whole = Step.__call__
    kept: list[bool] = []
    monkeypatch.setattr(Step, "__call__", step)
    monkeypatch.setattr("mtzoo.engine.step.compile_parts", lambda _: None)
    monkeypatch.setattr("mtzoo.engine.profile.keep_freed", lambda: kept.append(True))
    recipe = tiny(tmp_path, compile=True, devices=2)
    result = profile(recipe, repeats=1)
    assert result["batch_size"] == 2, "half of the recipe's"
    assert {options.batch_size for options in seen} == {2}
    assert [options.compile for options in seen[:2]] == [False, False], "components, eager"
    assert seen[2].compile, "as it is"
    assert result["advice"][0]["setting"] == "engine.compile: false"
    assert kept == [True]


def test_settings_of_the_recipe_that_fail_are_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def step(self: Step, *given: Any) -> Any:
        if self.options.compile:
            raise RuntimeError("no compiler")
        return whole(self, *given)

    whole = Step.__call__
    monkeypatch.setattr(Step, "__call__", step)
    said = r"^the recipe's engine settings do not work here: RuntimeError: no compiler; change .*$"
    with pytest.raises(MtzooError, match=said):
        profile(tiny(tmp_path, compile=True), batch_size=1, repeats=1)


def test_only_changes_are_tried(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launch, "has_bf16", lambda _: True)
    options = EngineOptions(steps=1, batch_size=1)
    gpu = torch.device("cuda")  # where precision: auto is bf16
    plain = variants(options, gpu)
    assert list(plain) == [
        "engine.compile: true",
        "engine.precision: fp32",
        "engine.cuda_graph: true",
    ]
    assert plain["engine.cuda_graph: true"] == dataclasses.replace(options, cuda_graph=True)
    switched = dataclasses.replace(options, compile=True, cuda_graph=True, precision="fp32")
    assert list(variants(switched, gpu)) == [
        "engine.compile: false",
        "engine.precision: bf16",
        "engine.cuda_graph: false",
    ]


def test_bf16_is_not_tried_where_it_would_be_imitated(monkeypatch: pytest.MonkeyPatch):
    options = EngineOptions(steps=1, batch_size=1)
    for has in (True, False):
        monkeypatch.setattr(launch, "has_bf16", lambda _, has=has: has)
        tried = variants(options, torch.device("cpu"))
        assert ("engine.precision: bf16" in tried) == has


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--batch", "0"], "--batch must lie between 1 and 4096, not 0"),
        (["--repeats", "0"], "--repeats must lie between 1 and 4096"),
        (["--output", "{tmp}/tiny.yaml"], "tiny.yaml is a file; give a folder"),
        (["--output", "{tmp}"], "is there already; name another folder"),
        (["--output", "/proc/no"], "cannot write /proc/no"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY, encoding="utf-8")
    filled = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    assert main(["profile", "--recipe", str(recipe), *filled]) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert said.count("\n") == 1


def test_the_text_has_a_row_a_component_and_the_advice(tmp_path: Path):
    from mtzoo.cli.profile import text

    share = {"flops": 2_000_000_000, "operations": 7}
    part = {"parameters": 1234, "calls": 2, "forward": share, "backward": share, "kept": 2**20}
    part |= {"forward_seconds": 0.001, "backward_seconds": 0.0025}
    result = {
        "recipe": "r",
        "device": "cpu",
        "batch_size": 2,
        "frames": 16,
        "resolution": 64,
        "components": [{"name": "a", "share": 0.25, **part}, {"name": "b", "share": 0.75, **part}],
        "step": {
            "seconds": 0.5,
            "flops": 8_000_000_000,
            "operations": 28,
            "peak": 2**21,
            "floor_seconds": 0.25,
        },
        "advice": [{"setting": "s", "gain": 1.5, "difference": 1e-3, "worth": True}],
    }
    lines = text(result).splitlines()
    rows = [line for line in lines if line.startswith("|")][2:]
    assert rows == [
        "| b | 1,234 | 2 | 2.00 | 2.00 | 14 | 3.5 | 75.0 | 1.0 |",
        "| a | 1,234 | 2 | 2.00 | 2.00 | 14 | 3.5 | 25.0 | 1.0 |",
    ]
    assert "2.0 times what its arithmetic takes" in text(result)
    assert lines[-1] == "- s: 1.50 times as fast, losses within 1.0e-03: worth it"
