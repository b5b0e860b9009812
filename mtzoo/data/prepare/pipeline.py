"""The way every preparation goes: videos in, in parallel; a whole clip store out, or none.

A preparation says what it found, how one task becomes videos, and how the stored videos are
split. The rest is the same for all: worker processes, order, progress, what was left out, going
on after a kill, and doing nothing when all is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from mtzoo.data.prepare.report import Progress, Report, no_progress

Ranges = Sequence[tuple[str, int, int]]
"""``(split, start, stop)``: which of a video's frames belong to which split."""


class Task(Protocol):
    """A piece of work for one process; small, and it can be pickled.

    Attributes:
        source: What it reads, relative to the source folder.
        videos: How many videos it is expected to give.
    """

    @property
    def source(self) -> str: ...

    @property
    def videos(self) -> int: ...


T = TypeVar("T", bound=Task)


@dataclass(frozen=True, kw_only=True)
class Video:
    """A video ready to be stored.

    Attributes:
        id: Its name, unique in the store.
        frames: uint8 ``(T, H, W, C)``, T at least 1, of the store's size.
        fps: Frames a second of ``frames``.
        source: File (or folder) that it was made from, relative to the source folder.
        source_range: Frames of the source that it spans, ``[a, b)``.
        labels: What is known about it, for example person and action.
        tracks: Numbers measured a frame, float32 ``(T, D)`` each, for example a robot's action.
        about: What was measured on it, as JSON values; goes into the report.
    """

    id: str
    frames: npt.NDArray[np.uint8]
    fps: float
    source: str
    source_range: tuple[int, int]
    labels: Mapping[str, str] = field(default_factory=dict)
    tracks: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    about: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class LeftOut:
    """Something found that is not in the store, and why.

    Attributes:
        source: As in `Video`.
        reason: One clause without the source's name.
    """

    source: str
    reason: str


@dataclass(frozen=True)
class Stored:
    """What is known of a stored video when the splits are made; as in `Video`."""

    id: str
    frames: int
    fps: float
    source: str
    labels: Mapping[str, str]
    about: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Preparation(Generic[T]):
    """What one source set brings along.

    Attributes:
        source_set: Short name of the set, for the manifest.
        source: The source folder, absolute.
        output: Folder to make for the store.
        resolution: Side of the frames in pixels.
        channels: Colour channels.
        options: All that decides what comes out, as JSON values; kept in the manifest. A second
            run with other options is another preparation.
        files: What is read; their names, sizes and times tell whether the source changed.
        tasks: In the order in which their videos are to be stored.
        work: Turns a task into videos, in a process of its own; a top-level function or a
            `functools.partial` of one. What it raises as `MtzooError` leaves the task out.
        split_by: Ways in which the videos are split; the first is the default.
        split: Gives, by id and by way, the ranges of each stored video.
        notes: What a user should know before training, one line each.
        decoder: Name and version of what decodes.
        left_out: What was left out before any task, for example by its name.
    """

    source_set: str
    source: Path
    output: Path
    resolution: int
    channels: int = 3
    options: Mapping[str, object]
    files: Sequence[Path]
    tasks: Sequence[T]
    work: Callable[[T], Sequence[Video | LeftOut]]
    split_by: tuple[str, ...]
    split: Callable[[Sequence[Stored]], Mapping[str, Mapping[str, Ranges]]]
    notes: Callable[[Sequence[Stored]], Sequence[str]]
    decoder: Mapping[str, str]
    left_out: Sequence[LeftOut] = ()


def run(
    preparation: Preparation[T],
    *,
    workers: int = 0,
    strict: bool = False,
    progress: Progress = no_progress,
) -> Report:
    """Make the clip store; being written (see the tests' stand-in)."""
    raise RuntimeError
