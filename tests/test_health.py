"""Runs that are made to fail, each in one of the known ways, and must be found out by themselves.

A recipe brings the failure about and nothing is faked; beside each stands the same recipe without
the one value that spoils it.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_kit import newest, tiny

from mtzoo.cli import main
from mtzoo.data.writer import StoreWriter
from mtzoo.engine import fit
from mtzoo.engine.health import subject
from mtzoo.errors import MtzooError
from mtzoo.recipe import Recipe, load_recipe

RECONSTRUCTION = {
    "lambda_kl": 0.0,
    "lambda_i": 0.0,
    "lambda_v": 0.0,
    "content_weight": 0.0,
    "motion_weight": 0.0,
    "adversarial_start": 0,
}
"""Reconstruction alone, to which each test adds the term that does the harm."""


def recipe(folder: Path, objective: dict[str, Any], **engine: Any) -> Recipe:
    options = {"steps": 20, "log_every": 5, "health_every": 5, "health_start": 0, "ema_decay": 0}
    made = tiny(folder, **{**options, "batch_size": 8, "learning_rate": 2e-3, **engine})
    made.objective.update(RECONSTRUCTION | objective)
    made.model["content_frames"] = "one"
    made.model["content_encoder"]["norm"] = "none"  # which would keep codes apart
    return made


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open() as file:
        return list(csv.DictReader(file))


def said(run: Path) -> set[str]:
    """What the last row of the log warns of."""
    return set(filter(None, rows(run)[-1]["warnings"].split("; ")))


@pytest.mark.parametrize(
    ("about", "weights", "rate"),
    [
        ({"motion code", "samples", "frames"}, {"lambda_kl": 100.0}, 2e-3),
        ({"content codes"}, {"content_weight": 1000.0}, 1e-2),
    ],
    ids=["kl", "content"],
)
def test_codes_that_a_weight_has_killed(
    tmp_path: Path,
    about: set[str],
    weights: dict[str, float],
    rate: float,
    capsys: pytest.CaptureFixture[str],
):
    run, control = tmp_path / "run", tmp_path / "control"
    result = fit(recipe(tmp_path, weights, learning_rate=rate), run)
    assert about <= said(run)
    assert result["training"] == "collapsed"
    assert set(map(subject, result["warnings"])) == said(run)
    assert json.loads((run / "result.json").read_text()) == result
    told = capsys.readouterr().out
    assert all(f"warning: {name}: " in told for name in about)
    fit(recipe(tmp_path, {}, learning_rate=rate), control)
    assert not {"motion code", "content codes"} & said(control)


def test_a_discriminator_that_has_won(tmp_path: Path):
    slow, fast = tmp_path / "slow", tmp_path / "fast"
    for run, rate in ((slow, 1e-6), (fast, 1e-2)):
        options = {"learning_rate": 0, "discriminator_learning_rate": rate}
        fit(recipe(tmp_path, {"lambda_v": 1.0}, **options), run)
    assert "video discriminator" in said(fast)
    assert float(rows(fast)[-1]["discriminator/video"]) < 0.1
    assert "video discriminator" not in said(slow)


def test_an_image_discriminator_that_has_won(tmp_path: Path):
    """Two persons of one colour each: which frames belong together is soon known by heart."""
    with StoreWriter(
        tmp_path / "store", source="made", resolution=32, fps=25.0, split_by=("half",)
    ) as writer:
        for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
            writer.add(
                name,
                torch.tensor(colour, dtype=torch.uint8).expand(16, 32, 32, 3).contiguous(),
                labels={"person": name},
                splits={"half": [("train", 0, 8), ("test", 8, 16)]},
                source=name,
                source_range=(0, 16),
            )
        writer.finish()
    slow, fast = tmp_path / "slow", tmp_path / "fast"
    for run, rate in ((slow, 1e-6), (fast, 3e-3)):
        options = {"learning_rate": 0, "discriminator_learning_rate": rate}
        made = recipe(tmp_path, {"lambda_i": 1.0}, steps=40, health_every=20, **options)
        made.data.clear()
        made.data.update(tiny(tmp_path, store=str(tmp_path / "store")).data)
        made.model["image_discriminator"]["spectral_norm"] = False  # which would slow it down
        fit(made, run)
    assert "image discriminator" in said(fast)
    assert float(rows(fast)[-1]["discriminator/image"]) < 0.1
    assert "image discriminator" not in said(slow)


def test_a_motion_code_that_equation_7_has_killed(tmp_path: Path):
    """With gradients everywhere, as it reads, a constant code is its minimum."""
    for policy in ("all", "freeze_encoder"):
        made = recipe(
            tmp_path,
            {
                "motion_weight": 1000.0,
                "motion_start": 0,
                "motion_target": "mean",
                "motion_gradient": policy,
            },
            learning_rate=1e-2,
            steps=120,
            batch_size=4,
            log_every=40,
            health_every=40,
        )
        made.model["motion_encoder"]["log_variance_bound"] = 4.0  # nothing else holds it here
        fit(made, tmp_path / policy)
    assert "motion code" in said(tmp_path / "all")
    assert "motion code" not in said(tmp_path / "freeze_encoder")
    spread = [
        float(rows(tmp_path / policy)[-1]["health/motion_spread"])
        for policy in ("all", "freeze_encoder")
    ]
    assert spread[0] < spread[1] / 5


@pytest.mark.slow
def test_a_run_that_lives_is_left_in_peace(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    quick = load_recipe(
        "quickstart",
        [
            "--engine.steps=400",
            "--engine.schedule=constant",
            "--engine.sample_every=0",
            "--engine.evaluate_every=0",
            "--engine.evaluate_pairs=2",
            "--engine.accelerator=cpu",
        ],
    )
    result = fit(quick, tmp_path / "run")
    assert (result["training"], result["warnings"]) == ("ok", [])
    assert "warning" not in capsys.readouterr().out
    assert said(tmp_path / "run") == set()


def test_a_collapsed_run_stops_when_it_is_told_to_and_goes_on_when_it_is_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path, run = tmp_path / "dead.yaml", tmp_path / "run"
    dead = recipe(tmp_path, {"lambda_kl": 100.0}, stop_on_collapse=10)
    path.write_text(dead.to_yaml(), encoding="utf-8")
    assert main(["fit", "--recipe", str(path), "--output", str(run)]) == 2
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() if line.startswith("mtzoo: error: ")]
    assert len(lines) == 1
    # Warned of at step 5, which is not forgotten by step 15.
    assert "stopped after step 15 of 20 because the run has collapsed: since step 5, " in lines[0]
    state = newest(run)
    assert state["step"] == 15
    assert (run / "model" / "model.safetensors").is_file()
    result = json.loads((run / "result.json").read_text())
    assert (result["training"], result["step"]) == ("collapsed", 15)
    assert main(["fit", "--resume", str(run)]) == 2  # one step on: it still stands
    assert newest(run)["step"] == 16
    assert main(["fit", "--resume", str(run), "--engine.stop_on_collapse", "0"]) == 0
    assert newest(run)["step"] == 20
    assert json.loads((run / "result.json").read_text())["step"] == 20


def test_a_rate_that_breaks_the_losses(tmp_path: Path):
    run = tmp_path / "run"
    with pytest.raises(MtzooError, match=r"^generator/\w+ became (inf|nan) in step \d; ") as raised:
        fit(recipe(tmp_path, {}, learning_rate=1e6), run)
    assert "\n" not in str(raised.value)
    assert newest(run)["step"] == 0
    assert all(v.isfinite().all() for v in newest(run)["generators"].values())
    result = json.loads((run / "result.json").read_text())
    assert result["training"] == "diverged"
    assert len(result["warnings"]) == 1
    assert str(raised.value).startswith(result["warnings"][0])


def test_a_rate_that_breaks_the_weights_in_the_last_step(tmp_path: Path):
    """All losses are finite, and no whole checkpoint is made of what came after them."""
    run = tmp_path / "run"
    with pytest.raises(MtzooError, match=r"weights became \w+ in step 0, the first of them gen"):
        fit(recipe(tmp_path, {}, learning_rate=1e39, steps=1), run)
    assert newest(run)["step"] == 0
    assert not (run / "model").exists()
    assert json.loads((run / "result.json").read_text())["training"] == "diverged"


def test_a_warning_is_not_said_before_there_is_anything_to_lose(tmp_path: Path):
    fit(recipe(tmp_path, {"lambda_kl": 100.0}, health_start=15), tmp_path / "run")
    column = [row["warnings"] for row in rows(tmp_path / "run")]
    assert column[:2] == ["", ""]
    assert all("motion code" in words for words in column[2:])


def test_stopping_needs_somebody_who_looks(tmp_path: Path):
    with pytest.raises(MtzooError, match=r"stop_on_collapse: nobody looks .* set it to 100"):
        tiny(tmp_path, stop_on_collapse=10)
