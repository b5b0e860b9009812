"""Scoring on clip stores: which windows are taken, what intervals are over, what is left out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_kit import tiny
from test_cli_media import SECTION

from mtzoo.data.writer import StoreWriter
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
