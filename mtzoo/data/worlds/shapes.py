"""The world of shapes: one large marked shape that travels, turns and breathes.

Small things on plain ground are best painted by leaving them out, as far as a pixel loss can
tell. So the shape here fills much of the frame, and what it does moves many pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mtzoo.data.worlds.base import (
    BACKGROUNDS,
    World,
    backdrop,
    between,
    choice,
    coverage,
    hsv,
    paint,
    pixel_axis,
    sine,
    steady,
    subset,
)
from mtzoo.errors import MtzooError

KINDS = ("disc", "square", "triangle", "hexagon", "star", "cross", "heart", "clover")
MARKS = ("spot", "cap", "band")
FAMILIES = ("circle", "sway", "hop", "zoom", "spin", "bounce")

# Sizes at which the kinds look equally large, in units of the content's radius.
_KIND_SIZE = torch.tensor([1.0, 0.92, 1.12, 1.02, 1.2, 1.12, 1.08, 1.02])
# A mark is all points with sqrt((a u)^2 + (v - b)^2) < c: a spot for a = 1, a band for a = 0. All
# lie above the middle, so that a marked shape has one upright pose, the same for every kind.
_MARK = torch.tensor([[1.0, 0.30, 0.27], [0.0, 2.2, 2.0], [0.0, 0.22, 0.16]])
_BORDER = 0.1


class ShapesContent(NamedTuple):
    """What is seen, for N items; colours are RGB in [0, 1].

    Attributes:
        kind: ``(N,)`` int64, index into ``KINDS``.
        radius: ``(N,)`` size of the shape; the frame reaches from -1 to 1.
        fill: ``(N, 3)`` colour of the shape; its border is a darker shade of it.
        mark: ``(N,)`` int64, index into ``MARKS``: a patch that shows which way is up.
        mark_colour: ``(N, 3)``.
        background: ``(N,)`` int64, index into ``BACKGROUNDS``.
        ground: ``(N, 2, 3)`` the background's two colours.
        direction: ``(N, 2)`` unit vector along which the background changes.
        waves: ``(N,)`` periods of striped and checked backgrounds over half a frame.
    """

    kind: Tensor
    radius: Tensor
    fill: Tensor
    mark: Tensor
    mark_colour: Tensor
    background: Tensor
    ground: Tensor
    direction: Tensor
    waves: Tensor


class ShapesMotion(NamedTuple):
    """How it moves, for N items; a rate is in turns per unit of time, a phase in turns.

    With wave(x) = sin(2 pi x), for a hop its height |sin(pi x)|, for a bounce a zigzag, the centre
    is ``home + reach * wave(rate * t + phase)``, the angle
    ``angle + spin * t + tilt * sin(2 pi (tilt_rate t + tilt_phase))`` and the size
    ``1 + zoom * sin(2 pi (zoom_rate t + zoom_phase))``.

    Attributes:
        family: ``(N,)`` int64, index into ``FAMILIES``.
        home: ``(N, 2)`` centre of the path, x and y (up).
        reach: ``(N, 2)`` its half-widths.
        rate: ``(N, 2)``.
        phase: ``(N, 2)``.
        angle: ``(N,)`` in turns, counter-clockwise, 0 is upright.
        spin: ``(N,)`` turns per unit of time.
        tilt: ``(N,)`` in turns.
        tilt_rate: ``(N,)``.
        tilt_phase: ``(N,)``.
        zoom: ``(N,)`` relative change of size.
        zoom_rate: ``(N,)``.
        zoom_phase: ``(N,)``.
    """

    family: Tensor
    home: Tensor
    reach: Tensor
    rate: Tensor
    phase: Tensor
    angle: Tensor
    spin: Tensor
    tilt: Tensor
    tilt_rate: Tensor
    tilt_phase: Tensor
    zoom: Tensor
    zoom_rate: Tensor
    zoom_phase: Tensor


class Track(NamedTuple):
    """Pose in every frame, ``(N, T)`` each: centre, cosine and sine of the angle, size."""

    x: Tensor
    y: Tensor
    cosine: Tensor
    sine: Tensor
    size: Tensor


class Shapes(World[ShapesContent, ShapesMotion]):
    """Renders one shape a video; see `ShapesContent` and `ShapesMotion` for its factors.

    Six families of motion: going round a circle, swaying along a line and leaning into it,
    hopping sideways, zooming in and out, spinning on the spot, bouncing off the frame's walls.
    Rates, reaches, phases and directions are drawn; one turn takes 8 to 18 frames.

    Args:
        kinds: The shapes there are, of ``KINDS``.
        families: The motions there are, of ``FAMILIES``.
        backgrounds: The grounds there are, of ``BACKGROUNDS``.
        scale: Factor on the size of all shapes, 0.5 to 1.5.
        palette: ``soft``: bright shapes on dark grounds or dark ones on pale, told apart by
            brightness; ``vivid``: saturated colours, told apart by hue. Networks see brightness
            first and colour late, so the vivid world is learned in fewer steps.

    Raises:
        MtzooError: A name is unknown, none is given, or the scale is out of range.
    """

    content_numbers = 17
    motion_numbers = 13
    content_names = MappingProxyType({"kind": KINDS, "mark": MARKS, "background": BACKGROUNDS})
    motion_names = MappingProxyType({"family": FAMILIES})

    def __init__(
        self,
        *,
        kinds: Sequence[str] = KINDS,
        families: Sequence[str] = FAMILIES,
        backgrounds: Sequence[str] = BACKGROUNDS,
        scale: float = 1.0,
        palette: Literal["soft", "vivid"] = "soft",
    ) -> None:
        self.kinds = subset(kinds, KINDS, "kind of shape")
        self.families = subset(families, FAMILIES, "family of motions")
        self.backgrounds = subset(backgrounds, BACKGROUNDS, "background")
        if not 0.5 <= scale <= 1.5:
            raise MtzooError(f"world shapes: scale {scale} is not supported; use 0.5 to 1.5")
        self.scale = scale
        if palette not in ("soft", "vivid"):
            raise MtzooError(
                f"world shapes: palette {palette!r} is not supported; use soft or vivid"
            )
        self.palette = palette

    def content(self, numbers: Tensor) -> ShapesContent:
        """Map uniform ``(N, 17)`` to contents: shapes on a ground of another brightness or hue."""
        u = numbers.unbind(1)
        fill, mark_colour, ground = self._vivid(u) if self.palette == "vivid" else self._soft(u)
        turn = u[11].double() * (2 * math.pi)
        return ShapesContent(
            kind=self.kinds[choice(u[12], len(self.kinds))],
            radius=between(u[13], 0.46 * self.scale, 0.6 * self.scale),
            fill=fill,
            mark=choice(u[14], len(MARKS)),
            mark_colour=mark_colour,
            background=self.backgrounds[choice(u[15], len(self.backgrounds))],
            ground=ground,
            direction=steady(torch.stack([turn.cos(), turn.sin()], dim=1)),
            waves=between(u[16], 0.5, 1.2),
        )

    @staticmethod
    def _soft(u: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Colours of shape, mark and ground: bright on dark, or dark on pale."""
        dark = u[0] < 0.5  # a dark ground with a bright shape, or the other way round
        hue = u[1]
        fill_hue = hue + between(u[2], 0.25, 0.75)
        fill = hsv(
            fill_hue,
            between(u[3], 0.55, 0.95),
            torch.where(dark, between(u[4], 0.9, 1.0), between(u[4], 0.4, 0.75)),
        )
        mark_colour = hsv(
            fill_hue + between(u[5], 0.35, 0.65),
            torch.where(dark, between(u[6], 0.5, 0.9), between(u[6], 0.0, 0.3)),
            torch.where(dark, between(u[7], 0.15, 0.35), between(u[7], 0.9, 1.0)),
        )
        saturation = torch.where(dark, between(u[8], 0.3, 0.7), between(u[8], 0.1, 0.4))
        value = torch.where(dark, between(u[9], 0.12, 0.32), between(u[9], 0.85, 1.0))
        other = torch.where(dark, value + 0.22, value - 0.2)
        ground = torch.stack(
            [hsv(hue, saturation, value), hsv(hue + between(u[10], -0.1, 0.1), saturation, other)],
            dim=1,
        )
        return fill, mark_colour, ground

    @staticmethod
    def _vivid(u: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Colours of shape, mark and ground: saturated, the shape about opposite in hue."""
        hue = u[1]
        fill = hsv(
            hue + between(u[2], 0.35, 0.65), between(u[3], 0.8, 1.0), between(u[4], 0.75, 1.0)
        )
        value = torch.where(u[0] < 0.5, 0.05, 0.95)
        mark_colour = hsv(u[5], between(u[6], 0.0, 0.2), value)
        saturation, value = between(u[8], 0.75, 1.0), between(u[9], 0.6, 0.85)
        ground = torch.stack(
            [
                hsv(hue, saturation, value),
                hsv(hue + between(u[10], -0.06, 0.06), saturation, value + 0.15),
            ],
            dim=1,
        )
        return fill, mark_colour, ground

    def motion(self, numbers: Tensor) -> ShapesMotion:
        """Map uniform ``(N, 13)`` to motions; every family uses the numbers in its own way."""
        u = numbers.unbind(1)
        family = self.families[choice(u[0], len(self.families))]
        circle, sway, hop, zoom, spin, bounce = (family == i for i in range(len(FAMILIES)))
        zero = torch.zeros_like(u[0])
        sign = torch.where(u[1] < 0.5, -1.0, 1.0)
        rate = between(u[2], 1 / 18, 1 / 8)
        heading = u[3].double() * (2 * math.pi)
        along = steady(torch.stack([heading.cos(), heading.sin()], dim=1))
        far = between(u[4], 0.32, 0.5)
        home = torch.stack([between(u[5], -0.15, 0.15), between(u[6], -0.15, 0.15)], dim=1)
        # Hops start low, so that their height does not carry them out of the frame.
        home[:, 1] = torch.where(hop, home[:, 1] - 0.35, home[:, 1])

        reach = torch.where(sway[:, None], along * far[:, None], torch.stack([far, far], dim=1))
        near = between(u[4], 0.0, 0.1)
        still = (zoom | spin)[:, None]
        reach = torch.where(still, torch.stack([near, near], dim=1), reach)
        reach[:, 1] = torch.where(hop, between(u[7], 0.6, 0.95), reach[:, 1])
        reach[:, 0] = torch.where(hop, between(u[4], 0.2, 0.45), reach[:, 0])

        second = torch.where(bounce, between(u[7], 1 / 18, 1 / 8), rate)
        # |sin(pi x)| has one hop a turn; its drift sideways is half as fast.
        rates = torch.stack([torch.where(hop, rate * 0.5, rate), second], dim=1)
        phase = u[8]
        # A quarter turn apart, x and y make a circle; together, a line.
        lag = torch.where(circle | still[:, 0], sign * 0.25, zero)
        lag = torch.where(hop | bounce, u[9], lag)
        phases = torch.stack([phase, phase + lag], dim=1)

        lean = between(u[10], -0.12, 0.12)
        return ShapesMotion(
            family=family,
            home=home,
            reach=reach,
            rate=rates,
            phase=phases,
            angle=torch.where(spin, between(u[10], 0.0, 1.0), lean),
            spin=torch.where(
                spin,
                sign * between(u[7], 1 / 18, 1 / 9),
                torch.where(bounce | circle, sign * between(u[9], 0.0, 1 / 24), zero),
            ),
            tilt=torch.where(sway | hop, between(u[11], 0.03, 0.12), zero),
            tilt_rate=rates[:, 0],
            tilt_phase=phases[:, 0],
            zoom=torch.where(zoom, between(u[11], 0.35, 0.5), between(u[11], 0.0, 0.12)),
            zoom_rate=torch.where(zoom, rate, between(u[12], 1 / 18, 1 / 8)),
            zoom_phase=torch.where(zoom, u[8], u[12]),
        )

    def track(self, motion: ShapesMotion, at: Tensor) -> Track:
        """Poses at the times ``at`` ``(T,)`` float64."""
        m = ShapesMotion(*(field.double() for field in motion))
        x = self._wave(m.rate[:, 0, None] * at + m.phase[:, 0, None], motion.family, hop=False)
        y = self._wave(m.rate[:, 1, None] * at + m.phase[:, 1, None], motion.family, hop=True)
        tilt = sine(m.tilt_rate[:, None] * at + m.tilt_phase[:, None])
        angle = m.angle[:, None] + m.spin[:, None] * at + m.tilt[:, None] * tilt
        zoom = sine(m.zoom_rate[:, None] * at + m.zoom_phase[:, None])
        return Track(
            x=steady(m.home[:, :1] + m.reach[:, :1] * x),
            y=steady(m.home[:, 1:] + m.reach[:, 1:] * y),
            cosine=steady(sine(angle + 0.25)),
            sine=steady(sine(angle)),
            size=steady(1.0 + m.zoom[:, None] * zoom),
        )

    @staticmethod
    def _wave(turns: Tensor, family: Tensor, *, hop: bool) -> Tensor:
        wave = sine(turns)
        zigzag = ((turns + 0.25) - (turns + 0.25).floor() - 0.5).abs() * -4.0 + 1.0
        wave = torch.where((family == FAMILIES.index("bounce"))[:, None], zigzag, wave)
        if hop:
            height = sine(turns * 0.5).abs()
            wave = torch.where((family == FAMILIES.index("hop"))[:, None], height, wave)
        return wave

    def canvas(
        self, content: ShapesContent, motion: ShapesMotion, at: Tensor, resolution: int
    ) -> Tensor:
        """Draw ``(n, T, 3, H, W)``; see [`World`][mtzoo.data.worlds.base.World]."""
        track = self.track(motion, at)
        axis = pixel_axis(resolution)
        radius = (content.radius * _KIND_SIZE[content.kind])[:, None] * track.size
        # The shape's own axes: u to its right, v up. Both are sums of a row and a column.
        right, up = track.cosine / radius, track.sine / radius
        column = axis[None, None, :] - track.x[..., None]
        row = axis.flip(0)[None, None, :] - track.y[..., None]
        u = (right[..., None] * column)[:, :, None, :] + (up[..., None] * row)[:, :, :, None]
        v = (right[..., None] * row)[:, :, :, None] - (up[..., None] * column)[:, :, None, :]
        pixels = (radius * (resolution / 2))[:, :, None, None]

        distance = torch.empty_like(u)
        for kind in content.kind.unique().tolist():
            of_kind = content.kind == kind
            distance[of_kind] = _DISTANCES[kind](u[of_kind], v[of_kind])
        mark = _MARK[content.mark].view(-1, 3, 1, 1, 1).unbind(1)
        mark_distance = ((u * mark[0]).square_().add_((v - mark[1]).square_())).sqrt_() - mark[2]
        inner = distance + _BORDER
        mark_distance = torch.maximum(mark_distance, inner)

        canvas = backdrop(
            content.background, content.ground, content.direction, content.waves, axis, len(at)
        )
        paint(canvas, coverage(distance, pixels), content.fill * (255 * 0.45))
        paint(canvas, coverage(inner, pixels), content.fill * 255)
        return paint(canvas, coverage(mark_distance, pixels), content.mark_colour * 255)


def _length(x: Tensor, y: Tensor) -> Tensor:
    return (x * x).add_(y * y).sqrt_()


# Signed distances to shapes of radius about 1, negative inside. Near the border they are true
# distances, which is all that antialiasing asks of them.


def _disc(u: Tensor, v: Tensor) -> Tensor:
    return _length(u, v).sub_(1.0)


def _square(u: Tensor, v: Tensor) -> Tensor:
    x, y = u.abs().sub_(0.75), v.abs().sub_(0.75)
    inside = torch.maximum(x, y).clamp_(max=0.0)
    return _length(x.clamp_(min=0.0), y.clamp_(min=0.0)).add_(inside).sub_(0.15)


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    side = u.abs().mul_(math.sqrt(3) / 2).add_(v * 0.5)
    return torch.maximum(side, -v).sub_(0.6)


def _hexagon(u: Tensor, v: Tensor) -> Tensor:
    x, y = u.abs(), v.abs()
    return torch.maximum(x * (math.sqrt(3) / 2) + y * 0.5, y).sub_(0.9)


def _star(u: Tensor, v: Tensor) -> Tensor:
    # Five half-planes; the points within at least four of them make a pentagram.
    first = second = None
    for i in range(5):
        turn = math.pi * (2 * i / 5 + 1.5)
        side = u * math.cos(turn) + v * math.sin(turn)
        if first is None or second is None:
            first, second = side, torch.full_like(side, -9.0)
            continue
        second = torch.maximum(second, torch.minimum(first, side))
        first = torch.maximum(first, side)
    assert second is not None
    return second.sub_(0.42)


def _cross(u: Tensor, v: Tensor) -> Tensor:
    x, y = u.abs(), v.abs()
    long, short = torch.maximum(x, y), torch.minimum(x, y)
    return torch.maximum(long.sub_(0.92), short.sub_(0.36))


def _heart(u: Tensor, v: Tensor) -> Tensor:
    # A square on its tip, with half a disc on each of the upper sides.
    x, y = u.abs(), v + 0.2
    half = 0.58
    diamond = (x + y.abs()).mul_(math.sqrt(0.5)).sub_(half)
    centre = half * math.sqrt(0.5)
    lobe = _length(x - centre, y - centre).sub_(half)
    return torch.minimum(diamond, lobe)


def _clover(u: Tensor, v: Tensor) -> Tensor:
    x, y = u.abs(), v.abs()
    long, short = torch.maximum(x, y), torch.minimum(x, y)
    return torch.minimum(_length(long - 0.52, short), (x + y).mul_(0.7).sub_(0.1)).sub_(0.46)


_DISTANCES = (_disc, _square, _triangle, _hexagon, _star, _cross, _heart, _clover)
