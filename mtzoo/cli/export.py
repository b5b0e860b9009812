"""``mtzoo export``: a trained model for others, small enough to be kept in a repository."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    about = (
        "Write what using a trained model needs (no discriminators, no optimiser) into a new "
        "folder, with its recipe and a card."
    )
    parser = subparsers.add_parser("export", help=about, description=about)
    parser.add_argument("--model", required=True, metavar="RUN", help="run folder of fit")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder to make; its name names the model"
    )
    parser.add_argument(
        "--dtype",
        choices=("fp16", "bf16", "fp32"),
        default="fp16",
        help="of the weights in the file (fp16)",
    )
    parser.add_argument(
        "--results",
        metavar="FILE",
        help="results.json of mtzoo evaluate, whose figures go onto the card",
    )
    parser.add_argument(
        "--licence",
        metavar="TEXT",
        help="of the weights (Apache-2.0 if the data is synthetic; else the data's)",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Export and say where to; returns the exit status."""
    from mtzoo.export import export

    folder = export(
        args.model, args.output, dtype=args.dtype, results=args.results, licence=args.licence
    )
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 1e6:.2f} MB in {args.dtype}; its card is {folder / 'README.md'}")
    return 0
