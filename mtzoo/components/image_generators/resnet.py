"""A residual image generator: nearest-neighbour doubling and 3x3 convolutions."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtzoo.interfaces import ImageGenerator, check_resolution, check_sizes
from mtzoo.nn.blocks2d import (
    CodeToMap,
    ResidualUp,
    as_video_frames,
    check_codes,
    join_codes,
    stage_widths,
)
from mtzoo.nn.norm import Norm, needs_bias, norm2d, spectral
from mtzoo.registries import image_generators
from mtzoo.registry import Card

WHO = "image generator 'resnet'"


@image_generators.register(
    "resnet",
    Card(
        summary="A linear layer to 4x4, then residual blocks that double, nearest and 3x3.",
        source="Miyato, Kataoka, Koyama, Yoshida, Spectral Normalization for Generative "
        "Adversarial Networks, ICLR 2018 (its ResNet generator), on the pre-activation blocks of "
        "He et al., ECCV 2016",
        faithful="Blocks, final norm, 3x3 convolution and tanh follow the paper's generator. "
        "Widths and torch's default initialisation are ours; the input is the joined code instead "
        "of noise.",
        inputs="content (B, content_dim) or (B, T, content_dim); motion (B, T, frame_motion_dim)",
        outputs="videos (B, T, C, H, W) in [-1, 1], dense as B, T, H, W, C",
        tiny={"width": 4},
    ),
)
class ResNetImageGenerator(ImageGenerator):
    """Frames from residual upsampling blocks on the concatenated codes.

    Doubling by nearest neighbours before a 3x3 convolution paints no checkerboards, which
    transposed convolutions tend to.

    Args:
        resolution: Side of the frames in pixels: 32, 64 or 128.
        channels: Colour channels of the frames.
        content_dim: Size of the content code.
        frame_motion_dim: Size of a frame's motion code.
        width: Channels at full resolution; 8 times that at 4x4.
        norm: Normalisation before each activation.
        spectral_norm: Whether the layers are spectrally normalised.

    Raises:
        MtzooError: A size that cannot work.
    """

    def __init__(
        self,
        resolution: int,
        channels: int,
        content_dim: int,
        frame_motion_dim: int,
        *,
        width: int = 32,
        norm: Norm = "batch",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        check_resolution(resolution, WHO)
        check_sizes(
            WHO,
            channels=channels,
            content_dim=content_dim,
            frame_motion_dim=frame_motion_dim,
            width=width,
        )
        self.resolution = resolution
        self.channels = channels
        self.content_dim = content_dim
        self.frame_motion_dim = frame_motion_dim
        widths = stage_widths(2 * resolution, width)[::-1]
        self.start = CodeToMap(
            content_dim + frame_motion_dim,
            widths[0],
            bias=needs_bias(norm),
            spectral_norm=spectral_norm,
        )
        self.blocks = nn.Sequential(
            *(
                ResidualUp(inputs, outputs, norm=norm, spectral_norm=spectral_norm)
                for inputs, outputs in pairwise(widths)
            )
        )
        self.norm = norm2d(norm, widths[-1])
        self.head = spectral(nn.Conv2d(widths[-1], channels, 3, 1, 1), spectral_norm)

    def forward(self, content: Tensor, motion: Tensor) -> Tensor:
        """Paint ``(B, T, C, H, W)`` in [-1, 1].

        Args:
            content: ``(B, content_dim)``, or ``(B, T, content_dim)``.
            motion: ``(B, T, frame_motion_dim)``.

        Raises:
            MtzooError: The codes are of other sizes, or of unequal batches.
        """
        check_codes(content, motion, self.content_dim, self.frame_motion_dim, WHO)
        x = self.blocks(self.start(join_codes(content, motion)))
        frames = torch.tanh(self.head(F.relu(self.norm(x))))
        return as_video_frames(frames, motion.shape[0])
