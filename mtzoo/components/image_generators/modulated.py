"""An image generator whose convolutions the joined code modulates, after StyleGAN2."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtzoo.interfaces import ImageGenerator, check_resolution, check_sizes
from mtzoo.nn.blocks2d import (
    ModulatedConv2d,
    as_video_frames,
    check_codes,
    double,
    join_codes,
    stage_widths,
    style_mapping,
)
from mtzoo.registries import image_generators
from mtzoo.registry import Card

WHO = "image generator 'modulated'"


class _Stage(nn.Module):
    """Two modulated 3x3 convolutions at one resolution (one at 4x4) and a 1x1 to colours."""

    def __init__(self, inputs: int, outputs: int, channels: int, style_dim: int, up: bool) -> None:
        super().__init__()
        self.first = ModulatedConv2d(inputs, outputs, 3, style_dim)
        self.second = ModulatedConv2d(outputs, outputs, 3, style_dim) if up else None
        # The stages' pictures add up; a small gain keeps the first sums off the tanh's flat ends.
        self.colours = ModulatedConv2d(outputs, channels, 1, style_dim, demodulate=False, gain=0.25)

    def forward(self, x: Tensor, picture: Tensor | None, style: Tensor) -> tuple[Tensor, Tensor]:
        if self.second is not None:
            x = double(x)
        x = _activate(self.first(x, style))
        if self.second is not None:
            x = _activate(self.second(x, style))
        colours = self.colours(x, style)
        return x, colours if picture is None else double(picture) + colours


def _activate(x: Tensor) -> Tensor:
    # The gain of sqrt(2) keeps the variance that leaky ReLU halves.
    return F.leaky_relu(x, 0.2) * 2**0.5


@image_generators.register(
    "modulated",
    Card(
        summary="A learned constant painted by convolutions that the joined code modulates.",
        source="Karras, Laine, Aittala, Hellsten, Lehtinen, Aila, Analyzing and Improving the "
        "Image Quality of StyleGAN, CVPR 2020",
        faithful="Weight modulation and demodulation, the learned 4x4 constant, skip connections "
        "to the picture and smooth doubling follow StyleGAN2. The style is the joined code "
        "through a mapping of 2 layers (8 there); no noise inputs, no equalised learning rate, no "
        "path length penalty; a tanh at the end.",
        inputs="content (B, content_dim) or (B, T, content_dim); motion (B, T, frame_motion_dim)",
        outputs="videos (B, T, C, H, W) in [-1, 1], dense as B, T, H, W, C",
        tiny={"width": 4, "style_dim": 8},
    ),
)
class ModulatedImageGenerator(ImageGenerator):
    """Frames from modulated convolutions.

    Modulation is computed by scaling activations around one shared convolution, see
    `mtzoo.nn.blocks2d.ModulatedConv2d`: the same function as one set of weights a frame, at the
    price of an ordinary convolution. Nothing depends on other frames of the batch.

    Args:
        resolution: Side of the frames in pixels: 32, 64 or 128.
        channels: Colour channels of the frames.
        content_dim: Size of the content code.
        frame_motion_dim: Size of a frame's motion code.
        width: Channels at full resolution; 8 times that at 4x4.
        style_dim: Size of the style vector.
        mapping: Linear layers with leaky ReLU from the joined code to the style, at least 1.

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
        style_dim: int = 128,
        mapping: int = 2,
    ) -> None:
        super().__init__()
        check_resolution(resolution, WHO)
        check_sizes(
            WHO,
            channels=channels,
            content_dim=content_dim,
            frame_motion_dim=frame_motion_dim,
            width=width,
            style_dim=style_dim,
            mapping=mapping,
        )
        self.resolution = resolution
        self.channels = channels
        self.content_dim = content_dim
        self.frame_motion_dim = frame_motion_dim
        self.mapping = style_mapping(content_dim + frame_motion_dim, style_dim, mapping)
        widths = stage_widths(2 * resolution, width)[::-1]
        self.constant = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.stages = nn.ModuleList(
            [_Stage(widths[0], widths[0], channels, style_dim, up=False)]
            + [
                _Stage(inputs, outputs, channels, style_dim, up=True)
                for inputs, outputs in pairwise(widths)
            ]
        )

    def forward(self, content: Tensor, motion: Tensor) -> Tensor:
        """Paint ``(B, T, C, H, W)`` in [-1, 1].

        Args:
            content: ``(B, content_dim)``, or ``(B, T, content_dim)``.
            motion: ``(B, T, frame_motion_dim)``.

        Raises:
            MtzooError: The codes are of other sizes, or of unequal batches.
        """
        check_codes(content, motion, self.content_dim, self.frame_motion_dim, WHO)
        style = self.mapping(join_codes(content, motion))
        x = self.constant.to(style.dtype).contiguous(memory_format=torch.channels_last)
        x = x.expand(style.shape[0], -1, -1, -1)
        picture: Tensor | None = None
        for stage in self.stages:
            x, picture = stage(x, picture, style)
        assert picture is not None
        return as_video_frames(torch.tanh(picture), motion.shape[0])
