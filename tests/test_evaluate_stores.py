"""Scoring on clip stores: which windows are taken, what intervals are over, what is left out."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_kit import tiny
from test_cli_media import SECTION

from mtzoo.data.writer import StoreWriter
from mtzoo.evaluation import classifiers
from mtzoo.evaluation.metrics import figure
from mtzoo.recipe import build_model
from mtzoo.weights import save_model

Cli = Callable[..., tuple[int, str, str]]


def store(root: Path, lengths: Sequence[int], *, side: int = 32, labels: bool = True) -> Path:
    """Videos of noise of so many frames, half of them of one person, that are split in two ways.

    By ``half`` the first 8 frames of each are for training, by ``whole`` all of every second video.
    """
    generator = torch.Generator().manual_seed(0)
    with StoreWriter(
        root, source="made", resolution=side, fps=25.0, split_by=("half", "whole")
    ) as writer:
        for i, frames in enumerate(lengths):
            person = "ab"[i % 2]
            writer.add(
                f"v{i}",
                torch.randint(256, (frames, side, side, 3), dtype=torch.uint8, generator=generator),
                labels={"person": person, "action": "xy"[i // 2 % 2]} if labels else {},
                splits={
                    "half": [("train", 0, 8), ("test", 8, frames)],
                    "whole": [("train" if i < 2 else "test", 0, frames)],
                },
                source=f"v{i}.avi",
                source_range=(0, frames),
            )
        writer.finish()
    return root


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Weights for 32x32, whose recipe names a store that is made by `store`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = build_model(SECTION, resolution=32, channels=3)
    config = {"model": SECTION, "resolution": 32, "channels": 3, "frames": 8}
    save_model(tmp_path / "run", built, config)
    recipe = tiny(tmp_path, store=str(tmp_path / "store"))
    (tmp_path / "run" / "recipe.yaml").write_text(recipe.to_yaml())
    return tmp_path / "run"


@pytest.fixture
def scored(model: Path, tmp_path: Path, cli: Cli) -> Callable[..., tuple[dict[str, Any], str]]:
    """Evaluate the model; gives what results.json holds, and what was printed."""

    def call(*words: object, samples: int = 0) -> tuple[dict[str, Any], str]:
        output = tmp_path / "results"
        shutil.rmtree(output, ignore_errors=True)
        code, out, err = cli(
            "evaluate", "--model", model, "--samples", samples, *words, "--output", output
        )
        assert code == 0, err
        return json.loads((output / "results.json").read_text()), out

    return call


Scored = Callable[..., tuple[dict[str, Any], str]]


def test_the_recipes_own_store_is_split_and_strided_as_asked(tmp_path: Path, scored: Scored):
    store(tmp_path / "store", [24] * 4)
    assert scored()[0]["videos"] == 4 * 2
    told, _ = scored("--split-by", "whole", "--stride", "3", "--frames", "3")
    assert told["videos"] == 2 * 3
    assert (told["data"]["split_by"], told["data"]["stride"]) == ("whole", 3)
    assert told["data"]["root"] == str(tmp_path / "store")
    assert told["data_seed"] == 3
    named, _ = scored(
        *("--data", tmp_path / "store", "--split-by", "whole", "--stride", "3", "--frames", "3"),
        *("--data-seed", "3"),
    )
    assert named["methods"] == told["methods"]


def test_windows_are_taken_throughout_a_store_and_all_where_there_are_no_more(
    tmp_path: Path, scored: Scored
):
    store(tmp_path / "store", [8 + 8 * n for n in (1, 3, 2, 4)])
    whole, out = scored()
    assert "10 windows of 8 frames from 4 videos, protocol mtzoo" in out
    assert whole["positions"] == list(range(10))
    # Videos of one person lie side by side.
    assert whole["origins"] == ["v0.avi"] + 2 * ["v2.avi"] + 3 * ["v1.avi"] + 4 * ["v3.avi"]
    assert (whole["videos"], whole["available"], whole["sources"]) == (10, 10, 4)
    some, out = scored("--videos", 4)
    assert "4 of 10 windows of 8 frames from 4 videos" in out
    assert some["positions"] == [0, 2, 5, 7]
    assert some["origins"] == ["v0.avi", "v2.avi", "v1.avi", "v3.avi"]
    for few, all_ in zip(some["methods"], whole["methods"], strict=True):
        for metric, values in few["by_video"].items():
            assert values == [all_["by_video"][metric][i] for i in (0, 2, 5, 7)]


def test_a_windows_samples_are_those_of_its_place_in_the_split(tmp_path: Path, scored: Scored):
    store(tmp_path / "store", [24] * 4)
    name = ("prediction", "mean of samples")
    found = []
    for words in ((), ("--videos", 4)):
        told, _ = scored(*words, samples=2)
        rows = {(m["task"], m["method"]): m for m in told["methods"]}
        found.append(rows[name]["by_video"]["ssim"])
    assert found[1] == found[0][::2]


def test_intervals_are_over_source_videos(tmp_path: Path, scored: Scored):
    store(tmp_path / "store", [8 + 8 * n for n in (1, 3, 2, 4)])
    told, _ = scored()
    row = told["methods"][0]
    values = torch.tensor(row["by_video"]["psnr"], dtype=torch.float64)
    again = figure(values, told["origins"])
    assert row["psnr"] == asdict(again)
    assert (row["psnr"]["count"], row["psnr"]["sources"]) == (10, 4)
    alone = figure(values)
    assert row["psnr"]["mean"] == alone.mean
    assert (row["psnr"]["low"], row["psnr"]["high"]) != (alone.low, alone.high)


def test_videos_too_short_are_said(tmp_path: Path, scored: Scored, model: Path, cli: Cli):
    store(tmp_path / "store", [24, 24, 12, 24, 10])
    told, out = scored()
    assert told["left_out"] == 2
    said = "2 test videos are too short for a clip of 8 frames and left out"
    assert f"note: {said}\n" in out
    words = ("--model", model, "--videos", 2, "--output", tmp_path / "table")
    assert cli("report", "table2", *words, "--samples", 2)[0] == 0
    assert f"{said}." in (tmp_path / "table" / "table2.md").read_text()
    assert json.loads((tmp_path / "table" / "table2.json").read_text())["left_out"] == 2
    code, _, err = cli("report", "page", *words[:4], "--samples", 3, "--output", tmp_path / "page")
    assert code == 0, err
    page = (tmp_path / "page" / "index.html").read_text()
    assert len(re.findall(f"<figcaption>[^<]*{said}", page)) == 3
    store(tmp_path / "whole", [24, 24])
    told, out = scored("--data", tmp_path / "whole")
    assert told["left_out"] == 0
    assert "too short" not in out


def test_one_video_has_no_interval(tmp_path: Path, scored: Scored):
    store(tmp_path / "store", [24] * 4)
    told, out = scored("--videos", 1)
    assert "1 of 8 windows of 8 frames from 1 video," in out
    assert told["methods"][0]["psnr"]["low"] is None
    assert "[" not in out.split("protocol")[1].split("note:")[0]


def test_a_transfer_that_nobody_judges_is_said(tmp_path: Path, scored: Scored):
    for name, labels, way_out in (
        ("store", True, "--classifiers DIR"),
        ("bare", False, "no label person or action"),
    ):
        store(tmp_path / name, [24] * 2, labels=labels)
        told, out = scored("--data", tmp_path / name)
        assert "transfer" not in {method["task"] for method in told["methods"]}
        assert way_out in told["not_measured"]["transfer"]
        assert f"note: {told['not_measured']['transfer']}\n" in out
    assert "transfer" not in scored("--data", "shapes", "--videos", 1)[0]["not_measured"]


def test_kept_classifiers_are_those_of_the_same_split_and_size(
    tmp_path: Path, scored: Scored, cli: Cli, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(classifiers, "STEPS", {"content": 1, "motion": 1})
    store(tmp_path / "store", [24] * 4)
    judges = ("--classifiers", tmp_path / "judges")
    first, _ = scored(*judges, "--videos", 1)
    config = tmp_path / "judges" / classifiers.CONFIG
    about = json.loads(config.read_text())
    assert about["data"]["split_by"] == "half"
    monkeypatch.setattr(classifiers, "train", None)
    # By name, and as one who left the name out has kept it.
    for kept in ("half", ""):
        about["data"]["split_by"] = kept
        config.write_text(json.dumps(about))
        again, _ = scored(*judges, "--videos", 1, "--split-by", "half")
        assert again["methods"] == first["methods"]
    large = store(tmp_path / "large", [24] * 4, side=64)
    words = ("--baselines", "--data", large, "--frames", 8, "--output", tmp_path / "out")
    for more, said in (
        ((), "were trained on 32x32 pixels of 3 channels, the data have 64x64 pixels of 3"),
        (("--split-by", "whole"), "were trained on 32x32"),
    ):
        code, _, err = cli("evaluate", *judges, *words, *more)
        assert (code, err.count("\n")) == (2, 1)
        assert said in err
    words = ("--baselines", "--data", tmp_path / "store", *words[3:], "--split-by", "whole")
    assert "were trained on other data" in cli("evaluate", *judges, *words)[2]
