"""A camera's motion is found from frames, and taken out of and put into videos."""

import math

import pytest
import torch
from torch.nn import functional as F

from mtzoo.components.content_encoders.dcgan import DCGANContentEncoder
from mtzoo.components.image_generators.skip import Backdrop, SkipImageGenerator
from mtzoo.components.motion_encoders.trajectories import TrajectoryMotionEncoder
from mtzoo.components.motion_generators.lstm import LSTMMotionGenerator
from mtzoo.components.video_discriminators.patch3d import Patch3DVideoDiscriminator
from mtzoo.errors import MtzooError
from mtzoo.interfaces import Batch, Draws
from mtzoo.models.dual_mtgan import DualMTGAN
from mtzoo.nn.camera import camera_motion
from mtzoo.nn.fold import fold
from mtzoo.nn.time import to_cosines
from mtzoo.objectives import dual_mtgan as paper
from mtzoo.objectives.dual_mtgan import DualMTGANObjective


def wall(height: int = 256, width: int = 256, seed: int = 0, rough: float = 3.0):
    """A picture of what is seen behind, in [-1, 1], whose marks are some pixels wide."""
    noise = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
    at = torch.arange(-8, 9)
    bell = torch.exp(-((at / rough) ** 2) / 2)
    kernel = (bell[:, None] * bell).expand(3, 1, -1, -1)
    soft = F.conv2d(F.pad(noise, (8,) * 4, "reflect"), kernel, groups=3)
    return (soft / soft.std() * 0.4).clamp(-1, 1)


def filmed(path, side: int = 64, *, person: bool = True, seed: int = 0):
    """A clip ``(1, T, 3, side, side)`` by a camera that follows a person along a wall.

    ``path`` is where the wall lies, pixels from where it lies in the first frame, ``(T, 2)``.
    """
    behind = wall(seed=seed)
    frames = []
    at = (torch.arange(side) * 2 + 1) / side - 1
    for t, (x, y) in enumerate(path.tolist()):
        corner = torch.tensor([100 - x, 100 - y])
        places = (torch.arange(side)[:, None, None] + corner).expand(-1, side, 2).clone()
        places[..., 0] = (torch.arange(side) + corner[0])[None]
        places[..., 1] = (torch.arange(side) + corner[1])[:, None]
        grid = (places * 2 + 1) / 256 - 1
        frame = F.grid_sample(behind, grid[None].float(), align_corners=False)[0]
        if person:
            reach = 0.2 + 0.1 * math.sin(t)  # who swings an arm
            inside = (at[None].abs() < reach) & (at[:, None].abs() < 0.8)
            frame = torch.where(inside, torch.tensor([-0.9, 0.1, 0.9])[:, None, None], frame)
        frames.append(frame)
    return torch.stack(frames)[None]


def steady(x: float, y: float = 0.0, frames: int = 16):
    return torch.arange(frames)[:, None] * torch.tensor([x, y])


@pytest.mark.parametrize("side", [32, 64, 128])
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(steady(3.3, 0.4), id="a runner"),
        pytest.param(steady(-1.6), id="a walker to the left"),
        pytest.param(steady(0.0, 0.0), id="who stays"),
        pytest.param(
            8 * torch.stack((steady(0.3)[:, 0].sin(), steady(0.5)[:, 0].sin()), 1), id="to and fro"
        ),
    ],
)
def test_the_background_is_found_behind_who_moves_before_it(path, side):
    path = path * (side / 64)
    found = camera_motion(torch.cat([filmed(path, side, seed=seed) for seed in range(8)]))
    apart = found * side / 2 - (path - path[:1])
    assert apart.diff(dim=1).abs().max() < 0.35  # pixels a frame
    assert apart.abs().max() < 0.7 + 0.05 * (path.amax(0) - path.amin(0)).max()
    assert not found[:, 0].any()


def test_larger_frames_and_other_brightness_are_no_matter():
    small = camera_motion(filmed(steady(2.5)))
    large = camera_motion(
        F.interpolate(filmed(steady(2.5))[0], scale_factor=2, mode="bilinear")[None]
    )
    torch.testing.assert_close(large, small, atol=0.03, rtol=0)
    dark = camera_motion(filmed(steady(2.5)) * 0.5 - 0.3)
    torch.testing.assert_close(dark, small, atol=0.03, rtol=0)


def test_each_clip_by_itself_and_in_any_type():
    paths = steady(2.0), steady(-3.0, 1.0)
    both = torch.cat([filmed(path) for path in paths])
    together = camera_motion(both)
    for one, clip in zip(together, both, strict=True):
        torch.testing.assert_close(one, camera_motion(clip[None])[0])
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(camera_motion(both), together)
    assert camera_motion(both.bfloat16()).dtype == torch.float32


def test_nothing_to_see_is_no_motion():
    assert not camera_motion(torch.zeros(2, 5, 3, 32, 32)).any()
    assert camera_motion(torch.rand(2, 1, 3, 32, 32)).tolist() == [[[0, 0]], [[0, 0]]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_where_a_frame_is_not_finite_is_unknown_and_so_is_all_after_it(value):
    clips = filmed(steady(2.0, frames=6)).repeat(2, 1, 1, 1, 1)
    expected = camera_motion(clips)
    clips[0, 3, 1, 5, 7] = value
    found = camera_motion(clips)
    assert torch.equal(found[1], expected[1])
    assert torch.equal(found[0, :3], expected[0, :3])
    assert found[0, 3:].isnan().all()


def test_tracks_of_the_camera_stand_at_the_end_of_the_code():
    torch.manual_seed(0)
    encoder = TrajectoryMotionEncoder(64, width=4, tracks=3, terms=5, camera=True).eval()
    assert encoder.motion_dim == 25
    clip = filmed(steady(2.0, 0.5))
    found = camera_motion(clip)
    code = encoder(clip).mean.unflatten(1, (5, 5))
    expected = to_cosines(found - found.mean(1, keepdim=True), 5, 16) * encoder.size[-2:]
    torch.testing.assert_close(code[:, -2:], expected)
    assert code[0, -2, 1].abs() > 0.5  # a sigma of the prior's is 1
    told = encoder(clip, torch.zeros_like(found)).mean.unflatten(1, (5, 5))
    assert not told[:, -2:].any()
    torch.testing.assert_close(told[:, :-2], code[:, :-2])
    without = TrajectoryMotionEncoder(64, width=4, tracks=3, terms=5).eval()
    assert without(clip).mean.shape == (1, 15)


def generator(**options) -> SkipImageGenerator:
    torch.manual_seed(0)
    return SkipImageGenerator(64, 3, 8, 6, width=4, backdrop=True, **options).eval()


def unpainted(made: SkipImageGenerator, opacity: float = -30.0) -> SkipImageGenerator:
    """Nothing is painted before the background, which is the picture's own."""
    with torch.no_grad():
        made.head.weight[:, -1] = 0
        made.head_skip.weight[:, -1] = 0
        made.head.bias[-1] = opacity
        made.behind.head.weight[:, -1] = 0
        made.behind.head.bias[-1] = 30.0
    return made


def test_a_backdrop_moves_as_the_camera_says_and_goes_on_as_in_a_mirror():
    made = unpainted(generator())
    picture = wall()[:, :, :64, :64]
    camera = torch.tensor([[[0.0, 0.0], [2 * 5 / 64, 0.0], [-2 * 7 / 64, 2 * 3 / 64]]])
    with torch.no_grad():
        video, _ = made(torch.randn(1, 8), torch.randn(1, 3, 6), picture, Backdrop(picture, camera))
    seen, right, left_down = video[0]
    torch.testing.assert_close(seen, picture[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(right[:, :, 5:], picture[0, :, :, :-5], atol=1e-4, rtol=0)
    torch.testing.assert_close(right[:, :, :5], picture[0, :, :, :5].flip(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(left_down[:, 3:, :-7], picture[0, :, :-3, 7:], atol=1e-4, rtol=0)


def test_by_itself_a_video_begins_where_the_picture_lies():
    made = unpainted(generator())
    picture, motion = wall()[:, :, :64, :64], 3 * torch.randn(1, 4, 6)
    with torch.no_grad():
        video = made(torch.randn(1, 8), motion, picture)
        said = made.camera(motion)
        content = torch.zeros(1, 8)
        told, _ = made(content, motion, picture, Backdrop(picture, said - said[:, :1]))
    torch.testing.assert_close(video[:, 0], picture, atol=1e-4, rtol=0)
    torch.testing.assert_close(video, told)
    assert (video[:, 1] - picture).abs().mean() > 0.01
    # From codes alone there is no picture of it.
    assert made(torch.randn(1, 8), motion).shape == (1, 4, 3, 64, 64)
    with pytest.raises(MtzooError, match="it knows of no camera; build it with backdrop"):
        SkipImageGenerator(64, 3, 8, 6, width=4).camera(motion)


def test_what_no_picture_shows_does_not_teach_to_paint_over_it():
    made = unpainted(generator(), opacity=0.0)
    picture = wall()[:, :, :64, :64]
    codes = torch.randn(1, 8), torch.randn(1, 1, 6)

    def learned(shift: float) -> float:
        made.zero_grad()
        camera = torch.tensor([[[shift, 0.0]]])
        video, _ = made(*codes, picture, Backdrop(picture, camera))
        (video - picture[:, None]).square().sum().backward()
        return made.head.bias.grad[-1].abs().item()

    assert learned(0.5) > 0
    assert learned(2.5) == 0


def test_a_background_is_learned_where_it_has_moved_away():
    made = generator()
    picture, codes = wall()[:, :, :64, :64], (torch.randn(1, 8), torch.randn(1, 1, 6))

    def learned(shift: float) -> float:
        made.zero_grad()
        video, _ = made(*codes, picture, Backdrop(picture, torch.tensor([[[0.0, shift]]])))
        video.square().sum().backward()
        return made.behind.head.weight.grad.abs().sum().item()

    assert learned(0.0) == 0
    assert 0 < learned(0.1) < learned(0.5)


def test_what_stands_before_a_still_background_is_not_to_be_part_of_it():
    made = unpainted(generator(), opacity=30.0)
    picture, codes = wall()[:, :, :64, :64], (torch.randn(1, 8), torch.randn(1, 1, 6))

    def held(shift: float) -> torch.Tensor:
        return made(*codes, picture, Backdrop(picture, torch.tensor([[[shift, 0.0]]])))[1]

    assert held(0.0).item() == pytest.approx(1, abs=1e-5)  # all the picture's, all painted over
    assert held(0.25).item() == pytest.approx(0.5, abs=1e-5)
    assert held(0.5).item() == 0
    with torch.no_grad():
        made.behind.head.bias[-1] = 1.0
    held(0.0).backward()
    assert made.behind.head.bias.grad[-1] > 0
    assert made.head.bias.grad is None  # it is not to be painted less
    unpainted(made, opacity=-0.1)
    assert held(0.0).item() == 0
    unpainted(made, opacity=30.0)
    with torch.no_grad():
        made.behind.head.bias[-1] = -30.0
    assert held(0.0).item() == pytest.approx(0, abs=1e-5)


def test_a_backdrop_is_the_same_in_a_folded_generator():
    made = generator()
    codes, picture = (torch.randn(2, 8), torch.randn(2, 4, 6)), wall()[:, :, :64, :64]
    picture = torch.cat((picture, picture.flip(3)))
    made.train()
    with torch.no_grad():
        made(*codes, picture)  # running statistics other than 0 and 1
        made.eval()
        plain = made(*codes, picture)
        for half in (False, True):
            ready = fold(made, dtype=torch.bfloat16 if half else torch.float32)
            close = {"atol": 0.1, "rtol": 0.0} if half else {"atol": 1e-4, "rtol": 1e-4}
            torch.testing.assert_close(ready(*codes, picture), plain, **close)


def assembled(tracks: int = 3, period: int = 16, camera: bool = True, **options) -> DualMTGAN:
    torch.manual_seed(0)
    sizes = {"resolution": 64, "channels": 3}
    encoder = TrajectoryMotionEncoder(64, width=4, tracks=3 - 2 * camera, terms=4, camera=camera)
    motion = LSTMMotionGenerator(
        encoder.motion_dim,
        hidden=16,
        frame_motion_dim=6,
        entry="tracks",
        tracks=tracks,
        period=period,
    )
    content = DCGANContentEncoder(64, 3, width=4, content_dim=8, norm="none")
    painter = SkipImageGenerator(**sizes, content_dim=8, frame_motion_dim=6, width=4, backdrop=True)
    return DualMTGAN(content, encoder, motion, painter, **{"content_frames": "either", **options})


def quiet(**weights) -> DualMTGANObjective:
    off = {"motion_weight": 0.0, "lambda_i": 0.0, "lambda_v": 0.0, "content_weight": 0.0}
    return DualMTGANObjective(**{**off, "camera_weight": 1.0, **weights})


def clips(*paths) -> Batch:
    video = torch.cat([filmed(path, seed=i) for i, path in enumerate(paths)])
    others = torch.cat([filmed(path, seed=9 + i) for i, path in enumerate(paths)])
    return Batch(video, others, others[:, 3])


@pytest.mark.parametrize("frames", ["one", "other", "either"])
def test_in_training_the_background_is_laid_where_frames_show_it(frames):
    model = assembled(content_frames=frames)
    unpainted(model.image_generator)
    batch = clips(steady(2.0), steady(-1.5, 0.3))
    draws = Draws(0, 3, 0, 2, torch.device("cpu"))
    objective = quiet(paint_every=2)
    shared = objective.forward(model.eval(), batch, draws, 3)
    # Whoever the picture shows: at the sides, where nobody is, V's own wall where V shows it.
    at = objective._content_frame(batch, draws)
    for row, made, video in zip(range(2), shared.reconstruction, batch.video, strict=True):
        near = int((torch.arange(16)[shared.painted] - at[row]).abs().argmin())
        apart = (made[near] - video[shared.painted][near]).abs()
        assert apart[..., :14].mean() < 0.05
        assert apart[..., -14:].mean() < 0.05
    _, terms = objective.loss(objective.phases()[-1], model, batch, shared, draws, 3)
    assert terms["camera"] > 0.001
    assert torch.equal(terms["held"], shared.held)
    heavy = quiet(paint_every=2, backdrop_weight=1e4)
    loss, _ = objective.loss(objective.phases()[-1], model, batch, shared, draws, 3)
    more, _ = heavy.loss(heavy.phases()[-1], model, batch, shared, draws, 3)
    torch.testing.assert_close(more - loss, 1e4 * shared.held)


def test_codes_learn_how_the_camera_moves():
    model = assembled()
    batch = clips(*(steady(x) for x in (-3.0, -1.0, 1.0, 3.0)))
    learner = torch.optim.Adam(model.generators().parameters(), 3e-3)
    objective, found = quiet(lambda_1=0.0), []
    for step in range(60):
        draws = Draws(0, step, 0, 4, torch.device("cpu"))
        shared = objective.forward(model, batch, draws, step)
        loss, terms = objective.loss(objective.phases()[-1], model, batch, shared, draws, step)
        learner.zero_grad()
        loss.backward()
        learner.step()
        found.append(terms["camera"].item())
    assert min(found[-5:]) < 0.2 * found[0]


def test_from_where_a_background_moves_is_no_matter():
    said = torch.tensor([[[0.0, 0.0], [1.0, 2.0]]])
    assert paper.camera_consistency(said, said + 5.0).item() == pytest.approx(0, abs=1e-6)
    # A pixel to either side of the mean in x: (0.5 ** 2 + 0.5 ** 2) / 2.
    off = said + torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
    assert paper.camera_consistency(said, off).item() == pytest.approx(0.25)


def test_a_backdrop_and_its_weight_go_together():
    same = {"target_identity": "same"}
    quiet().check(assembled(), same)
    with pytest.raises(MtzooError, match="camera_weight alone teaches: set it above 0, or model"):
        quiet(camera_weight=0.0).check(assembled(), same)
    model = assembled()
    model.networks["image_generator"] = SkipImageGenerator(64, 3, 8, 6, width=4)
    with pytest.raises(MtzooError, match="camera_weight needs an image generator that moves a"):
        quiet().check(model, same)
    with pytest.raises(MtzooError, match="backdrop_weight needs an image generator that shows a"):
        quiet(camera_weight=0.0, backdrop_weight=0.1).check(model, same)
    with pytest.raises(MtzooError, match="reads frames one by one, which do not show how a backg"):
        quiet().check(assembled(camera=False), same)
    picture = torch.zeros(1, 3, 64, 64)
    with pytest.raises(MtzooError, match="it shows no backdrop; build it with backdrop"):
        model.image_generator(
            torch.zeros(1, 8),
            torch.zeros(1, 1, 6),
            picture,
            Backdrop(picture, torch.zeros(1, 1, 2)),
        )


def test_a_backdrop_has_to_fit_the_picture_and_the_codes():
    made = generator()
    picture, codes = torch.zeros(2, 3, 64, 64), (torch.zeros(2, 8), torch.zeros(2, 5, 6))
    still = torch.zeros(2, 5, 2)
    with pytest.raises(MtzooError, match=r"camera must be \(2, 5, 2\), .* not \(2, 4, 2\)"):
        made(*codes, picture, Backdrop(picture, still[:, 1:]))
    with pytest.raises(MtzooError, match="codes of 2 videos came with 1 pictures"):
        made(*codes, picture, Backdrop(picture[:1], still))
    with pytest.raises(MtzooError, match="a backdrop is laid behind a picture; give that, too"):
        made(*codes, None, Backdrop(picture, still))


@pytest.mark.parametrize("judged", [False, True])
def test_videos_of_another_picture_learn_beside_it(judged):
    """Its background begins where it lies: nothing must be divided by how far it has moved."""
    judge = Patch3DVideoDiscriminator(64, 3, width=4) if judged else None
    torch.manual_seed(0)
    model = assembled(content_frames="one", video_discriminator=judge).eval()
    batch = clips(steady(2.0), steady(-1.5, 0.3))
    weights = {"lambda_v": 1.0} if judged else {"motion_weight": 1.0}
    objective = quiet(**weights, camera_weight=0.0, lambda_1=0.0 if judged else 10.0)
    assert model.image_generator.behind is not None

    def learned(weight: float) -> torch.Tensor:
        objective.backdrop_weight = weight
        draws = Draws(0, 3, 0, 2, torch.device("cpu"))
        model.zero_grad()
        shared = objective.forward(model, batch, draws, 3)
        assert shared.transferred is not None
        objective.loss(objective.phases()[-1], model, batch, shared, draws, 3)[0].backward()
        grads = [p.grad for p in model.generators().parameters() if p.grad is not None]
        assert all(grad.isfinite().all() for grad in grads)
        return model.image_generator.camera_output.weight.grad.clone()

    # Saying that the camera moves far must not be a way to hide what the background holds.
    torch.testing.assert_close(learned(1e3), learned(0.0))


def test_other_tracks_than_the_encoder_writes_are_refused():
    with pytest.raises(MtzooError, match=r"writes 3 tracks over 16 .* reads 2 over 16; set model"):
        assembled(tracks=2)
    with pytest.raises(MtzooError, match=r"writes 3 tracks over 16 .* reads 3 over 8;"):
        assembled(period=8)
    with pytest.raises(MtzooError, match="a code of 12 cannot be 5 tracks of up to 16 cosines"):
        assembled(tracks=5)


def test_a_used_model_moves_the_pictures_own_background():
    model = unpainted_model()
    picture = wall(seed=4)[:, :, :64, :64]
    with torch.no_grad():
        moved = model.transfer(picture, filmed(steady(2.0)))
        drawn = model.sample(picture, 2, 5)
    torch.testing.assert_close(moved[:, 0], picture, atol=1e-4, rtol=0)
    for video in drawn[0]:
        torch.testing.assert_close(video[:1], picture, atol=1e-4, rtol=0)


def test_samples_that_cannot_be_are_refused():
    model = assembled().eval()
    image = torch.zeros(2, 3, 64, 64)
    for samples, frames, said in ((0, 4, "samples"), (-1, 4, "samples"), (1, 0, "frames")):
        with pytest.raises(MtzooError, match=f"dual_mtgan: {said} must be a whole number of at le"):
            model.sample(image, samples, frames)
    with pytest.raises(MtzooError, match="dual_mtgan: built for images"):
        model.sample(image[0], 1, 4)
    with pytest.raises(MtzooError, match=r"dual_mtgan: images must be floats .* not uint8"):
        model.sample(image.byte(), 1, 4)


def unpainted_model() -> DualMTGAN:
    model = assembled().eval()
    unpainted(model.image_generator)
    return model
