"""The equations of Dual-MTGAN, one function each, and their sum per training phase.

Yang et al., arXiv 2102.13329, Eq. 1, 2, 4 to 8. Reductions, which the paper leaves open and which
decide what its weights mean: every L1 is a mean over all elements, KL a mean over the batch (sum
or mean over the code, an option), adversarial terms means over the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mtzoo.components.image_generators.layered import LayeredImageGenerator, inverse
from mtzoo.components.image_generators.skip import SkipImageGenerator
from mtzoo.components.motion_encoders.trajectories import TrajectoryMotionEncoder
from mtzoo.errors import MtzooError
from mtzoo.interfaces import (
    Batch,
    Draws,
    Gaussian,
    Objective,
    Phase,
    check_choice,
    check_numbers,
    check_sizes,
    join_videos,
)
from mtzoo.models.dual_mtgan import DualMTGAN, Generated
from mtzoo.nn.adversarial import AdversarialForm, fake_loss, generator_loss, real_loss
from mtzoo.nn.align import align_layers, extent, moved, places
from mtzoo.nn.precision import without_autocast
from mtzoo.registries import objectives
from mtzoo.registry import Card

WHO = "objective dual_mtgan"

Reduction = Literal["sum", "mean"]
"""Of L_KL over the code."""

Distance = Literal["l1", "l2"]
"""Of L_rec: absolute or squared differences."""

MotionTarget = Literal["mean", "sample"]
"""Of L_M; see `DualMTGANObjective`."""

MotionGradient = Literal["all", "detach_target", "freeze_encoder"]
"""Where L_M's gradient goes; see `DualMTGANObjective`."""

TargetVideos = Literal["both", "random"]
"""Which V~_y the discriminators see; see `DualMTGANObjective`."""


def content_consistency(content: Tensor) -> Tensor:
    """L_C, Eq. 1: L1 between content codes of neighbouring frames.

    Args:
        content: ``(B, F, content_dim)``, frames in order.

    Returns:
        Scalar, mean over batch, the F - 1 neighbours and the code; 0 where F is 1.
    """
    if content.shape[1] < 2:
        return content.sum() * 0.0
    return (content[:, 1:] - content[:, :-1]).abs().mean()


def kl_divergence(posterior: Gaussian, reduction: Reduction = "sum") -> Tensor:
    """L_KL, Eq. 2: KL(P(z_M) || N(0, I)) of a diagonal Gaussian, in nats.

    Args:
        posterior: Mean and log-variance, ``(B, motion_dim)`` each.
        reduction: Over the code: ``sum`` is the divergence itself, ``mean`` its share a
            dimension.

    Returns:
        Scalar, mean over the batch.

    Raises:
        MtzooError: There is no such reduction.
    """
    check_choice("kl_divergence", "reduction", reduction, Reduction)
    mean, log_variance = _full(posterior.mean), _full(posterior.log_variance)
    each = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)
    return (each.sum(1) if reduction == "sum" else each.mean(1)).mean()


def reconstruction_loss(reconstruction: Tensor, video: Tensor, norm: Distance = "l1") -> Tensor:
    """L_rec, Eq. 4: distance between V~_x and V, mean over all elements.

    Args:
        reconstruction: V~_x, ``(B, T, C, H, W)`` in [-1, 1].
        video: V, same shape.
        norm: ``l1`` as the paper writes; ``l2`` is the squared error.

    Returns:
        Scalar.

    Raises:
        MtzooError: There is no such norm.
    """
    check_choice("reconstruction_loss", "norm", norm, Distance)
    difference = reconstruction - video
    return difference.abs().mean() if norm == "l1" else difference.square().mean()


def image_adversarial(
    real: Tensor, fake: Tensor, mismatched: Tensor, form: AdversarialForm
) -> Tensor:
    """One line of L_GAN^I, Eq. 5, as D_I's loss: real pair 1, generated 1/2, mismatched 1/2.

    Args:
        real: Logits of (x^1, S(V)), or (y, y).
        fake: Logits of (x^1, S(V~_x)), or (y, S(V~_y)).
        mismatched: Logits of (y, S(V)), or (x^1, S(V_y)): real frames, wrong condition.
        form: Adversarial form; ``minimax`` and ``non_saturating`` give minus the equation.
    """
    return real_loss(real, form) + 0.5 * (fake_loss(fake, form) + fake_loss(mismatched, form))


def video_adversarial(real: Tensor, fake: Tensor, form: AdversarialForm) -> Tensor:
    """One line of L_GAN^V, Eq. 6, as D_V's loss.

    Args:
        real: Logits of V, or V_y.
        fake: Logits of V~_x, or V~_y.
        form: Adversarial form; ``minimax`` and ``non_saturating`` give minus the equation.
    """
    return real_loss(real, form) + fake_loss(fake, form)


def motion_consistency(again: Tensor, code: Tensor) -> Tensor:
    """One term of L_M, Eq. 7: L1 between E_M of a generated video and z_M.

    Args:
        again: Mean of E_M(V~_x), or of E_M(V~_{y,d}), ``(B, motion_dim)``.
        code: The z_M that the video was made from (or its mean), same shape.

    Returns:
        Scalar, mean over batch and code.
    """
    return (again - code).abs().mean()


def pose_consistency(here: Tensor, there: Tensor, reach: Tensor | None = None) -> Tensor:
    """How far two poses are apart: squares of shift, of turn and of the ratio of sizes.

    Args:
        here: How layers lie in frames by the frames themselves, ``(..., 3, 3)``: similarities.
        there: The same by their motion codes.
        reach: How far the things reach, in half sides of the frame, ``(...)``; ``None`` is 1.

    Returns:
        Scalar: squared distance of centres as a share of ``reach``, of directions as unit vectors,
        and of the logarithms of the sizes, meaned over all and added. Sizes would else shrink on
        both sides, which only their ratio hinders.
    """
    (centre, direction, size), (other_centre, other_direction, other_size) = (
        (p[..., :2, 2], F.normalize(p[..., :2, 0], dim=-1), p[..., :2, 0].norm(dim=-1).log())
        for p in (here, there)
    )
    return (
        (centre - other_centre).square().sum(-1) / (1 if reach is None else reach.square())
        + (direction - other_direction).square().sum(-1)
        + (size - other_size).square()
    ).mean()


def place_consistency(here: Tensor, there: Tensor, seen: Tensor, reach: Tensor) -> Tensor:
    """How far apart two affine maps take the places where a layer lies in frames.

    Args:
        here: From places of frames, in half sides from the middle, to the layer, ``(..., 3, 3)``.
        there: The same by another source.
        seen: Where the layer lies in frames, hidden or not, ``(..., H, W)`` in [0, 1].
        reach: How far the layer reaches, in half sides, ``(...)``.

    Returns:
        Scalar: squared distance in the layer as a share of ``reach``, meaned over where it lies and
        over all; 0 for a layer that has left the frame.
    """
    place = places(seen.shape[-2], seen.shape[-1], seen.device)
    share = seen / (seen.sum((-2, -1), keepdim=True) + 1e-3)
    moments = torch.einsum("...hw,ihw,jhw->...ij", share, place, place)
    apart = (here - there)[..., :2, :]
    return (((apart @ moments) * apart).sum((-2, -1)) / reach.square()).mean()


def camera_consistency(said: Tensor, found: Tensor) -> Tensor:
    """Squared distance between how motion codes say that a background moves and how it does.

    Args:
        said: Where codes say that it lies in each frame, ``(B, T, 2)`` in half sides.
        found: Where it does, likewise; each from a place of its own.

    Returns:
        Scalar, mean over batch and frames, of both from their means over the frames.
    """
    apart = said - found
    return (apart - apart.mean(1, keepdim=True)).square().sum(-1).mean()


def uprightness(here: Tensor) -> Tensor:
    """How far from upright things are taken to lie: one minus the mean cosine, from 0 to 2.

    What reads the direction reads every turn alike, so it cannot please by calling everything
    upright; it can by agreeing, from thing to thing, on which way up most pictures show them
    (a prior as in Mondal et al., "Equivariant Adaptation of Large Pretrained Models", 2023).

    Args:
        here: How layers lie in pictures, ``(..., 3, 3)``.
    """
    return 1 - F.normalize(here[..., :2, 0], dim=-1)[..., 0].mean()


class Total(NamedTuple):
    """The weights of Eq. 8; the defaults are the paper's."""

    lambda_1: float = 10.0
    lambda_kl: float = 0.01
    lambda_i: float = 0.0001
    lambda_v: float = 1.0

    def __call__(
        self,
        content: Tensor,
        reconstruction: Tensor,
        motion: Tensor,
        kl: Tensor,
        image: Tensor,
        video: Tensor,
    ) -> Tensor:
        """The sum of Eq. 8 as the encoders and generators minimise it."""
        return (
            self.lambda_1 * (content + reconstruction + motion)
            + self.lambda_kl * kl
            + self.lambda_i * image
            + self.lambda_v * video
        )


# Streams of random numbers within a step; a stream's number never changes its meaning.
_CODE, _PRIOR, _CONTENT_FRAME, _CHOICE, _FRAME_V, _FRAME_X, _FRAME_Y, _FRAME_VY, _OTHER = range(9)
_PAINTED = 2 * _OTHER  # above are one and two times the others
_EITHER = _PAINTED + 1  # _PRIOR is drawn twice, not three times
_POSES = 3 * _OTHER  # and above by its multiples

_NEAR = 0.1  # how far off directions look once layers have outlines, as a share of their reach
_UPRIGHT = 0.3  # the weight of `uprightness` beside `pose_consistency`

_NO_TRANSFER = (
    "content_frames: {} takes y from the identity of V, so no V~_y shows another: set "
    "motion_weight, lambda_i and lambda_v to 0"
)


@objectives.register(
    "dual_mtgan",
    Card(
        summary="Eq. 1 to 8 of Dual-MTGAN: consistency, KL, reconstruction, two adversarial games.",
        source="Yang et al., Dual-MTGAN, arXiv 2102.13329; matching-aware pairs after Reed et al. "
        "2016",
        faithful="All terms and, by default, all weights of the paper. adversarial='minimax' is as "
        "written; the default non_saturating form, the gradient policy of L_M, warm-ups and "
        "reductions are ours and options.",
        inputs="pairs (V, V_y, y) in [-1, 1]",
        outputs="scalar losses per phase",
        tiny={"adversarial": "non_saturating"},
    ),
)
class DualMTGANObjective(Objective):
    """Eq. 8, phase by phase.

    The discriminators maximise L_GAN^I and L_GAN^V unweighted: D_I and D_V share no parameter, so
    Eq. 8's weights would only scale their gradients, which Adam undoes.

    Args:
        lambda_1: Weight of L_C, L_rec and L_M (Eq. 8).
        lambda_kl: Weight of L_KL.
        lambda_i: Weight of the generator's part of L_GAN^I.
        lambda_v: Weight of the generator's part of L_GAN^V.
        content_weight: Factor on L_C within lambda_1; 0 is the ablation without L_C.
        content_ramp: Steps over which L_C's weight grows linearly from 0. Its trivial minimum is
            one code for all pictures; at full weight from step 0 it is found before the image
            generator has learned to need content.
        motion_weight: Factor on L_M within lambda_1; 0 is the ablation without L_M.
        adversarial: Form of the adversarial terms, see `mtzoo.nn.adversarial`.
        reconstruction: Distance of L_rec; ``l1`` is the paper's.
        kl_reduction: Reduction of L_KL over the code.
        motion_target: What L_M compares E_M's mean on generated videos with: the posterior's
            ``mean`` or the ``sample`` that entered G_T.
        motion_gradient: Where L_M's gradient goes. ``all``: everywhere, as Eq. 7 reads, with a
            constant E_M as its trivial minimum; ``detach_target``: not into the target;
            ``freeze_encoder``: only into the generated videos, E_M judges but does not learn.
        kl_ramp: Steps over which L_KL's weight grows linearly from 0 to lambda_kl (annealing after
            Bowman et al. 2016). At full weight from step 0 the code collapses onto the prior
            before the generators have learned to use it; once they have, it is worth its nats.
        target_videos: Which V~_y the discriminators see ("either one of" in the paper):
            ``both``, or ``random``: V~_{y,d} or V~_{y,s}, drawn once a step.
        motion_start: First step with L_M.
        motion_ramp: Steps over which L_M's weight grows linearly from 0, after ``motion_start``.
            On blurred early videos it is large, and at full weight the generators would please
            E_M instead of rebuilding the video.
        adversarial_start: First step with the adversarial terms and the discriminators' phase.
        adversarial_ramp: Steps over which the generator's adversarial terms grow linearly from 0
            to full weight, after ``adversarial_start``.
        paint_every: Paint every n-th frame only, from a random first one, on steps where L_rec
            alone looks at the videos. A clip's mean error is estimated without bias at an n-th of
            G_I's cost; what is saved may go into a larger batch. 1 paints all.
        pose_weight: Weight of `pose_consistency` and `uprightness`, for the image generator
            ``layered`` with ``turns``: what E_M says of how things lie in a frame is held to what
            the frame itself shows. L_rec alone does not teach turning, since a clip shows most
            things about one way up.
        pose_start: First step with `uprightness`: there are no layers to be looked at before.
        pose_lead: Steps after that until layers are turned and `pose_consistency` begins. Turned by
            directions that nobody knows yet, layers blur, and in blurred layers directions are
            hard to learn.
        pose_frames: Frames of a clip that the pose terms look at on a step, drawn at random. Each
            costs a forward pass of what takes pictures apart.
        align_steps: By how many steps of Gauss-Newton the layers of a picture are brought to lie in
            the painted frames as these show it, before they are compared with them
            (`mtzoo.nn.align`). Layers learn from that alone, and codes from what was found: as
            long as codes are a little wrong, layers that are moved by them are best with soft
            outlines. For the image generator ``layered``; takes the place of the pose terms above.
            0 is off.
        align_start: First step of that, not before layers are turned. Found is the nearest fit, so
            codes have to be about right.
        camera_weight: Weight of `camera_consistency`, for the image generator ``skip`` with
            ``backdrop``: motion codes say how the background moves in V. In training it is laid
            where frames show it; so nothing else teaches that.
        backdrop_weight: Weight of how much that background holds of what stands before it, in
            frames in which it has hardly moved (`SkipImageGenerator.forward`).
        align_weight: Weight of what it teaches codes: `place_consistency` with what was found; for
            layers that turn `pose_consistency` instead, as a share of how far they reach, that
            directions read off the picture and off frames differ by what lies between them, and
            `uprightness`.

    Raises:
        MtzooError: A weight is negative or not finite, a number of steps or frames is none, or
            there is no such choice.
    """

    def __init__(
        self,
        *,
        lambda_1: float = 10.0,
        lambda_kl: float = 0.01,
        lambda_i: float = 0.0001,
        lambda_v: float = 1.0,
        content_weight: float = 1.0,
        content_ramp: int = 0,
        motion_weight: float = 1.0,
        adversarial: AdversarialForm = "non_saturating",
        reconstruction: Distance = "l1",
        kl_reduction: Reduction = "sum",
        kl_ramp: int = 0,
        motion_target: MotionTarget = "sample",
        motion_gradient: MotionGradient = "freeze_encoder",
        target_videos: TargetVideos = "both",
        motion_start: int = 0,
        motion_ramp: int = 0,
        adversarial_start: int = 0,
        adversarial_ramp: int = 0,
        paint_every: int = 1,
        pose_weight: float = 0.0,
        pose_start: int = 0,
        pose_lead: int = 200,
        pose_frames: int = 2,
        align_steps: int = 0,
        align_start: int = 0,
        align_weight: float = 1.0,
        camera_weight: float = 0.0,
        backdrop_weight: float = 0.0,
    ) -> None:
        check_numbers(
            WHO,
            lambda_1=lambda_1,
            lambda_kl=lambda_kl,
            lambda_i=lambda_i,
            lambda_v=lambda_v,
            content_weight=content_weight,
            motion_weight=motion_weight,
            pose_weight=pose_weight,
            align_weight=align_weight,
            camera_weight=camera_weight,
            backdrop_weight=backdrop_weight,
        )
        check_sizes(
            WHO,
            least=0,
            content_ramp=content_ramp,
            kl_ramp=kl_ramp,
            motion_start=motion_start,
            motion_ramp=motion_ramp,
            adversarial_start=adversarial_start,
            adversarial_ramp=adversarial_ramp,
            pose_start=pose_start,
            pose_lead=pose_lead,
            align_steps=align_steps,
            align_start=align_start,
        )
        check_sizes(WHO, paint_every=paint_every, pose_frames=pose_frames)
        check_choice(WHO, "adversarial", adversarial, AdversarialForm)
        check_choice(WHO, "reconstruction", reconstruction, Distance)
        check_choice(WHO, "kl_reduction", kl_reduction, Reduction)
        check_choice(WHO, "motion_target", motion_target, MotionTarget)
        check_choice(WHO, "motion_gradient", motion_gradient, MotionGradient)
        check_choice(WHO, "target_videos", target_videos, TargetVideos)
        self.total = Total(lambda_1, lambda_kl, lambda_i, lambda_v)
        self.content_weight = content_weight
        self.motion_weight = motion_weight
        self.adversarial: AdversarialForm = adversarial
        self.reconstruction: Distance = reconstruction
        self.kl_reduction: Reduction = kl_reduction
        self.content_ramp = content_ramp
        self.kl_ramp = kl_ramp
        self.motion_target = motion_target
        self.motion_gradient = motion_gradient
        self.target_videos = target_videos
        self.motion_start = motion_start
        self.motion_ramp = motion_ramp
        self.adversarial_start = adversarial_start
        self.adversarial_ramp = adversarial_ramp
        self.paint_every = paint_every
        self.pose_weight = pose_weight
        self.pose_start = pose_start
        self.turn_start = pose_start + pose_lead
        self.pose_frames = pose_frames
        self.align_steps = align_steps
        self.align_weight = align_weight
        self.camera_weight = camera_weight
        self.backdrop_weight = backdrop_weight
        self.align_start = max(align_start, self.turn_start if pose_weight else 0)

    def check(self, model: DualMTGAN, data: Mapping[str, object]) -> None:
        """Refuse y of another identity, or terms that ask for one, where y is to be of V's.

        And a motion prior, which learns later; poses or alignment where the image generator knows
        of none, or turns that nothing teaches.

        Args:
            model: What is to be trained.
            data: The recipe's ``data`` section, resolved.

        Raises:
            MtzooError: They do not go together; the line says which option to change.
        """
        if model.motion_prior is not None:
            raise MtzooError(
                "the motion prior is learned after the model, from its codes: set "
                "model.motion_prior: null and give the run to `mtzoo prior`"
            )
        turner = _turner(model)
        if turner and not self.pose_weight:
            raise MtzooError(
                "the image generator's turns are learned by pose_weight alone: set it above 0, or "
                "model.image_generator.turns: 0"
            )
        if self.pose_weight and not turner:
            raise MtzooError(
                "pose_weight needs an image generator that turns layers: set "
                "model.image_generator.name: layered and its turns (16, say), or pose_weight: 0"
            )
        generator = model.image_generator
        moving = isinstance(generator, SkipImageGenerator) and generator.behind is not None
        if moving != (self.camera_weight > 0):
            raise MtzooError(
                "the image generator's backdrop is moved as camera_weight alone teaches: set it "
                "above 0, or model.image_generator.backdrop: false"
                if moving
                else "camera_weight needs an image generator that moves a background: set "
                "model.image_generator.name: skip and its backdrop, or camera_weight: 0"
            )
        if self.backdrop_weight and not moving:
            raise MtzooError(
                "backdrop_weight needs an image generator that shows a background: set "
                "model.image_generator.name: skip and its backdrop, or backdrop_weight: 0"
            )
        encoder = model.motion_encoder
        if moving and isinstance(encoder, TrajectoryMotionEncoder) and not encoder.camera:
            raise MtzooError(
                "the motion encoder 'trajectories' reads frames one by one, which do not show how "
                "a background moves: set model.motion_encoder.camera: true, or "
                "model.image_generator.backdrop: false"
            )
        if self.align_steps and not isinstance(model.image_generator, LayeredImageGenerator):
            raise MtzooError(
                "align_steps needs an image generator that moves layers: set "
                "model.image_generator.name: layered, or align_steps: 0"
            )
        if model.content_frames not in ("other", "either"):
            return
        if data.get("target_identity") != "same":
            raise MtzooError(
                f"model.content_frames: {model.content_frames} takes the content of V from y, "
                "which has to show the same identity: set data.target_identity: same"
            )
        if self.motion_weight or self.total.lambda_i or self.total.lambda_v:
            raise MtzooError(_NO_TRANSFER.format(model.content_frames))

    def phases(self) -> tuple[Phase, ...]:
        """The discriminators' turn (where an adversarial term has weight), then the generators'."""
        generator = Phase("generator", "generators")
        if self.total.lambda_i == 0 and self.total.lambda_v == 0:
            return (generator,)
        judge = Phase("discriminator", "discriminators", start=self.adversarial_start)
        return (judge, generator)

    def forward(self, model: DualMTGAN, batch: Batch, draws: Draws, step: int) -> Generated:
        """Codes once, and those generated videos that this step's terms look at, in one pass.

        Args:
            model: What trains; its image generator is told whether layers turn and learn.
            batch: V, V_y and y.
            draws: The step's random numbers.
            step: Number of the step, from 0.

        Returns:
            What `loss` takes as ``shared``.

        Raises:
            MtzooError: A term of this step asks for V~_y of another identity, which the model's
                ``content_frames`` does not leave; `check` says so before a run.
        """
        if turner := _turner(model):
            turner.turn_(step >= self.turn_start)
        if isinstance(model.image_generator, LayeredImageGenerator):
            model.image_generator.held = self._aligning(step)
        count, frames = batch.video.shape[:2]
        judging = self._judging(model, step)
        drawn = judging and (self.target_videos == "both" or self._choice(draws) == 1)
        targeted = judging or self._matching(step)
        content_frame = other = None
        if model.content_frames != "each":
            content_frame = self._content_frame(batch, draws)
        if model.content_frames in ("other", "either"):
            if targeted:
                told = _NO_TRANSFER.format(model.content_frames)
                raise MtzooError(f"objective dual_mtgan: {told}")
            other = self._picture(model, batch, draws)
        painted = self._painted(draws, frames, targeted)
        return model(
            batch.video,
            batch.target if targeted else None,
            draws.normal(count, model.motion_dim, _CODE),
            draws.normal(count, model.motion_dim, _PRIOR) if drawn else None,
            content_frame,
            painted,
            other,
        )

    def variant(
        self, model: DualMTGAN, batch: Batch, draws: Draws, step: int
    ) -> tuple[object, ...]:
        """Which terms are there, and what is drawn for all at once."""
        judging, matching = self._judging(model, step), self._matching(step)
        painted = self._painted(draws, batch.video.shape[1], judging or matching)
        return (
            judging,
            matching,
            self._aligning(step),
            self.pose_weight > 0 and step >= self.pose_start,
            self.pose_weight > 0 and step >= self.turn_start,
            judging and self.target_videos == "random" and self._choice(draws),
            painted.start,
        )

    def numbers(self, step: int) -> dict[str, float]:
        """How far the terms' ramps are."""
        return {
            "content": _grown(step, self.content_ramp),
            "motion": _grown(step - self.motion_start, self.motion_ramp),
            "kl": _grown(step, self.kl_ramp),
            "adversarial": _grown(step - self.adversarial_start, self.adversarial_ramp),
        }

    def loss(
        self,
        phase: Phase,
        model: DualMTGAN,
        batch: Batch,
        shared: Generated,
        draws: Draws,
        step: int,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of one phase and its terms, detached.

        Args:
            phase: One of `phases`.
            model: What trains.
            batch: V, V_y and y.
            shared: Of `forward`, on the same step.
            draws: The step's random numbers, those of `forward`.
            step: Number of the step, from 0.

        Returns:
            The scalar loss, and by name scalars: unweighted terms and, of the discriminators, the
            means of D in [0, 1].
        """
        if phase.name == "discriminator":
            return self._discriminator_loss(model, batch, shared, draws)
        return self._generator_loss(model, batch, shared, draws, step)

    @staticmethod
    def _content_frame(batch: Batch, draws: Draws) -> Tensor:
        """A frame of each V by its number; not the last, as L_C looks at the next, too."""
        count, frames = batch.video.shape[:2]
        return draws.integers(count, max(frames - 1, 1), _CONTENT_FRAME)

    def _picture(self, model: DualMTGAN, batch: Batch, draws: Draws) -> Tensor:
        """The picture that gives V~_x its content, where one does."""
        if model.content_frames == "other":
            return batch.target
        at = self._content_frame(batch, draws)
        own = batch.video[torch.arange(len(at), device=at.device), at]
        if model.content_frames == "one":
            return own
        chosen = draws.integers(len(at), 2, _EITHER)[:, None, None, None]
        return torch.where(chosen == 0, own, batch.target)

    def _judging(self, model: DualMTGAN, step: int) -> bool:
        """Whether adversarial terms are computed on ``step``."""
        return step >= self.adversarial_start and bool(
            (model.image_discriminator is not None and self.total.lambda_i > 0)
            or (model.video_discriminator is not None and self.total.lambda_v > 0)
        )

    def _matching(self, step: int) -> bool:
        """Whether L_M is computed on ``step``."""
        return self.motion_weight > 0 and self.total.lambda_1 > 0 and step >= self.motion_start

    def _aligning(self, step: int) -> bool:
        """Whether layers learn from frames that they are aligned with, on ``step``."""
        return self.align_steps > 0 and step >= self.align_start

    def _choice(self, draws: Draws) -> int:
        """With target_videos='random': 0 shows V~_{y,d}, 1 shows V~_{y,s}, alike on all ranks."""
        return self._one(draws, 2, _CHOICE)

    def _painted(self, draws: Draws, frames: int, targeted: bool) -> slice:
        """Which frames are painted, alike on all ranks."""
        if self.paint_every == 1 or targeted:
            return slice(None)
        stride = min(self.paint_every, frames)
        return slice(self._one(draws, stride, _PAINTED), None, stride)

    @staticmethod
    def _one(draws: Draws, high: int, stream: int) -> int:
        """A number in [0, high) for the step, the same on all ranks."""
        # Drawn for sample 0 of the global batch, so that all ranks take the same branch.
        first = Draws(draws.seed, draws.step, 0, draws.total, torch.device("cpu"))
        return int(first.integers(1, high, stream))

    def _targets(self, shared: Generated, draws: Draws) -> list[Tensor]:
        """The V~_y that the discriminators see."""
        assert shared.transferred is not None
        if shared.sampled is None:
            return [shared.transferred]
        if self.target_videos == "random":
            return [shared.sampled]
        return [shared.transferred, shared.sampled]

    def _discriminator_loss(
        self, model: DualMTGAN, batch: Batch, shared: Generated, draws: Draws
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        count = len(batch.video)
        own = shared.reconstruction.detach()
        targets = [video.detach() for video in self._targets(shared, draws)]
        loss = batch.video.new_zeros(())
        terms: dict[str, Tensor] = {}
        if model.image_discriminator is not None and self.total.lambda_i > 0:
            first, y = batch.video[:, 0], batch.target
            picked_v = _pick(batch.video, draws, _FRAME_V)
            fakes_y = [_pick(v, draws, _FRAME_Y + i * _OTHER) for i, v in enumerate(targets)]
            conditions = [first, first, y, y, first] + [y] * len(targets)
            pictures = [
                picked_v,
                _pick(own, draws, _FRAME_X),
                picked_v,
                y,
                _pick(batch.target_video, draws, _FRAME_VY),
                *fakes_y,
            ]
            logits = model.image_discriminator(torch.cat(conditions), torch.cat(pictures))
            real_x, fake_x, wrong_x, real_y, wrong_y, *fake_y = _full(logits).split(count)
            image = image_adversarial(real_x, fake_x, wrong_x, self.adversarial)
            image = image + image_adversarial(real_y, torch.cat(fake_y), wrong_y, self.adversarial)
            loss = loss + image
            terms |= {
                "image": image.detach(),
                "real_image": _belief(torch.cat([real_x, real_y])),
                "fake_image": _belief(torch.cat([fake_x, *fake_y])),
                "mismatched_image": _belief(torch.cat([wrong_x, wrong_y])),
            }
        if model.video_discriminator is not None and self.total.lambda_v > 0:
            shown = join_videos([batch.video, batch.target_video, own, *targets])
            logits = _full(model.video_discriminator(shown))
            real_x, real_y, fake_x, *fake_y = logits.split(count)
            video = video_adversarial(real_x, fake_x, self.adversarial)
            video = video + video_adversarial(real_y, torch.cat(fake_y), self.adversarial)
            loss = loss + video
            terms |= {
                "video": video.detach(),
                "real_video": _belief(torch.cat([real_x, real_y])),
                "fake_video": _belief(torch.cat([fake_x, *fake_y])),
            }
        return loss, terms

    def _generator_loss(
        self, model: DualMTGAN, batch: Batch, shared: Generated, draws: Draws, step: int
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        count = len(batch.video)
        grown = {name: draws.number(name, value) for name, value in self.numbers(step).items()}
        zero = batch.video.new_zeros(())
        content = content_consistency(_full(shared.content))
        reconstruction = reconstruction_loss(
            _full(shared.reconstruction), batch.video[:, shared.painted], self.reconstruction
        )
        kl = kl_divergence(shared.posterior, self.kl_reduction)
        terms = {"content": content, "reconstruction": reconstruction, "kl": kl}
        motion = image = video = zero

        if self._matching(step):
            motion = self._motion(model, shared)
            terms["motion"] = motion

        poses = zero
        if self._aligning(step):
            found = self._aligned(model, batch, shared, draws)
            terms |= found
            reconstruction = reconstruction + found.pop("aligned")
            poses = _UPRIGHT * found.pop("upright", zero) + sum(found.values(), zero)
            poses = self.align_weight * poses
        elif self.pose_weight and step >= self.pose_start:
            found = self._poses(model, batch, shared, draws, step >= self.turn_start)
            terms |= found
            poses = self.pose_weight * (_UPRIGHT * found["upright"] + found.get("poses", zero))

        if self._judging(model, step):
            targets = self._targets(shared, draws)
            if model.image_discriminator is not None and self.total.lambda_i > 0:
                conditions = [batch.video[:, 0]] + [batch.target] * len(targets)
                pictures = [_pick(shared.reconstruction, draws, _FRAME_X)] + [
                    _pick(v, draws, _FRAME_Y + i * _OTHER) for i, v in enumerate(targets)
                ]
                logits = model.image_discriminator(torch.cat(conditions), torch.cat(pictures))
                own, other = _full(logits).split([count, count * len(targets)])
                # The halves of Eq. 5 stay on the generator's side too.
                image = 0.5 * (
                    generator_loss(own, self.adversarial) + generator_loss(other, self.adversarial)
                )
                terms["image"] = image
            if model.video_discriminator is not None and self.total.lambda_v > 0:
                shown = join_videos([shared.reconstruction, *targets])
                logits = _full(model.video_discriminator(shown))
                own, other = logits.split([count, count * len(targets)])
                video = generator_loss(own, self.adversarial) + generator_loss(
                    other, self.adversarial
                )
                terms["video"] = video
            image, video = grown["adversarial"] * image, grown["adversarial"] * video

        loss = self.total(
            grown["content"] * self.content_weight * content,
            reconstruction,
            grown["motion"] * self.motion_weight * motion,
            grown["kl"] * kl,
            image,
            video,
        )
        loss = loss + poses
        if shared.camera is not None:
            assert isinstance(model.image_generator, SkipImageGenerator)
            assert shared.motion is not None
            said = model.image_generator.camera(shared.motion)
            terms["camera"] = camera_consistency(said, shared.camera)
            loss = loss + self.camera_weight * terms["camera"]
        if shared.held is not None:
            terms["held"] = shared.held
            loss = loss + self.backdrop_weight * shared.held
        return loss, {name: term.detach() for name, term in terms.items()}

    def _poses(
        self, model: DualMTGAN, batch: Batch, shared: Generated, draws: Draws, turning: bool
    ) -> dict[str, Tensor]:
        """In some random frames of each V, `uprightness` and, once layers turn, `pose_consistency`.

        Returns:
            ``upright`` and ``poses``.
        """
        generator = _turner(model)
        assert generator is not None
        assert shared.motion is not None
        count, frames = batch.video.shape[:2]
        rows = torch.arange(count, device=batch.video.device)[:, None]
        picked = [
            draws.integers(count, frames, _POSES + i * _OTHER) for i in range(self.pose_frames)
        ]
        at = torch.stack(picked, 1)
        pictures = batch.video[rows, at].flatten(0, 1)
        with torch.no_grad():
            content = model.content_encoder(pictures)
            _, layers = generator.take_apart(content, pictures)
        # The picture teaches: held to E_M, it would call upright what E_M cannot tell turned.
        found = {"upright": uprightness(generator.directions(pictures, layers[:, :, -1]))}
        if turning:
            with torch.no_grad():
                here = generator.poses(content, layers, pictures).unflatten(0, (count, -1))
            there = generator.frame_poses(shared.motion)[rows, at]
            found["poses"] = pose_consistency(here, there)
        return found

    def _aligned(
        self, model: DualMTGAN, batch: Batch, shared: Generated, draws: Draws
    ) -> dict[str, Tensor]:
        """What frames say once the picture's layers are laid where they fit them best.

        Returns:
            ``aligned``: L_rec with layers laid so, which teaches the layers. ``poses``: how far
            codes are from saying the same. And for layers that turn, ``turns``: how far directions
            read off the picture and off frames are from differing by what lies between them, and
            ``upright``: `uprightness`.
        """
        generator = model.image_generator
        assert isinstance(generator, LayeredImageGenerator)
        assert shared.motion is not None
        count = len(batch.video)
        picture = self._picture(model, batch, draws)
        content = shared.content[:, 0]
        video = batch.video[:, shared.painted]
        background, layers = generator.take_apart(content, picture)
        here = generator.poses(content, layers, picture)[:, None]
        opacity = layers[:, :, -1]
        turns = generator.direction is not None
        looks = generator.looks(shared.motion)[:, shared.painted]
        with without_autocast(video):
            said = here @ looks
            with torch.no_grad():
                half = [
                    F.avg_pool2d(maps.float().flatten(0, -4), 2).unflatten(0, maps.shape[:-3])
                    for maps in (background, layers, video)
                ]
                moves, _ = align_layers(
                    half[0], half[1], said, half[2], steps=self.align_steps, whole=not turns
                )
                reach = extent(opacity.flatten(0, 1))[1].unflatten(0, (count, 1, -1))
                seen = torch.cat(moved(layers[:, :, -1:], moves), 2)
        shown = generator.compose(background, layers, moves)
        aligned = reconstruction_loss(shown, video, self.reconstruction)
        if not turns:
            with without_autocast(video):
                apart = place_consistency(said, moves, seen, reach)
            return {"aligned": aligned, "poses": apart}
        of_picture = generator.directions(picture, opacity, disturbed=_NEAR)[:, None]
        of_frames = generator.directions(video.flatten(0, 1), seen.flatten(0, 1), disturbed=_NEAR)
        of_frames = of_frames.unflatten(0, (count, -1))
        with without_autocast(video):
            back, there = inverse(moves), inverse(looks)
            found, turned = back @ here, back @ of_picture
        apart = F.normalize(turned[..., :2, 0], dim=-1) - of_frames[..., :2, 0]
        return {
            "aligned": aligned,
            "poses": pose_consistency(found, there, reach),
            "turns": apart.square().sum(-1).mean(),
            "upright": uprightness(torch.cat((of_picture, of_frames), 1)),
        }

    def _motion(self, model: DualMTGAN, shared: Generated) -> Tensor:
        """L_M, both terms of Eq. 7, with E_M run once on both generated videos."""
        assert shared.transferred is not None
        target = shared.posterior.mean if self.motion_target == "mean" else shared.code
        if self.motion_gradient != "all":
            target = target.detach()
        frozen = self.motion_gradient == "freeze_encoder"
        learning = [p for p in model.motion_encoder.parameters() if frozen and p.requires_grad]
        for parameter in learning:
            parameter.requires_grad_(False)
        try:
            again = model.motion_encoder(
                join_videos([shared.reconstruction, shared.transferred])
            ).mean
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)
        own, other = _full(again).chunk(2)
        target = _full(target)
        return motion_consistency(own, target) + motion_consistency(other, target)

    @torch.no_grad()
    def health(self, model: DualMTGAN, batch: Batch, draws: Draws) -> Mapping[str, Tensor]:
        """Is the motion code alive, does content differ between videos, do samples differ.

        ``active_motion_dims`` counts the code dimensions whose posterior mean varies over the
        batch with a variance above 0.01 (active units of Burda et al. 2016). ``motion_spread`` and
        ``motion_sigma`` are the standard deviation of the posterior's means over videos and the
        posterior's own, averaged over the code. ``motion_bits`` is L_KL in bits, an upper bound
        of what the code says of its video. ``content_between`` and ``content_within`` are
        the standard deviation of content codes between videos and between frames of one video,
        averaged over the code; ``content_size`` is the codes' root mean square. ``sample_spread``
        is the mean absolute pixel difference of two motions drawn for one picture, in [0, 2].
        ``frame_change`` is the mean absolute difference of neighbouring frames in transfers, as a
        share of that in their source videos. Figures between videos are left out for a batch of
        one, and ``content_within`` where one picture gives a video its content without L_C: its
        code may say how things lie in it.

        Returns:
            The figures by name, detached scalars.
        """
        count, frames = batch.video.shape[:2]
        posterior: Gaussian = model.motion_encoder(batch.video)
        means = posterior.mean.float()
        codes = model.content_encoder(batch.video.flatten(0, 1)).float()
        codes = codes.unflatten(0, (count, frames))
        drawn = [draws.normal(count, model.motion_dim, s) for s in (_PRIOR, _PRIOR + _OTHER)]
        content = model.content_encoder(batch.target)
        one, two, moved = (
            model.paint(content, model.motion_generator(code, frames), batch.target)
            for code in (*drawn, posterior.mean)
        )
        across = {
            "active_motion_dims": (means.var(0, unbiased=False) > 0.01).sum().float(),
            "motion_spread": means.std(0, unbiased=False).mean(),
            "content_between": codes.mean(1).std(0, unbiased=False).mean(),
        }
        alike = model.content_frames == "each" or self.content_weight > 0
        within = {"content_within": codes.std(1, unbiased=False).mean()} if alike else {}
        return {
            **(across if count > 1 else {}),
            "motion_sigma": (0.5 * posterior.log_variance.float()).exp().mean(),
            "motion_bits": kl_divergence(posterior) / math.log(2),
            **within,
            "content_size": codes.square().mean().sqrt(),
            "sample_spread": (one - two).abs().float().mean(),
            "frame_change": _change(moved) / _change(batch.video).clamp(min=1e-6),
        }


def _turner(model: DualMTGAN) -> LayeredImageGenerator | None:
    """The image generator, where it tells how things lie in pictures."""
    generator = model.image_generator
    if isinstance(generator, LayeredImageGenerator) and generator.direction is not None:
        return generator
    return None


def _grown(steps: int, ramp: int) -> float:
    """Factor of a term that grows linearly to 1 over ``ramp`` steps; the first has 1/ramp."""
    return min(1.0, (steps + 1) / ramp) if ramp else 1.0


def _full(values: Tensor) -> Tensor:
    """In at least fp32, whatever autocast made them: losses are sums of many."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _pick(video: Tensor, draws: Draws, stream: int) -> Tensor:
    """S of Eq. 5: one random frame a video, ``(B, T, C, H, W)`` to ``(B, C, H, W)``."""
    count, frames = video.shape[:2]
    rows = torch.arange(count, device=video.device)
    return video[rows, draws.integers(count, frames, stream)]


def _change(video: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring frames; 0 for one frame."""
    video = video.float()
    return (video[:, 1:] - video[:, :-1]).abs().sum() / max(video[:, 1:].numel(), 1)


def _belief(logits: Tensor) -> Tensor:
    """Mean of D = sigmoid(l), for the log."""
    return F.sigmoid(logits.detach()).mean()
