"""The registry: names without imports, one owner a name, messages that help."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

import mtzoo
from mtzoo import Card, MtzooError, registries
from mtzoo.errors import did_you_mean, nearest
from mtzoo.registries import REGISTRIES
from mtzoo.registry import Registry

CARD = Card("A thing.", "Nobody 2026", "All of it.", "nothing", "nothing")
numbers = itertools.count()


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry of its own with the built-ins ``plain`` and ``liar`` (registers another name)."""
    number = next(numbers)  # catalogue's namespaces and imported modules outlive a test
    kind, package = f"things_{number}", f"mtzoo_test_things_{number}"
    folder = tmp_path / package
    folder.mkdir()
    (folder / "__init__.py").write_text("REGISTRY = None\n")
    (folder / "_hidden.py").write_text("raise RuntimeError('a private module was imported')\n")
    for name, registered in (("plain", "plain"), ("liar", "truth")):
        (folder / f"{name}.py").write_text(
            f"from {package} import REGISTRY\n"
            "from mtzoo import Card\n"
            f"@REGISTRY.register({registered!r}, Card('A.', 'B 2026', 'C', 'D', 'E'))\n"
            f"class {name.title()}: ...\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry(kind, package, "thing")
    __import__(package)
    sys.modules[package].REGISTRY = registry
    return registry


def offer(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    """Let installed packages offer ``(name, "module:attribute")`` under every kind."""

    def entry_points(*, group: str) -> list[importlib.metadata.EntryPoint]:
        return [importlib.metadata.EntryPoint(name, value, group) for name, value in points]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


# Names


def test_names_come_without_imports() -> None:
    script = """
import json, sys
import mtzoo
names = {kind: mtzoo.list(kind) for kind in sys.argv[1:]}
assert not any(name in mtzoo.registries.registry(kind) for kind in names for name in ["absent"])
heavy = [m for m in sys.modules if m.split(".")[0] in ("torch", "timm", "lightning", "numpy")]
parts = [m for m in sys.modules if m.startswith("mtzoo.components.") and m.count(".") > 2]
print(json.dumps([names, heavy, parts]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *REGISTRIES], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    names, heavy, parts = json.loads(done.stdout)
    assert names["motion_generators"] == ["gru", "lstm", "transformer"]
    assert all(names[kind] == mtzoo.list(kind) for kind in REGISTRIES)
    assert heavy == []
    assert parts == []


def test_ten_kinds() -> None:
    assert len(REGISTRIES) == 10
    for kind, registry in REGISTRIES.items():
        assert getattr(registries, kind) is registry
        assert registry.kind == kind


@pytest.mark.parametrize("kind", list(REGISTRIES))
def test_every_built_in_file_registers_its_own_name_and_nothing_else(kind: str) -> None:
    registry = REGISTRIES[kind]
    builtins = registry.builtins()
    assert builtins, f"no built-in {kind}"
    for name in builtins:
        entry = registry.entry(name)
        assert (entry.kind, entry.name) == (kind, name)
        assert entry.origin == f"{entry.target.__module__}.{entry.target.__qualname__}"
    package = registry.entry(builtins[0]).target.__module__.rpartition(".")[0]
    registered = {
        (entry.target.__module__, name)
        for name, entry in registry._entries.items()
        if entry.target.__module__.startswith(f"{package}.")
    }
    assert registered == {(f"{package}.{name}", name) for name in builtins}


def test_private_modules_are_no_entries_and_only_the_asked_for_is_imported(
    things: Registry,
) -> None:
    assert things.names() == ["liar", "plain"]
    assert things.get("plain").__name__ == "Plain"
    loaded = {m.rpartition(".")[2] for m in sys.modules if m.startswith(f"{things._package}.")}
    assert loaded == {"plain"}


def test_a_file_that_registers_another_name_is_not_found(things: Registry) -> None:
    with pytest.raises(MtzooError, match="unknown thing 'liar'"):
        things.entry("liar")


# One owner a name


def test_a_name_is_registered_once(things: Registry) -> None:
    @things.register("own", CARD)
    class First: ...

    with pytest.raises(MtzooError, match=r"thing 'own' is already registered by .*First") as error:

        @things.register("own", CARD)
        class Second: ...

    assert "\n" not in str(error.value)
    assert things.get("own") is First
    assert things.names() == ["liar", "own", "plain"]
    assert things.entry("own").card is CARD


def test_equal_class_names_from_two_modules_are_two_classes(things: Registry) -> None:
    def define(module: str) -> type:
        return things.register("own", CARD)(type("Own", (), {"__module__": module}))

    first = define("one")
    with pytest.raises(MtzooError, match=r"thing 'own' is already registered by one\.Own"):
        define("two")
    assert things.get("own") is first


def test_registering_again_after_a_reload_is_no_clash(things: Registry) -> None:
    def define() -> type:
        @things.register("own", CARD)
        class Own: ...

        return Own

    define()
    latest = define()
    assert things.get("own") is latest


@pytest.mark.parametrize("asked_before", [False, True])
def test_built_ins_cannot_be_shadowed(things: Registry, asked_before: bool) -> None:
    if asked_before:
        things.get("plain")
    with pytest.raises(MtzooError, match=r"'plain' (belongs to|is already registered)"):

        @things.register("plain", CARD)
        class Impostor: ...

    assert things.get("plain").__name__ == "Plain"


def test_the_zoos_own_names_cannot_be_shadowed() -> None:
    class Impostor: ...

    for kind, registry in REGISTRIES.items():
        for name in registry.builtins():
            with pytest.raises(MtzooError, match=f"{name!r}"):
                registry.register(name, CARD)(Impostor)
            assert mtzoo.describe(kind, name).target is not Impostor


@pytest.mark.parametrize("name", ["a.b", "a b", "", "_a", "a/b", "-a", "a:b", 5, None])
def test_a_name_that_no_recipe_can_state_is_refused(things: Registry, name: object) -> None:
    with pytest.raises(MtzooError, match=f"no recipe can state {name!r} as the name of a thing"):
        things.register(name, CARD)  # type: ignore[arg-type]


def test_what_is_no_class_or_has_no_card_is_refused(things: Registry) -> None:
    with pytest.raises(MtzooError, match="thing 'own' is registered with None in place of its ca"):
        things.register("own", None)  # type: ignore[arg-type]
    with pytest.raises(MtzooError, match=r"thing 'own' is to be .*, which is no class"):
        things.register("own", CARD)(len)  # type: ignore[type-var]
    assert "own" not in things


# Plug-ins


def test_plug_in_cannot_take_a_built_in_name(
    things: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, ("plain", "somewhere:Thing"))
    with pytest.raises(MtzooError, match="'plain', which is built in"):
        things.get("plain")
    assert things.names() == ["liar", "plain"]


def test_two_plug_ins_with_one_name(things: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, ("new", "one:Thing"), ("new", "two:Thing"))
    with pytest.raises(MtzooError, match=r"two installed packages offer the thing 'new' .*one:T"):
        things.get("new")
    assert "one:Thing and two:Thing" in (things.refusal("new") or "")


def test_a_clash_is_in_nobody_else_s_way(things: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, ("new", "one:Thing"), ("new", "two:Thing"), ("other", "fractions:Fraction"))
    assert things.names() == ["liar", "new", "other", "plain"]
    assert list(things.plugins()) == ["other"]
    assert list(things.clashes()) == ["new"]
    assert things.refusal("plain") is None
    assert things.get("plain").__name__ == "Plain"
    assert things.register("own", CARD)(type("Own", (), {})) is things.get("own")


def test_broken_plug_in_is_one_line_and_hurts_nobody_else(
    things: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, ("broken", "no_such_module_anywhere:Thing"))
    assert things.names() == ["broken", "liar", "plain"]
    assert things.get("plain")
    with pytest.raises(MtzooError, match=r"'broken' of the installed .*cannot be imported"):
        things.get("broken")


def test_a_plug_in_that_leaves_on_import_is_one_line(
    things: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / f"{things._package}_leaver.py").write_text("raise SystemExit(0)\n")
    offer(monkeypatch, ("leaver", f"{things._package}_leaver:Thing"))
    with pytest.raises(MtzooError, match=r"'leaver' .* cannot be imported \(SystemExit: 0\)"):
        things.get("leaver")


def test_plug_in_without_card(things: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, ("bare", "fractions:Fraction"), ("function", "json:dumps"))
    for name in ("bare", "function"):
        with pytest.raises(MtzooError, match=f"{name!r} .* neither registered with a Card nor"):
            things.get(name)


@pytest.mark.parametrize("decorated", [False, True])
def test_plug_in_may_offer_a_class_from_where_it_re_exports_it(
    things: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, decorated: bool
) -> None:
    package = f"{things._package}_plugin"
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("from .inner import Mine\n")
    lines = ["from mtzoo import Card", "card = Card('A.', 'B 2026', 'C', 'D', 'E')"]
    if decorated:
        lines += [f"import {things._package}"]
        lines += [f"@{things._package}.REGISTRY.register('mine', card)", "class Mine: ..."]
    else:
        lines += ["class Mine:", "    card = card"]
    (tmp_path / package / "inner.py").write_text("\n".join(lines))
    offer(monkeypatch, ("mine", f"{package}:Mine"))
    assert "mine" in things.names()
    assert package not in sys.modules
    entry = things.entry("mine")
    assert entry.origin == f"{package}.inner.Mine"
    assert entry.card.source == "B 2026"
    with pytest.raises(MtzooError, match="'mine'"):
        things.register("mine", CARD)(type("Other", (), {}))


def test_plug_in_names_are_kept_for_the_plug_in(
    things: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, ("theirs", "their_package.things:Thing"))
    with pytest.raises(MtzooError, match="'theirs' belongs to their_package and cannot be rep"):
        things.register("theirs", CARD)(type("Mine", (), {}))


# Messages


def test_unknown_name_tells_the_nearest_all_and_where_more_come_from() -> None:
    with pytest.raises(MtzooError) as error:
        mtzoo.describe("motion_generators", "lstn")
    message = str(error.value)
    assert message.startswith("unknown motion generator 'lstn'. Did you mean 'lstm'?")
    assert "Known: gru, lstm, transformer" in message
    assert "'mtzoo_motion_generators'" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["os.system", "mtzoo.components.motion_generators.lstm", "", "_a"])
def test_nothing_but_names_is_looked_up(name: str) -> None:
    with pytest.raises(MtzooError, match="unknown motion generator"):
        mtzoo.create("motion_generators", name)


def test_kinds_are_understood_in_the_singular_and_hyphenated() -> None:
    for spelled in ("motion_encoders", "motion_encoder", "motion-encoder", " Motion-Encoders "):
        assert registries.registry(spelled) is registries.motion_encoders
    with pytest.raises(MtzooError, match=r"unknown kind 'motion_encodes'.*'motion_encoders'"):
        mtzoo.list("motion_encodes")
    with pytest.raises(MtzooError, match=r"unknown kind 'x'\. Kinds: content_encoders, "):
        mtzoo.list("x")


def test_create_builds_and_refuses_mistyped_options() -> None:
    component = mtzoo.create("motion_generator", "lstm", motion_dim=3, hidden=4, layers=1)
    assert type(component) is mtzoo.describe("motion_generators", "lstm").target
    assert component.motion_dim == 3
    with pytest.raises(MtzooError) as error:
        mtzoo.create("motion_generators", "lstm", motion_dim=3, hiden=4)
    message = str(error.value)
    assert message.startswith("motion generator 'lstm' has no option 'hiden'.")
    assert "Did you mean 'hidden'" in message
    assert "Options: motion_dim, frame_motion_dim" in message


def test_create_names_what_is_missing_and_sizes_that_are_none() -> None:
    with pytest.raises(MtzooError) as error:
        mtzoo.create("image_generators", "dcgan", resolution=32)
    assert str(error.value) == (
        "image generator 'dcgan' needs channels, content_dim, frame_motion_dim; write "
        "create('image_generators', 'dcgan', channels=..., content_dim=..., frame_motion_dim=...)"
    )
    with pytest.raises(MtzooError, match="model 'dual_mtgan' needs content_encoder, motion_encod"):
        mtzoo.create("models", "dual_mtgan")
    for value in (32.0, "32", True, None):
        with pytest.raises(MtzooError, match=f"resolution must be a whole number, not {value!r}$"):
            mtzoo.create("content_encoders", "dcgan", resolution=value)
    assert mtzoo.create("datasets", "shapes", split="test", seed=0, resolution=32)


def test_describe_tells_class_card_and_origin() -> None:
    entry = mtzoo.describe("motion_encoders", "c3d")
    assert entry.kind == "motion_encoders"
    assert entry.origin == "mtzoo.components.motion_encoders.c3d.C3DMotionEncoder"
    assert "ICCV 2015" in entry.card.source


def test_cards_cannot_be_changed() -> None:
    options = {"width": 4}
    card = Card("A.", "B", "C", "D", "E", tiny=options)
    options["width"] = 5
    assert card.tiny["width"] == 4
    with pytest.raises(TypeError):
        card.tiny["width"] = 5  # type: ignore[index]
    with pytest.raises(AttributeError):
        card.summary = "Other."  # type: ignore[misc]


def test_nearest_names() -> None:
    known = ["dcgan", "resnet", "resnet3d", "timm", "lstm_generator"]
    assert nearest("dcgn", known) == ["dcgan"]
    assert nearest("resnet2d", known)[0] == "resnet3d"
    assert nearest("lstm", known) == ["lstm_generator"]
    assert nearest("zzzzz", known) == []
    assert did_you_mean("zzzzz", known) == ""
    assert did_you_mean("dcgn", known) == " Did you mean 'dcgan'?"
