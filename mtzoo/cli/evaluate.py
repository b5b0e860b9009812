"""``mtzoo evaluate``: score a model beside its baselines, with intervals, by a named protocol."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtzoo.evaluation.scores import Scores
    from mtzoo.interfaces import PairDataset


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    about = (
        "Score a model on test videos: transfer against the truth where a synthetic world knows "
        "it, the best of sampled motions, reconstruction; each beside copying."
    )
    parser = subparsers.add_parser("evaluate", help=about, description=about)
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="run folder of fit, or weights folder"
    )
    parser.add_argument(
        "--data",
        metavar="DIR|WORLD",
        help="clip store, its address, or a synthetic world (shapes, faces); left out: the data "
        "of the run's recipe",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder to make for the results"
    )
    parser.add_argument(
        "--protocol",
        default="mtzoo",
        metavar="NAME",
        help="how SSIM is computed and how many samples are drawn: mtzoo, svg2018, savp2018, "
        "srvp2020 (mtzoo)",
    )
    parser.add_argument(
        "--samples", type=int, metavar="N", help="samples a video (the protocol's); 0 for none"
    )
    parser.add_argument(
        "--videos", type=int, default=256, metavar="N", help="test videos at most (256)"
    )
    parser.add_argument(
        "--split-by", default="", metavar="WAY", help="a store's way to split (its first)"
    )
    parser.add_argument(
        "--stride", type=int, default=1, metavar="N", help="frames of a store's video a step (1)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="SEED", help="of the samples (0)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run (auto)"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Score, write ``results.json``, a table and a sheet; returns the exit status."""
    from mtzoo.cli import _use
    from mtzoo.errors import MtzooError
    from mtzoo.evaluation.metrics import protocol

    asked = protocol(args.protocol)
    _use.check_count("--videos", args.videos, most=1_000_000)
    if args.samples:
        _use.check_count("--samples", args.samples, most=1000)
    elif args.samples is not None and args.samples < 0:
        raise MtzooError(f"--samples must be 0 or more, not {args.samples}")
    _use.check_seed(args.seed)
    output: Path = args.output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise MtzooError(f"--output {output} is there already; name another folder")

    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from mtzoo.engine.folder import versions, write_json
    from mtzoo.engine.samples import paint
    from mtzoo.evaluation.scores import score
    from mtzoo.media import sheet, write_image
    from mtzoo.weights import WEIGHTS, weights_folder

    device = _use.pick_device(args.device)
    model, config = _use.load(args.model, device)
    pairs, data = _pairs(args, config)
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        _use.computing(device),
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("", total=None)
        scores = score(
            model,
            pairs,
            protocol=asked,
            videos=args.videos,
            samples=args.samples,
            device=device,
            seed=args.seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        names, clips = paint(model, pairs, 4, device=device, seed=args.seed)
    results = {
        **scores.as_json(),
        "model": str(Path(args.model)),
        "weights_sha256": _sha256(weights_folder(args.model) / WEIGHTS),
        "data": data,
        "seed": args.seed,
        "versions": versions(torch.device(device)),
    }
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MtzooError(f"cannot make {output}: {error.strerror or error}") from error
    rows = [row for clip in clips for row in clip]
    write_image(output / "sheet.png", sheet(rows, labels=names * len(clips)))
    write_json(output / "results.json", results)
    _print(scores)
    print(f"results: {output}")
    return 0


def _pairs(args: argparse.Namespace, config: dict[str, Any]) -> tuple[PairDataset, dict[str, Any]]:
    """The test split, and the section that describes it."""
    from mtzoo.data.remote import is_remote
    from mtzoo.errors import MtzooError
    from mtzoo.recipe import build_dataset, load_recipe
    from mtzoo.registries import datasets

    sizes = {"resolution": config["resolution"], "frames": config["frames"]}
    if args.data is None:
        recipe = Path(args.model) / "recipe.yaml"
        if not recipe.is_file():
            raise MtzooError(
                f"{args.model} is no run folder with a recipe, so name the data with --data: a "
                "clip store or a synthetic world (shapes, faces)"
            )
        found = load_recipe(recipe)
        return build_dataset(found.data, split="test", seed=found.seed), dict(found.data)
    if args.data in datasets.names() and args.data != "clips":
        section = {"name": args.data, **sizes}
    elif is_remote(args.data) or Path(args.data).exists():
        section = {
            "name": "clips",
            "root": args.data,
            "frames": config["frames"],
            "stride": args.stride,
            "split_by": args.split_by,
        }
    else:
        worlds = ", ".join(name for name in datasets.names() if name != "clips")
        raise MtzooError(
            f"--data {args.data}: there is no such folder, nor a synthetic world of that name "
            f"({worlds})"
        )
    return build_dataset(section, split="test", seed=args.seed), section


def _sha256(path: Path) -> str:
    from mtzoo.data.store import sha256

    return sha256(path)


def _print(scores: Scores) -> None:
    """The table: a row a method, mean and 95 % interval over videos."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=f"{scores.videos} videos of {scores.frames} frames, protocol "
        f"{scores.protocol.name}; mean and 95 % interval"
    )
    for column in ("task", "method", "PSNR in dB", "SSIM"):
        table.add_column(column)
    for method in scores.methods:
        cells = [method.task, method.name]
        for metric, digits in (("psnr", 2), ("ssim", 3)):
            figure = method.figure(metric)
            mean, low, high = (f"{v:.{digits}f}" for v in (figure.mean, figure.low, figure.high))
            cells.append(f"{mean} [{low}, {high}]")
        table.add_row(*(Text(cell) for cell in cells))
    out = Console()
    out.print(table)
    if len(scores.diversity):
        out.print(
            Text(f"samples of one picture differ by {scores.diversity.mean():.2f} of 255 a pixel")
        )
