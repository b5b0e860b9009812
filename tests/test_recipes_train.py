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
from mtzoo.recipe import build_model, load_recipe

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
    "--objective.pose_start=0",
    "--objective.pose_lead=0",
    "--engine.batch_size=2",
    "--engine.steps=2",
    "--engine.log_every=1",
    "--engine.evaluate_pairs=2",
    "--engine.health_every=0",
    "--engine.workers=0",
    "--engine.accelerator=cpu",
]


FULL = [path for path in RECIPES if path.parent.name == "recipes"]
PLUS = [path for path in FULL if "plus" in path.stem]
ABLATIONS = [path for path in RECIPES if path.parent.name == "ablations"]
ABLATED = {
    "no_di": ("model", "image_discriminator", None),
    "no_dv": ("model", "video_discriminator", None),
    "no_lc": ("objective", "content_weight", 0.0),
    "no_lm": ("objective", "motion_weight", 0.0),
}
# Terms of Eq. 8 that an ablation does not even compute; L_C is cheap and stays in the log.
NOT_COMPUTED = {"no_di": "image", "no_dv": "video", "no_lm": "motion"}


def test_the_recipes():
    assert [path.stem for path in ABLATIONS] == [
        f"dual_mtgan_{data}_{what}" for data in ("shapes", "weizmann") for what in ABLATED
    ]
    assert [path.stem for path in FULL] == [
        "dual_mtgan_bair",
        "dual_mtgan_nemo",
        "dual_mtgan_plus_faces",
        "dual_mtgan_plus_shapes",
        "dual_mtgan_plus_weizmann",
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
    sections = load_recipe(path).model
    overrides = [o for o in overrides if sections.get(o.split(".")[1].split("=")[0], o) is not None]
    recipe = load_recipe(path, overrides)
    result = fit(recipe, tmp_path / "run")
    assert result["step"] == 2
    with (tmp_path / "run" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2"]
    # every term of Eq. 8 is there and finite, but for those that a recipe leaves out
    terms = {"content", "reconstruction", "motion", "kl", "image", "video"}
    left_out = {NOT_COMPUTED.get(path.stem[-5:], "")}
    if path in PLUS:
        left_out = {"motion", "image", "video"}
    for term in terms - left_out:
        assert abs(float(rows[-1][f"generator/{term}"])) < 1e4
    assert not [term for term in left_out if f"generator/{term}" in rows[-1]]
    posed = recipe.objective["pose_weight"] > 0
    assert posed == (path.stem == "dual_mtgan_plus_shapes") == ("generator/poses" in rows[-1])
    judged = [key for key in rows[-1] if key.startswith("discriminator/")]
    assert bool(judged) == (path not in PLUS)
    for term in left_out & {"image", "video"}:
        assert not [key for key in judged if term in key]
    model = mtzoo.load(tmp_path / "run")
    assert model.resolution == recipe.data.get("resolution", 64)
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["step"] == 2


@pytest.mark.parametrize("name", ["weizmann", "nemo", "bair", "shapes", "videos"])
def test_the_paper_recipes_keep_what_the_paper_fixes(name: str):
    recipe = load_recipe(FULL[0].parent / f"dual_mtgan_{name}.yaml")
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


@pytest.mark.parametrize(
    "path",
    [path for path in FULL if path not in PLUS and path.stem != "quickstart"],
    ids=lambda path: path.stem,
)
def test_every_value_of_the_paper_recipes_says_where_it_comes_from(path: Path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        key, _, rest = line.partition(":")
        value = rest.partition("#")[0].strip()
        if key.lstrip().startswith("#") or not value or key.strip() in ("name", "root", "source"):
            continue
        assert "[" in rest.partition("#")[2], f"{path.name}:{number}: {line}"


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_differs_from_its_recipe_in_what_is_ablated_alone(path: Path):
    section, option, value = ABLATED[path.stem[-5:]]
    full = load_recipe(FULL[0].parent / f"{path.stem[:-6]}.yaml")
    ablated = load_recipe(path)
    for name in ("data", "model", "objective"):
        expected = getattr(full, name)
        if name == section:
            assert expected[option] not in (None, 0)
            expected = {**expected, option: value}
        assert getattr(ablated, name) == expected
    assert (ablated.engine, ablated.seed, ablated.name) == (full.engine, full.seed, path.stem)


@pytest.mark.parametrize(
    ("what", "slot", "kept"),
    [
        ("no_di", "image_discriminator", "video_discriminator"),
        ("no_dv", "video_discriminator", "image_discriminator"),
    ],
)
def test_nothing_of_an_ablated_discriminator_is_built(what: str, slot: str, kept: str):
    recipe = load_recipe(f"dual_mtgan_shapes_{what}")
    with torch.device("meta"):
        model = build_model(recipe.model, resolution=64, channels=3)
    assert [name for name, _ in model.discriminators().named_children()] == [kept]
    assert not [name for name, _ in model.named_parameters() if slot in name]
