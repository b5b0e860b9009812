"""An image generator that also moves what the picture shows: flow, warped features, painting."""

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
    check_picture,
    double,
    join_codes,
    stage_widths,
    style_mapping,
)
from mtzoo.nn.warp import warp
from mtzoo.registries import image_generators
from mtzoo.registry import Card

WHO = "image generator 'warping'"


class _Stage(nn.Module):
    """Modulated convolutions at one resolution that take in warped features of the picture."""

    def __init__(self, inputs: int, outputs: int, style_dim: int, *, up: bool, warps: bool) -> None:
        super().__init__()
        self.up = up
        self.first = ModulatedConv2d(inputs, outputs, 3, style_dim)
        self.second = ModulatedConv2d(outputs, outputs, 3, style_dim) if up else None
        # Two numbers of flow and one of trust. The picture lies where it lies at first, and counts
        # for little: trusted from the start, it is copied and the codes are never learned.
        self.flow = nn.Conv2d(outputs, 3, 3, 1, 1) if warps else None
        if self.flow is not None:
            nn.init.zeros_(self.flow.weight)
            _distrust(self.flow)

    def forward(
        self, x: Tensor, style: Tensor, flow: Tensor | None, features: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Paint on: returns the map and the flow, both of this resolution."""
        x = _activate(self.first(double(x) if self.up else x, style))
        if self.flow is not None:
            change, trust = self.flow(x).split((2, 1), 1)
            finer = change if flow is None else double(flow) + change
            if features is not None:
                x = x + trust.sigmoid() * warp(features, finer)
            flow = finer
        if self.second is not None:
            x = _activate(self.second(x, style))
        return x, flow


def _distrust(conv: nn.Conv2d) -> None:
    """Zero biases, and one of -3 for the last channel."""
    assert conv.bias is not None
    with torch.no_grad():
        conv.bias.zero_()[-1] = -3.0


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2) * 2**0.5


@image_generators.register(
    "warping",
    Card(
        summary="Modulated painting that takes in the picture's features where a flow puts them.",
        source="mtzoo. Warped skips after Siarohin, Lathuiliere, Tulyakov, Ricci, Sebe, Animating "
        "Arbitrary Objects via Deep Motion Transfer (Monkey-Net), CVPR 2019; modulation after "
        "Karras et al., StyleGAN2, CVPR 2020",
        faithful="Original. Monkey-Net's flow comes from key points, this one from the joined "
        "code, coarse to fine; where it is not trusted, the picture is painted.",
        inputs="content (B, content_dim) or (B, T, content_dim); motion (B, T, frame_motion_dim); "
        "picture (B, C, H, W) in [-1, 1]",
        outputs="videos (B, T, C, H, W) in [-1, 1], dense as B, T, H, W, C",
        tiny={"width": 4, "style_dim": 8},
    ),
)
class WarpingImageGenerator(ImageGenerator):
    """Frames from codes and from the picture itself.

    The picture goes through a small encoder once a video. Each frame is painted from the joined
    code as in `ModulatedImageGenerator`; on the way, from 8x8 up, a flow is refined that says
    where in the picture each place is to be found, and the picture's features come in from there.
    The picture's own pixels, moved by the last flow, and the painted ones are blended at the end.

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

    takes_picture = True

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
        widths = stage_widths(2 * resolution, width)  # of maps at resolution, half of it, ..., 4
        self.encoder = nn.ModuleList([nn.Conv2d(channels, width, 3, 1, 1)])
        for inputs, outputs in pairwise(widths[:-1]):
            self.encoder.append(nn.Conv2d(inputs, outputs, 4, 2, 1))
        for conv in self.encoder:
            nn.init.kaiming_normal_(conv.weight, 0.2)  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        widths = widths[::-1]
        self.constant = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.stages = nn.ModuleList(
            [_Stage(widths[0], widths[0], style_dim, up=False, warps=False)]
            + [_Stage(a, b, style_dim, up=True, warps=True) for a, b in pairwise(widths)]
        )
        # Colours, and how far to trust the moved picture.
        self.head = nn.Conv2d(widths[-1], channels + 1, 3, 1, 1)
        nn.init.normal_(self.head.weight, 0.0, 0.25 / (9 * widths[-1]) ** 0.5)
        _distrust(self.head)

    def forward(self, content: Tensor, motion: Tensor, picture: Tensor | None = None) -> Tensor:
        """Paint ``(B, T, C, H, W)`` in [-1, 1].

        Args:
            content: ``(B, content_dim)``, or ``(B, T, content_dim)``.
            motion: ``(B, T, frame_motion_dim)``.
            picture: The picture that ``content`` was read from, ``(B, C, H, W)`` in [-1, 1];
                ``None`` paints from the codes alone.

        Raises:
            MtzooError: Codes or the picture are of other sizes, or of unequal batches.
        """
        check_codes(content, motion, self.content_dim, self.frame_motion_dim, WHO)
        style = self.mapping(join_codes(content, motion))
        maps: list[Tensor | None] = [None] * len(self.encoder)
        if picture is not None:
            check_picture(picture, motion.shape[0], self.channels, self.resolution, WHO)
            seen = picture
            for i, conv in enumerate(self.encoder):
                seen = F.leaky_relu(conv(seen), 0.2)
                maps[i] = seen
        x = self.constant.to(style.dtype).expand(style.shape[0], -1, -1, -1)
        flow: Tensor | None = None
        for stage, features in zip(self.stages, [None, *reversed(maps)], strict=True):
            x, flow = stage(x, style, flow, features)
        colours, trust = self.head(x).split((self.channels, 1), 1)
        painted = torch.tanh(colours)
        if picture is not None:
            assert flow is not None
            painted = torch.lerp(painted, warp(picture, flow).to(painted.dtype), trust.sigmoid())
        return as_video_frames(painted, motion.shape[0])
