"""The world of faces: cartoon heads that smile, talk, blink, raise their brows, nod and turn.

What the face data sets of the field are about, with all factors known: who somebody is (shape of
the head, colours, hair, features) and what the face does (a smile with onset, apex and offset, as
in UvA-NEMO; speech; surprise; gestures of the head).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from mtzoo.data.worlds.base import (
    BACKGROUNDS,
    Window,
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
)

FAMILIES = ("smile", "laugh", "talk", "nod", "shake", "sway", "surprise")
HAIR = ("bald", "short", "parted", "fringe", "bob", "long", "curly", "bun")
BEARDS = ("none", "moustache", "beard")
GLASSES = ("none", "round", "square")

_SKIN = torch.tensor(
    [
        [1.0, 0.87, 0.77],
        [0.98, 0.80, 0.66],
        [0.90, 0.69, 0.51],
        [0.76, 0.54, 0.37],
        [0.57, 0.37, 0.25],
        [0.40, 0.26, 0.18],
    ]
)
_HAIR_COLOUR = torch.tensor(
    [
        [0.11, 0.09, 0.10],
        [0.28, 0.17, 0.10],
        [0.47, 0.27, 0.13],
        [0.93, 0.76, 0.38],
        [0.82, 0.36, 0.12],
        [0.80, 0.80, 0.84],
        [0.20, 0.42, 0.80],
        [0.92, 0.40, 0.62],
    ]
)
# By style: hairline (height at the middle, slant, sag towards the sides) in units of the head's
# half-height; hair behind the head (centre, half-width and half-height relative to the head);
# radius of a bun. A hairline at 9 and a half-width of 0 show nothing.
_HAIRLINE = torch.tensor(
    [
        [9.0, 0.0, 0.0],
        [0.62, 0.0, -0.25],
        [0.66, 0.26, -0.2],
        [0.38, 0.0, 0.0],
        [0.42, 0.0, -0.10],
        [0.66, -0.16, -0.5],
        [0.60, 0.0, -0.25],
        [0.66, 0.0, -0.35],
    ]
)
_HAIR_BACK = torch.tensor(
    [
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0],
        [0.0, 1.28, 1.02],
        [-0.35, 1.3, 1.45],
        [0.28, 1.5, 1.05],
        [0.0, 0.0, 0.0],
    ]
)
_BUN = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.26])

# Half-widths and half-heights of what mouth and eyes can reach, whatever is drawn.
_MOUTH_WINDOW = (0.54, 0.5)
_EYES_WINDOW = (0.56, 0.48)

# How strongly each family of motion does what, from and to: smile, opening of the mouth with the
# smile, speech, brows, turn, nod, tilt, approach. Others move a little too, nobody sits still.
_LOW = torch.tensor(
    [
        [0.8, 0.0, 0.0, 0.0, 0.1, 0.1, 0.2, 0.0],
        [0.8, 0.7, 0.0, 0.2, 0.1, 0.5, 0.2, 0.0],
        [0.0, 0.0, 0.6, 0.2, 0.2, 0.1, 0.2, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.8, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.8, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.2, 0.0, 0.7, 0.0],
        [-0.2, 0.8, 0.0, 0.8, 0.0, 0.1, 0.1, 0.5],
    ]
)
_HIGH = torch.tensor(
    [
        [1.0, 0.45, 0.0, 0.5, 0.5, 0.5, 0.6, 0.6],
        [1.0, 1.0, 0.0, 0.6, 0.4, 1.0, 0.7, 0.6],
        [0.5, 0.0, 1.0, 0.8, 0.7, 0.5, 0.7, 0.5],
        [0.6, 0.2, 0.0, 0.5, 0.2, 1.0, 0.3, 0.3],
        [0.6, 0.2, 0.0, 0.5, 1.0, 0.2, 0.4, 0.3],
        [0.7, 0.2, 0.0, 0.3, 0.5, 0.3, 1.0, 0.4],
        [0.0, 1.0, 0.0, 1.0, 0.3, 0.4, 0.4, 1.0],
    ]
)


class FacesContent(NamedTuple):
    """Who is seen, for N items; lengths in half-sides of the frame, colours RGB in [0, 1].

    Attributes:
        width: ``(N,)`` half-width of the head.
        height: ``(N,)`` its half-height.
        jaw: ``(N,)`` how much narrower the head gets from top to chin.
        square: ``(N,)`` 0 for an oval head, 1 for a rectangle.
        skin: ``(N, 3)``.
        hair: ``(N,)`` int64, index into ``HAIR``.
        hair_colour: ``(N, 3)``, also of brows and beard.
        beard: ``(N,)`` int64, index into ``BEARDS``.
        eye_gap: ``(N,)`` from the middle to an eye.
        eye_height: ``(N,)`` above the middle of the head.
        eye_size: ``(N, 2)`` half-width and half-height of an open eye.
        iris: ``(N, 3)``.
        brow: ``(N, 3)`` half-length, half-thickness, slant.
        nose: ``(N, 2)`` half-width and half-height.
        mouth: ``(N, 3)`` height (negative), half-width, thickness of the lips.
        lips: ``(N, 3)`` colour.
        glasses: ``(N,)`` int64, index into ``GLASSES``.
        shirt: ``(N, 3)`` colour.
        background: ``(N,)`` int64, index into ``BACKGROUNDS``.
        ground: ``(N, 2, 3)`` the background's two colours.
        direction: ``(N, 2)`` unit vector along which the background changes.
        waves: ``(N,)`` periods of striped and checked backgrounds over half a frame.
    """

    width: Tensor
    height: Tensor
    jaw: Tensor
    square: Tensor
    skin: Tensor
    hair: Tensor
    hair_colour: Tensor
    beard: Tensor
    eye_gap: Tensor
    eye_height: Tensor
    eye_size: Tensor
    iris: Tensor
    brow: Tensor
    nose: Tensor
    mouth: Tensor
    lips: Tensor
    glasses: Tensor
    shirt: Tensor
    background: Tensor
    ground: Tensor
    direction: Tensor
    waves: Tensor


class FacesMotion(NamedTuple):
    """What the face does, for N items; rates in cycles per unit of time, phases in cycles.

    Attributes:
        family: ``(N,)`` int64, index into ``FAMILIES``; what the strengths were drawn from.
        mood: ``(N,)`` curve of the mouth at rest, from -0.35 (down) to 0.25.
        strength: ``(N, 8)`` how much of each: smile, opening, speech, brows, turn, nod, tilt,
            approach.
        apex: ``(N,)`` share of its cycle for which a smile stays at its height.
        rate: ``(N, 5)`` of expression (smile, opening, brows, approach), speech, turn, nod, tilt.
        phase: ``(N, 5)`` likewise.
        blink: ``(N, 2)`` rate and phase of blinks; the lids take about 3.6 units of time.
        home: ``(N, 2)`` where the head is at rest.
    """

    family: Tensor
    mood: Tensor
    strength: Tensor
    apex: Tensor
    rate: Tensor
    phase: Tensor
    blink: Tensor
    home: Tensor


class Pose(NamedTuple):
    """What a face shows in every frame, ``(N, T)`` each.

    Attributes:
        x: Centre of the head.
        y: Centre of the head, up.
        cosine: Of the head's tilt.
        sine: Of the head's tilt.
        size: Of the head, 1 at rest.
        turn: -1 (to the left of the picture) to 1.
        nod: -1 (down) to 1.
        smile: -0.55 to 1.25, mood included.
        opening: Of the mouth, 0 to 1.
        brows: 0 to 1.
        lids: 0 (open) to 1 (shut).
    """

    x: Tensor
    y: Tensor
    cosine: Tensor
    sine: Tensor
    size: Tensor
    turn: Tensor
    nod: Tensor
    smile: Tensor
    opening: Tensor
    brows: Tensor
    lids: Tensor


class Faces(World[FacesContent, FacesMotion]):
    """Renders one head and shoulders a video; see `FacesContent` and `FacesMotion`."""

    content_numbers = 39
    motion_numbers = 25
    # Who somebody is; the soft grounds behind the head are no part of that.
    content_names = MappingProxyType({"hair": HAIR, "beard": BEARDS, "glasses": GLASSES})
    motion_names = MappingProxyType({"family": FAMILIES})

    def content(self, numbers: Tensor) -> FacesContent:
        """Map uniform ``(N, 39)`` to people."""
        u = iter(numbers.unbind(1))

        def draw(low: float, high: float) -> Tensor:
            return between(next(u), low, high)

        tone = draw(0.0, len(_SKIN) - 1.0)
        lower = tone.floor().clamp(0, len(_SKIN) - 2).to(torch.int64)
        part = (tone - lower)[:, None]
        skin = _SKIN[lower] + (_SKIN[lower + 1] - _SKIN[lower]) * part
        hair_colour = _HAIR_COLOUR[choice(next(u), len(_HAIR_COLOUR))] * draw(0.85, 1.1)[:, None]
        beard = next(u)  # half of them have none
        glasses = next(u)  # half of them have none
        red = torch.stack([draw(0.70, 0.90), draw(0.15, 0.35), draw(0.25, 0.42)], dim=1)
        # No orange grounds: skin would drown in them.
        hue, dark = draw(0.25, 0.95), next(u) < 0.35
        saturation, value = draw(0.25, 0.6), draw(0.0, 1.0)
        first = hsv(hue, saturation, torch.where(dark, value * 0.2 + 0.3, value * 0.15 + 0.82))
        second = hsv(
            hue + draw(-0.15, 0.15),
            saturation * 0.8,
            torch.where(dark, value * 0.2 + 0.5, value * 0.15 + 0.62),
        )
        turn = next(u).double()
        return FacesContent(
            width=draw(0.42, 0.54),
            height=draw(0.52, 0.64),
            jaw=draw(0.0, 0.22),
            square=draw(0.0, 0.7),
            skin=skin,
            hair=choice(next(u), len(HAIR)),
            hair_colour=hair_colour.clamp(0.0, 1.0),
            beard=choice((beard * 2.0 - 1.0).clamp(min=0.0) * (2 / 3) + 1 / 3, 3) * (beard >= 0.5),
            eye_gap=draw(0.17, 0.23),
            eye_height=draw(0.02, 0.14),
            eye_size=torch.stack([draw(0.085, 0.125), draw(0.075, 0.125)], dim=1),
            iris=hsv(draw(0.05, 0.65), draw(0.45, 0.9), draw(0.3, 0.75)),
            brow=torch.stack([draw(0.09, 0.14), draw(0.016, 0.036), draw(-0.35, 0.25)], dim=1),
            nose=torch.stack([draw(0.04, 0.085), draw(0.05, 0.12)], dim=1),
            mouth=torch.stack([draw(-0.36, -0.28), draw(0.15, 0.22), draw(0.022, 0.042)], dim=1),
            lips=(skin + red) * 0.5,
            glasses=(choice(glasses, 4) - 1).clamp(min=0),
            shirt=hsv(hue + draw(0.3, 0.7), draw(0.5, 0.9), draw(0.35, 0.9)),
            background=choice(next(u), len(BACKGROUNDS)),
            ground=torch.stack([first, second], dim=1),
            direction=steady(torch.stack([sine(turn + 0.25), sine(turn)], dim=1)),
            waves=draw(0.5, 1.2),
        )

    def motion(self, numbers: Tensor) -> FacesMotion:
        """Map uniform ``(N, 25)`` to motions."""
        family = choice(numbers[:, 0], len(FAMILIES))
        low, high = _LOW[family], _HIGH[family]
        rate = numbers[:, 9:14]
        slow, fast = torch.tensor([[1 / 20], [1 / 10]]).expand(2, 5).clone()
        slow[1], fast[1] = 1 / 6, 1 / 3.5  # speech
        return FacesMotion(
            family=family,
            strength=low + numbers[:, 1:9] * (high - low),
            rate=slow + rate * (fast - slow),
            phase=numbers[:, 14:19],
            mood=between(numbers[:, 19], -0.35, 0.25),
            apex=between(numbers[:, 20], 0.2, 0.4),
            blink=torch.stack([between(numbers[:, 21], 1 / 18, 1 / 9), numbers[:, 22]], dim=1),
            home=torch.stack(
                [between(numbers[:, 23], -0.25, 0.25), between(numbers[:, 24], -0.16, 0.12)], dim=1
            ),
        )

    def pose(self, motion: FacesMotion, at: Tensor) -> Pose:
        """What the face shows at the times ``at`` ``(T,)`` float64."""
        m = FacesMotion(*(field.double() for field in motion))
        cycles = m.rate[..., None] * at + m.phase[..., None]  # (N, 5, T)
        expression, speech, turn, nod, tilt = cycles.unbind(1)
        strength = m.strength[..., None].unbind(1)

        # Onset over a fifth of the cycle, apex, offset over a quarter, rest.
        part = expression - expression.floor()
        fade = (part - 0.2 - m.apex[:, None]) / 0.25
        shown = _ease(part / 0.2) * (1.0 - _ease(fade))
        wait = m.blink[:, :1] * at + m.blink[:, 1:]
        wait = (wait - wait.floor() - 0.5).abs() / m.blink[:, :1]

        turned, nodded = strength[4] * sine(turn), strength[5] * sine(nod)
        angle = strength[6] * sine(tilt) * 0.07  # in turns: up to 25 degrees
        # The head tilts about the neck, so its centre swings.
        lever = 0.75
        return Pose(
            x=steady(m.home[:, :1] - lever * sine(angle) + 0.22 * turned),
            y=steady(m.home[:, 1:] - lever * (1.0 - sine(angle + 0.25)) + 0.16 * nodded),
            cosine=steady(sine(angle + 0.25)),
            sine=steady(sine(angle)),
            size=steady(1.0 + 0.18 * strength[7] * shown),
            turn=steady(turned),
            nod=steady(nodded),
            smile=steady(m.mood[:, None] + strength[0] * shown),
            opening=steady(strength[1] * shown + strength[2] * (0.5 - 0.5 * sine(speech + 0.25))),
            brows=steady(strength[3] * shown),
            lids=steady((1.8 - wait).clamp(0.0, 1.0)),
        )

    def canvas(
        self, content: FacesContent, motion: FacesMotion, at: Tensor, resolution: int
    ) -> Tensor:
        """Draw ``(n, T, 3, H, W)``; see [`World`][mtzoo.data.worlds.base.World]."""
        flat = self.pose(motion, at)
        pose = Pose(*(field[:, :, None, None] for field in flat))
        axis = pixel_axis(resolution)
        canvas = backdrop(
            content.background, content.ground, content.direction, content.waves, axis, len(at)
        )
        x, y = axis[None, None, None, :], axis.flip(0)[None, None, :, None]
        self._head(canvas, content, pose, x, y, resolution)
        for half, (u, v), part in (
            (_MOUTH_WINDOW, _mouth_at(content, flat), self._mouth),
            (_EYES_WINDOW, _eyes_at(content, flat), self._eyes),
        ):
            centre = (
                flat.x + flat.size * (flat.cosine * u - flat.sine * v),
                flat.y + flat.size * (flat.sine * u + flat.cosine * v),
            )
            window = Window.of(canvas, axis, centre, half)
            part(window.canvas, content, pose, window.x, window.y, resolution)
            window.put_back(canvas)
        self._hair(canvas, content, pose, x, y, resolution)
        return canvas

    @staticmethod
    def _head(
        canvas: Tensor, c: FacesContent, pose: Pose, x: Tensor, y: Tensor, resolution: int
    ) -> None:
        """Paint all that lies behind the features."""
        u, v = _own_axes(pose, x, y)
        pixels = pose.size * (resolution / 2)
        width, height = _each(c.width), _each(c.height)
        # Parts at different depths shift by different amounts: the cheapest kind of perspective.
        back_u, back_v = u + pose.turn * 0.06, v + pose.nod * 0.04
        behind = _HAIR_BACK[c.hair]
        if (behind[:, 1] > 0).any():
            cover = _oval(
                back_u,
                back_v - _each(behind[:, 0]) * height,
                _each(behind[:, 1]).clamp(min=0.01) * width,
                _each(behind[:, 2]).clamp(min=0.01) * height,
                pixels,
            )
            paint(canvas, cover.mul_(_each(behind[:, 1]) > 0), c.hair_colour * (255 * 0.8))
        bun = _BUN[c.hair]
        if (bun > 0).any():
            ball = _length(back_u, back_v - height * 1.18).sub_(_each(bun))
            cover = coverage(ball, pixels).mul_(_each(bun) > 0)
            paint(canvas, cover, c.hair_colour * (255 * 0.8))

        # Neck and shoulders need the lower part of the frame only.
        half = resolution // 2
        neck = torch.maximum(
            u[..., half:, :].abs().sub_(0.17), (v[..., half:, :] + 0.45).abs_() - 0.45
        )
        paint(canvas[..., half:, :], coverage(neck, pixels), c.skin * (255 * 0.78))
        y = y[..., half:, :]
        torso = _oval(x - pose.x * 0.5, y + 1.2, 0.72, 0.5, resolution / 2)
        paint(canvas[..., half:, :], torso, c.shirt * 255)

        ears = _oval(back_u.abs().sub_(width * 0.98), back_v + 0.02, 0.09, 0.13, pixels)
        paint(canvas, ears, c.skin * (255 * 0.88))
        head = _skull(c, u, v)
        paint(canvas, coverage(head.clone(), pixels), c.skin * 255)
        if (c.beard == 2).any():
            mouth_u, mouth_v = u - pose.turn * 0.13, v - pose.nod * 0.1 - _each(c.mouth[:, 0])
            low = mouth_v.sub_(0.1).sub_(mouth_u.square_().mul_(1.1))
            cover = coverage(torch.maximum(head.sub_(0.02), low), pixels)
            paint(canvas, cover.mul_(_each(c.beard) == 2), c.hair_colour * (255 * 0.92))

    @staticmethod
    def _mouth(
        canvas: Tensor, c: FacesContent, pose: Pose, x: Tensor, y: Tensor, resolution: int
    ) -> None:
        """Paint cheeks, nose, mouth and moustache."""
        u, v = _own_axes(pose, x, y)
        pixels = pose.size * (resolution / 2)
        smile, opening = pose.smile, pose.opening
        face_u, face_v = u - pose.turn * 0.13, v - pose.nod * 0.1
        mouth_v = face_v - _each(c.mouth[:, 0])
        glow = _length(face_u.abs().sub_(0.25), mouth_v - 0.14).mul_(-7.0).add_(1.0).clamp_(min=0.0)
        glow.mul_((smile.clamp(min=0.0) * 0.5 + 0.3) * (_each(c.beard) < 2))
        paint(canvas, glow, c.skin * torch.tensor([255 * 1.0, 255 * 0.66, 255 * 0.64]))
        nose_u, nose_v = u - pose.turn * 0.19, v - pose.nod * 0.15 + 0.1
        nose = _oval(nose_u, nose_v, _each(c.nose[:, 0]), _each(c.nose[:, 1]), pixels)
        paint(canvas, nose, c.skin * torch.tensor([255 * 0.86, 255 * 0.74, 255 * 0.72]))

        wide = 1.0 + smile * 0.3 - opening * 0.4 * (1.0 - smile).clamp(min=0.0)
        wide = _each(c.mouth[:, 1]) * wide
        bend = (face_u * face_u).mul_(2.2).sub_(0.05).mul_(smile)
        bent = mouth_v.sub_(bend).add_(opening * 0.06)
        lip, gape = _each(c.mouth[:, 2]), opening * 0.15
        paint(canvas, _flat(face_u, bent, wide + lip * 0.5, gape + lip, pixels), c.lips * 255)
        shown = (gape * 40.0).clamp(max=1.0)
        hollow = _flat(face_u, bent, wide - lip * 0.3, gape + 0.001, pixels).mul_(shown)
        paint(canvas, hollow, torch.tensor([92.0, 15.0, 26.0]))
        tongue = _flat(face_u, bent + gape * 0.9, wide * 0.6, gape * 0.6 + 0.001, pixels)
        paint(canvas, tongue.mul_(hollow), torch.tensor([230.0, 107.0, 115.0]))
        teeth = coverage(gape * 0.35 - bent, pixels)
        paint(canvas, teeth.mul_(hollow), torch.tensor([255.0, 255.0, 250.0]))
        if (c.beard > 0).any():
            over = bent - (lip + gape + 0.055)
            cover = _oval(face_u.abs().sub_(0.09), over, 0.11, 0.042, pixels)
            paint(canvas, cover.mul_(_each(c.beard) > 0), c.hair_colour * (255 * 0.8))

    @staticmethod
    def _eyes(
        canvas: Tensor, c: FacesContent, pose: Pose, x: Tensor, y: Tensor, resolution: int
    ) -> None:
        """Paint eyes, brows and glasses."""
        u, v = _own_axes(pose, x, y)
        pixels = pose.size * (resolution / 2)
        face_u = u - pose.turn * 0.13
        eye_v = v - pose.nod * 0.1 - _each(c.eye_height)
        eye_u = face_u.abs().sub_(_each(c.eye_gap))
        wide, high = _each(c.eye_size[:, 0]), _each(c.eye_size[:, 1])
        squint = (1.0 - pose.smile.clamp(0.0, 1.0) * 0.3) * (1.0 + pose.brows * 0.3)
        lids = high * squint * (1.0 - pose.lids)
        # The rim is left as a line when the lids are shut.
        rim = _flat(eye_u, eye_v, wide + 0.018, lids + 0.018, pixels)
        paint(canvas, rim, c.skin * (255 * 0.3))
        seen = _flat(eye_u, eye_v, wide, lids + 0.001, pixels).mul_((lids * 50.0).clamp(max=1.0))
        paint(canvas, seen, torch.tensor([255.0, 255.0, 255.0]))
        look_u = (face_u - pose.turn * 0.035).abs_().sub_(_each(c.eye_gap))
        look = _length(look_u, eye_v - pose.nod * 0.025)
        iris = coverage(look - high * 0.8, pixels)
        paint(canvas, iris.mul_(seen), c.iris * 255)
        pupil = coverage(look.sub_(high * 0.42), pixels)
        paint(canvas, pupil.mul_(seen), torch.tensor([13.0, 13.0, 20.0]))

        brow_v = eye_v - (high + 0.075 + pose.brows * 0.1)
        brow_v.add_(eye_u * _each(c.brow[:, 2])).add_((eye_u * eye_u).mul_(2.0))
        brow_u = eye_u.abs().sub_(_each(c.brow[:, 0])).clamp_(min=0.0)
        brow = coverage(_length(brow_u, brow_v).sub_(_each(c.brow[:, 1])), pixels)
        paint(canvas, brow, c.hair_colour * (255 * 0.75))
        if (c.glasses > 0).any():
            round_rim = _length(eye_u, eye_v).sub_(0.165)
            square_rim = torch.maximum(eye_u.abs().sub_(0.165), eye_v.abs().sub_(0.13))
            frame = torch.where(_each(c.glasses) == 2, square_rim, round_rim).abs_()
            bridge = torch.maximum(eye_u + 0.155, (eye_v - 0.02).abs_())
            cover = coverage(torch.minimum(frame, bridge).sub_(0.018), pixels)
            paint(canvas, cover.mul_(_each(c.glasses) > 0), torch.tensor([30.0, 30.0, 34.0]))

    @staticmethod
    def _hair(
        canvas: Tensor, c: FacesContent, pose: Pose, x: Tensor, y: Tensor, resolution: int
    ) -> None:
        """Paint the hair on top of the head."""
        line = _HAIRLINE[c.hair]
        if not (line[:, 0] < 1).any():
            return
        u, v = _own_axes(pose, x, y)
        side = (u - pose.turn * 0.08) * (1.0 / _each(c.width))
        edge = side * _each(line[:, 1]) + (side * side).mul_(_each(line[:, 2]))
        edge.add_(_each(line[:, 0])).mul_(_each(c.height)).sub_(v).add_(pose.nod * 0.06)
        cap = torch.maximum(_skull(c, u, v).sub_(0.05), edge)
        paint(canvas, coverage(cap, pose.size * (resolution / 2)), c.hair_colour * 255)


def _each(field: Tensor) -> Tensor:
    return field[:, None, None, None]


def _own_axes(pose: Pose, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The head's own axes, u to the right and v up, at the pixels ``x``, ``y``."""
    right, up = pose.cosine / pose.size, pose.sine / pose.size
    column, row = x - pose.x, y - pose.y
    return right * column + up * row, right * row - up * column


def _mouth_at(content: FacesContent, pose: Pose) -> tuple[Tensor, Tensor]:
    """Middle of the mouth's window in the head's own axes, ``(N, T)`` each."""
    return pose.turn * 0.14, content.mouth[:, :1] * 0.8 + pose.nod * 0.11


def _eyes_at(content: FacesContent, pose: Pose) -> tuple[Tensor, Tensor]:
    """Middle of the eyes' window in the head's own axes, ``(N, T)`` each."""
    return pose.turn * 0.13, content.eye_height[:, None] + 0.05 + pose.nod * 0.1


def _skull(content: FacesContent, u: Tensor, v: Tensor) -> Tensor:
    """Distance to the head: a shape between circle and square (Fernandez-Guasti, 1992)."""
    width, height = _each(content.width), _each(content.height)
    along = v * (1.0 / height)
    across = (
        (along * _each(content.jaw)).add_(1.0).clamp_(min=0.3).mul_(width).reciprocal_().mul_(u)
    )
    across, along = across.square_(), along.square_()
    # Beyond 1 the product would bend the shape back: it has arms outside the square.
    corner = (across.clamp(max=1.0)).mul_(along.clamp(max=1.0)).mul_(_each(content.square))
    return across.add_(along).sub_(corner).sqrt_().sub_(1.0).mul_(torch.minimum(width, height))


def _ease(x: Tensor) -> Tensor:
    """Rise smoothly from 0 at x = 0 to 1 at x = 1."""
    x = x.clamp(0.0, 1.0)
    return x * x * (3.0 - x * 2.0)


def _length(x: Tensor, y: Tensor) -> Tensor:
    return (x * x + y * y).sqrt_()


def _oval(
    x: Tensor, y: Tensor, width: Tensor | float, height: Tensor | float, pixels: Tensor | float
) -> Tensor:
    """Coverage of an ellipse that is nearly round; the ends of flat ones would be blurred."""
    reach = _length(x * (1.0 / width), y * (1.0 / height))
    return coverage(reach.sub_(1.0), (width + height) * 0.5 * pixels)


def _flat(x: Tensor, y: Tensor, width: Tensor, height: Tensor, pixels: Tensor) -> Tensor:
    """Coverage of any ellipse, from a distance that is true to first order at its border."""
    a, b = 1.0 / width, 1.0 / height
    across, along = x * a, y * b
    slope = _length(across * a, along * b).clamp_(min=1e-3)
    distance = (across.square_() + along.square_()).sub_(1.0).div_(slope).mul_(0.5)
    # Beside the tips of a very flat one, the first order sees only how near its axis is.
    return coverage(torch.maximum(distance, x.abs().sub_(width)), pixels)
