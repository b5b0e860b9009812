"""``mtzoo show``: one component's card, options and documentation, or a trained model's card."""

from __future__ import annotations

import argparse
import inspect
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    about = (
        "Show one component: its card, what a recipe may say about it, its documentation; or, "
        "with KIND pretrained, the card of a trained model that comes with mtzoo."
    )
    parser = subparsers.add_parser("show", help=about, description=about)
    parser.add_argument("kind", metavar="KIND", help="content_encoder, model, ..., or pretrained")
    parser.add_argument("name", metavar="NAME", help="a registered name, see `mtzoo ls`")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print the component; returns the exit status."""
    if args.kind == "pretrained":
        return _pretrained(args.name)

    from rich.table import Table

    from mtzoo.recipe.options import describe, signature
    from mtzoo.recipe.text import show
    from mtzoo.registries import registry

    found = registry(args.kind)
    entry = found.entry(args.name)
    sign = signature(entry.target)
    card = entry.card
    out = console()

    def section(title: str, rows: list[tuple[str, ...]]) -> None:
        grid = Table.grid(padding=(0, 2))
        for row in rows:
            grid.add_row(*(_text(cell) for cell in row))
        out.print(_text(f"\n{title}", "bold"))
        out.print(grid)

    out.print(_text(f"{found.title} {entry.name}", "bold"))
    out.print(_text(card.summary))
    facts = [
        ("source", card.source),
        ("faithful", card.faithful),
        ("inputs", card.inputs),
        ("outputs", card.outputs),
        ("needs", card.needs),
        ("class", entry.origin),
        ("handed on to it", ", ".join(sign.takes)),
        ("hands on", ", ".join(getattr(entry.target, "gives", ()))),
    ]
    section("card", [fact for fact in facts if fact[1]])
    rows = [
        (
            name,
            f"section: {registry(slot.kind).title}" + (" or null" if slot.optional else ""),
            "null" if slot.optional else "required",
        )
        for name, slot in sign.slots.items()
    ]
    for name, option in sign.options.items():
        default = option.default
        default = list(default) if isinstance(default, tuple) else default
        rows.append((name, describe(option.hint), "required" if option.required else show(default)))
    section("options", [*rows] or [("none", "", "")])
    for what in (entry.target, entry.target.__init__):
        # A class without documentation of its own would show its base's.
        text = inspect.cleandoc(what.__doc__ or "")
        if text and what is not object.__init__:
            section("documentation" if what is entry.target else "constructor", [(text,)])
    return 0


def _pretrained(name: str) -> int:
    """Print a trained model's card."""
    from mtzoo.errors import MtzooError, did_you_mean
    from mtzoo.pretrained import CARD, known_pretrained

    known = known_pretrained()
    if name not in known:
        raise MtzooError(
            f"no model {name!r} comes with mtzoo.{did_you_mean(name, known)} "
            f"Known: {', '.join(known) or 'none'}"
        )
    print((known[name] / CARD).read_text("utf-8"))
    print(f"folder: {known[name]}")
    return 0


def console() -> Console:
    """A console on stdout; wide where nobody looks at it directly, so that lines stay whole."""
    from rich.console import Console

    tty = sys.stdout.isatty()
    return Console(width=None if tty else 200, highlight=False)


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(text, style=style)  # never markup: texts hold square brackets
