"""Recipes: what is written becomes objects; sizes are handed on; overrides mean what they say."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mtzoo.errors import MtzooError
from mtzoo.recipe import (
    Recipe,
    build_dataset,
    build_model,
    build_objective,
    check_recipe,
    find_recipe,
    known_recipes,
    load_recipe,
)
from mtzoo.recipe.options import conform, signature
from mtzoo.recipe.text import Where, dump, parse

ROOT = Path(__file__).resolve().parent.parent

BASE = """\
# mtzoo fit --recipe base.yaml
seed: 3
data: {name: shapes, resolution: 32, frames: 6}
model:
  name: dual_mtgan
  content_encoder:
    name: dcgan
    width: 8
    content_dim: 12
  motion_encoder: {name: c3d, width: 4, motion_dim: 5}
  motion_generator: {name: lstm, frame_motion_dim: 7, hidden: 6}
  image_generator: {name: dcgan, width: 8}
objective: {name: dual_mtgan, lambda_1: 2}
engine: {steps: 20, batch_size: 2, learning_rate: 1e-4, betas: [0, 0.9]}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def fault(path: Path, *overrides: str) -> str:
    with pytest.raises(MtzooError) as caught:
        check_recipe(load_recipe(path, overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def part(recipe: Recipe, slot: str) -> dict:
    section = recipe.model[slot]
    assert isinstance(section, dict)
    return section


# ---- reading ------------------------------------------------------------------------------------


def test_a_recipe_is_resolved_with_every_option(base: Path) -> None:
    recipe = load_recipe(base)
    assert (recipe.name, recipe.seed) == ("base", 3)
    assert part(recipe, "content_encoder")["width"] == 8
    assert part(recipe, "content_encoder")["norm"] == "batch"  # its default
    assert set(part(recipe, "motion_generator")) > {"name", "hidden", "layers", "entry"}
    assert recipe.model["image_discriminator"] is None
    assert recipe.objective["lambda_1"] == 2.0
    assert isinstance(recipe.objective["lambda_1"], float)  # a whole number where a float goes
    assert recipe.engine.learning_rate == 1e-4  # YAML 1.1 would read text here
    assert recipe.engine.betas == (0.0, 0.9)
    assert recipe.notes == ()


def test_resolved_options_are_the_constructor_s_own(base: Path) -> None:
    from mtzoo.registries import REGISTRIES

    recipe = load_recipe(base)
    sign = signature(REGISTRIES["content_encoders"].get("dcgan"))
    assert list(part(recipe, "content_encoder")) == ["name", *sign.options]
    assert sign.takes == ("resolution", "channels")
    assert list(signature(REGISTRIES["models"].get("dual_mtgan")).slots) == [
        "content_encoder",
        "motion_encoder",
        "motion_generator",
        "image_generator",
        "image_discriminator",
        "video_discriminator",
        "motion_prior",
    ]


def test_yaml_round_trip(base: Path, tmp_path: Path) -> None:
    recipe = load_recipe(
        base, ["--engine.betas", "[0.1, 0.95]", "--model.image_discriminator.name=pair"]
    )
    again = tmp_path / "another name.yaml"
    again.write_text(recipe.to_yaml())
    assert load_recipe(again) == recipe
    assert load_recipe(again).to_yaml() == recipe.to_yaml()
    assert load_recipe(again, ["--seed", "4"]) != recipe
    # Other readers of YAML see the same values.
    assert yaml.safe_load(recipe.to_yaml())["engine"]["betas"] == [0.1, 0.95]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
    | st.sampled_from(
        ["1e-4", "yes", "no", "~", "null", "0x1f", "1_0", ".nan", "1:30", "<<", "=", ""]
    ),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True), values, max_size=4))
def test_what_is_dumped_is_read_back(data: dict) -> None:
    read = parse(dump(data), Where("x"))
    assert read == data
    assert repr(read) == repr(data)  # types too: 1, 1.0 and True are equal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.", 1.0),
        (".5", 0.5),
        ("-1", -1),
        ("010", 10),
        ("0x10", 16),
        ("0o10", 8),
        ("200_000", 200_000),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("True", True),
        ("", None),
        ("~", None),
        ("[1, [a, 2.0]]", [1, ["a", 2.0]]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    read = parse(f"key: {text}", Where("x"))
    assert read == {"key": value}
    assert repr(read) == repr({"key": value})


def test_the_name_of_a_recipe(base: Path, tmp_path: Path) -> None:
    assert load_recipe(base, ["--name", "trial 2"]).name == "trial 2"
    odd = tmp_path / "..odd?.yaml"
    odd.write_text(BASE)
    assert load_recipe(odd).name == "odd_"
    for name in ("../up", "..", "a/b", "''", "[a]", "-x", "a\\b", "x" * 101):
        assert fault(base, "--name", name).startswith("--name: expected a recipe's name")


def test_the_seed_has_a_range(base: Path) -> None:
    assert load_recipe(base, ["--seed", str(2**32 - 1)]).seed == 2**32 - 1
    for seed in (-1, 2**32, 1.0, "true", "null", "x"):
        assert fault(base, "--seed", str(seed)).startswith("--seed: expected a whole number")
    base.write_text(BASE.replace("seed: 3\n", ""))
    assert load_recipe(base).seed == 0


def test_importing_and_engine_options_need_no_torch() -> None:
    code = (
        "import sys, mtzoo.recipe, mtzoo.engine.options;"
        "from mtzoo.recipe.options import conform;"
        "conform(mtzoo.engine.options.EngineOptions, 'steps', 3);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- finding ------------------------------------------------------------------------------------


def test_a_missing_recipe_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"quickstart": Path("q.yaml"), "dual_mtgan_nemo": Path("n.yaml")}
    monkeypatch.setattr("mtzoo.recipe.find.known_recipes", lambda: known)
    with pytest.raises(MtzooError, match="Did you mean 'quickstart'"):
        find_recipe("recipes/quikstart.yaml")
    assert find_recipe("quickstart") == Path("q.yaml")


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(MtzooError, match="is a folder"):
        find_recipe(tmp_path)
    for path in ("x" * 5000, "a\0b", ""):
        with pytest.raises(MtzooError, match="recipe"):
            find_recipe(path)


def test_mtzoo_s_own_recipes_all_validate() -> None:
    files = sorted((ROOT / "recipes").rglob("*.yaml"))
    assert len(files) == 17
    assert set(known_recipes().values()) == set(files)
    for file in files:
        recipe = load_recipe(file)
        check_recipe(recipe)
        assert recipe.name == file.stem
        first = file.read_text().splitlines()[0]
        assert first == f"# mtzoo fit --recipe {file.relative_to(ROOT).as_posix()}"


def test_a_size_that_cannot_work_is_laid_to_the_key_that_says_it(tmp_path: Path) -> None:
    text = (ROOT / "recipes" / "quickstart.yaml").read_text()
    file = tmp_path / "r.yaml"
    file.write_text(text.replace("resolution: 32", "resolution: 33"))
    line = next(n for n, row in enumerate(text.splitlines(), 1) if "resolution: 32" in row)
    with pytest.raises(MtzooError, match=rf"r.yaml:{line}: data.resolution: .*32, 64, 128"):
        check_recipe(load_recipe(file))
    with pytest.raises(MtzooError, match=r"^--data.resolution: "):
        check_recipe(load_recipe(ROOT / "recipes" / "quickstart.yaml", ["--data.resolution=33"]))
    with pytest.raises(MtzooError, match=r"got 'disc'\. A list of one is written \[disc\]$"):
        load_recipe(ROOT / "recipes" / "quickstart.yaml", ["--data.kinds", "disc"])
    with pytest.raises(MtzooError, match=r"got 'dsic'\. Did you mean 'disc'\?$"):
        load_recipe(ROOT / "recipes" / "quickstart.yaml", ["--data.kinds", "dsic"])
    with pytest.raises(MtzooError, match="no kind of shape"):
        check_recipe(load_recipe(ROOT / "recipes" / "quickstart.yaml", ["--data.kinds=[]"]))


# ---- building on another recipe -----------------------------------------------------------------


def on(base: Path, text: str) -> Path:
    path = base.with_name("child.yaml")
    path.write_text(f"base: {base.stem}\n{text}")
    return path


def test_a_recipe_on_a_base_says_only_what_differs(base: Path, tmp_path: Path) -> None:
    full = load_recipe(base)
    child = load_recipe(on(base, "model: {motion_encoder: {width: 6}}\nengine: {steps: 5}\n"))
    assert child.name == "child"
    assert part(child, "motion_encoder") == {**part(full, "motion_encoder"), "width": 6}
    assert part(child, "content_encoder") == part(full, "content_encoder")
    assert child.engine == dataclasses.replace(full.engine, steps=5)
    assert (child.seed, child.objective, child.data) == (3, full.objective, full.data)
    # Written out it stands alone, as it must in a run's folder.
    alone = tmp_path / "elsewhere" / "alone.yaml"
    alone.parent.mkdir()
    alone.write_text(child.to_yaml())
    assert load_recipe(alone) == child
    # The command line has the last word.
    assert load_recipe(on(base, "engine: {steps: 5}\n"), ["--engine.steps=7"]).engine.steps == 7


def test_another_component_takes_nothing_over(base: Path) -> None:
    text = "model: {motion_generator: {name: gru, hidden: 9}, image_discriminator: {name: pair}}\n"
    child = load_recipe(on(base, text))
    assert part(child, "motion_generator")["hidden"] == 9
    assert part(child, "motion_generator")["frame_motion_dim"] != 7  # the lstm's in the base
    assert part(child, "image_discriminator")["name"] == "pair"
    assert (
        load_recipe(on(base, "model: {image_discriminator: null}\n")).model["image_discriminator"]
        is None
    )


def test_a_base_that_comes_along(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: quickstart\nseed: 5\n")
    mine, theirs = load_recipe(path), load_recipe("quickstart")
    assert (mine.name, mine.seed) == ("mine", 5)
    assert (mine.model, mine.engine) == (theirs.model, theirs.engine)


def test_faults_name_the_recipe_and_the_file_that_has_them(base: Path) -> None:
    child = on(base, "engine:\n  stepz: 4\n")
    assert fault(child).startswith(f"{child}:3: engine.stepz: unknown engine option")
    base.write_text(BASE.replace("width: 8\n", "widht: 8\n", 1))
    line = BASE.splitlines().index("    width: 8") + 1
    child = on(base, "seed: 4\n")
    assert fault(child).startswith(
        f"{child} (by its base, {base}:{line}): model.content_encoder.widht: unknown option"
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../base", "expected the name of a recipe"),
        ("/etc/passwd", "expected the name of a recipe"),
        ("[base]", "expected the name of a recipe"),
        ("child", "no other recipe 'child'"),
        ("quickstrat", "Did you mean 'quickstart'?"),
        ("second", "builds on another recipe itself; name base"),
    ],
)
def test_bases_that_are_none(base: Path, name: str, says: str) -> None:
    base.with_name("second.yaml").write_text("base: base\n")
    child = base.with_name("child.yaml")
    child.write_text(f"seed: 1\nbase: {name}\n")
    message = fault(child)
    assert message.startswith(f"{child}:2: base: ")
    assert says in message


# ---- building -----------------------------------------------------------------------------------


def test_sizes_are_handed_on(base: Path) -> None:
    import torch

    recipe = load_recipe(base, ["--model.image_discriminator.name=pair"])
    data = build_dataset(recipe.data, split="train", seed=recipe.seed)
    assert (data.resolution, data.channels, data.frames) == (32, 3, 6)
    model = build_model(recipe.model, resolution=data.resolution, channels=data.channels)
    networks = dict(model.named_modules())["networks"]
    content, motion = torch.zeros(1, 12), torch.zeros(1, 6, 7)
    assert networks.image_generator(content, motion).shape == (1, 6, 3, 32, 32)
    assert networks.motion_generator(torch.zeros(1, 5), 6).shape == (1, 6, 7)
    moved = model.transfer(torch.zeros(1, 3, 32, 32), torch.zeros(1, 6, 3, 32, 32))
    assert moved.shape == (1, 6, 3, 32, 32)
    assert build_objective(recipe.objective).phases()


def test_building_takes_unresolved_sections_and_checks_them(base: Path) -> None:
    model = yaml.safe_load(BASE)["model"]
    assert build_model(model, resolution=64, channels=1).channels == 1
    model["content_encoder"]["widht"] = 3
    with pytest.raises(MtzooError, match=r"^model\.content_encoder\.widht: unknown option"):
        build_model(model, resolution=64, channels=1)
    model["content_encoder"] = {"class_path": "os.system"}
    with pytest.raises(MtzooError, match="registered components only"):
        build_model(model, resolution=64, channels=1)
    with pytest.raises(MtzooError, match=r"^objective: has no name"):
        build_objective({})
    with pytest.raises(MtzooError, match=r"^data\.name: unknown dataset 'shape'"):
        build_dataset({"name": "shape"}, split="train", seed=0)


def test_pretrained_weights_are_not_fetched_where_not_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import timm

    asked = []
    create = timm.create_model

    def spy(*args: object, pretrained: bool = False, **options: object) -> object:
        asked.append(pretrained)
        return create(*args, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", spy)
    model = yaml.safe_load(BASE)["model"]
    model["content_encoder"] = {"name": "timm", "model": "test_resnet", "pretrained": True}
    build_model(model, resolution=32, channels=3, download=False)
    assert set(asked) == {False}
    build_model(model, resolution=32, channels=3)
    assert True in asked


def test_checking_touches_neither_data_nor_the_global_generators(base: Path) -> None:
    import torch

    torch.manual_seed(0)
    before = torch.get_rng_state()
    check_recipe(load_recipe(base, ["--data.name", "clips", "--data.root", "/nowhere/at/all"]))
    assert torch.equal(before, torch.get_rng_state())


def test_sizes_that_cannot_work_name_the_part_and_the_line(base: Path) -> None:
    message = fault(base, "--data.resolution", "48")
    assert message.startswith("--data.resolution: ")
    assert "resolution 48" in message
    base.write_text(BASE.replace("width: 8\n", "width: -8\n"))
    message = fault(base)
    assert message.startswith(f"{base}:8: model.content_encoder.width: ")
    assert "-8" in message
    base.write_text(BASE.replace("frames: 6", "frames: 1"))
    assert fault(base).startswith(f"{base}:3: data.frames: ")
    message = fault(base, "--data.frames=3", "--model.video_discriminator.name=c3d")
    assert message.startswith("--data.frames: clips of 3 frames are too short for model.video_d")
    base.write_text(BASE.replace("lambda_1: 2", "lambda_1: -2"))
    assert fault(base).startswith(f"{base}:13: objective.lambda_1: ")


@pytest.mark.parametrize("option", ["kinds", "families", "backgrounds"])
def test_an_empty_list_is_laid_to_its_own_key(base: Path, option: str) -> None:
    with pytest.raises(MtzooError, match=rf"^--data\.{option}: no .* is given; choose from "):
        check_recipe(load_recipe(base, [f"--data.{option}=[]"]))


def test_an_objective_or_engine_out_of_range_names_its_key(base: Path) -> None:
    assert fault(base, "--engine.steps", "0").startswith("--engine.steps: 0 is too small")
    base.write_text(BASE.replace("betas: [0, 0.9]", "betas: [0, 1]"))
    assert fault(base).startswith(f"{base}:14: engine.betas: ")


def test_parts_that_do_not_go_together_are_refused(base: Path) -> None:
    other = ["--model.content_frames=other"]
    message = fault(base, *other)
    assert message.startswith(f"{base}:13: objective: model.content_frames: other ")
    assert message.endswith("set data.target_identity: same")
    other.append("--data.target_identity=same")
    assert fault(base, *other).endswith("set motion_weight, lambda_i and lambda_v to 0")
    other += [f"--objective.{name}=0" for name in ("motion_weight", "lambda_i", "lambda_v")]
    check_recipe(load_recipe(base, other))
    held = "--model.motion_encoder.mean_spread=1"
    check_recipe(load_recipe(base, [held]))
    for few in ("--engine.batch_size=1", "--engine.devices=2"):
        assert "engine.batch_size: a batch of 1 has no spread" in fault(base, held, few)
    check_recipe(load_recipe(base, ["--engine.batch_size=1"]))


# ---- overrides ----------------------------------------------------------------------------------


def test_overrides_in_both_spellings(base: Path) -> None:
    recipe = load_recipe(
        base,
        [
            "--model.content_encoder.width",
            "16",
            "--engine.steps=5",
            "--seed",
            "9",
            "--engine.steps=7",
        ],
    )
    assert part(recipe, "content_encoder")["width"] == 16
    assert part(recipe, "content_encoder")["content_dim"] == 12
    assert recipe.engine.steps == 7  # the last one wins
    assert recipe.seed == 9


def test_a_changed_name_keeps_what_the_new_component_has(base: Path) -> None:
    recipe = load_recipe(base, ["--model.motion_generator.name", "gru"])
    section = part(recipe, "motion_generator")
    assert section["name"] == "gru"
    assert section["frame_motion_dim"] == 7
    recipe = load_recipe(
        base,
        ["--model.content_encoder.name=timm", "--model.content_encoder.model=test_resnet"],
    )
    section = part(recipe, "content_encoder")
    assert section["content_dim"] == 12
    assert "width" not in section
    assert recipe.notes == (
        "model.content_encoder.width: 8 was meant for 'dcgan' and is dropped; "
        "content encoder 'timm' does not take it",
    )
    # What was typed is meant for the new one, so it is not dropped but refused.
    message = fault(base, "--model.content_encoder.name=timm", "--model.content_encoder.width=3")
    assert message.startswith("--model.content_encoder.width: unknown option of content encoder")


def test_the_same_name_again_changes_nothing(base: Path) -> None:
    assert load_recipe(base, ["--model.content_encoder.name", "dcgan"]) == load_recipe(base)


def test_parts_are_added_and_removed(base: Path) -> None:
    recipe = load_recipe(base, ["--model.image_discriminator.name", "pair"])
    assert part(recipe, "image_discriminator")["name"] == "pair"
    base.write_text(BASE.replace("objective", "  image_discriminator: {name: pair}\nobjective"))
    assert (
        load_recipe(base, ["--model.image_discriminator", "null"]).model["image_discriminator"]
        is None
    )
    recipe = load_recipe(base, ["--model.image_discriminator", "{name: patch}"])
    assert part(recipe, "image_discriminator")["name"] == "patch"


def test_text_that_looks_like_a_number_stays_text_where_text_goes(base: Path) -> None:
    recipe = load_recipe(base, ["--data.name", "clips", "--data.root", "2024"])
    assert recipe.data["root"] == "2024"


@pytest.mark.parametrize(
    ("overrides", "begins", "says"),
    [
        (["--engine.stps", "5"], "--engine.stps: unknown engine option.", "'steps'"),
        (["--modle.x=1"], "--modle: unknown section.", "'model'"),
        (["--model.content_encodr.width=1"], "--model.content_encodr", "name"),
        (["--engine.steps", "five"], "--engine.steps: expected int, got 'five'", ""),
        (["--engine.steps"], "--engine.steps needs a value", ""),
        (["--engine.steps", "--seed", "1"], "--engine.steps needs a value", ""),
        (["--engine.steps", "[1"], "--engine.steps: not valid YAML", ""),
        (["--engine.steps", "!!python/name:os.system"], "--engine.steps: the tag", ""),
        (["--engine.steps.x", "1"], "--engine.steps.x: engine.steps is 20", "no options"),
        (["--seed.x", "1"], "--seed.x: seed is 3", ""),
        (["--engine", "3"], "--engine: expected a mapping", ""),
        (["--engine.steps", "1e3"], "--engine.steps: expected int, got 1000.0", ""),
        (
            ["--model.content_encoder", "resnet"],
            "--model.content_encoder: expected",
            "{name: resnet}",
        ),
        (["--model.content_encoder.name", "os.system"], "--model.content_encoder.name", "import"),
        (["--model.content_encoder.norm", "btach"], "--model.content_encoder.norm", "'batch'"),
        (["--model.content_encoder", "null"], "--model.content_encoder: model", "needs a content"),
        (
            ["--model.image_generator.content_dim", "3"],
            "--model.image_generator",
            "content_encoder",
        ),
        (["stray"], "'stray' was not expected", ""),
        (["--", "x"], "'--' was not expected", ""),
        (["--a..b", "x"], "'--a..b' is not a recipe's key", ""),
    ],
)
def test_wrong_overrides(base: Path, overrides: list[str], begins: str, says: str) -> None:
    message = fault(base, *overrides)
    assert message.startswith(begins)
    assert says in message


@given(
    key=st.sampled_from(["engine.steps", "model.content_encoder.width", "seed", "data.frames"]),
    value=st.integers(1, 10**6),
    equals=st.booleans(),
)
def test_an_override_of_a_whole_number_arrives(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: int, equals: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "override.yaml"
    path.write_text(BASE)
    tokens = [f"--{key}={value}"] if equals else [f"--{key}", str(value)]
    found: object = yaml.safe_load(load_recipe(path, tokens).to_yaml())
    for word in key.split("."):
        assert isinstance(found, dict)
        found = found[word]
    assert found == value


@given(
    tokens=st.lists(st.text(max_size=20) | st.sampled_from(["--seed", "--model.name", "{", "1"]))
)
def test_any_override_gives_a_recipe_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(BASE)
    try:
        recipe = load_recipe(path, tokens)
    except MtzooError:
        return  # anything else would be a traceback in a user's face
    assert isinstance(recipe, Recipe)


# ---- types --------------------------------------------------------------------------------------


class Typed:
    """Every type that an option may have."""

    takes = ("resolution",)

    def __init__(
        self,
        resolution: int,
        *,
        i: int = 1,
        f: float = 1.0,
        b: bool = False,
        s: str = "x",
        n: int | None = None,
        t: tuple[int, ...] = (1,),
        p: tuple[float, float] = (0.0, 1.0),
        u: str | int = 1,
    ) -> None:
        pass


@pytest.mark.parametrize(
    ("option", "value", "kept"),
    [
        ("i", 2, 2),
        ("f", 2, 2.0),
        ("f", 0.5, 0.5),
        ("b", True, True),
        ("s", "64", "64"),
        ("s", "[a]", "[a]"),
        ("s", "null", "null"),
        ("n", None, None),
        ("n", 3, 3),
        ("t", [1, 2], (1, 2)),
        ("t", (1, 2), (1, 2)),
        ("p", [1, 0.5], (1.0, 0.5)),
        ("u", "a", "a"),
        ("u", "3", "3"),
        ("u", 3, 3),
    ],
)
def test_values_of_the_right_type(option: str, value: object, kept: object) -> None:
    assert repr(conform(Typed, option, value)) == repr(kept)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("i", True),
        ("i", "2"),
        ("i", 2.0),
        ("i", None),
        ("i", [1]),
        ("f", "1e-4"),
        ("f", True),
        ("f", None),
        ("b", 1),
        ("b", "yes"),
        ("b", "true"),
        ("s", 3),
        ("s", None),
        ("s", {"class_path": "os.system"}),
        ("n", "null"),
        ("t", 3),
        ("t", "[1, 2]"),
        ("t", ["1"]),
        ("t", [True]),
        ("t", [None]),
        ("p", [1.0]),
        ("p", [1, 2, 3]),
        ("u", 1.5),
    ],
)
def test_values_of_the_wrong_type(option: str, value: object) -> None:
    from mtzoo.recipe.options import MistypedError

    with pytest.raises(MistypedError, match=r"^expected .*, got "):
        conform(Typed, option, value)


class Open:
    def __init__(self, **options: int) -> None:
        pass


class Untyped:
    def __init__(self, width=3) -> None:
        pass


class Callback:
    def __init__(self, hook: type = int) -> None:
        pass


class Unresolvable:
    def __init__(self, width: "Nothing" = 3) -> None:  # noqa: F821
        pass


class Nameless:
    def __init__(self, name: str = "x") -> None:
        pass


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (Open, "must be closed"),
        (Untyped, "has no type"),
        (Callback, "no recipe can state the type"),
        (Unresolvable, "cannot be resolved"),
        (Nameless, "what recipes call components by"),
    ],
)
def test_constructors_that_break_the_contract(target: type, says: str) -> None:
    with pytest.raises(MtzooError, match=f"{target.__name__} breaks the contract: .*{says}"):
        signature(target)


def test_a_class_without_a_constructor_has_no_options() -> None:
    class Bare:
        pass

    assert signature(Bare).keys == []
