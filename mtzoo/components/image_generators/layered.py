"""An image generator that takes a picture apart into layers and moves each as a whole."""

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
    stage_widths,
)
from mtzoo.nn.norm import Norm, initialise_, needs_bias, norm2d
from mtzoo.nn.warp import warp_affine
from mtzoo.registries import image_generators
from mtzoo.registry import Card

WHO = "image generator 'layered'"


class _Poses(nn.Module):
    """Affine maps ``(N, layers, 3, 3)`` from codes ``(N, inputs)``, about the identity at first."""

    def __init__(self, inputs: int, layers: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        self.output = nn.Linear(hidden, 6 * layers)

    def start_(self) -> None:
        nn.init.normal_(self.output.weight, 0.0, 0.1 / self.output.in_features**0.5)
        nn.init.zeros_(self.output.bias)

    def forward(self, codes: Tensor) -> Tensor:
        change = self.output(F.relu(self.hidden(codes))).float().unflatten(1, (-1, 2, 3))
        # The last row of an affine map is 0, 0, 1.
        return F.pad(change, (0, 0, 0, 1)) + torch.eye(3, device=change.device)


@image_generators.register(
    "layered",
    Card(
        summary="Cuts the picture into layers once; a frame is the layers, each moved as a whole.",
        source="mtzoo. Layers as in Wang, Adelson, Representing Moving Images with Layers, IEEE "
        "TIP 1994; regions with affine maps after Siarohin et al., Motion Representations for "
        "Articulated Animation, CVPR 2021",
        faithful="Original. There the affine maps are found in a driving frame; here the frame's "
        "motion code gives them, so that they can also be drawn from a prior.",
        inputs="content (B, content_dim) or (B, T, content_dim); motion (B, T, frame_motion_dim); "
        "picture (B, C, H, W) in [-1, 1]",
        outputs="videos (B, T, C, H, W) in [-1, 1], dense as B, T, H, W, C",
        tiny={"width": 4, "hidden": 8},
    ),
)
class LayeredImageGenerator(ImageGenerator):
    """Frames by moving layers of the picture over a background.

    A U-Net (DCGAN's layers) takes the picture apart once a video: a background without what hides
    it, and layers with colours and opacity. Each layer has a pose in the picture, read from the
    content code, and one in each frame, read from the frame's motion code; both are affine maps to
    the layer's own axes. A frame is the layers, each moved from the one pose to the other, one on
    top of the other.

    All that a motion code can do is to move layers: it cannot paint, so nothing of the video that
    it was read from can show. And a frame costs no convolution.

    Args:
        resolution: Side of the frames in pixels: 32, 64 or 128.
        channels: Colour channels of the frames.
        content_dim: Size of the content code.
        frame_motion_dim: Size of a frame's motion code.
        width: Channels before the U-Net's last layer; 8 times that at 4x4.
        layers: How many layers lie on the background.
        hidden: Units between a code and its poses.
        norm: Normalisation after each layer of the U-Net but the last.

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
        layers: int = 1,
        hidden: int = 128,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        check_resolution(resolution, WHO)
        check_sizes(
            WHO,
            channels=channels,
            content_dim=content_dim,
            frame_motion_dim=frame_motion_dim,
            width=width,
            layers=layers,
            hidden=hidden,
        )
        self.resolution = resolution
        self.channels = channels
        self.layers = layers
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
        self.start = CodeToMap(content_dim, widths[0], bias=bias)
        self.start_norm = norm2d(norm, widths[0])
        self.blocks = nn.ModuleList(
            [nn.ConvTranspose2d(2 * a, b, 4, 2, 1, bias=bias) for a, b in pairwise(widths)]
        )
        self.norms = nn.ModuleList([norm2d(norm, b) for b in widths[1:]])
        # For background and layers: colours, and how far to take the picture's own instead; for
        # layers opacity.
        self.head = nn.ConvTranspose2d(
            2 * widths[-1], (layers + 1) * (channels + 1) + layers, 4, 2, 1
        )
        self.here = _Poses(content_dim, layers, hidden)
        self.there = _Poses(frame_motion_dim, layers, hidden)
        initialise_(self, norm)
        self.here.start_()
        self.there.start_()

    def forward(self, content: Tensor, motion: Tensor, picture: Tensor | None = None) -> Tensor:
        """Paint ``(B, T, C, H, W)`` in [-1, 1].

        Args:
            content: ``(B, content_dim)``, or ``(B, T, content_dim)``, which takes the picture apart
                anew for every frame.
            motion: ``(B, T, frame_motion_dim)``.
            picture: The picture that ``content`` was read from, ``(B, C, H, W)`` in [-1, 1];
                ``None`` paints from the codes alone.

        Raises:
            MtzooError: The picture is of another size.
        """
        batch, frames = motion.shape[:2]
        if content.dim() == 3:
            content = content.flatten(0, 1)
            motion = motion.flatten(0, 1).unsqueeze(1)
            if picture is not None:
                picture = picture.repeat_interleave(frames, 0)
        background, layers = self.take_apart(content, picture)
        there = self.there(motion.flatten(0, 1)).unflatten(0, motion.shape[:2])
        moves = self.here(content).unsqueeze(1) @ there  # (N, T, layers, 3, 3)
        shown = background.unsqueeze(1)
        for index in range(self.layers):
            moved = warp_affine(layers[:, index], moves[:, :, index, :2], border=False)
            moved = moved.unflatten(0, motion.shape[:2])
            colours, opacity = moved.split((self.channels, 1), 2)
            shown = shown * (1 - opacity) + colours
        return as_video_frames(shown.flatten(0, 1).to(content.dtype), batch)

    def take_apart(self, content: Tensor, picture: Tensor | None) -> tuple[Tensor, Tensor]:
        """The layers of pictures.

        Args:
            content: ``(N, content_dim)``.
            picture: ``(N, C, H, W)`` in [-1, 1], or ``None``.

        Returns:
            The background ``(N, C, H, W)`` in [-1, 1], and the layers from the lowest up,
            ``(N, layers, C + 1, H, W)``: colours in [-1, 1] times opacity, and opacity in [0, 1].

        Raises:
            MtzooError: The picture is of another size.
        """
        maps: list[Tensor] = []
        if picture is not None:
            check_image(picture, self.channels, self.resolution, WHO)
            seen = picture
            for layer in self.encoder:
                seen = layer(seen)
                maps.append(seen)
        x = F.relu(self.start_norm(self.start(content)))
        for layer, norm in zip([*self.blocks, self.head], [*self.norms, None], strict=True):
            x = layer(torch.cat((x, maps.pop() if maps else torch.zeros_like(x)), 1))
            if norm is not None:
                x = F.relu(norm(x))
        opacity, x = x.float().split((self.layers, x.shape[1] - self.layers), 1)
        x = x.unflatten(1, (self.layers + 1, -1))
        colours = torch.tanh(x[:, :, : self.channels])
        if picture is not None:
            own = x[:, :, self.channels :].sigmoid()
            colours = torch.lerp(colours, picture.float()[:, None], own)
        opacity = opacity.sigmoid().unsqueeze(2)
        return colours[:, 0], torch.cat((colours[:, 1:] * opacity, opacity), 2)
