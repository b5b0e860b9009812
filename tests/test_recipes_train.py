"""Every recipe of the repository trains two steps, at its own resolution with shrunken networks."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

import mtzoo
from mtzoo.data.writer import StoreWriter
from mtzoo.engine import fit
from mtzoo.recipe import load_recipe

RECIPES = sorted((Path(__file__).resolve().parent.parent / "recipes").rglob("*.yaml"))

SHRUNKEN = [
    "--model.content_encoder.width=4",
    "--model.motion_encoder.width=4",
    "--model.motion_generator.hidden=8",
    "--model.image_generator.width=4",
    "--model.image_discriminator.width=4",
    "--model.video_discriminator.width=4",
    "--objective.motion_start=0",
    "--objective.adversarial_start=0",
    "--engine.batch_size=2",
    "--engine.steps=2",
    "--engine.log_every=1",
    "--engine.evaluate_pairs=2",
    "--engine.health_every=0",
    "--engine.workers=0",
    "--engine.accelerator=cpu",
]


def test_there_are_six_recipes():
    assert [path.stem for path in RECIPES] == [
        "dual_mtgan_bair",
        "dual_mtgan_nemo",
        "dual_mtgan_shapes",
        "dual_mtgan_videos",
        "dual_mtgan_weizmann",
        "quickstart",
    ]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_trains(path: Path, tmp_path: Path):
    overrides = list(SHRUNKEN)
    data = load_recipe(path).data
    if data["name"] == "clips":
        root = tmp_path / "store"
        source = data.get("source") or "videos"
        with StoreWriter(
            root, source=source, resolution=64, fps=25.0, split_by=("time", "person")
        ) as writer:
            for i in range(3):
                frames = torch.randint(0, 256, (64, 64, 64, 3), dtype=torch.uint8)
                writer.add(
                    f"v{i}",
                    frames,
                    labels={"person": f"p{i}"},
                    splits={"time": [("train", 0, 32), ("test", 32, 64)], "person": []},
                    source="test",
                    source_range=(0, 64),
                )
            writer.finish()
        overrides += [f"--data.root={root}"]
    recipe = load_recipe(path, overrides)
    result = fit(recipe, tmp_path / "run")
    assert result["step"] == 2
    with (tmp_path / "run" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2"]
    # every term of Eq. 8 is there and finite
    for term in ("content", "reconstruction", "motion", "kl", "image", "video"):
        assert abs(float(rows[-1][f"generator/{term}"])) < 1e4
    model = mtzoo.load(tmp_path / "run")
    assert model.resolution == recipe.data.get("resolution", 64)
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["step"] == 2


@pytest.mark.parametrize("name", ["weizmann", "nemo", "bair", "shapes", "videos"])
def test_the_paper_recipes_keep_what_the_paper_fixes(name: str):
    recipe = load_recipe(RECIPES[0].parent / f"dual_mtgan_{name}.yaml")
    weights = ("lambda_1", "lambda_kl", "lambda_i", "lambda_v", "content_weight", "motion_weight")
    assert [recipe.objective[w] for w in weights] == [10.0, 0.01, 0.0001, 1.0, 1.0, 1.0]
    assert recipe.objective["reconstruction"] == "l1"
    assert recipe.data["frames"] == 16
    assert recipe.model["content_frames"] == "each"
    assert recipe.model["motion_generator"]["name"] == "lstm"
    assert recipe.model["motion_encoder"]["name"] == "c3d"
    assert recipe.model["motion_encoder"]["view"] == "frames"
    assert recipe.model["image_discriminator"] is not None
    assert recipe.model["video_discriminator"] is not None


@pytest.mark.parametrize("path", RECIPES[:5], ids=lambda path: path.stem)
def test_every_value_of_the_paper_recipes_says_where_it_comes_from(path: Path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        key, _, rest = line.partition(":")
        value = rest.partition("#")[0].strip()
        if key.lstrip().startswith("#") or not value or key.strip() in ("name", "root", "source"):
            continue
        assert "[" in rest.partition("#")[2], f"{path.name}:{number}: {line}"
