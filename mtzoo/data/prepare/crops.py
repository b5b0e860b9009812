"""Where to cut the square out of a video's frames: the centre, a face, whoever moves, nothing.

A planner is shown the frames of one video in order and then says where to cut. All squares of a
video have one size, so that what is seen does not flicker; the face's square does not even move.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mtzoo.errors import MtzooError
from mtzoo.media import Box, Frame

Kind = Literal["centre", "face", "person", "none"]

MARGINS: dict[str, float] = {"face": 1.6, "person": 1.1}
"""Side of the square over that of the smallest that holds what it is to show, by kind."""

# Faces are looked for in every eighth frame, reduced to this many pixels on the longer side: at
# full size the search would cost more than decoding. A head moves little in a third of a second.
_FACE_STEP, _FACE_PIXELS = 8, 320
# Least side of a face over the longer side of the picture.
_LEAST_FACE = 0.06

# Motion is looked for in pictures of this size, in at most so many of them.
_MOTION_PIXELS, _MOTION_FRAMES = 160, 2048
_BACKGROUND_FRAMES = 64

_Array = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float64]


class Planner(Protocol):
    """Says where to cut, once it has seen the frames.

    Attributes:
        needs_look: Whether the frames must be shown before `plan`.
        about: What was measured, as JSON values.
    """

    needs_look: bool
    about: dict[str, object]

    def look(self, index: int, frame: Frame) -> None:
        """See one frame; called for all, in order."""
        ...

    def plan(self, width: int, height: int, count: int) -> list[Box | None]:
        """Say where to cut.

        Args:
            width: Of the frames as displayed, in pixels.
            height: Likewise.
            count: How many frames there are.

        Returns:
            One box a frame; ``None`` is the whole frame.

        Raises:
            MtzooError: What is to be shown was not found.
        """
        ...


def planner(crop: Kind, margin: float | None = None) -> Planner:
    """Make a planner.

    Args:
        crop: ``centre``: the central square. ``none``: the whole frame, squeezed. ``face``: one
            square for the whole video that holds the face. ``person``: a square that follows who
            moves before a still camera.
        margin: Side over that of the smallest square that holds the face as detected (brows to
            chin) or the moving person; ``None`` takes the usual one of `MARGINS`.

    Raises:
        MtzooError: The margin is out of range or without meaning, or faces are to be found and
            OpenCV is not there.
    """
    if margin is not None and crop not in MARGINS:
        raise MtzooError(f"margin has no meaning with crop {crop!r}; leave it out")
    margin = MARGINS.get(crop, 1.0) if margin is None else margin
    if not (math.isfinite(margin) and 1 <= margin <= 4):
        raise MtzooError(f"margin must lie between 1 and 4, not {margin}")
    if crop == "face":
        _cascade()
        return _Face(margin)
    return _Person(margin) if crop == "person" else _Fixed(crop == "centre")


@dataclass
class _Fixed:
    """The central square, or the whole frame."""

    centre: bool
    needs_look: bool = False
    about: dict[str, object] = field(default_factory=dict)

    def look(self, index: int, frame: Frame) -> None:
        """Nothing is learned from the frames."""

    def plan(self, width: int, height: int, count: int) -> list[Box | None]:
        side = min(width, height)
        box = Box((width - side) // 2, (height - side) // 2, side, side) if self.centre else None
        return [box] * count


class _Square(NamedTuple):
    """A face as it was detected, in shares of the picture's longer side."""

    left: float
    top: float
    side: float


@dataclass
class _Face:
    """One square for the face that is seen most and largest."""

    margin: float
    needs_look: bool = True
    about: dict[str, object] = field(default_factory=dict)
    looks: int = 0
    tracks: list[dict[int, _Square]] = field(default_factory=list)

    def look(self, index: int, frame: Frame) -> None:
        """Look for faces in some of the frames."""
        if index % _FACE_STEP == 0:
            for face in find_faces(frame.grey(_FACE_PIXELS)):
                self._follow(face)
            self.looks += 1

    def _follow(self, face: _Square) -> None:
        """Give a face to the track whose last one it overlaps most, or begin a track."""
        now, best, track = self.looks, 0.3, None
        for known in self.tracks:
            last = max(known)
            overlap = _overlap(known[last], face)
            if last != now and overlap > best:
                best, track = overlap, known
        if track is None:
            self.tracks.append(track := {})
        track[now] = face

    def plan(self, width: int, height: int, count: int) -> list[Box | None]:
        if not self.tracks:
            raise MtzooError(f"no face was found in {self.looks} frames looked at")
        # A face that is seen often and large; chance finds are neither.
        track = max(self.tracks, key=lambda t: sum(face.side for face in t.values()))
        seen = len(track) / self.looks
        if seen < 0.25:
            raise MtzooError(
                f"a face was found in {len(track)} of {self.looks} frames looked at only"
            )
        faces = np.array(list(track.values())) * max(width, height)
        # Percentiles: a single misplaced find must not widen the square.
        left, top = np.percentile(faces[:, :2], 5, axis=0)
        right, bottom = np.percentile(faces[:, :2] + faces[:, 2:], 95, axis=0)
        side = min(round(max(right - left, bottom - top) * self.margin), 4 * max(width, height))
        box = Box(
            _shift_inside((left + right - side) / 2, side, width),
            _shift_inside((top + bottom - side) / 2, side, height),
            side,
            side,
        )
        self.about = {
            "faces": round(seen, 2),
            "face_side": round(float(np.median(faces[:, 2]))),
            "face_tracks": len(self.tracks),
            "crop_side": side,
        }
        return [box] * count


def find_faces(grey: _Array) -> list[_Square]:
    """Find frontal faces by OpenCV's cascade, which comes inside its package.

    Args:
        grey: uint8 ``(h, w)``.

    Returns:
        Squares from the brows to the chin, in shares of the longer side.
    """
    longest = max(grey.shape)
    least = max(20, round(_LEAST_FACE * longest))
    found = _cascade().detectMultiScale(
        np.ascontiguousarray(grey), scaleFactor=1.1, minNeighbors=6, minSize=(least, least)
    )
    return [_Square(x / longest, y / longest, w / longest) for x, y, w, _ in found]


@functools.cache
def _cascade():
    way_out = "install it with `pip install 'mtzoo[faces]'`"
    try:
        import cv2
    except ImportError:
        raise MtzooError(f"finding faces needs OpenCV, which is not installed; {way_out}") from None
    folder = getattr(getattr(cv2, "data", None), "haarcascades", "")
    path = Path(folder) / "haarcascade_frontalface_alt2.xml"
    if not folder or not path.is_file() or not hasattr(cv2, "CascadeClassifier"):
        raise MtzooError(
            f"this OpenCV ({cv2.__version__}) comes without its face cascades, which versions "
            f"below 5 have; {way_out}"
        )
    cv2.setNumThreads(1)
    return cv2.CascadeClassifier(str(path))


def _overlap(a: _Square, b: _Square) -> float:
    """Intersection over union."""
    width = min(a.left + a.side, b.left + b.side) - max(a.left, b.left)
    height = min(a.top + a.side, b.top + b.side) - max(a.top, b.top)
    shared = max(0.0, width) * max(0.0, height)
    return shared / (a.side**2 + b.side**2 - shared)


def _shift_inside(start: float, side: int, whole: int) -> int:
    """Where a square begins: inside where it fits, else over both borders alike."""
    if side > whole:
        return (whole - side) // 2
    return int(min(max(round(start), 0), whole - side))


@dataclass
class _Person:
    """A square that follows what moves."""

    margin: float
    needs_look: bool = True
    about: dict[str, object] = field(default_factory=dict)
    step: int = 1
    greys: list[_Array] = field(default_factory=list)

    def look(self, index: int, frame: Frame) -> None:
        """Keep a small picture of every frame, or of every second, fourth, ... of a long video."""
        if index % self.step == 0:
            self.greys.append(frame.grey(_MOTION_PIXELS))
            if len(self.greys) > _MOTION_FRAMES:
                self.greys, self.step = self.greys[::2], 2 * self.step

    def plan(self, width: int, height: int, count: int) -> list[Box | None]:
        moving = find_motion(np.stack(self.greys))
        if not moving.any():
            raise MtzooError("nothing moves in it")
        crops = follow_motion(moving, margin=self.margin, smoothing=4.0 / self.step)
        scale = max(width, height) / max(moving.shape[1:])
        times = np.arange(count) / self.step
        known = np.arange(len(crops.centres))
        x, y = (scale * np.interp(times, known, crops.centres[:, i]) for i in (0, 1))
        side = scale * crops.side
        self.about = {"crop_side": round(side, 1)}
        return [
            Box(float(a - side / 2), float(b - side / 2), side, side)
            for a, b in zip(x, y, strict=True)
        ]


def find_motion(greys: _Array) -> _Array:
    """Find what moves before a still camera.

    Args:
        greys: uint8 ``(T, h, w)``.

    Returns:
        uint8 ``(T, h, w)``, 1 where the picture differs from the background (its median over
        time) in the largest piece of the frame that does, or one half its size.
    """
    from scipy import ndimage

    chosen = np.unique(np.linspace(0, len(greys) - 1, _BACKGROUND_FRAMES).round().astype(int))
    background = np.median(greys[chosen], axis=0).astype(np.int16)
    moving = np.zeros_like(greys)
    # Four times the noise, and never less than compression leaves behind.
    noise = np.median(np.abs(greys[chosen].astype(np.int16) - background)) * 1.4826
    threshold = max(14.0, 4 * float(noise))
    for target, grey in zip(moving, greys, strict=True):
        differs = np.abs(grey.astype(np.int16) - background) > threshold
        differs = ndimage.binary_closing(ndimage.binary_opening(differs), iterations=2)
        pieces = np.asarray(ndimage.label(differs)[0])  # type: ignore[index]
        if pieces.any():
            sizes = np.bincount(pieces.ravel())[1:]
            large = np.flatnonzero(sizes >= max(12, sizes.max() / 2)) + 1
            target[:] = np.isin(pieces, large)
    return moving


def follow_motion(moving: _Array, *, margin: float, smoothing: float) -> Crops:
    """Plan the squares for what `find_motion` found.

    Who stays in place is best seen by a square that stays, too: where all motion together fits
    a square half as large again as that of the single frames, it does.
    """
    follow = plan_crops(moving, margin=margin, smoothing=smoothing)
    together = np.broadcast_to(moving.mean(axis=0) > 0.02, moving.shape).astype(np.uint8)
    if together.any():
        stay = plan_crops(together, margin=margin, smoothing=0)
        if stay.side <= 1.5 * follow.side:
            return stay
    return follow


class Crops(NamedTuple):
    """Where the person is cut out of each frame.

    Attributes:
        centres: ``(T, 2)``, x and y in pixels, the picture's left upper corner being (0, 0).
        side: Side of the square in pixels, the same for all frames.
    """

    centres: _Floats
    side: float


def plan_crops(mask: _Array, *, margin: float, smoothing: float) -> Crops:
    """Find the square that follows the person.

    Args:
        mask: uint8 ``(T, H, W)``, 1 on the person. Frames without any are interpolated.
        margin: Side over that of the smallest square that holds the person in every frame.
        smoothing: Standard deviation in frames of the Gaussian over the centre.

    Raises:
        MtzooError: No frame shows the person.
    """
    columns, rows = np.asarray(mask.any(axis=1)), np.asarray(mask.any(axis=2))
    seen = np.flatnonzero(rows.any(axis=1))
    if not len(seen):
        raise MtzooError("its silhouettes are all empty")
    # Left, right, top and bottom edge of the bounding box, in pixel corners.
    edges = [
        columns[seen].argmax(1),
        mask.shape[2] - columns[seen, ::-1].argmax(1),
        rows[seen].argmax(1),
        mask.shape[1] - rows[seen, ::-1].argmax(1),
    ]
    left, right, top, bottom = (np.interp(np.arange(len(mask)), seen, edge) for edge in edges)
    x = smooth((left + right) / 2, smoothing)
    y = smooth((top + bottom) / 2, smoothing)
    reach = max(float(d.max()) for d in (x - left, right - x, y - top, bottom - y))
    return Crops(np.stack([x, y], axis=1), 2 * reach * margin)


def smooth(values: _Floats, deviation: float) -> _Floats:
    """Smooth by straight lines, each fitted under a Gaussian window.

    Away from the ends this is Gaussian smoothing; unlike that, it leaves straight motion as it is
    up to the first and last sample.

    Args:
        values: ``(T,)``.
        deviation: Standard deviation of the Gaussian in samples; below 0.1 nothing is smoothed.
    """
    if len(values) < 3 or deviation < 0.1:
        return values
    times = np.arange(len(values), dtype=np.float64)
    away = times[None, :] - times[:, None]
    weights = np.exp(-0.5 * (away / deviation) ** 2)
    s0, s1, s2 = (np.sum(weights * away**k, axis=1) for k in range(3))
    return (s2 * (weights @ values) - s1 * ((weights * away) @ values)) / (s0 * s2 - s1**2)
