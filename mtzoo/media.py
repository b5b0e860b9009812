"""Pictures and videos in and out: the one place that touches codecs.

PyAV decodes and encodes videos, Pillow pictures and animations (GIF, WebP, APNG). Inside the
project a picture is a uint8 tensor ``(H, W, 3)`` and a clip ``(T, H, W, 3)``, RGB. Files come from
strangers, so formats are a closed list, sizes are capped, nothing a file refers to is opened, and
every fault is one `MtzooError` that names the file.

Choices made once for all readers:

- transparent pixels show white, as on a page;
- 16-bit grey is scaled to 8 bits by its full range (65535 becomes 255), never clipped;
- pictures are turned as their EXIF says, video frames as their display matrix says; pixel aspect
  ratios and colour profiles are ignored;
- a video's frames that cannot be decoded, or that the decoder marks as broken, are left out and
  counted;
- a GIF's frame without a duration lasts 0.1 s, as in browsers.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
import re
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import av
import av.container
import av.error
import av.filter
import av.logging
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from mtzoo.errors import MtzooError, did_you_mean
from mtzoo.files import check_place, replacing
from mtzoo.interfaces import check_choice

# libav writes to stderr from C, where nothing of ours can catch it; our own lines say enough.
av.logging.set_level(None)

T = TypeVar("T")

Crop = Literal["centre", "none"]
Resample = Literal["nearest", "bicubic"]

MAX_PIXELS = 100_000_000
"""Largest picture or video frame that is read."""

MAX_CLIP_BYTES = 2 << 30
"""Largest clip that `read_video` gathers in memory."""

FOLDER_FPS = 25.0
"""The rate of a folder of frames, which says nothing itself."""

OUTPUTS = (".mp4", ".gif", ".png")
"""Endings that `write` knows."""

PICTURE_ENDINGS = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
    ".ppm",
    ".pgm",
    ".pnm",
    ".jp2",
    ".avif",
)
"""Endings that count as a frame in a folder of frames."""

# Left out on purpose: EPS and PDF (they start an interpreter), and TGA (it has no signature, so a
# damaged video could pass for one).
_PICTURES = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_ANIMATIONS = ("GIF", "WEBP", "PNG", "AVIF", "TIFF")

# Containers of footage. Play lists, subtitles and text renderers are not among them: they open
# other files or draw pictures of text.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,mpegvideo,m4v,flv,live_flv,asf,ogg,"
    "dv,mxf,nut,ivf,h263,h264,hevc,obu,av1,mjpeg,rm,wtv,yuv4mpegpipe,nsv,gxf,swf,amv,dhav"
)

# libav's number for colours of which nothing is said.
_UNSPECIFIED = 2

# What a frame says of its colours, and what says nothing.
_COLOURS = {
    "colorspace": _UNSPECIFIED,
    "color_range": 0,
    "color_primaries": _UNSPECIFIED,
    "color_trc": _UNSPECIFIED,
}

# Formats in which reduced frames are kept; the nearest to a frame's own is taken.
_REDUCED = (
    "gray|yuv420p|yuv422p|yuv444p|yuvj420p|yuvj422p|yuvj444p|yuv420p10le|yuv422p10le|yuv444p10le"
)

# A jump between two time stamps beyond this many seconds is a damaged stamp, not a pause.
_MAX_GAP = 600.0


class Clip(NamedTuple):
    """Frames of a video.

    Attributes:
        frames: uint8 ``(T, H, W, 3)``, T at least 1.
        fps: Frames a second.
        skipped: How many frames were broken and left out.
        seconds: How far into the video the frames reach.
    """

    frames: Tensor
    fps: float
    skipped: int
    seconds: float


class Box(NamedTuple):
    """A rectangle in pixels of a picture as it is displayed, its left upper corner being (0, 0).

    It may reach over the picture's border; the border's pixels are repeated there.
    """

    left: float
    top: float
    width: float
    height: float


class Frame:
    """One decoded frame, still in the pixel format of its decoder; see `decode`.

    Attributes:
        width: Width as displayed, in pixels.
        height: Height as displayed, in pixels.
    """

    def __init__(
        self, pixels: av.VideoFrame | Image.Image, turns: int = 0, scaler: _Scaler | None = None
    ) -> None:
        self._pixels = pixels
        self._turns = turns  # quarters anticlockwise from as it is stored to as it is displayed
        self._scaler = scaler or _Scaler()
        self.width, self.height = pixels.width, pixels.height
        if turns % 2:
            self.width, self.height = self.height, self.width

    @property
    def nbytes(self) -> int:
        """Memory that the frame holds."""
        if isinstance(self._pixels, Image.Image):
            return self.width * self.height * len(self._pixels.getbands())
        return sum(plane.buffer_size for plane in self._pixels.planes)

    def image(self) -> Image.Image:
        """The whole frame in RGB, or RGBA where some of it may be transparent.

        Raises:
            MtzooError: The pixels cannot be converted.
        """
        if isinstance(self._pixels, Image.Image):
            return self._pixels
        whole = self._pixels
        pixels = _whatever_colours(whole, lambda: whole.to_ndarray(format="rgb24"))
        return Image.fromarray(np.ascontiguousarray(np.rot90(pixels, self._turns)))

    def cut(self, box: Box | None, resolution: int) -> np.ndarray:
        """Cut a rectangle out and bring it to a square, antialiased.

        A box of whole pixels inside a video's frame is scaled straight from the decoder's pixels
        by libav's scaler; others are placed to a fraction of a pixel, by Pillow.

        Args:
            box: What to cut; ``None`` takes the whole frame.
            resolution: Side of the square in pixels.

        Returns:
            uint8 ``(resolution, resolution, 3)``, RGB; transparent pixels show white.

        Raises:
            MtzooError: The pixels cannot be converted.
        """
        box = Box(0, 0, self.width, self.height) if box is None else box
        whole = Box(*(round(edge) for edge in box))
        inside = (
            whole == box
            and min(box) >= 0
            and box.left + box.width <= self.width
            and box.top + box.height <= self.height
        )
        if inside and isinstance(self._pixels, av.VideoFrame):
            stored = _turned_back(whole, self._turns, self.width, self.height)
            small = self._scaler.scale(self._pixels, stored, resolution, resolution).to_ndarray()
            return np.ascontiguousarray(np.rot90(small, self._turns))
        if not inside:
            image, box = self._around(box, resolution)
            width, height = image.size
            reach = (
                -box.left,
                -box.top,
                box.left + box.width - width,
                box.top + box.height - height,
            )
            if max(reach) > 0:
                # One pixel more than the box reaches over: the filter looks at neighbours.
                pad = math.ceil(max(reach)) + 1
                _check_pixels("a crop", width + 2 * pad, height + 2 * pad)
                wide = np.pad(np.asarray(image), ((pad, pad), (pad, pad), (0, 0)), mode="edge")
                image = Image.fromarray(wide)
                box = box._replace(left=box.left + pad, top=box.top + pad)
            corners = (box.left, box.top, box.left + box.width, box.top + box.height)
            return np.array(
                image.resize((resolution, resolution), Image.Resampling.BICUBIC, box=corners)
            )
        image = _flatten(self.image())
        if box.width != self.width or box.height != self.height:
            # Cropped first: resizing a box of the picture lets what lies around it bleed in.
            left, top = int(box.left), int(box.top)
            image = image.crop((left, top, left + int(box.width), top + int(box.height)))
        return np.array(
            image.resize((resolution, resolution), Image.Resampling.BICUBIC, reducing_gap=4.0)
        )

    def _around(self, box: Box, resolution: int) -> tuple[Image.Image, Box]:
        """As much of the picture as resizing a box looks at, opaque, and where the box lies in it.

        To convert the whole of a large frame takes longer than all that follows.
        """
        if isinstance(self._pixels, Image.Image):
            return _flatten(self._pixels), box
        around = []
        for start, side, whole in ((box[0], box[2], self.width), (box[1], box[3], self.height)):
            # The filter reaches two pixels of the result far. Even, as colours are halved.
            reach = math.ceil(2 * side / resolution) + 2
            size = min(2 * math.ceil(side / 2 + reach), whole)
            around.append((min(max(2 * math.floor((start - reach) / 2), 0), whole - size), size))
        (left, width), (top, height) = around
        stored = _turned_back(Box(left, top, width, height), self._turns, self.width, self.height)
        size = (height, width) if self._turns % 2 else (width, height)
        pixels = self._scaler.scale(self._pixels, stored, *size).to_ndarray()
        image = Image.fromarray(np.ascontiguousarray(np.rot90(pixels, self._turns)))
        return image, box._replace(left=box.left - left, top=box.top - top)

    def grey(self, longest: int) -> np.ndarray:
        """The frame's brightness, reduced until its longer side has at most ``longest`` pixels.

        Returns:
            uint8 ``(h, w)``; never larger than the frame.
        """
        factor = min(1.0, longest / max(self.width, self.height))
        width, height = (max(1, round(side * factor)) for side in (self.width, self.height))
        if isinstance(self._pixels, Image.Image):
            image = _flatten(self._pixels).convert("L")
            return np.array(image.resize((width, height), Image.Resampling.BOX, reducing_gap=2.0))
        size = (height, width) if self._turns % 2 else (width, height)
        whole = Box(0, 0, self._pixels.width, self._pixels.height)
        small = self._scaler.scale(self._pixels, whole, *size, pixels="gray", how="area")
        return np.ascontiguousarray(np.rot90(small.to_ndarray(), self._turns))

    def reduced(self, factor: int) -> Frame:
        """The whole frame with sides divided by a factor, each pixel the mean of those it covers.

        It takes so much less memory, and the cheapest way out of the decoder's pixels: a square cut
        out of it differs little from one cut out of the frame as long as it is reduced further by
        some factor itself.

        Raises:
            MtzooError: The pixels cannot be converted.
        """
        if factor == 1:
            return self
        pixels = self._pixels
        width, height = (max(1, round(n / factor)) for n in (pixels.width, pixels.height))
        if isinstance(pixels, Image.Image):
            small = pixels.resize((width, height), Image.Resampling.BOX)
        else:
            kinds = "rgb24" if pixels.format.is_rgb else _REDUCED
            whole = Box(0, 0, pixels.width, pixels.height)
            # What is not said is not converted, and so not clipped on its way.
            said = {name: getattr(pixels, name) for name in _COLOURS}
            _say(pixels, _COLOURS)
            small = self._scaler.scale(pixels, whole, width, height, pixels=kinds, how="area")
            _say(pixels, said)
            _say(small, said)
        return Frame(small, self._turns, self._scaler)


class _Scaler:
    """libav's crop and scale filters, kept for the frames of one video."""

    def __init__(self) -> None:
        self._graphs: dict[tuple[object, ...], _Graph] = {}

    def scale(
        self,
        frame: av.VideoFrame,
        box: Box,
        width: int,
        height: int,
        *,
        pixels: str = "rgb24",
        how: str = "bicubic",
    ) -> av.VideoFrame:
        """Scale a box of whole pixels, as stored; ``pixels`` are formats, the nearest is taken."""
        sizes = (frame.width, frame.height, box.width, box.height, width, height)
        key = (*sizes, frame.format.name, pixels, how)
        graph = self._graphs.get(key)
        if graph is None:
            if len(self._graphs) >= 8:  # a video whose frames change size at will
                self._graphs.clear()
            flags = f"flags={how}+accurate_rnd+full_chroma_int"
            filters = (
                ("crop", f"{box.width}:{box.height}:{box.left}:{box.top}:exact=1"),
                ("scale", f"{width}:{height}:{flags}"),
                ("format", pixels),
            )
            graph = self._graphs[key] = _Graph(frame, filters)
        try:
            return _whatever_colours(frame, lambda: graph.pull(frame, box))
        except MtzooError:
            del self._graphs[key]  # it takes no more frames
            raise


class _Graph:
    """Filters that are set up once, the first of which crops; its box may go from place to place.

    To set filters up takes longer than to scale a small picture.
    """

    def __init__(self, frame: av.VideoFrame, filters: Sequence[tuple[str, str]]) -> None:
        self._graph = av.filter.Graph()
        self._graph.threads = 1
        buffer = self._graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=Fraction(1, 1000),
        )
        chain = [self._graph.add(name, arguments) for name, arguments in filters]
        self._crop = chain[0]
        self._place: dict[str, float] = {}
        self._graph.link_nodes(buffer, *chain, self._graph.add("buffersink")).configure()

    def pull(self, frame: av.VideoFrame, box: Box) -> av.VideoFrame:
        """What comes out for a frame."""
        for name, place in (("x", box.left), ("y", box.top)):
            if self._place.setdefault(name, place) != place:
                self._crop.process_command(name, str(place))
                self._place[name] = place
        self._graph.push(frame)
        small = self._graph.pull()
        assert isinstance(small, av.VideoFrame)
        return small


def _whatever_colours(frame: av.VideoFrame, convert: Callable[[], T]) -> T:
    """Convert a frame; one in colours that libav cannot convert, as if it did not say which.

    Raises:
        MtzooError: It cannot be converted even so.
    """
    for last in (False, True):
        try:
            return convert()
        except (av.error.FFmpegError, ValueError) as error:
            if last:
                raise MtzooError(f"a frame cannot be converted to RGB: {_line(error)}") from error
            frame.colorspace = frame.color_primaries = frame.color_trc = _UNSPECIFIED
    raise AssertionError


def _say(frame: av.VideoFrame, colours: Mapping[str, int]) -> None:
    for name, value in colours.items():
        setattr(frame, name, value)


def _turned_back(box: Box, turns: int, width: int, height: int) -> Box:
    """Where a box of the displayed frame lies in the stored one."""
    for _ in range(turns % 4):
        box = Box(height - box.top - box.height, box.left, box.height, box.width)
        width, height = height, width
    return box


class Decoded:
    """The frames of a video, in order; iterate once. See `decode`.

    Attributes:
        broken: Frames that could not be read and were left out, so far.
        fault: What is wrong with the first of those.
        read: Frames of the source that were decoded, so far.
    """

    def __init__(
        self, shown: _Shown, report: _Report, fps: float | None, stride: int, folder: bool
    ) -> None:
        self._shown = shown
        self._report = report
        self._fps = fps
        self._stride = stride
        self._folder = folder
        self.read = 0

    @property
    def broken(self) -> int:
        """Frames that could not be read and were left out, so far."""
        return self._report.skipped

    @property
    def fault(self) -> str:
        """What is wrong with the first of those, as one clause; empty while there are none."""
        return self._report.fault

    @property
    def fps(self) -> float:
        """Frames a second of what is given, once the first frame was."""
        return float(self._fps or self._report.rate or FOLDER_FPS) / self._stride

    def __enter__(self) -> Decoded:
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.close()

    def __iter__(self) -> Iterator[Frame]:
        counted = self._count()
        frames = (frame for _, frame in counted)
        if self._fps is not None and not self._folder:
            frames = _resample(counted, self._report, self._fps)
        return itertools.islice(frames, 0, None, self._stride)

    def _count(self) -> Iterator[tuple[float, Frame]]:
        for item in self._shown:
            self.read += 1
            yield item


# Frames with the time in seconds at which each appears; closing it closes the file.
_Shown = Generator[tuple[float, Frame], None, None]


@dataclass
class _Report:
    """What a source learns of itself while its frames are drawn."""

    rate: float | None = None
    skipped: int = 0
    end: float = 0.0
    fault: str = ""

    def skip(self, fault: object, count: int = 1) -> None:
        """Count frames that cannot be had; of all faults the first is kept."""
        self.skipped += count
        self.fault = self.fault or (_line(fault) if isinstance(fault, Exception) else str(fault))


def read_image(
    path: str | os.PathLike[str], *, resolution: int | None = None, crop: Crop = "centre"
) -> Tensor:
    """Read a picture of any common kind; of an animation, its first frame.

    Args:
        path: PNG, JPEG, WebP, BMP, TIFF, PPM, GIF and kin, of any mode and bit depth.
        resolution: Side of the square to resize to in pixels, antialiased; ``None`` keeps the
            picture's own size and does not crop.
        crop: With a ``resolution``: ``"centre"`` cuts the central square first, ``"none"``
            squeezes the whole picture into the square.

    Returns:
        uint8 ``(H, W, 3)``, RGB.

    Raises:
        MtzooError: The file is missing, empty, no picture, damaged or too large.
    """
    path = _readable(path)
    _check_size(resolution)
    with _picture(path) as image, _quiet():
        if resolution:
            # JPEG can be decoded at a half, a quarter or an eighth for a fraction of the cost.
            image.draft(image.mode, (2 * resolution, 2 * resolution))
        upright = ImageOps.exif_transpose(image)
        return _tensor(_flatten(_fit(_eight_bit(upright), resolution, crop)))


def iter_video(path: str | os.PathLike[str]) -> Iterator[Tensor]:
    """Stream the frames of a video file, an animation or a folder of frames.

    Frames have their native size, turned as they are displayed; broken ones are left out. One
    frame is in memory at a time.

    Yields:
        uint8 ``(H, W, 3)``, RGB.

    Raises:
        MtzooError: The file is missing, empty, no video, or none of its frames can be read.
    """
    report = _Report()
    shown = _frames(_present(path), report, None)
    with contextlib.closing(shown):
        for image in _images((frame for _, frame in shown), report):
            yield _tensor(_flatten(image))


def read_video(
    path: str | os.PathLike[str],
    *,
    resolution: int | None = None,
    frames: int | None = None,
    fps: float | None = None,
    crop: Crop = "centre",
) -> Clip:
    """Read a clip from a video file, an animation (GIF, WebP, APNG) or a folder of frames.

    Args:
        path: A video in any common container, an animation, or a folder whose pictures, in the
            natural order of their names, are the frames.
        resolution: Side of the square to resize to in pixels, antialiased; ``None`` keeps the
            video's own size and does not crop.
        frames: Read at most this many, from the start; decoding stops there. ``None`` reads all.
        fps: Resample to this many frames a second by the time stamps: at each instant the frame
            that is on show. ``None`` keeps the frames as they are. The frames of a folder have no
            time stamps; they are taken as they are, and ``fps`` states their rate.
        crop: As in `read_image`.

    Returns:
        The frames, their rate, how many broken frames were skipped, and how much of the video
        they are from.

    Raises:
        MtzooError: The file is missing, empty, no video, none of its frames can be read, or they
            would not fit into memory.
    """
    path = _present(path)
    _check_size(resolution)
    if frames is not None and frames < 1:
        raise MtzooError(f"frames must be at least 1, not {frames}")
    _check_rate(fps)
    report = _Report()
    decoded = Decoded(_frames(path, report, resolution), report, fps, 1, path.is_dir())
    gathered: list[Tensor] = []
    size = 0
    with decoded:
        for image in _images(decoded, report):
            frame = _tensor(_flatten(_fit(image, resolution, crop)))
            if gathered and frame.shape != gathered[0].shape:
                raise MtzooError(
                    f"{path}: frame {len(gathered)} is {_size(frame)} where the first is "
                    f"{_size(gathered[0])}; give a resolution to bring them to one size"
                )
            gathered.append(frame)
            size += frame.numel()
            if frames is not None and len(gathered) >= frames:
                break
            if size > MAX_CLIP_BYTES:
                raise MtzooError(
                    f"{path}: more than {MAX_CLIP_BYTES >> 30} GiB of frames; "
                    "read fewer frames or at a smaller resolution"
                )
    if not gathered:
        raise MtzooError(f"{path}: none of its frames can be converted to RGB")
    # What was drawn at a low rate is from no more of the video than there is.
    seconds = len(gathered) / decoded.fps
    if not path.is_dir():
        seconds = report.end if fps is None else min(seconds, report.end)
    return Clip(torch.stack(gathered), decoded.fps, report.skipped, seconds)


def is_animation(path: str | os.PathLike[str]) -> bool:
    """Whether a picture file (GIF, WebP, PNG, AVIF, TIFF) holds several frames; false of others."""
    try:
        return bool(_animated(_readable(path)))
    except MtzooError:
        return False


def decode(path: str | os.PathLike[str], *, fps: float | None = None, stride: int = 1) -> Decoded:
    """Open a video, an animation or a folder of frames for preparation.

    Unlike `read_video` it gathers nothing and converts nothing: a `Frame` is scaled from the
    decoder's own pixels when it is asked to, and frames that are passed over cost their decoding
    only. A frame stays valid after the next was drawn.

    Args:
        path: As in `read_video`.
        fps: Resample to this many frames a second, as in `read_video`.
        stride: Give every n-th of those frames.

    Returns:
        The frames, to be iterated over once; a context manager that closes the file.

    Raises:
        MtzooError: The file is missing or an option is out of range. The iteration raises it
            where the file is empty, no video, or none of its frames can be read.
    """
    path = _present(path)
    _check_rate(fps)
    if stride < 1:
        raise MtzooError(f"stride must be at least 1, not {stride}")
    report = _Report()
    return Decoded(_frames(path, report, None), report, fps, stride, path.is_dir())


def decode_strip(path: str | os.PathLike[str], *, stride: int = 1) -> Decoded:
    """Open a picture that holds a video's square frames side by side, as `decode` does a video.

    The form in which MoCoGAN and Monkey-Net distribute their sets. A strip of frames one below
    the other is accepted too. What kind of picture it is, its data says, whatever its name ends
    in.

    Args:
        path: A still picture as in `read_image`, of N x 1 squares or 1 x N.
        stride: Give every n-th frame.

    Raises:
        MtzooError: From the iteration: the file cannot be read, or is no strip of squares.
    """
    path = _present(path)
    if stride < 1:
        raise MtzooError(f"stride must be at least 1, not {stride}")
    report = _Report()
    return Decoded(_strip_frames(path, report), report, None, stride, True)


def write(
    path: str | os.PathLike[str],
    frames: Tensor,
    *,
    fps: float = 12.5,
    scale: int = 1,
    resample: Resample = "nearest",
) -> None:
    """Write a clip as the ending of ``path`` says; a whole file appears there or none.

    ``.mp4`` is H.264 in yuv420p (MPEG-4 where libx264 is missing); an odd side grows by one
    repeated pixel, because yuv420p has none. ``.gif`` loops and has one palette for all frames
    without dithering, so that what stands still does not flicker; times are kept to its 10 ms
    grid without drift, 50 frames a second at most. ``.png`` shows the frames side by side.

    Args:
        path: File to write, in a folder that exists.
        frames: uint8 ``(T, H, W, C)`` with C of 1 or 3.
        fps: Frames a second; without meaning for ``.png``.
        scale: Enlarge by this factor, so that players show small frames.
        resample: How to enlarge.

    Raises:
        MtzooError: Unknown ending, a folder that is missing or cannot be written to, or frames
            of another form.
    """
    path = check_output(path)
    frames = _frames_to_write(frames)
    if not (math.isfinite(fps) and 0 < fps <= 1000):
        raise MtzooError(f"fps must lie above 0 and be at most 1000, not {fps}")
    ending = path.suffix.lower()
    if ending == ".png":
        write_image(path, sheet([enlarge(frames, scale, resample)]))
        return
    frames = enlarge(frames, scale, resample)
    with replacing(path) as temporary:
        if ending == ".gif":
            _write_gif(temporary, frames, fps)
        else:
            _write_mp4(temporary, frames, fps)


def write_image(path: str | os.PathLike[str], image: Tensor) -> None:
    """Write a picture, uint8 ``(H, W, C)`` with C of 1 or 3, as PNG; a whole file or none.

    Raises:
        MtzooError: The ending is not ``.png``, or the folder is missing or cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise MtzooError(f"cannot write {path}: pictures are written as .png; end the name so")
    frames = _frames_to_write(image[None])
    with replacing(path) as temporary:
        Image.fromarray(frames[0].numpy()).save(temporary, format="PNG")


def check_output(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` as a `Path` once `write` can put a file there.

    Raises:
        MtzooError: Unknown ending, or a folder that is missing or cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() not in OUTPUTS:
        raise MtzooError(
            f"cannot write {path}: unknown ending {path.suffix!r}; "
            f"use one of {', '.join(OUTPUTS)} (.png is a sheet of frames)"
        )
    return check_place(path)


def sheet(
    rows: Sequence[Tensor],
    *,
    labels: Sequence[str] | None = None,
    heads: Sequence[str] | None = None,
    pad: int = 2,
    scale: int = 1,
    text: int = 10,
) -> Tensor:
    """Lay clips out as rows of frames on white.

    Args:
        rows: uint8 ``(T, H, W, C)`` each, C of 1 or 3; T and sizes may differ, shorter rows end in
            white.
        labels: One line of text a row, written to its left; letters that the font lacks appear as
            Python's escapes of them.
        heads: One line of text a column, written above it.
        pad: White pixels around every frame.
        scale: Enlarge frames by this factor (nearest).
        text: Height of the letters in pixels.

    Returns:
        uint8 ``(H', W', 3)``.

    Raises:
        MtzooError: There are no rows or no frames, one is not uint8 of 1 or 3 channels, there are
            not as many labels as rows or heads as columns, or ``scale`` is below 1.
    """
    if not rows:
        raise MtzooError("a sheet needs at least one row")
    if labels is not None and len(labels) != len(rows):
        raise MtzooError(f"a sheet of {len(rows)} rows needs as many labels, not {len(labels)}")
    clips = [enlarge(_frames_to_write(row), scale, "nearest") for row in rows]
    cell = max(clip.shape[2] for clip in clips) + pad
    columns = max(clip.shape[0] for clip in clips)
    heights = [clip.shape[1] + pad for clip in clips]
    if heads is not None and len(heads) != columns:
        raise MtzooError(f"a sheet of {columns} columns needs as many heads, not {len(heads)}")
    margin = above = 0
    font, line = _font(text), _line_height(text)
    labels = labels and [_drawable(label, text) for label in labels]
    if labels:
        margin = max(math.ceil(font.getlength(label)) for label in labels) + 2 * pad + 2
        heights = [
            max(height, line + pad) if label else height
            for label, height in zip(labels, heights, strict=True)
        ]
    if heads:
        above = line + pad
    canvas = np.full((above + sum(heights) + pad, margin + columns * cell + pad, 3), 255, np.uint8)
    tops = [above + pad + sum(heights[:i]) for i in range(len(clips))]
    for clip, top in zip(clips, tops, strict=True):
        for column, frame in enumerate(clip.numpy()):
            left = margin + pad + column * cell
            canvas[top : top + frame.shape[0], left : left + frame.shape[1]] = frame
    if labels or heads:
        image = Image.fromarray(canvas)
        write = functools.partial(ImageDraw.Draw(image).text, fill=(0, 0, 0), font=font)
        for label, top, height in zip(labels or (), tops, heights, strict=False):
            write((pad + 1, top + (height - pad) / 2), label, anchor="lm")
        for column, head in enumerate(heads or ()):
            middle = margin + pad + column * cell + (cell - pad) / 2
            write((middle, pad + line / 2), head, anchor="mm")
        canvas = np.array(image)
    return torch.from_numpy(canvas)


def row(clips: Sequence[Tensor], *, pad: int = 2) -> Tensor:
    """Put clips that play at once side by side, white between them.

    Args:
        clips: uint8 ``(T, H, W, C)`` each, all of one shape.
        pad: White pixels between them.

    Returns:
        uint8 ``(T, H, W', C)``.
    """
    length, height, _, channels = clips[0].shape
    gap = clips[0].new_full((length, height, pad, channels), 255)
    return torch.cat([part for clip in clips for part in (gap, clip)][1:], dim=2)


def grid(clips: Tensor, *, pad: int = 2) -> Tensor:
    """Tile clips that play at once into one clip, as square as their number allows.

    Args:
        clips: uint8 ``(N, T, H, W, C)``.
        pad: White pixels between tiles.

    Returns:
        uint8 ``(T, H', W', C)``, row by row from the top left.
    """
    number, length, height, width, channels = clips.shape
    columns = math.ceil(math.sqrt(number))
    rows = math.ceil(number / columns)
    tiled = clips.new_full(
        (length, rows * (height + pad) - pad, columns * (width + pad) - pad, channels), 255
    )
    for index in range(number):
        top, left = (index // columns) * (height + pad), (index % columns) * (width + pad)
        tiled[:, top : top + height, left : left + width] = clips[index]
    return tiled


# Reading ------------------------------------------------------------------------------------


def _present(path: str | os.PathLike[str]) -> Path:
    """Check that a file or folder is there."""
    path = Path(path)
    try:
        if path.exists():
            return path
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    except (OSError, ValueError) as error:
        raise MtzooError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from error
    raise MtzooError(f"{path}: no such file.{did_you_mean(path.name, siblings)}".rstrip("."))


def _readable(path: str | os.PathLike[str]) -> Path:
    """Check that a file is there, plain, not empty and permitted."""
    path = _present(path)
    if path.is_dir():
        raise MtzooError(f"{path} is a folder; give a picture file")
    if not path.is_file():
        raise MtzooError(f"{path} is not a plain file")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise MtzooError(f"{path} is empty (0 bytes)")
    except OSError as error:
        raise MtzooError(f"cannot read {path}: {error.strerror or error}") from error
    return path


def _check_size(resolution: int | None) -> None:
    if resolution is not None and not 1 <= resolution <= 8192:
        raise MtzooError(f"resolution must lie between 1 and 8192 pixels, not {resolution}")


def _check_rate(fps: float | None) -> None:
    if fps is not None and not 0 < fps <= 1000:
        raise MtzooError(f"fps must lie above 0 and be at most 1000, not {fps}")


def _check_pixels(path: Path | str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise MtzooError(
            f"{path}: {width}x{height} pixels are more than the {MAX_PIXELS // 1_000_000} "
            "megapixels that are read; make it smaller first"
        )


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of the picture formats that this build of Pillow has."""
    Image.init()
    return tuple(name for name in _PICTURES if name in Image.OPEN)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow's warnings in; never held while a caller runs.

    It warns of damaged metadata, which we do not need, and of large pictures, for which we have a
    cap of our own.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _picture(path: Path) -> Iterator[Image.Image]:
    """Open a picture; whatever goes wrong while it is open becomes one line."""
    try:
        with _opened(path) as image:
            yield image
    except Image.UnidentifiedImageError as error:
        kind = "a video, not a picture; give one of its frames" if _is_video(path) else None
        raise MtzooError(
            f"{path} is {kind or 'not a picture that can be read (PNG, JPEG, WebP, TIFF, ...)'}"
        ) from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """As `_picture`, but lets pass that a file is no picture."""
    try:
        with _quiet():
            opened = Image.open(path, formats=_formats())
        with opened as image:
            _check_pixels(path, *image.size)
            yield image
    except (MtzooError, Image.UnidentifiedImageError):
        raise
    except Image.DecompressionBombError as error:
        raise MtzooError(
            f"{path}: more than the {MAX_PIXELS // 1_000_000} megapixels that are read; "
            "make it smaller first"
        ) from error
    except Exception as error:
        # Pillow's decoders meet damage with a dozen kinds of exceptions (OSError, SyntaxError,
        # ValueError, struct.error, zlib.error, ...); the file is at fault in all of them.
        raise MtzooError(f"{path} is damaged and cannot be read: {_line(error)}") from error


def _is_video(path: Path) -> bool:
    try:
        with path.open("rb") as file, _container(file) as container:
            return bool(container.streams.video)
    except (av.error.FFmpegError, OSError, ValueError):
        return False


def _frames(path: Path, report: _Report, resolution: int | None) -> _Shown:
    """Frames (RGB or RGBA) with the time in seconds at which each appears, from 0."""
    if path.is_dir():
        source = _folder_frames(path, report, resolution)
    elif (animation := _animated(_readable(path))) is not None:
        if not animation:
            raise MtzooError(
                f"{path} is a still picture, not a video; "
                "give a video, an animated GIF or a folder of frames"
            )
        source = _animation_frames(path, report)
    else:
        source = _video_frames(path, report)
    empty = True
    with contextlib.closing(source):
        for item in source:
            empty = False
            yield item
    if empty:
        fault = report.fault or "the file is damaged or cut off"
        raise MtzooError(f"{path}: none of its frames can be read; {fault}")


def _animated(path: Path) -> bool | None:
    """Whether a picture file has several frames; ``None`` where it is no picture."""
    try:
        with _opened(path) as image:
            if image.format not in _ANIMATIONS:
                return False
            # A GIF says nothing of its length up front; one more frame is all we ask. One that is
            # there but broken still makes it an animation, of one frame.
            with contextlib.suppress(Exception), _quiet():
                try:
                    image.seek(1)
                except EOFError:
                    return False
            return True
    except Image.UnidentifiedImageError:
        return None


def _animation_frames(path: Path, report: _Report) -> _Shown:
    with _picture(path) as image:
        count, elapsed = 0, 0.0  # frames and milliseconds
        default = 1000 / FOLDER_FPS if image.format == "TIFF" else 100.0
        while True:
            try:
                with _quiet():
                    image.seek(count)
                    image.load()
            except EOFError:
                break
            except Exception as error:
                # What follows a broken frame is painted over it and is broken too.
                report.skip(error)
                break
            start = elapsed / 1000
            elapsed += float(image.info.get("duration") or default)
            count += 1
            report.end = elapsed / 1000
            report.rate = 1000 * count / elapsed
            # A copy, because the next seek paints over the picture.
            yield start, Frame(_eight_bit(image.copy()))


def _strip_frames(path: Path, report: _Report) -> _Shown:
    with _picture(_readable(path)) as image, _quiet():
        width, height = image.size
        side, long = min(image.size), max(image.size)
        if long % side or long == side:
            raise MtzooError(
                f"{path} is {width}x{height} pixels, which is no row of square frames; a strip's "
                "longer side is a multiple of its shorter"
            )
        image.load()
        strip = _eight_bit(image)
    for start in range(0, long, side):
        left, top = (start, 0) if width > height else (0, start)
        yield report.end, Frame(strip.crop((left, top, left + side, top + side)))
        report.end += 1 / FOLDER_FPS


def _folder_frames(path: Path, report: _Report, resolution: int | None) -> _Shown:
    try:
        names = sorted(
            (p for p in path.iterdir() if p.suffix.lower() in PICTURE_ENDINGS and p.name[0] != "."),
            key=_natural,
        )
    except OSError as error:
        raise MtzooError(f"cannot read {path}: {error.strerror or error}") from error
    if not names:
        raise MtzooError(f"{path} holds no pictures; a folder of frames holds one file a frame")
    for name in names:
        try:
            with _picture(_readable(name)) as image, _quiet():
                if resolution:
                    image.draft(image.mode, (2 * resolution, 2 * resolution))
                frame = _eight_bit(ImageOps.exif_transpose(image))
        except MtzooError as error:
            report.skip(str(error).removeprefix(f"{path}{os.sep}"))
            continue
        yield report.end, Frame(frame)
        report.end += 1 / FOLDER_FPS


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort key under which ``2.png`` comes before ``10.png``."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(p), p) if p.isdecimal() else (1, 0, p) for p in parts]


def _refuse(url: str, flags: int, options: dict[str, str]) -> object:
    raise PermissionError(f"the file refers to {url}")


def _container(file: object) -> av.container.InputContainer:
    # The opened file rather than its name, and no way to open others: a name may be taken for an
    # address, and play lists or references inside a file would read whatever they like.
    return av.open(
        file,
        "r",
        metadata_errors="ignore",
        container_options={"format_whitelist": _CONTAINERS, "protocol_whitelist": ""},
        io_open=_refuse,
    )


def _video_frames(path: Path, report: _Report) -> _Shown:
    unreadable = (
        f"{path} is not a video that can be read (MP4, MOV, AVI, MKV, WebM, MPEG, GIF, ...): "
    )
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            size = os.fstat(file.fileno()).st_size
            start = file.read(4096)
            file.seek(0)
            container = stack.enter_context(_container(file))
            if not container.streams.video:
                raise MtzooError(f"{path} holds no video stream")
            stream = container.streams.video[0]
            context = stream.codec_context
            if context is None:
                raise MtzooError(f"{path}: no decoder for its video stream")
            _check_pixels(path, context.width or 0, context.height or 0)
            # Not by frame: libav then drops whole frames around a broken one without a word.
            context.thread_type = "SLICE"
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise MtzooError(unreadable + _line(error)) from error
        scaler = _Scaler()
        rate = stream.average_rate or stream.guessed_rate
        report.rate = float(rate) if rate and 0.01 <= rate <= 1000 else FOLDER_FPS
        step = 1 / report.rate
        last: float | None = None
        first = 0.0
        for frame in _decode(container, stream, report):
            if frame.is_corrupt:
                report.skip("the decoder marks it as broken")
                continue
            stamp = frame.time
            if last is None:
                stamp = first = stamp or 0.0
            elif stamp is None or not last < stamp <= last + _MAX_GAP:
                # Stamps that are missing, stand still or leap are made up at the nominal rate.
                stamp = last + step
            last = stamp
            _check_pixels(path, frame.width, frame.height)
            turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
            report.end = stamp - first + step
            yield stamp - first, Frame(frame, turns, scaler)
        # Matroska's index is at its end, and libav takes a file that lacks it for a whole one.
        matroska = "matroska" in container.format.name
        _check_end(size, _segment_ends(start) if matroska else _frame_ends(stream), report)


def _images(frames: Iterable[Frame], report: _Report) -> Iterator[Image.Image]:
    """The frames in RGB(A); those that cannot be converted are counted as broken."""
    for frame in frames:
        try:
            yield frame.image()
        except MtzooError as error:
            report.skip(error)


def _decode(
    container: av.container.InputContainer, stream: av.VideoStream, report: _Report
) -> Iterator[av.VideoFrame]:
    """Decode packet by packet, counting those that fail."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except (av.error.FFmpegError, OSError) as error:
            report.skip(error)
            return
        try:
            decoded = packet.decode()
        except EOFError:
            return
        except (av.error.FFmpegError, ValueError, IndexError) as error:
            report.skip(error)  # an IndexError: a stream that a damaged file begins later
            continue
        yield from decoded


def _check_end(size: int, ends: Sequence[int], report: _Report) -> None:
    """Count what lies beyond the end of a file of ``size`` bytes, by where its parts end."""
    missing = sum(end > size for end in ends)
    if missing > report.skipped:
        fault = f"the file is cut off: it has {size:,} bytes of {max(ends):,} or more"
        report.skip(fault, missing - report.skipped)


def _frame_ends(stream: av.VideoStream) -> list[int]:
    """Where the frames end in the file, by its index."""
    entries = getattr(stream, "index_entries", ())  # from PyAV 17
    return [entry.pos + entry.size for entry in entries]


def _segment_ends(start: bytes) -> list[int]:
    """Where the segment of a Matroska or WebM file ends, if it says so.

    An EBML header and the segment follow one another, each an identifier of four bytes, a length
    and so many bytes (RFC 8794; RFC 9559, Sec. 5.1). A length of all ones is that of a recording
    under way.

    Args:
        start: First bytes of the file.
    """

    def length(at: int) -> tuple[int | None, int]:
        """A length, and where what is so long begins."""
        count = 9 - start[at].bit_length()
        ones = (1 << 7 * count) - 1
        bits = int.from_bytes(start[at : at + count], "big") & ones
        return (None if bits == ones else bits), at + count

    try:
        header, content = length(4)
        segment, content = length(content + (header or 0) + 4)
    except IndexError:
        return []
    return [] if segment is None else [content + segment]


def _resample(shown: Iterator[tuple[float, Frame]], report: _Report, fps: float) -> Iterator[Frame]:
    """At each multiple of 1/fps the frame on show; never looks further ahead than one frame."""
    count = 0
    # Time stamps are rounded to the container's clock; an instant within a thousandth of a frame
    # of a stamp belongs to the frame that starts there.
    slack = 1e-3 / fps
    current: Frame | None = None
    for time, image in shown:
        while current is not None and count / fps < time - slack:
            yield current
            count += 1
        current = image
    while current is not None and (count == 0 or count / fps < report.end - slack):
        yield current
        count += 1


@functools.cache
def _from_sixteen() -> np.ndarray:
    return np.rint(np.arange(65536) / 257).astype(np.uint8)


def _eight_bit(image: Image.Image) -> Image.Image:
    """RGB, or RGBA where some of the picture may be transparent."""
    if image.mode[0] in "IF":
        values = np.asarray(image)
        if image.mode.startswith("I") and values.min() >= 0 and values.max() <= 65535:
            return Image.fromarray(_from_sixteen()[values]).convert("RGB")
        # Depth maps, heights and other quantities: fractions are taken as such, the rest by range.
        values = np.nan_to_num(values.astype(np.float64))
        low, high = float(values.min()), float(values.max())
        if image.mode == "F" and low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
        return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGB", "RGBA") and "transparency" not in image.info:
        return image
    transparent = "transparency" in image.info or image.mode in ("RGBA", "RGBa", "LA", "La", "PA")
    return image.convert("RGBA" if transparent else "RGB")


def _fit(image: Image.Image, resolution: int | None, crop: Crop) -> Image.Image:
    """Crop to the central square and resize, antialiased; nothing without a resolution."""
    if resolution is None:
        return image
    if crop == "centre":
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        # Cropped first: resizing a box of the picture lets what lies around it bleed in.
        image = image.crop((left, top, left + side, top + side))
    # Pillow's bicubic filter widens with the reduction, that is, antialiases; and it weighs
    # colours by their opacity. The gap lets huge pictures be averaged in blocks first.
    return image.resize((resolution, resolution), Image.Resampling.BICUBIC, reducing_gap=4.0)


def _flatten(image: Image.Image) -> Image.Image:
    """Put what is transparent on white."""
    if image.mode != "RGBA":
        return image
    page = Image.new("RGBA", image.size, (255, 255, 255, 255))
    page.alpha_composite(image)
    return page.convert("RGB")


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image))


def _size(frame: Tensor) -> str:
    return f"{frame.shape[1]}x{frame.shape[0]}"


def _line(error: BaseException) -> str:
    """An exception's message as one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


# Writing ------------------------------------------------------------------------------------


def _frames_to_write(frames: Tensor) -> Tensor:
    """Check frames and give them three channels, on the CPU, dense."""
    if frames.ndim != 4 or frames.dtype != torch.uint8 or frames.shape[-1] not in (1, 3):
        raise MtzooError(
            "frames to write are uint8 (T, H, W, C) with C of 1 or 3, "
            f"not {frames.dtype} of shape {tuple(frames.shape)}"
        )
    if 0 in frames.shape:
        raise MtzooError(f"there are no frames to write (shape {tuple(frames.shape)})")
    return frames.detach().cpu().expand(*frames.shape[:3], 3).contiguous()


def enlarge(frames: Tensor, scale: int, resample: Resample = "nearest") -> Tensor:
    """Enlarge frames by a whole factor, so that viewers show small ones.

    Args:
        frames: uint8 ``(T, H, W, 3)``, on the CPU for ``"bicubic"``.
        scale: The factor, at least 1.
        resample: How to enlarge.

    Returns:
        uint8 ``(T, scale * H, scale * W, 3)``.

    Raises:
        MtzooError: ``scale`` is below 1, or there is no such ``resample``.
    """
    check_choice("enlarge", "resample", resample, Resample)
    if scale < 1:
        raise MtzooError(f"scale must be at least 1, not {scale}")
    if scale == 1:
        return frames
    if resample == "nearest":
        return frames.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    size = (frames.shape[2] * scale, frames.shape[1] * scale)
    return torch.stack(
        [_tensor(Image.fromarray(f.numpy()).resize(size, Image.Resampling.BICUBIC)) for f in frames]
    )


def _write_mp4(path: Path, frames: Tensor, fps: float) -> None:
    height, width = frames.shape[1:3]
    pixels = np.pad(frames.numpy(), ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    # One thread: the bytes then do not depend on the machine's number of cores. No lookahead: with
    # it, x264 gives other bytes for the same small pictures now and then.
    options = {"threads": "1"}
    if codec == "libx264":
        options |= {"crf": "18", "x264-params": "rc-lookahead=0:sync-lookahead=0"}
    else:
        options["q:v"] = "2"
    try:
        with av.open(
            str(path), "w", format="mp4", container_options={"movflags": "+faststart"}
        ) as container:
            # A denominator of 1001 holds every broadcast rate exactly.
            stream = container.add_stream(
                codec,
                rate=Fraction(fps).limit_denominator(1001) or Fraction(1, 1001),
                options=options,
            )
            stream.width, stream.height = pixels.shape[2], pixels.shape[1]
            stream.pix_fmt = "yuv420p"
            for array in pixels:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
            container.mux(stream.encode(None))
    except av.error.FFmpegError as error:
        # Of the disk or of the frames; who gave the file its name says which file.
        raise OSError(f"the video cannot be encoded: {_line(error)}") from error


def _write_gif(path: Path, frames: Tensor, fps: float) -> None:
    """One palette for all frames; exact where 256 colours suffice."""
    array = frames.numpy()
    packed = (array.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)).reshape(-1)
    colours, places = np.unique(packed, return_inverse=True)
    if len(colours) <= 256:
        table = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1).astype(np.uint8)
        indices = places.reshape(array.shape[:3]).astype(np.uint8)
    else:
        # Frames throughout the clip choose the palette; a tall picture of all of them might not
        # fit into memory.
        chosen = array[np.unique(np.linspace(0, len(array) - 1, 32).round().astype(int))]
        tall = Image.fromarray(chosen.reshape(-1, chosen.shape[2], 3))
        palette = tall.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        table = np.array(palette.getpalette("RGB"), np.uint8).reshape(-1, 3)
        indices = np.stack(
            [
                np.asarray(Image.fromarray(a).quantize(palette=palette, dither=Image.Dither.NONE))
                for a in array
            ]
        )
    images = []
    for index in indices:
        image = Image.fromarray(index)
        image.putpalette(table.tobytes(), "RGB")
        images.append(image)
    # Durations are whole hundredths of a second; rounding the instants, not the durations, keeps
    # the clip's length. Players take less than 2/100 s for a mistake and play slowly.
    spacing = max(100 / fps, 2.0)
    instants = [round(i * spacing) for i in range(len(images) + 1)]
    durations = [10 * min(b - a, 65535) for a, b in itertools.pairwise(instants)]
    images[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=durations if len(images) > 1 else durations[0],
        loop=0,
        optimize=False,
    )


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@functools.cache
def _has(letter: str, size: int) -> bool:
    """Whether the font has a letter; for those it has not it draws one and the same box."""
    return _drawn(letter, size) != _drawn("\U0010ffff", size)


def _drawn(letter: str, size: int) -> bytes:
    canvas = Image.new("L", (4 * size, 4 * size))
    ImageDraw.Draw(canvas).text((size, size), letter, fill=255, font=_font(size))
    return canvas.tobytes()


def _drawable(text: str, size: int) -> str:
    """A text with escapes in place of letters that the font lacks."""
    return "".join(c if _has(c, size) else c.encode("unicode_escape").decode() for c in text)


def _line_height(size: int) -> int:
    box = _font(size).getbbox("Ag")
    return math.ceil(box[3]) + 1
