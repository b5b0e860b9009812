"""Dual-MTGAN: six networks that move a picture, by a video's motion or by a drawn one.

Yang, Chang, Lee, Wang, "Dual-MTGAN: Stochastic and Deterministic Motion Transfer for
Image-to-Video Synthesis", arXiv 2102.13329. The names E_C, E_M, G_T, G_I, D_I, D_V below are the
paper's.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from mtzoo.components.image_generators.skip import Backdrop, SkipImageGenerator
from mtzoo.components.motion_encoders.trajectories import TrajectoryMotionEncoder
from mtzoo.components.motion_generators.lstm import LSTMMotionGenerator
from mtzoo.errors import MtzooError
from mtzoo.interfaces import (
    ContentEncoder,
    Gaussian,
    ImageDiscriminator,
    ImageGenerator,
    Model,
    MotionEncoder,
    MotionGenerator,
    MotionPrior,
    VideoDiscriminator,
    check_choice,
    check_sizes,
)
from mtzoo.nn.blocks2d import check_image
from mtzoo.nn.camera import camera_motion
from mtzoo.registries import models
from mtzoo.registry import Card

ContentFrames = Literal["each", "one", "other", "either"]
"""Where V~_x takes its content from in training; see `DualMTGAN`."""


class Generated(NamedTuple):
    """What one training forward computes, each code once.

    Attributes:
        content: Content codes of frames of V, ``(B, F, content_dim)``: all T in order for
            ``content_frames="each"``, two neighbouring frames for ``"one"``, the picture that is
            shown and a later frame of V for ``"other"`` and ``"either"``.
        posterior: P(z_M) of V.
        code: z_M, sampled from the posterior, ``(B, motion_dim)``.
        reconstruction: V~_x of Eq. 3, ``(B, T, C, H, W)``.
        transferred: V~_{y,d} of Eq. 3, same shape; ``None`` where it was not asked for.
        sampled: V~_{y,s} of Eq. 3, same shape; ``None`` where it was not asked for.
        painted: Which frames of V the generated videos show; T counts these.
        motion: Motion codes of all frames of V, of G_T from ``code``.
        camera: Where the background lies in the frames of V, ``(B, T, 2)``, see `camera_motion`;
            for an image generator with ``backdrop``.
        held: How much the background holds of what stands before it, see
            `SkipImageGenerator.forward`; likewise.
    """

    content: Tensor
    posterior: Gaussian
    code: Tensor
    reconstruction: Tensor
    transferred: Tensor | None
    sampled: Tensor | None
    painted: slice = slice(None)
    motion: Tensor | None = None
    camera: Tensor | None = None
    held: Tensor | None = None


@models.register(
    "dual_mtgan",
    Card(
        summary="Content and motion codes, recurrent frame codes, one image generator, two judges.",
        source="Yang et al., Dual-MTGAN, arXiv 2102.13329",
        faithful="Networks, codes and outputs (Sec. III, Eq. 3) with content_frames='each'; "
        "'one', 'other' and 'either' are ours. Widths, norms and code sizes are the components' "
        "and open in the paper.",
        inputs="image (B, C, H, W) and video (B, T, C, H, W) in [-1, 1]",
        outputs="video (B, T, C, H, W) in [-1, 1]",
        tiny={"content_frames": "each"},
    ),
)
class DualMTGAN(Model):
    """The paper's assembly, open in every part.

    Args:
        content_encoder: E_C.
        motion_encoder: E_M.
        motion_generator: G_T.
        image_generator: G_I.
        image_discriminator: D_I; ``None`` leaves it out (ablation, or a model only for use).
        video_discriminator: D_V; ``None`` leaves it out.
        motion_prior: What `sample` draws z_M from, once it has been learned (``mtzoo prior``);
            ``None`` is the paper's N(0, I).
        content_frames: Where V~_x takes its content from in training. ``each``: every frame's own
            code, as Eq. 3 writes; ``one``: one random frame's code for the whole clip, which
            leaves motion no way around z_M even before L_C has made the codes alike; ``other``:
            the code of a frame of another clip of the same identity, which the dataset has to give
            as y (``target_identity: same``), so that a picture's pose is learned to be one thing
            and the video's motion another, as in a transfer; ``either``: by chance the one or the
            other, since what moves beside the identity, such as a wall that passes by, can be
            learned from the video's own frames alone.
    """

    def __init__(
        self,
        content_encoder: ContentEncoder,
        motion_encoder: MotionEncoder,
        motion_generator: MotionGenerator,
        image_generator: ImageGenerator,
        image_discriminator: ImageDiscriminator | None = None,
        video_discriminator: VideoDiscriminator | None = None,
        motion_prior: MotionPrior | None = None,
        *,
        content_frames: ContentFrames = "each",
    ) -> None:
        super().__init__()
        check_choice("dual_mtgan", "content_frames", content_frames, ContentFrames)
        if motion_generator.motion_dim != motion_encoder.motion_dim:
            raise MtzooError(
                f"dual_mtgan: the motion generator takes codes of {motion_generator.motion_dim} "
                f"numbers, the motion encoder gives {motion_encoder.motion_dim}; "
                "build the generator with the encoder's motion_dim"
            )
        _check_tracks(motion_encoder, motion_generator)
        if image_generator.takes_picture and content_frames == "each":
            raise MtzooError(
                "dual_mtgan: this image generator sees the picture itself, and with "
                "content_frames: each that is the frame it is to paint; use content_frames: one"
            )
        self.networks = nn.ModuleDict(
            {
                "content_encoder": content_encoder,
                "motion_encoder": motion_encoder,
                "motion_generator": motion_generator,
                "image_generator": image_generator,
            }
        )
        if motion_prior is not None:
            self.networks["motion_prior"] = motion_prior
        judges: dict[str, nn.Module] = {}
        if image_discriminator is not None:
            judges["image_discriminator"] = image_discriminator
        if video_discriminator is not None:
            judges["video_discriminator"] = video_discriminator
        self.judges = nn.ModuleDict(judges)
        self.content_frames = content_frames
        self.resolution = image_generator.resolution
        self.channels = image_generator.channels
        self.motion_dim = motion_encoder.motion_dim

    def generators(self) -> nn.Module:
        """E_C, E_M, G_T and G_I as one module, and the prior where there is one."""
        return self.networks

    def discriminators(self) -> nn.Module:
        """D_I and D_V as one module; lacks those left out."""
        return self.judges

    @property
    def content_encoder(self) -> nn.Module:
        """E_C."""
        return self.networks["content_encoder"]

    @property
    def motion_encoder(self) -> nn.Module:
        """E_M."""
        return self.networks["motion_encoder"]

    @property
    def motion_generator(self) -> nn.Module:
        """G_T."""
        return self.networks["motion_generator"]

    @property
    def image_generator(self) -> nn.Module:
        """G_I."""
        return self.networks["image_generator"]

    @property
    def motion_prior(self) -> MotionPrior | None:
        """What z_M is drawn from; ``None`` is N(0, I)."""
        return cast("MotionPrior | None", dict(self.networks.items()).get("motion_prior"))

    @property
    def image_discriminator(self) -> nn.Module | None:
        """D_I, where there is one."""
        return dict(self.judges.items()).get("image_discriminator")

    @property
    def video_discriminator(self) -> nn.Module | None:
        """D_V, where there is one."""
        return dict(self.judges.items()).get("video_discriminator")

    def forward(
        self,
        video: Tensor,
        target: Tensor | None,
        code_noise: Tensor,
        prior_code: Tensor | None = None,
        content_frame: Tensor | None = None,
        painted: slice = slice(None),
        other: Tensor | None = None,
    ) -> Generated:
        """Compute every code once and all generated videos in one pass of G_I.

        Args:
            video: V, ``(B, T, C, H, W)`` in [-1, 1].
            target: y, ``(B, C, H, W)`` in [-1, 1]; ``None`` makes V~_x only.
            code_noise: Standard normal ``(B, motion_dim)`` for z_M's reparametrisation.
            prior_code: z_M drawn from N(0, I), ``(B, motion_dim)``; ``None`` skips V~_{y,s}.
            content_frame: Unless ``content_frames="each"``, which frame of V is encoded (``one``:
                and gives the content of V~_x), int64 ``(B,)`` in [0, T - 1).
            painted: Which frames G_I paints; all codes are computed from and for all frames.
            other: With ``content_frames`` ``"other"`` and ``"either"``, the picture that gives
                the content of V~_x, ``(B, C, H, W)`` in [-1, 1].

        Returns:
            Codes and videos; ``transferred`` is there when ``target`` is, ``sampled`` when
            ``prior_code`` is too.

        Raises:
            MtzooError: ``content_frame`` or ``other`` is missing, or ``other`` given, against
                ``content_frames``; or video or pictures are of another size.
        """
        batch, frames = video.shape[:2]
        if self.content_frames == "each":
            shown = video.flatten(0, 1)
        else:
            if content_frame is None or (other is None) == (self.content_frames != "one"):
                raise MtzooError(
                    f"dual_mtgan: content_frames={self.content_frames!r} needs content_frame"
                    + (" and not other" if self.content_frames == "one" else " and other")
                )
            rows = torch.arange(batch, device=video.device)
            first = video[rows, content_frame]
            later = video[rows, (content_frame + 1).clamp(max=frames - 1)]
            shown = torch.stack([first if other is None else other, later], 1).flatten(0, 1)
        pictures = shown if target is None else torch.cat([shown, target])
        codes = self.content_encoder(pictures)
        content = codes[: shown.shape[0]].unflatten(0, (batch, -1))

        camera = self._camera(video)
        posterior: Gaussian = self._encoded(video, camera)
        code = posterior.sample(code_noise)
        if target is None:
            prior_code = None
        entering = code if prior_code is None else torch.cat([code, prior_code])
        whole = self.motion_generator(entering, frames)
        motion = whole[:, painted]
        frames = motion.shape[1]

        own = content[:, painted] if self.content_frames == "each" else content[:, 0]
        contents, motions = [own], [motion[:batch]]
        if target is not None:
            still = codes[shown.shape[0] :]
            if self.content_frames == "each":
                still = still.unsqueeze(1).expand(-1, frames, -1)
            contents.append(still)
            motions.append(motion[:batch])
            if prior_code is not None:
                contents.append(still)
                motions.append(motion[batch:])
        others = len(contents) - 1
        seen = None
        if cast(ImageGenerator, self.image_generator).takes_picture:
            first = shown.unflatten(0, (batch, -1))[:, 0]
            seen = first if target is None else torch.cat([first] + [target] * others)
        codes, motion, held = torch.cat(contents), torch.cat(motions), None
        if camera is None:
            shown = self.paint(codes, motion, seen)
        else:
            assert content_frame is not None
            rows = torch.arange(batch, device=video.device)
            here = camera[rows, content_frame][:, None]
            backdrop = self._backdrops(
                video[rows, content_frame], camera[:, painted] - here, target, motions[1:]
            )
            shown, held = self.image_generator(codes, motion, seen, backdrop)
        made = shown.split(batch)
        return Generated(
            content=content,
            posterior=posterior,
            code=code,
            reconstruction=made[0],
            transferred=made[1] if target is not None else None,
            sampled=made[2] if prior_code is not None else None,
            painted=painted,
            motion=whole[:batch],
            camera=camera,
            held=held,
        )

    def _camera(self, video: Tensor) -> Tensor | None:
        """Where the background lies, where G_I moves it."""
        generator = self.image_generator
        if isinstance(generator, SkipImageGenerator) and generator.behind is not None:
            return camera_motion(video)
        return None

    def _encoded(self, video: Tensor, camera: Tensor | None) -> Gaussian:
        """E_M, which is told what it would have to find again."""
        encoder = self.motion_encoder
        if isinstance(encoder, TrajectoryMotionEncoder) and encoder.camera:
            return encoder(video, camera)
        return encoder(video)

    def _backdrops(
        self, picture: Tensor, camera: Tensor, target: Tensor | None, motions: list[Tensor]
    ) -> Backdrop:
        """V's own background where its frames show it, and y's as the motion codes say."""
        generator = cast(SkipImageGenerator, self.image_generator)
        pictures, cameras = [picture], [camera]
        for motion in motions:
            assert target is not None
            said = generator.camera(motion)
            pictures.append(target)
            cameras.append(said - said[:, :1])
        return Backdrop(torch.cat(pictures), torch.cat(cameras))

    def paint(self, content: Tensor, motion: Tensor, picture: Tensor | None) -> Tensor:
        """Run G_I, which is shown the picture only where it takes one.

        Args:
            content: ``(B, content_dim)``, or ``(B, T, content_dim)``.
            motion: ``(B, T, frame_motion_dim)``.
            picture: The picture that the content is of, ``(B, C, H, W)`` in [-1, 1].

        Returns:
            ``(B, T, C, H, W)`` in [-1, 1].

        Raises:
            MtzooError: There are not as many of one as of the others.
        """
        shown = (content if picture is None else picture).shape[0]
        if not content.shape[0] == motion.shape[0] == shown:
            raise MtzooError(
                f"dual_mtgan: {shown} pictures and {motion.shape[0]} motions make no pairs; "
                "give as many of one as of the other (`expand` repeats without a copy)"
            )
        if cast(ImageGenerator, self.image_generator).takes_picture:
            return self.image_generator(content, motion, picture)
        return self.image_generator(content, motion)

    def transfer(self, image: Tensor, video: Tensor) -> Tensor:
        """Deterministic motion transfer: the motion of ``video`` on ``image`` (V~_{y,d}).

        Args:
            image: y, ``(B, C, H, W)`` in [-1, 1].
            video: V, ``(B, T, C, H, W)`` in [-1, 1].

        Returns:
            ``(B, T, C, H, W)`` in [-1, 1]. The posterior's mean is used, so the same input gives
            the same output, unless the motion generator draws noise of its own (``gru``), then
            from torch's global generator.

        Raises:
            MtzooError: Image or video is of another size, the video too short, or there are more
                of one than of the other.
        """
        motion = self.motion_generator(self.motion_encoder(video).mean, video.shape[1])
        return self.paint(self.content_encoder(image), motion, image)

    def sample(
        self,
        image: Tensor,
        samples: int,
        frames: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Stochastic generation: motions drawn for ``image`` (V~_{y,s}).

        From N(0, I), or from the `motion_prior` where there is one.

        Args:
            image: y, ``(B, C, H, W)`` in [-1, 1].
            samples: Motions drawn for each image.
            frames: Frames of each video.
            generator: Source of z_M, on the CPU or the image's device; ``None`` takes torch's
                global one.

        Returns:
            ``(B, samples, frames, C, H, W)`` in [-1, 1].

        Raises:
            MtzooError: ``samples`` or ``frames`` is less than 1, or the image of another size.
        """
        check_sizes("dual_mtgan", samples=samples, frames=frames)
        check_image(image, self.channels, self.resolution, "dual_mtgan")
        batch = image.shape[0]
        where = generator.device if generator is not None else image.device
        code = torch.randn(
            batch * samples, self.motion_dim, generator=generator, device=where, dtype=image.dtype
        ).to(image.device)
        if self.motion_prior is not None:
            code = self.motion_prior(code, image)
        picture = image.repeat_interleave(samples, dim=0)
        motion = self.motion_generator(code, frames, generator=generator)
        content = self.content_encoder(image).repeat_interleave(samples, dim=0)
        return self.paint(content, motion, picture).unflatten(0, (batch, samples))

    def reconstruct(self, video: Tensor) -> Tensor:
        """Take ``video`` apart and paint it again from its codes (V~_x, with z_M's mean).

        Args:
            video: V, ``(B, T, C, H, W)`` in [-1, 1].

        Returns:
            ``(B, T, C, H, W)`` in [-1, 1]. Content comes from each frame's own code, or from the
            first frame's with all ``content_frames`` but ``"each"``.

        Raises:
            MtzooError: The video is too short or of another size.
        """
        batch, frames = video.shape[:2]
        motion = self.motion_generator(self.motion_encoder(video).mean, frames)
        if self.content_frames == "each":
            content = self.content_encoder(video.flatten(0, 1)).unflatten(0, (batch, frames))
        else:
            content = self.content_encoder(video[:, 0])
        return self.paint(content, motion, video[:, 0])


def _check_tracks(encoder: MotionEncoder, generator: MotionGenerator) -> None:
    """Raise `MtzooError` where a generator would read other tracks than the encoder writes."""
    if not (
        isinstance(encoder, TrajectoryMotionEncoder)
        and isinstance(generator, LSTMMotionGenerator)
        and generator.entry == "tracks"
    ):
        return
    tracks = encoder.motion_dim // encoder.terms
    if (tracks, encoder.period) != (generator.tracks, generator.period):
        raise MtzooError(
            f"dual_mtgan: the motion encoder writes {tracks} tracks over {encoder.period} frames, "
            f"the motion generator reads {generator.tracks} over {generator.period}; set "
            f"model.motion_generator.tracks: {tracks} and its period: {encoder.period}"
        )
