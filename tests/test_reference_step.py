"""The step that trains against one written plainly from the paper: equal losses, 100 steps."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mtzoo.engine.profile import distance
from mtzoo.engine.step import Step
from mtzoo.interfaces import Batch, Draws
from mtzoo.recipe import build_model, build_objective, load_recipe

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import reference_step  # noqa: E402

NARROW = [
    *(
        f"--model.{part}.width=4"
        for part in (
            "content_encoder",
            "motion_encoder",
            "image_generator",
            "image_discriminator",
            "video_discriminator",
        )
    ),
    "--model.content_encoder.content_dim=16",
    "--model.motion_encoder.motion_dim=8",
    "--model.motion_encoder.time_bins=2",
    "--model.motion_generator.hidden=16",
    "--model.motion_generator.frame_motion_dim=16",
]


def both(*overrides: str) -> tuple[Any, Any, Any]:
    """A narrow Weizmann recipe with its step and the reference, from equal weights, in float64."""
    recipe = load_recipe(reference_step.RECIPE, [*NARROW, *overrides])
    torch.manual_seed(0)
    model = build_model(recipe.model, resolution=32, channels=3).double()
    reference = reference_step.Reference(model, recipe)
    step = Step(model, build_objective(recipe.objective), recipe.engine, seed=recipe.seed)
    return recipe, step, reference


def steps(step: Any, reference: Any, first: int, count: int) -> list[float]:
    """How far apart the losses of ``count`` steps are."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for number in range(first, first + count):
        batch = reference_step.random_batch(generator, 2, 8, 32)
        batch = Batch(*(part.double() for part in batch))
        draws = Draws(0, number, 0, 2, torch.device("cpu"))
        ours, plain = step(number, batch, draws), reference(number, batch, draws)
        assert {"loss", "image", "video"} <= set(plain["discriminator"])
        assert set(plain["generator"]) == set(ours["generator"])
        found.append(distance(ours, plain))
    return found


@pytest.mark.slow
def test_a_hundred_steps_have_the_losses_of_the_equations():
    # In float64: in float32 Adam makes rounding as large as a step within some tens of steps.
    _, step, reference = both()
    before = [value.clone() for value in reference.average]
    apart = steps(step, reference, 20_000, 100)
    assert max(apart) < 1e-9
    averaged = step.average.model.generators().parameters()
    for kept, mine, begun in zip(reference.average, averaged, before, strict=True):
        assert not torch.equal(mine, begun)
        torch.testing.assert_close(mine, kept, rtol=1e-9, atol=1e-12)


def test_a_ramp_is_followed_too():
    _, step, reference = both()
    assert max(steps(step, reference, 6_000, 2)) < 1e-9


def test_the_distance_sees_another_weight():
    _, step, reference = both()
    reference.options["lambda_1"] *= 1.001
    assert max(steps(step, reference, 20_000, 1)) > 1e-5


class PlacedDraws(Draws):
    """Draws without the pinned memory that a tensor without values cannot have."""

    def _moved(self, values: Tensor) -> Tensor:
        return values.to(self.device)


def test_the_reference_runs_on_a_gpu(monkeypatch):
    # Tensors that know their device and no values stand for a GPU's; what mixes devices raises.
    # The backward pass, which asks the driver for the GPU, is left out.
    monkeypatch.setattr(torch.Tensor, "backward", lambda _: None)
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
    recipe = load_recipe(reference_step.RECIPE, NARROW)
    model = build_model(recipe.model, resolution=32, channels=3)
    names, sizes = [(name, None) for name, _ in model.named_parameters()], model.state_dict()
    gpu = torch.device("cuda", 0)
    with FakeTensorMode():
        state = {
            name: torch.empty(value.shape, dtype=value.dtype, device=gpu)
            for name, value in sizes.items()
        }
        weights: Any = SimpleNamespace(state_dict=lambda: state, named_parameters=lambda: names)
        reference = reference_step.Reference(weights, recipe)
        video = torch.empty(2, 8, 3, 32, 32, device=gpu)
        code = torch.empty(2, model.motion_dim, device=gpu)
        for together in (True, False):
            made = reference.sample(video[:, 0], code, 8, together=together)
            assert (made.shape, made.device) == (video.shape, gpu)
        draws = PlacedDraws(0, 20_000, 0, 2, gpu)
        found = reference(20_000, Batch(video, video, video[:, 0]), draws)
    assert all(value.device == gpu for terms in found.values() for value in terms.values())
