"""Several processes are one process with the same global batch, up to rounding."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import engine_fault
import pytest
import torch
from engine_kit import newest, tiny

from mtzoo.engine import fit, launch
from mtzoo.errors import MtzooError

TESTS = Path(__file__).resolve().parent

STEPS = 5  # L_M comes in at step 2, the discriminators at step 3


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    fit(tiny(folder, steps=STEPS, gradient_clip=1.0), folder / "run")
    return folder / "run"


def compare(run: Path, alone: Path) -> None:
    one, two = newest(alone), newest(run)
    assert one["step"] == two["step"] == STEPS
    begun = torch.load(alone / "checkpoints" / "step_00000000.ckpt", weights_only=True)
    for half in ("generators", "discriminators"):
        moved = 0
        for name, value in one[half].items():
            # Adam's first steps turn the rounding of a gradient near zero into whole steps of
            # some values; another batch would make the difference as large as the way.
            way = (value - begun[half][name]).float().norm().item()
            apart = (value - two[half][name]).float().norm().item()
            assert apart <= 0.15 * way, (name, apart, way)
            moved += way > 0
        assert moved > 5, f"the {half} have not learned"
    rows = []
    for folder in (alone, run):
        with (folder / "log.csv").open() as file:
            rows.append(list(csv.DictReader(file)))
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]] == ["2", "4", "5"]
    for first, second in zip(*rows, strict=True):
        for name, value in first.items():
            if value and name not in ("seconds", "generator/gradient_norm"):
                assert float(second[name]) == pytest.approx(float(value), rel=1e-3, abs=1e-5), name


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path, alone: Path, capfd: pytest.CaptureFixture[str]):
    recipe = tiny(tmp_path, steps=STEPS, gradient_clip=1.0, devices=2, workers=1)
    assert fit(recipe, tmp_path / "run")["step"] == STEPS
    compare(tmp_path / "run", alone)
    said = capfd.readouterr()
    assert said.out.count("weights: ") == 1  # only rank 0 speaks
    assert "distributed" not in said.out + said.err


@pytest.mark.slow
def test_batch_norm_is_that_of_the_global_batch(tmp_path: Path):
    common = {"norm": "batch", "steps": STEPS, "gradient_clip": 1.0}
    fit(tiny(tmp_path, **common), tmp_path / "one")
    fit(tiny(tmp_path, devices=2, **common), tmp_path / "two")
    compare(tmp_path / "two", tmp_path / "one")
    one, two = (newest(tmp_path / run)["generators"] for run in ("one", "two"))
    names = [name for name in one if "running" in name]
    assert len(names) > 10
    for name in names:  # those of the average's weights differ as these do
        torch.testing.assert_close(two[name], one[name], rtol=0.01, atol=0.01)


@pytest.mark.slow
@pytest.mark.gpu
def test_two_gpus_are_one(tmp_path: Path):
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two NVIDIA GPUs for NCCL and torch finds {torch.cuda.device_count()}")
    common = {"norm": "batch", "steps": STEPS, "gradient_clip": 1.0, "accelerator": "cuda"}
    common["precision"] = "fp32"
    fit(tiny(tmp_path, **common), tmp_path / "one")
    fit(tiny(tmp_path, devices=2, **common), tmp_path / "two")
    compare(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_torchrun_starts_the_processes(tmp_path: Path, alone: Path):
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(TESTS)!r})\n"
        "from pathlib import Path\nfrom engine_kit import probe, tiny\n"
        "from mtzoo.engine import fit\n"
        f"here = Path({str(tmp_path)!r})\n"
        f"result = fit(tiny(here, steps={STEPS}, gradient_clip=1.0), here / 'run')\n"
        f"assert result['step'] == {STEPS}\n"
        "probe(here / 'report.json')\n",
        encoding="utf-8",
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", str(script)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("weights: ") == 1
    compare(tmp_path / "run", alone)
    assert json.loads((tmp_path / "report.json").read_text()) == {
        "average": [[[0.5, 0.5], [0.5, 0.5]], [1.0]],
        "alike": True,
        "not alike": False,
        "agreed": 143,
        "bad": "Bad(name='g/kl', value=nan, step=5)",
    }


@pytest.mark.slow
def test_sigterm_stops_all_processes_between_steps(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"

    def send() -> None:
        deadline = time.monotonic() + 240
        while not (run / "log.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send, daemon=True).start()
    with pytest.raises(SystemExit) as stopped:
        fit(tiny(tmp_path, steps=100_000, devices=2), run)
    assert stopped.value.code == 143
    step = newest(run)["step"]
    assert step >= 2
    assert f"stopped after step {step} of 100000" in capfd.readouterr().out


def test_a_fault_in_a_process_is_one_line_here():
    class Spawning:
        def launch(self, function: object) -> None:
            torch.multiprocessing.spawn(engine_fault.raise_fault, nprocs=1)

    with pytest.raises(MtzooError, match=r"^clip 7 is damaged; copy it again$"):
        launch.spawn(Spawning(), print)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(MtzooError, match=r"batch_size: 4 cannot be shared equally"):
        tiny(tmp_path, devices=3)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(MtzooError, match=r"cannot be shared equally by 3 processes"):
        launch.fabric(tiny(tmp_path).engine)
