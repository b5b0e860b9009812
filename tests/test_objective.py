"""The equations of the paper against numbers worked out by hand, and the phases' bookkeeping."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mtzoo.errors import MtzooError
from mtzoo.interfaces import Batch, Draws, Gaussian, as_video
from mtzoo.models.dual_mtgan import DualMTGAN
from mtzoo.nn import adversarial
from mtzoo.nn.align import extent
from mtzoo.objectives import dual_mtgan as paper
from mtzoo.objectives.dual_mtgan import DualMTGANObjective
from mtzoo.registries import create

LOG2, LOG3 = math.log(2.0), math.log(3.0)


def test_content_consistency_is_the_mean_step_between_neighbours():
    codes = torch.tensor([[[0.0, 1.0], [2.0, 1.0], [2.0, -3.0]]])
    # steps |2|, |0|, |0|, |-4|: mean 1.5
    assert paper.content_consistency(codes).item() == pytest.approx(1.5)


def test_content_consistency_of_one_frame_is_zero():
    assert paper.content_consistency(torch.ones(2, 1, 3)).item() == 0.0


def test_kl_divergence_sum_and_mean():
    # dimension 1: mean 1, variance 1 -> 1/2; dimension 2: mean 0, variance 2 -> (2 - 1 - log 2)/2
    posterior = Gaussian(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, LOG2]]))
    by_hand = 0.5 + 0.5 * (1.0 - LOG2)
    assert paper.kl_divergence(posterior).item() == pytest.approx(by_hand)
    assert paper.kl_divergence(posterior, "mean").item() == pytest.approx(by_hand / 2)


def test_kl_divergence_is_a_mean_over_the_batch():
    posterior = Gaussian(torch.tensor([[2.0], [0.0]]), torch.zeros(2, 1))
    assert paper.kl_divergence(posterior).item() == pytest.approx((2.0 + 0.0) / 2)


def test_kl_divergence_agrees_with_torch_distributions():
    torch.manual_seed(0)
    posterior = Gaussian(torch.randn(5, 7), torch.randn(5, 7))
    normal = torch.distributions.Normal
    p = normal(posterior.mean, (0.5 * posterior.log_variance).exp())
    expected = torch.distributions.kl_divergence(p, normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(paper.kl_divergence(posterior), expected)


def test_reconstruction_loss_l1_and_l2():
    video, made = torch.zeros(1, 1, 1, 2, 2), torch.tensor([0.5, -0.5, 1.0, 0.0])
    made = made.reshape(1, 1, 1, 2, 2)
    assert paper.reconstruction_loss(made, video).item() == pytest.approx(0.5)
    assert paper.reconstruction_loss(made, video, "l2").item() == pytest.approx(1.5 / 4)


def test_motion_consistency():
    again, code = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert paper.motion_consistency(again, code).item() == pytest.approx(1.5)


# Logits with known beliefs: sigmoid(log 3) = 3/4, sigmoid(0) = 1/2, sigmoid(-log 3) = 1/4.
SURE, HALF, DOUBT = torch.tensor([LOG3]), torch.tensor([0.0]), torch.tensor([-LOG3])


@pytest.mark.parametrize("form", ["minimax", "non_saturating"])
def test_image_adversarial_is_minus_equation_5(form):
    # log(3/4) + 1/2 [log(1 - 1/4) + log(1 - 1/2)]
    equation = math.log(0.75) + 0.5 * (math.log(0.75) + math.log(0.5))
    assert paper.image_adversarial(SURE, DOUBT, HALF, form).item() == pytest.approx(-equation)


@pytest.mark.parametrize("form", ["minimax", "non_saturating"])
def test_video_adversarial_is_minus_equation_6(form):
    equation = math.log(0.75) + math.log(0.5)
    assert paper.video_adversarial(SURE, HALF, form).item() == pytest.approx(-equation)


@pytest.mark.parametrize(
    ("form", "real", "fake", "generator"),
    [
        ("minimax", math.log(4), math.log(4 / 3), math.log(3 / 4)),
        ("non_saturating", math.log(4), math.log(4 / 3), math.log(4)),
        ("hinge", 1 + LOG3, max(0.0, 1 - LOG3), LOG3),
        ("lsgan", (1 + LOG3) ** 2 / 2, LOG3**2 / 2, (1 + LOG3) ** 2 / 2),
    ],
)
def test_adversarial_forms_by_hand(form, real, fake, generator):
    assert adversarial.real_loss(DOUBT, form).item() == pytest.approx(real)
    assert adversarial.fake_loss(DOUBT, form).item() == pytest.approx(fake)
    assert adversarial.generator_loss(DOUBT, form).item() == pytest.approx(generator)


def test_adversarial_losses_stay_finite_where_the_sigmoid_does_not():
    for form in ("minimax", "non_saturating"):
        for loss in (adversarial.real_loss, adversarial.fake_loss, adversarial.generator_loss):
            assert torch.isfinite(loss(torch.tensor([-300.0, 300.0]), form))


@pytest.mark.parametrize("name", ["real_loss", "fake_loss", "generator_loss"])
def test_forms_that_there_are_not_are_refused(name):
    with pytest.raises(MtzooError, match=f"{name}: form is 'wgan'; it must be one of minimax, non"):
        getattr(adversarial, name)(DOUBT, "wgan")


def test_reductions_and_distances_that_there_are_not_are_refused():
    posterior = Gaussian(torch.zeros(1, 2), torch.zeros(1, 2))
    with pytest.raises(MtzooError, match="reduction is 'none'; it must be one of sum, mean"):
        paper.kl_divergence(posterior, "none")
    with pytest.raises(MtzooError, match="norm is 'huber'; it must be one of l1, l2"):
        paper.reconstruction_loss(DOUBT, DOUBT, "huber")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"adversarial": "wgan"}, "adversarial is 'wgan'; it must be one of minimax"),
        ({"reconstruction": "L1"}, "reconstruction is 'L1'; .* Did you mean 'l1'"),
        ({"kl_reduction": "none"}, "kl_reduction is 'none'; it must be one of sum, mean"),
        ({"motion_target": "code"}, "motion_target is 'code'; it must be one of mean, sample"),
        ({"motion_gradient": "none"}, "motion_gradient is 'none'; it must be one of all"),
        ({"target_videos": "one"}, "target_videos is 'one'; it must be one of both, random"),
        ({"lambda_1": math.inf}, "lambda_1 must be finite, not inf"),
        ({"lambda_kl": math.nan}, "lambda_kl must be 0 or more, not nan"),
        ({"kl_ramp": 1.5}, "kl_ramp must be a whole number of at least 0, not 1.5"),
    ],
)
def test_options_that_cannot_work_are_refused(options, said):
    with pytest.raises(MtzooError, match=f"objective dual_mtgan: {said}"):
        DualMTGANObjective(**options)


def test_total_is_equation_8_with_the_papers_weights():
    terms = [torch.tensor(v) for v in (1.0, 2.0, 3.0, 5.0, 7.0, 11.0)]
    by_hand = 10 * (1 + 2 + 3) + 0.01 * 5 + 0.0001 * 7 + 1 * 11
    assert paper.Total()(*terms).item() == pytest.approx(by_hand)


# ---------------------------------------------------------------------------------------------
# The phases, on networks so small that every path can be followed.


class Pixel(nn.Module):
    """Content code: mean colour."""

    content_dim = 3

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, image):
        return image.mean((2, 3)) * self.scale


class Corner(nn.Module):
    """Motion code: colour of the first pixel of the first frame."""

    motion_dim = 3

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.calls = 0

    def forward(self, video):
        self.calls += 1
        mean = video[:, 0, :, 0, 0] * self.scale
        return Gaussian(mean, mean * 0.0)


class Hold(nn.Module):
    motion_dim = frame_motion_dim = 3

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, code, frames, generator=None):
        return (code * self.scale).unsqueeze(1).expand(-1, frames, -1)


class Flat(nn.Module):
    resolution, channels = 4, 3
    takes_picture = False

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.calls = 0

    def forward(self, content, motion):
        self.calls += 1
        if content.dim() == 2:
            content = content.unsqueeze(1).expand(-1, motion.shape[1], -1)
        colour = torch.tanh((content + motion) * self.scale)
        return colour[..., None, None].expand(-1, -1, -1, 4, 4)


class PairJudge(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.pairs = []

    def forward(self, condition, frame):
        self.pairs.append((condition, frame))
        return self.scale * (condition - frame).mean((1, 2, 3))


class VideoJudge(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.shown = []

    def forward(self, video):
        self.shown.append(video)
        return self.scale * video.mean((1, 2, 3, 4))


def make(judges=True, **options):
    model = DualMTGAN(
        Pixel(),
        Corner(),
        Hold(),
        Flat(),
        PairJudge() if judges else None,
        VideoJudge() if judges else None,
        **options,
    )
    torch.manual_seed(1)
    video, other = torch.rand(2, 4, 3, 4, 4) * 2 - 1, torch.rand(2, 4, 3, 4, 4) * 2 - 1
    batch = Batch(video, other, other[:, 2])
    return model, batch, Draws(0, 5, 0, 2, torch.device("cpu"))


def run(objective, model, batch, draws, step=5):
    shared = objective.forward(model, batch, draws, step)
    losses = {}
    for phase in objective.phases():
        if phase.due(step):
            losses[phase.name] = objective.loss(phase, model, batch, shared, draws, step)
    return shared, losses


def test_forward_makes_all_videos_in_one_pass_and_encodes_motion_once():
    model, batch, draws = make()
    shared, _ = run(DualMTGANObjective(motion_weight=0.0), model, batch, draws)
    assert model.image_generator.calls == 1
    assert model.motion_encoder.calls == 1
    assert shared.reconstruction.shape == shared.sampled.shape == batch.video.shape
    # Equation 3 by hand, on these networks
    code = batch.video[:, 0, :, 0, 0] + draws.normal(2, 3, 0)
    content = batch.video.mean((3, 4))
    expected = torch.tanh(content + code[:, None])
    torch.testing.assert_close(shared.reconstruction[..., 0, 0], expected)
    target = batch.target.mean((2, 3))[:, None].expand(-1, 4, -1)
    torch.testing.assert_close(shared.transferred[..., 0, 0], torch.tanh(target + code[:, None]))
    prior = draws.normal(2, 3, 1)
    torch.testing.assert_close(shared.sampled[..., 0, 0], torch.tanh(target + prior[:, None]))


def test_the_image_discriminator_is_shown_the_pairs_of_equation_5():
    model, batch, draws = make()
    shared, losses = run(DualMTGANObjective(target_videos="both"), model, batch, draws)
    condition, frame = model.image_discriminator.pairs[0]
    x1, y = batch.video[:, 0], batch.target
    v = paper._pick(batch.video, draws, paper._FRAME_V)
    expected = [
        (x1, v),
        (x1, paper._pick(shared.reconstruction, draws, paper._FRAME_X)),
        (y, v),
        (y, y),
        (x1, paper._pick(batch.target_video, draws, paper._FRAME_VY)),
        (y, paper._pick(shared.transferred, draws, paper._FRAME_Y)),
        (y, paper._pick(shared.sampled, draws, paper._FRAME_Y + paper._OTHER)),
    ]
    torch.testing.assert_close(condition, torch.cat([c for c, _ in expected]))
    torch.testing.assert_close(frame, torch.cat([f for _, f in expected]))
    # and the sum of the two lines of Eq. 5, from those logits
    logits = [(c - f).mean((1, 2, 3)) for c, f in expected]
    log = torch.nn.functional.logsigmoid
    line_x = log(logits[0]).mean() + 0.5 * (log(-logits[1]).mean() + log(-logits[2]).mean())
    fakes = torch.cat(logits[5:])
    line_y = log(logits[3]).mean() + 0.5 * (log(-fakes).mean() + log(-logits[4]).mean())
    _, terms = losses["discriminator"]
    torch.testing.assert_close(terms["image"], -(line_x + line_y).detach())


def test_the_generators_loss_is_equation_8():
    model, batch, draws = make()
    objective = DualMTGANObjective(adversarial="minimax", motion_gradient="all")
    shared, losses = run(objective, model, batch, draws)
    loss, terms = losses["generator"]
    l_c = (shared.content[:, 1:] - shared.content[:, :-1]).abs().mean()
    l_rec = (shared.reconstruction - batch.video).abs().mean()
    l_m = (shared.reconstruction[:, 0, :, 0, 0] - shared.code).abs().mean() + (
        shared.transferred[:, 0, :, 0, 0] - shared.code
    ).abs().mean()
    l_kl = 0.5 * batch.video[:, 0, :, 0, 0].square().sum(1).mean()
    log = torch.nn.functional.logsigmoid
    (condition, frame) = model.image_discriminator.pairs[1]
    logits = (condition - frame).mean((1, 2, 3))
    l_i = 0.5 * (log(-logits[:2]).mean() + log(-logits[2:]).mean())
    logits = model.video_discriminator.shown[1].mean((1, 2, 3, 4))
    l_v = log(-logits[:2]).mean() + log(-logits[2:]).mean()
    by_hand = 10 * (l_c + l_rec + l_m) + 0.01 * l_kl + 0.0001 * l_i + 1.0 * l_v
    torch.testing.assert_close(loss, by_hand)
    assert set(terms) == {"content", "reconstruction", "kl", "motion", "image", "video"}


def test_all_networks_are_shown_pictures_and_videos_in_channels_last():
    sizes = {"resolution": 32, "channels": 3, "width": 4}
    parts = [
        create("content_encoders", "dcgan", content_dim=4, **sizes),
        create("motion_encoders", "c3d", motion_dim=4, **sizes),
        create("motion_generators", "lstm", motion_dim=4, hidden=4, frame_motion_dim=4),
        create("image_generators", "dcgan", content_dim=4, frame_motion_dim=4, **sizes),
        create("image_discriminators", "pair", **sizes),
        create("video_discriminators", "c3d", **sizes),
    ]
    seen = []

    def look(part, given):
        form = torch.channels_last if given[0].dim() == 4 else torch.channels_last_3d
        seen.append((part, given[0].is_contiguous(memory_format=form)))

    first = {}
    for part in (parts[0], parts[1], parts[4], parts[5]):
        first[part] = next(m for m in part.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
        first[part].register_forward_pre_hook(look)
    frames = torch.randint(256, (2, 2, 8, 32, 32, 3), dtype=torch.uint8)
    video, other = map(as_video, frames)
    batch = Batch(video, other, other[:, 1])
    run(DualMTGANObjective(), DualMTGAN(*parts), batch, Draws(0, 5, 0, 2, torch.device("cpu")))
    # E_M's second look and both phases of the discriminators
    times = {part: sum(at is layer for at, _ in seen) for part, layer in first.items()}
    assert list(times.values()) == [1, 2, 2, 2]
    assert all(dense for _, dense in seen)


def test_the_discriminator_phase_sends_no_gradient_into_the_generators():
    model, batch, draws = make()
    _, losses = run(DualMTGANObjective(), model, batch, draws)
    losses["discriminator"][0].backward()
    assert all(p.grad is None for p in model.generators().parameters())
    assert all(p.grad is not None for p in model.discriminators().parameters())


@pytest.mark.parametrize(
    ("policy", "encoder_learns", "target_learns"),
    [("all", True, True), ("detach_target", True, False), ("freeze_encoder", False, False)],
)
def test_motion_gradient_policies(policy, encoder_learns, target_learns):
    model, batch, draws = make(judges=False)
    objective = DualMTGANObjective(motion_gradient=policy, lambda_i=0.0, lambda_v=0.0)
    shared = objective.forward(model, batch, draws, 0)
    # Cut the generated videos off, so that what reaches E_M comes from L_M's own two uses of it.
    cut = shared._replace(
        reconstruction=shared.reconstruction.detach(), transferred=shared.transferred.detach()
    )
    loss = objective._motion(model, cut)
    learns = loss.requires_grad
    assert learns == (encoder_learns or target_learns)
    if learns:
        shared.code.retain_grad()
        loss.backward()
        assert (shared.code.grad is not None) == target_learns
        assert model.motion_encoder.scale.grad is not None
    assert model.motion_encoder.scale.requires_grad


def test_painting_some_frames_estimates_the_loss_of_all():
    model, batch, _ = make(judges=False)
    options = {"lambda_i": 0.0, "lambda_v": 0.0, "motion_weight": 0.0, "lambda_kl": 0.0}
    draws = [Draws(0, step, 0, 2, torch.device("cpu")) for step in range(8)]
    objective = DualMTGANObjective(paint_every=2, **options)
    shared = [objective.forward(model, batch, d, 0) for d in draws]
    assert {s.painted.start for s in shared} == {0, 1}
    assert all(s.reconstruction.shape[1] == 2 for s in shared)
    whole = DualMTGANObjective(**options)
    for d, s in zip(draws, shared, strict=True):
        full = whole.forward(model, batch, d, 0).reconstruction
        torch.testing.assert_close(s.reconstruction, full[:, s.painted])
        loss, _ = objective.loss(objective.phases()[0], model, batch, s, d, 0)
        l_rec = (full - batch.video)[:, s.painted].abs().mean()
        l_c = paper.content_consistency(s.content)
        torch.testing.assert_close(loss, 10 * (l_rec + l_c))


def test_all_frames_are_painted_once_somebody_looks_at_the_motion():
    model, batch, draws = make()
    objective = DualMTGANObjective(paint_every=2, adversarial_start=4, motion_start=4)
    assert run(objective, model, batch, draws, step=3)[0].reconstruction.shape[1] == 2
    assert run(objective, model, batch, draws, step=4)[0].reconstruction.shape[1] == 4


def test_starts_and_ramp():
    model, batch, draws = make()
    objective = DualMTGANObjective(
        motion_start=3, motion_ramp=6, adversarial_start=4, adversarial_ramp=4
    )
    shared, losses = run(objective, model, batch, draws, step=0)
    assert shared.transferred is None
    assert set(losses) == {"generator"}
    assert set(losses["generator"][1]) == {"content", "reconstruction", "kl"}
    _, losses = run(objective, model, batch, draws, step=3)
    assert "motion" in losses["generator"][1]
    assert set(losses) == {"generator"}
    shared, losses = run(objective, model, batch, draws, step=5)
    loss, terms = losses["generator"]
    expected = 10 * (terms["content"] + terms["reconstruction"] + 3 / 6 * terms["motion"])
    expected = expected + 0.01 * terms["kl"]
    expected = expected + 2 / 4 * (0.0001 * terms["image"] + terms["video"])
    torch.testing.assert_close(loss.detach(), expected)


def test_kl_grows_linearly_to_its_weight():
    model, batch, draws = make(judges=False)
    losses = {}
    for step in (0, 1, 3, 9):
        objective = DualMTGANObjective(
            kl_ramp=4, lambda_1=0.0, lambda_kl=2.0, lambda_i=0.0, lambda_v=0.0
        )
        losses[step], terms = run(objective, model, batch, draws, step)[1]["generator"]
    for step, factor in ((0, 0.25), (1, 0.5), (3, 1.0), (9, 1.0)):
        assert losses[step].item() == pytest.approx(2.0 * factor * terms["kl"].item())


def test_content_consistency_grows_linearly_to_its_weight():
    model, batch, draws = make(judges=False)
    objective = DualMTGANObjective(
        content_ramp=4,
        content_weight=2.0,
        motion_weight=0.0,
        lambda_kl=0.0,
        lambda_i=0.0,
        lambda_v=0.0,
    )
    for step, factor in ((0, 0.25), (1, 0.5), (3, 1.0), (9, 1.0)):
        loss, terms = run(objective, model, batch, draws, step)[1]["generator"]
        expected = 10 * (2.0 * factor * terms["content"] + terms["reconstruction"])
        assert loss.item() == pytest.approx(expected.item())


def test_target_videos_random_shows_one_kind_and_takes_both_in_turn():
    model, batch, _ = make()
    objective = DualMTGANObjective(target_videos="random")
    kinds = set()
    for step in range(12):
        draws = Draws(0, step, 0, 2, torch.device("cpu"))
        shared, _ = run(objective, model, batch, draws, step)
        shown = model.video_discriminator.shown[-1]
        assert len(shown) == 4
        kind = "drawn" if shared.sampled is not None else "encoded"
        wanted = shared.sampled if shared.sampled is not None else shared.transferred
        torch.testing.assert_close(shown[2:], wanted)
        kinds.add(kind)
    assert kinds == {"drawn", "encoded"}


def test_a_left_out_discriminator_leaves_out_its_terms():
    model, batch, draws = make(judges=False)
    _, losses = run(DualMTGANObjective(lambda_i=0.0, lambda_v=0.0), model, batch, draws)
    assert set(losses) == {"generator"}
    assert set(losses["generator"][1]) == {"content", "reconstruction", "kl", "motion"}


def test_one_content_frame_gives_the_whole_clip_its_content():
    model, batch, draws = make(content_frames="one")
    shared, _ = run(DualMTGANObjective(), model, batch, draws)
    picked = draws.integers(2, 3, paper._CONTENT_FRAME)
    rows = torch.arange(2)
    torch.testing.assert_close(shared.content[:, 0], batch.video[rows, picked].mean((2, 3)))
    torch.testing.assert_close(shared.content[:, 1], batch.video[rows, picked + 1].mean((2, 3)))
    code = batch.video[:, 0, :, 0, 0] + draws.normal(2, 3, 0)
    expected = torch.tanh(shared.content[:, :1] + code[:, None]).expand(-1, 4, -1)
    torch.testing.assert_close(shared.reconstruction[..., 0, 0], expected)


def test_another_clip_of_the_same_identity_gives_the_content():
    model, batch, draws = make(content_frames="other")
    alone = DualMTGANObjective(motion_weight=0.0, lambda_i=0.0, lambda_v=0.0)
    shared, _ = run(alone, model, batch, draws)
    rows, picked = torch.arange(2), draws.integers(2, 3, paper._CONTENT_FRAME)
    torch.testing.assert_close(shared.content[:, 0], batch.target.mean((2, 3)))
    torch.testing.assert_close(shared.content[:, 1], batch.video[rows, picked + 1].mean((2, 3)))
    code = batch.video[:, 0, :, 0, 0] + draws.normal(2, 3, 0)
    expected = torch.tanh(shared.content[:, :1] + code[:, None]).expand(-1, 4, -1)
    torch.testing.assert_close(shared.reconstruction[..., 0, 0], expected)
    assert shared.transferred is None
    with pytest.raises(MtzooError, match="motion_weight, lambda_i and lambda_v to 0"):
        DualMTGANObjective().forward(model, batch, draws, 5)


def test_either_clip_gives_the_content_by_chance():
    model, batch, _ = make(content_frames="either")
    many = Batch(*(field.repeat_interleave(32, 0) for field in batch))
    alone = DualMTGANObjective(motion_weight=0.0, lambda_i=0.0, lambda_v=0.0)
    draws = Draws(0, 5, 0, 64, torch.device("cpu"))
    shared, _ = run(alone, model, many, draws)
    picked = draws.integers(64, 3, paper._CONTENT_FRAME)
    own = many.video[torch.arange(64), picked].mean((2, 3))
    is_own = (shared.content[:, 0] == own).all(1)
    is_other = (shared.content[:, 0] == many.target.mean((2, 3))).all(1)
    assert (is_own ^ is_other).all()
    assert 16 < is_own.sum() < 48
    later = many.video[torch.arange(64), picked + 1].mean((2, 3))
    torch.testing.assert_close(shared.content[:, 1], later)
    # A rank's share is shown what it would be shown among all.
    half = Batch(*(field[32:] for field in many))
    here, _ = run(alone, model, half, Draws(0, 5, 32, 64, torch.device("cpu")))
    torch.testing.assert_close(here.content, shared.content[32:])
    with pytest.raises(MtzooError, match=r"content_frames: either .* motion_weight"):
        DualMTGANObjective().forward(model, many, draws, 5)


def test_draws_do_not_depend_on_how_the_batch_is_shared():
    whole = Draws(3, 7, 0, 8, torch.device("cpu"))
    second = Draws(3, 7, 4, 8, torch.device("cpu"))
    assert torch.equal(whole.normal(8, 5, 1)[4:], second.normal(4, 5, 1))
    assert torch.equal(whole.integers(8, 100, 2)[4:], second.integers(4, 100, 2))
    assert not torch.equal(whole.normal(8, 5, 1), whole.normal(8, 5, 0))
    assert not torch.equal(whole.normal(8, 5, 1), Draws(3, 8, 0, 8, whole.device).normal(8, 5, 1))


def test_health_figures_by_hand():
    model, batch, draws = make()
    figures = DualMTGANObjective().health(model, batch, draws)
    means = batch.video[:, 0, :, 0, 0]
    assert figures["motion_sigma"].item() == pytest.approx(1.0)
    nats = 0.5 * means.square().sum(1).mean().item()  # unit variances leave the means alone
    assert figures["motion_bits"].item() == pytest.approx(nats / math.log(2))
    torch.testing.assert_close(figures["motion_spread"], means.std(0, unbiased=False).mean())
    active = (means.var(0, unbiased=False) > 0.01).sum().item()
    assert figures["active_motion_dims"].item() == active
    codes = batch.video.mean((3, 4))
    torch.testing.assert_close(figures["content_within"], codes.std(1, unbiased=False).mean())
    torch.testing.assert_close(
        figures["content_between"], codes.mean(1).std(0, unbiased=False).mean()
    )
    torch.testing.assert_close(figures["content_size"], codes.square().mean().sqrt())
    assert figures["sample_spread"] > 0
    # Where one picture gives the content and no L_C is there, it may say how things lie in it.
    model.content_frames = "one"
    for weight, left_out in ((1.0, set()), (0.0, {"content_within"})):
        found = DualMTGANObjective(content_weight=weight).health(model, batch, draws)
        assert set(figures) - set(found) == left_out


def test_how_much_of_a_source_s_motion_is_seen_in_the_transfer():
    model, batch, draws = make()
    ramp = torch.arange(batch.video.shape[1]).view(1, -1, 1, 1, 1) * 0.1
    batch = batch._replace(video=(batch.video[:, :1] + ramp).expand_as(batch.video))
    moved = model.transfer(batch.target, batch.video)
    expected = (moved[:, 1:] - moved[:, :-1]).abs().mean() / 0.1
    figures = DualMTGANObjective().health(model, batch, draws)
    torch.testing.assert_close(figures["frame_change"], expected)


def test_one_video_is_not_compared_with_others():
    model, batch, draws = make()
    alone = type(batch)(*(part[:1] for part in batch))
    figures = DualMTGANObjective().health(model, alone, draws)
    assert not {"motion_spread", "active_motion_dims", "content_between"} & figures.keys()


@pytest.mark.parametrize("name", ["lambda_1", "content_weight", "motion_start"])
@pytest.mark.parametrize("value", [-1, float("nan")])
def test_weights_must_not_be_negative(name, value):
    with pytest.raises(MtzooError, match=name):
        DualMTGANObjective(**{name: value})


def test_codes_of_two_sizes_are_refused():
    generator = Hold()
    generator.motion_dim = 5
    with pytest.raises(MtzooError, match="motion_dim"):
        DualMTGAN(Pixel(), Corner(), generator, Flat())


@pytest.mark.parametrize("layered", [False, True])
def test_pictures_and_videos_that_make_no_pairs_are_refused(layered):
    model, batch, _ = turning() if layered else make()
    with pytest.raises(MtzooError, match="2 pictures and 1 motions make no pairs; give as many"):
        model.transfer(batch.target[:2], batch.video[:1])
    two = model.transfer(batch.target[:2], batch.video[:1].expand(2, -1, -1, -1, -1))
    assert two.shape == batch.video[:2].shape


def turning(turns=8, layers=1, content_frames="one"):
    torch.manual_seed(0)
    model = DualMTGAN(
        create("content_encoders", "dcgan", resolution=32, channels=3, width=4, content_dim=4),
        create("motion_encoders", "c3d", resolution=32, channels=3, width=4, motion_dim=4),
        create("motion_generators", "lstm", motion_dim=4, hidden=4, frame_motion_dim=4),
        create(
            "image_generators",
            "layered",
            resolution=32,
            channels=3,
            content_dim=4,
            frame_motion_dim=4,
            width=4,
            turns=turns,
            layers=layers,
        ),
        content_frames=content_frames,
    )
    video = torch.rand(2, 4, 3, 32, 32) * 2 - 1
    batch = Batch(video, video.flip(0), video[:, 2].flip(0))
    return model, batch, Draws(0, 5, 0, 2, torch.device("cpu"))


WITHOUT_OTHERS = {"lambda_i": 0.0, "lambda_v": 0.0, "motion_weight": 0.0}


def test_poses_count_from_their_first_step_on_and_reach_what_reads_them():
    model, batch, draws = turning()
    plain = DualMTGANObjective(**WITHOUT_OTHERS)
    posed = DualMTGANObjective(pose_weight=2.0, pose_start=3, pose_lead=2, **WITHOUT_OTHERS)
    terms = run(posed, model, batch, draws, step=2)[1]["generator"][1]
    assert not {"poses", "upright"} & set(terms)
    model.eval()
    # Directions are learned first, of layers that are not turned yet.
    shared, losses = run(posed, model, batch, draws, step=4)
    assert not model.image_generator.turning
    loss, terms = losses["generator"]
    without, _ = plain.loss(plain.phases()[0], model, batch, shared, draws, 4)
    torch.testing.assert_close(loss, without + 2 * 0.3 * terms["upright"])
    assert "poses" not in terms
    shared, losses = run(posed, model, batch, draws, step=5)
    assert model.image_generator.turning
    loss, terms = losses["generator"]
    without, _ = plain.loss(plain.phases()[0], model, batch, shared, draws, 5)
    torch.testing.assert_close(loss, without + 2 * (terms["poses"] + 0.3 * terms["upright"]))
    assert terms["poses"] > 0
    model.zero_grad()
    (loss - without).backward()
    for part in ("image_generator.direction", "motion_encoder", "motion_generator"):
        found = [p.grad for p in model.networks.get_submodule(part).parameters()]
        assert any(g is not None and g.abs().sum() > 0 for g in found), part
    # Layers are looked at, not changed, for their poses.
    assert model.image_generator.head.weight.grad.abs().max() < 1e-6


def test_poses_are_looked_at_in_as_many_frames_as_asked_for():
    model, batch, draws = turning()
    seen = []
    model.image_generator.direction.register_forward_hook(
        lambda _module, inputs, _output: seen.append(len(inputs[0]))
    )
    for frames in (1, 3):
        posed = DualMTGANObjective(pose_weight=1.0, pose_frames=frames, **WITHOUT_OTHERS)
        seen.clear()
        run(posed, model, batch, draws, step=500)
        assert seen[-1] == frames * len(batch.video)
    with pytest.raises(MtzooError, match="pose_frames must be a whole number of at least 1, not 0"):
        DualMTGANObjective(pose_frames=0)


def test_aligned_layers_learn_from_frames_and_codes_from_where_they_were_found():
    model, batch, draws = turning()
    model.eval()
    options = {"pose_weight": 1.0, "align_weight": 3.0, **WITHOUT_OTHERS}
    aligned = DualMTGANObjective(align_steps=2, align_start=7, lambda_kl=0.0, **options)
    generator = model.image_generator
    # Not before layers are turned, whatever align_start says.
    early = DualMTGANObjective(align_steps=2, pose_start=300, **options)
    assert "aligned" not in run(early, model, batch, draws, step=400)[1]["generator"][1]
    assert "aligned" in run(early, model, batch, draws, step=500)[1]["generator"][1]
    run(aligned, model, batch, draws, step=6)
    assert not generator.held

    aligned = DualMTGANObjective(align_steps=2, pose_lead=0, content_weight=0.0, **options)
    shared, losses = run(aligned, model, batch, draws, step=9)
    assert generator.held
    loss, terms = losses["generator"]
    posed = terms["poses"] + terms["turns"] + 0.3 * terms["upright"]
    expected = 10 * (terms["reconstruction"] + terms["aligned"]) + 0.01 * terms["kl"] + 3 * posed
    torch.testing.assert_close(loss.detach(), expected)
    # No worse than by the codes: where they are best is looked for from there.
    assert terms["aligned"] < terms["reconstruction"]

    # What codes paint teaches the poses, and nothing that is moved.
    rebuilt = (shared.reconstruction - batch.video).square().mean()
    model.zero_grad()
    rebuilt.backward(retain_graph=True)
    assert generator.head.weight.grad is None
    assert generator.there.output.weight.grad.abs().sum() > 0
    model.zero_grad()
    loss.backward()
    for part in ("encoder", "head", "direction", "here", "there"):
        found = [p.grad for p in generator.get_submodule(part).parameters()]
        assert any(g is not None and g.abs().sum() > 0 for g in found), part

    plain = DualMTGANObjective(pose_weight=1.0, **WITHOUT_OTHERS)
    run(plain, model, batch, draws, step=9)
    assert not generator.held
    with pytest.raises(
        MtzooError, match="align_steps must be a whole number of at least 0, not -1"
    ):
        DualMTGANObjective(align_steps=-1, pose_weight=1.0)


def test_layers_that_do_not_turn_are_aligned_by_any_affine_maps(monkeypatch):
    model, batch, draws = turning(turns=0, layers=2)
    model.eval()
    aligned = DualMTGANObjective(
        align_steps=2, align_start=7, align_weight=3.0, content_weight=0.0, **WITHOUT_OTHERS
    )
    aligned.check(model, {})
    assert "aligned" not in run(aligned, model, batch, draws, step=6)[1]["generator"][1]
    generator = model.image_generator
    shared, losses = run(aligned, model, batch, draws, step=9)
    loss, terms = losses["generator"]
    assert generator.held
    assert terms["aligned"] < terms["reconstruction"]
    assert not {"turns", "upright"} & set(terms)
    expected = 10 * (terms["reconstruction"] + terms["aligned"]) + 0.01 * terms["kl"]
    torch.testing.assert_close(loss.detach(), expected + 3 * terms["poses"])
    loss.backward()
    for part in ("encoder", "head", "here", "there"):
        found = [p.grad for p in generator.get_submodule(part).parameters()]
        assert any(g is not None and g.abs().sum() > 0 for g in found), part

    # Codes learn to say what is found.
    picked = draws.integers(2, 3, paper._CONTENT_FRAME)
    picture = batch.video[torch.arange(2), picked]
    _, layers = generator.take_apart(shared.content[:, 0], picture)
    here = generator.poses(shared.content[:, 0], layers, picture)[:, None]
    said = here @ generator.looks(shared.motion)
    asked = []

    def elsewhere(background, layers, moves, frames, *, steps, whole):
        asked.append((steps, whole))
        torch.testing.assert_close(moves, said)
        found = moves.detach().clone()
        found[..., 0, 2] += 0.2
        return found, None

    monkeypatch.setattr(paper, "align_layers", elsewhere)
    terms = run(aligned, model, batch, draws, step=9)[1]["generator"][1]
    assert asked == [(2, True)]
    reach = extent(layers[:, :, -1].flatten(0, 1))[1]
    torch.testing.assert_close(terms["poses"], (0.04 / reach.square()).mean(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("turns", [0, 8])
@pytest.mark.parametrize("generator", ["lstm", "gru"])
def test_layers_are_aligned_in_bf16_too(turns, generator):
    model, batch, draws = turning(turns=turns, layers=2)
    if generator == "gru":
        model.networks["motion_generator"] = create(
            "motion_generators", "gru", motion_dim=4, hidden=4, frame_motion_dim=4
        )
    aligned = DualMTGANObjective(
        pose_weight=float(turns > 0), align_steps=2, pose_lead=0, **WITHOUT_OTHERS
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss, terms = run(aligned, model, batch, draws, step=9)[1]["generator"]
    loss.backward()
    full = run(aligned, model, batch, draws, step=9)[1]["generator"][1]
    assert terms["aligned"].item() == pytest.approx(full["aligned"].item(), rel=0.05)
    for part in (model.motion_encoder, model.image_generator.there, model.image_generator.here):
        grads = [p.grad for p in part.parameters()]
        assert all(grad.isfinite().all() for grad in grads)
        assert any(grad.abs().sum() > 0 for grad in grads)


@pytest.mark.parametrize("frames", ["one", "other", "either"])
def test_the_picture_that_gives_the_content_is_the_one_that_is_aligned(monkeypatch, frames):
    model, batch, draws = turning(turns=0, content_frames=frames)
    shown = []
    take_apart = model.image_generator.take_apart

    def spy(content, picture):
        shown.append((content, picture))
        return take_apart(content, picture)

    monkeypatch.setattr(model.image_generator, "take_apart", spy)
    run(DualMTGANObjective(align_steps=1, **WITHOUT_OTHERS), model, batch, draws)
    (painted, picture), (again, aligned) = shown
    assert torch.equal(picture, aligned)
    assert torch.equal(painted, again)
    if frames == "other":
        assert torch.equal(aligned, batch.target)


def test_only_layers_can_be_aligned():
    model, _, _ = make(content_frames="one")
    with pytest.raises(MtzooError, match=r"align_steps needs an .* layered, or align_steps: 0"):
        DualMTGANObjective(align_steps=1).check(model, {})


def test_places_are_compared_where_the_layer_is_seen():
    still = torch.eye(3).expand(3, 3, 3)
    wider = torch.diag(torch.tensor([1.5, 1.0, 1.0])).expand(3, 3, 3)
    seen = torch.zeros(3, 4, 8)
    seen[0, :, 4] = seen[1, 2, 7] = 1.0  # places 1/8 and 7/8 from the middle
    reach = torch.tensor([0.5, 1.0, 1.0])
    found = paper.place_consistency(wider, still, seen, reach)
    expected = ((0.5 / 8) ** 2 / 0.25 + (0.5 * 7 / 8) ** 2 + 0) / 3
    assert found.item() == pytest.approx(expected, rel=2e-3)
    shifted = still.clone()
    shifted[:, 1, 2] += 0.3
    found = paper.place_consistency(shifted, still, torch.ones(3, 4, 8), torch.ones(3))
    assert found.item() == pytest.approx(0.09, rel=1e-3)


def test_several_layers_are_aligned():
    model, batch, draws = turning(layers=2)
    aligned = DualMTGANObjective(pose_weight=1.0, align_steps=2, pose_lead=0, **WITHOUT_OTHERS)
    loss, terms = run(aligned, model, batch, draws, step=9)[1]["generator"]
    assert loss.isfinite()
    assert terms["aligned"] < terms["reconstruction"]


def test_directions_of_frames_are_held_to_how_the_picture_was_found_to_be_turned(monkeypatch):
    def turned(degrees):
        turn = torch.tensor(math.radians(degrees))
        found = torch.eye(3)
        found[0, 0] = found[1, 1] = turn.cos()
        found[1, 0], found[0, 1] = turn.sin(), -turn.sin()
        return found

    model, batch, draws = turning()
    aligned = DualMTGANObjective(pose_weight=1.0, align_steps=1, pose_lead=0, **WITHOUT_OTHERS)
    # A thing that is turned by 20 degrees in the picture, and in frames by 30 more, at half size:
    # where a frame looks in the picture is turned back by 30, and twice as far apart.
    back = torch.diag(torch.tensor([2.0, 2.0, 1.0])) @ turned(-30)
    monkeypatch.setattr(
        "mtzoo.objectives.dual_mtgan.align_layers",
        lambda background, layers, moves, frames, steps, whole: (back.expand_as(moves), None),
    )
    for read, apart in ((50, 0.0), (-10, 1.0)):

        def directions(picture, opacity, disturbed, read=read):
            lies = turned(20) if len(picture) == len(batch.video) else turned(read)
            return lies.expand(len(picture), 1, 3, 3)

        monkeypatch.setattr(model.image_generator, "directions", directions)
        terms = run(aligned, model, batch, draws, step=9)[1]["generator"][1]
        expected = apart * (2 - 2 * math.cos(math.radians(60)))
        assert terms["turns"] == pytest.approx(expected, abs=1e-5)


def test_pose_consistency_takes_shifts_as_a_share_of_what_is_shifted():
    still = torch.eye(3).repeat(2, 1, 1)
    shifted = still.clone()
    shifted[:, 0, 2] = torch.tensor([0.1, 0.3])
    found = paper.pose_consistency(still, shifted, torch.tensor([0.2, 0.3]))
    torch.testing.assert_close(found, torch.tensor((0.5**2 + 1.0) / 2))


def test_pose_consistency_knows_shift_turn_and_size_apart():
    def pose(x, y, size, degrees):
        turn = math.radians(degrees)
        cosine, sine = size * math.cos(turn), size * math.sin(turn)
        return torch.tensor([[cosine, -sine, x], [sine, cosine, y], [0.0, 0.0, 1.0]])

    here = pose(0.1, 0.2, 0.5, 30)
    assert paper.pose_consistency(here, here) == 0
    expected = 0.3**2 + 0.4**2
    assert paper.pose_consistency(here, pose(0.4, -0.2, 0.5, 30)) == pytest.approx(expected)
    assert paper.pose_consistency(here, pose(0.1, 0.2, 0.5, 90)) == pytest.approx(1.0)
    expected = math.log(2) ** 2
    assert paper.pose_consistency(here, pose(0.1, 0.2, 1.0, 30)) == pytest.approx(expected)
    assert paper.uprightness(pose(0, 0, 3.0, 0)) == pytest.approx(0, abs=1e-6)
    assert paper.uprightness(pose(0, 0, 3.0, 180)) == pytest.approx(2)


def test_a_model_refuses_a_choice_that_there_is_not():
    with pytest.raises(
        MtzooError, match="dual_mtgan: content_frames is 'first'; it must be one of"
    ):
        make(content_frames="first")


def test_poses_are_refused_where_nothing_turns():
    model, _, _ = turning(turns=0)
    with pytest.raises(MtzooError, match="pose_weight needs an image generator that turns"):
        DualMTGANObjective(pose_weight=1.0, **WITHOUT_OTHERS).check(model, {})
    DualMTGANObjective(pose_weight=1.0, **WITHOUT_OTHERS).check(turning()[0], {})
    with pytest.raises(MtzooError, match="learned by pose_weight alone"):
        DualMTGANObjective(**WITHOUT_OTHERS).check(turning()[0], {})
    with pytest.raises(MtzooError, match="pose_weight must be 0 or more, not -1"):
        DualMTGANObjective(pose_weight=-1.0)
