"""Several processes are one process with the same global batch, up to rounding."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import engine_kit
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
        moved = 0.0
        for name, value in one[half].items():
            # Adam turns rounding of a tiny gradient into a part of a step of 2e-4; five steps
            # with another batch would differ by up to 1e-3.
            torch.testing.assert_close(two[half][name], value, rtol=1e-4, atol=1e-4, msg=name)
            moved = max(moved, (value - begun[half][name]).abs().max().item())
        assert moved > 3e-4, f"the {half} have not learned"
    rows = []
    for folder in (alone, run):
        with (folder / "log.csv").open() as file:
            rows.append(list(csv.DictReader(file)))
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]] == ["2", "4", "5"]
    for first, second in zip(*rows, strict=True):
        for name, value in first.items():
            if value and name != "seconds":
                assert float(second[name]) == pytest.approx(float(value), rel=2e-3, abs=1e-4), name


def test_two_processes_are_one(tmp_path: Path, alone: Path):
    result = fit(
        tiny(tmp_path, steps=STEPS, gradient_clip=1.0, devices=2, workers=1), tmp_path / "run"
    )
    assert result["step"] == STEPS
    compare(tmp_path / "run", alone)


def test_torchrun_starts_the_processes(tmp_path: Path, alone: Path):
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(TESTS)!r})\n"
        "from pathlib import Path\nfrom engine_kit import tiny\nfrom mtzoo.engine import fit\n"
        f"here = Path({str(tmp_path)!r})\n"
        f"result = fit(tiny(here, steps={STEPS}, gradient_clip=1.0), here / 'run')\n"
        f"assert result['step'] == {STEPS}\n",
        encoding="utf-8",
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", str(script)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("weights: ") == 1  # only rank 0 speaks
    compare(tmp_path / "run", alone)


def test_processes_average_compare_agree_and_pass_on_a_fault(tmp_path: Path):
    fabric = launch.fabric(tiny(tmp_path, devices=2).engine)
    with pytest.raises(MtzooError, match=r"^clip 7 is damaged; copy it again$"):
        launch.spawn(fabric, engine_kit.probe, tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text())
    assert found == {
        "average": [[[0.5, 0.5], [0.5, 0.5]], [1.0]],
        "alike": True,
        "not alike": False,
        "agreed": 143,
        "bad": "Bad(name='g/kl', value=nan, step=5)",
    }


def test_sigterm_stops_all_processes_between_steps(tmp_path: Path):
    script = (
        f"import sys\nsys.path.insert(0, {str(TESTS)!r})\n"
        "from pathlib import Path\nfrom engine_kit import tiny\nfrom mtzoo.engine import fit\n"
        f"here = Path({str(tmp_path)!r})\n"
        "if __name__ == '__main__':\n"
        "    fit(tiny(here, steps=100000, devices=2), here / 'run')\n"
    )
    (tmp_path / "train.py").write_text(script, encoding="utf-8")
    said = tmp_path / "said.txt"
    with said.open("w") as out:
        process = subprocess.Popen([sys.executable, str(tmp_path / "train.py")], stdout=out)
    log = tmp_path / "run" / "log.csv"
    deadline = time.monotonic() + 180
    while not log.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=120) == 143
    step = newest(tmp_path / "run")["step"]
    assert step >= 2
    assert f"stopped after step {step} of 100000" in said.read_text()


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(MtzooError, match=r"batch_size: 4 cannot be shared equally"):
        tiny(tmp_path, devices=3)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(MtzooError, match=r"cannot be shared equally by 3 processes"):
        launch.fabric(tiny(tmp_path).engine)
