"""Prepare UvA-NEMO: one stable square about the face of each smile.

The set (Dibeklioglu, Salah, Gevers, "Are You Really Smiling at Me? Spontaneous versus Posed
Enjoyment Smiles", ECCV 2012) has 1,240 videos of 400 persons, 1920x1080 at 50 frames a second.
Dual-MTGAN (arXiv 2102.13329, Sec. IV-A) trains on 1,110 of them and tests on 124, at 64x64; how it
crops, at which rate and who is in which part it does not say. Choices here:

- one square a video, so that the head moves in it and not the square with the head;
- the videos' own rate; the recipe takes every second frame of it, as MoCoGAN does;
- by person is the default split: with videos drawn one by one, as the counts of the paper ask for,
  nearly every person tested has been seen in training. That one is kept beside it, as ``paper``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from mtzoo.data.prepare import splits
from mtzoo.data.prepare.pipeline import (
    Preparation,
    Ranges,
    Stored,
    check_target,
    run,
)
from mtzoo.data.prepare.report import Progress, Report, no_progress
from mtzoo.data.prepare.sources import check_apart, find_videos
from mtzoo.data.prepare.videos import (
    CLIP_FRAMES,
    Cut,
    Named,
    as_options,
    check_share,
    cut_video,
    decoder,
    ids,
    notes,
)

TRAIN, TEST = 1110, 124
"""The paper's counts of videos."""

VIDEOS = 1240
"""How many the set has, as its publishers say."""

_NAME = re.compile(r"(?P<person>\d+)_(?P<kind>deliberate|spontaneous)_smile_(?P<take>\d+)")


def prepare_nemo(
    source: str | Path,
    output: str | Path,
    *,
    resolution: int = 64,
    margin: float | None = None,
    fps: float | None = None,
    clip: int | None = None,
    min_frames: int = CLIP_FRAMES,
    keep_damaged: bool = False,
    test: float = 0.1,
    seed: int = 0,
    workers: int = 0,
    strict: bool = False,
    progress: Progress = no_progress,
) -> Report:
    """Make a clip store of UvA-NEMO's videos, or of other videos of one face each.

    Labels are ``person``, ``kind`` (``deliberate`` or ``spontaneous``) and ``take``; of a video
    whose name is not the set's, ``person`` is the name. Splits are ``person`` (the default: a
    share of the persons tests) and ``paper`` (1,110 videos train and 124 test, drawn from the
    sorted list; of a set of another size the same shares, and of what is over neither).

    Args:
        source: Folder of the videos, ``<person>_<deliberate|spontaneous>_smile_<n>.mp4``, at any
            depth.
        output: Folder to make for the store.
        resolution: Side of the frames to store, in pixels.
        margin: Side of the square over that of the face from the brows to the chin; ``None``
            takes 1.6, which holds the head. A head that moves about makes the square as much
            larger as it moves.
        fps: Resample to this many frames a second; ``None`` keeps the videos' own, 50.
        clip: Cut into clips of this many frames; ``None`` keeps videos whole.
        min_frames: Leave out videos with fewer frames, counted as they would be stored.
        keep_damaged: Use what decodes of a damaged or truncated video; else it is left out.
        test: Share of the persons that tests.
        seed: Of both draws.
        workers: Processes that decode; 0 works in this one.
        strict: Raise on the first video that would be left out.
        progress: Told of every video.

    Returns:
        What was done; also written to ``report.json`` in the store.

    Raises:
        MtzooError: Wrong options, no videos, OpenCV is missing, or an output that cannot be
            written.
    """
    who = "prepare nemo"
    cut = Cut(
        resolution=resolution,
        crop="face",
        margin=margin,
        fps=fps,
        clip=clip,
        min_frames=min_frames,
        keep_damaged=keep_damaged,
    )
    cut.check(who)
    check_share(who, test)
    found = find_videos(source)
    root = check_target(output)
    check_apart(found.root, root)
    tasks = [
        Named(video, name, _labels(video.source))
        for video, name in zip(found.videos, ids(found.videos), strict=True)
    ]
    return run(
        Preparation(
            source_set="nemo",
            source=found.root,
            output=root,
            resolution=resolution,
            options={**as_options(cut), "test": test, "seed": seed},
            files=found.files(),
            tasks=tasks,
            work=partial(cut_video, cut=cut),
            split_by=("person", "paper"),
            split=partial(_split, test, seed),
            notes=lambda stored: [
                *_notes(stored),
                *notes(stored, cut),
                *splits.notes(stored, _split(test, seed, stored)),
                *found.note(),
            ],
            decoder=decoder(),
            left_out=found.left_out,
        ),
        workers=workers,
        strict=strict,
        progress=progress,
    )


def _labels(source: str) -> dict[str, str]:
    stem = PurePosixPath(source).stem
    match = _NAME.fullmatch(stem)
    return match.groupdict() if match else {"person": stem}


def _split(test: float, seed: int, stored: Sequence[Stored]) -> dict[str, dict[str, Ranges]]:
    return splits.join(
        {
            "person": splits.by_label(stored, "person", test, seed),
            "paper": splits.by_count(stored, TRAIN, TEST, seed),
        }
    )


def _notes(stored: Sequence[Stored]) -> list[str]:
    sources = {video.source: video.labels for video in stored}
    persons = {labels["person"] for labels in sources.values()}
    other = [source for source, labels in sources.items() if "kind" not in labels]
    kinds = [labels.get("kind", "") for labels in sources.values()]
    found = [
        f"{len(sources):,} videos of {len(persons):,} persons: {kinds.count('deliberate'):,} "
        f"deliberate and {kinds.count('spontaneous'):,} spontaneous smiles"
    ]
    if other:
        found.append(
            f"{len(other):,} names are not the set's "
            "(<person>_<deliberate|spontaneous>_smile_<n>), so the whole name was taken for the "
            f"person: {', '.join(other[:3])}{' ...' if len(other) > 3 else ''}"
        )
    used = TRAIN + TEST
    if len(sources) < used:
        found.append(
            f"split paper: the paper's {TRAIN:,} + {TEST} videos are {used:,}, here are "
            f"{len(sources):,}, split in the same shares"
        )
    elif len(sources) > used:
        found.append(
            f"split paper: the paper's {TRAIN:,} train and {TEST} test; the other "
            f"{len(sources) - used:,} videos belong to neither part of it"
        )
    return found
