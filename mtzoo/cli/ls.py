"""``mtzoo ls``: what is registered, and which recipes and trained models come along."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    about = (
        "List the registered components with what they are and where they come from, or, with "
        "KIND recipes or pretrained, the recipes or trained models that come with mtzoo."
    )
    parser = subparsers.add_parser("ls", help=about, description=about)
    parser.add_argument(
        "kind",
        nargs="?",
        metavar="KIND",
        help="content_encoders, models, ..., or recipes, or pretrained",
    )
    parser.add_argument(
        "--names", action="store_true", help="print kinds and names only; imports no component"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print the table; returns the exit status."""
    if args.kind == "recipes":
        from mtzoo.recipe.find import about, known_recipes

        return _along(args, known_recipes(), about)
    if args.kind == "pretrained":
        from mtzoo.pretrained import about, known_pretrained

        return _along(args, known_pretrained(), about)

    from mtzoo.errors import MtzooError, did_you_mean
    from mtzoo.registries import REGISTRIES, registry

    try:
        chosen = [registry(args.kind)] if args.kind else list(REGISTRIES.values())
    except MtzooError:
        kinds = (*REGISTRIES, "recipes", "pretrained")
        near = did_you_mean(args.kind.strip().lower().replace("-", "_"), kinds)
        raise MtzooError(f"unknown kind {args.kind!r}.{near} Kinds: {', '.join(kinds)}") from None
    rows: list[tuple[str, ...]] = []
    for found in chosen:
        for name in found.names():
            rows.append((found.kind, name, *(("", "") if args.names else _about(found, name))))
    if args.names:
        for kind, name, *_ in rows:
            print(f"{kind} {name}")
        return 0

    shown: list[tuple[str, ...]] = []
    previous = ""
    for kind, *row in rows:
        shown.append((kind if kind != previous else "", *row))
        previous = kind
    _print(("kind", "name", "summary", "source"), shown)
    return 0


def _along(
    args: argparse.Namespace, known: Mapping[str, Path], about: Callable[[Path], str]
) -> int:
    """List what comes along with mtzoo."""
    if args.names:
        print("".join(f"{args.kind} {name}\n" for name in known), end="")
    else:
        _print(("name", "summary"), [(name, about(path)) for name, path in known.items()])
    return 0


def _print(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.table import Table

    from mtzoo.cli.show import console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column in ("kind", "name"))
    for row in rows:
        table.add_row(*row)
    console().print(table, markup=False)


def _about(registry: object, name: str) -> tuple[str, str]:
    """Summary and source of one component; in place of a summary why there is none."""
    from mtzoo.errors import MtzooError
    from mtzoo.registry import Registry

    assert isinstance(registry, Registry)
    try:
        card = registry.entry(name).card
    except Exception as error:  # a broken component must not hide the others
        kind = "" if isinstance(error, MtzooError) else f"{type(error).__name__}: "
        return f"cannot be used: {kind}{error}", ""
    return card.summary, card.source
