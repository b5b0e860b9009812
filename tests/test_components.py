"""The contract that every registered component keeps, whatever it is made of.

Everything is built from the component's card, so a new file in a components folder, or an
installed plug-in, is tested without a line here (but for the number of built-ins).
"""

from __future__ import annotations

import copy
import inspect
import json
import re
import subprocess
import sys
import types
import typing

import pytest
import safetensors.torch
import torch
from torch import Tensor

from mtzoo import MtzooError, describe
from mtzoo.interfaces import RESOLUTIONS, Component, ImageGenerator, as_video
from mtzoo.registries import REGISTRIES

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
VIDEO = ("motion_encoders", "video_discriminators")
SIZES = {"channels": 3, "motion_dim": 6, "content_dim": 10, "frame_motion_dim": 7}


def components_of(*kinds: str) -> pytest.MarkDecorator:
    chosen = [(kind, name) for kind, name in ALL if kind in kinds]
    return pytest.mark.parametrize(("kind", "name"), chosen)


SEEING = tuple(kind for kind in BUILT_IN if kind != "motion_generators")
every_component = components_of(*BUILT_IN)


def build(kind: str, name: str, resolution: int = 32, seed: int = 0, **sizes: int) -> Component:
    entry = describe(kind, name)
    given = {**SIZES, "resolution": resolution, **sizes}
    torch.manual_seed(seed)
    built = entry.target(**{size: given[size] for size in entry.target.takes}, **entry.card.tiny)
    if kind == "motion_priors":  # built to permute alone, of which there is little to see
        with torch.no_grad():
            for parameter in built.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.1)
    return built


def make(
    kind: str, batch: int = 2, frames: int = 6, resolution: int = 32, channels: int = 3
) -> tuple[Tensor, ...]:
    """Float inputs of the kind, the same for the same sizes."""
    source = torch.Generator().manual_seed(1)

    def video() -> Tensor:
        shape = (batch, frames, resolution, resolution, channels)
        return as_video(torch.randint(256, shape, generator=source, dtype=torch.uint8))

    def code(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source)

    if kind == "content_encoders":
        return (video()[:, 0],)
    if kind == "image_discriminators":
        return video()[:, 0], video()[:, -1]
    if kind == "motion_generators":
        return (code(batch, SIZES["motion_dim"]),)
    if kind == "motion_priors":
        return code(batch, SIZES["motion_dim"]), video()[:, 0]
    if kind == "image_generators":
        return code(batch, SIZES["content_dim"]), code(batch, frames, SIZES["frame_motion_dim"])
    return (video(),)


def picture_of(content: Tensor, component: ImageGenerator) -> Tensor:
    """A picture for a content code, the same whatever the code's neighbours in the batch."""
    side = component.resolution
    waves = torch.arange(component.channels * side * side, dtype=content.dtype).sin()
    return (waves + content.detach()[..., :1]).tanh().view(-1, component.channels, side, side)


def run(
    kind: str, component: Component, inputs: tuple[Tensor, ...], frames: int = 6, seed: int = 0
) -> tuple[Tensor, ...]:
    """The component's outputs, as a tuple whatever the kind."""
    if kind == "motion_generators":
        outputs = component(*inputs, frames, torch.Generator().manual_seed(seed))
    elif isinstance(component, ImageGenerator) and component.takes_picture:
        outputs = component(*inputs, picture_of(inputs[0], component))
    else:
        outputs = component(*inputs)
    return tuple(outputs) if isinstance(outputs, tuple) else (outputs,)


def settled(kind: str, component: Component) -> Component:
    """The component after two training passes, so that statistics are no longer the first."""
    with torch.no_grad():
        run(kind, component.train(), make(kind))
        run(kind, component, make(kind))
    return component.eval()


def state(component: Component) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in component.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


# What there is, and what is said about it


def test_every_slot_has_its_built_ins() -> None:
    assert {kind: len(REGISTRIES[kind].builtins()) for kind in BUILT_IN} == BUILT_IN
    assert len(ALL) >= sum(BUILT_IN.values()) == 23


@every_component
def test_card_is_filled_in(kind: str, name: str) -> None:
    card = describe(kind, name).card
    for field in ("summary", "source", "faithful", "inputs", "outputs"):
        assert getattr(card, field).strip(), f"the card's {field} is empty"
    assert card.summary.endswith(".")
    assert re.search(r"\b(19|20)\d\d\b|\d{4}\.\d{5}", card.source), "a source has a year"
    assert card.tiny, "the card has no tiny options"
    least = getattr(describe(kind, name).target, "min_frames", 1)
    assert least == 1 or f"frames >= {least}" in card.needs


@every_component
def test_constructor_is_typed_and_closed(kind: str, name: str) -> None:
    target = describe(kind, name).target
    parameters = list(inspect.signature(target.__init__).parameters.values())[1:]
    hints = typing.get_type_hints(target.__init__)
    assert tuple(p.name for p in parameters[: len(target.takes)]) == target.takes
    for parameter in parameters[: len(target.takes)]:
        assert hints[parameter.name] is int
        assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    for parameter in parameters[len(target.takes) :]:
        assert parameter.kind is parameter.KEYWORD_ONLY, parameter
        assert parameter.default is not parameter.empty, f"{parameter} has no default"
        assert plain(hints[parameter.name]), f"{parameter} cannot stand in a recipe"
        assert conforms(parameter.default, hints[parameter.name]), parameter


def plain(hint: object) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return True
    if origin in (typing.Union, types.UnionType):
        return all(plain(a) for a in arguments)
    if origin is tuple:
        return all(a is Ellipsis or plain(a) for a in arguments)
    return hint in (int, float, bool, str, type(None))


def conforms(value: object, hint: object) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(conforms(value, a) for a in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(conforms(v, arguments[0]) for v in value)
    return type(value) is hint or (value is None and hint is type(None))


@every_component
def test_documentation_names_every_argument(kind: str, name: str) -> None:
    target = describe(kind, name).target
    assert (sys.modules[target.__module__].__doc__ or "").strip()
    assert (target.forward.__doc__ or "").strip()
    documented = inspect.cleandoc(target.__doc__ or "")
    for parameter in list(inspect.signature(target.__init__).parameters)[1:]:
        assert re.search(rf"^    {parameter}: \S", documented, re.M), f"{parameter} is not there"


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


# Shapes and values


def check_outputs(
    kind: str, component: Component, outputs: tuple[Tensor, ...], batch: int, frames: int
) -> None:
    for output in outputs:
        assert output.dtype == torch.float32
        assert output.isfinite().all()
        assert len(output) == batch
    if kind == "content_encoders":
        assert [tuple(o.shape) for o in outputs] == [(batch, component.content_dim)]
    elif kind == "motion_encoders":
        assert [tuple(o.shape) for o in outputs] == [(batch, component.motion_dim)] * 2
    elif kind == "motion_priors":
        assert [tuple(o.shape) for o in outputs] == [(batch, component.motion_dim)]
    elif kind == "motion_generators":
        shape = (batch, frames, component.frame_motion_dim)
        assert [tuple(o.shape) for o in outputs] == [shape]
    elif kind == "image_generators":
        side, channels = component.resolution, component.channels
        assert [tuple(o.shape) for o in outputs] == [(batch, frames, channels, side, side)]
        assert outputs[0].abs().max() <= 1
        assert outputs[0].std() > 0
        assert outputs[0].permute(0, 1, 3, 4, 2).is_contiguous(), "not dense as B, T, H, W, C"
    else:
        assert len(outputs) == 1


@every_component
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_shapes_and_ranges(kind: str, name: str, resolution: int) -> None:
    component = build(kind, name, resolution).eval()
    for size in component.gives:
        assert isinstance(getattr(component, size), int)
    least = getattr(component, "min_frames", 1)
    lengths = {32: (least, 5, 8, 16), 64: (8,), 128: (least,)}[resolution]
    for frames in lengths:
        batch = 1 if resolution == 128 else 2
        with torch.no_grad():
            outputs = run(kind, component, make(kind, batch, frames, resolution), frames)
        check_outputs(kind, component, outputs, batch, frames)


@components_of(*SEEING)
def test_other_numbers_of_channels(kind: str, name: str) -> None:
    component = build(kind, name, channels=1).eval()
    with torch.no_grad():
        outputs = run(kind, component, make(kind, channels=1))
    check_outputs(kind, component, outputs, 2, 6)


@pytest.mark.parametrize("name", REGISTRIES["image_generators"].names())
def test_content_once_or_for_each_frame(name: str) -> None:
    component = settled("image_generators", build("image_generators", name))
    content, motion = make("image_generators")
    assert isinstance(component, ImageGenerator)
    shown = torch.rand(len(content), *component(content, motion).shape[2:]) * 2 - 1
    seen = (shown,) if component.takes_picture else ()
    with torch.no_grad():
        once = component(content, motion, *seen)
        repeated = component(content[:, None].expand(-1, motion.shape[1], -1), motion, *seen)
        other = component(content.flip(0), motion, *seen)
    torch.testing.assert_close(once, repeated, rtol=0, atol=1e-5)
    assert not torch.allclose(once, other, atol=1e-4), "the content code changes nothing"
    assert not torch.allclose(once[:, 0], once[:, 1], atol=1e-4), "the motion code changes nothing"


@pytest.mark.parametrize("name", REGISTRIES["image_generators"].names())
def test_pictures_keep_within_their_range(name: str) -> None:
    component = build("image_generators", name).eval()
    with torch.no_grad():
        for size in (1.0, 1e3, 1e6):
            picture = component(*(size * code for code in make("image_generators")))
            assert picture.isfinite().all()
            assert picture.abs().max() <= 1


@every_component
def test_shapes_are_known_without_memory(kind: str, name: str) -> None:
    component = build(kind, name).eval()
    inputs = make(kind)
    if isinstance(component, ImageGenerator) and component.takes_picture:
        inputs = (*inputs, picture_of(inputs[0], component))
    more = (6,) if kind == "motion_generators" else ()
    with torch.no_grad():
        there = component(*inputs, *more)
        made = component.to("meta")(*(value.to("meta") for value in inputs), *more)
    tensors = (there, made) if isinstance(there, tuple) else ((there,), (made,))
    for left, right in zip(*tensors, strict=True):
        assert (left.shape, left.dtype) == (right.shape, right.dtype)
        assert right.is_meta


@every_component
def test_autocast_to_bfloat16(kind: str, name: str) -> None:
    component = settled(kind, build(kind, name))
    inputs = make(kind)
    with torch.no_grad():
        exact = run(kind, component, inputs)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = run(kind, component, inputs)
    for left, right in zip(exact, rounded, strict=True):
        assert right.isfinite().all()
        near = 0.1 * float(left.abs().max())
        torch.testing.assert_close(right.float(), left, rtol=0.1, atol=near)


# Learning


@every_component
def test_every_parameter_gets_a_finite_gradient(kind: str, name: str) -> None:
    # In double precision: a dead parameter's gradient is then 0 up to 1e-15, a live one may be
    # small (timm's convnext scales its branches by 1e-6).
    component = build(kind, name).double().train()
    inputs = tuple(value.double().requires_grad_() for value in make(kind, batch=3))
    outputs = run(kind, component, inputs)
    # Weighted by chance: a plain sum is blind to whatever a normalisation takes out.
    weigh = torch.Generator().manual_seed(2)
    loss = sum((o * torch.randn(o.shape, generator=weigh, dtype=o.dtype)).sum() for o in outputs)
    loss.backward()
    parameters = dict(component.named_parameters())
    assert parameters
    largest = max(p.grad.abs().max() for p in parameters.values() if p.grad is not None)
    for key, parameter in parameters.items():
        assert parameter.grad is not None, f"{key} gets no gradient"
        assert parameter.grad.isfinite().all(), f"the gradient of {key} is not finite"
        assert parameter.grad.abs().max() > 1e-12 * largest, f"the gradient of {key} is 0"
    for value in inputs:
        assert value.grad is not None
        assert value.grad.isfinite().all()
        assert value.grad.any(), "no gradient reaches an input"


@every_component
def test_evaluation_leaves_no_trace(kind: str, name: str) -> None:
    component = settled(kind, build(kind, name))
    before = state(component)
    with torch.no_grad():
        first = run(kind, component, make(kind))
        run(kind, component, make(kind, batch=1))
        again = run(kind, component, make(kind))
    assert same(before, component.state_dict())
    for left, right in zip(first, again, strict=True):
        assert torch.equal(left, right)
    assert component.train().training
    assert all(part.training for part in component.modules())
    assert not any(part.training for part in component.eval().modules())


@every_component
def test_evaluation_ignores_batch_neighbours(
    kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    component = settled(kind, build(kind, name))
    inputs = make(kind, batch=3)
    rows = slice(0, 3)
    drawn = torch.randn

    def noise(*shape: int | tuple[int, ...], **_: object) -> Tensor:
        # Sample i gets the same noise alone and among others; torch's own draws differ.
        sizes = shape[0] if isinstance(shape[0], tuple) else shape
        return drawn((3, *sizes[1:]), generator=torch.Generator().manual_seed(3))[rows]

    monkeypatch.setattr(torch, "randn", noise)
    with torch.no_grad():
        together = run(kind, component, inputs)
        for i in range(3):
            rows = slice(i, i + 1)
            alone = run(kind, component, tuple(value[rows] for value in inputs))
            for left, right in zip(together, alone, strict=True):
                torch.testing.assert_close(left[rows], right, rtol=1e-4, atol=1e-5)


# Copies


@every_component
def test_weights_survive_safetensors(kind: str, name: str) -> None:
    component = settled(kind, build(kind, name))
    stored = safetensors.torch.save(component.state_dict())
    other = build(kind, name, seed=1).eval()
    inputs = make(kind)
    with torch.no_grad():
        wanted = run(kind, component, inputs)
        fresh = run(kind, other, inputs)
        assert not all(torch.equal(a, b) for a, b in zip(wanted, fresh, strict=True))
        other.load_state_dict(safetensors.torch.load(stored))
        loaded = run(kind, other, inputs)
    assert same(component.state_dict(), other.state_dict())
    for left, right in zip(wanted, loaded, strict=True):
        assert torch.equal(left, right)


@every_component
def test_deep_copy_is_equal_and_separate(kind: str, name: str) -> None:
    component = settled(kind, build(kind, name))
    inputs = make(kind)
    before = state(component)
    twin = copy.deepcopy(component)
    with torch.no_grad():
        for left, right in zip(run(kind, component, inputs), run(kind, twin, inputs), strict=True):
            assert torch.equal(left, right)
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert same(before, component.state_dict())


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


# Refusals


@components_of(*SEEING)
@pytest.mark.parametrize("resolution", [0, 16, 48, 256])
def test_unsupported_resolution_is_refused(kind: str, name: str, resolution: int) -> None:
    with pytest.raises(MtzooError, match=rf"'{name}'.*resolution {resolution}\b.*32, 64, 128"):
        build(kind, name, resolution)


@every_component
def test_sizes_below_one_are_refused(kind: str, name: str) -> None:
    for size in describe(kind, name).target.takes:
        if size != "resolution":
            with pytest.raises(MtzooError, match=rf"'{name}'.*\b{size}\b"):
                build(kind, name, **{size: 0})


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


@components_of("motion_generators")
def test_no_frames_are_refused(kind: str, name: str) -> None:
    with pytest.raises(MtzooError, match=rf"'{name}'.*0 frames.*at least 1"):
        build(kind, name)(*make(kind), 0)


@components_of(*VIDEO)
def test_too_short_a_clip_is_refused(kind: str, name: str) -> None:
    component = build(kind, name).eval()
    if (least := component.min_frames) == 1:
        pytest.skip("any length will do")
    with pytest.raises(MtzooError, match=rf"'{name}'.*{least - 1} frames.*at least {least}"):
        component(*make(kind, frames=least - 1))


# Not the image generators: their codes come from the assembly, which hands the sizes on.
@components_of(*(kind for kind in BUILT_IN if kind != "image_generators"))
def test_inputs_of_another_size_are_refused(kind: str, name: str) -> None:
    component = build(kind, name).eval()
    if kind == "motion_generators":
        wrong = [(torch.zeros(2, SIZES["motion_dim"] + 1),)]
    else:
        wrong = [make(kind, resolution=64), make(kind, channels=1)]
    for inputs in wrong:
        with pytest.raises(MtzooError, match=f"'{name}'.*built"):
            run(kind, component, inputs)
