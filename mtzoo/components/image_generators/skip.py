"""An image generator with U-Net skips from the picture, which it also moves by a flow."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtzoo.errors import MtzooError
from mtzoo.interfaces import ImageGenerator, check_numbers, check_resolution, check_sizes
from mtzoo.nn.align import places
from mtzoo.nn.blocks2d import (
    CodeToMap,
    as_video_frames,
    check_codes,
    check_picture,
    conv_down,
    join_codes,
    stage_widths,
)
from mtzoo.nn.norm import Norm, initialise_, needs_bias, norm2d
from mtzoo.nn.precision import without_autocast
from mtzoo.nn.subpixel import ToFew
from mtzoo.nn.warp import warp, warp_affine
from mtzoo.registries import image_generators
from mtzoo.registry import Card

WHO = "image generator 'skip'"

_FAR = 0.5  # half sides by which a background has to have moved to be told from what is before it


class Backdrop(NamedTuple):
    """What is seen behind what moves.

    Attributes:
        picture: A picture of it, ``(B, C, H, W)`` in [-1, 1].
        camera: Where it lies in each frame, from where it lies in the picture, ``(B, T, 2)``: x to
            the right and y down, in half sides of the frame.
    """

    picture: Tensor
    camera: Tensor


class _Behind(nn.Module):
    """A U-Net from pictures ``(N, C, H, W)`` to what they would show without what moves.

    And to how much of that is the picture itself, ``(N, 1, H, W)`` in [0, 1].
    """

    def __init__(self, resolution: int, channels: int, width: int, norm: Norm) -> None:
        super().__init__()
        self.channels = channels
        widths = stage_widths(resolution, width)
        self.down = nn.ModuleList(
            [conv_down(a, b, norm, False) for a, b in pairwise([channels, *widths])]
        )
        widths = widths[::-1]
        self.up = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(a + a * (i > 0), b, 4, 2, 1, bias=needs_bias(norm)),
                    norm2d(norm, b),
                    nn.ReLU(),
                )
                for i, (a, b) in enumerate(pairwise(widths))
            ]
        )
        # Colours, and how far to take the picture's own.
        self.head = ToFew(2 * widths[-1], channels + 1, 4, 2, 1)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        maps = [picture]
        for layer in self.down:
            maps.append(layer(maps[-1]))
        x = maps.pop()
        for layer in self.up:
            x = torch.cat((layer(x), maps.pop()), 1)
        x = self.head(x)
        own = x[:, self.channels :].sigmoid()
        return torch.lerp(torch.tanh(x[:, : self.channels]), picture.to(x), own), own


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
        backdrop: Whether all of that is laid over a background that is moved as a whole, by a shift
            that the frame's motion code says; where the picture shows no more of it, it goes on as
            in a mirror. What lies behind what moves is painted once a video. L_rec teaches the
            shift next to nothing; see ``camera_weight`` of the objective.

    Raises:
        MtzooError: A size that cannot work, or ``moved`` is not finite.
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
        backdrop: bool = False,
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
        check_numbers(WHO, above=-math.inf, moved=moved)
        self.resolution = resolution
        self.channels = channels
        self.content_dim = content_dim
        self.frame_motion_dim = frame_motion_dim
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
        outputs = channels + 1 + 2 * flow + backdrop
        self.head = ToFew(widths[-1], outputs, 4, 2, 1)
        self.head_skip = ToFew(widths[-1], outputs, 4, 2, 1, bias=False)
        self.behind = None
        if backdrop:
            self.behind = _Behind(resolution, channels, max(1, width // 2), norm)
            self.camera_hidden = nn.Linear(frame_motion_dim, 128)
            self.camera_output = nn.Linear(128, 2)
        initialise_(self, norm)
        if backdrop:
            self.camera_hidden.reset_parameters()
            self.camera_output.reset_parameters()
        with torch.no_grad():
            assert self.head.bias is not None
            self.head.bias[channels] = moved

    @overload
    def forward(
        self, content: Tensor, motion: Tensor, picture: Tensor | None = None, backdrop: None = None
    ) -> Tensor: ...

    @overload
    def forward(
        self, content: Tensor, motion: Tensor, picture: Tensor, backdrop: Backdrop
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self,
        content: Tensor,
        motion: Tensor,
        picture: Tensor | None = None,
        backdrop: Backdrop | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Paint ``(B, T, C, H, W)`` in [-1, 1].

        Args:
            content: ``(B, content_dim)``, or ``(B, T, content_dim)``.
            motion: ``(B, T, frame_motion_dim)``.
            picture: The picture that ``content`` was read from, ``(B, C, H, W)`` in [-1, 1];
                ``None`` paints from the codes alone.
            backdrop: What is seen behind, for a generator with ``backdrop``; ``None`` takes that
                of the picture, which the first frame shows where the picture does.

        Returns:
            The videos. Where a backdrop is given, to learn from, also how much it holds of what
            stands before it: the mean over pixels of the picture's share in it times how sure it
            is that something else is painted there, of frames in which it has hardly moved, since
            L_rec does not tell there.

        Raises:
            MtzooError: Codes, the picture or the backdrop are of other sizes, or of unequal
                batches; or a backdrop is given without a picture or to a generator without
                ``backdrop``.
        """
        check_codes(content, motion, self.content_dim, self.frame_motion_dim, WHO)
        batch = motion.shape[0]
        if backdrop is not None and self.behind is None:
            raise MtzooError(f"{WHO}: it shows no backdrop; build it with backdrop")
        if backdrop is not None:
            self._check_backdrop(backdrop, motion, picture)
        maps: list[Tensor] = []
        if picture is not None:
            check_picture(picture, batch, self.channels, self.resolution, WHO)
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
                shown = warp(picture, x[:, self.channels + 1 : self.channels + 3])
            else:
                shown = picture.repeat_interleave(motion.shape[1], 0)
            painted = torch.lerp(painted, shown.to(painted.dtype), mask)
            if self.behind is not None:
                opacity = x[:, -1:].sigmoid()
                if backdrop is not None:
                    painted, held = self._before(painted, opacity, backdrop)
                    return as_video_frames(painted, batch), held
                camera = self.camera(motion)
                own = Backdrop(picture, camera - camera[:, :1])
                painted, _ = self._before(painted, opacity, own)
        return as_video_frames(painted, batch)

    def _check_backdrop(self, backdrop: Backdrop, motion: Tensor, picture: Tensor | None) -> None:
        if picture is None:
            raise MtzooError(f"{WHO}: a backdrop is laid behind a picture; give that, too")
        batch, frames = motion.shape[:2]
        check_picture(backdrop.picture, batch, self.channels, self.resolution, WHO)
        if backdrop.camera.shape != (batch, frames, 2):
            raise MtzooError(
                f"{WHO}: the backdrop's camera must be {(batch, frames, 2)}, as the motion codes "
                f"are, not {tuple(backdrop.camera.shape)}"
            )

    def camera(self, motion: Tensor) -> Tensor:
        """Where the background lies in frames, by their motion codes.

        Args:
            motion: ``(B, T, frame_motion_dim)``.

        Returns:
            ``(B, T, 2)``, x to the right and y down in half sides of the frame, from no place in
            particular.

        Raises:
            MtzooError: The generator was built without ``backdrop``.
        """
        if self.behind is None:
            raise MtzooError(f"{WHO}: it knows of no camera; build it with backdrop")
        with without_autocast(motion):  # a pixel is less than bf16 tells
            hidden = F.relu(self.camera_hidden(motion.to(self.camera_hidden.weight.dtype)))
            return self.camera_output(hidden).float()

    def _before(
        self, painted: Tensor, opacity: Tensor, backdrop: Backdrop
    ) -> tuple[Tensor, Tensor]:
        """Lay what is painted, ``(B * T, C, H, W)``, over a background; see `forward`."""
        assert self.behind is not None
        moves = torch.eye(2, 3, device=painted.device).repeat(*backdrop.camera.shape[:2], 1, 1)
        moves[..., 2] = -backdrop.camera
        behind, own = self.behind(backdrop.picture)
        behind = warp_affine(behind, moves, outside="reflection")
        own = warp_affine(own, moves.detach(), outside="reflection")
        # Where it has hardly moved, who stands before it may as well be part of it.
        far = (backdrop.camera.detach().square().sum(-1).sqrt() / _FAR).clamp(max=1)
        far = far.flatten()[:, None, None, None].to(behind.dtype)
        behind = behind.detach() + (behind - behind.detach()) * far
        sure = (2 * opacity.detach() - 1).clamp(min=0)
        held = (own.float() * sure.float() * (1 - far.float())).mean()
        # Where the background is guessed from a mirror, what is wrong with it must not teach to
        # paint all over it.
        height, width = painted.shape[-2:]
        pixels = places(height, width, painted.device)
        looks = torch.einsum("ntij,jhw->ntihw", moves, pixels).flatten(0, 1)
        known = (looks.abs() < 1).all(1, keepdim=True)
        opacity = torch.where(known, opacity, opacity.detach())
        return torch.lerp(behind.to(painted.dtype), painted, opacity.to(painted.dtype)), held

    @staticmethod
    def _with(x: Tensor, skip: nn.Module, maps: list[Tensor], batch: int) -> Tensor:
        """Add what the coarsest map that is left gives to all frames of its video."""
        if not maps:
            return x
        share = skip(maps.pop()).unsqueeze(1)
        return (x.unflatten(0, (batch, -1)) + share).flatten(0, 1)
