"""Every built-in component at its default size, forward alone and with backward, 64x64x16.

pytest -c benchmarks/pytest.ini benchmarks/components_bench.py --benchmark-json FILE.json
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._inductor.config
from bench_kit import DEVICE, ON_GPU, compare, tf32
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
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


def runner(
    component: Component, given: tuple[Any, ...], precision: torch.dtype, backward: bool
) -> Callable[[], list[Tensor]]:
    def run() -> list[Tensor]:
        torch.manual_seed(2)  # for components that draw
        lower = precision is not torch.float32
        context = torch.autocast(DEVICE.type, precision) if lower else contextlib.nullcontext()
        with context, torch.set_grad_enabled(backward):
            output = component(*given)
        outputs = list(output) if isinstance(output, tuple) else [output]
        if backward:
            component.zero_grad(set_to_none=True)
            torch.stack([o.float().square().mean() for o in outputs]).sum().backward()
        return outputs

    return run


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
    reference = runner(component, plain, torch.float32, backward)
    precision = torch.bfloat16 if variant == "bf16" else torch.float32
    other = build(slot, name)
    other.load_state_dict(component.state_dict())
    other.train(component.training)
    if variant == "compiled":
        other.compile()
    run = runner(other, plain if variant == "nchw" else given, precision, backward)
    with torch._inductor.config.patch(fallback_random=True):  # compiled, it draws the same, too
        compare(
            benchmark,
            reference,
            tf32(run) if variant == "tf32" else run,
            group=f"{slot}: {name}, {way}",
            parameters=list(component.parameters()),
            precision=precision,
            compiled=variant == "compiled",
            bound=0.02 if variant == "tf32" else None,
        )
