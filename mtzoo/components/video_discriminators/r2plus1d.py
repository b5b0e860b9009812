"""A factorised video discriminator, after G3AN's."""

from __future__ import annotations

from torch import Tensor

from mtzoo.interfaces import VideoDiscriminator, check_choice, check_resolution, check_sizes
from mtzoo.nn.blocks3d import Stride, check_video, critic_head, critic_trunk, halvings
from mtzoo.nn.norm import Norm
from mtzoo.registries import video_discriminators
from mtzoo.registry import Card

WHO = "video discriminator 'r2plus1d'"


@video_discriminators.register(
    "r2plus1d",
    Card(
        summary="Space and time convolved in turn, to one logit a video.",
        source=(
            "Wang et al., G3AN: Disentangling Appearance and Motion for Video Generation, CVPR "
            "2020 (D_V); Tran et al., CVPR 2018"
        ),
        faithful=(
            "1x4x4 convolutions in space followed by convolutions in time, spectral norm, no batch "
            "norm, as in G3AN. Ours: time is strided in the first two stages only, so that 4 "
            "frames are enough; logits averaged over what is left of time."
        ),
        inputs="video (B, T, C, H, W) in [-1, 1], T >= 4, H = W = 32, 64 or 128",
        outputs="logits (B,), unbounded",
        tiny={"width": 8},
        needs="frames >= 4",
    ),
)
class R2Plus1DVideoDiscriminator(VideoDiscriminator):
    """Judges a whole video by convolutions in space and in time in turn, one logit a video.

    Args:
        resolution: Side of a frame: 32, 64 or 128.
        channels: Colour channels.
        width: Channels of the first stage; doubled from stage to stage up to 8 times.
        temporal_stride: 2 halves time in the first two stages, 1 keeps all frames to the end
            (MoCoGAN's choice, several times the cost).
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
        temporal_stride: Stride = 2,
        norm: Norm = "none",
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        check_resolution(resolution, WHO)
        check_sizes(WHO, channels=channels, width=width)
        check_choice(WHO, "temporal_stride", temporal_stride, Stride)
        self.resolution = resolution
        self.channels = channels
        self.features, outputs = critic_trunk(
            channels,
            stages=halvings(resolution),
            kind="factorised",
            width=width,
            time_halvings=2 if temporal_stride == 2 else 0,
            norm=norm,
            spectral_norm=spectral_norm,
        )
        self.judge = critic_head(outputs, 4, spectral_norm)

    def forward(self, video: Tensor) -> Tensor:
        """Judge videos.

        Args:
            video: ``(B, T, C, H, W)`` in [-1, 1], T at least 4.

        Returns:
            Logits ``(B,)``, without a sigmoid.

        Raises:
            MtzooError: The clip is shorter than 4 frames or its frames are of another size.
        """
        check_video(video, self.channels, self.resolution, self.min_frames, WHO)
        features = self.features(video.transpose(1, 2))  # (B, C', T', 4, 4)
        return self.judge(features).flatten(1).mean(1)
