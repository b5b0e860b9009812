"""Folding for inference: same outputs, no norms left where they can go, fewer operations."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from engine_kit import TINY
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import mtzoo
from mtzoo.engine.measure import cost
from mtzoo.interfaces import Model
from mtzoo.nn.fold import SubpixelConv2d, _lay_, fold
from mtzoo.recipe import build_model, load_recipe
from mtzoo.registries import REGISTRIES

RIVAL_OPERATIONS = 180
"""G3AN's for a 16-frame video at batch 1, the fewest among those compared."""


def lived(module: nn.Module) -> nn.Module:
    """Give batch norms statistics as if it had been trained."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.running_mean.normal_(0, 0.3, generator=generator)
            part.running_var.uniform_(0.5, 2.0, generator=generator)
            with torch.no_grad():
                part.weight.normal_(1, 0.3, generator=generator)
                part.bias.normal_(0, 0.3, generator=generator)
    return module.eval()


def model(tmp_path, *overrides: str) -> Model:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace(", norm: instance", ""), encoding="utf-8")
    recipe = load_recipe(path, overrides)
    torch.manual_seed(0)
    return lived(build_model(recipe.model, resolution=32, channels=3))


def norms(module: nn.Module) -> int:
    return sum(isinstance(part, _BatchNorm) for part in module.modules())


def test_a_folded_model_gives_the_same_videos(tmp_path):
    whole = model(tmp_path)
    folded = fold(whole)
    assert norms(whole) > 8
    assert norms(folded) == 0
    image, video = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 8, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        for run in (
            lambda m: m.transfer(image, video),
            lambda m: m.sample(image, 2, 8, torch.Generator().manual_seed(0)),
            lambda m: m.reconstruct(video),
        ):
            expected = run(whole)
            assert expected.std() > 0.01
            torch.testing.assert_close(run(folded), expected, rtol=1e-4, atol=1e-5)


def test_the_original_is_left_as_it_was(tmp_path):
    whole = model(tmp_path)
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    pictures = torch.rand(2, 3, 32, 32)
    judged = whole.image_discriminator(pictures, pictures)
    folded = fold(whole)
    assert not any("parametrizations" in name for name in folded.state_dict())
    torch.testing.assert_close(folded.image_discriminator(pictures, pictures), judged)
    assert torch.equal(whole.image_discriminator(pictures, pictures), judged)
    after = whole.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(parameter.requires_grad for parameter in whole.parameters())


def test_sampling_takes_fewer_operations_than_any_rival(tmp_path):
    whole = model(tmp_path)
    folded = fold(whole)
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        plain = cost(lambda: whole.sample(image, 1, 16)).operations
        fewer = cost(lambda: folded.sample(image, 1, 16)).operations
    assert fewer < plain < RIVAL_OPERATIONS


def test_weights_of_2d_convolutions_can_lie_as_activations_do(tmp_path):
    whole = model(tmp_path)
    laid = fold(whole, pack=False)
    _lay_(laid)
    sizes = [weight.dim() for weight in laid.parameters()]
    assert {4, 5} <= set(sizes), "2D convolutions and the motion encoder's"
    for weight in laid.parameters():
        assert weight.dim() != 4 or weight.is_contiguous(memory_format=torch.channels_last)
    image, video = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 8, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        expected = whole.transfer(image, video)
        torch.testing.assert_close(laid.transfer(image, video), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_a_model_folds_on_a_gpu(tmp_path):
    folded = fold(model(tmp_path).cuda())
    image = torch.rand(2, 3, 32, 32, device="cuda") * 2 - 1
    with torch.inference_mode():
        assert folded.sample(image, 2, 8).isfinite().all()


def test_bfloat16_stays_near(tmp_path):
    whole = model(tmp_path)
    folded = fold(whole, dtype=torch.bfloat16)
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        expected, found = (
            m.sample(image, 1, 8, torch.Generator().manual_seed(0)) for m in (whole, folded)
        )
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.1


def test_a_model_whose_layers_turn_folds_to_bfloat16():
    whole = mtzoo.load("shapes-demo")
    image, video = torch.rand(1, 3, 64, 64) * 2 - 1, torch.rand(1, 4, 3, 64, 64) * 2 - 1
    with torch.inference_mode():
        near = fold(whole, dtype=torch.bfloat16).transfer(image, video)
        error = (near - whole.transfer(image, video)).abs().mean()
    assert near.dtype == torch.float32
    assert error < 0.1


def test_a_transposed_convolution_as_a_pixel_shuffle():
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(5, 3, 4, 2, 1).double()
    x = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(SubpixelConv2d(layer)(x), layer(x))


@pytest.mark.parametrize("name", REGISTRIES["image_generators"].names())
def test_every_image_generator_folds(name):
    target = REGISTRIES["image_generators"].get(name)
    tiny = REGISTRIES["image_generators"].entry(name).card.tiny
    torch.manual_seed(0)
    whole = lived(target(32, 3, 6, 4, **tiny))
    content, motion = torch.randn(2, 6), torch.randn(2, 3, 4)
    more = (torch.rand(2, 3, 32, 32),) if target.takes_picture else ()
    with torch.inference_mode():
        torch.testing.assert_close(
            fold(whole)(content, motion, *more),
            whole(content, motion, *more),
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_folded_can_be_copied_and_pickled(dtype, copied):
    torch.manual_seed(0)
    whole = REGISTRIES["image_generators"].get("dcgan")(32, 3, 8, 4, width=4).eval()
    folded = fold(whole, dtype=dtype)
    content, motion = torch.randn(1, 8), torch.randn(1, 2, 4)
    with torch.no_grad():
        made = copied(folded)(content, motion)
        assert made.dtype == torch.float32
        assert torch.equal(made, folded(content, motion))
