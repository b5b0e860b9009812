"""``mtzoo validate``: check recipes as `mtzoo fit` would, without data and without training."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    about = "Check recipes: names, options, types and sizes. Touches no data."
    parser = subparsers.add_parser("validate", help=about, description=about)
    parser.add_argument("recipes", nargs="+", metavar="R.yaml", help="files or names of recipes")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Check all recipes; returns 2 where one is wrong."""
    from mtzoo.errors import MtzooError
    from mtzoo.recipe import check_recipe, load_recipe

    wrong = 0
    for path in args.recipes:
        try:
            recipe = load_recipe(path)
            check_recipe(recipe)
            print(f"ok     {path}", flush=True)
        except MtzooError as error:
            wrong += 1
            print(f"wrong  {' '.join(str(error).split())}", flush=True)
    print(f"{len(args.recipes)} checked, {wrong} wrong")
    return 2 if wrong else 0
