"""From a run to a model for others, and to trying it: export, names, cards, rendered pairs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from engine_kit import tiny

import mtzoo
import mtzoo.pretrained
from mtzoo import media, weights
from mtzoo.cli import main
from mtzoo.data.datasets.shapes import Shapes
from mtzoo.engine import fit
from mtzoo.export import _asked, _counted
from mtzoo.pretrained import known_pretrained
from mtzoo.recipe import load_recipe

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    fit(tiny(folder, steps=1), folder / "run")
    return folder / "run"


@pytest.fixture
def shelf(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Path:
    """A package with one trained model, ``tiny-demo``, and nothing in the working folder."""
    place = tmp_path / "package"
    place.mkdir()
    assert cli("export", "--model", run, "--output", place / "tiny-demo")[0] == 0
    monkeypatch.setattr(mtzoo.pretrained, "__file__", str(place / "__init__.py"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return place


def refused(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("mtzoo: error: ")
    assert err.count("\n") == 1
    return err


# Export --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "digits"), [("fp16", 1e-3), ("bf16", 8e-3), ("fp32", 0.0)])
def test_an_export_is_the_generators_rounded(
    run: Path, tmp_path: Path, cli: Cli, dtype: str, digits: float
):
    folder = tmp_path / "small"
    code, out, _ = cli("export", "--model", run, "--output", folder, "--dtype", dtype)
    assert (code, out.count("\n")) == (0, 1)
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.safetensors", "config.json", "recipe.yaml", "README.md"}
    state = safetensors.torch.load_file(folder / "model.safetensors")
    whole = safetensors.torch.load_file(run / "model" / "model.safetensors")
    assert state.keys() == whole.keys()
    assert not [name for name in state if "discriminator" in name or "judge" in name]
    kinds = {value.dtype for value in state.values() if value.is_floating_point()}
    wanted = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    assert kinds == {wanted}
    for name, value in whole.items():
        error = (state[name].float() - value.float()).abs().max()
        assert error <= digits * value.float().abs().max() + 1e-7
    model = mtzoo.load(folder)
    assert {p.dtype for p in model.generators().parameters()} == {torch.float32}
    picture, video = torch.zeros(1, 3, 32, 32), torch.rand(1, 8, 3, 32, 32)
    with torch.inference_mode():
        made = model.transfer(picture, video)
        expected = mtzoo.load(run).transfer(picture, video)
    assert (made - expected).abs().max() <= 10 * digits
    again = tmp_path / "again" / "small"
    again.parent.mkdir()
    assert cli("export", "--model", run, "--output", again, "--dtype", dtype)[0] == 0
    assert all((again / name).read_bytes() == (folder / name).read_bytes() for name in names)


def test_the_card_says_what_it_is_and_how_it_came_about(run: Path, tmp_path: Path, cli: Cli):
    cli("export", "--model", run, "--output", tmp_path / "small")
    card = (tmp_path / "small" / "README.md").read_text()
    for said in (
        "# small\n",
        "trained on shapes",
        "image_generator `dcgan`",
        "1 steps on `shapes`, clips of 8 frames, seed 3",
        "mtzoo fit --recipe recipe.yaml",
        "None yet",
        "Apache-2.0",
        "It knows pictures and motions of the kind",
    ):
        assert said in card
    assert (tmp_path / "small" / "recipe.yaml").read_bytes() == (run / "recipe.yaml").read_bytes()


def test_figures_come_from_results_of_these_weights_only(run: Path, tmp_path: Path, cli: Cli):
    small, card = tmp_path / "small", tmp_path / "with_figures" / "README.md"
    cli("export", "--model", run, "--output", small)
    options = ("--videos", 2, "--samples", 0, "--output", tmp_path / "scores", "--device", "cpu")
    assert cli("evaluate", "--model", small, *options)[0] == 0  # its recipe names the data
    results = tmp_path / "scores" / "results.json"
    code, _, err = cli("export", "--model", run, "--output", card.parent, "--results", results)
    assert (code, err) == (0, "")
    text = card.read_text()
    found = json.loads(results.read_text())
    transfer = next(
        m for m in found["methods"] if (m["task"], m["method"]) == ("transfer", "model")
    )
    assert f"| transfer | model | {transfer['psnr']['mean']:.2f} [" in text
    assert "Measured of these weights on 2 held-out videos" in text
    assert (
        "mtzoo evaluate --model with_figures --protocol mtzoo --videos 2 --samples 0 --seed 0"
        in text
    )

    assert "| task | method | PSNR in dB | SSIM |\n| --- |" in text

    # Pairs that are not those of its recipe, and results from before that was written down.
    for change, asked in (
        ({"data_seed": 5}, "--model older --data-seed 5 --protocol"),
        ({"data_seed": None, "seed": 5}, "--model older --protocol"),
        (
            {"data": {"name": "shapes", "frames": 6}, "data_seed": None, "seed": 5},
            "--model older --data shapes --data-seed 5 --frames 6 --protocol",
        ),
        ({"data": {"name": "shapes", "frames": 8}, "data_seed": 3}, "shapes --data-seed 3 --pro"),
        ({"data": {"name": "shapes", "frames": 8}, "data_seed": 0}, "--data shapes --protocol"),
    ):
        older = {**found, **change}
        results.write_text(json.dumps({k: v for k, v in older.items() if v is not None}))
        folder = tmp_path / "older"
        assert cli("export", "--model", run, "--output", folder, "--results", results)[0] == 0
        assert asked in (folder / "README.md").read_text()
        shutil.rmtree(folder)

    # With classifiers, whose row of real videos has no PSNR.
    half = {"mean": 0.5, "low": 0.25, "high": 0.75, "count": 2}
    found["classes"] = {"content": {"kind": ["disc"]}, "motion": {}}
    found["classifier_steps"] = {"content": 1200, "motion": 1600}
    found["methods"].append({"task": "real", "method": "test videos", "content": half})
    results.write_text(json.dumps(found))
    judged = tmp_path / "judged"
    assert cli("export", "--model", run, "--output", judged, "--results", results)[0] == 0
    text = (judged / "README.md").read_text()
    assert "| task | method | PSNR in dB | SSIM | content right, % |" in text
    assert "| real | test videos | – | – | 50.0 [25.0, 75.0] |" in text
    assert "--seed 0 --classifiers classifiers --classifier-steps 1200 1600 --out" in text

    # What was measured is on the card, and its command asks for it.
    found |= {"lpips": {"backbone": "vgg"}, "fvd": {"detector_sha256": "0"}, "samples": 3}
    found |= {"diversity": half, "diversity_lpips": {**half, "low": None, "high": None}}
    found["methods"][0] |= {"lpips": half, "fvd": 123.44}
    results.write_text(json.dumps(found))
    full = tmp_path / "full"
    assert cli("export", "--model", run, "--output", full, "--results", results)[0] == 0
    text = (full / "README.md").read_text()
    assert "| LPIPS | content right, % | FVD |" in text
    assert "| 0.500 [0.250, 0.750] | – | 123.4 |" in text
    assert "Samples of one picture differ by 0.5 [0.2, 0.8] of 255 a pixel.\n" in text
    assert "LPIPS between samples of one picture: 0.5000\n" in text
    assert "--lpips vgg --fvd i3d_torchscript.pt --classifiers classifiers" in text
    # As results of one sample once were.
    found["samples"] = 1
    results.write_text(json.dumps(found))
    assert cli("export", "--model", run, "--output", tmp_path / "one", "--results", results)[0] == 0
    assert "Samples of one picture differ" not in (tmp_path / "one" / "README.md").read_text()

    found["weights_sha256"] = "0" * 64
    results.write_text(json.dumps(found))
    asked = ("export", "--model", run, "--output", tmp_path / "other", "--results", results)
    assert "was measured with other weights" in refused(cli(*asked))
    results.write_text("{}")
    assert "is no results.json of mtzoo evaluate" in refused(cli(*asked))
    results.unlink()
    assert "cannot read" in refused(cli(*asked))
    assert not (tmp_path / "other").exists()


def test_a_card_asks_for_a_store_as_it_was_asked_for(run: Path):
    recipe = load_recipe(run / "recipe.yaml")
    recipe.data.clear()
    own = {"name": "clips", "root": "a b", "frames": 8, "stride": 1, "split_by": ""}
    own["identity"] = "person"
    recipe.data.update(own)
    named = {"name": "clips", "root": "a b", "frames": 8, "stride": 2, "split_by": "time"}
    for data, asked in (
        (own, ""),
        ({**own, "split_by": "time", "frames": 6}, "--split-by time --frames 6 "),
        ({**own, "stride": 2}, "--stride 2 "),
        (named, "--data 'a b' --split-by time --stride 2 "),
        ({**named, "stride": 1, "split_by": ""}, "--data 'a b' "),
        ({"name": "shapes", "resolution": 32, "frames": 8}, "--data shapes "),
    ):
        seed = 0 if "--data" in asked else recipe.seed
        assert _asked({"data": data, "data_seed": seed, "seed": 0}, recipe) == asked
    clips = {"origins": ["a", "a", "b"], "videos": 3, "sources": 2, "available": 1500}
    assert _counted(clips) == "3 of 1,500 windows of 2 held-out videos"
    assert _counted({"videos": 63}) == "63 held-out videos"


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    run: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
):
    output = tmp_path / "out"
    bare = tmp_path / "bare"
    shutil.copytree(run / "model", bare)
    assert "has no recipe.yaml" in refused(cli("export", "--model", bare, "--output", output))
    monkeypatch.setattr("mtzoo.export.MAX_BYTES", 10_000)
    said = refused(cli("export", "--model", run, "--output", output))
    assert "MB in fp16, over the" in said
    monkeypatch.undo()

    large = tmp_path / "large"
    shutil.copytree(run, large)
    file = large / "model" / "model.safetensors"
    state = safetensors.torch.load_file(file)
    name = next(name for name, value in state.items() if value.is_floating_point())
    state[name] = torch.full_like(state[name], 1e5)
    safetensors.torch.save_file(state, file)
    said = refused(cli("export", "--model", large, "--output", output))
    assert f"{name} does not fit into fp16: a weight is too large; use --dtype bf16" in said
    fits = state[name]
    for number, dtype, says in (
        (3.4e38, "bf16", "does not fit into bf16: a weight is too large; use --dtype fp32"),
        (torch.nan, "fp16", "is not finite: the training went wrong"),
        (torch.inf, "bf16", "is not finite: the training went wrong"),
        (torch.nan, "fp32", "is not finite: the training went wrong"),
    ):
        state[name] = torch.full_like(fits, number)
        safetensors.torch.save_file(state, file)
        said = refused(cli("export", "--model", large, "--output", output, "--dtype", dtype))
        assert f"{name} {says}" in said
    state[name] = fits
    safetensors.torch.save_file(state, file)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bare", "large"]
    assert cli("export", "--model", large, "--output", output, "--dtype", "bf16")[0] == 0
    assert "is there already" in refused(cli("export", "--model", run, "--output", output))


def test_weights_of_footage_need_a_licence(
    run: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Shapes, "on_disk", True)
    asked = ("export", "--model", run, "--output", tmp_path / "small")
    assert "states no licence; say with --licence" in refused(cli(*asked))
    assert cli(*asked, "--licence", "CC BY-NC 4.0, from footage of our own")[0] == 0
    assert "CC BY-NC 4.0" in (tmp_path / "small" / "README.md").read_text()
    assert json.loads((tmp_path / "small" / "config.json").read_text())["licence"][:5] == "CC BY"


# By name -------------------------------------------------------------------------------------


def test_a_name_stands_for_its_model_everywhere(shelf: Path, tmp_path: Path, cli: Cli):
    assert main(["data", "render", "tiny-demo", "--output", "demo"]) == 0
    inputs = ("--model", "tiny-demo", "--image", "demo/1_picture.png", "--device", "cpu")
    assert cli("transfer", *inputs, "--video", "demo/1_video.mp4", "--output", "a.gif")[0] == 0
    assert cli("sample", *inputs, "--output", "b.gif")[0] == 0
    options = ("--videos", 1, "--samples", 0, "--output", "scores", "--device", "cpu")
    assert cli("evaluate", "--model", "tiny-demo", *options)[0] == 0
    assert mtzoo.load("tiny-demo").resolution == 32
    assert cli("ls", "pretrained", "--names")[1] == "pretrained tiny-demo\n"
    listed = cli("ls", "pretrained")[1]
    assert "tiny-demo" in listed
    assert "dual_mtgan for 32x32 pixels, trained on shapes" in listed
    shown = cli("show", "pretrained", "tiny-demo")[1]
    assert shown.startswith((shelf / "tiny-demo" / "README.md").read_text())


def test_a_folder_wins_over_a_name(shelf: Path, cli: Cli):
    Path("tiny-demo").mkdir()
    with pytest.raises(mtzoo.MtzooError, match="tiny-demo holds no weights"):
        mtzoo.load("tiny-demo")


def test_an_unknown_name_is_one_line_with_near_ones(shelf: Path, cli: Cli):
    for verb in (("transfer", "--video", "v.mp4"), ("sample",)):
        asked = (verb[0], "--model", "tiny-dmo", "--image", "p.png", *verb[1:], "--output", "o.gif")
        said = refused(cli(*asked))
        assert "no such folder: tiny-dmo. Did you mean 'tiny-demo'?" in said
    said = refused(cli("show", "pretrained", "tiny-dmo"))
    assert "no model 'tiny-dmo' comes with mtzoo. Did you mean 'tiny-demo'?" in said
    said = refused(cli("data", "render", "tiny-dmo", "--output", "demo"))
    assert "neither a synthetic world (faces, shapes) nor a model" in said


def test_what_comes_along_is_whole_small_and_has_a_card():
    for name, folder in known_pretrained().items():
        files = {path.name: path.stat().st_size for path in folder.iterdir()}
        assert set(files) == {"model.safetensors", "config.json", "recipe.yaml", "README.md"}
        assert sum(files.values()) <= 10_000_000
        assert weights.load_model(name).resolution == weights.read_config(name)["resolution"]
        assert (folder / "README.md").read_text().startswith(f"# {name}\n")
        assert weights.read_config(name)["data"] in ("shapes", "faces")


# Rendered pairs ------------------------------------------------------------------------------


def close(shown: torch.Tensor, pixels: torch.Tensor) -> bool:
    """Whether something that was enlarged, written and read again is what it was, nearly."""
    assert shown.shape == pixels.shape
    return (shown.float() - pixels.float()).abs().mean().item() < 4


def test_rendered_pairs_are_held_out_ones_with_their_truth(tmp_path: Path, cli: Cli):
    code, out, _ = cli(
        "data", "render", "shapes", "--output", tmp_path / "demo", "--index", 3, "--pairs", 2
    )
    assert (code, out.count("\n")) == (0, 2)
    pairs = Shapes(split="test", seed=0)
    for number in (3, 4):
        pair = pairs[number - 1]
        picture = media.read_image(tmp_path / "demo" / f"{number}_picture.png", resolution=64)
        assert close(picture, pair["target_video"][pair["target_index"]])
        for name in ("video", "truth"):
            clip = media.read_video(tmp_path / "demo" / f"{number}_{name}.mp4", resolution=64)
            assert close(clip.frames, pair[name])
    assert "is there already" in refused(
        cli("data", "render", "shapes", "--output", tmp_path / "demo", "--index", 4)
    )
    assert "--index must lie" in refused(
        cli("data", "render", "shapes", "--output", tmp_path / "demo", "--index", 0)
    )


def test_a_model_s_pairs_are_those_of_its_own_recipe(run: Path, tmp_path: Path, cli: Cli):
    assert cli("data", "render", run, "--output", tmp_path / "demo")[0] == 0
    pair = Shapes(split="test", seed=3, resolution=32, frames=8)[0]
    picture = media.read_image(tmp_path / "demo" / "1_picture.png", resolution=32)
    assert close(picture, pair["target_video"][pair["target_index"]])
    assert len(media.read_video(tmp_path / "demo" / "1_video.mp4").frames) == 8
