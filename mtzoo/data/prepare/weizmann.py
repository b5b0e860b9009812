"""Prepare the Weizmann action videos: person-centred square crops in a clip store.

The set (Blank, Gorelick, Shechtman, Irani, Basri, "Actions as Space-Time Shapes", ICCV 2005) has
ten actions of nine persons in 93 videos of 180x144 at 25 frames a second, and silhouettes for
every frame. Dual-MTGAN (arXiv 2102.13329, Sec. IV-A) crops each frame to centre on the person,
trains on the first two thirds of each video's frames and tests on the last third. How it crops
is not said; the choices here:

- the centre is that of the silhouette's bounding box, smoothed over time, so that the crop
  follows the person through the scene but leaves the bounce of a jump or a step in the picture;
- one size a video, the smallest square about that centre that holds the person in every frame
  (times a margin), so that nothing is cut off and the person's size does not flicker;
- where the square reaches over the picture's border, the border's pixels are repeated;
- the crop is placed to a fraction of a pixel and resized with an antialiasing (bicubic) filter.

Copies of the set exist that were encoded anew, with one file for ``lena`` where the official set
has two (``run1``, ``run2``), and with files that start over once the official length is reached.
The silhouettes know both: of two candidates the one that fits the moving pixels is taken, and
its number of frames is where the video ends.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from mtzoo import media
from mtzoo.data.prepare.crops import Crops, plan_crops
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
from mtzoo.data.prepare.sources import find_videos
from mtzoo.errors import MtzooError
from mtzoo.interfaces import check_resolution

ACTIONS = (
    "bend",
    "jack",
    "jump",
    "pjump",
    "run",
    "side",
    "skip",
    "walk",
    "wave1",
    "wave2",
)

_WANTED = ".avi files of the set, unpacked and named <person>_<action>.avi,"

MASK_FILES = ("original_masks.mat", "classification_masks.mat")

TEST_FRAMES = 16
"""Length of the paper's clips: a test part shorter than this gives none at stride 1."""

# How well a silhouette fits the moving pixels of its video: about 0.9 where a person crosses the
# picture, 0.3 and more where one moves an arm only, 0 for another video's.
_LEAST_AGREEMENT = 0.1

_Array = npt.NDArray[np.uint8]


class Take(NamedTuple):
    """A video of the set and its silhouettes: uint8 ``(T, H, W, 3)`` and ``(T, H, W)``."""

    person: str
    action: str
    frames: _Array
    mask: _Array


class _Named(NamedTuple):
    """A video file whose name says who does what, and the silhouettes that may be its own."""

    path: Path
    source: str
    person: str
    action: str
    candidates: tuple[str, ...]
    videos: int = 1


def prepare_weizmann(
    source: str | Path,
    output: str | Path,
    *,
    resolution: int = 64,
    margin: float = 1.1,
    smoothing: float = 4.0,
    masks: str | Path | None = None,
    held_out: int = 2,
    seed: int = 0,
    workers: int = 0,
    strict: bool = False,
    progress: Progress = no_progress,
) -> Report:
    """Make a clip store of the Weizmann videos.

    Every video is stored once and split in two ways: by ``time`` (the paper's: first two thirds
    of the frames train, rounded down, the rest test) and by ``person`` (whole videos; the persons
    held out for testing are drawn with ``seed``).

    Args:
        source: Folder with the ``.avi`` files, at any depth, named ``<person>_<action>.avi``, and
            the silhouettes.
        output: Folder to make for the store.
        resolution: Side of the frames to store, in pixels.
        margin: Side of the crop over that of the smallest square that holds the person, from 1.
        smoothing: Standard deviation in frames of the Gaussian that smooths the crop's centre;
            0 centres every frame by itself.
        masks: The silhouettes' ``.mat`` file; ``None`` looks for the official names in ``source``.
        held_out: How many persons the split by person holds out for testing.
        seed: Draws the persons held out.
        workers: Processes that decode and crop; 0 works in this one.
        strict: Raise on the first video that would be skipped.
        progress: Told of every video.

    Returns:
        What was done; also written to ``report.json`` in the store.

    Raises:
        MtzooError: Wrong options, no videos, no silhouettes, or an output that cannot be written.
    """
    check_resolution(resolution, "prepare weizmann")
    if not (math.isfinite(margin) and 1 <= margin <= 4):
        raise MtzooError(f"prepare weizmann: margin must lie between 1 and 4, not {margin}")
    if not (math.isfinite(smoothing) and 0 <= smoothing <= 100):
        raise MtzooError(f"prepare weizmann: smoothing must lie between 0 and 100, not {smoothing}")
    if held_out < 0:
        raise MtzooError(f"prepare weizmann: held_out must be 0 or more, not {held_out}")
    root = check_target(output)
    found = find_videos(source, wanted=lambda ending: ending == ".avi", what=_WANTED)
    source = found.root
    mask_file = Path(masks).resolve() if masks is not None else _find_masks(source)
    silhouettes = load_masks(mask_file)

    named: list[_Named] = []
    left_out = list(found.left_out)
    for video in found.videos:
        try:
            named.append(_parse_name(video.path, video.source, silhouettes))
        except MtzooError as error:
            left_out.append(LeftOut(video.source, str(error)))
    tested = draw_persons(sorted({video.person for video in named}), held_out, seed)
    # A file that names its sequence in full has the first claim on it.
    named.sort(key=lambda video: (len(video.candidates) > 1, video.path))
    return run(
        Preparation(
            source_set="weizmann",
            source=source,
            output=root,
            resolution=resolution,
            options={
                "resolution": resolution,
                "margin": margin,
                "smoothing": smoothing,
                "held_out": held_out,
                "seed": seed,
                "test_persons": tested,
                "padding": "edge",
                "resampling": "bicubic, antialiased",
            },
            files=[*found.files(), mask_file],
            tasks=named,
            work=partial(
                _prepare, mask_file, resolution=resolution, margin=margin, smoothing=smoothing
            ),
            split_by=("time", "person"),
            split=partial(_split, tested),
            notes=partial(_notes, tested),
            decoder={"name": "PyAV", "version": version("av")},
            left_out=left_out,
        ),
        workers=workers,
        strict=strict,
        progress=progress,
    )


def takes(source: str | Path) -> Iterator[Take]:
    """Every video of the set at its own size, for a look at what is prepared of it.

    Args:
        source: As for `prepare_weizmann`.

    Raises:
        MtzooError: There are no videos or silhouettes, or one cannot be read.
    """
    found = find_videos(source, wanted=lambda ending: ending == ".avi", what=_WANTED)
    known = load_masks(_find_masks(found.root))
    for video in found.videos:
        named = _parse_name(video.path, video.source, known)
        sequence, frames, _, _ = _read(named, known)
        yield Take(named.person, named.action, frames, known[sequence][: len(frames)])


def _prepare(
    masks: Path, video: _Named, *, resolution: int, margin: float, smoothing: float
) -> list[Video]:
    """Crop one video; runs in a process of its own."""
    silhouettes = _known_masks(masks, masks.stat().st_mtime_ns)
    sequence, frames, fps, agreement = _read(video, silhouettes)
    mask = silhouettes[sequence]
    crops = plan_crops(mask[: len(frames)], margin=margin, smoothing=smoothing)
    return [
        Video(
            id=sequence,
            frames=crop(frames, crops, resolution),
            fps=fps,
            source=video.source,
            source_range=(0, len(frames)),
            labels={"person": video.person, "action": video.action},
            about={
                "silhouettes": len(mask),
                "test_frames": len(frames) - _edge(len(frames)),
                "crop_side": round(crops.side, 1),
                "padded_frames": _over_border(crops, *frames.shape[1:3]),
                "agreement": round(agreement, 3),
            },
        )
    ]


def _edge(frames: int) -> int:
    """The first frame of the paper's test part."""
    return 2 * frames // 3


def _split(tested: Sequence[str], stored: Sequence[Stored]) -> dict[str, dict[str, Ranges]]:
    return {
        video.id: {
            "time": [
                ("train", 0, _edge(video.frames)),
                ("test", _edge(video.frames), video.frames),
            ],
            "person": [("test" if video.labels["person"] in tested else "train", 0, video.frames)],
        }
        for video in stored
    }


def _notes(tested: Sequence[str], stored: Sequence[Stored]) -> list[str]:
    def total(what: str) -> int:
        return sum(int(str(video.about[what])) for video in stored)

    short = [v for v in stored if v.frames - _edge(v.frames) < TEST_FRAMES]
    cut = [
        f"{v.id} ({v.frames} of {v.about['silhouettes']} frames)"
        for v in stored
        if v.frames != v.about["silhouettes"]
    ]
    doubtful = [v.id for v in stored if float(str(v.about["agreement"])) < _LEAST_AGREEMENT]
    rates = sorted({v.fps for v in stored})
    notes = [
        f"split by time: {len(short)} of {len(stored)} videos have a test part shorter "
        f"than {TEST_FRAMES} frames, so they give no test clip of that length",
        f"split by person: {', '.join(tested) or 'nobody'} held out for testing",
        f"{total('padded_frames')} of {sum(v.frames for v in stored):,} frames reach over the "
        "picture's border and repeat its pixels there",
    ]
    if cut:
        notes.append(f"shorter than their silhouettes (cut off?): {', '.join(cut)}")
    if doubtful:
        notes.append(f"silhouettes hardly fit the moving pixels of: {', '.join(doubtful)}")
    if len(rates) > 1:
        notes.append(f"frame rates differ: {', '.join(map(str, rates))}")
    return notes


def _find_masks(source: Path) -> Path:
    for name in MASK_FILES:
        if found := sorted(source.rglob(name)):
            return found[0]
    raise MtzooError(
        f"no silhouettes in {source} or below ({' or '.join(MASK_FILES)}); put the set's "
        "classification_masks.mat there or name it with --masks"
    )


def load_masks(path: Path) -> dict[str, _Array]:
    """Read the set's silhouettes.

    Args:
        path: MATLAB file up to version 7 with the struct ``original_masks``, one field of
            ``(H, W, T)`` a sequence (``original_masks.mat`` or ``classification_masks.mat``).

    Returns:
        By sequence (``"lena_run1"``), uint8 ``(T, H, W)`` of zeros and ones.

    Raises:
        MtzooError: The file is missing, damaged, of MATLAB 7.3, or holds something else.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise MtzooError(f"the silhouettes {path} are not there")
    try:
        loaded = loadmat(path, variable_names=["original_masks"])
    except NotImplementedError:
        raise MtzooError(
            f"{path} is a MATLAB 7.3 file, which cannot be read; save it with -v7 in MATLAB"
        ) from None
    except Exception as error:  # its reader raises whatever a damaged byte leads it to
        raise MtzooError(
            f"{path} is no MATLAB file that can be read ({' '.join(str(error).split())})"
        ) from error
    struct = loaded.get("original_masks")
    names = getattr(getattr(struct, "dtype", None), "names", None)
    if struct is None or not names or struct.size != 1:
        raise MtzooError(f"{path} has no struct 'original_masks' with a field a sequence")
    masks: dict[str, _Array] = {}
    for name in names:
        mask = np.asarray(struct.reshape(-1)[0][name])
        if mask.ndim == 2:
            mask = mask[:, :, None]
        if mask.ndim != 3 or mask.dtype.kind not in "buif" or not mask.size:
            raise MtzooError(f"{path}: the silhouettes {name!r} are not (height, width, frames)")
        masks[str(name)] = np.ascontiguousarray((mask != 0).transpose(2, 0, 1)).astype(np.uint8)
    return masks


@functools.lru_cache(maxsize=1)
def _known_masks(path: Path, changed: int) -> dict[str, _Array]:
    """`load_masks`, once a process; ``changed`` is the time stamp of the file meant."""
    return load_masks(path)


def _parse_name(path: Path, source: str, silhouettes: Mapping[str, _Array]) -> _Named:
    """Read person, action and possible silhouettes off a file name."""
    match = re.fullmatch(r"([a-z]+)_([a-z]+)([12]?)", path.stem.lower())
    if not match:
        raise MtzooError("its name is not <person>_<action>.avi")
    person, verb, number = match.groups()
    if verb + number in ACTIONS:
        action = verb + number
    elif verb in ACTIONS:
        action = verb
    else:
        raise MtzooError(f"{verb + number!r} is none of the actions {', '.join(ACTIONS)}")
    stem = f"{person}_{verb}{number}"
    exact = (stem,) if stem in silhouettes else ()
    takes = tuple(stem + take for take in "12" if action == stem.split("_")[1])
    candidates = exact or tuple(name for name in takes if name in silhouettes)
    if not candidates:
        raise MtzooError(f"there are no silhouettes named {stem}")
    return _Named(path, source, person, action, candidates)


def _read(video: _Named, silhouettes: Mapping[str, _Array]) -> tuple[str, _Array, float, float]:
    """Decode a video as far as its silhouettes go; returns the sequence that it is as well."""
    longest = max(len(silhouettes[name]) for name in video.candidates)
    clip = media.read_video(video.path, frames=longest)
    if clip.skipped:
        # Frames after a lost one would be cropped by another frame's silhouette.
        raise MtzooError(f"{clip.skipped} of its frames are damaged")
    frames = clip.frames.numpy()
    for name in video.candidates:
        if silhouettes[name].shape[1:] != frames.shape[1:3]:
            height, width = silhouettes[name].shape[1:]
            raise MtzooError(
                f"its frames are {frames.shape[2]}x{frames.shape[1]}, its silhouettes "
                f"{width}x{height}"
            )
    fits = {name: fit(frames, silhouettes[name]) for name in video.candidates}
    best = max(fits, key=lambda name: fits[name])
    if len(fits) > 1 and fits[best] < _LEAST_AGREEMENT:
        raise MtzooError(f"none of the silhouettes {', '.join(fits)} fits it")
    frames = frames[: len(silhouettes[best])]
    if len(frames) < 3:
        raise MtzooError(f"it has {len(frames)} frames")
    return best, frames, clip.fps, fits[best]


def fit(frames: _Array, mask: _Array) -> float:
    """How well silhouettes fit what moves in a video.

    Args:
        frames: uint8 ``(T, H, W, 3)``.
        mask: uint8 ``(T', H, W)``; compared over the frames that both have.

    Returns:
        Correlation over pixels between the silhouette and the difference to the video's
        median picture, in [-1, 1]; 0 where nothing moves.
    """
    count = min(len(frames), len(mask))
    # Green alone and every other pixel tell videos apart as well, in a tenth of the time.
    green = frames[:count, ::2, ::2, 1].astype(np.float32)
    moving = np.abs(green - np.median(green, axis=0)).ravel()
    inside = mask[:count, ::2, ::2].astype(np.float32).ravel()
    moving -= moving.mean()
    inside -= inside.mean()
    scale = math.sqrt(float(moving @ moving) * float(inside @ inside))
    return float(moving @ inside) / scale if scale else 0.0


def crop(frames: _Array, crops: Crops, resolution: int) -> _Array:
    """Cut the squares out and resize them.

    Args:
        frames: uint8 ``(T, H, W, 3)``.
        crops: One square a frame.
        resolution: Side of the result in pixels.

    Returns:
        uint8 ``(T, resolution, resolution, 3)``.
    """
    low = crops.centres.min(axis=0) - crops.side / 2
    high = crops.centres.max(axis=0) + crops.side / 2 - (frames.shape[2], frames.shape[1])
    # One pixel more than the squares reach over: the filter looks at neighbours.
    pad = max(0, math.ceil(max(-low.min(), high.max()))) + 1
    wide = np.pad(frames, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
    cut = np.empty((len(frames), resolution, resolution, 3), np.uint8)
    for target, frame, (x, y) in zip(cut, wide, crops.centres, strict=True):
        left, top = x + pad - crops.side / 2, y + pad - crops.side / 2
        box = (left, top, left + crops.side, top + crops.side)
        image = Image.fromarray(frame)
        target[:] = np.asarray(
            image.resize((resolution, resolution), Image.Resampling.BICUBIC, box=box)
        )
    return cut


def _over_border(crops: Crops, height: int, width: int) -> int:
    """How many squares reach over the picture's border."""
    low = crops.centres - crops.side / 2
    high = crops.centres + crops.side / 2
    return int(((low < 0).any(axis=1) | (high > (width, height)).any(axis=1)).sum())


def draw_persons(persons: Sequence[str], count: int, seed: int) -> list[str]:
    """Draw the persons to hold out, sorted; at least one person is left to train on."""
    order = torch.randperm(len(persons), generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(persons[int(i)] for i in order[: max(0, min(count, len(persons) - 1))])
