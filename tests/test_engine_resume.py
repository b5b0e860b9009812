"""Killed, stopped, damaged, resumed: the run goes on as if nothing had happened."""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from engine_kit import differences, newest, tiny
from http_kit import Server

from mtzoo.cli import main
from mtzoo.data.datasets.shapes import Shapes
from mtzoo.data.writer import StoreWriter
from mtzoo.engine import checkpoint, fit
from mtzoo.engine.loop import _refreshed
from mtzoo.engine.signals import StopFlag
from mtzoo.errors import MtzooError

TESTS = Path(__file__).resolve().parent


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty steps in one go."""
    folder = tmp_path_factory.mktemp("whole")
    fit(
        tiny(folder, steps=20, checkpoint_every=4, log_every=3, health_every=4, evaluate_every=10),
        folder / "run",
    )
    return folder / "run"


def test_eight_and_twelve_steps_are_twenty_to_the_bit(tmp_path: Path, whole: Path):
    options = {"checkpoint_every": 4, "log_every": 3, "health_every": 4, "evaluate_every": 10}
    run = tmp_path / "run"
    # One loader process first, none afterwards: who loads must not matter either.
    signal_at(tmp_path, run, 8, signal.SIGTERM, workers=0, steps=20, **options)
    assert newest(run)["step"] == 8
    fit(tiny(tmp_path, steps=20, workers=1, **options), run, resume=True)
    assert newest(run)["step"] == newest(whole)["step"] == 20
    assert differences(newest(run), newest(whole)) == []
    assert rows(run) == rows(whole)
    assert [int(row["step"]) for row in rows(run)] == [3, 4, 6, 8, 9, 10, 12, 15, 16, 18, 20]


def signal_at(folder: Path, run: Path, step: int, number: int, **options: object) -> int:
    """Fit until a signal arrives while ``step`` (from 1) is being trained; give the status."""
    recipe = tiny(folder, **options)
    original = Shapes.__getitems__

    def hooked(self: Shapes, positions: list[int]) -> object:
        # The loader is one step ahead of nothing with workers=0.
        if self.split == "train" and positions[0] == (step - 1) * recipe.engine.batch_size:
            os.kill(os.getpid(), number)
        return original(self, positions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shapes, "__getitems__", hooked)
        with pytest.raises(SystemExit) as stopped:
            fit(recipe, run)
    return stopped.value.code


def test_ctrl_c_leaves_a_whole_checkpoint_and_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    assert signal_at(tmp_path, run, 3, signal.SIGINT, steps=5) == 130
    assert newest(run)["step"] == 3
    assert f"stopped after step 3 of 5; go on with --resume {run}" in capsys.readouterr().out
    assert (run / "model" / "model.safetensors").is_file()
    assert not (run / "result.json").exists()


def test_sigterm_leaves_with_143(tmp_path: Path):
    assert signal_at(tmp_path, tmp_path / "run", 2, signal.SIGTERM, steps=4) == 143
    assert newest(tmp_path / "run")["step"] == 2


def test_a_second_ctrl_c_interrupts_at_once(capfd: pytest.CaptureFixture[str]):
    before = signal.getsignal(signal.SIGINT)
    with StopFlag() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.code == 130
        assert "Ctrl-C again" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def killed(folder: Path, **options: object) -> Path:
    """A run of `tiny` in a process of its own, killed some time after its first checkpoint."""
    run = folder / "run"
    script = (
        "from pathlib import Path\nimport sys\n"
        f"sys.path.insert(0, {str(TESTS)!r})\n"
        "from engine_kit import tiny\nfrom mtzoo.engine import fit\n"
        f"here = Path({str(folder)!r})\n"
        f"fit(tiny(here, workers=1, checkpoint_every=1, **{options!r}), here / 'run')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    deadline = time.monotonic() + 120
    while not list((run / "checkpoints").glob("step_*.ckpt")):
        assert process.poll() is None, "the run ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(random.uniform(0.0, 2.0))
    process.kill()
    assert process.wait() in (-signal.SIGKILL, 0)
    return run


def test_kill_minus_nine_at_a_random_moment(tmp_path: Path, whole: Path):
    options = {"steps": 20, "log_every": 3, "health_every": 4, "evaluate_every": 10}
    run = killed(tmp_path, **options)
    for place in ("checkpoints", "samples", "."):  # where the kill may fall into a writing
        (run / place / ".half.png.0123456789ab.tmp").write_bytes(b"half")
    (run / ".model.0123456789ab.tmp").mkdir()
    (run / ".model.0123456789ab.tmp" / "model.safetensors").write_bytes(b"half")
    fit(tiny(tmp_path, checkpoint_every=4, **options), run, resume=True)
    assert differences(newest(run), newest(whole)) == []
    assert rows(run) == rows(whole)
    assert list(run.rglob("*.tmp")) == []


def test_kill_minus_nine_while_it_reads_from_a_server(tmp_path: Path):
    """Resumed by the command, it reads on where it was; the whole run is fed from the same."""
    generator = torch.Generator().manual_seed(0)
    root, kind = tmp_path / "store", {"source": "made", "resolution": 32, "fps": 5.0}
    with StoreWriter(root, **kind, split_by=("share",), shard_bytes=100_000) as writer:
        for i in range(9):
            frames = torch.randint(0, 256, (12, 32, 32, 3), dtype=torch.uint8, generator=generator)
            splits = {"share": [("test" if i < 3 else "train", 0, 12)]}
            origin = {"source": f"{i}.mp4", "source_range": (0, 12)}
            writer.add(str(i), frames, splits=splits, labels={}, **origin)
        writer.finish()
    assert len(list(root.glob("*.safetensors"))) > 1
    with Server(root, delay=0.02) as server:
        options = {"steps": 20, "log_every": 3, "store": server.url}
        fit(tiny(tmp_path, **options), tmp_path / "whole")
        run = killed(tmp_path, **options)
        before = newest(run)["step"]
        server.requests.clear()
        assert main(["fit", "--resume", str(run), "--engine.workers", "0"]) == 0
    assert server.requests or before == 20
    assert newest(run)["step"] == 20
    assert differences(newest(run), newest(tmp_path / "whole")) == []
    assert rows(run) == rows(tmp_path / "whole")


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "checkpoints"
    state = newest(whole)
    checkpoint.save(folder, checkpoint.step_name(4), state | {"step": 4})
    path = checkpoint.save(folder, checkpoint.step_name(8), state | {"step": 8})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF  # one byte among the weights: still a zip, still loadable
    path.write_bytes(data)
    said: list[str] = []
    found, loaded = checkpoint.load_newest(folder, said.append)
    assert (found.name, loaded["step"]) == ("step_00000004.ckpt", 4)
    assert len(said) == 1
    assert "step_00000008.ckpt cannot be read" in said[0]

    path.write_bytes(bytes(data[: len(data) // 3]))
    (folder / "step_00000004.ckpt").write_bytes(b"")
    with pytest.raises(MtzooError, match=r"step_00000004\.ckpt cannot be read"):
        checkpoint.load_newest(folder, said.append)


def test_no_code_is_unpickled(tmp_path: Path):
    torch.save({"format": 1, "step": Path("x")}, tmp_path / "step_00000001.ckpt")
    with pytest.raises(MtzooError, match="cannot be read"):
        checkpoint.load(tmp_path / "step_00000001.ckpt")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (
            RuntimeError("unexpected pos 9 vs 6\nmore"),
            r"\(unexpected pos 9 vs 6\); make room",
        ),
    ],
)
def test_a_full_disk_leaves_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
):
    old = checkpoint.save(tmp_path, checkpoint.step_name(1), {"step": 1})

    def full(state: object, file: object) -> None:
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(MtzooError, match=said):
        checkpoint.save(tmp_path, checkpoint.step_name(1), {"step": 2})
    monkeypatch.undo()
    assert checkpoint.load(old)["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == [old.name]


def test_the_last_few_and_the_best_stay(tmp_path: Path):
    for step in range(1, 6):
        checkpoint.save(tmp_path, checkpoint.step_name(step), {"step": step})
        if step in (2, 3):
            checkpoint.mark_best(tmp_path, checkpoint.step_name(step))
            checkpoint.mark_best(tmp_path, checkpoint.step_name(step))  # twice does no harm
        checkpoint.prune(tmp_path, 2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best.ckpt", "step_00000004.ckpt", "step_00000005.ckpt"]
    assert checkpoint.load(tmp_path / "best.ckpt")["step"] == 3


def test_the_best_resumes_where_nothing_else_is_left(tmp_path: Path):
    checkpoint.save(tmp_path, checkpoint.step_name(2), {"step": 2})
    checkpoint.mark_best(tmp_path, checkpoint.step_name(2))
    (tmp_path / checkpoint.step_name(2)).unlink()
    assert checkpoint.load_newest(tmp_path, print)[1]["step"] == 2


def test_what_cannot_be_resumed_says_so(tmp_path: Path, whole: Path):
    with pytest.raises(MtzooError, match="nothing to resume: there is no folder"):
        fit(tiny(tmp_path), tmp_path / "nowhere", resume=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MtzooError, match=r"empty holds no checkpoint; start a run in a new"):
        fit(tiny(tmp_path), tmp_path / "empty", resume=True)
    with pytest.raises(MtzooError, match=r"has 20 steps behind it already; engine.steps is 10"):
        fit(tiny(tmp_path, steps=10), whole, resume=True)
    with pytest.raises(MtzooError, match=r"engine.batch_size: .* has 4, the recipe 2"):
        fit(tiny(tmp_path, steps=20, batch_size=2), whole, resume=True)
    other = tiny(tmp_path, steps=20)
    other.model["image_generator"]["width"] = 6
    with pytest.raises(MtzooError, match=r"model.image_generator.width: .* has 4, the recipe 6"):
        fit(other, whole, resume=True)


def test_a_recipe_older_than_an_option_is_read_with_its_default(tmp_path: Path):
    text = tiny(tmp_path).to_yaml()
    line = next(row for row in text.splitlines() if "motion_ramp" in row)
    older = text.replace(line + "\n", "")
    assert older != text
    assert _refreshed(older) == text
    assert _refreshed("objective: {gone: 1}") == "objective: {gone: 1}"


def test_resuming_a_finished_run_only_looks_at_it_again(tmp_path: Path, whole: Path):
    result = json.loads((whole / "result.json").read_text())
    (whole / "result.json").unlink()
    (whole / "checkpoints" / ".step_00000024.ckpt.abc.tmp").write_bytes(b"half a checkpoint")
    again = fit(tiny(tmp_path, steps=20), whole, resume=True)
    assert again["after"] == pytest.approx(result["after"])
    assert again["before"] == result["before"]
    assert json.loads((whole / "result.json").read_text())["step"] == 20
    assert list(whole.rglob("*.tmp")) == []
