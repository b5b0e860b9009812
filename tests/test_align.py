"""Layers are brought to where frames show them."""

import math

import pytest
import torch

from mtzoo.nn.align import align_layers, extent, lay, moved, slopes

SIDE = 48


def similarity(x, y, size, degrees):
    turn = math.radians(degrees)
    cosine, sine = size * math.cos(turn), size * math.sin(turn)
    return torch.tensor([[cosine, -sine, x], [sine, cosine, y], [0, 0, 1.0]])


def scene(*places):
    """A background, and layers that are not alike from any two sides, about ``places``."""
    torch.manual_seed(0)
    at = (torch.arange(SIDE) * 2 + 1) / SIDE - 1
    x, y = at.expand(SIDE, SIDE), at[:, None].expand(SIDE, SIDE)
    background = torch.stack((0.3 * x, 0.2 * y, 0.1 - 0.2 * x))[None]
    layers = []
    for u, v in places:
        opacity = (8 - ((x - u) ** 2 / 0.05 + (y - v) ** 2 / 0.02) * 6).sigmoid()
        colours = torch.stack(((x - u) * 2, (y - v) * 3, torch.ones_like(x) * 0.8)).clamp(-1, 1)
        layers.append(torch.cat((colours * opacity, opacity[None])))
    return background, torch.stack(layers)[None]


def painted(background, layers, moves):
    return lay(background[:, None], moved(layers, moves))[0]


def pixels_off(found, true):
    """How far places about the middle are from where they should be looked up."""
    corners = torch.tensor([[0.2, 0.2, 1], [-0.2, 0.2, 1], [0.1, -0.2, 1]]).T
    return ((found - true) @ corners)[..., :2, :].norm(dim=-2).max() * SIDE / 2


@pytest.mark.parametrize("places", [((0.0, 0.1),), ((-0.3, -0.1), (0.35, 0.2))])
def test_shift_turn_and_size_are_found(places):
    background, layers = scene(*places)
    true = torch.stack([similarity(0.1, -0.05, 1.1, 14), similarity(-0.08, 0.1, 0.9, -20)])[
        None, :, None
    ].expand(-1, -1, len(places), -1, -1)
    frames = painted(background, layers, true)
    start = torch.eye(3).expand_as(true)
    found, error = align_layers(background, layers, start, frames, steps=12)
    assert pixels_off(start, true) > 4
    assert pixels_off(found, true) < 0.1
    torch.testing.assert_close(
        error, (painted(background, layers, found) - frames).square().mean((2, 3, 4))
    )


def test_whole_affine_maps_are_found_only_where_they_are_asked_for():
    background, layers = scene((0.0, 0.0))
    true = torch.tensor([[1.15, 0.12, 0.05], [0.0, 0.9, -0.06], [0, 0, 1]])[None, None, None]
    frames = painted(background, layers, true)
    start = torch.eye(3).expand_as(true)
    similar, worse = align_layers(background, layers, start, frames, steps=12)
    found, error = align_layers(background, layers, start, frames, steps=12, whole=True)
    assert pixels_off(found, true) < 0.1
    assert error < worse / 100
    linear = similar[0, 0, 0, :2, :2]
    torch.testing.assert_close(linear.T @ linear, torch.eye(2) * linear.det())


def test_no_frame_becomes_worse_whatever_it_shows():
    background, layers = scene((0.0, 0.0))
    torch.manual_seed(1)
    frames = torch.rand(1, 6, 3, SIDE, SIDE) * 2 - 1
    start = torch.stack([similarity(3.0 * (i > 3), 0, 1 + i, 40 * i) for i in range(6)])
    start = start[None, :, None]
    before = (painted(background, layers, start) - frames).square().mean((2, 3, 4))
    found, error = align_layers(background, layers, start, frames, steps=4)
    assert found.isfinite().all()
    assert (error <= before + 1e-6).all()


def test_each_frame_is_aligned_by_itself_and_nothing_is_differentiated():
    background, layers = scene((0.0, 0.1))
    layers.requires_grad_(True)
    true = torch.stack([similarity(0.1, 0.0, 1.0, 10), similarity(0.0, 0.1, 1.2, -5)])
    true = true[None, :, None]
    frames = painted(background, layers, true).detach()
    start = torch.eye(3).expand_as(true)
    both, _ = align_layers(background, layers, start, frames)
    alone, _ = align_layers(background, layers, start[:, 1:], frames[:, 1:])
    torch.testing.assert_close(both[:, 1:], alone)
    assert not both.requires_grad


def test_slopes_are_those_of_a_plane_within_and_none_of_its_own_across_maps():
    at = (torch.arange(8) * 2 + 1) / 8 - 1
    plane = 2 * at[None, :] - 3 * at[:, None]
    right, down = slopes(torch.stack((plane, plane + 5))[None])
    torch.testing.assert_close(right[..., 1:-1, 1:-1], torch.full((1, 2, 6, 6), 2.0))
    torch.testing.assert_close(down[..., 1:-1, 1:-1], torch.full((1, 2, 6, 6), -3.0))


def test_slopes_are_the_same_however_many_maps_there_are():
    maps = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    for of_all, of_one in zip(slopes(maps), slopes(maps[1, 2]), strict=True):
        assert of_all.shape == maps.shape
        assert torch.equal(of_all[1, 2], of_one)


def test_whatever_comes_in_float32_comes_out():
    background, layers = scene((0.0, 0.1))
    true = similarity(0.1, -0.05, 1.1, 14)[None, None, None]
    frames = painted(background, layers, true)
    start = torch.eye(3).expand_as(true)
    single = align_layers(background, layers, start, frames)
    double = align_layers(*(value.double() for value in (background, layers, start, frames)))
    for left, right in zip(single, double, strict=True):
        assert right.dtype == torch.float32
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)


def test_low_precision_around_it_does_not_reach_it():
    background, layers = scene((0.0, 0.1))
    true = similarity(0.1, -0.05, 1.1, 14)[None, None, None]
    frames = painted(background, layers, true)
    start = torch.eye(3).expand_as(true)
    expected, _ = align_layers(background, layers, start, frames)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = align_layers(background, layers, start, frames)
    torch.testing.assert_close(found, expected)


def test_extent_is_where_things_are_and_how_far_they_reach():
    opacity = torch.zeros(2, 40, 40)
    opacity[0, 10:14, 20:30] = 1
    centre, spread = extent(opacity)
    torch.testing.assert_close(centre[0], torch.tensor([0.25, -0.4]), atol=0.01, rtol=0)
    # Of a box, a twelfth of its squared sides.
    expected = math.sqrt((0.5**2 + 0.2**2) / 12)
    assert spread[0] == pytest.approx(expected, abs=0.02)
    torch.testing.assert_close(centre[1], torch.zeros(2), atol=1e-5, rtol=0)
