"""Every built-in component at its default size, forward alone and with backward, 64x64x16.

pytest -c benchmarks/pytest.ini benchmarks/components_bench.py --benchmark-json FILE.json
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._inductor.config
from bench_kit import DEVICE, GRADIENTS, ON_GPU, compare, kind_of, tf32
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.nn import functional as F

import mtzoo
from mtzoo.interfaces import Component, ImageGenerator
from mtzoo.registries import REGISTRIES

SIDE, FRAMES = 64, 16
BATCH = 32 if ON_GPU else 2
SIZES = {"content_dim": 128, "motion_dim": 64, "frame_motion_dim": 64}
TAKES = {
    "image_generators": ("content_dim", "frame_motion_dim"),
    "motion_generators": ("motion_dim",),
    "motion_priors": ("motion_dim",),
}
ALL = [
    (slot, name)
    for slot in (
        "content_encoders",
        "motion_encoders",
        "motion_priors",
        "motion_generators",
        "image_generators",
        "image_discriminators",
        "video_discriminators",
    )
    for name in REGISTRIES[slot].builtins()
]
VARIANTS = ("nchw", "channels_last", "bf16", "compiled", *(["tf32"] if ON_GPU else []))


def build(slot: str, name: str) -> Component:
    options: dict[str, Any] = {key: SIZES[key] for key in TAKES.get(slot, ())}
    if slot != "motion_generators":
        options |= {"resolution": SIDE, "channels": 3}
    torch.manual_seed(0)
    return mtzoo.create(slot, name, **options).to(DEVICE)


def inputs(slot: str, component: Component) -> tuple[Any, ...]:
    torch.manual_seed(1)
    # As smooth as pictures are: of white noise little is left after some layers, and batch norms
    # over two of them would make much of the rounding.
    coarse = torch.rand(BATCH * FRAMES, 3, 8, 8, device=DEVICE) * 2 - 1
    frames = F.interpolate(coarse, size=SIDE, mode="bilinear").permute(0, 2, 3, 1).contiguous()
    video = frames.unflatten(0, (BATCH, FRAMES)).permute(0, 1, 4, 2, 3)
    code = torch.randn(BATCH, FRAMES, 128, device=DEVICE)
    if slot == "content_encoders":
        return (video[:, 0],)
    if slot == "image_discriminators":
        return video[:, 0], video[:, 1]
    if slot == "motion_priors":
        return code[:, 0, : SIZES["motion_dim"]], video[:, 0]
    if slot == "motion_generators":
        return code[:, 0, : SIZES["motion_dim"]], FRAMES
    if slot == "image_generators":
        assert isinstance(component, ImageGenerator)
        seen = (video[:, 0],) if component.takes_picture else ()
        return code[:, 0], code[..., : SIZES["frame_motion_dim"]], *seen
    return (video,)


@functools.cache
def towards(shape: torch.Size) -> Tensor:
    """What outputs are drawn to: of their squares alone a last norm would leave no gradient."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(DEVICE)


def run(component: Component, given: tuple[Any, ...], kind: str, backward: bool) -> list[Tensor]:
    """Outputs; the backward pass leaves gradients where they belong."""
    torch.manual_seed(2)  # for components that draw
    lower = kind == "bf16"
    context = torch.autocast(DEVICE.type, torch.bfloat16) if lower else contextlib.nullcontext()
    with context, torch.set_grad_enabled(backward):
        output = component(*given)
    outputs = list(output) if isinstance(output, tuple) else [output]
    if backward:
        component.zero_grad(set_to_none=True)
        torch.stack(
            [(o.float() - towards(o.shape)).square().mean() for o in outputs]
        ).sum().backward()
    return outputs


def checked(
    component: Component, given: tuple[Any, ...], kind: str, backward: bool
) -> list[Tensor]:
    """What is compared: outputs and, after a backward pass, gradients.

    Those of all parameters are one vector, and so are those of all inputs: a bias before a norm has
    none but rounding.
    """
    if not backward:
        return run(component, given, kind, False)
    followed = [g.detach().clone().requires_grad_() if _learns(g) else g for g in given]
    outputs = run(component, tuple(followed), kind, True)
    weights = [_gradient(parameter) for parameter in component.parameters()]
    entries = [_gradient(g) for g in followed if _learns(g)]
    return [*outputs, *(torch.cat(part) for part in (weights, entries) if part)]


def _learns(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _gradient(value: Tensor) -> Tensor:
    return (torch.zeros_like(value) if value.grad is None else value.grad).flatten()


def nchw_(component: Component) -> None:
    """Let all parts of a component take pictures and clips in NCHW, whatever made them."""

    def hook(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(g.contiguous() if isinstance(g, Tensor) and g.dim() > 3 else g for g in given)

    for part in component.modules():
        part.register_forward_pre_hook(hook)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.parametrize(("slot", "name"), ALL)
def bench_component(
    benchmark: BenchmarkFixture, slot: str, name: str, way: str, variant: str
) -> None:
    component = build(slot, name)
    given = inputs(slot, component)
    component.train()
    with torch.no_grad():
        component(*given)
    if way == "forward":
        component.eval()
    backward = way == "backward"
    plain = tuple(g.contiguous() if isinstance(g, Tensor) else g for g in given)
    other = build(slot, name)
    other.load_state_dict(component.state_dict())
    other.train(component.training)
    nchw_(component)
    if variant == "nchw":
        nchw_(other)
    if variant == "compiled":
        other.compile()
    kind = kind_of(variant)
    laid = plain if variant == "nchw" else given

    def lowered(of: Callable[..., list[Tensor]]) -> Callable[[], list[Tensor]]:
        call = functools.partial(of, other, laid, kind, backward)
        return tf32(call) if kind == "tf32" else call

    with torch._inductor.config.patch(fallback_random=True):  # compiled, it draws the same, too
        compare(
            benchmark,
            functools.partial(run, component, plain, "fp32", backward),
            lowered(run),
            group=f"{slot}: {name}, {way}",
            parameters=list(component.parameters()),
            kind=kind,
            compiled=variant == "compiled",
            beyond=GRADIENTS,
            checks=(
                functools.partial(checked, component, plain, "fp32", backward),
                lowered(checked),
            ),
        )
