"""``mtzoo profile``: what a training step of a recipe costs on this machine, and what to change."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mtzoo.errors import MtzooError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "profile",
        help="measure a recipe's training step, component by component",
        description="Measure one training step of a recipe on this machine: parameters, "
        "floating point operations, time and memory of each component; then try what the recipe "
        "does not have of compilation, bfloat16 and, on a GPU, CUDA graphs, and another layout of "
        "pictures, and say what they gain. Needs no data.",
        usage="mtzoo profile --recipe R.yaml [--output DIR] [--batch N] [--repeats N] "
        "[--<key of the recipe> VALUE ...]",
    )
    parser.add_argument(
        "--recipe",
        required=True,
        metavar="R.yaml",
        help="a YAML file, or the name of a recipe of mtzoo's own",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for profile.json, profile.md and trace.json, which https://ui.perfetto.dev "
        "opens",
    )
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="pairs a step (default: a process's share of the recipe's)",
    )
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="timed steps a setting (default: 3)"
    )
    parser.set_defaults(func=run, takes_overrides=True)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    for option, value in (("--batch", args.batch), ("--repeats", args.repeats)):
        if value is not None and not 1 <= value <= 4096:
            raise MtzooError(f"{option} must lie between 1 and 4096, not {value}")
    if args.output is not None and args.output.exists() and not args.output.is_dir():
        raise MtzooError(f"--output {args.output} is a file; give a folder")

    from mtzoo.engine.profile import profile
    from mtzoo.files import check_new_folder, making_folder
    from mtzoo.recipe import check_recipe, load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    check_recipe(recipe)
    if args.output is None:
        result = profile(recipe, batch_size=args.batch, repeats=args.repeats)
        print(text(result))
        return 0
    check_new_folder(args.output)
    print(f"measuring {recipe.name}", file=sys.stderr)
    with making_folder(args.output) as folder:
        trace = folder / "trace.json"
        result = profile(recipe, batch_size=args.batch, repeats=args.repeats, trace=trace)
        (folder / "profile.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
        (folder / "profile.md").write_text(text(result) + "\n", "utf-8")
    print(text(result))
    print(f"\nwritten to {args.output}; open trace.json in https://ui.perfetto.dev")
    return 0


def text(result: dict[str, Any]) -> str:
    """The measurement as Markdown."""
    head = (
        "component",
        "parameters",
        "calls",
        "GF forward",
        "GF backward",
        "operations",
        "ms, operation by operation",
        "time, % of all",
        "MiB kept for backward",
    )
    rows = [
        (
            part["name"],
            f"{part['parameters']:,}",
            part["calls"] or "",
            f"{part['forward']['flops'] / 1e9:.2f}",
            f"{part['backward']['flops'] / 1e9:.2f}",
            part["forward"]["operations"] + part["backward"]["operations"],
            f"{1e3 * (part['forward_seconds'] + part['backward_seconds']):.1f}",
            f"{100 * part['share']:.1f}",
            f"{part['kept'] / 2**20:.1f}",
        )
        for part in sorted(result["components"], key=lambda part: -part["share"])
    ]
    step = result["step"]
    lines = [
        f"{result['recipe']} on {result['device']}: {result['batch_size']} pairs of "
        f"{result['frames']} frames at {result['resolution']}x{result['resolution']}",
        "",
        *("| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows)),
        "",
        f"One step: {1e3 * step['seconds']:.1f} ms, {step['flops'] / 1e9:.1f} GF in "
        f"{step['operations']:,} operations, {step['peak'] / 2**20:.0f} MiB at most beside the "
        f"weights; {step['seconds'] / step['floor_seconds']:.1f} times what its arithmetic takes "
        "at the speed of a large matrix product or convolution.",
        "",
    ]
    for entry in result["advice"]:
        if "failed" in entry:
            lines.append(f"- {entry['setting']}: does not work here: {entry['failed']}")
            continue
        verdict = "worth it" if entry["worth"] else "leave it"
        lines.append(
            f"- {entry['setting']}: {entry['gain']:.2f} times as fast, losses within "
            f"{entry['difference']:.1e}: {verdict}"
        )
    return "\n".join(lines)
