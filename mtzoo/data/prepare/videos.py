"""Prepare any footage: a folder tree of video files, folders of frames, or strips of frames."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mtzoo import media
from mtzoo.data.prepare import splits
from mtzoo.data.prepare.crops import LOOK_PIXELS, MARGINS, Kind, Planner, planner
from mtzoo.data.prepare.pipeline import (
    LeftOut,
    Preparation,
    Ranges,
    Stored,
    Video,
    check_target,
    run,
)
from mtzoo.data.prepare.report import Progress, Report, no_progress
from mtzoo.data.prepare.sources import Found, check_apart, find_videos
from mtzoo.data.prepare.splits import CLIP_FRAMES
from mtzoo.errors import MtzooError
from mtzoo.interfaces import check_resolution

Way = Literal["share", "person", "time"]

MAX_BYTES = 1 << 30
"""Largest video that is stored; its frames are in memory at once."""

WHOLE_BYTES = 1 << 26
"""How much of a video is kept as it was decoded until it is known where to cut; of what is longer
reduced frames are kept. See `_Held`."""

BUFFER_BYTES = 1 << 30
"""How much of a video each worker keeps, about 5,500 frames of 1920x1080 whose face is large; a
longer one is decoded twice."""

FINE, LEAST = 3, 2
"""By so much more than is stored do reduced frames resolve the square that is cut: as far as can be
told, and at the end at least. Else the video is decoded twice."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a video becomes stored frames.

    Attributes:
        resolution: Side of the frames in pixels.
        crop: What the square shows; see `mtzoo.data.prepare.crops.planner`.
        margin: Of a face or person crop; ``None`` for the usual one.
        fps: Resample to this rate by the time stamps; ``None`` keeps the frames.
        stride: Keep every n-th of those.
        clip: Cut into clips of this many frames; ``None`` keeps the video whole.
        min_frames: Leave out videos with fewer.
        keep_damaged: Use what decodes of a damaged video.
    """

    resolution: int = 64
    crop: Kind = "centre"
    margin: float | None = None
    fps: float | None = None
    stride: int = 1
    clip: int | None = None
    min_frames: int = CLIP_FRAMES
    keep_damaged: bool = False

    def check(self, who: str) -> None:
        """Refuse what cannot work, before anything is read.

        Raises:
            MtzooError: An option is out of range; ``who`` begins the message.
        """
        check_resolution(self.resolution, who)
        for name in ("stride", "clip", "min_frames"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 1_000_000:
                raise MtzooError(f"{who}: {name} must lie between 1 and 1,000,000, not {value}")
        if self.fps is not None and not (math.isfinite(self.fps) and 0 < self.fps <= 1000):
            raise MtzooError(f"{who}: fps must lie above 0 and be at most 1000, not {self.fps}")
        try:
            planner(self.crop, self.margin)
        except MtzooError as error:
            raise MtzooError(f"{who}: {error}") from None


@dataclass(frozen=True)
class Named:
    """A video with its id and labels; a `mtzoo.data.prepare.pipeline.Task`."""

    found: Found
    id: str
    labels: Mapping[str, str]
    videos: int = 1

    @property
    def source(self) -> str:
        """What it reads, relative to the source folder."""
        return self.found.source


def prepare_videos(
    source: str | Path,
    output: str | Path,
    *,
    strips: bool = False,
    levels: Sequence[str] = (),
    pattern: str | None = None,
    resolution: int = 64,
    crop: Kind = "centre",
    margin: float | None = None,
    fps: float | None = None,
    stride: int = 1,
    clip: int | None = None,
    min_frames: int = CLIP_FRAMES,
    keep_damaged: bool = False,
    split: Way | None = None,
    test: float = 0.1,
    seed: int = 0,
    workers: int = 0,
    strict: bool = False,
    progress: Progress = no_progress,
) -> Report:
    """Make a clip store of a folder tree of videos.

    Every video is split in all ways that apply: by ``share`` (a share of the source files,
    drawn with the seed, tests), by ``person`` (likewise of the persons, where that label is
    known) and by ``time`` (the last share of each video's frames tests).

    Args:
        source: Folder of video files and folders of frames, at any depth.
        output: Folder to make for the store.
        strips: Read every picture as a strip of square frames, and nothing else.
        levels: Labels that the folder levels below ``source`` give, from the top; ``"-"`` skips
            a level. Which label tells identities apart, the dataset's ``identity`` says;
            ``"person"`` is taken by itself.
        pattern: Regular expression that is searched for in the path below ``source``; its named
            groups are labels.
        resolution: Side of the frames to store, in pixels.
        crop: ``centre``, ``face``, ``person`` (who moves before a still camera) or ``none`` (the
            whole picture, squeezed).
        margin: Of a face or person crop; ``None`` takes 1.6 for a face and 1.1 for a person.
        fps: Resample to this many frames a second; ``None`` keeps each video's own.
        stride: Keep every n-th frame.
        clip: Cut into clips of this many frames, none overlapping; ``None`` keeps videos whole.
        min_frames: Leave out videos with fewer frames, counted as they would be stored.
        keep_damaged: Use what decodes of a damaged or truncated video; else it is left out.
        split: The default way; ``None`` takes ``person`` where that label is known, else
            ``share``.
        test: Share kept for testing, between 0 and 1.
        seed: Of the draws.
        workers: Processes that decode; 0 works in this one.
        strict: Raise on the first video that would be left out.
        progress: Told of every video.

    Returns:
        What was done; also written to ``report.json`` in the store.

    Raises:
        MtzooError: Wrong options, no videos, or an output that cannot be written.
    """
    who = "prepare videos"
    cut = Cut(
        resolution=resolution,
        crop=crop,
        margin=margin,
        fps=fps,
        stride=stride,
        clip=clip,
        min_frames=min_frames,
        keep_damaged=keep_damaged,
    )
    cut.check(who)
    check_share(who, test)
    expression = _expression(who, pattern)
    names = [*levels, *(expression.groupindex if expression else ())]
    _check_names(who, names)
    if split == "person" and "person" not in names:
        raise MtzooError(
            f"{who}: to split by person a label person is needed; name the folder level (levels) "
            "or the part of the path (pattern) that gives it"
        )
    ways: tuple[str, ...] = ("person", "share", "time") if "person" in names else ("share", "time")
    ways = tuple(sorted(ways, key=lambda way: way != split))
    found = find_videos(source, strips=strips)
    root = check_target(output)
    check_apart(found.root, root)

    tasks, left_out = [], list(found.left_out)
    for video, name in zip(found.videos, ids(found.videos), strict=True):
        try:
            tasks.append(Named(video, name, _labels(video.source, levels, expression)))
        except MtzooError as error:
            left_out.append(LeftOut(video.source, str(error)))
    return run(
        Preparation(
            source_set="videos",
            source=found.root,
            output=root,
            resolution=resolution,
            options={
                "strips": strips,
                "levels": list(levels),
                "pattern": pattern,
                **as_options(cut),
                "split": ways[0],
                "test": test,
                "seed": seed,
            },
            files=found.files(),
            tasks=tasks,
            work=partial(cut_video, cut=cut),
            split_by=ways,
            split=partial(_split, ways, test, seed),
            notes=lambda stored: [
                *notes(stored, cut),
                *splits.notes(stored, _split(ways, test, seed, stored)),
                *found.note(),
            ],
            decoder=decoder(),
            left_out=left_out,
        ),
        workers=workers,
        strict=strict,
        progress=progress,
    )


def check_share(who: str, share: float) -> None:
    """Refuse a share for testing that leaves nothing on one side."""
    if not 0 < share < 1:
        raise MtzooError(f"{who}: test must lie between 0 and 1, not {share}")


def as_options(cut: Cut) -> dict[str, object]:
    """A `Cut` as JSON values, for the manifest; the margin is the one that is used."""
    return {**vars(cut), "margin": MARGINS.get(cut.crop) if cut.margin is None else cut.margin}


def decoder() -> dict[str, str]:
    """What decodes, for the manifest."""
    return {"name": "PyAV", "version": version("av")}


def ids(videos: Sequence[Found]) -> list[str]:
    """Names for stored videos: the path without its ending, with it where two would be alike."""
    plain = [
        str(PurePosixPath(video.source).with_suffix("")) if video.kind != "folder" else video.source
        for video in videos
    ]
    counts = Counter(plain)
    given: dict[str, None] = {}
    for name, video in zip(plain, videos, strict=True):
        name = video.path.name if name == "." else name if counts[name] == 1 else video.source
        while name in given:
            name += "~"
        given[name] = None
    return list(given)


def cut_video(task: Named, *, cut: Cut) -> list[Video | LeftOut]:
    """Decode, crop and scale one video; runs in a process of its own.

    Returns:
        The video, or the clips that it was cut into.

    Raises:
        MtzooError: Why it cannot be used, without its name.
    """
    path = task.found.path
    try:
        small = _cut_frames(task.found, cut)
    except MtzooError as error:
        raise MtzooError(str(error).removeprefix(f"{path}: ").removeprefix(f"{path} ")) from error
    if small.broken and not cut.keep_damaged:
        raise MtzooError(
            f"{small.broken} of its frames cannot be read; {small.fault} (--keep-damaged uses the "
            "rest)"
        )
    about = {**small.about, **({"broken_frames": small.broken} if small.broken else {})}
    return cut_clips(
        Video(
            id=task.id,
            frames=small.frames,
            fps=small.fps,
            source=task.source,
            source_range=(0, small.read),
            labels=task.labels,
            about=about,
        ),
        cut,
    )


def cut_clips(whole: Video, cut: Cut) -> list[Video | LeftOut]:
    """Cut a video into clips, none overlapping, or keep it, as ``cut`` says.

    Raises:
        MtzooError: It is too short.
    """
    count, length = len(whole.frames), cut.clip
    least = max(cut.min_frames, length or 1)
    if count < least:
        raise MtzooError(f"it has {count} frames of the {least} needed")
    if length is None:
        return [whole]
    return [
        replace(
            whole,
            id=f"{whole.id}@{start:05d}",
            frames=whole.frames[start : start + length],
            source_range=_source_range(start, start + length, count, whole.source_range[1], cut),
            tracks={name: track[start : start + length] for name, track in whole.tracks.items()},
            about={**whole.about, "first": start, "of": count},
        )
        for start in range(0, count - length + 1, length)
    ]


class _Small(NamedTuple):
    """A video's frames as they are stored, and what is known of it."""

    frames: npt.NDArray[np.uint8]
    fps: float
    read: int
    broken: int
    fault: str
    about: dict[str, object]


class _Held:
    """The frames of a video, kept until it is known where to cut.

    Once they take some memory they are reduced, by as much as hardly shows in the end: to keep
    large frames takes a third of the time of decoding them, and memory is there for seconds only.

    A square cut from them differs from that cut from the frames as decoded by less than 1 of 255
    levels on average and 8 at most (`test_genuine_faces_in_the_form_of_the_set`).

    Attributes:
        frames: Those kept; ``None`` once even reduced ones took too much memory.
        reduced: The factor by which their sides are divided.
    """

    def __init__(self, plan: Planner, resolution: int) -> None:
        self.frames: list[media.Frame] | None = []
        self.reduced = 1
        self._plan, self._resolution = plan, resolution
        self._bytes, self._limit = 0, min(WHOLE_BYTES, BUFFER_BYTES)

    def add(self, index: int, frame: media.Frame, fps: float) -> None:
        """Show a frame to the planner and keep it."""
        kept = frame if self.frames is None else frame.reduced(self.reduced)
        # To read a frame of the decoder's once is what costs, so small pictures are made of the
        # kept one, where they come out the same: of one that is large enough and not rounded.
        sides = (kept.width * self.reduced, kept.height * self.reduced)
        same = max(kept.width, kept.height) >= LOOK_PIXELS and sides == (frame.width, frame.height)
        self._plan.look(index, kept if same else frame, fps)
        if self.frames is not None:
            self.frames.append(kept)
            self._bytes += kept.nbytes
            if self._bytes > self._limit:
                self._reduce(self.frames)

    def _reduce(self, frames: list[media.Frame]) -> None:
        longest = max(frames[-1].width, frames[-1].height)
        factor = round(self._plan.side(longest) / (FINE * self._resolution))
        if factor > 1:
            for i, frame in enumerate(frames):
                frames[i] = frame.reduced(factor)
            self.reduced *= factor
            self._bytes = sum(frame.nbytes for frame in frames)
        self._limit = min(BUFFER_BYTES, 2 * self._limit)
        if self._bytes > BUFFER_BYTES:
            self.frames = None


def _cut_frames(found: Found, cut: Cut) -> _Small:
    plan = planner(cut.crop, cut.margin)
    frames: list[npt.NDArray[np.uint8]] = []
    sizes: dict[tuple[int, int], None] = {}
    with _decode(found, cut) as decoded:
        if plan.needs_look:
            held = _Held(plan, cut.resolution)
            count = 0
            for frame in decoded:
                sizes[frame.width, frame.height] = None
                if len(sizes) > 1:
                    raise MtzooError(
                        f"its frames change size ({_sizes(sizes)}), so that no one square fits "
                        "them; take the centre crop"
                    )
                held.add(count, frame, decoded.fps)
                count += 1
            for box, frame in _where(plan, held, next(iter(sizes)), count, found, cut):
                _append(frames, frame.cut(box, cut.resolution))
        else:
            for frame in decoded:
                sizes[frame.width, frame.height] = None
                box = plan.plan(frame.width, frame.height, 1)[0]
                _append(frames, frame.cut(box, cut.resolution))
        about = {**plan.about, **({"sizes": _sizes(sizes)} if len(sizes) > 1 else {})}
        return _Small(
            np.stack(frames), decoded.fps, decoded.read, decoded.broken, decoded.fault, about
        )


def _where(
    plan: Planner, held: _Held, size: tuple[int, int], count: int, found: Found, cut: Cut
) -> Iterator[tuple[media.Box | None, media.Frame]]:
    """Where to cut, and the frames to cut there: those held, or decoded once more."""
    if held.frames is not None:
        first = held.frames[0]
        boxes = plan.plan(first.width, first.height, count, held.reduced)
        smallest = min(box.width for box in boxes if box is not None)
        if held.reduced == 1 or smallest >= LEAST * cut.resolution:
            yield from zip(boxes, held.frames, strict=True)
            return
    boxes = plan.plan(*size, count)
    with _decode(found, cut) as decoded:
        yield from zip(boxes, decoded, strict=False)


def _decode(found: Found, cut: Cut) -> media.Decoded:
    if found.kind == "strip":
        return media.decode_strip(found.path, stride=cut.stride)
    return media.decode(found.path, fps=cut.fps, stride=cut.stride)


def _append(frames: list[npt.NDArray[np.uint8]], frame: npt.NDArray[np.uint8]) -> None:
    frames.append(frame)
    if len(frames) * frame.nbytes > MAX_BYTES:
        raise MtzooError(
            f"more than {MAX_BYTES >> 30} GiB of frames at this size; cut the file into parts, or "
            "take a lower --fps or a larger --stride"
        )


def _sizes(sizes: Iterable[tuple[int, int]]) -> str:
    return ", ".join(f"{width}x{height}" for width, height in sizes)


def _source_range(start: int, stop: int, count: int, read: int, cut: Cut) -> tuple[int, int]:
    """Frames of the file that the stored frames ``[start, stop)`` of ``count`` span."""
    if cut.fps is None:
        return start * cut.stride, min(read, stop * cut.stride)
    return start * read // count, stop * read // count


def _expression(who: str, pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise MtzooError(
            f"{who}: the pattern {pattern!r} is no regular expression: {error}"
        ) from None
    if not expression.groupindex:
        raise MtzooError(
            f"{who}: the pattern {pattern!r} names no label; write one as (?P<person>...)"
        )
    return expression


def _check_names(who: str, names: Sequence[str]) -> None:
    labels = [name for name in names if name != "-"]
    for name in labels:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise MtzooError(f"{who}: {name!r} cannot name a label; use letters, digits and _")
        if labels.count(name) > 1:
            raise MtzooError(f"{who}: the label {name!r} is given twice")


def _labels(
    source: str, levels: Sequence[str], expression: re.Pattern[str] | None
) -> dict[str, str]:
    folders = PurePosixPath(source).parts[:-1]
    if len(folders) < len(levels):
        raise MtzooError(
            f"it lies {len(folders)} folders deep where the levels {', '.join(levels)} need "
            f"{len(levels)}"
        )
    labels = {name: folder for name, folder in zip(levels, folders, strict=False) if name != "-"}
    if expression is not None:
        match = expression.search(source)
        if match is None:
            raise MtzooError("its path does not match the pattern")
        for name, value in match.groupdict().items():
            if not value:
                raise MtzooError(f"its path gives no {name}")
            labels[name] = value
    return labels


def _split(
    ways: Sequence[str], test: float, seed: int, stored: Sequence[Stored]
) -> dict[str, dict[str, Ranges]]:
    make = {
        "share": lambda: splits.by_source(stored, test, seed),
        "person": lambda: splits.by_label(stored, "person", test, seed),
        "time": lambda: splits.by_time(stored, test),
    }
    return splits.join({way: make[way]() for way in ways})


def notes(stored: Sequence[Stored], cut: Cut) -> list[str]:
    """What a user should know of the videos that `cut_video` made."""
    found = list(_notes(stored))
    if cut.crop == "face":
        shares = {v.source: float(str(v.about["faces"])) for v in stored}
        low = [f"{source} ({share:.0%})" for source, share in shares.items() if share < 0.8]
        if low:
            found.append(f"the face was found in few of the frames looked at: {', '.join(low)}")
        several = [v.source for v in stored if int(str(v.about["face_tracks"])) > 1]
        if several:
            found.append(
                "more than one face, of which the one seen most and largest was taken: "
                f"{_some(several)}"
            )
    return found


def _notes(stored: Sequence[Stored]) -> Iterator[str]:
    rates = sorted({round(video.fps, 3) for video in stored})
    if len(rates) > 1:
        yield f"frame rates differ: {_some([f'{rate:g}' for rate in rates])}"
    sizes = [video.source for video in stored if "sizes" in video.about]
    if sizes:
        yield f"the picture changes its size within: {_some(sizes)}"
    damaged = {v.source: v.about["broken_frames"] for v in stored if "broken_frames" in v.about}
    if damaged:
        yield f"used in spite of frames that cannot be read: {_some(list(damaged))}"
    short = sum(video.frames < CLIP_FRAMES for video in stored)
    if short:
        yield f"{short} videos are shorter than the paper's clips of {CLIP_FRAMES} frames"


def _some(names: Sequence[str], most: int = 8) -> str:
    names = list(dict.fromkeys(names))
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
