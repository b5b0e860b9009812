"""What is hidden is filled in from what lies around it."""

import pytest
import torch

from mtzoo.errors import MtzooError
from mtzoo.nn.inpaint import pull_push


def hole(side, low, high):
    known = torch.ones(1, 1, side, side)
    known[..., low:high, low:high] = 0
    return known


@pytest.mark.parametrize("size", [(32, 32), (64, 16), (1, 8)])
def test_what_is_known_stays_and_the_rest_lies_within_its_range(size):
    torch.manual_seed(0)
    pictures = torch.rand(2, 3, *size)
    known = (torch.rand(2, 1, *size) < 0.3).float()
    spoilt = torch.where(known.bool(), pictures, 100.0)
    filled = pull_push(spoilt, known)
    assert filled.shape == pictures.shape
    seen = known.bool().expand_as(pictures)
    assert torch.equal(filled[seen], pictures[seen])
    for n in range(2):
        for c in range(3):
            values = pictures[n, c][seen[n, c]]
            assert filled[n, c].min() >= values.min() - 1e-6
            assert filled[n, c].max() <= values.max() + 1e-6


def test_a_ramp_goes_on_behind_a_hole_and_what_is_in_it_leaves_no_trace():
    ramp = (torch.arange(64.0) / 64).expand(1, 1, 64, 64)
    known = hole(64, 20, 40)
    filled = pull_push(ramp, known)
    flat = pull_push(torch.where(known.bool(), ramp, -7.0), known)
    assert torch.equal(filled, flat)
    assert (filled - ramp).abs().max() < 0.04  # the ramp rises by 0.31 within the hole
    assert (filled - (ramp * known).sum() / known.sum()).abs()[known == 0].max() > 0.1


def test_half_known_pixels_are_half_of_what_lies_around():
    picture = torch.zeros(1, 1, 16, 16)
    picture[..., 8, 8] = 1.0
    known = torch.ones_like(picture)
    known[..., 8, 8] = 0.5
    value = float(pull_push(picture, known)[..., 8, 8])
    assert 0.5 < value < 0.65  # its own half, and what it gives the pixels above it


@pytest.mark.parametrize("size", [(48, 32), (32, 33)])
def test_sides_that_cannot_be_halved_to_one_pixel_are_refused(size):
    with pytest.raises(MtzooError, match=f"powers of two .* not {size[0]}x{size[1]}; resize"):
        pull_push(torch.zeros(1, 3, *size), torch.ones(1, 1, *size))


def test_what_is_hardly_known_weighs_as_little_and_next_to_nothing_is_near_0():
    pictures = torch.full((1, 1, 16, 16), 0.8)
    known = torch.full_like(pictures, 1e-8)
    assert (pull_push(pictures, known).abs() < 0.01).all()
    torch.testing.assert_close(pull_push(pictures, known * 0 + 2e-6), pictures)
    known[..., 0, 0] = 1.0
    pictures[..., 0, 0] = 0.3
    torch.testing.assert_close(pull_push(pictures, known), torch.full_like(pictures, 0.3))


def test_nothing_known_is_nothing_and_gradients_are_finite():
    pictures = torch.rand(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    known = torch.zeros(1, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    filled = pull_push(pictures, known)
    assert not filled.any()
    filled.sum().backward()
    for each in (pictures, known):
        assert each.grad is not None
        assert each.grad.isfinite().all()


def test_gradients_of_pictures_and_of_what_is_known():
    torch.manual_seed(1)
    pictures = torch.rand(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    known = torch.rand(1, 1, 8, 8, dtype=torch.float64) * 0.2 + 0.01
    known.requires_grad_()
    assert torch.autograd.gradcheck(pull_push, (pictures, known))
