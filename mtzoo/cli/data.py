"""``mtzoo data``: look at a clip store before training on it; render pairs of a world."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator

MOST = 20
"""Lines of one kind that `verify` prints."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its uses."""
    about = (
        "Look at a prepared clip store: what it holds, and whether its splits leak; or render "
        "held-out pairs of a synthetic world."
    )
    parser = subparsers.add_parser("data", help=about, description=about)
    uses = parser.add_subparsers(dest="use", metavar="USE", required=True)

    about = "Tell a store in words and figures, and lay some of its videos out as a picture."
    show = uses.add_parser("show", help=about, description=about)
    _add_store(show)
    show.add_argument(
        "--output",
        metavar="FILE.png",
        help="where to write the contact sheet: a row a video, frames throughout it (sheet.png in "
        "the store)",
    )
    show.add_argument(
        "--split", metavar="NAME", help="look at this split only, for example test (all)"
    )
    show.add_argument(
        "--split-by", metavar="WAY", help="way to split by, for example person (the store's first)"
    )
    show.add_argument(
        "--videos", type=int, default=16, metavar="N", help="rows of the sheet; 0 for none (16)"
    )
    show.set_defaults(func=run_show)

    about = (
        "Check a store's hashes and frames and name what is in two parts of a split: sources, "
        "persons, and twins, which are videos that show the same footage: copied, encoded anew, "
        "mirrored or cut at another time. Exit status 1 if it is damaged or leaks; notes are no "
        "fault."
    )
    verify = uses.add_parser("verify", help=about, description=about)
    _add_store(verify)
    verify.set_defaults(func=run_verify)

    about = (
        "Render held-out pairs of a synthetic world to try a model on: N_picture.png, "
        "N_video.mp4, and N_truth.mp4, the picture moved as the video moves."
    )
    render = uses.add_parser("render", help=about, description=about)
    render.add_argument(
        "world",
        metavar="WORLD|MODEL",
        help="a synthetic world (shapes, faces), or a model that was trained on one, whose size "
        "and settings are taken then",
    )
    render.add_argument("--output", required=True, metavar="DIR", help="folder for the files")
    render.add_argument(
        "--index", type=int, default=1, metavar="N", help="number of the first pair, from 1 (1)"
    )
    render.add_argument("--pairs", type=int, default=1, metavar="N", help="how many pairs (1)")
    render.set_defaults(func=run_render)


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="folder that mtzoo prepare made")
    parser.add_argument("--json", action="store_true", help="print JSON instead of words")


def run_show(args: argparse.Namespace) -> int:
    """Tell what a store holds; returns the exit status."""
    from pathlib import Path

    from mtzoo import media
    from mtzoo.data.inspect import contact_sheet, summarise
    from mtzoo.data.store import ClipStore
    from mtzoo.errors import MtzooError, printable

    if not 0 <= args.videos <= 200:
        raise MtzooError(f"--videos must lie between 0 and 200, not {args.videos}")
    store = ClipStore(args.store)
    if args.videos and not args.output and not isinstance(store.root, Path):
        raise MtzooError(f"{store.root} is not on this machine; say with --output where to write")
    output = Path(args.output or Path(store.root, "sheet.png"))
    if args.videos:
        if output.suffix.lower() != ".png":
            raise MtzooError(f"--output {output}: the sheet is a picture; end the name in .png")
        output = media.check_output(output)
    part = {"split": args.split, "split_by": args.split_by}
    summary = summarise(store, **part)
    if args.json:
        print(json.dumps({"store": str(store.root), **dataclasses.asdict(summary)}, indent=2))
    else:
        print("\n".join(summary.lines(store)))
    if args.videos:
        media.write_image(output, contact_sheet(store, rows=args.videos, **part))
        if not args.json:
            print(f"sheet: {printable(str(output))}")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Check a store; returns 1 if it is damaged or leaks."""
    from pathlib import Path

    from mtzoo.data.inspect import Finding, Verdict, verify
    from mtzoo.data.remote import is_remote
    from mtzoo.data.store import ClipStore, DamagedError
    from mtzoo.errors import printable

    root = args.store if is_remote(args.store) else Path(args.store).resolve()
    try:
        store = ClipStore(args.store)
        root = store.root
        with _progress() as progress:
            verdict = verify(store, progress=progress)
    except DamagedError as error:  # so that nothing more can be said of it
        verdict = Verdict([Finding("damage", str(error))])
    if args.json:
        told = {"store": str(root), "sound": verdict.sound, **dataclasses.asdict(verdict)}
        print(json.dumps(told, indent=2))
    else:
        for kind in ("damage", "leak", "note"):
            found = [finding for finding in verdict.findings if finding.kind == kind]
            for finding in found[:MOST]:
                print(finding)
            if len(found) > MOST:
                print(f"{kind}: and {len(found) - MOST:,} more; --json tells all")
        said = "sound" if verdict.sound else "NOT sound"
        print(
            f"{printable(str(root))}: {said}; {verdict.videos:,} videos in "
            f"{verdict.shards:,} shard{'s' * (verdict.shards != 1)} checked, "
            f"{verdict.compared:,} of them for twins"
        )
    return 0 if verdict.sound else 1


def run_render(args: argparse.Namespace) -> int:
    """Render pairs; returns the exit status."""
    from pathlib import Path

    from mtzoo import media
    from mtzoo.cli import _use
    from mtzoo.errors import MtzooError

    _use.check_count("--index", args.index, most=1_000_000)
    _use.check_count("--pairs", args.pairs, most=1000)
    pairs = _use.world(args.world)
    output = Path(args.output)
    numbers = range(args.index, args.index + args.pairs)
    names = ("picture.png", "video.mp4", "truth.mp4")
    files = {number: [output / f"{number}_{name}" for name in names] for number in numbers}
    for path in (path for three in files.values() for path in three):
        if path.exists():
            raise MtzooError(f"{path} is there already; name another --output or --index")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MtzooError(f"cannot make {output}: {error.strerror or error}") from error
    scale = _use.shown_scale(pairs.resolution)
    for number, (picture, video, truth) in files.items():
        pair = pairs[number - 1]
        target = pair["target_video"][pair["target_index"]]
        media.write_image(picture, media.enlarge(target[None], scale)[0])
        media.write(video, pair["video"], scale=scale)
        media.write(truth, pair["truth"], scale=scale)
        print(f"{picture} moved as {video} is {truth}")
    return 0


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal's stderr, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=total
        )
