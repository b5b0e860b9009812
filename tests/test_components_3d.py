"""What the 3D and recurrent components promise beyond the common contract."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import adaptive_avg_pool3d
from torch.nn.utils import parametrize

import mtzoo
from mtzoo import MtzooError
from mtzoo.components.motion_encoders.c3d import C3DMotionEncoder
from mtzoo.components.motion_encoders.trajectories import TrajectoryMotionEncoder
from mtzoo.components.motion_generators.gru import GRUMotionGenerator
from mtzoo.components.motion_generators.lstm import LSTMMotionGenerator
from mtzoo.components.motion_generators.transformer import TransformerMotionGenerator
from mtzoo.components.video_discriminators.c3d import C3DVideoDiscriminator
from mtzoo.components.video_discriminators.patch3d import Patch3DVideoDiscriminator
from mtzoo.components.video_discriminators.r2plus1d import R2Plus1DVideoDiscriminator
from mtzoo.interfaces import Component, MotionEncoder, VideoDiscriminator
from mtzoo.nn.blocks3d import (
    Conv3x3x3,
    Conv4x4,
    GaussianHead,
    between,
    critic_head,
    pool_to,
    random_rotations,
)
from mtzoo.nn.conv3d import Conv3d
from mtzoo.nn.recurrent import LSTM
from mtzoo.nn.time import cosines, time_features, to_cosines
from mtzoo.registries import motion_encoders, video_discriminators

ENTRIES = ("every_step", "first_step", "initial_state", "tracks")
DISCRIMINATORS = (C3DVideoDiscriminator, Patch3DVideoDiscriminator, R2Plus1DVideoDiscriminator)


def video(batch: int, frames: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    frames_last = torch.rand(batch, frames, 32, 32, 3, generator=source) * 2 - 1
    return frames_last.permute(0, 1, 4, 2, 3)


def encoder(name: str, **options: object) -> MotionEncoder:
    torch.manual_seed(0)
    sizes = {"tracks": 1, "terms": 5} if name == "trajectories" else {"motion_dim": 5}
    return motion_encoders.get(name)(32, 3, width=4, **sizes, **options)


def discriminator(target: type[VideoDiscriminator], **options: object) -> VideoDiscriminator:
    torch.manual_seed(0)
    return target(32, 3, width=4, **options)


def lstm(**options: object) -> LSTMMotionGenerator:
    torch.manual_seed(0)
    sizes = {"hidden": 8, "layers": 1, "frame_motion_dim": 5, "time_dim": 4, "tracks": 2}
    return LSTMMotionGenerator(6, **{**sizes, **options})


def assert_all_learn(component: Component) -> None:
    for key, parameter in component.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


# The blocks


def test_time_features_by_hand() -> None:
    features = time_features(3, 4, like=torch.zeros(1))  # periods 4 and 256
    slow = 2 * math.pi / 256
    expected = [
        [0.0, 0.0, 1.0, 1.0],
        [1.0, math.sin(slow), 0.0, math.cos(slow)],
        [0.0, math.sin(2 * slow), -1.0, math.cos(2 * slow)],
    ]
    torch.testing.assert_close(features, torch.tensor(expected), rtol=0, atol=1e-6)


def test_time_features_know_the_frame_alone() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    features = time_features(200, 8, like)
    assert features.dtype == like.dtype
    assert torch.equal(features[:16], time_features(16, 8, like))
    distances = torch.cdist(features, features).fill_diagonal_(1.0)
    assert distances.min() > 0.01, "two frames look alike"


def test_cosines_are_orthogonal_over_the_period_and_mirrored_after_it() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    waves = cosines(16, 16, 16, like)
    torch.testing.assert_close(waves.T @ waves / 16, torch.eye(16).to(like), rtol=0, atol=1e-6)
    longer = cosines(32, 16, 16, like)
    torch.testing.assert_close(longer[:16], waves)
    torch.testing.assert_close(longer[16:], waves.flip(0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("frames", [2, 8, 16, 24])
def test_tracks_and_their_coefficients(frames: int) -> None:
    coefficients = torch.randn(3, 2, 4)
    tracks = cosines(frames, 4, 16, coefficients) @ coefficients.transpose(1, 2)
    again = to_cosines(tracks, 4, 16)
    assert again.shape == coefficients.shape
    if frames == 16:
        torch.testing.assert_close(again, coefficients)
    rebuilt = cosines(frames, 4, 16, again) @ again.transpose(1, 2)
    assert (rebuilt - tracks).square().mean() < 0.01 * tracks.square().mean()
    # Where frames leave coefficients open, they are not made large.
    assert again.norm() <= coefficients.norm() * 1.01


@given(
    frames=st.integers(1, 9),
    side=st.integers(1, 6),
    time=st.integers(1, 5),
    space=st.integers(1, 4),
)
def test_pooling_is_adaptive_average_pooling(frames: int, side: int, time: int, space: int) -> None:
    source = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, frames, side, side, generator=source)
    expected = adaptive_avg_pool3d(features, (time, space, space))
    torch.testing.assert_close(pool_to(features, time, space), expected, rtol=1e-4, atol=1e-5)


def test_width_between_factors_is_the_papers() -> None:
    # Tran et al. 2018: 64 to 64 channels, 3x3x3, give 144 in between.
    assert between(64, 64, 3, 3) == 144
    assert between(1, 1, 3, 3) >= 1


def test_head_keeps_order_and_places_unless_told_to_average() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 8, 4, 4)
    sizes = {"channels": 3, "motion_dim": 5, "initial_sigma": 0.3}
    for time_bins, space_bins in product((1, 4), (1, 4)):
        head = GaussianHead(time_bins=time_bins, space_bins=space_bins, **sizes)
        mean, _ = head(features)
        backwards, _ = head(features.flip(2))
        mirrored, _ = head(features.flip(4))
        assert torch.allclose(mean, backwards, atol=1e-5) == (time_bins == 1)
        assert torch.allclose(mean, mirrored, atol=1e-5) == (space_bins == 1)


def test_forget_gates_start_open() -> None:
    layer = LSTM(3, 4, 2)
    for depth in range(2):
        bias = getattr(layer, f"bias_ih_l{depth}") + getattr(layer, f"bias_hh_l{depth}")
        assert bias.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8  # input, forget, cell, output


# Motion encoders

every_encoder = pytest.mark.parametrize("name", motion_encoders.builtins())
convolving_in_time = pytest.mark.parametrize(
    "name", [name for name in motion_encoders.builtins() if name != "trajectories"]
)


@every_encoder
@pytest.mark.parametrize("norm", ["batch", "instance", "group", "none"])
def test_encoder_takes_one_short_clip_with_any_norm(name: str, norm: str) -> None:
    component = encoder(name, norm=norm).train()
    mean, log_variance = component(video(1, 2))
    (mean.square().sum() + log_variance.square().sum()).backward()
    assert_all_learn(component)


@convolving_in_time
def test_encoder_halves_time_as_told(name: str) -> None:
    clip = video(1, 9).transpose(1, 2)
    for halvings, left in ((0, 9), (1, 5), (2, 3)):
        features = encoder(name, time_halvings=halvings).features(clip)
        assert features.shape[2:] == (left, 4, 4)
    for wrong in (-1, 3):
        with pytest.raises(MtzooError, match=rf"{name}.*time_halvings is {wrong}; .* 0 to 2"):
            encoder(name, time_halvings=wrong)


@every_encoder
def test_posterior_starts_where_it_is_told_to(name: str) -> None:
    component = encoder(name, initial_sigma=0.5)
    mean, log_variance = component(video(8, 5))
    torch.testing.assert_close(
        (0.5 * log_variance).exp(), torch.full((8, 5), 0.5), rtol=0, atol=0.05
    )
    assert 0.05 < mean.std() < 5
    with pytest.raises(MtzooError, match="initial_sigma must be above 0"):
        encoder(name, initial_sigma=0.0)


@convolving_in_time
def test_variances_stay_within_their_bound(name: str) -> None:
    free, kept = encoder(name), encoder(name, log_variance_bound=6.0, initial_sigma=0.2)
    with torch.no_grad():
        start = kept(video(8, 5)).log_variance
        torch.testing.assert_close((0.5 * start).exp(), torch.full((8, 5), 0.2), rtol=0, atol=0.02)
        for component in (free, kept):
            component.head.log_variance.weight.mul_(1e5)
        loose, bounded = (c(video(8, 5)).log_variance for c in (free, kept))
        assert loose.abs().max() > 20
        assert 5.9 < bounded.abs().max() <= 6
    with pytest.raises(MtzooError, match="must be 0 or more, not -1"):
        encoder(name, log_variance_bound=-1.0)
    with pytest.raises(MtzooError, match=r"between 0.368 and 2.72; initial_sigma is 0.3"):
        encoder(name, log_variance_bound=2.0)


@every_encoder
def test_encoder_hears_the_arrow_of_time(name: str) -> None:
    component = encoder(name).eval()
    clip = video(1, 16)
    with torch.no_grad():
        forwards, backwards = component(clip).mean, component(clip.flip(1)).mean
    assert (forwards - backwards).abs().max() > 0.01


@every_encoder
def test_encoder_learns_where_things_go(name: str) -> None:
    # A bright square moves left or right; two dozen steps are enough to read off which.
    def clips(count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        side = torch.randint(2, (count,), generator=source) * 2 - 1
        row = torch.randint(0, 24, (count,), generator=source)
        frames = torch.full((count, 4, 3, 32, 32), -1.0)
        for i, t in product(range(count), range(4)):
            column = 12 + int(side[i]) * (4 * t - 6)
            frames[i, t, :, row[i] : row[i] + 8, column : column + 8] = 1.0
        return frames, side.float()

    source = torch.Generator().manual_seed(0)
    component = encoder(name, **({} if name == "trajectories" else {"time_bins": 2})).train()
    optimiser = torch.optim.Adam(component.parameters(), 3e-3)
    for _ in range(24):
        clip, side = clips(8, source)
        # The second number; the first of a track is its mean, which is here the same.
        loss = (component(clip).mean[:, 1] - side).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    clip, side = clips(16, source)
    with torch.no_grad():
        assert (component(clip).mean[:, 1].sign() == side).float().mean() > 0.9


def test_trajectories_read_each_frame_alone() -> None:
    torch.manual_seed(0)
    component = TrajectoryMotionEncoder(32, 3, width=4, tracks=2, terms=4, view="frames").eval()
    clip = video(2, 16)
    forth, back = (component(v).mean.unflatten(1, (2, 4)) for v in (clip, clip.flip(1)))
    # Run backwards, a track keeps its even cosines and turns its odd ones round.
    torch.testing.assert_close(back, forth * torch.tensor([1.0, -1.0, 1.0, -1.0]))
    assert forth[..., 1::2].abs().max() > 0.01
    with torch.no_grad():
        component.size.fill_(1.0)
    numbers = component.tracks(component.hidden(component.features(clip[:, 5]).flatten(1)))
    whole = TrajectoryMotionEncoder(32, 3, width=4, tracks=2, terms=16, view="frames").eval()
    learned = {
        key: value
        for key, value in component.state_dict().items()
        if key != "size" and not key.startswith("log_variance")
    }
    whole.load_state_dict(learned, strict=False)
    with torch.no_grad():
        whole.size.fill_(1.0)
    # All cosines of a period give back every frame's numbers.
    tracks = cosines(16, 16, 16, clip) @ whole(clip).mean.unflatten(1, (2, 16)).transpose(1, 2)
    torch.testing.assert_close(tracks[:, 5], numbers, rtol=1e-3, atol=1e-4)


def test_trajectories_that_cannot_be() -> None:
    with pytest.raises(MtzooError, match="terms is 17; in 16 frames it must be 1 to 16"):
        TrajectoryMotionEncoder(32, terms=17)
    with pytest.raises(MtzooError, match="initial_sigma must be above 0, not 0"):
        TrajectoryMotionEncoder(32, initial_sigma=0)
    with pytest.raises(MtzooError, match="shrink is 4; at 32x32 it must be one of 1, 2"):
        TrajectoryMotionEncoder(32, shrink=4)
    for tracks, period in ((4, 16), (2, 2)):
        with pytest.raises(
            MtzooError,
            match=f"6 cannot be {tracks} tracks.* entry: every_step",
        ):
            LSTMMotionGenerator(6, entry="tracks", tracks=tracks, period=period)


# Motion generators


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("time_input", [True, False])
def test_lstm_is_the_cell_unrolled(entry: str, time_input: bool) -> None:
    component = lstm(entry=entry, time_input=time_input, output_norm="none")
    code = torch.randn(2, 6)
    cell = nn.LSTMCell(component.lstm.input_size, 8)
    cell.load_state_dict(
        {key.removesuffix("_l0"): value for key, value in component.lstm.state_dict().items()}
    )
    state = (torch.zeros(2, 8), torch.zeros(2, 8))
    if entry == "initial_state":
        hidden, memory = component.state(code).chunk(2, dim=1)
        state = (hidden.tanh(), memory)
    expected = []
    for t in range(7):
        parts = [torch.zeros(2, 0)]
        value = None
        if entry == "tracks":
            # Two tracks of three cosines; the size is that of a sum of three.
            waves = [2**0.5 * math.cos(math.pi * k * (t + 0.5) / 16) for k in (1, 2)]
            value = code.unflatten(1, (2, 3)) @ torch.tensor([1.0, *waves]) / 3**0.5
            parts.append(value)
        elif entry != "initial_state":
            parts.append(code if entry == "every_step" or t == 0 else torch.zeros_like(code))
        if time_input:
            parts.append(time_features(7, 4, like=code)[t].expand(2, -1))
        step = torch.cat(parts, dim=1)
        state = cell(step if step.shape[1] else torch.ones(2, 1), state)
        past = 0 if value is None else component.past(value)
        expected.append(component.output(state[0]) + past)
    torch.testing.assert_close(component(code, 7), torch.stack(expected, dim=1))


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("time_input", [True, False])
def test_lstm_learns_however_the_code_enters(entry: str, time_input: bool) -> None:
    component = lstm(entry=entry, time_input=time_input, layers=2)
    code = torch.randn(3, 6, requires_grad=True)
    unrolled = component(code, 9)
    (unrolled * torch.randn_like(unrolled)).sum().backward()
    assert_all_learn(component)
    # The code reaches every frame, the last one too.
    code.grad = None
    component(code, 9)[:, -1].square().mul(torch.arange(5.0)).sum().backward()
    assert code.grad.any()


def test_output_norm_gives_unit_variance() -> None:
    code = torch.randn(3, 6)
    normed, plain = lstm(output_norm="layer")(code, 4), lstm(output_norm="none")(code, 4)
    torch.testing.assert_close(normed.var(dim=2, correction=0), torch.ones(3, 4), rtol=0, atol=0.01)
    assert plain.var(dim=2, correction=0).max() < 0.5


@pytest.mark.parametrize(
    "component",
    [
        *(lstm(entry=entry, time_input=time) for entry in ENTRIES for time in (True, False)),
        TransformerMotionGenerator(6, width=16, heads=2, layers=2, frame_motion_dim=5),
    ],
    ids=lambda c: f"{type(c).__name__}-{getattr(c, 'entry', '')}-{getattr(c, 'time_dim', '')}",
)
def test_longer_clips_begin_with_the_shorter(component: Component) -> None:
    code = torch.randn(3, 6)
    with torch.no_grad():
        longer = component(code, 40)
        for frames in (1, 2, 16):
            torch.testing.assert_close(
                component(code, frames), longer[:, :frames], rtol=1e-4, atol=1e-5
            )
    assert longer.isfinite().all()
    moved = (longer[:, 1:] - longer[:, :-1]).abs().amax(dim=(0, 2))
    assert moved[:16].min() > 1e-5, "two frames in a row are the same"


def test_gru_noise_comes_from_the_generator() -> None:
    torch.manual_seed(0)
    component = GRUMotionGenerator(6, hidden=8, frame_motion_dim=5, noise_dim=3, time_dim=4)
    code = torch.randn(2, 6)

    def unroll(seed: int) -> Tensor:
        return component(code, 9, torch.Generator().manual_seed(seed))

    before = torch.get_rng_state()
    first = unroll(1)
    assert torch.equal(torch.get_rng_state(), before), "the global generator was drawn from"
    assert torch.equal(first, unroll(1))
    assert not torch.allclose(first, unroll(2), atol=1e-3)
    torch.manual_seed(3)
    free = component(code, 9)
    assert not torch.equal(free, component(code, 9))
    torch.manual_seed(3)
    assert torch.equal(free, component(code, 9))


def test_gru_noise_is_fresh_for_each_step_and_sample() -> None:
    torch.manual_seed(0)
    component = GRUMotionGenerator(6, hidden=8, noise_dim=3, time_input=False)
    seen = []
    component.gru.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    code = torch.randn(2, 6)
    component(code, 5, torch.Generator().manual_seed(0))
    codes, noise = seen[0].split((6, 3), dim=2)
    assert torch.equal(codes, code[:, None].expand(-1, 5, -1))
    assert len(noise.flatten().unique()) == noise.numel()


def test_transformer_wants_heads_that_share_the_width() -> None:
    with pytest.raises(MtzooError, match="width 10 cannot be shared by 4 heads"):
        TransformerMotionGenerator(6, width=10, heads=4)
    with pytest.raises(MtzooError, match="width must be positive and even, not 15"):
        TransformerMotionGenerator(6, width=15, heads=3)


# Video discriminators

every_discriminator = pytest.mark.parametrize("target", DISCRIMINATORS)


def test_all_discriminators_are_here() -> None:
    found = {video_discriminators.get(name) for name in video_discriminators.builtins()}
    assert found == set(DISCRIMINATORS)


@every_discriminator
@pytest.mark.parametrize("temporal_stride", [1, 2])
def test_every_frame_counts(target: type[VideoDiscriminator], temporal_stride: int) -> None:
    component = discriminator(target, temporal_stride=temporal_stride)
    for frames in (4, 5, 6, 7, 8, 11, 16):
        clip = video(1, frames).requires_grad_()
        component(clip).sum().backward()
        assert clip.grad.abs().amax(dim=(0, 2, 3, 4)).min() > 0, f"a frame of {frames} is unseen"


@every_discriminator
@pytest.mark.parametrize("norm", ["batch", "instance", "group", "none"])
@pytest.mark.parametrize("spectral_norm", [True, False])
def test_discriminator_norms(
    target: type[VideoDiscriminator], norm: str, spectral_norm: bool
) -> None:
    component = discriminator(target, norm=norm, spectral_norm=spectral_norm).train()
    logits = component(video(1, 4))
    (logits * torch.randn_like(logits)).sum().backward()
    assert_all_learn(component)
    convolutions = [m for m in component.modules() if isinstance(m, nn.Conv3d)]
    assert convolutions
    assert {parametrize.is_parametrized(c, "weight") for c in convolutions} == {spectral_norm}
    norms = [
        m
        for m in component.modules()
        if isinstance(m, nn.BatchNorm3d | nn.InstanceNorm3d | nn.GroupNorm)
    ]
    assert len(norms) == (0 if norm == "none" else 2)  # three stages at 32, the first without


@every_discriminator
def test_spectral_norm_bounds_each_layer(target: type[VideoDiscriminator]) -> None:
    component = discriminator(target).train()
    with torch.no_grad():
        for _ in range(20):
            component(video(1, 4))
        for part in component.eval().modules():
            if isinstance(part, nn.Conv3d):
                largest = torch.linalg.svdvals(part.weight.flatten(1))[0]
                assert 0.9 < largest < 1.1


def test_logits_one_a_video_or_one_a_piece() -> None:
    clip = video(2, 16)
    assert discriminator(C3DVideoDiscriminator)(clip).shape == (2,)
    assert discriminator(R2Plus1DVideoDiscriminator)(clip).shape == (2,)
    patch = discriminator(Patch3DVideoDiscriminator, stages=2)
    assert patch(clip).shape == (2, 4, 8, 8)
    kept = discriminator(Patch3DVideoDiscriminator, stages=3, temporal_stride=1)
    assert kept(clip).shape == (2, 16, 4, 4)
    with pytest.raises(MtzooError, match=r"4 stages leave nothing of 32 pixels.*at most 3"):
        discriminator(Patch3DVideoDiscriminator, stages=4)


@pytest.mark.parametrize(("stages", "seen"), [(1, 8), (2, 18)])
def test_a_patch_sees_as_much_as_it_says(stages: int, seen: int) -> None:
    component = discriminator(Patch3DVideoDiscriminator, stages=stages)
    clip = video(1, 8).requires_grad_()
    logits = component(clip)
    middle = logits.shape[-1] // 2
    logits[0, :, middle, middle].sum().backward()
    touched = clip.grad.abs().amax(dim=(0, 1, 2, 4)).nonzero().flatten()
    assert int(touched.max() - touched.min()) + 1 == seen


@every_discriminator
def test_discriminator_hears_the_arrow_of_time(target: type[VideoDiscriminator]) -> None:
    component = discriminator(target).eval()
    clip = video(1, 16)
    with torch.no_grad():
        assert not torch.allclose(component(clip), component(clip.flip(1)), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    "component",
    [
        *(encoder(n) for n in motion_encoders.builtins()),
        *(discriminator(t) for t in DISCRIMINATORS),
    ],
    ids=lambda c: type(c).__name__,
)
def test_memory_layout_changes_nothing(component: Component) -> None:
    clip = video(2, 5)
    assert not clip.is_contiguous()
    component.eval()
    with torch.no_grad():
        dense, contiguous = component(clip), component(clip.contiguous())
    torch.testing.assert_close(dense, contiguous, rtol=1e-4, atol=1e-5)


def test_c3d_on_differences_does_not_see_what_stands_still():
    torch.manual_seed(0)
    options = {"width": 8, "motion_dim": 6, "time_bins": 2, "space_bins": 2}
    encoder = mtzoo.create(
        "motion_encoders", "c3d", resolution=32, view="differences", **options
    ).eval()
    moving = torch.rand(1, 5, 3, 32, 32) * 0.5 - 0.5
    backdrop = torch.rand(1, 1, 3, 32, 32) * 0.5
    torch.testing.assert_close(encoder(moving).mean, encoder(moving + backdrop).mean)
    assert not torch.allclose(encoder(moving).mean, encoder(moving.flip(1)).mean)
    plain = mtzoo.create("motion_encoders", "c3d", resolution=32, **options).eval()
    assert not torch.allclose(plain(moving).mean, plain(moving + backdrop).mean)
    with pytest.raises(MtzooError, match="at least 3"):
        encoder(moving[:, :2])


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_bf16_gradients_hold_where_the_kernel_is_longer_than_the_clip(frames: int) -> None:
    conv = Conv3d(4, 8, (3, 4, 4), (1, 2, 2), 1)
    video = torch.randn(4, 4, frames, 8, 8)
    grads = []
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            made = conv(video)
        made.float().square().mean().backward()
        assert conv.weight.grad is not None
        grads.append(conv.weight.grad.clone())
        conv.zero_grad()
    assert (grads[0] - grads[1]).norm() < 0.02 * grads[1].norm()


def test_every_3d_convolution_of_the_zoo_is_the_safe_one() -> None:
    for registry in (motion_encoders, video_discriminators):
        for name in registry.builtins():
            part = registry.get(name)(32, 3)
            found = [m for m in part.modules() if isinstance(m, nn.Conv3d)]
            assert found or name == "trajectories"
            assert all(isinstance(m, Conv3d) for m in found)


@convolving_in_time
def test_means_are_held_at_their_spread_over_the_batch(name: str) -> None:
    torch.manual_seed(0)
    encoder = motion_encoders.get(name)(32, 3, width=4, motion_dim=5, mean_spread=0.7)
    videos = torch.rand(6, 4, 3, 32, 32) * 2 - 1
    mean = encoder(videos).mean
    torch.testing.assert_close(
        mean.std(0, unbiased=False), torch.full((5,), 0.7), rtol=0.02, atol=0
    )
    torch.testing.assert_close(mean.mean(0), torch.zeros(5), rtol=0, atol=1e-5)
    with pytest.raises(MtzooError, match="batch of 1"):
        encoder(videos[:1])
    assert encoder.eval()(videos[:1]).mean.shape == (1, 5)
    with pytest.raises(MtzooError, match="mean_spread must be 0 or more"):
        motion_encoders.get(name)(32, 3, width=4, mean_spread=-1.0)


def test_random_rotations_keep_lengths_and_turn_both_ways() -> None:
    torch.manual_seed(0)
    turns = random_rotations(500, 3)
    torch.testing.assert_close(turns @ turns.transpose(1, 2), torch.eye(3).expand(500, 3, 3))
    assert 0.4 < (torch.linalg.det(turns) > 0).float().mean() < 0.6
    assert turns.mean(0).abs().max() < 0.1


def test_what_stands_still_is_gone_from_differences_and_deviations() -> None:
    still, moving = torch.rand(2, 1, 3, 32, 32) * 2 - 1, torch.rand(2, 6, 3, 32, 32) * 0.1
    for view in ("differences", "deviations"):
        encoder = C3DMotionEncoder(32, 3, width=4, view=view).eval()
        torch.testing.assert_close(
            encoder(still + moving).mean, encoder(moving).mean, rtol=1e-3, atol=1e-5
        )
    encoder = C3DMotionEncoder(32, 3, width=4).eval()
    assert (encoder(still + moving).mean - encoder(moving).mean).abs().max() > 0.01
    tracks = TrajectoryMotionEncoder(32, 3, width=4).eval()
    torch.testing.assert_close(
        tracks(still + moving).mean, tracks(moving).mean, rtol=1e-3, atol=1e-4
    )


def test_a_shrunken_view_is_the_encoder_of_small_frames() -> None:
    torch.manual_seed(0)
    large = C3DMotionEncoder(64, 3, width=4, shrink=2).eval()
    small = C3DMotionEncoder(32, 3, width=4).eval()
    small.load_state_dict(large.state_dict())
    video = torch.rand(2, 4, 3, 64, 64) * 2 - 1
    halved = F.avg_pool2d(video.flatten(0, 1), 2).unflatten(0, (2, 4))
    torch.testing.assert_close(large(video).mean, small(halved).mean)
    assert C3DMotionEncoder(64, 3, width=4, shrink=4, time_halvings=1)(video).mean.shape[0] == 2
    for shrink in (0, 3, 8):
        with pytest.raises(MtzooError, match="must be one of 1, 2, 4"):
            C3DMotionEncoder(64, 3, width=4, shrink=shrink)


def test_bins_of_time_share_a_layer() -> None:
    torch.manual_seed(0)
    head = GaussianHead(4, 5, time_bins=3, space_bins=2, initial_sigma=0.3, bin_dim=6)
    assert head.bins is not None
    assert head.joined is not None
    features = torch.randn(2, 4, 3, 2, 2)
    mean, log_variance = head(features)
    assert mean.shape == log_variance.shape == (2, 5)
    bins = [head.bins(features[:, :, t].flatten(1)) for t in range(3)]
    torch.testing.assert_close(mean, head.mean(head.joined(torch.cat(bins, 1))))
    with pytest.raises(MtzooError, match="bin_dim must be a whole number of at least 0, not -1"):
        GaussianHead(4, 5, time_bins=3, space_bins=2, initial_sigma=0.3, bin_dim=-1)
    with pytest.raises(MtzooError, match=r"bin_dim must be a whole number of at least 0, not 6\.0"):
        GaussianHead(4, 5, time_bins=3, space_bins=2, initial_sigma=0.3, bin_dim=6.0)  # type: ignore[arg-type]


def test_a_head_takes_the_kernels_that_it_pads_for() -> None:
    with pytest.raises(MtzooError, match="critic_head: kernel is 5; it must be one of 3, 4"):
        critic_head(4, 5, False)


def test_kinds_of_convolutions_that_there_are_not_are_refused() -> None:
    with pytest.raises(MtzooError, match=r"Conv3x3x3: kind is 'fulll'; it must be .*mean 'full'"):
        Conv3x3x3(3, 4, (1, 2), "fulll", "batch")  # type: ignore[arg-type]
    with pytest.raises(MtzooError, match="Conv4x4: kind is 'both'; it must be one of full, factor"):
        Conv4x4(3, 4, True, "both", False, True)  # type: ignore[arg-type]


def test_weights_of_a_transformer_keep_the_names_they_were_saved_under() -> None:
    torch.manual_seed(0)
    within = nn.ModuleDict({"code": TransformerMotionGenerator(6, width=16, heads=2, layers=1)})
    saved = within.state_dict()
    assert list(saved)[:3] == ["code.code.weight", "code.code.bias", "code.position.weight"]
    assert not any("token" in key for key in saved)
    torch.manual_seed(1)
    other = nn.ModuleDict({"code": TransformerMotionGenerator(6, width=16, heads=2, layers=1)})
    for state in (saved, dict(within.named_parameters())):
        keys = list(state)
        other.load_state_dict({key: value + 1 for key, value in state.items()})
        assert list(state) == keys
        for left, right in zip(within.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(left + 1, right)
        other.load_state_dict(saved)
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({key: saved[key] for key in saved if key != "code.code.bias"})


@pytest.mark.parametrize(
    ("target", "view"),
    [
        (C3DMotionEncoder, "frames"),
        (C3DMotionEncoder, "differences"),
        (TrajectoryMotionEncoder, "frames"),
    ],
)
def test_colours_are_turned_in_training_alone(target: type[MotionEncoder], view: str) -> None:
    encoder = target(32, 3, width=4, norm="none", view=view, turn_colours=True)
    video = torch.rand(1, 4, 3, 32, 32) * 2 - 1
    torch.manual_seed(0)
    first, second = encoder(video).mean, encoder(video).mean
    assert (first - second).abs().max() > 1e-3
    torch.manual_seed(0)
    turned = torch.einsum("ij,btjhw->btihw", random_rotations(1, 3)[0], video)
    encoder.eval()
    torch.testing.assert_close(encoder(video).mean, encoder(video).mean)
    torch.testing.assert_close(encoder(turned).mean, first)
