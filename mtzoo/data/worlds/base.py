"""What synthetic worlds share: factors from random numbers, exact transfer truths, pairs.

In a world, a video is rendered from two sets of factors that know nothing of each other: content
(what is seen) and motion (how it moves). So the true answer to "motion of V on the appearance of
y" exists: render the content of V_y with the motion of V. No footage can offer that.

To add a world: subclass [`World`][mtzoo.data.worlds.base.World] (two mappings from uniform random
numbers to factors, one drawing), put a [`WorldPairs`][mtzoo.data.worlds.base.WorldPairs] subclass
over it into ``mtzoo/data/datasets/`` and register it there.

Pictures must be equal to the last bit whether rendered alone or in a batch. Arithmetic, comparison
and square root are exactly rounded, so they are safe in any order of memory; sine, cosine and
powers are not, and go through [`steady`][mtzoo.data.worlds.base.steady]. Fused operations
(``addcmul``, ``lerp``, matrix products) have no place in a renderer.
"""

from __future__ import annotations

import abc
import hashlib
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar, cast, get_args

import torch
from torch import Tensor

from mtzoo.errors import MtzooError, did_you_mean
from mtzoo.interfaces import PairDataset, check_frames, check_resolution

Content = TypeVar("Content", bound=tuple[Tensor, ...])
Motion = TypeVar("Motion", bound=tuple[Tensor, ...])
Factors = TypeVar("Factors", bound=tuple[Tensor, ...])

Split = Literal["train", "test"]
TargetFrame = Literal["random", "first"]
TargetIdentity = Literal["other", "same"]

BACKGROUNDS = ("linear", "radial", "stripes", "checks")

_CANVAS_PIXELS = 65536


class World(abc.ABC, Generic[Content, Motion]):
    """Videos with known factors.

    Factors are named tuples of tensors, each with the item as its first dimension. Motion factors
    describe a motion for all time, so a longer clip is the same motion continued.

    Attributes:
        content_numbers: How many uniform random numbers make one content.
        motion_numbers: How many uniform random numbers make one motion.
        content_names: Fields of a content that choose one of several, with their names.
        motion_names: The same of a motion.
    """

    content_numbers: ClassVar[int]
    motion_numbers: ClassVar[int]
    content_names: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    motion_names: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})

    @abc.abstractmethod
    def content(self, numbers: Tensor) -> Content:
        """Map uniform numbers to contents.

        Args:
            numbers: ``(N, content_numbers)`` in [0, 1), float32.

        Returns:
            Named tuple of tensors ``(N, ...)``; row i depends on row i of ``numbers`` alone.
        """

    @abc.abstractmethod
    def motion(self, numbers: Tensor) -> Motion:
        """Map uniform numbers ``(N, motion_numbers)`` in [0, 1) to motions, as `content` does."""

    @abc.abstractmethod
    def canvas(self, content: Content, motion: Motion, at: Tensor, resolution: int) -> Tensor:
        """Draw the frames of a few items.

        Args:
            content: Factors of n contents.
            motion: Factors of n motions.
            at: Times of the frames, ``(T,)`` float64.
            resolution: Side of a frame in pixels.

        Returns:
            ``(n, T, 3, H, W)`` float32 in [0, 255]; item i depends on item i's factors alone, to
            the last bit.
        """

    def render(
        self,
        content: Content,
        motion: Motion,
        *,
        frames: int,
        resolution: int,
        start: int = 0,
        speed: float = 1.0,
    ) -> Tensor:
        """Render clips.

        Args:
            content: Factors of N contents.
            motion: Factors of N motions.
            frames: Number of frames T.
            resolution: Side of a frame in pixels.
            start: Number of the first frame.
            speed: Time that passes from one frame to the next; rates of motion factors are per
                unit of time, so at 1.0 they are per frame.

        Returns:
            Videos ``(N, T, H, W, 3)`` uint8, the frames at times ``(start + 0..T-1) * speed``.

        Raises:
            MtzooError: ``content`` and ``motion`` are not of one number of items.
        """
        n = len(content[0])
        if len(motion[0]) != n:
            raise MtzooError(
                f"render: {n} contents and {len(motion[0])} motions; give as many of one as of "
                "the other"
            )
        at = (torch.arange(frames, dtype=torch.float64) + start) * speed
        clips = torch.empty(n, frames, resolution, resolution, 3, dtype=torch.uint8)
        # A few items at a time, so that a canvas stays in the processor's cache.
        few = max(1, _CANVAS_PIXELS // (frames * resolution**2))
        for i in range(0, n, few):
            some = slice(i, i + few)
            canvas = self.canvas(take(content, some), take(motion, some), at, resolution)
            clips[some] = canvas.round_().to(torch.uint8).permute(0, 1, 3, 4, 2)
        return clips

    def draw_content(self, n: int, generator: torch.Generator) -> Content:
        """Draw ``n`` contents from a CPU generator."""
        return self.content(torch.rand(n, self.content_numbers, generator=generator))

    def draw_motion(self, n: int, generator: torch.Generator) -> Motion:
        """Draw ``n`` motions from a CPU generator."""
        return self.motion(torch.rand(n, self.motion_numbers, generator=generator))


def take(factors: Factors, index: int | slice | Tensor | Sequence[int]) -> Factors:
    """Select items of a factor tuple; an integer keeps the item dimension (of size 1)."""
    if isinstance(index, int):
        index = [index]
    kept = [field[index] for field in factors]
    return cast(Factors, cast(Any, type(factors))(*kept))


def join(parts: Sequence[Factors]) -> Factors:
    """Concatenate factor tuples along the item dimension."""
    return cast(Factors, cast(Any, type(parts[0]))(*map(torch.cat, zip(*parts, strict=True))))


def steady(values: Tensor) -> Tensor:
    """Round float64 values to float32 on a grid of 2^-16.

    Sine and cosine may differ in the last bit between a vectorised loop and its remainder, or
    between machines. On a grid a billion times coarser than that bit, they do not.
    """
    return ((values * 65536.0).round() / 65536.0).to(torch.float32)


def between(numbers: Tensor, low: float, high: float) -> Tensor:
    """Map uniform numbers in [0, 1) to [low, high]."""
    return numbers * (high - low) + low


def choice(numbers: Tensor, count: int) -> Tensor:
    """Map uniform numbers in [0, 1) to integers 0 to ``count - 1``, int64."""
    return (numbers * count).floor().to(torch.int64).clamp_(0, count - 1)


def subset(names: Sequence[str], known: Sequence[str], what: str) -> Tensor:
    """Indices of ``names`` in ``known``, int64, for a world that draws from some of its factors.

    Raises:
        MtzooError: A name is unknown, or there is none.
    """
    if not names:
        raise MtzooError(f"no {what} is given; choose from {', '.join(known)}")
    for name in names:
        _check_choice(name, tuple(known), what, "world")
    return torch.tensor([list(known).index(name) for name in names])


def hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Colours ``(N, 3)`` RGB in [0, 1] from hue (in turns, any real), saturation and value."""
    offsets = torch.tensor([5.0, 3.0, 1.0])
    sector = offsets + (hue * 6.0)[:, None]
    sector = sector - (sector / 6.0).floor() * 6.0
    depth = torch.minimum(sector, 4.0 - sector).clamp(0.0, 1.0)
    return value[:, None] - (value * saturation)[:, None] * depth


def pixel_axis(resolution: int) -> Tensor:
    """Pixel centres along one side, ``(resolution,)``, from -1 (left, bottom) to 1."""
    return (torch.arange(resolution, dtype=torch.float32) * 2.0 + 1.0) / resolution - 1.0


def sine(turns: Tensor) -> Tensor:
    """Sine of an angle in turns; float64, to be made `steady` before it meets a pixel."""
    return (turns * (2 * math.pi)).sin()


def backdrop(
    kind: Tensor, colours: Tensor, direction: Tensor, waves: Tensor, axis: Tensor, frames: int
) -> Tensor:
    """Paint soft two-coloured backgrounds that stand still.

    Args:
        kind: ``(N,)`` int64, index into ``BACKGROUNDS``.
        colours: ``(N, 2, 3)`` RGB in [0, 1].
        direction: ``(N, 2)`` unit vector along which the background changes.
        waves: ``(N,)`` periods of stripes and checks over half a frame.
        axis: Pixel centres, see `pixel_axis`.
        frames: How often to repeat each.

    Returns:
        Canvas ``(N, frames, 3, H, W)`` in [0, 255].
    """
    x, y = axis[None, None, :], axis.flip(0)[None, :, None]
    dx, dy = direction[:, 0, None, None], direction[:, 1, None, None]
    along, across = dx * x + dy * y, dx * y - dy * x
    stripes = _soft_wave(along * waves[:, None, None])
    others = _soft_wave(across * waves[:, None, None])
    shares = {
        "linear": along * 0.4 + 0.5,
        "radial": (x * x + y * y).sqrt() * 0.7,
        "stripes": stripes,
        "checks": stripes + others - stripes * others * 2.0,
    }
    share = torch.zeros_like(along)
    for i, name in enumerate(BACKGROUNDS):
        share = torch.where(kind[:, None, None] == i, shares[name], share)
    first, second = (colours * 255)[..., None, None].unbind(1)
    ground = first + (second - first) * share.clamp_(0.0, 1.0)[:, None]
    return ground[:, None].repeat(1, frames, 1, 1, 1)


def _soft_wave(x: Tensor) -> Tensor:
    """A wave of period 1 between 0 and 1, flat at both ends, from exact operations only."""
    zigzag = ((x - x.floor()) * 2.0 - 1.0).abs()
    return zigzag * zigzag * (3.0 - zigzag * 2.0)


def coverage(distance: Tensor, pixels: Tensor | float) -> Tensor:
    """How much of each pixel a shape covers, in [0, 1]; overwrites ``distance``.

    Args:
        distance: Signed distance to the shape's border, negative inside.
        pixels: Pixels per unit of distance.
    """
    return distance.mul_(-pixels).add_(0.5).clamp_(0.0, 1.0)


def paint(canvas: Tensor, cover: Tensor, colour: Tensor) -> Tensor:
    """Lay a colour over a canvas in place.

    Args:
        canvas: ``(N, T, 3, H, W)`` in [0, 255].
        cover: ``(N, T, H, W)`` in [0, 1].
        colour: ``(N, 3)`` or ``(3,)`` in [0, 255].
    """
    colour = colour.view(-1, 1, 3, 1, 1)
    return canvas.add_((colour - canvas).mul_(cover.unsqueeze(2)))


class Window(NamedTuple):
    """A rectangle of a canvas, elsewhere in every frame, to paint small things fast.

    Attributes:
        canvas: ``(N, T, 3, h, w)``, a copy of what the rectangles show.
        x: Pixel centres ``(N, T, 1, w)``.
        y: Pixel centres ``(N, T, h, 1)``.
        index: ``(N*T, 1, h*w)`` where in a frame the pixels belong.
    """

    canvas: Tensor
    x: Tensor
    y: Tensor
    index: Tensor

    @classmethod
    def of(
        cls, canvas: Tensor, axis: Tensor, centre: tuple[Tensor, Tensor], half: tuple[float, float]
    ) -> Window:
        """Copy rectangles of half-width and half-height ``half`` about ``centre`` ``(N, T)``.

        Rectangles that stick out of the frame are moved inside.
        """
        n, t, _, side, _ = canvas.shape
        width, height = (min(side, math.ceil(extent * side) + 1) for extent in half)
        left = ((centre[0] + 1.0) * (side / 2) - width / 2).round().clamp_(0, side - width)
        top = ((1.0 - centre[1]) * (side / 2) - height / 2).round().clamp_(0, side - height)
        columns = left.to(torch.int64)[..., None] + torch.arange(width)
        rows = top.to(torch.int64)[..., None] + torch.arange(height)
        index = (rows[..., :, None] * side + columns[..., None, :]).view(n * t, 1, -1)
        patch = canvas.view(n * t, 3, -1).gather(2, index.expand(-1, 3, -1))
        return cls(
            patch.view(n, t, 3, height, width),
            axis[columns][..., None, :],
            axis.flip(0)[rows][..., :, None],
            index,
        )

    def put_back(self, canvas: Tensor) -> None:
        """Write what was painted into the canvas that the window was made of."""
        frames = canvas.view(len(self.index), 3, -1)
        frames.scatter_(2, self.index.expand(-1, 3, -1), self.canvas.view(len(self.index), 3, -1))


class WorldPairs(PairDataset):
    """Pairs of clips from a world, with the true transfer in the test split.

    All four sets of factors of a pair (content and motion of V and of V_y) are drawn
    independently, so V and V_y are two identities that move in two ways. Factors and the target
    frame follow from (seed, split, position, purpose) alone: a change of resolution, clip length
    or ``target_frame`` leaves the rest as it was. The streams of the splits have no seed in
    common: the ranges of all factors are the same, the identities and motions of the test split
    do not occur in training.

    Args:
        world: What renders the clips.
        split: Which half to draw from.
        seed: Of the whole set.
        resolution: Side of a frame in pixels.
        frames: Frames a clip.
        target_frame: Which frame of V_y is the target: any, or the first.
        speed: Time from frame to frame; see `World.render`.
        size: What ``len`` says; positions beyond it are served all the same. ``None`` says 10000
            for training, 256 for testing.
        target_identity: Whether V_y shows ``other`` content than V in training or the ``same``
            in another motion. In the test split it is always another.

    Raises:
        MtzooError: An option is out of range.
    """

    has_truth = True
    world: World[Any, Any]

    def __init__(
        self,
        world: World[Any, Any],
        split: Split,
        seed: int,
        *,
        resolution: int,
        frames: int,
        target_frame: TargetFrame,
        speed: float,
        size: int | None,
        target_identity: TargetIdentity = "other",
    ) -> None:
        who = f"dataset {type(self).__name__.lower()}"
        check_resolution(resolution, who)
        check_frames(frames, 2, who)
        _check_choice(split, get_args(Split), "split", who)
        _check_choice(target_frame, get_args(TargetFrame), "target_frame", who)
        if not 0.0 < speed <= 4.0:
            raise MtzooError(f"{who}: speed {speed} is not supported; use more than 0, up to 4")
        if size is not None and size < 1:
            raise MtzooError(f"{who}: size {size} is not supported; use at least 1")
        self.world = world
        self.content_classes = dict(world.content_names)
        self.motion_classes = dict(world.motion_names)
        self.split: Split = split
        self.seed = seed
        self.resolution = resolution
        self.channels = 3
        self.frames = frames
        self.target_frame: TargetFrame = target_frame
        self.speed = speed
        _check_choice(target_identity, get_args(TargetIdentity), "target_identity", who)
        self.target_identity: TargetIdentity = target_identity
        self.size = size if size is not None else (10_000 if split == "train" else 256)

    def __len__(self) -> int:
        """The nominal number of pairs; there are as many as one asks for."""
        return self.size

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        """The pair at ``position`` (0 or more); see [`PairDataset`][mtzoo.interfaces.PairDataset].

        Raises:
            IndexError: ``position`` is negative.
        """
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Tensor]]:
        """The pairs at ``positions``, rendered in one go; the same bits as one by one."""
        n = len(positions)
        if n == 0:
            return []
        contents, motions = self._draw(positions)
        if self.split == "test":
            contents = join([contents, take(contents, slice(n, None))])
            motions = join([motions, take(motions, slice(n))])
        clips = self.world.render(
            contents, motions, frames=self.frames, resolution=self.resolution, speed=self.speed
        )
        indices = [self._target_index(position) for position in positions]
        items = []
        for i in range(n):
            item = {
                "video": clips[i],
                "target_video": clips[n + i],
                "target_index": torch.tensor(indices[i], dtype=torch.int64),
            }
            if self.split == "test":
                item["truth"] = clips[2 * n + i]
            items.append(item)
        return items

    def factors(self, position: int) -> dict[str, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
        """The (content, motion) factors of ``video`` and ``target_video`` at ``position``."""
        contents, motions = self._draw([position])
        return {
            "video": (take(contents, 0), take(motions, 0)),
            "target_video": (take(contents, 1), take(motions, 1)),
        }

    def labels(self, position: int) -> dict[str, dict[str, str]]:
        """What the pair at ``position`` shows, from the factors that it is rendered from."""
        return {
            clip: {
                label: names[int(getattr(factors, label)[0])]
                for factors, known in zip(
                    pair, (self.content_classes, self.motion_classes), strict=True
                )
                for label, names in known.items()
            }
            for clip, pair in self.factors(position).items()
        }

    def _draw(self, positions: Sequence[int]) -> tuple[Any, Any]:
        """Contents and motions ``(2 n, ...)``: those of V at every position, then of V_y."""

        def numbers(what: str, count: int, clips: tuple[str, str] = ("video", "target")) -> Tensor:
            rows = [
                torch.rand(count, generator=self._generator(position, f"{clip} {what}"))
                for clip in clips
                for position in positions
            ]
            return torch.stack(rows)

        world = self.world
        same = self.target_identity == "same" and self.split == "train"
        clips = ("video", "video") if same else ("video", "target")
        return (
            world.content(numbers("content", world.content_numbers, clips)),
            world.motion(numbers("motion", world.motion_numbers)),
        )

    def _target_index(self, position: int) -> int:
        if self.target_frame == "first":
            return 0
        number = torch.rand((), generator=self._generator(position, "target index")).item()
        return min(int(number * self.frames), self.frames - 1)

    def _generator(self, position: int, purpose: str) -> torch.Generator:
        if position < 0:
            raise IndexError(f"position {position} is negative")
        # A hash keeps the streams apart: sums and products of small integers coincide.
        name = f"{self.seed}/{self.split}/{position}/{purpose}".encode()
        digest = hashlib.blake2b(name, digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def _check_choice(value: str, known: tuple[str, ...], what: str, who: str) -> None:
    if value not in known:
        raise MtzooError(
            f"{who}: {what} {value!r} is not supported.{did_you_mean(str(value), known)} "
            f"Use one of {', '.join(known)}"
        )
