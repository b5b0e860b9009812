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

# Faces are looked for after every so many seconds, at first more often so that short videos get
# some looks, reduced to this many pixels on the longer side: in all frames, or at full size, the
# search would cost more than decoding. A head moves little in that time.
_FACE_SECONDS, _FACE_SECONDS_FIRST, _FACE_PIXELS = 0.4, 0.16, 320
# Least side of a face over the longer side of the picture.
_LEAST_FACE = 0.06
# Sides of one face differ from look to look by less than this factor.
_ALIKE = 1.6
# A head reaches farther over the detected square than under it, by this share of its side.
_HAIR = 0.2

# Motion is looked for in pictures of this size, in at most so many of them. Once there are as many
# as the background takes, they are taken less often than so many times a second: the squares'
# centres are smoothed, by a Gaussian of such a deviation in seconds, and tell no more of faster
# motion.
_MOTION_PIXELS, _MOTION_FRAMES = 160, 2048
_BACKGROUND_FRAMES, _MOTION_RATE, _SMOOTHING = 64, 24.0, 0.16

LOOK_PIXELS = max(_FACE_PIXELS, _MOTION_PIXELS)
"""Longer side of frames that show a planner as much as larger ones do."""

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

    def look(self, index: int, frame: Frame, fps: float) -> None:
        """See one frame, of so many a second; called for all, in order."""
        ...

    def side(self, longest: int) -> float:
        """Say how small the square may come out, by what was seen so far.

        Args:
            longest: Longer side of the frames, in pixels.

        Returns:
            In pixels; 0 as long as there is nothing to go by.
        """
        ...

    def plan(self, width: int, height: int, count: int, reduced: int = 1) -> list[Box | None]:
        """Say where to cut.

        Args:
            width: Of the frames that are to be cut, as displayed, in pixels.
            height: Likewise.
            count: How many frames there are.
            reduced: The factor by which those frames are smaller than the video's. Boxes are in
                pixels of those; `about` tells in pixels of the video's.

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
        margin: Side of the square over that of the face as detected (brows to chin), or of the
            smallest square that holds the person; ``None`` takes the usual one of `MARGINS`. A
            head that moves about makes the square as much larger as it moves.

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
        _cascade_file()
        return _Face(margin)
    return _Person(margin) if crop == "person" else _Fixed(crop == "centre")


@dataclass
class _Fixed:
    """The central square, or the whole frame."""

    centre: bool
    needs_look: bool = False
    about: dict[str, object] = field(default_factory=dict)

    def look(self, index: int, frame: Frame, fps: float) -> None:
        """Nothing is learned from the frames."""

    def side(self, longest: int) -> float:
        return 0.0

    def plan(self, width: int, height: int, count: int, reduced: int = 1) -> list[Box | None]:
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

    def look(self, index: int, frame: Frame, fps: float) -> None:
        """Look for faces in some of the frames."""
        often = max(1, round(fps * _FACE_SECONDS_FIRST))
        begun = 8 * often
        seldom = max(2, round(fps * _FACE_SECONDS))
        if index % often == 0 if index <= begun else (index - begun) % seldom == 0:
            for face in find_faces(frame.grey(_FACE_PIXELS), self._least()):
                self._follow(face)
            self.looks += 1

    def _main(self) -> dict[int, _Square]:
        """The track of the face that is seen often and large; chance finds are neither."""
        return max(self.tracks, key=lambda track: sum(face.side for face in track.values()))

    def _least(self) -> float:
        """The smallest face worth finding: one as large as that in view, while one is.

        Small faces take most of the search's time.
        """
        if self.tracks:
            track = self._main()
            if len(track) >= 3 and max(track) == self.looks - 1:
                return max(_LEAST_FACE, track[self.looks - 1].side / _ALIKE)
        return _LEAST_FACE

    def _follow(self, face: _Square) -> None:
        """Give a face to the track whose last one is nearest and alike, or begin a track."""
        now, nearest, track = self.looks, 1.0, None
        for known in self.tracks:
            last = max(known)
            away = _away(known[last], face)
            if last != now and away < nearest:
                nearest, track = away, known
        if track is None:
            self.tracks.append(track := {})
        track[now] = face

    def side(self, longest: int) -> float:
        track = self._main() if self.tracks else {}
        if len(track) < 3:
            return 0.0
        return self.margin * longest * min(face.side for face in track.values())

    def plan(self, width: int, height: int, count: int, reduced: int = 1) -> list[Box | None]:
        if not self.tracks:
            raise MtzooError(f"no face was found in {self.looks} frames looked at")
        track = self._main()
        seen = len(track) / self.looks
        if seen < 0.25:
            raise MtzooError(
                f"a face was found in {len(track)} of {self.looks} frames looked at only"
            )
        faces = np.array(list(track.values())) * max(width, height)
        # Medians of three and percentiles: a find out of place must not widen the square.
        wide = np.pad(faces, ((1, 1), (0, 0)), mode="edge")
        left, top, sides = np.median([wide[:-2], wide[1:-1], wide[2:]], axis=0).T
        reach = sides * (self.margin - 1) / 2
        low = np.percentile([left - reach, top - reach - _HAIR / 2 * sides], 5, axis=1)
        high = np.percentile(
            [left + sides + reach, top + sides + reach - _HAIR / 2 * sides], 95, axis=1
        )
        # Even, as the colours of most videos have half the resolution.
        side = 2 * round(float(max(high - low)) / 2)
        x, y = (low + high - side) / 2
        box = Box(_shift_inside(x, side, width), _shift_inside(y, side, height), side, side)
        self.about = {
            "faces": round(seen, 2),
            "face_side": round(float(np.median(faces[:, 2])) * reduced),
            "face_tracks": len(self.tracks),
            "crop_side": side * reduced,
        }
        return [box] * count


def find_faces(grey: _Array, least: float = _LEAST_FACE) -> list[_Square]:
    """Find frontal faces by OpenCV's cascade, which comes inside its package.

    Args:
        grey: uint8 ``(h, w)``.
        least: Side of the smallest face to be found, as a share of the longer side.

    Returns:
        Squares from the brows to the chin, in shares of the longer side.
    """
    longest = max(grey.shape)
    pixels = max(20, round(least * longest))
    found = _cascade().detectMultiScale(
        np.ascontiguousarray(grey), scaleFactor=1.1, minNeighbors=6, minSize=(pixels, pixels)
    )
    return [_Square(x / longest, y / longest, w / longest) for x, y, w, _ in found]


@functools.cache
def _cascade():
    import cv2

    # Worker processes share the cores already.
    cv2.setNumThreads(1)
    return cv2.CascadeClassifier(_cascade_file())


def _cascade_file() -> str:
    """Where OpenCV keeps the cascade.

    Raises:
        MtzooError: It is not installed, or comes without.
    """
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
    return str(path)


def _away(a: _Square, b: _Square) -> float:
    """Distance of the centres over the larger side; infinite where the sizes are unlike."""
    large = max(a.side, b.side)
    if large > _ALIKE * min(a.side, b.side):
        return math.inf
    x = a.left - b.left + (a.side - b.side) / 2
    y = a.top - b.top + (a.side - b.side) / 2
    return math.hypot(x, y) / large


def _shift_inside(start: float, side: int, whole: int) -> int:
    """Where a square begins: inside, at an even pixel, where it fits; else over both borders."""
    if side > whole:
        return (whole - side) // 2
    return 2 * int(min(max(round(start / 2), 0), (whole - side) // 2))


@dataclass
class _Person:
    """A square that follows what moves."""

    margin: float
    needs_look: bool = True
    about: dict[str, object] = field(default_factory=dict)
    step: int = 1
    fps: float = 0.0
    greys: list[_Array] = field(default_factory=list)

    def look(self, index: int, frame: Frame, fps: float) -> None:
        """Keep a small picture of every frame, or of every second, fourth, ... of a long video."""
        self.fps = fps
        if index % self.step == 0:
            self.greys.append(frame.grey(_MOTION_PIXELS))
            often = fps / self.step >= _MOTION_RATE
            if len(self.greys) > (_BACKGROUND_FRAMES if often else _MOTION_FRAMES):
                self.greys, self.step = self.greys[::2], 2 * self.step

    def side(self, longest: int) -> float:
        # About, and asked for several times while frames come in: some pictures will do.
        some = math.ceil(len(self.greys) / _BACKGROUND_FRAMES)
        crops, _ = self._follow(some)
        return 0.0 if crops is None else crops.side * longest / max(self.greys[0].shape)

    def _follow(self, every: int = 1) -> tuple[Crops | None, _Array]:
        """The squares in every n-th small picture, if anything moves, and what moves."""
        greys = np.stack(self.greys[::every])
        moving = find_motion(greys)
        if not moving.any():
            return None, moving
        whole = find_whole(greys, moving)
        smoothing = _SMOOTHING * self.fps / (self.step * every)
        return follow_motion(moving, whole, margin=self.margin, smoothing=smoothing), moving

    def plan(self, width: int, height: int, count: int, reduced: int = 1) -> list[Box | None]:
        crops, moving = self._follow()
        if crops is None:
            raise MtzooError(
                "nothing moves before a still background in it; if the camera moves, take the "
                "centre crop"
            )
        scale = max(width, height) / max(moving.shape[1:])
        side = scale * crops.side
        centres = scale * crops.centres
        if stays := not np.ptp(centres, axis=0).any():
            # Whole pixels, which are cut out in less time; even ones as the colours of most videos
            # have half the resolution. A square that moves would jump from one to the next.
            side = 2 * math.ceil(side / 2)
        # Straight on after the last small picture, which need not be of the last frame.
        centres = np.vstack([centres, 2 * centres[-1] - centres[-2]])
        times, known = np.arange(count) / self.step, np.arange(len(centres))
        x, y = (np.interp(times, known, centres[:, i]) - side / 2 for i in (0, 1))
        if stays:
            x, y = 2 * np.rint(x / 2), 2 * np.rint(y / 2)
        self.about = {
            "crop_side": round(side * reduced, 1),
            "moving": round(float(moving.any(axis=(1, 2)).mean()), 2),
        }
        return [Box(float(a), float(b), side, side) for a, b in zip(x, y, strict=True)]


def find_motion(greys: _Array) -> _Array:
    """Find what moves before a still camera.

    Args:
        greys: uint8 ``(T, h, w)``.

    Returns:
        uint8 ``(T, h, w)``, 1 where the picture differs from the background (its median over
        time) in the largest piece of the frame that does, or one half its size.
    """
    from scipy import ndimage

    some = _some(greys)
    background = np.median(some, axis=0).astype(np.int16)
    # Four times the noise, and never less than compression leaves behind.
    noise = np.median(np.abs(some.astype(np.int16) - background)) * 1.4826
    threshold = max(14.0, 4 * float(noise))
    differs = np.empty(greys.shape, dtype=bool)
    for target, grey in zip(differs, greys, strict=True):
        np.greater(np.abs(grey.astype(np.int16) - background), threshold, out=target)
    moving = np.zeros_like(greys)
    for target, mask in zip(moving, _without_specks(differs), strict=True):
        pieces = np.asarray(ndimage.label(mask)[0])  # type: ignore[index]
        if pieces.any():
            sizes = np.bincount(pieces.ravel())[1:]
            large = np.flatnonzero(sizes >= max(12, sizes.max() / 2)) + 1
            target[:] = np.isin(pieces, large)
    return moving


def _without_specks(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Open masks ``(T, h, w)`` once and close them twice, with the four neighbours.

    The same as SciPy's ``binary_opening`` and ``binary_closing(iterations=2)`` frame by frame, in
    a tenth of the time: eight frames are one byte, so that `find_motion` does not take longer than
    decoding small frames.
    """

    def with_neighbours(bits: _Array, join: np.ufunc) -> _Array:
        padded = np.pad(bits, ((0, 0), (1, 1), (1, 1)))
        result = bits.copy()
        for side in (
            padded[:, :-2, 1:-1],
            padded[:, 2:, 1:-1],
            padded[:, 1:-1, :-2],
            padded[:, 1:-1, 2:],
        ):
            join(result, side, out=result)
        return result

    bits = np.packbits(masks, axis=0)
    for join in (np.bitwise_and, *3 * [np.bitwise_or], *2 * [np.bitwise_and]):
        bits = with_neighbours(bits, join)
    return np.unpackbits(bits, axis=0, count=len(masks)).astype(bool)


def find_whole(greys: _Array, moving: _Array) -> _Array:
    """Find all of who moves over the whole video, also what hardly does.

    Who waves stands still but for the arms, and so belongs to the background's median. Yet nobody
    stands so still that the outline would not change more than noise does.

    Args:
        greys: uint8 ``(T, h, w)``.
        moving: uint8 ``(T, h, w)``, of `find_motion`.

    Returns:
        uint8 ``(h, w)``, 1 on what moved for a fiftieth of the time and on what changes and
        hangs together with it.
    """
    from scipy import ndimage

    moved = moving.mean(axis=0) > 0.02
    changes = ndimage.uniform_filter(_some(greys).astype(np.float32).std(axis=0), 3)
    alive = changes > 1.5 * max(0.5, float(np.median(changes)))
    alive = ndimage.binary_closing(alive, iterations=2) | moved
    return ndimage.binary_propagation(moved, mask=alive).astype(np.uint8)


def _some(greys: _Array) -> _Array:
    """Pictures evenly over time, as many as the background takes."""
    return greys[np.unique(np.linspace(0, len(greys) - 1, _BACKGROUND_FRAMES).round().astype(int))]


def follow_motion(moving: _Array, whole: _Array, *, margin: float, smoothing: float) -> Crops:
    """Plan the squares for what `find_motion` and `find_whole` found.

    Who stays in place is best seen by a square that stays, too: it does where all motion together
    fits a square half as large again as that of the single frames, or as the person is high.

    Against the silhouettes of the 70 Weizmann videos, 180x144 pixels (`test_genuine_persons`):
    the 35 who go through the picture are followed, less than 0.1 % of anyone outside the square,
    its centre off by less than 2 pixels at any video's median. For the 35 who act in place it
    stays, with nothing of half of them outside and less than a tenth of anyone (feet).
    """
    follow = plan_crops(moving, margin=margin, smoothing=smoothing)
    if whole.any():
        stay = plan_crops(whole[None], margin=margin, smoothing=0)
        height = margin * float(np.ptp(np.flatnonzero(whole.any(axis=1))) + 1)
        if stay.side <= 1.5 * max(follow.side, height):
            return Crops(np.repeat(stay.centres, len(moving), axis=0), stay.side)
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
