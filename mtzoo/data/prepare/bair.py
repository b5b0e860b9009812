"""Prepare BAIR robot pushing: the published tfrecords, or folders of frames.

The set (Ebert, Finn, Lee, Levine, "Self-Supervised Visual Planning with Temporal Skip
Connections", CoRL 2017) has 43,264 sequences to train and 256 to test, 30 frames of 64x64 each
from two cameras, with the robot's actions and the position of its hand. Dual-MTGAN (arXiv
2102.13329, Sec. IV-A) counts 40,960 to train: 160 of the set's 169 files of 256.

The frames lie in the files as raw bytes, so nothing is decoded; what is stored is what was filmed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from mtzoo import media
from mtzoo.data.prepare import splits, tfrecord
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
from mtzoo.data.prepare.sources import Sources, check_apart, check_source, find_videos
from mtzoo.data.prepare.videos import (
    CLIP_FRAMES,
    Cut,
    Named,
    as_options,
    cut_clips,
    cut_video,
    decoder,
    ids,
    notes,
)
from mtzoo.errors import MtzooError

Camera = Literal["aux1", "main", "both"]

FEATURES = {"aux1": "image_aux1/encoded", "main": "image_main/encoded"}
"""Where each camera's frames are, after the frame's number."""

TRACKS = {"action": 4, "endeffector_pos": 3}
"""Numbers a frame that are kept, and how many."""

SIDE = 64
"""Of the frames as published, in pixels."""

FPS = 10.0
"""A rate for players: neither the tfrecords nor frames recovered from them state one."""

SEQUENCES = {"train": 43_264, "test": 256}
"""How many the usual release has."""

_RECORDS = 16  # a task: some 6 MB of frames a camera pass from process to process
_ENDINGS = (".tfrecords", ".tfrecord")


@dataclass(frozen=True)
class _Run:
    """A run of records of one file; a `mtzoo.data.prepare.pipeline.Task`."""

    path: Path
    source: str
    first: int
    offsets: tuple[int, ...] = field(repr=False)
    videos: int


def prepare_bair(
    source: str | Path,
    output: str | Path,
    *,
    camera: Camera = "aux1",
    resolution: int = SIDE,
    clip: int | None = None,
    min_frames: int = CLIP_FRAMES,
    seed: int = 0,
    workers: int = 0,
    strict: bool = False,
    progress: Progress = no_progress,
) -> Report:
    """Make a clip store of BAIR's tfrecords, or of folders of its frames where there are none.

    A sequence's ``source`` is its file and number, so that pairs take V and V_y from different
    sequences, also where both cameras are kept. The split is ``official``: train and test as the
    folders say; where they do not, a tenth, drawn with the seed, tests. Of the tfrecords, each
    video has the tracks ``action`` (T, 4) and ``endeffector_pos`` (T, 3).

    Args:
        source: Folder of the ``.tfrecords`` files, at any depth, below folders named ``train`` and
            ``test``; or of folders with one picture a frame.
        output: Folder to make for the store.
        camera: ``aux1`` (what SVG and the methods after it use), ``main``, or ``both``.
        resolution: Side of the frames to store, in pixels; 64 keeps them as they are.
        clip: Cut into clips of this many frames; ``None`` keeps the sequences of 30 whole.
        min_frames: Leave out sequences with fewer frames.
        seed: Draws the split where the folders do not give it.
        workers: Processes that read; 0 works in this one.
        strict: Raise on the first sequence that would be left out.
        progress: Told of every run of records.

    Returns:
        What was done; also written to ``report.json`` in the store.

    Raises:
        MtzooError: Wrong options, nothing of the set, or an output that cannot be written.
    """
    who = "prepare bair"
    if camera not in (*FEATURES, "both"):
        raise MtzooError(f"{who}: camera must be aux1, main or both, not {camera!r}")
    cut = Cut(resolution=resolution, crop="none", clip=clip, min_frames=min_frames)
    cut.check(who)
    root = check_target(output)
    check_apart(check_source(source), root)
    found = _find(source)
    records = bool(found.videos) and found.videos[0].path.suffix.lower() in _ENDINGS
    left_out = list(found.left_out)
    tasks: Sequence[Any]
    work: Callable[[Any], list[Video | LeftOut]]
    if records:
        cameras = tuple(FEATURES) if camera == "both" else (camera,)
        tasks, faults = _runs(found, len(cameras))
        left_out += faults
        work = partial(_read, cut=cut, cameras=cameras)
    else:
        tasks = [
            Named(video, name, {})
            for video, name in zip(found.videos, ids(found.videos), strict=True)
        ]
        cut = replace(cut, fps=FPS)
        work = partial(cut_video, cut=cut)
    return run(
        Preparation(
            source_set="bair",
            source=found.root,
            output=root,
            resolution=resolution,
            options={**as_options(cut), "camera": camera, "seed": seed},
            files=found.files(),
            tasks=tasks,
            work=work,
            split_by=("official",),
            split=partial(_split, seed),
            notes=lambda stored: [
                *_notes(stored, records),
                *notes(stored, cut),
                *splits.notes(stored, _split(seed, stored)),
                *found.note(),
            ],
            decoder={"name": "raw", "version": "1"} if records else decoder(),
            left_out=left_out,
        ),
        workers=workers,
        strict=strict,
        progress=progress,
    )


def _find(source: str | Path) -> Sources:
    """The tfrecords, or else the folders of frames."""
    what = "BAIR's .tfrecords files (softmotion30_44k/train and test) or folders of its frames"
    try:
        return find_videos(source, wanted=lambda ending: ending in _ENDINGS, what=what)
    except MtzooError as error:
        if what not in str(error):
            raise
    return find_videos(source, what=what)


def _runs(found: Sources, cameras: int) -> tuple[list[_Run], list[LeftOut]]:
    """Cut the files into tasks."""
    tasks, faults = [], []
    for file in found.videos:
        try:
            index = tfrecord.index(file.path)
        except MtzooError as error:
            faults.append(LeftOut(file.source, str(error)))
            continue
        if index.missing:
            faults.append(LeftOut(file.source, f"{index.missing}; the records before are used"))
        for first in range(0, len(index.offsets), _RECORDS):
            offsets = index.offsets[first : first + _RECORDS]
            videos = len(offsets) * cameras
            tasks.append(_Run(file.path, file.source, first, offsets, videos))
    if not tasks:
        raise MtzooError(
            f"no file in {found.root} can be read; {faults[0].source}: {faults[0].reason}"
        )
    return tasks, faults


def _read(task: _Run, *, cut: Cut, cameras: Sequence[str]) -> list[Video | LeftOut]:
    """Read a run of records; runs in a process of its own."""
    given: list[Video | LeftOut] = []
    stem = str(PurePosixPath(task.source).with_suffix(""))
    for number, data in enumerate(tfrecord.read(task.path, task.offsets), task.first):
        source = f"{task.source}#{number:03d}"
        try:
            if data is None:
                raise MtzooError("the record is damaged (its checksum is wrong)")
            features = tfrecord.parse(data)
            tracks = {track: _track(features, track) for track in TRACKS}
            for camera in cameras:
                frames = _frames(features, camera, cut)
                if len(frames) != len(tracks["action"]):
                    raise MtzooError(
                        f"it has {len(frames)} frames and {len(tracks['action'])} actions"
                    )
                name = f"{stem}/{number:03d}" + (f"/{camera}" if len(cameras) > 1 else "")
                given += cut_clips(
                    Video(
                        id=name,
                        frames=frames,
                        fps=FPS,
                        source=source,
                        source_range=(0, len(frames)),
                        labels={"camera": camera},
                        tracks=tracks,
                    ),
                    cut,
                )
        except MtzooError as error:
            given.append(LeftOut(source, str(error)))
    return given


def _frames(
    features: Mapping[str, Sequence[object]], camera: str, cut: Cut
) -> npt.NDArray[np.uint8]:
    """One camera's frames, uint8 ``(T, resolution, resolution, 3)``."""
    pictures = []
    while (values := features.get(f"{len(pictures)}/{FEATURES[camera]}")) is not None:
        raw = values[0] if len(values) == 1 else None
        if not isinstance(raw, bytes) or len(raw) != SIDE * SIDE * 3:
            what = f"{len(raw):,} bytes" if isinstance(raw, bytes) else "something else"
            raise MtzooError(
                f"frame {len(pictures)} of camera {camera} is {what} where {SIDE}x{SIDE} RGB is "
                f"{SIDE * SIDE * 3:,} raw bytes"
            )
        pictures.append(np.frombuffer(raw, np.uint8).reshape(SIDE, SIDE, 3))
    if not pictures:
        raise MtzooError(f"it has no feature 0/{FEATURES[camera]}")
    if cut.resolution != SIDE:
        pictures = [media.Frame(Image.fromarray(p)).cut(None, cut.resolution) for p in pictures]
    return np.stack(pictures)


def _track(features: Mapping[str, Sequence[object]], track: str) -> npt.NDArray[np.float32]:
    """One track, float32 ``(T, D)``."""
    rows = []
    while (values := features.get(f"{len(rows)}/{track}")) is not None:
        if len(values) != TRACKS[track] or not all(isinstance(v, float) for v in values):
            raise MtzooError(f"{len(rows)}/{track} is not {TRACKS[track]} numbers")
        rows.append(values)
    if not rows:
        raise MtzooError(f"it has no feature 0/{track}")
    return np.array(rows, np.float32)


def _side(source: str) -> str:
    """Which part of the set the folders say a file belongs to; empty if they do not."""
    parts = [part.lower() for part in PurePosixPath(source).parts[:-1]]
    return next((part for part in reversed(parts) if part in SEQUENCES), "")


def _split(seed: int, stored: Sequence[Stored]) -> dict[str, dict[str, Ranges]]:
    if all(_side(video.source) for video in stored):
        ranges = {v.id: [(_side(v.source), 0, v.frames)] for v in stored}
        return splits.join({"official": ranges})
    return splits.join({"official": splits.by_source(stored, 0.1, seed)})


def _notes(stored: Sequence[Stored], records: bool) -> list[str]:
    sources = {video.source for video in stored}
    sides = [_side(source) for source in sources]
    if not all(sides):
        return [
            "no folders named train and test above the files: a tenth, drawn with the seed, tests"
        ]
    counts = {side: sides.count(side) for side in SEQUENCES}
    found = [f"{counts['train']:,} sequences train, {counts['test']:,} test"]
    if records and counts != SEQUENCES:
        found.append(
            f"the usual release has {SEQUENCES['train']:,} and {SEQUENCES['test']}; the paper "
            "trains on 40,960"
        )
    return found
