"""The paper recipes' image generator: DCGAN's transposed convolutions on the joined code."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from mtzoo.interfaces import ImageGenerator, check_resolution, check_sizes
from mtzoo.nn.blocks2d import CodeToMap, as_video_frames, check_codes, join_codes, stage_widths
from mtzoo.nn.norm import Norm, initialise_, needs_bias, norm2d, spectral
from mtzoo.nn.subpixel import ToFew
from mtzoo.registries import image_generators
from mtzoo.registry import Card

WHO = "image generator 'dcgan'"


@image_generators.register(
    "dcgan",
    Card(
        summary="4x4 transposed convolutions from the joined code to 4x4, then doubling.",
        source="Radford, Metz, Chintala, Unsupervised Representation Learning with DCGAN, "
        "ICLR 2016, as used by MoCoGAN (Tulyakov et al., CVPR 2018) and SVG (Denton, Fergus, "
        "ICML 2018)",
        faithful="Layers, batch norm, ReLU, tanh, missing biases and initialisation follow DCGAN's "
        "64x64 generator at half its width, as MoCoGAN and SVG have it. The first layer is the "
        "same transposed convolution written as a linear one. 32x32 has one stage less, 128x128 "
        "one more.",
        inputs="content (B, content_dim) or (B, T, content_dim); motion (B, T, frame_motion_dim)",
        outputs="videos (B, T, C, H, W) in [-1, 1], dense as B, T, H, W, C",
        tiny={"width": 4},
    ),
)
class DCGANImageGenerator(ImageGenerator):
    """Frames from transposed convolutions of the concatenated codes (Eq. 3 of the paper).

    Args:
        resolution: Side of the frames in pixels: 32, 64 or 128.
        channels: Colour channels of the frames.
        content_dim: Size of the content code.
        frame_motion_dim: Size of a frame's motion code.
        width: Channels before the last layer; 8 times that at 4x4.
        norm: Normalisation after each transposed convolution but the last.
        spectral_norm: Whether the layers are spectrally normalised (as in G3AN).

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
        width: int = 64,
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
        bias = needs_bias(norm)
        widths = stage_widths(resolution, width)[::-1]
        self.start = nn.Sequential(
            CodeToMap(
                content_dim + frame_motion_dim, widths[0], bias=bias, spectral_norm=spectral_norm
            ),
            norm2d(norm, widths[0]),
            nn.ReLU(inplace=True),
        )
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            conv = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=bias)
            layers += [
                spectral(conv, spectral_norm),
                norm2d(norm, outputs),
                nn.ReLU(inplace=True),
            ]
        self.blocks = nn.Sequential(*layers)
        last = ToFew(widths[-1], channels, 4, 2, 1)
        self.head = spectral(last, spectral_norm)
        initialise_(self, norm)

    def forward(self, content: Tensor, motion: Tensor) -> Tensor:
        """Paint ``(B, T, C, H, W)`` in [-1, 1].

        Args:
            content: ``(B, content_dim)``, or ``(B, T, content_dim)``.
            motion: ``(B, T, frame_motion_dim)``.

        Raises:
            MtzooError: The codes are of other sizes, or of unequal batches.
        """
        check_codes(content, motion, self.content_dim, self.frame_motion_dim, WHO)
        x = self.start(join_codes(content, motion))
        return as_video_frames(torch.tanh(self.head(self.blocks(x))), motion.shape[0])
