"""The paper recipes' motion encoder: plain 3D convolutions after C3D, at 64x64x16."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mtzoo.interfaces import (
    Gaussian,
    MotionEncoder,
    check_choice,
    check_resolution,
    check_sizes,
)
from mtzoo.nn.blocks3d import (
    SLOPE,
    GaussianHead,
    check_shrink,
    check_time_halvings,
    check_video,
    halvings,
    he_init_,
    random_rotations,
    shrunken,
    widths,
)
from mtzoo.nn.conv3d import Conv3d
from mtzoo.nn.norm import Norm, needs_bias, norm3d
from mtzoo.registries import motion_encoders
from mtzoo.registry import Card

WHO = "motion encoder 'c3d'"

View = Literal["frames", "differences", "deviations"]
"""What is looked at of a clip."""


@motion_encoders.register(
    "c3d",
    Card(
        summary="Plain 3x3x3 convolutions to a Gaussian motion code.",
        source=(
            "Yang et al., Dual-MTGAN, arXiv 2102.13329, Sec. III (E_M); Tran et al., Learning "
            "Spatiotemporal Features with 3D Convolutional Networks, ICCV 2015"
        ),
        faithful=(
            "3x3x3 kernels throughout, width doubled from stage to stage, space halved before "
            "time, as in C3D. Ours, for 64x64x16 instead of 112x112x16: strides instead of max "
            "pooling, norm, leaky ReLU, one convolution a stage (C3D's later stages have two), "
            "no 4096-wide layers; features are pooled to bins of time and place and mapped to "
            "mean and log-variance at once."
        ),
        inputs="video (B, T, C, H, W) in [-1, 1], T >= 2, H = W = 32, 64 or 128",
        outputs="mean and log-variance of the motion code, (B, motion_dim) each, unbounded",
        tiny={"width": 8, "motion_dim": 6, "time_bins": 2, "space_bins": 2},
        needs="frames >= 2",
    ),
)
class C3DMotionEncoder(MotionEncoder):
    """A video to its motion code by plain 3D convolutions.

    One stage for each halving of the frame down to 4x4: 3 at 32x32, 4 at 64x64, 5 at 128x128,
    one fewer for each halving by ``shrink``.
    The first halves space alone; of those after it the first ``time_halvings`` halve time too
    (16 frames become 8 and 4; an odd number is rounded up).

    Args:
        resolution: Side of a frame: 32, 64 or 128.
        channels: Colour channels.
        motion_dim: Size of the motion code.
        width: Channels of the first stage; doubled from stage to stage up to 8 times.
        depth: Convolutions a stage.
        time_halvings: How many stages halve time.
        time_bins: Bins of time that features are averaged to before the code is read off. 1
            averages over the whole clip and forgets the order of what is further apart than the
            network sees at once.
        space_bins: The same along each side of the 4x4 map; 1 forgets places.
        view: What the convolutions see: the ``frames``; the ``differences`` of neighbouring
            frames, as the motion encoder of MCNet does (Villegas et al. 2017), where T is at
            least 3; or the frames' ``deviations`` from the clip's mean, as in background
            subtraction. In the latter two what stands still is gone, so that the motion code
            carries little content over into a transfer. Differences show what moves twice,
            where it was and where it is; deviations once, so that its pose is read off sooner.
        turn_colours: Whether each clip's colours are turned by a random rotation or reflection
            of colour space in training, so that the code cannot carry colours over into a
            transfer: it never knows which way they were turned.
        shrink: Side of the squares of pixels that are averaged before all else, a power of 2 that
            leaves frames of 16x16 or more. Where something is and how it lies shows in small
            frames too; what it is shows less.
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
        bin_dim: Size to which a layer that all bins of time share first brings each of them,
            before they are joined; 0 reads mean and log-variance off all bins at once. With it,
            what is seen in one bin is learned from all.

    Raises:
        MtzooError: The resolution is not supported, a size or number cannot work, or there is no
            such ``view``.
    """

    min_frames = 2  # 3 for an instance that sees differences

    def __init__(
        self,
        resolution: int,
        channels: int = 3,
        *,
        motion_dim: int = 64,
        width: int = 64,
        depth: int = 1,
        time_halvings: int = 2,
        time_bins: int = 4,
        space_bins: int = 4,
        view: View = "frames",
        turn_colours: bool = False,
        shrink: int = 1,
        norm: Norm = "batch",
        initial_sigma: float = 0.3,
        mean_spread: float = 0.0,
        log_variance_bound: float = 0.0,
        bin_dim: int = 0,
    ) -> None:
        super().__init__()
        check_resolution(resolution, WHO)
        check_sizes(WHO, channels=channels, motion_dim=motion_dim, width=width, depth=depth)
        check_sizes(WHO, time_bins=time_bins, space_bins=space_bins)
        check_choice(WHO, "view", view, View)
        check_shrink(shrink, resolution, WHO)
        stages = halvings(resolution // shrink)
        check_time_halvings(time_halvings, stages - 1, WHO)
        self.resolution = resolution
        self.channels = channels
        self.motion_dim = motion_dim
        self.view = view
        self.turn_colours = turn_colours
        self.shrink = shrink
        if view == "differences":
            self.min_frames = 3
        layers: list[nn.Module] = []
        inputs = channels
        for stage, outputs in enumerate(widths(width, stages)):
            for step in range(depth):
                time = 2 if step == 0 and 1 <= stage <= time_halvings else 1
                space = 2 if step == 0 else 1
                layers += [
                    Conv3d(inputs, outputs, 3, (time, space, space), 1, bias=needs_bias(norm)),
                    norm3d(norm, outputs),
                    nn.LeakyReLU(SLOPE, inplace=True),
                ]
                inputs = outputs
        self.features = nn.Sequential(*layers)
        he_init_(self.features)
        self.head = GaussianHead(
            inputs,
            motion_dim,
            time_bins=time_bins,
            space_bins=space_bins,
            initial_sigma=initial_sigma,
            mean_spread=mean_spread,
            log_variance_bound=log_variance_bound,
            bin_dim=bin_dim,
        )

    def forward(self, video: Tensor) -> Gaussian:
        """Encode videos.

        Args:
            video: ``(B, T, C, H, W)`` in [-1, 1], T at least ``min_frames``.

        Returns:
            Mean and log-variance, ``(B, motion_dim)`` each.

        Raises:
            MtzooError: The clip is shorter than ``min_frames`` or its frames are of another size.
        """
        check_video(video, self.channels, self.resolution, self.min_frames, WHO)
        video = shrunken(video, self.shrink)
        if self.view == "differences":
            video = video[:, 1:] - video[:, :-1]
        elif self.view == "deviations":
            video = video - video.mean(1, keepdim=True)
        if self.turn_colours and self.training:
            turns = random_rotations(video.shape[0], self.channels, video.device).to(video)
            video = torch.einsum("bij,btjhw->btihw", turns, video)
        features = self.features(video.transpose(1, 2))  # (B, C', T', 4, 4)
        return Gaussian(*self.head(features))
