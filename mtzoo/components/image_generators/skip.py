"""An image generator with U-Net skips from the picture, which it also moves by a flow."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtzoo.interfaces import ImageGenerator, check_resolution, check_sizes
from mtzoo.nn.blocks2d import (
    CodeToMap,
    as_video_frames,
    check_image,
    conv_down,
    join_codes,
    stage_widths,
)
from mtzoo.nn.norm import Norm, initialise_, needs_bias, norm2d
from mtzoo.nn.warp import warp
from mtzoo.registries import image_generators
from mtzoo.registry import Card

WHO = "image generator 'skip'"


@image_generators.register(
    "skip",
    Card(
        summary="DCGAN's decoder with skips from the picture; paints over the picture it moves.",
        source="mtzoo. Skips after Denton, Fergus, Stochastic Video Generation with a Learned "
        "Prior, ICML 2018; a flow, and a mask for what it cannot show, after Siarohin et al., "
        "Animating Arbitrary Objects via Deep Motion Transfer (Monkey-Net), CVPR 2019",
        faithful="Original. Layers are those of 'dcgan'. SVG's skips are concatenated once a "
        "frame; here their share of each transposed convolution is computed once a video and "
        "added, which is the same sum. Flow and mask are read off the last layer, where "
        "Monkey-Net has a network of its own and key points.",
        inputs="content (B, content_dim) or (B, T, content_dim); motion (B, T, frame_motion_dim); "
        "picture (B, C, H, W) in [-1, 1]",
        outputs="videos (B, T, C, H, W) in [-1, 1], dense as B, T, H, W, C",
        tiny={"width": 4},
    ),
)
class SkipImageGenerator(ImageGenerator):
    """Frames from codes and from the picture itself.

    The picture goes through a DCGAN encoder once a video; its maps enter the decoder at their
    resolution. The last layer gives colours, a flow and a mask: a frame is the picture moved by
    the flow where the mask says so, and painted elsewhere. What stands still and what the picture
    shows need not fit through the content code.

    Args:
        resolution: Side of the frames in pixels: 32, 64 or 128.
        channels: Colour channels of the frames.
        content_dim: Size of the content code.
        frame_motion_dim: Size of a frame's motion code.
        width: Channels before the last layer; 8 times that at 4x4.
        norm: Normalisation after each layer but the last.
        flow: Whether the picture is moved; else it is blended in where it lies.
        moved: How much the moved picture counts at first, a logit: 0 is half.

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
        width: int = 64,
        norm: Norm = "batch",
        flow: bool = True,
        moved: float = 0.0,
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
        bias = needs_bias(norm)
        widths = stage_widths(resolution, width)
        # The picture's maps at half the resolution, a quarter, ..., 4x4.
        self.encoder = nn.ModuleList(
            [
                conv_down(inputs, outputs, norm, False)
                for inputs, outputs in pairwise([channels, *widths])
            ]
        )
        widths = widths[::-1]
        self.start = CodeToMap(content_dim + frame_motion_dim, widths[0], bias=bias)
        self.start_norm = norm2d(norm, widths[0])
        self.blocks = nn.ModuleList(
            [nn.ConvTranspose2d(a, b, 4, 2, 1, bias=bias) for a, b in pairwise(widths)]
        )
        self.skips = nn.ModuleList(
            [nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False) for a, b in pairwise(widths)]
        )
        self.norms = nn.ModuleList([norm2d(norm, b) for b in widths[1:]])
        # Colours, mask and flow; the first two see the picture's finest maps, too.
        self.flow = flow
        outputs = channels + 1 + 2 * flow
        self.head = nn.ConvTranspose2d(widths[-1], outputs, 4, 2, 1)
        self.head_skip = nn.ConvTranspose2d(widths[-1], outputs, 4, 2, 1, bias=False)
        initialise_(self, norm)
        with torch.no_grad():
            assert self.head.bias is not None
            self.head.bias[channels] = moved

    def forward(self, content: Tensor, motion: Tensor, picture: Tensor | None = None) -> Tensor:
        """Paint ``(B, T, C, H, W)`` in [-1, 1].

        Args:
            content: ``(B, content_dim)``, or ``(B, T, content_dim)``.
            motion: ``(B, T, frame_motion_dim)``.
            picture: The picture that ``content`` was read from, ``(B, C, H, W)`` in [-1, 1];
                ``None`` paints from the codes alone.

        Raises:
            MtzooError: The picture is of another size.
        """
        batch = motion.shape[0]
        maps: list[Tensor] = []
        if picture is not None:
            check_image(picture, self.channels, self.resolution, WHO)
            seen = picture
            for layer in self.encoder:
                seen = layer(seen)
                maps.append(seen)
        x = F.relu(self.start_norm(self.start(join_codes(content, motion))))
        for conv, skip, norm in zip(self.blocks, self.skips, self.norms, strict=True):
            x = self._with(conv(x), skip, maps, batch)
            x = F.relu(norm(x))
        x = self._with(self.head(x), self.head_skip, maps, batch)
        painted = torch.tanh(x[:, : self.channels])
        if picture is not None:
            mask = x[:, self.channels : self.channels + 1].sigmoid()
            if self.flow:
                shown = warp(picture, x[:, self.channels + 1 :])
            else:
                shown = picture.repeat_interleave(motion.shape[1], 0)
            painted = torch.lerp(painted, shown.to(painted.dtype), mask)
        return as_video_frames(painted, batch)

    @staticmethod
    def _with(x: Tensor, skip: nn.Module, maps: list[Tensor], batch: int) -> Tensor:
        """Add what the coarsest map that is left gives to all frames of its video."""
        if not maps:
            return x
        share = skip(maps.pop()).unsqueeze(1)
        return (x.unflatten(0, (batch, -1)) + share).flatten(0, 1)
