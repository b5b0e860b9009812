"""The engine: what a run writes, refuses, shows; and that looking at a run does not change it."""

from __future__ import annotations

import csv
import io
import json
import math
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_kit import differences, newest, tiny
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

import mtzoo.engine.loop
from mtzoo.components.motion_encoders.trajectories import TrajectoryMotionEncoder
from mtzoo.data.datasets.shapes import Shapes
from mtzoo.engine import fit, launch
from mtzoo.engine.average import Average
from mtzoo.engine.evaluate import evaluate, psnr, score
from mtzoo.engine.health import diagnose, subject
from mtzoo.engine.loader import Mover, Steps, batches, check_items, to_batch
from mtzoo.engine.logs import Board, CsvLog, Terminal
from mtzoo.engine.options import EngineOptions
from mtzoo.engine.pending import Pending
from mtzoo.engine.schedule import scale
from mtzoo.engine.step import compile_parts
from mtzoo.errors import MtzooError
from mtzoo.interfaces import Model, Phase, as_video
from mtzoo.nn.norm import spectral
from mtzoo.objectives.dual_mtgan import DualMTGANObjective
from mtzoo.recipe import load_recipe
from mtzoo.weights import load_model

CPU = torch.device("cpu")


def test_recipes_are_checked_without_torch():
    code = "import sys, mtzoo.engine, mtzoo.engine.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = mtzoo.engine.train


# A run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    options = {"log_every": 2, "health_every": 3, "sample_every": 3, "evaluate_every": 3}
    recipe = tiny(folder, steps=6, checkpoint_every=2, ema_decay=0.5, **options)
    recipe.model["content_encoder"]["norm"] = "batch"  # has statistics that looking might touch
    fit(recipe, folder / "run")
    return folder / "run"


def test_the_run_folder_is_complete(run: Path, tmp_path: Path):
    recipe = load_recipe(run / "recipe.yaml")
    assert (recipe.name, recipe.engine.steps, recipe.seed) == ("tiny", 6, 3)
    versions = json.loads((run / "versions.json").read_text())
    assert versions["torch"] == torch.__version__
    assert {"mtzoo", "python", "lightning", "numpy", "device"} <= versions.keys()
    assert list((run / "tensorboard").glob("events.*"))
    for step in (3, 6):
        assert (run / "samples" / f"step_{step:08d}.mp4").stat().st_size > 500
        with Image.open(run / "samples" / f"step_{step:08d}.png") as sheet:
            # Three pairs of seven rows, eight frames of 32 pixels shown at 64.
            assert sheet.width > 8 * 64
            assert sheet.height > 3 * 7 * 64
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {"step_00000004.ckpt", "step_00000006.ckpt", "best.ckpt"}
    result = json.loads((run / "result.json").read_text())
    assert result["step"] == 6
    assert result["best"]["step"] in (3, 6)
    assert {"transfer_psnr", "copy_psnr", "source_psnr"} <= result["after"].keys()
    assert result["before"]["copy_psnr"] == result["after"]["copy_psnr"]
    assert result["before"]["transfer_psnr"] != result["after"]["transfer_psnr"]


def test_the_log_has_a_row_for_whatever_happened(run: Path):
    with (run / "log.csv").open() as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    assert sorted(rows) == [2, 3, 4, 6]
    assert float(rows[2]["generator/reconstruction"]) > 0
    assert rows[2]["generator/motion"] == ""  # motion_start 2: steps 0 and 1 have none
    assert float(rows[4]["generator/motion"]) > 0
    assert rows[2]["discriminator/loss"] == ""
    assert float(rows[6]["discriminator/real_video"]) > 0
    assert float(rows[3]["health/motion_sigma"]) > 0
    assert float(rows[6]["evaluation/transfer_psnr"]) > 5
    assert rows[4]["evaluation/transfer_psnr"] == ""
    assert float(rows[6]["lr"]) == 2e-4


def test_saved_weights_are_the_averaged_ones(run: Path):
    state = newest(run)
    model = load_model(run)
    for name, value in model.generators().state_dict().items():
        assert torch.equal(value, state["average"][name])
    name = "image_generator." + next(
        n for n, _ in model.image_generator.named_parameters() if n.endswith("weight")
    )
    assert not torch.equal(state["average"][name], state["generators"][name])
    config = json.loads((run / "model" / "config.json").read_text())
    assert (config["step"], config["frames"], config["data"]) == (6, 8, "shapes")


def test_looking_at_a_run_does_not_change_it(run: Path, tmp_path: Path):
    recipe = tiny(tmp_path, steps=6, ema_decay=0.5, log_every=2)
    recipe.model["content_encoder"]["norm"] = "batch"
    fit(recipe, tmp_path / "run")
    quiet, looked_at = newest(tmp_path / "run"), newest(run)
    for state in (quiet, looked_at):
        for shown in ("health", "best", "losses", "unwell", "since"):
            del state[shown]
    assert differences(quiet, looked_at) == []


def test_a_folder_that_holds_a_run_is_refused(run: Path, tmp_path: Path):
    before = sorted(run.rglob("*"))
    with pytest.raises(MtzooError, match=r"holds a run already .* go on with it by --resume"):
        fit(tiny(tmp_path), run)
    assert sorted(run.rglob("*")) == before
    (tmp_path / "file").touch()
    with pytest.raises(MtzooError, match="is a file"):
        fit(tiny(tmp_path), tmp_path / "file")


def test_the_options_that_change_the_arithmetic_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(launch, "has_bf16", lambda _: False)
    compiled: list[str] = []
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **_: compiled.append(type(self).__name__)
    )
    recipe = tiny(
        tmp_path,
        steps=2,
        precision="bf16",
        gradient_clip=0.1,
        ema_decay=0,
        compile=True,
        schedule="linear",
        discriminator_learning_rate=1e-3,
        betas="[0.0, 0.9]",
    )
    result = fit(recipe, tmp_path / "run")
    assert "warning: this CPU has no instructions for bfloat16" in capsys.readouterr().out
    assert result["losses"]["generator/gradient_norm"] > 0.1
    assert len(compiled) == 5  # all six networks but the LSTM
    state = newest(tmp_path / "run")
    assert state["average"] is None
    assert {value.dtype for value in state["generators"].values()} == {torch.float32}
    group = state["optimizers"]["generators"]["param_groups"][0]
    assert (group["lr"], group["betas"]) == (1e-4, (0.0, 0.9))
    loaded = load_model(tmp_path / "run").generators().state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in state["generators"].items())


# Faults before the first step ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 48}, "resolution 48 is not supported"),
        ({"frames": 2}, "2 frames is too short"),
        ({"size": 0}, "size 0"),
    ],
)
def test_nothing_is_made_when_the_recipe_cannot_work(
    tmp_path: Path, change: dict[str, object], message: str
):
    recipe = tiny(tmp_path)
    recipe.data.update(change)
    with pytest.raises(MtzooError, match=message):
        fit(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "engine", "message"),
    [
        ({"content_frames": "other"}, {}, "objective: model.content_frames: .*target_identity"),
        ({"content_frames": "either"}, {}, "objective: model.content_frames: .*target_identity"),
        ({"mean_spread": 1.0}, {"batch_size": 1}, "engine.batch_size: a batch of 1"),
    ],
)
def test_nothing_is_made_when_its_parts_do_not_go_together(
    tmp_path: Path, change: dict[str, object], engine: dict[str, object], message: str
):
    """Whoever calls, also without the check that the verb makes first."""
    recipe = tiny(tmp_path, **engine)
    for name, value in change.items():
        section = recipe.model if name in recipe.model else recipe.model["motion_encoder"]
        section[name] = value  # type: ignore[index]
    with pytest.raises(MtzooError, match=message):
        fit(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_pair_that_cannot_be_loaded_is_named_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    break_data(monkeypatch, at=0)
    with pytest.raises(MtzooError, match=r"^clip 0 is damaged$"):
        fit(tiny(tmp_path, workers=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def break_data(
    monkeypatch: pytest.MonkeyPatch, at: int, kind: type[Exception] = MtzooError
) -> None:
    original = Shapes.__getitems__

    def broken(self: Shapes, positions: list[int]) -> object:
        if self.split == "train" and at in positions:
            raise kind(f"clip {at} is damaged")
        return original(self, positions)

    monkeypatch.setattr(Shapes, "__getitems__", broken)


def test_devices_that_are_not_there_are_refused(tmp_path: Path):
    if not torch.cuda.is_available():
        with pytest.raises(MtzooError, match="torch finds no NVIDIA GPU"):
            fit(tiny(tmp_path, accelerator="cuda"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Faults in the middle ------------------------------------------------------------------------


def test_a_loader_process_passes_the_fault_on_as_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    break_data(monkeypatch, at=9)
    with pytest.raises(MtzooError, match=r"^clip 9 is damaged$"):
        fit(tiny(tmp_path, workers=1), tmp_path / "run")
    assert newest(tmp_path / "run")["step"] == 0


def test_a_defect_of_a_dataset_keeps_its_traceback_and_leaves_no_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    break_data(monkeypatch, at=9, kind=ZeroDivisionError)
    with pytest.raises(ZeroDivisionError, match="in broken"):
        fit(tiny(tmp_path, workers=1), tmp_path / "run")
    assert multiprocessing.active_children() == []


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = DualMTGANObjective.loss

    def poisoned(self: Any, phase: Phase, *rest: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss, terms = original(self, phase, *rest)
        if rest[-1] == 2 and phase.name == "generator":
            terms = {**terms, "kl": terms["kl"] * math.nan}
            loss = loss * math.nan
        return loss, terms

    monkeypatch.setattr(DualMTGANObjective, "loss", poisoned)
    run = tmp_path / "run"
    with pytest.raises(MtzooError, match=r"^generator/kl became nan in step 2; ") as raised:
        fit(tiny(tmp_path, steps=8, log_every=4), run)
    assert "\n" not in str(raised.value)
    assert torch.load(run / "checkpoints" / "failed_step_00000004.ckpt", weights_only=True)
    assert newest(run)["step"] == 0  # not what --resume takes
    monkeypatch.undo()
    assert fit(tiny(tmp_path, steps=4), run, resume=True)["step"] == 4


# Phases --------------------------------------------------------------------------------------


def test_only_the_half_that_learns_has_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[str, bool, bool]] = []
    original_loss, original_forward = DualMTGANObjective.loss, DualMTGANObjective.forward

    def learning(module: nn.Module) -> bool:
        flags = {parameter.requires_grad for parameter in module.parameters()}
        assert len(flags) == 1, "half of a half learns"
        return flags.pop()

    def note(name: str, model: Any) -> None:
        seen.append((name, learning(model.generators()), learning(model.discriminators())))

    def loss(self: Any, phase: Phase, model: Any, *rest: Any) -> Any:
        note(phase.name, model)
        return original_loss(self, phase, model, *rest)

    def forward(self: Any, model: Any, *rest: Any) -> Any:
        note("forward", model)
        return original_forward(self, model, *rest)

    monkeypatch.setattr(DualMTGANObjective, "loss", loss)
    monkeypatch.setattr(DualMTGANObjective, "forward", forward)
    monkeypatch.setattr(
        DualMTGANObjective,
        "phases",
        lambda self: (
            Phase("discriminator", "discriminators", every=2, start=1),
            Phase("generator", "generators"),
        ),
    )
    recipe = tiny(tmp_path, steps=3)
    recipe.objective["adversarial_start"] = 0
    fit(recipe, tmp_path / "run")
    forward_, judge = ("forward", True, False), ("discriminator", False, True)
    generator = ("generator", True, False)
    assert seen == [forward_, generator, forward_, generator, forward_, judge, generator]


def test_frozen_parts_stay_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = mtzoo.engine.loop.build_model

    def frozen(*arguments: Any, **options: Any) -> Any:
        model = original(*arguments, **options)
        model.content_encoder.requires_grad_(False)
        return model

    monkeypatch.setattr(mtzoo.engine.loop, "build_model", frozen)
    fit(tiny(tmp_path, steps=2), tmp_path / "run")
    first = torch.load(tmp_path / "run" / "checkpoints" / "step_00000000.ckpt", weights_only=True)
    last = newest(tmp_path / "run")["generators"]
    moved = {k.split(".")[0] for k, v in last.items() if not torch.equal(v, first["generators"][k])}
    assert moved == {"motion_encoder", "motion_generator", "image_generator"}


# Data by step --------------------------------------------------------------------------------


def test_a_step_is_made_of_the_same_pairs_whoever_loads_it():
    pairs = Shapes(split="train", seed=1, resolution=32, frames=4)
    alone = list(batches(Steps(pairs, 4), 1, 4, workers=0, pin=False))
    several = list(batches(Steps(pairs, 4), 1, 4, workers=2, pin=False))
    half = list(batches(Steps(pairs, 4, 2, 2), 1, 4, workers=0, pin=False))
    assert len(alone) == 3
    for one, two, part in zip(alone, several, half, strict=True):
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert all(torch.equal(one[key][2:], part[key]) for key in one)
    assert torch.equal(alone[0]["video"][1], pairs[5]["video"])


def test_a_batch_is_floats_and_its_target_a_frame_of_the_target_video():
    pairs = Shapes(split="train", seed=1, resolution=32, frames=4)
    items = Steps(pairs, 3)[0]
    batch = to_batch(items, CPU)
    assert batch.video.shape == (3, 4, 3, 32, 32)
    assert batch.video.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    assert batch.target.is_contiguous(memory_format=torch.channels_last)
    assert -1 <= batch.video.min() < 0 < batch.video.max() <= 1
    for row, index in enumerate(items["target_index"].tolist()):
        assert torch.equal(batch.target[row], batch.target_video[row, index])
        assert torch.equal(batch.target[row], as_video(items["target_video"])[row, index])


@pytest.mark.slow
def test_a_compiled_part_draws_what_it_draws_uncompiled():
    torch.manual_seed(0)
    encoder = TrajectoryMotionEncoder(32, 3, tracks=4, terms=4, width=4, turn_colours=True).train()
    video = torch.rand(2, 8, 3, 32, 32) * 2 - 1

    def code(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return encoder(video).mean.detach()

    expected, other = code(1), code(2)
    assert (expected - other).abs().max() > 0.1
    compile_parts(nn.ModuleList([encoder]))
    torch.testing.assert_close(code(1), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(code(2), other, rtol=1e-3, atol=1e-4)


def test_a_board_that_cannot_be_written_is_named():
    with pytest.raises(MtzooError, match=r"^cannot write /proc/board: "):
        Board(Path("/proc/board"))


@pytest.mark.gpu
def test_a_batch_moved_beside_other_work_is_the_same():
    gpu = torch.device("cuda")
    move, steps = Mover(gpu), Steps(Shapes(split="train", seed=1, resolution=32, frames=4), 3)
    moved = []
    for step in range(6):
        pinned = {key: values.pin_memory() for key, values in steps[step].items()}
        busy = torch.randn(4096, 4096, device=gpu)
        moved.append([(busy @ busy).sum() * 0 + part for part in move(pinned)])
    for step, parts in enumerate(moved):
        for part, expected in zip(parts, to_batch(steps[step], gpu), strict=True):
            assert torch.equal(part, expected)


def test_a_dataset_is_held_to_its_promise():
    pairs = Shapes(split="train", seed=1, resolution=32, frames=4)
    items = Steps(pairs, 2)[0]
    check_items(items, pairs, "shapes")
    with pytest.raises(MtzooError, match=r"'video' is torch.uint8 \(3, 32, 32, 3\)"):
        check_items(items | {"video": items["video"][:, 1:]}, pairs, "shapes")
    with pytest.raises(MtzooError, match="'target_index' must be int64 in"):
        check_items(items | {"target_index": torch.tensor([0, 4])}, pairs, "shapes")


# Scores --------------------------------------------------------------------------------------


def test_psnr_by_hand():
    truth = torch.zeros(3, 2, 2, 2, 3, dtype=torch.uint8)
    made = truth.clone()
    made[1] = 255  # error 255 everywhere: 0 dB
    made[2, 0] = 51  # a fifth of the range on half of the values: 10 log10(50)
    assert psnr(made, truth).tolist() == pytest.approx([100.0, 0.0, 10 * math.log10(50)])


class Oracle(Model):
    """Knows the truth; rebuilds with an error of one level."""

    def __init__(self, pairs: Shapes) -> None:
        super().__init__()
        self.pairs = pairs
        self.at = 0
        self.modes: list[bool] = []

    def generators(self) -> nn.Module:
        return nn.Identity()

    def discriminators(self) -> nn.Module:
        return nn.Identity()

    def transfer(self, image: Tensor, video: Tensor) -> Tensor:
        self.modes.append(self.training)
        truth = [self.pairs[self.at + i]["truth"] for i in range(len(image))]
        self.at += len(image)
        return as_video(torch.stack(truth))

    def sample(self, image: Tensor, samples: int, frames: int, generator: Any = None) -> Tensor:
        raise NotImplementedError

    def reconstruct(self, video: Tensor) -> Tensor:
        return video + 1 / 127.5 * torch.where(video > 0, -1.0, 1.0)


def test_evaluation_knows_the_truth_and_what_copying_scores():
    pairs = Shapes(split="test", seed=1, resolution=32, frames=4, size=5)
    oracle = Oracle(pairs).train()
    figures = evaluate(oracle, pairs, 64, batch_size=2, device=CPU)
    assert oracle.at == 5, "the split has five pairs"
    assert oracle.training
    assert not any(oracle.modes)
    assert figures["transfer_psnr"] == 100.0
    assert figures["reconstruction_psnr"] == pytest.approx(20 * math.log10(255))
    assert figures["reconstruction_l1"] == pytest.approx(1 / 255)
    items = [pairs[i] for i in range(5)]
    copied = [
        psnr(
            item["target_video"][item["target_index"]].expand_as(item["truth"])[None],
            item["truth"][None],
        ).item()
        for item in items
    ]
    assert figures["copy_psnr"] == pytest.approx(sum(copied) / 5)
    source = [psnr(item["video"][None], item["truth"][None]).item() for item in items]
    assert figures["source_psnr"] == pytest.approx(sum(source) / 5)
    assert score(figures) == 100.0

    pairs.has_truth = False
    figures = evaluate(Oracle(pairs), pairs, 3, batch_size=2, device=CPU)
    assert set(figures) == {"reconstruction_psnr", "reconstruction_l1", "still_psnr"}
    assert score(figures) == figures["reconstruction_psnr"]


# Health --------------------------------------------------------------------------------------

WELL = {
    "active_motion_dims": 12.0,
    "motion_spread": 0.9,
    "motion_sigma": 0.7,
    "content_between": 0.8,
    "content_within": 0.05,
    "content_size": 1.0,
    "motion_bits": 9.0,
    "frame_change": 0.6,
    "sample_spread": 0.1,
    "discriminator/real_video": 0.7,
    "discriminator/fake_video": 0.3,
    "discriminator/real_image": 0.6,
    "discriminator/fake_image": 0.4,
    "discriminator/image": 2.5,
    "discriminator/video": 2.5,
}


@pytest.mark.parametrize(
    ("change", "about"),
    [
        ({}, []),
        (
            {"motion_spread": 0.007, "motion_sigma": 0.022, "active_motion_dims": 0.0},
            ["motion code"],
        ),
        ({"motion_spread": 0.08, "motion_sigma": 1.0}, ["motion code"]),
        ({"active_motion_dims": 1.0}, ["motion code"]),
        ({"motion_bits": 0.9}, ["motion code"]),
        ({"content_between": 0.04, "content_within": 0.001}, ["content codes"]),
        ({"content_between": 0.04, "content_within": 0.001, "content_size": 0.5}, []),
        ({"content_between": 0.008, "content_size": 0.009}, ["content codes"]),
        ({"content_between": 0.2, "content_within": 0.3}, ["content codes"]),
        (
            {"discriminator/real_video": 0.995, "discriminator/fake_video": 0.004},
            ["video discriminator"],
        ),
        (
            {"discriminator/real_image": 0.995, "discriminator/fake_image": 0.004},
            ["image discriminator"],
        ),
        ({"discriminator/real_image": 0.995}, []),
        ({"discriminator/video": 0.04}, ["video discriminator"]),
        ({"generator/video": 0.04}, []),
        ({"sample_spread": 0.001}, ["samples"]),
        ({"frame_change": 0.01}, ["frames"]),
        ({"sample_spread": 0.001, "motion_bits": 0.1}, ["motion code", "samples"]),
    ],
)
def test_each_way_to_die_is_said_in_words(change: dict[str, float], about: list[str]):
    assert [subject(finding) for finding in diagnose(WELL | change)] == about
    assert diagnose({}) == []


def test_a_finding_is_said_once_and_its_end_too():
    out = io.StringIO()
    terminal = Terminal(10, console=Console(file=out, width=300))
    for step, spread in ((1, 0.001), (2, 0.002), (3, 0.2)):
        terminal.health(step, diagnose(WELL | {"sample_spread": spread}))
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("step 1: warning: samples: alike")
    assert lines[1:] == ["step 3: samples: recovered"]


# Showing -------------------------------------------------------------------------------------


def test_away_from_a_terminal_a_line_now_and_then():
    out = io.StringIO()
    terminal = Terminal(4, console=Console(file=out, width=200), every=1000)
    for done in range(1, 5):
        terminal.step(done)
        terminal.figures(done, {"generator": 1.5})
    lines = out.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/4", "4/4"]
    assert "generator 1.5" in lines[0]


def test_on_a_terminal_a_bar():
    out = io.StringIO()
    terminal = Terminal(
        4, console=Console(file=out, width=100, force_terminal=True, highlight=False)
    )
    terminal.step(2)
    terminal.figures(2, {"generator": 1.5})
    terminal.say("hello [x]")
    terminal.close()
    assert "2/4" in out.getvalue()
    assert "generator 1.5" in out.getvalue()
    assert "hello [x]" in out.getvalue()


def test_the_log_grows_to_the_right_and_forgets_what_was_lost(tmp_path: Path):
    path = tmp_path / "log.csv"
    log = CsvLog(path)
    log.write({"step": 1, "loss": 0.5})
    log.write({"step": 2, "loss": 0.25, "late": 3.0})
    log.write({"step": 3, "later": 1.0})
    assert path.read_text().splitlines() == [
        "step,loss,late,later",
        "1,0.5,,",
        "2,0.25,3,",
        "3,,,1",
    ]
    with path.open("a") as file:
        file.write("4,0.12")  # killed while writing
    log = CsvLog(path, keep=2)
    assert path.read_text().splitlines() == ["step,loss,late", "1,0.5,", "2,0.25,3"]
    log.write({"step": 3, "loss": 0.125})
    assert path.read_text().splitlines()[-1] == "3,0.125,"
    log.write({"step": 4, "warnings": "samples; frames"})
    assert path.read_text().splitlines()[-1] == "4,,,samples; frames"


def test_pending_figures_are_means_and_survive_a_checkpoint():
    pending = Pending()
    pending.add("g", 0, {"loss": torch.tensor(1.0), "kl": torch.tensor(4.0)})
    pending.add("g", 1, {"loss": torch.tensor(3.0)})
    assert pending.fetch() is None
    again = Pending()
    again.restore(pending.state())
    again.add("g", 2, {"loss": torch.tensor(5.0)})
    assert again.fetch() is None
    assert again.take() == {"g/loss": 3.0, "g/kl": 4.0}
    again.add("d", 3, {"loss": torch.tensor(math.nan), "real": torch.tensor(math.inf)})
    again.add("g", 3, {"loss": torch.tensor(math.nan)})
    bad = again.fetch()
    assert bad is not None
    assert (bad.name, bad.value, bad.step) == ("d/real", math.inf, 3)


# Learning rates and averages -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447]),
    ],
)
def test_schedules_by_hand(schedule: Any, expected: list[float]):
    options = EngineOptions(steps=6, batch_size=1, warmup_steps=2, schedule=schedule)
    assert [scale(options, step) for step in range(6)] == pytest.approx(expected, abs=1e-6)


class One(Oracle):
    """A single weight and a buffer."""

    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self.layer = nn.BatchNorm1d(1)

    def generators(self) -> nn.Module:
        return self.layer


def test_the_average_by_hand():
    model = One()
    average = Average(model, 0.5)
    values: Callable[[], float] = lambda: average.model.layer.weight.item()  # noqa: E731
    with torch.no_grad():
        model.layer.weight.fill_(2.0)
        model.layer.num_batches_tracked.fill_(7)
        model.layer.running_mean.fill_(3.0)
    average.update(0)  # decay (1 + 0) / (10 + 0)
    assert values() == pytest.approx(0.1 * 1.0 + 0.9 * 2.0)
    average.update(100)  # decay 0.5
    assert values() == pytest.approx(0.5 * 1.9 + 0.5 * 2.0)
    assert average.model.layer.num_batches_tracked == 7
    # running statistics follow their weights: 0 -> 0.9 * 3 -> halfway to 3
    assert average.model.layer.running_mean.item() == pytest.approx((2.7 + 3.0) / 2)
    assert not average.model.training
    assert model.layer.weight.item() == 2.0


def test_vectors_of_spectral_norm_are_copied_and_not_averaged():
    torch.manual_seed(0)
    model = One()
    model.layer = spectral(nn.Conv2d(3, 4, 3), True)
    average = Average(model, 0.9)
    for step in range(100, 110):
        with torch.no_grad():
            model.layer.parametrizations.weight.original.normal_()
        for _ in range(20):
            model.layer.weight  # noqa: B018  # a power iteration
        average.update(step)
    kept, new = (part.layer.parametrizations.weight[0] for part in (average.model, model))
    assert torch.equal(kept._u, new._u)
    assert torch.equal(kept._v, new._v)
    assert kept._u.data_ptr() != new._u.data_ptr()
    weights = [part.layer.parametrizations.weight.original for part in (average.model, model)]
    assert not torch.equal(*weights)
