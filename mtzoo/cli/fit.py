"""``mtzoo fit``: train what a recipe says, or go on with a run."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from mtzoo.errors import MtzooError

if TYPE_CHECKING:
    from mtzoo.recipe import Recipe


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    about = "Train the model of a recipe, or go on with a run."
    parser = subparsers.add_parser(
        "fit",
        help=about,
        description=about,
        usage="mtzoo fit --recipe R.yaml [--output DIR] [--resume [DIR]] [--print_recipe] "
        "[--<key of the recipe> VALUE ...]",
        epilog="Any key of the recipe can be given as an option: --engine.steps 200, "
        "--model.content_encoder.name resnet, --seed 3. A component whose name changes keeps the "
        "recipe's options as far as it has them.",
    )
    parser.add_argument(
        "--recipe", metavar="R.yaml", help="a YAML file, or the name of a recipe of mtzoo's own"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for the run (runs/<recipe's name>)"
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="DIR",
        help="go on with the run in DIR, or in the output folder, by the run's own recipe; only "
        "engine options may change",
    )
    parser.add_argument(
        "--print_recipe", action="store_true", help="print the recipe with every option and stop"
    )
    parser.set_defaults(func=run, takes_overrides=True)


def run(args: argparse.Namespace) -> int:
    """Train; returns the exit status."""
    from mtzoo.recipe import check_recipe

    _check_overrides(args.overrides)
    if args.resume is None:
        recipe, output = _start(args)
    else:
        recipe, output = _resume(args)
    for note in recipe.notes:
        print(f"mtzoo: note: {note}", file=sys.stderr)
    check_recipe(recipe)
    if args.print_recipe:
        print(recipe.to_yaml(), end="")
        return 0

    from mtzoo.engine import fit

    fit(recipe, output, resume=args.resume is not None)
    return 0


def _check_overrides(overrides: list[str]) -> None:
    """Refuse an option that is neither the verb's nor a recipe's."""
    from mtzoo.cli import options_of, suggest
    from mtzoo.engine.options import EngineOptions
    from mtzoo.recipe.resolve import SECTIONS

    sections = [f"--{section}" for section in SECTIONS]
    for token in overrides:
        name = token.partition("=")[0]
        if token.startswith("--") and "." not in name and name not in sections:
            known = options_of(["fit"])
            keys = [f"--engine.{f.name}" for f in fields(EngineOptions)]
            raise MtzooError(
                f"mtzoo fit has no option {name}.{suggest(name, [*known, *sections, *keys])} "
                f"Options: {', '.join(known)}, and any key of the recipe"
            )


def _start(args: argparse.Namespace) -> tuple[Recipe, Path]:
    from mtzoo.recipe import known_recipes, load_recipe

    if args.recipe is None:
        raise MtzooError(
            "mtzoo fit needs --recipe, a YAML file or one of mtzoo's own "
            f"({', '.join(known_recipes()) or 'none here'}), or --resume and a run's folder"
        )
    recipe = load_recipe(args.recipe, args.overrides)
    return recipe, args.output or Path("runs") / recipe.name


def _resume(args: argparse.Namespace) -> tuple[Recipe, Path]:
    from mtzoo.recipe import load_recipe

    given = load_recipe(args.recipe, args.overrides) if args.recipe is not None else None
    if args.resume:
        folder = Path(args.resume)
        if args.output is not None and args.output != folder:
            raise MtzooError(
                f"--resume {folder} goes on in that folder; leave out --output {args.output}"
            )
    elif args.output is not None:
        folder = args.output
    elif given is not None:
        folder = Path("runs") / given.name
    else:
        raise MtzooError("--resume needs the folder of the run: mtzoo fit --resume DIR")
    saved = folder / "recipe.yaml"
    if not saved.is_file():
        raise MtzooError(f"nothing to resume: {folder} holds no run (there is no {saved})")
    own = load_recipe(saved)
    recipe = load_recipe(saved, args.overrides)
    for asked, way_out in (
        (recipe, "a run goes on as it began, only engine options may change"),
        (given, "leave out --recipe to go on with the run's own, or choose another --output"),
    ):
        different = asked and _difference(own, asked)
        if different:
            raise MtzooError(f"--resume: {different}; {way_out}")
    return (given or recipe), folder


def _difference(own: Recipe, asked: Recipe) -> str:
    """The first difference that a run cannot go on across, in words; empty where there is none."""
    from mtzoo.recipe.text import show

    def leaves(recipe: Recipe) -> dict[str, object]:
        found: dict[str, object] = {"seed": recipe.seed}

        def walk(value: object, key: str) -> None:
            if isinstance(value, dict):
                for name, inner in value.items():
                    walk(inner, f"{key}.{name}")
            else:
                found[key] = value

        for section in ("data", "model", "objective"):
            walk(getattr(recipe, section), section)
        return found

    before, now = leaves(own), leaves(asked)
    for key in {**before, **now}:
        if before.get(key) != now.get(key):
            return f"{key} is {show(before.get(key))} in the run and {show(now.get(key))} now"
    return ""
