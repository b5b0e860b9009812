"""``mtzoo prepare SET``: make a clip store of a public set that the user has."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its sets."""
    about = "Prepare a video set for training: crop, resize and store it as plain frames."
    parser = subparsers.add_parser("prepare", help=about, description=about)
    sets = parser.add_subparsers(dest="set", metavar="SET", required=True)

    about = (
        "Weizmann actions: person-centred square crops by the set's silhouettes, cut at the "
        "official length, split by time (the paper's) and by person."
    )
    weizmann = sets.add_parser("weizmann", help=about, description=about)
    weizmann.add_argument(
        "--source",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with <person>_<action>.avi files, at any depth, and the silhouettes",
    )
    weizmann.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder to make for the store"
    )
    weizmann.add_argument(
        "--resolution", type=int, default=64, metavar="PIXELS", help="side of a frame (64)"
    )
    weizmann.add_argument(
        "--margin",
        type=float,
        default=1.1,
        metavar="FACTOR",
        help="side of the crop over the smallest square that holds the person (1.1)",
    )
    weizmann.add_argument(
        "--smoothing",
        type=float,
        default=4.0,
        metavar="FRAMES",
        help="how far the crop's centre is smoothed over time; 0 centres each frame (4)",
    )
    weizmann.add_argument(
        "--masks",
        type=Path,
        metavar="FILE",
        help="original_masks.mat or classification_masks.mat (looked for in the source)",
    )
    weizmann.add_argument(
        "--held-out",
        type=int,
        default=2,
        metavar="N",
        help="persons that the split by person keeps for testing (2)",
    )
    weizmann.add_argument(
        "--seed", type=int, default=0, metavar="SEED", help="draws the persons held out (0)"
    )
    weizmann.add_argument(
        "--strict", action="store_true", help="stop at a video that cannot be used"
    )
    weizmann.set_defaults(func=run)


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

    from mtzoo.data.prepare.weizmann import prepare_weizmann

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    console = Console(stderr=True)
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("", total=None)
        report = prepare_weizmann(
            args.source,
            args.output,
            resolution=args.resolution,
            margin=args.margin,
            smoothing=args.smoothing,
            masks=args.masks,
            held_out=args.held_out,
            seed=args.seed,
            strict=args.strict,
            progress=lambda name, done, total: bar.update(
                task, description=name, completed=done, total=total
            ),
        )
    print("\n".join(report.lines()))
    return 0
