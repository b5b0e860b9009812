"""The contract that every registered component keeps, whatever it is made of.

It is `mtzoo.testing`'s, for packages of one's own too. Everything is built from the component's
card, so a new file in a components folder, or an installed plug-in, is tested without a line here
(but for the number of built-ins).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import typing
from collections.abc import Callable

import pytest
import torch

from mtzoo.errors import MtzooError
from mtzoo.interfaces import ImageGenerator
from mtzoo.registries import REGISTRIES, describe
from mtzoo.testing import CHECKS, SIZES, build, make, run, settled

BUILT_IN = {
    "content_encoders": 3,
    "motion_encoders": 4,
    "motion_generators": 3,
    "image_generators": 6,
    "image_discriminators": 3,
    "video_discriminators": 3,
    "motion_priors": 1,
}
ALL = [(kind, name) for kind in BUILT_IN for name in REGISTRIES[kind].names()]


def test_every_slot_has_its_built_ins() -> None:
    assert {kind: len(REGISTRIES[kind].builtins()) for kind in BUILT_IN} == BUILT_IN
    assert len(ALL) >= sum(BUILT_IN.values()) == 23


@pytest.mark.parametrize(
    ("check", "kind", "name"),
    [
        pytest.param(check, kind, name, id=f"{check.__name__[6:]}-{kind}-{name}")
        for check, kinds in CHECKS.items()
        for kind, name in ALL
        if kind in kinds
    ],
)
def test_contract(check: Callable[[str, str], None], kind: str, name: str) -> None:
    check(kind, name)


every_component = pytest.mark.parametrize(("kind", "name"), ALL)


@every_component
def test_shapes_are_known_without_memory(kind: str, name: str) -> None:
    component = settled(kind, build(kind, name))
    inputs = make(kind)
    with torch.no_grad():
        there = run(kind, component, inputs)
        made = run(kind, component.to("meta"), tuple(value.to("meta") for value in inputs))
    for left, right in zip(there, made, strict=True):
        assert (left.shape, left.dtype) == (right.shape, right.dtype)
        assert right.is_meta


@every_component
def test_options_that_are_none_of_its_choices_are_refused(kind: str, name: str) -> None:
    entry = describe(kind, name)
    given = {size: {**SIZES, "resolution": 32}[size] for size in entry.target.takes}
    hints = typing.get_type_hints(entry.target.__init__)
    for option, hint in hints.items():
        if typing.get_origin(hint) is typing.Literal:
            wrong, said = [7, "wgan", None], rf"\b{option}\b.*{re.escape(str(hint.__args__[0]))}"
        elif hint is float:
            wrong, said = [float("nan"), float("inf")], rf"\b{option} must"
        else:
            continue
        for value in wrong:
            with pytest.raises(MtzooError, match=said) as caught:
                entry.target(**{**given, **entry.card.tiny, option: value})
            assert "\n" not in str(caught.value)


def test_each_module_imports_alone_and_lightly() -> None:
    # One process for all: each import tells which modules of ours and heavy libraries it brought.
    script = """
import importlib, json, sys
heavy = ("lightning", "av", "jsonargparse", "tensorboard", "rich", "PIL.ImageShow", "lpips")
for kind, name in json.loads(sys.argv[1]):
    before = set(sys.modules)
    importlib.import_module(f"mtzoo.components.{kind}.{name}")
    new = set(sys.modules) - before
    for module in new:  # so that the next one that wants it shows it
        if module.startswith("mtzoo.components."):
            del sys.modules[module]
    print(json.dumps([kind, name, sorted(
        m for m in new
        if m.startswith("mtzoo.") and m.count(".") > 1 and not m.startswith("mtzoo.nn.")
        or m.split(".")[0] in heavy
    )]))
"""
    # timm's own imports last, so that they hide nobody else's.
    order = sorted(
        ((k, n) for k in BUILT_IN for n in REGISTRIES[k].builtins()), key=lambda e: e[1] == "timm"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(order)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == sum(BUILT_IN.values())
    for kind, name, new in lines:
        package = f"mtzoo.components.{kind}"
        assert set(new) - {package, "mtzoo.components"} == {f"{package}.{name}"}, "more came along"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("content_encoders", "dcgan"),
        ("motion_encoders", "c3d"),
        ("motion_generators", "transformer"),
        ("image_generators", "dcgan"),
        ("image_discriminators", "pair"),
        ("video_discriminators", "c3d"),
        ("motion_priors", "flow"),
    ],
)
def test_compiled_equals_eager(kind: str, name: str) -> None:
    component = settled(kind, build(kind, name))
    inputs = make(kind)
    keys = list(component.state_dict())
    with torch.no_grad():
        eager = run(kind, component, inputs)
        component.compile(fullgraph=True)
        compiled = run(kind, component, inputs)
    assert list(component.state_dict()) == keys, "compiling renamed the weights"
    for left, right in zip(eager, compiled, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*_flat_weights:UserWarning")  # torch's, of its own layers
@every_component
def test_exported_for_any_batch_equals_eager(kind: str, name: str) -> None:
    component = settled(kind, build(kind, name))

    def arguments(batch: int) -> tuple[object, ...]:
        inputs = make(kind, batch=batch)
        if isinstance(component, ImageGenerator) and component.takes_picture:
            return *inputs, torch.linspace(-1, 1, batch * 3072).view(batch, 3, 32, 32)
        return (*inputs, 6) if kind == "motion_generators" else inputs

    given = arguments(3)
    dynamic = tuple(
        {0: torch.export.Dim("batch")} if isinstance(value, torch.Tensor) else None
        for value in given
    )
    with torch.no_grad():
        exported = torch.export.export(component, given, dynamic_shapes=dynamic).module()
        torch.manual_seed(0)
        expected = component(*arguments(5))
        torch.manual_seed(0)
        torch.testing.assert_close(exported(*arguments(5)), expected)


@pytest.mark.parametrize("name", ["layered", "skip", "warping"])
def test_pictures_that_do_not_fit_the_codes_are_refused(name: str) -> None:
    component = build("image_generators", name).eval()
    content, motion = make("image_generators")
    picture = torch.zeros(2, 3, 32, 32)
    each = content[:, None].expand(-1, motion.shape[1], -1)
    for codes in (content, each):
        with pytest.raises(MtzooError, match=f"'{name}': codes of 2 videos came with 1 pictures"):
            component(codes, motion, picture[:1])
        with pytest.raises(MtzooError, match=f"'{name}': built for images"):
            component(codes, motion, picture[..., 1:])
