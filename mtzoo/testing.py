"""The contract of components, for the tests of mtzoo and of packages that bring their own.

`check_component` holds one registered component to all of it:

```python
from mtzoo.testing import check_component


def test_average() -> None:
    check_component("content_encoders", "average")
```

Each check is a function of its own, too, for tests that name what they look at. All build the
component from its card's ``tiny`` options, at the sizes in `SIZES`, on the CPU, and raise
`AssertionError` with one line that says what was promised.
"""

from __future__ import annotations

import copy
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import safetensors.torch
import torch
from torch import Tensor

from mtzoo.errors import MtzooError
from mtzoo.interfaces import RESOLUTIONS, Component, Gaussian, ImageGenerator, as_video
from mtzoo.registries import describe, registry

SIZES: Mapping[str, int] = types.MappingProxyType(
    {"channels": 3, "motion_dim": 6, "content_dim": 10, "frame_motion_dim": 7}
)
"""What components are built for, beside a resolution of 32."""

KINDS = (
    "content_encoders",
    "motion_encoders",
    "motion_generators",
    "image_generators",
    "image_discriminators",
    "video_discriminators",
    "motion_priors",
)
"""Kinds of components, as the registries call them."""

SEEING = tuple(kind for kind in KINDS if kind != "motion_generators")
"""Kinds that see or paint pictures."""

VIDEO = ("motion_encoders", "video_discriminators")
"""Kinds that see whole clips."""

FRAMES = 6


def check_component(kind: str, name: str) -> None:
    """Hold a registered component to its kind's whole contract; takes seconds.

    torch's CPU generator is afterwards what it was.

    Args:
        kind: For example ``"content_encoders"`` (or ``"content_encoder"``).
        name: Registered name; an installed package's entry point counts.

    Raises:
        AssertionError: What is promised and not kept, in one line.
        MtzooError: Nothing of the kind has that name, or it is no component.
    """
    found = registry(kind)
    if found.kind not in KINDS:
        raise MtzooError(
            f"{found.title}s have no contract that could be checked so; kinds: {', '.join(KINDS)}"
        )
    found.entry(name)
    with torch.random.fork_rng(devices=[]):
        for check, kinds in CHECKS.items():
            if found.kind not in kinds:
                continue
            try:
                check(found.kind, name)
            except Exception as error:
                about = check.__name__.removeprefix("check_")
                broke = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
                raise AssertionError(
                    f"{found.title} {name!r}, {about}: {broke}{' '.join(str(error).split())}"
                ) from error


# What it is built from and fed with


def build(kind: str, name: str, resolution: int = 32, seed: int = 0, **sizes: int) -> Any:
    """A tiny instance of a component, the same for the same seed."""
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
    kind: str, batch: int = 2, frames: int = FRAMES, resolution: int = 32, channels: int = 3
) -> tuple[Tensor, ...]:
    """Float inputs of a kind, the same for the same sizes."""
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


def run(
    kind: str, component: Any, inputs: tuple[Tensor, ...], frames: int = FRAMES, seed: int = 0
) -> tuple[Tensor, ...]:
    """A component's outputs, as a tuple whatever the kind."""
    if kind == "motion_generators":
        outputs = component(*inputs, frames, torch.Generator().manual_seed(seed))
    elif isinstance(component, ImageGenerator) and component.takes_picture:
        outputs = component(*inputs, _picture_of(inputs[0], component))
    else:
        outputs = component(*inputs)
    return tuple(outputs) if isinstance(outputs, tuple) else (outputs,)


def settled(kind: str, component: Any) -> Any:
    """The component after two training passes, so that statistics are no longer the first."""
    with torch.no_grad():
        run(kind, component.train(), make(kind))
        run(kind, component, make(kind))
    return component.eval()


def _picture_of(content: Tensor, component: ImageGenerator) -> Tensor:
    """A picture for a content code, the same whatever the code's neighbours in the batch."""
    side = component.resolution
    count = component.channels * side * side
    waves = torch.arange(count, dtype=content.dtype, device=content.device).sin()
    first = content.detach()[..., :1]
    return (waves + first).tanh().view(first.numel(), component.channels, side, side)


# What is said about it


def check_card(kind: str, name: str) -> None:
    """Everything on the card is said; the source has a year; least frames are named."""
    entry = describe(kind, name)
    card = entry.card
    for field in ("summary", "source", "faithful", "inputs", "outputs"):
        _must(bool(getattr(card, field).strip()), f"the card's {field} is empty")
    _must(card.summary.endswith("."), "the card's summary ends in no full stop")
    dated = re.search(r"\b(19|20)\d\d\b|\d{4}\.\d{5}", card.source)
    _must(bool(dated), f"the card's source {card.source!r} has no year")
    _must(bool(card.tiny), "the card has no tiny options")
    least = getattr(entry.target, "min_frames", 1)
    told = least == 1 or f"frames >= {least}" in card.needs
    _must(told, f"the card's needs lack 'frames >= {least}'")


def check_constructor(kind: str, name: str) -> None:
    """What is handed on comes first, then options by keyword, typed, with defaults; no more."""
    target = describe(kind, name).target
    parameters = list(inspect.signature(target.__init__).parameters.values())[1:]
    hints = typing.get_type_hints(target.__init__)
    count = len(target.takes)
    first = tuple(parameter.name for parameter in parameters[:count])
    _must(first == target.takes, f"the first arguments are {first}, not takes, {target.takes}")
    for parameter in parameters[:count]:
        _must(hints[parameter.name] is int, f"{parameter.name} is handed on and no int")
        free = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        _must(free, f"{parameter.name} is handed on and cannot be given by position and keyword")
    for parameter in parameters[count:]:
        option = parameter.name
        _must(parameter.kind is parameter.KEYWORD_ONLY, f"the option {option} is not keyword-only")
        _must(parameter.default is not parameter.empty, f"the option {option} has no default")
        _must(option in hints, f"the option {option} has no type")
        _must(_plain(hints[option]), f"the option {option} has a type that no recipe can state")
        fits = _conforms(parameter.default, hints[option])
        _must(fits, f"the default of {option}, {parameter.default!r}, is not of its type")


def check_documentation(kind: str, name: str) -> None:
    """Module and ``forward`` are documented, and the class names every constructor argument."""
    target = describe(kind, name).target
    _must(bool((sys.modules[target.__module__].__doc__ or "").strip()), "its module says nothing")
    _must(bool((target.forward.__doc__ or "").strip()), "its forward says nothing")
    documented = inspect.cleandoc(target.__doc__ or "")
    for parameter in list(inspect.signature(target.__init__).parameters)[1:]:
        said = re.search(rf"^    {parameter}: \S", documented, re.M)
        _must(bool(said), f"the class's docstring does not say what {parameter} is under Args")


# Shapes and values


def check_shapes(kind: str, name: str, resolutions: tuple[int, ...] = RESOLUTIONS) -> None:
    """Outputs have the shape, the type and the range of the kind, at all resolutions."""
    for resolution in resolutions:
        component = build(kind, name, resolution).eval()
        for size in component.gives:
            given = getattr(component, size, None)
            _must(isinstance(given, int), f"gives {size}, which is {given!r} and no int")
        if kind == "motion_encoders":
            with torch.no_grad():
                posterior = component(*make(kind, resolution=resolution))
            told = type(posterior).__name__
            _must(isinstance(posterior, Gaussian), f"it gives a {told}, not a Gaussian")
        least = getattr(component, "min_frames", 1)
        lengths = {32: (least, 5, 8, 16), 64: (8,), 128: (least,)}[resolution]
        for frames in lengths:
            batch = 1 if resolution == 128 else 2
            with torch.no_grad():
                outputs = run(kind, component, make(kind, batch, frames, resolution), frames)
            _hold(kind, component, outputs, batch, frames)


def check_channels(kind: str, name: str) -> None:
    """One channel will do."""
    component = build(kind, name, channels=1).eval()
    with torch.no_grad():
        outputs = run(kind, component, make(kind, channels=1))
    _hold(kind, component, outputs, 2, FRAMES)


def check_content_of_frames(kind: str, name: str) -> None:
    """An image generator takes content once or for each frame; both codes change what it paints."""
    component = settled(kind, build(kind, name))
    content, motion = make(kind)
    with torch.no_grad():
        shape = run(kind, component, (content, motion))[0].shape[2:]
        shown = torch.rand(len(content), *shape) * 2 - 1
        seen = (shown,) if component.takes_picture else ()
        once = component(content, motion, *seen)
        repeated = component(content[:, None].expand(-1, motion.shape[1], -1), motion, *seen)
        other = component(content.flip(0), motion, *seen)
    same = torch.allclose(once, repeated, rtol=0, atol=1e-5)
    _must(same, "content for each frame gives other frames than the same content once")
    _must(not torch.allclose(once, other, atol=1e-4), "the content code changes nothing")
    still = torch.allclose(once[:, 0], once[:, 1], atol=1e-4)
    _must(not still, "the motion code changes nothing")


def check_range(kind: str, name: str) -> None:
    """An image generator keeps within [-1, 1], however large the codes."""
    component = build(kind, name).eval()
    with torch.no_grad():
        for size in (1.0, 1e3, 1e6):
            (picture,) = run(kind, component, tuple(size * code for code in make(kind)))
            most = float(picture.abs().max())
            _must(most <= 1, f"codes of size {size:g} give pictures up to {most:.4g}; end in tanh")


def check_autocast(kind: str, name: str) -> None:
    """Under autocast to bfloat16 outputs are the same up to a tenth."""
    component = settled(kind, build(kind, name))
    inputs = make(kind)
    with torch.no_grad():
        exact = run(kind, component, inputs)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = run(kind, component, inputs)
    for left, right in zip(exact, rounded, strict=True):
        near = 0.1 * float(left.abs().max())
        fits = torch.allclose(right.float(), left, rtol=0.1, atol=near)
        _must(fits, "under autocast to bfloat16 the outputs are others")


# Learning


def check_gradients(kind: str, name: str) -> None:
    """Every parameter and every input gets a gradient that is finite and not 0."""
    # In double precision: a dead parameter's gradient is then 0 up to 1e-15, a live one may be
    # small (timm's convnext scales its branches by 1e-6).
    component = build(kind, name).double().train()
    inputs = tuple(value.double().requires_grad_() for value in make(kind, batch=3))
    outputs = run(kind, component, inputs)
    # Weighted by chance: a plain sum is blind to whatever a normalisation takes out.
    weigh = torch.Generator().manual_seed(2)
    weights = [torch.randn(o.shape, generator=weigh, dtype=o.dtype) for o in outputs]
    loss = sum((o * w).sum() for o, w in zip(outputs, weights, strict=True))
    assert isinstance(loss, Tensor)
    _must(loss.requires_grad, "no gradient reaches anything")
    loss.backward()
    parameters = dict(component.named_parameters())
    _must(bool(parameters), "it has no parameters")
    largest = max(
        (p.grad.abs().max() for p in parameters.values() if p.grad is not None), default=0
    )
    for key, parameter in parameters.items():
        if parameter.grad is None:
            raise AssertionError(f"{key} gets no gradient")
        _must(bool(parameter.grad.isfinite().all()), f"the gradient of {key} is not finite")
        alive = bool(parameter.grad.abs().max() > 1e-12 * largest)
        _must(alive, f"the gradient of {key} is 0")
    for value in inputs:
        reached = value.grad is not None and bool(value.grad.isfinite().all() and value.grad.any())
        _must(reached, "no gradient reaches an input, or one that is not finite")


def check_evaluation(kind: str, name: str) -> None:
    """Evaluation changes no state, and the same inputs give the same outputs."""
    component = settled(kind, build(kind, name))
    before = _state(component)
    with torch.no_grad():
        first = run(kind, component, make(kind))
        run(kind, component, make(kind, batch=1))
        again = run(kind, component, make(kind))
    _must(_same(before, component.state_dict()), "evaluation changes its state")
    _must(all(map(torch.equal, first, again)), "evaluated again it gives something else")
    _must(all(part.training for part in component.train().modules()), "train() leaves parts out")
    _must(not any(p.training for p in component.eval().modules()), "eval() leaves parts out")


def check_neighbours(kind: str, name: str) -> None:
    """In evaluation a sample's output does not depend on the others in its batch."""
    component = settled(kind, build(kind, name))
    inputs = make(kind, batch=3)
    rows = slice(0, 3)
    drawn = torch.randn

    def noise(*shape: Any, **_: object) -> Tensor:
        # Sample i gets the same noise alone and among others; torch's own draws differ.
        sizes = shape[0] if isinstance(shape[0], tuple) else shape
        return drawn((3, *sizes[1:]), generator=torch.Generator().manual_seed(3))[rows]

    with torch.no_grad(), mock.patch.object(torch, "randn", noise):
        together = run(kind, component, inputs)
        for i in range(3):
            rows = slice(i, i + 1)
            alone = run(kind, component, tuple(value[rows] for value in inputs))
            for left, right in zip(together, alone, strict=True):
                same = torch.allclose(left[rows], right, rtol=1e-4, atol=1e-5)
                _must(same, "a sample comes out otherwise alone than among others")


# Copies


def check_weights(kind: str, name: str) -> None:
    """Weights written as safetensors and read by a fresh instance give the same outputs."""
    component = settled(kind, build(kind, name))
    stored = safetensors.torch.save(component.state_dict())
    other = build(kind, name, seed=1).eval()
    inputs = make(kind)
    with torch.no_grad():
        wanted = run(kind, component, inputs)
        fresh = run(kind, other, inputs)
        _must(not all(map(torch.equal, wanted, fresh)), "its weights change nothing")
        other.load_state_dict(safetensors.torch.load(stored))
        loaded = run(kind, other, inputs)
    _must(_same(component.state_dict(), other.state_dict()), "loaded weights are not those saved")
    _must(all(map(torch.equal, wanted, loaded)), "loaded weights give something else")


def check_copy(kind: str, name: str) -> None:
    """A deep copy gives the same outputs and shares no weights."""
    component = settled(kind, build(kind, name))
    inputs = make(kind)
    before = _state(component)
    twin = copy.deepcopy(component)
    with torch.no_grad():
        pairs = zip(run(kind, component, inputs), run(kind, twin, inputs), strict=True)
        _must(all(torch.equal(left, right) for left, right in pairs), "a copy gives something else")
        for parameter in twin.parameters():
            parameter.add_(1.0)
    _must(_same(before, component.state_dict()), "a copy shares its weights")


# Refusals


def check_resolutions_refused(kind: str, name: str) -> None:
    """A resolution that is not 32, 64 or 128 is refused in the constructor."""
    for resolution in (0, 16, 48, 256):
        pattern = rf"'{name}'.*resolution {resolution}\b.*32, 64, 128"
        _refuses(f"resolution {resolution}", pattern, lambda r=resolution: build(kind, name, r))


def check_sizes_refused(kind: str, name: str) -> None:
    """A handed-on size below 1 is refused in the constructor."""
    for size in describe(kind, name).target.takes:
        if size != "resolution":
            pattern = rf"'{name}'.*\b{size}\b"
            _refuses(f"{size} 0", pattern, lambda s=size: build(kind, name, **{s: 0}))


def check_frames_refused(kind: str, name: str) -> None:
    """A clip that is too short is refused: of no frames by generators, below ``min_frames``."""
    component = build(kind, name).eval()
    if kind == "motion_generators":
        pattern = rf"'{name}'.*0 frames.*at least 1"
        _refuses("a clip of 0 frames", pattern, lambda: component(*make(kind), 0))
    elif (least := component.min_frames) > 1:
        pattern = rf"'{name}'.*{least - 1} frames.*at least {least}"
        short = make(kind, frames=least - 1)
        _refuses(f"a clip of {least - 1} frames", pattern, lambda: component(*short))


def check_inputs_refused(kind: str, name: str) -> None:
    """Inputs of another size than it was built for are refused."""
    component = build(kind, name).eval()
    wrong: dict[str, tuple[Tensor, ...]]
    if kind == "motion_generators":
        wrong = {"codes of another size": (torch.zeros(2, SIZES["motion_dim"] + 1),)}
    elif kind == "image_generators":
        content, motion = make(kind)
        wrong = {
            "content codes of another size": (content[:, 1:], motion),
            "motion codes of another size": (content, motion[..., 1:]),
            "motion codes without frames' dimension": (content, motion[:, 0]),
            "content codes without the batch's dimension": (content[0], motion),
            "content codes of fewer videos": (content[:1], motion),
            "content codes of fewer frames": (content[:, None].expand(-1, 3, -1), motion),
            "motion codes of 0 frames": (content, motion[:, :0]),
            "codes of 0 videos": (content[:0], motion[:0]),
        }
    else:
        wrong = {
            "pictures of 64x64 where it was built for 32x32": make(kind, resolution=64),
            "pictures of 1 channel where it was built for 3": make(kind, channels=1),
        }
    for what, inputs in wrong.items():
        _refuses(what, f"'{name}'.*built", lambda i=inputs: run(kind, component, i))


def check_pairs_refused(kind: str, name: str) -> None:
    """An image discriminator refuses conditions and frames that differ in number."""
    component = build(kind, name).eval()
    condition, frame = make(kind)
    pattern = rf"'{name}': \d+ conditions and \d+ frames"
    for pair in ((condition[:1], frame), (condition, frame[:1])):
        what = f"{len(pair[0])} conditions for {len(pair[1])} frames"
        _refuses(what, pattern, lambda p=pair: run(kind, component, p))


def check_whole_numbers_refused(kind: str, name: str) -> None:
    """Pictures in whole numbers are refused, which would be read as being far beyond [-1, 1]."""
    component = build(kind, name).eval()
    whole = tuple(value.mul(127).to(torch.int16) for value in make(kind))
    pattern = rf"'{name}': .* floats in \[-1, 1\], not int16"
    _refuses("pictures in whole numbers", pattern, lambda: run(kind, component, whole))


CHECKS: Mapping[Callable[[str, str], None], tuple[str, ...]] = {
    check_card: KINDS,
    check_constructor: KINDS,
    check_documentation: KINDS,
    check_shapes: KINDS,
    check_channels: SEEING,
    check_content_of_frames: ("image_generators",),
    check_range: ("image_generators",),
    check_autocast: KINDS,
    check_gradients: KINDS,
    check_evaluation: KINDS,
    check_neighbours: KINDS,
    check_weights: KINDS,
    check_copy: KINDS,
    check_resolutions_refused: SEEING,
    check_sizes_refused: KINDS,
    check_frames_refused: (*VIDEO, "motion_generators"),
    check_inputs_refused: KINDS,
    check_pairs_refused: ("image_discriminators",),
    # Not of what takes codes, which the assembly makes.
    check_whole_numbers_refused: (
        "content_encoders",
        "motion_encoders",
        "image_discriminators",
        "video_discriminators",
    ),
}
"""Every check, with the kinds that it is for."""


def _hold(kind: str, component: Any, outputs: tuple[Tensor, ...], batch: int, frames: int) -> None:
    """Hold outputs to the shape, the type and the range of their kind."""
    for output in outputs:
        _must(isinstance(output, Tensor), f"it gives {type(output).__name__}s, not tensors")
        _must(output.dtype == torch.float32, f"it gives {output.dtype}, not torch.float32")
        _must(bool(output.isfinite().all()), "it gives values that are not finite")
        _must(output.dim() > 0 and len(output) == batch, f"it gives not {batch} of {batch} samples")
    found = [tuple(output.shape) for output in outputs]
    wanted: list[tuple[int, ...]] | None = {
        "content_encoders": lambda c: [(batch, c.content_dim)],
        "motion_encoders": lambda c: [(batch, c.motion_dim)] * 2,
        "motion_priors": lambda c: [(batch, c.motion_dim)],
        "motion_generators": lambda c: [(batch, frames, c.frame_motion_dim)],
        "image_generators": lambda c: [(batch, frames, c.channels, c.resolution, c.resolution)],
    }.get(kind, lambda _: found[:1])(component)
    _must(found == wanted, f"it gives {found}, not {wanted}")
    if kind == "image_generators":
        (video,) = outputs
        _must(float(video.abs().max()) <= 1, "it paints beyond [-1, 1]")
        _must(float(video.std()) > 0, "it paints one grey")
        dense = video.permute(0, 1, 3, 4, 2).is_contiguous()
        _must(dense, "its videos are not dense as B, T, H, W, C")


def _must(held: bool, message: str) -> None:
    # Not the statement, which `python -O` leaves out.
    if not held:
        raise AssertionError(message)


def _refuses(what: str, pattern: str, attempt: Callable[[], object]) -> None:
    """Hold an attempt to failing with a `MtzooError` that names what is wrong."""
    try:
        attempt()
    except MtzooError as error:
        said = re.search(pattern, str(error))
        _must(bool(said), f"refuses {what} with {str(error)!r}, which has no {pattern!r}")
    except Exception as error:
        raise AssertionError(
            f"{what} ends in {type(error).__name__}: {error}; raise a MtzooError that says so"
        ) from error
    else:
        raise AssertionError(f"{what} is not refused; raise a MtzooError that says so")


def _state(component: Component) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in component.state_dict().items()}


def _same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def _plain(hint: object) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return True
    if origin in (typing.Union, types.UnionType):
        return all(map(_plain, arguments))
    if origin is tuple:
        return all(a is Ellipsis or _plain(a) for a in arguments)
    return hint in (int, float, bool, str, type(None))


def _conforms(value: object, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(_conforms(value, a) for a in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_conforms(v, arguments[0]) for v in value)
    return type(value) is hint or (value is None and hint is type(None))
