"""Recipes from strangers: data, whatever is in them. Nothing that they name is imported."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtzoo.errors import MtzooError
from mtzoo.recipe import Recipe, build_model, check_recipe, load_recipe
from mtzoo.recipe.text import MAX_BYTES

BASE = """\
seed: 0
data: {name: shapes, resolution: 32, frames: 6}
model:
  name: dual_mtgan
  content_encoder: {name: dcgan, width: 4}
  motion_encoder: {name: c3d, width: 4}
  motion_generator: {name: lstm}
  image_generator: {name: dcgan, width: 4}
objective: {name: dual_mtgan}
engine: {steps: 2, batch_size: 2}
"""
ENCODER = "{name: dcgan, width: 4}\n  motion_encoder"


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that can be imported as ``canary`` and leaves a file behind where it is."""
    dead = tmp_path / "dead"
    (tmp_path / "canary.py").write_text(
        f"import pathlib; pathlib.Path({str(dead)!r}).touch()\n"
        "class Bird:\n    def __init__(self, width: int = 1): pass\n"
        "def sing(*a, **k): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return dead


def fault(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "r.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(MtzooError) as caught:
        check_recipe(load_recipe(path))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 1000
    return message.replace(str(tmp_path), "").lstrip("/")


def with_encoder(section: str) -> str:
    assert ENCODER in BASE
    return BASE.replace(ENCODER, f"{section}\n  motion_encoder")


def test_the_base_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(BASE)
    check_recipe(load_recipe(path))


def test_the_canary_sings(canary: Path) -> None:
    import importlib

    importlib.import_module("canary")
    assert canary.exists()
    del sys.modules["canary"]


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("{name: canary.Bird}", "model.content_encoder.name: 'canary.Bird' looks like something"),
        ("{name: 'canary:Bird'}", "looks like something to import"),
        ("{name: ./canary.py}", "looks like something to import"),
        ("{name: canary}", "model.content_encoder.name: unknown content encoder 'canary'"),
        ("{class_path: canary.Bird}", "model.content_encoder.class_path: recipes name registered"),
        ("{name: dcgan, class_path: canary.Bird}", "recipes name registered components only"),
        ("{name: dcgan, init_args: {width: 3}}", "recipes name registered components only"),
        ("{name: dcgan, width: {class_path: canary.Bird}}", "expected a plain value"),
        ("{name: dcgan, width: [{class_path: canary.Bird}]}", "a list with a mapping"),
        ("{name: dcgan, width: canary.sing}", "expected int, got 'canary.sing'"),
        ("{name: dcgan, norm: canary.sing}", "expected one of 'batch'"),
        ("{_target_: canary.Bird}", "recipes name registered components only"),
        ("canary.Bird", "expected a mapping with the name of a registered content encoder"),
        ("!!python/object/apply:canary.sing []", "the tag 'tag:yaml.org,2002:python/object/apply"),
        ("!!python/name:canary.Bird ''", "the tag"),
        ("!!python/module:canary ''", "the tag"),
        ("!canary {name: dcgan}", "the tag '!canary'"),
        ("!!map {name: dcgan}", "the tag"),
        ("{name: dcgan, ? !!python/name:canary.sing '' : 1}", "the tag"),
        ("{name: !!python/name:canary.Bird ''}", "model.content_encoder.name: the tag"),
        ("{name: dcgan, width: !!int '3'}", "model.content_encoder.width: the tag"),
    ],
)
def test_nothing_that_is_named_is_imported(
    tmp_path: Path, canary: Path, section: str, says: str
) -> None:
    message = fault(tmp_path, with_encoder(section))
    assert message.startswith("r.yaml:5: model.content_encoder")
    assert says in message
    assert not canary.exists()
    assert "canary" not in sys.modules


@pytest.mark.parametrize("section", ["data", "objective", "engine"])
def test_nothing_is_imported_from_other_sections(
    tmp_path: Path, canary: Path, section: str
) -> None:
    lines = BASE.splitlines()
    line = next(i for i, text in enumerate(lines) if text.startswith(section))
    for value in ("{class_path: canary.Bird}", "{name: canary.Bird}", "!!python/name:canary.x y"):
        text = "\n".join([*lines[:line], f"{section}: {value}", *lines[line + 1 :]])
        assert fault(tmp_path, text).startswith(f"r.yaml:{line + 1}: {section}")
    assert not canary.exists()


def test_an_unknown_name_anywhere_stops_before_any_import(tmp_path: Path) -> None:
    import subprocess

    path = tmp_path / "r.yaml"
    path.write_text(BASE.replace("image_generator: {name: dcgan", "image_generator: {name: dcgn"))
    code = (
        "import sys\nfrom mtzoo.recipe import load_recipe\nfrom mtzoo.errors import MtzooError\n"
        f"try: load_recipe({str(path)!r})\n"
        "except MtzooError as e: print(e)\n"
        "assert 'torch' not in sys.modules\n"
        "assert not [m for m in sys.modules if m.startswith('mtzoo.components.')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path}:8: model.image_generator.name: unknown image generator")
    assert "Did you mean 'dcgan'?" in done.stdout


def test_a_section_from_a_weights_file_is_a_stranger_s_too(canary: Path) -> None:
    for encoder in (
        {"class_path": "canary.Bird"},
        {"name": "canary.Bird"},
        {"name": "dcgan", "width": {"class_path": "canary.Bird"}},
        {"name": ["canary"]},
        {1: 2, "name": "dcgan"},
        "canary.Bird",
        ["canary.Bird"],
    ):
        with pytest.raises(MtzooError, match=r"^model\.content_encoder"):
            build_model(
                {
                    "name": "dual_mtgan",
                    "content_encoder": encoder,
                    "motion_encoder": {"name": "c3d", "width": 4},
                    "motion_generator": {"name": "lstm"},
                    "image_generator": {"name": "dcgan", "width": 4},
                },
                resolution=32,
                channels=3,
            )
    assert not canary.exists()


@pytest.mark.parametrize(
    ("old", "new", "begins", "says"),
    [
        (
            "width: 4}\n  motion_e",
            "widht: 4}\n  motion_e",
            "5: model.content_encoder.widht",
            "'width'",
        ),
        ("name: c3d", "name: c3dd", "6: model.motion_encoder.name: unknown", "Did you mean 'c3d'"),
        ("name: c3d", "nam: c3d", "6: model.motion_encoder: has no name", "c3d"),
        ("name: c3d", "name: 3", "6: model.motion_encoder.name: expected the name", "got 3"),
        ("name: c3d", "name: null", "6: model.motion_encoder.name: expected the name", "null"),
        ("name: c3d", "name: ''", "6: model.motion_encoder.name: unknown", ""),
        (
            "  image_generator: {name: dcgan, width: 4}\n",
            "",
            "3: model.image_generator",
            "needs an",
        ),
        ("motion_encoder: {", "motion_encodr: {", "6: model.motion_encodr: unknown", "'motion_enc"),
        (
            "motion_encoder: {name: c3d",
            "motion_encoder: {name: lstm",
            "6: model.motion_enc",
            "lstm",
        ),
        ("motion_encoder: {name: c3d, width: 4}", "motion_encoder: [c3d]", "6: model.mo", "a list"),
        ("engine:", "engin:", "10: engin: unknown section", "'engine'"),
        ("steps: 2", "stps: 2", "10: engine.stps: unknown engine option", "'steps'"),
        ("steps: 2", "steps: '2'", "10: engine.steps: expected int, got '2'", ""),
        ("steps: 2", "steps: 2.0", "10: engine.steps: expected int, got 2.0", ""),
        ("steps: 2", "steps: true", "10: engine.steps: expected int, got true", ""),
        ("steps: 2", "steps: .nan", "10: engine.steps: .nan is not a finite number", ""),
        ("steps: 2", "steps: -.inf", "10: engine.steps: -.inf is not a finite number", ""),
        ("steps: 2", "steps: 1e999", "10: engine.steps: the number '1e999' is too large", ""),
        ("steps: 2", f"steps: {'9' * 5000}", "10: engine.steps: the number", "too large"),
        ("steps: 2, ", "", "10: engine: the option 'steps' (int) is missing", ""),
        ("steps: 2", "steps: 2, steps: 3", "10: engine: the key 'steps' is given twice", ""),
        ("engine: {steps: 2, batch_size: 2}", "engine:", "10: engine: expected a mapping", "null"),
        ("engine: {steps: 2, batch_size: 2}", "engine: []", "10: engine: expected a map", "a list"),
        ("seed: 0", "seed: [0]", "1: seed: expected a whole number", ""),
        ("frames: 6", "frames: 6, split: train", "2: data.split: handed on", "'train'"),
        ("frames: 6", "frames: 6, seed: 1", "2: data.seed: handed on", "top of the recipe"),
        (
            "{name: lstm",
            "{name: lstm, motion_dim: 3",
            "7: model.motion_gen",
            "motion_encoder.motion",
        ),
        ("{name: c3d", "{name: c3d, resolution: 32", "6: model.motion_enc", "set data.resolution"),
        ("seed: 0", "seed: 0\nx.y: 1", "2: 'x.y' cannot be a key", "nest keys"),
        ("seed: 0", "seed: 0\n<<: {a: 1}", "2: merge keys", ""),
        ("seed: 0", "seed: 0\n? [a, b]\n: 1", "2: a collection cannot be a key", ""),
        ("seed: 0", "seed: 0\n1: 1", "2: '1' cannot be a key", ""),
        ("seed: 0", "seed: &a 0", "1: seed: the anchor '&a' is not allowed", ""),
        ("seed: 0", "seed: *a", "1: seed: the alias '*a' is not allowed", ""),
        ("seed: 0", "seed: 0\nseed: 1", "2: the key 'seed' is given twice, first in line 1", ""),
        ("seed: 0", "seed: 0\n---\nseed: 1", "2: a second YAML document", ""),
        ("seed: 0", "seed: {a: {b: {c: {d: {e: {f: 1}}}}}}", "1: seed.a.b.c.d.e", "nested deeper"),
        ("seed: 0", "seed: [1", "2: not valid YAML", ""),
        ("seed: 0", "seed: 0\n\tx: 1", "2: not valid YAML", ""),
    ],
)
def test_faults_name_line_key_and_way_out(
    tmp_path: Path, old: str, new: str, begins: str, says: str
) -> None:
    assert BASE.count(old) == 1
    message = fault(tmp_path, BASE.replace(old, new))
    assert message.startswith(f"r.yaml:{begins}")
    assert says in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "this file holds nothing"),
        (b"# only a comment\n", "this file holds nothing"),
        (b"- a\n- b\n", "this file holds a list"),
        (b"just text", "this file holds the value 'just text'"),
        (b"seed: 0\n\xff\xfe", "r.yaml:2: not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00", "not UTF-8"),
        (b"seed: \x00", "not valid YAML"),
        (b"seed: 0", "the section 'data' is missing"),
        (b"a: " + b"[" * 2000, "nested deeper"),
        (b"a: " + b"{a: " * 2000, "nested deeper"),
        (b"- " * 2000 + b"a", "nested deeper"),
        (b"a: " + b"x" * MAX_BYTES, "larger than 64 KiB"),
        (b"a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "the anchor '&a'"),
        (b"a:\n" + b"  - [1]\n" * 5000, "unknown section"),
    ],
)
def test_files_that_are_no_recipes(tmp_path: Path, content: bytes, says: str) -> None:
    assert says in fault(tmp_path, content)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MtzooError, match="there is no recipe"):
        load_recipe(tmp_path / "absent.yaml")
    with pytest.raises(MtzooError, match="is a folder"):
        load_recipe(tmp_path)
    link = tmp_path / "loop.yaml"
    link.symlink_to(link)
    with pytest.raises(MtzooError, match="recipe"):
        load_recipe(link)


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda t: t.encode("utf-8", "replace")))
def test_any_bytes_give_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    with pytest.raises(MtzooError):
        load_recipe(path)


@given(
    cut=st.integers(0, len(BASE)),
    put=st.text("{}[]:,&*!|>'\"%@`#-? \n\tax1.", max_size=4),
    drop=st.integers(0, 6),
)
def test_any_damage_gives_a_recipe_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, cut: int, put: str, drop: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.yaml"
    path.write_text(BASE[:cut] + put + BASE[cut + drop :])
    try:
        recipe = load_recipe(path)
    except MtzooError:
        return  # anything else would be a traceback in a user's face
    assert isinstance(recipe, Recipe)
