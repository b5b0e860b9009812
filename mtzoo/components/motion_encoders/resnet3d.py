"""A residual motion encoder: the basic-block 3D ResNet, at 64x64x16."""

from __future__ import annotations

from torch import Tensor

from mtzoo.interfaces import (
    Gaussian,
    MotionEncoder,
    check_resolution,
    check_sizes,
)
from mtzoo.nn.blocks3d import (
    GaussianHead,
    check_time_halvings,
    check_video,
    halvings,
    residual_network,
)
from mtzoo.nn.norm import Norm
from mtzoo.registries import motion_encoders
from mtzoo.registry import Card

WHO = "motion encoder 'resnet3d'"


@motion_encoders.register(
    "resnet3d",
    Card(
        summary="3D ResNet of basic blocks to a Gaussian motion code.",
        source=(
            "Hara et al., Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?, "
            "CVPR 2018"
        ),
        faithful=(
            "Basic blocks of two 3x3x3 convolutions with an identity shortcut, strided where maps "
            "shrink. Ours, for 64x64x16 instead of 112x112x16: a 3x3x3 stem without max pooling, "
            "1x1x1 shortcut convolutions (their option B), leaky ReLU, one block a stage unless "
            "asked for more, pooling to bins of time and place instead of one global average."
        ),
        inputs="video (B, T, C, H, W) in [-1, 1], T >= 2, H = W = 32, 64 or 128",
        outputs="mean and log-variance of the motion code, (B, motion_dim) each, unbounded",
        tiny={"width": 8, "motion_dim": 6, "time_bins": 2, "space_bins": 2},
        needs="frames >= 2",
    ),
)
class ResNet3DMotionEncoder(MotionEncoder):
    """A video to its motion code by residual 3D convolutions.

    A stem halves space alone; then one stage for each halving of the frame down to 4x4 (2 at
    32x32, 3 at 64x64, 4 at 128x128), of which the first ``time_halvings`` halve time too (16
    frames become 8 and 4; an odd number is rounded up).

    Args:
        resolution: Side of a frame: 32, 64 or 128.
        channels: Colour channels.
        motion_dim: Size of the motion code.
        width: Channels of stem and first stage; doubled from stage to stage up to 8 times.
        blocks: Residual blocks a stage.
        time_halvings: How many stages halve time.
        time_bins: Bins of time that features are averaged to before the code is read off. 1
            averages over the whole clip and forgets the order of what is further apart than the
            network sees at once.
        space_bins: The same along each side of the 4x4 map; 1 forgets places.
        norm: After each convolution.
        initial_sigma: Standard deviation of the posterior at the start of training.
        mean_spread: Standard deviation over the batch at which each dimension's posterior means
            are held (batch norm without learned scale or shift, after Zhu et al., "A Batch
            Normalized Inference Network Keeps the KL Vanishing Away", ACL 2020), so that neither
            KL nor a consistency loss can make all codes one. Takes more than one clip in
            training. 0 leaves the means free.
        log_variance_bound: Log-variances of the posterior stay, softly, between minus and plus
            this. L_KL grows with the variance itself, and a head that reads many features goes
            far in a few steps: one clip can outweigh all else, or overflow. 0 leaves them free.

    Raises:
        MtzooError: The resolution is not supported or a size cannot work.
    """

    min_frames = 2

    def __init__(
        self,
        resolution: int,
        channels: int = 3,
        *,
        motion_dim: int = 64,
        width: int = 64,
        blocks: int = 1,
        time_halvings: int = 2,
        time_bins: int = 4,
        space_bins: int = 4,
        norm: Norm = "batch",
        initial_sigma: float = 0.3,
        mean_spread: float = 0.0,
        log_variance_bound: float = 0.0,
    ) -> None:
        super().__init__()
        check_resolution(resolution, WHO)
        check_sizes(WHO, channels=channels, motion_dim=motion_dim, width=width, blocks=blocks)
        check_sizes(WHO, time_bins=time_bins, space_bins=space_bins)
        check_time_halvings(time_halvings, halvings(resolution) - 1, WHO)
        self.resolution = resolution
        self.channels = channels
        self.motion_dim = motion_dim
        self.features, outputs = residual_network(
            resolution,
            channels,
            kind="full",
            width=width,
            blocks=blocks,
            time_halvings=time_halvings,
            norm=norm,
        )
        self.head = GaussianHead(
            outputs,
            motion_dim,
            time_bins=time_bins,
            space_bins=space_bins,
            initial_sigma=initial_sigma,
            mean_spread=mean_spread,
            log_variance_bound=log_variance_bound,
        )

    def forward(self, video: Tensor) -> Gaussian:
        """Encode videos.

        Args:
            video: ``(B, T, C, H, W)`` in [-1, 1], T at least 2.

        Returns:
            Mean and log-variance, ``(B, motion_dim)`` each.

        Raises:
            MtzooError: The clip is shorter than 2 frames or its frames are of another size.
        """
        check_video(video, self.channels, self.resolution, self.min_frames, WHO)
        features = self.features(video.transpose(1, 2))  # (B, C', T', 4, 4)
        return Gaussian(*self.head(features))
