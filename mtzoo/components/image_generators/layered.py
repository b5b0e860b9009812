"""An image generator that takes a picture apart into layers and moves each as a whole."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtzoo.errors import MtzooError
from mtzoo.interfaces import ImageGenerator, check_choice, check_resolution, check_sizes
from mtzoo.nn.align import extent, lay, moved
from mtzoo.nn.blocks2d import (
    CodeToMap,
    as_video_frames,
    check_codes,
    check_image,
    check_picture,
    conv_down,
    stage_widths,
)
from mtzoo.nn.inpaint import pull_push
from mtzoo.nn.norm import Norm, initialise_, needs_bias, norm2d
from mtzoo.nn.precision import without_autocast
from mtzoo.nn.warp import warp_affine
from mtzoo.registries import image_generators
from mtzoo.registry import Card

WHO = "image generator 'layered'"

Inpainting = Literal["painted", "pull_push"]
"""What the background is where a layer hides it: as painted, or spread from around the layer."""


class _Maps(nn.Module):
    """Affine maps ``(N, layers, 3, 3)`` from codes ``(N, inputs)``, about the identity at first."""

    def __init__(self, inputs: int, layers: int, hidden: int, numbers: int = 6) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        self.output = nn.Linear(hidden, numbers * layers)
        self.numbers = numbers

    def start_(self) -> None:
        nn.init.normal_(self.output.weight, 0.0, 0.1 / self.output.in_features**0.5)
        nn.init.zeros_(self.output.bias)

    def read(self, codes: Tensor) -> Tensor:
        """``(N, layers, numbers)``, near 0 at first."""
        return self.output(F.relu(self.hidden(codes))).float().unflatten(1, (-1, self.numbers))

    def forward(self, codes: Tensor) -> Tensor:
        change = self.read(codes).unflatten(2, (2, 3))
        # The last row of an affine map is 0, 0, 1.
        return F.pad(change, (0, 0, 0, 1)) + torch.eye(3, device=change.device)


class _Similarities(_Maps):
    """Maps that shift, scale and, if asked, turn: ``numbers`` are x, y, size and direction.

    Each is read by itself, so that who does not know how something is turned still knows where it
    is and how large. Of affine maps' six numbers an unknown angle would shrink four.
    """

    def __init__(self, inputs: int, layers: int, hidden: int, *, turning: bool) -> None:
        super().__init__(inputs, layers, hidden, 5 if turning else 3)

    def forward(self, codes: Tensor) -> Tensor:
        x, y, size, *turn = self.read(codes).unbind(2)
        cosine, sine = torch.ones_like(x), torch.zeros_like(x)
        if turn:
            cosine, sine = F.normalize(torch.stack((1 + turn[0], turn[1])), dim=0)
        return _similarities(x, y, size.exp() * cosine, size.exp() * sine)


class _Direction(nn.Module):
    """Which way up layers are: each is looked at from all sides, turn by turn, by one network.

    What it says of a layer turns with the layer, however little it has learned.
    """

    def __init__(self, channels: int, turns: int, width: int = 16, side: int = 16) -> None:
        super().__init__()
        self.turns, self.side = turns, side
        self.score = nn.Sequential(
            nn.Conv2d(channels + 1, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(2 * width * (side // 4) ** 2, 4 * width),
            nn.LeakyReLU(0.2),
            nn.Linear(4 * width, 1),
        )

    def start_(self) -> None:
        for layer in self.score:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight, 0.2)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, picture: Tensor, opacity: Tensor, *, disturbed: float = 0.0) -> Tensor:
        """Rotations ``(N, layers, 3, 3)`` from upright to how things lie in pictures.

        Args:
            picture: ``(N, C, H, W)``. Colours of layers would not do: networks that paint them
                leave traces that lie as the pixels do, and tell which way up they were painted.
            opacity: Where the things are, ``(N, layers, H, W)`` in [0, 1].
            disturbed: To learn, how far off to look at most, by chance, as a share of how far the
                thing reaches; and then from any sides.
        """
        count, layers = opacity.shape[:2]
        centre, spread = extent(opacity.flatten(0, 1))
        reach = 1.6 * spread

        turns = torch.arange(self.turns, device=picture.device).expand(reach.shape[0], -1)
        if disturbed:
            # So that turns along the pixels are nothing special, nor where opacity errs to.
            turn, aside = torch.rand_like(reach[:, None].expand(-1, 4)).split((1, 3), 1)
            turns = turns + turn
            aside = disturbed * (2 * aside - 1)
            centre = centre + reach[:, None] * aside[:, :2]
            reach = reach * (1 + aside[:, 2] * 2 / 3)
        angles = turns * (2 * torch.pi / self.turns)
        cosine, sine = angles.cos(), angles.sin()
        maps = _rotations(cosine, sine)[..., :2, :] * reach[:, None, None, None]
        maps[..., 2] = centre[:, None]
        # Half as large at first: a small square that looks at every second pixel sees noise.
        shown = F.avg_pool2d(picture, 2).repeat_interleave(layers, 0)
        seen = warp_affine(shown, maps, side=self.side)
        # Through a round window, within which nothing tells how the square is turned.
        at = (torch.arange(self.side, device=picture.device) * 2 + 1) / self.side - 1
        window = (6 * (1 - (at[:, None] ** 2 + at**2).sqrt())).clamp(0, 1)
        mean = (seen * window).sum((2, 3), keepdim=True) / window.sum()
        seen = torch.cat(((seen - mean) * window, window.expand(seen.shape[0], 1, -1, -1)), 1)
        # Half precision is too coarse for where to look, but will do for what is seen there.
        seen = seen.to(next(self.score.parameters()).dtype)
        weights = self.score(seen).unflatten(0, (-1, self.turns)).squeeze(2).float().softmax(1)
        found = torch.stack(((weights * cosine).sum(1), (weights * sine).sum(1)), 1)
        return _rotations(*F.normalize(found, dim=1).unbind(1)).unflatten(0, (count, layers))


def _similarities(x: Tensor, y: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """``(...)`` each, cosine and sine times the size, to ``(..., 3, 3)``."""
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    rows = (cosine, -sine, x, sine, cosine, y, zero, zero, one)
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def _rotations(cosine: Tensor, sine: Tensor) -> Tensor:
    """``(...)`` each to ``(..., 3, 3)``."""
    zero = torch.zeros_like(cosine)
    return _similarities(zero, zero, cosine, sine)


def inverse(maps: Tensor) -> Tensor:
    """The inverse of similarities ``(..., 3, 3)``, without asking whether there is one."""
    a, b = maps[..., 0, 0], maps[..., 1, 0]
    square = a**2 + b**2
    cosine, sine = a / square, -b / square
    x, y = maps[..., 0, 2], maps[..., 1, 2]
    return _similarities(sine * y - cosine * x, -sine * x - cosine * y, cosine, sine)


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
        turns: From how many sides the picture is looked at to tell which way up its layers lie. A
            layer is then shifted, scaled and turned, no more; ``turning``, a buffer, says whether
            it is turned yet (see ``pose_start`` of the objective). 0 reads whole affine maps off
            the codes, which learn to turn only what they have seen turned.
        relative_sizes: Whether motion codes say how large a layer is beside its geometric mean over
            the frames, and the picture's code how large it is there beside the same. Else what is
            read off a large thing makes the thing of another picture as large. Needs ``turns``;
            frames of a video then have to be painted together.
        inpainting: What the background shows behind layers. ``"painted"``: what the U-Net paints
            there, which sees the layer and leaves traces of it. ``"pull_push"``: what lies around
            the layer, spread smoothly (`mtzoo.nn.inpaint`). It learns no more of a background than
            it sees, but nothing of the layer is left behind; it costs no weights.

    Attributes:
        held: Whether painted frames teach poses alone, and not what is moved by them; where that
            learns from frames that it was aligned with (see ``align_steps`` of the objective).

    Raises:
        MtzooError: A size that cannot work, no such ``inpainting``, or ``relative_sizes`` without
            ``turns``.
    """

    turning: Tensor
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
        turns: int = 0,
        relative_sizes: bool = False,
        inpainting: Inpainting = "painted",
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
        check_sizes(WHO, least=0, turns=turns)
        if turns and not 4 <= turns <= 64:
            raise MtzooError(f"{WHO}: turns is {turns}; it must be 0, or 4 to 64")
        if relative_sizes and not turns:
            raise MtzooError(
                f"{WHO}: relative_sizes needs layers that are shifted, scaled and turned; "
                "set turns (16, say)"
            )
        check_choice(WHO, "inpainting", inpainting, Inpainting)
        self.resolution = resolution
        self.channels = channels
        self.content_dim = content_dim
        self.frame_motion_dim = frame_motion_dim
        self.layers = layers
        self.inpainting = inpainting
        self.relative_sizes = relative_sizes
        self.held = False
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
        # Pictures' codes must not turn layers, too: they would turn back what the direction turns,
        # and pictures that lie as in the video would again be all that is learned.
        self.here = (
            _Similarities(content_dim, layers, hidden, turning=False)
            if turns
            else _Maps(content_dim, layers, hidden)
        )
        self.there = (
            _Similarities(frame_motion_dim, layers, hidden, turning=True)
            if turns
            else _Maps(frame_motion_dim, layers, hidden)
        )
        self.direction = None
        if turns:
            self.direction = _Direction(channels, turns)
            self.register_buffer("turning", torch.tensor(True))
        initialise_(self, norm)
        if self.direction is not None:
            self.direction.start_()
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
            MtzooError: Codes or the picture are of other sizes, or of unequal batches.
        """
        check_codes(content, motion, self.content_dim, self.frame_motion_dim, WHO)
        batch, frames = motion.shape[:2]
        there = self.looks(motion)
        if picture is not None:
            check_picture(picture, batch, self.channels, self.resolution, WHO)
        if content.dim() == 3:
            content = content.flatten(0, 1)
            there = there.flatten(0, 1).unsqueeze(1)
            if picture is not None:
                picture = picture.repeat_interleave(frames, 0)
        background, layers = self.take_apart(content, picture)
        here = self.poses(content, layers, picture).unsqueeze(1)
        with without_autocast(here):  # a pixel is less than bf16 tells
            moves = here @ there
        if self.held:
            background, layers = background.detach(), layers.detach()
        shown = self.compose(background, layers, moves)
        return as_video_frames(shown.flatten(0, 1).to(content.dtype), batch)

    def poses(self, content: Tensor, layers: Tensor, picture: Tensor | None = None) -> Tensor:
        """The layers' poses in pictures.

        Args:
            content: ``(N, content_dim)``, of the pictures.
            layers: ``(N, layers, C + 1, H, W)``, of `take_apart`.
            picture: ``(N, C, H, W)``; without it nothing is turned.

        Returns:
            Affine maps ``(N, layers, 3, 3)`` from a layer's own axes to the picture, whose
            coordinates, x to the right and y down, reach from -1 to 1.
        """
        here = self.here(content)
        if self.direction is None or picture is None:
            return here
        with torch.no_grad():  # it learns from `directions` alone
            turns = self.direction(picture.float(), layers[:, :, -1].float())
        turns = torch.where(self.turning, turns, torch.eye(3, device=turns.device))
        with without_autocast(here):
            return here @ turns

    def directions(self, picture: Tensor, opacity: Tensor, *, disturbed: float = 0.3) -> Tensor:
        """How layers are turned in pictures, looked at a little off, by chance; to learn from.

        Args:
            picture: ``(N, C, H, W)``.
            opacity: Where the layers lie, ``(N, layers, H, W)`` in [0, 1].
            disturbed: How far off at most, as a share of how far the layer reaches; above 0.

        Returns:
            Rotations ``(N, layers, 3, 3)``.

        Raises:
            MtzooError: The generator was built without ``turns``.
        """
        if self.direction is None:
            raise MtzooError(f"{WHO}: it knows no directions; build it with turns")
        return self.direction(picture.float(), opacity.detach().float(), disturbed=disturbed)

    def frame_poses(self, motion: Tensor) -> Tensor:
        """The layers' poses in frames, from the frames' motion codes.

        Args:
            motion: ``(N, T, frame_motion_dim)``.

        Returns:
            Affine maps ``(N, T, layers, 3, 3)`` from a layer's own axes to the frame.
        """
        read = self._read(motion)
        return read if self.direction is not None else torch.linalg.inv(read)

    def looks(self, motion: Tensor) -> Tensor:
        """Where frames look in layers: the inverse of `frame_poses`, of the same shape."""
        read = self._read(motion)
        return read if self.direction is None else inverse(read)

    def _read(self, motion: Tensor) -> Tensor:
        """Maps that motion codes ``(N, T, frame_motion_dim)`` say, ``(N, T, layers, 3, 3)``."""
        maps = self.there(motion.flatten(0, 1)).unflatten(0, motion.shape[:2])
        if not self.relative_sizes:
            return maps
        size = maps[..., :2, 0].norm(dim=-1)
        scale = size.log().mean(1, keepdim=True).exp()[..., None]
        return torch.cat((maps[..., :2] / scale[..., None], maps[..., 2:]), -1)

    def turn_(self, turning: bool) -> None:
        """Begin or cease to turn layers by how they lie in the picture; needs ``turns``."""
        self.turning.fill_(turning)

    def compose(self, background: Tensor, layers: Tensor, moves: Tensor) -> Tensor:
        """Lay moved layers over the background.

        Args:
            background: ``(N, C, H, W)``, of `take_apart`.
            layers: ``(N, layers, C + 1, H, W)``, likewise.
            moves: ``(N, T, layers, 3, 3)``, from places of a frame to where they look in a layer.

        Returns:
            ``(N, T, C, H, W)`` in [-1, 1].
        """
        return lay(background.unsqueeze(1), moved(layers, moves))[0]

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
        background = colours[:, 0]
        if self.inpainting == "pull_push":
            # Squared, since a pixel half hidden still has the colour of what hides it.
            background = pull_push(background, (1 - opacity.amax(1)).square())
        return background, torch.cat((colours[:, 1:] * opacity, opacity), 2)
