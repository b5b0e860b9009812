"""The paper recipes' video discriminator: DCGAN's, with a third dimension."""

from __future__ import annotations

from torch import Tensor

from mtzoo.interfaces import VideoDiscriminator, check_choice, check_resolution, check_sizes
from mtzoo.nn.blocks3d import Stride, check_video, critic_head, critic_trunk, halvings
from mtzoo.nn.norm import Norm
from mtzoo.registries import video_discriminators
from mtzoo.registry import Card

WHO = "video discriminator 'c3d'"


@video_discriminators.register(
    "c3d",
    Card(
        summary="4x4x4 convolutions to one logit a video.",
        source=(
            "Tulyakov et al., MoCoGAN, CVPR 2018 (D_V); Vondrick et al., Generating Videos with "
            "Scene Dynamics, NeurIPS 2016; spectral norm: Miyato et al., ICLR 2018"
        ),
        faithful=(
            "DCGAN's discriminator with kernels of 4 in time too and leaky ReLU of 0.2, as in both "
            "sources. Ours: spectral norm instead of batch norm, stride 2 in time in the first two "
            "stages only (VGAN: in all, MoCoGAN: in none), a kernel of 3 where time is not "
            "strided, so that 4 frames are enough; logits averaged over what is left of time."
        ),
        inputs="video (B, T, C, H, W) in [-1, 1], T >= 4, H = W = 32, 64 or 128",
        outputs="logits (B,), unbounded",
        tiny={"width": 8},
        needs="frames >= 4",
    ),
)
class C3DVideoDiscriminator(VideoDiscriminator):
    """Judges a whole video by 3D convolutions down to a 4x4 map, one logit a video.

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
            kind="full",
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
