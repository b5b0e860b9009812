"""``mtzoo prepare SET``: make a clip store of footage that the user has."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtzoo.data.prepare.report import Report

_Parsers = argparse._SubParsersAction


def add_parser(subparsers: _Parsers[argparse.ArgumentParser]) -> None:
    """Add the verb and its sets."""
    about = "Prepare videos for training: crop, resize and store them as plain frames."
    parser = subparsers.add_parser("prepare", help=about, description=about)
    sets = parser.add_subparsers(dest="set", metavar="SET", required=True)
    _add_videos(sets)
    _add_nemo(sets)
    _add_weizmann(sets)
    _add_bair(sets)


def _add_videos(sets: _Parsers[argparse.ArgumentParser]) -> None:
    parser = _add_set(
        sets,
        "videos",
        "Your own footage: any folder tree of video files, frame folders or frame strips.",
        "folder tree of videos (mp4, avi, mov, mkv, webm, mpg, gif, ...) or folders of frames",
    )
    parser.add_argument(
        "--strips",
        action="store_true",
        help="every picture is a video, its square frames side by side (Monkey-Net, MoCoGAN)",
    )
    parser.add_argument(
        "--levels",
        type=_names,
        default=(),
        metavar="NAME,...",
        help="labels that the folder levels give from the top, for example person,action; - "
        "skips a level",
    )
    parser.add_argument(
        "--pattern",
        metavar="REGEX",
        help="labels from the path below the source: one named group each, for example "
        "'(?P<person>[a-z]+)_(?P<action>[a-z]+)'",
    )
    _add_rate(parser)
    parser.add_argument(
        "--stride", type=int, default=1, metavar="N", help="keep every N-th frame (1)"
    )
    parser.add_argument(
        "--crop",
        choices=("centre", "face", "person", "none"),
        default="centre",
        help="what the square shows: the picture's centre; the face, by one stable square a "
        "video; the person who moves before a still camera, followed; or the whole picture, "
        "squeezed (centre)",
    )
    parser.add_argument(
        "--margin",
        type=float,
        metavar="FACTOR",
        help="side of a face or person crop over that of the face (1.6) or the smallest that holds "
        "the person (1.1)",
    )
    _add_clip(parser)
    _add_limits(parser)
    parser.add_argument(
        "--split",
        choices=("share", "person", "time"),
        help="which way of splitting is the default: by video, by person (needs that label), or "
        "each video by time; the others that apply are kept beside it",
    )
    parser.add_argument(
        "--test", type=float, default=0.1, metavar="SHARE", help="share kept for testing (0.1)"
    )
    _add_seed(parser, "draws what is kept for testing (0)")

    def prepare(args: argparse.Namespace, common: dict[str, Any]) -> Report:
        from mtzoo.data.prepare.videos import prepare_videos

        return prepare_videos(
            strips=args.strips,
            levels=args.levels,
            pattern=args.pattern,
            fps=args.fps,
            stride=args.stride,
            crop=args.crop,
            margin=args.margin,
            clip=args.clip,
            min_frames=args.min_frames,
            keep_damaged=args.keep_damaged,
            split=args.split,
            test=args.test,
            seed=args.seed,
            **common,
        )

    parser.set_defaults(prepare=prepare)


def _add_nemo(sets: _Parsers[argparse.ArgumentParser]) -> None:
    parser = _add_set(
        sets,
        "nemo",
        "UvA-NEMO smiles: one stable square about the face a video, split by person and by the "
        "paper's counts. Needs OpenCV (pip install 'mtzoo[faces]').",
        "folder with <person>_<deliberate|spontaneous>_smile_<n>.mp4 files, at any depth",
    )
    parser.add_argument(
        "--margin",
        type=float,
        metavar="FACTOR",
        help="side of the crop over that of the face (1.6: the head with its hair); a head that "
        "moves makes it larger",
    )
    _add_rate(parser)
    _add_clip(parser)
    _add_limits(parser)
    parser.add_argument(
        "--test",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of the persons that the split by person keeps for testing (0.1)",
    )
    _add_seed(parser, "draws who and what is kept for testing (0)")

    def prepare(args: argparse.Namespace, common: dict[str, Any]) -> Report:
        from mtzoo.data.prepare.nemo import prepare_nemo

        return prepare_nemo(
            margin=args.margin,
            fps=args.fps,
            clip=args.clip,
            min_frames=args.min_frames,
            keep_damaged=args.keep_damaged,
            test=args.test,
            seed=args.seed,
            **common,
        )

    parser.set_defaults(prepare=prepare)


def _add_weizmann(sets: _Parsers[argparse.ArgumentParser]) -> None:
    parser = _add_set(
        sets,
        "weizmann",
        "Weizmann actions: person-centred square crops by the set's silhouettes, cut at the "
        "official length, split by time (the paper's) and by person.",
        "folder with <person>_<action>.avi files, at any depth, and the silhouettes",
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=1.1,
        metavar="FACTOR",
        help="side of the crop over the smallest square that holds the person (1.1)",
    )
    parser.add_argument(
        "--smoothing",
        type=float,
        default=4.0,
        metavar="FRAMES",
        help="how far the crop's centre is smoothed over time; 0 centres each frame (4)",
    )
    parser.add_argument(
        "--masks",
        type=Path,
        metavar="FILE",
        help="original_masks.mat or classification_masks.mat (looked for in the source)",
    )
    parser.add_argument(
        "--held-out",
        type=int,
        default=2,
        metavar="N",
        help="persons that the split by person keeps for testing (2)",
    )
    _add_seed(parser, "draws the persons held out (0)")

    def prepare(args: argparse.Namespace, common: dict[str, Any]) -> Report:
        from mtzoo.data.prepare.weizmann import prepare_weizmann

        return prepare_weizmann(
            margin=args.margin,
            smoothing=args.smoothing,
            masks=args.masks,
            held_out=args.held_out,
            seed=args.seed,
            **common,
        )

    parser.set_defaults(prepare=prepare)


def _add_bair(sets: _Parsers[argparse.ArgumentParser]) -> None:
    parser = _add_set(
        sets,
        "bair",
        "BAIR robot pushing: the published tfrecords, with the robot's actions, or folders of "
        "frames; the official train and test parts.",
        "folder with train and test folders of .tfrecords files (softmotion30_44k), or of frames",
    )
    parser.add_argument(
        "--camera",
        choices=("aux1", "main", "both"),
        default="aux1",
        help="which of the two cameras (aux1, as SVG and later work take)",
    )
    _add_clip(parser)
    _add_min_frames(parser)
    _add_seed(parser, "draws what is kept for testing where no folders say it (0)")

    def prepare(args: argparse.Namespace, common: dict[str, Any]) -> Report:
        from mtzoo.data.prepare.bair import prepare_bair

        return prepare_bair(
            camera=args.camera,
            clip=args.clip,
            min_frames=args.min_frames,
            seed=args.seed,
            **common,
        )

    parser.set_defaults(prepare=prepare)


def _add_set(
    sets: _Parsers[argparse.ArgumentParser], name: str, about: str, source: str
) -> argparse.ArgumentParser:
    """A set's parser with the options that all sets have."""
    parser = sets.add_parser(name, help=about, description=about)
    parser.add_argument("--source", type=Path, required=True, metavar="DIR", help=source)
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder to make for the store; a second run does nothing, one after a kill goes on",
    )
    parser.add_argument(
        "--resolution", type=int, default=64, metavar="PIXELS", help="side of a frame (64)"
    )
    cores = _cores()
    parser.add_argument(
        "--workers",
        type=int,
        default=cores,
        metavar="N",
        help=f"processes that decode; 0 for none beside this one (one a core: {cores})",
    )
    parser.add_argument("--strict", action="store_true", help="stop at a video that cannot be used")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(func=run)
    return parser


def _cores() -> int:
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


def _add_seed(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--seed", type=int, default=0, metavar="SEED", help=what)


def _add_rate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fps",
        type=float,
        metavar="RATE",
        help="frames a second to resample to (each video's own)",
    )


def _add_min_frames(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--min-frames",
        type=int,
        default=16,
        metavar="N",
        help="leave out videos with fewer frames (16)",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    _add_min_frames(parser)
    parser.add_argument(
        "--keep-damaged",
        action="store_true",
        help="use what decodes of damaged videos instead of leaving them out",
    )


def _add_clip(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clip",
        type=int,
        metavar="FRAMES",
        help="cut each video into clips of this many frames, to be trained on with --data.stride 1 "
        "(kept whole: training then draws its windows anywhere)",
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text.strip() else ()


def run(args: argparse.Namespace) -> int:
    """Prepare the set that ``args.set`` names; returns the exit status."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    prepare: Callable[[argparse.Namespace, dict[str, Any]], Report] = args.prepare
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)
        report = prepare(
            args,
            {
                "source": args.source,
                "output": args.output,
                "resolution": args.resolution,
                "workers": args.workers,
                "strict": args.strict,
                "progress": lambda name, done, total: bar.update(
                    task, description=name, completed=done, total=total
                ),
            },
        )
    if args.json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        print("\n".join(report.lines()))
    return 0
