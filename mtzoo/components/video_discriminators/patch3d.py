"""A video discriminator that judges pieces of space and time."""

from __future__ import annotations

from torch import Tensor

from mtzoo.errors import MtzooError
from mtzoo.interfaces import VideoDiscriminator, check_choice, check_resolution, check_sizes
from mtzoo.nn.blocks3d import Stride, check_video, critic_head, critic_trunk, halvings
from mtzoo.nn.norm import Norm
from mtzoo.registries import video_discriminators
from mtzoo.registry import Card

WHO = "video discriminator 'patch3d'"


@video_discriminators.register(
    "patch3d",
    Card(
        summary="3D PatchGAN: one logit for each piece of space and time.",
        source=(
            "Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, CVPR "
            "2017 (PatchGAN), with a third dimension"
        ),
        faithful=(
            "4x4 stride-2 convolutions and a map of logits, as in PatchGAN. Ours: the same in "
            "time, spectral norm instead of batch norm, no stride-1 stage, a 3x3 last convolution."
        ),
        inputs="video (B, T, C, H, W) in [-1, 1], T >= 4, H = W = 32, 64 or 128",
        outputs="logits (B, t, h, w), unbounded",
        tiny={"width": 8, "stages": 2},
        needs="frames >= 4",
    ),
)
class Patch3DVideoDiscriminator(VideoDiscriminator):
    """Judges the pieces of a video, one logit each.

    Args:
        resolution: Side of a frame: 32, 64 or 128.
        channels: Colour channels.
        width: Channels of the first stage; doubled from stage to stage up to 8 times.
        stages: How often the frame is halved: with 1, 2 or 3 a logit sees 8, 18 or 38 pixels
            along each side.
        temporal_stride: 2 halves time in the first two stages (a logit for every 4 frames), 1
            keeps all frames (a logit for each).
        norm: After each stage but the first. Batch norm lets a video discriminator run away from
            a young generator.
        spectral_norm: Whether every convolution is divided by its spectral norm.

    Raises:
        MtzooError: The resolution is not supported, a size cannot work, or there is no such
            ``temporal_stride``.
    """

    min_frames = 4

    def __init__(
        self,
        resolution: int,
        channels: int = 3,
        *,
        width: int = 64,
        stages: int = 3,
        temporal_stride: Stride = 2,
        norm: Norm = "none",
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        check_resolution(resolution, WHO)
        check_sizes(WHO, channels=channels, width=width, stages=stages)
        check_choice(WHO, "temporal_stride", temporal_stride, Stride)
        self.resolution = resolution
        self.channels = channels
        most = halvings(resolution)
        if stages > most:
            raise MtzooError(
                f"{WHO}: {stages} stages leave nothing of {resolution} pixels to judge by pieces; "
                f"use at most {most}"
            )
        self.features, outputs = critic_trunk(
            channels,
            stages=stages,
            kind="full",
            width=width,
            time_halvings=2 if temporal_stride == 2 else 0,
            norm=norm,
            spectral_norm=spectral_norm,
        )
        self.judge = critic_head(outputs, 3, spectral_norm)

    def forward(self, video: Tensor) -> Tensor:
        """Judge videos.

        Args:
            video: ``(B, T, C, H, W)`` in [-1, 1], T at least 4.

        Returns:
            Logits ``(B, t, h, w)``, without a sigmoid.

        Raises:
            MtzooError: The clip is shorter than 4 frames or its frames are of another size.
        """
        check_video(video, self.channels, self.resolution, self.min_frames, WHO)
        features = self.features(video.transpose(1, 2))  # (B, C', T', h, w)
        return self.judge(features).squeeze(1)
