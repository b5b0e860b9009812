"""The command line: one file a verb; argument parsing and printing only.

Verbs import what they need when they run, so that ``mtzoo --help`` answers at once. What a user
can mend is one line on stderr and status 2; a defect of ours keeps its traceback.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

from mtzoo import __version__
from mtzoo.errors import MtzooError, did_you_mean, nearest, printable

VERBS = (
    "fit",
    "transfer",
    "sample",
    "prior",
    "evaluate",
    "report",
    "profile",
    "export",
    "prepare",
    "data",
    "ls",
    "show",
    "validate",
)
_WITH_USES = ("report", "prepare", "data")


class _Parser(argparse.ArgumentParser):
    """argparse, but a fault is an `MtzooError` and nothing is abbreviated."""

    def __init__(self, **options: object) -> None:
        super().__init__(**{**options, "allow_abbrev": False})  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice is not None:
            message += "." + did_you_mean(choice[1], re.findall(r"[\w-]+", choice[2]))
            message = message.removesuffix(".")
        joint = " See" if message.endswith("?") else "; see"
        raise MtzooError(f"{message}{joint} `{self.prog} --help`")


def build_parser() -> argparse.ArgumentParser:
    """The parser with all verbs; imports no torch."""
    parser = _Parser(
        prog="mtzoo",
        description="A zoo of motion-transfer components: move a picture with a video's motion.",
    )
    parser.add_argument("--version", action="version", version=f"mtzoo {__version__}")
    subparsers = parser.add_subparsers(title="commands", dest="verb", metavar="COMMAND")
    for verb in VERBS:
        importlib.import_module(f"mtzoo.cli.{verb}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; None takes the process's.

    Returns:
        The exit status: 0; 2 for what the user can mend; 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except MtzooError as error:
        print(f"mtzoo: error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"mtzoo: interrupted{f'; {stopped}' if str(stopped) else ''}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Who read us is gone (`mtzoo ls | head`); Python must not complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(arguments: list[str]) -> int:
    parser = build_parser()
    if not arguments:
        parser.print_help()
        return 0
    if arguments[0] not in (*VERBS, "-h", "--help", "--version"):
        raise MtzooError(
            f"unknown command {arguments[0]!r}.{did_you_mean(arguments[0], VERBS)} "
            f"Commands: {', '.join(VERBS)}"
        )
    try:
        args, rest = parser.parse_known_args(arguments)
    except MtzooError as error:
        if "invalid choice" in str(error):  # a misspelt word before the options
            raise
        # A misspelt option is why another is missing; say that instead.
        misspelt = [a for a in arguments if a.startswith("--") and len(a) > 2]
        misspelt = [a for a in misspelt if a.partition("=")[0] not in _options(arguments)]
        if misspelt and arguments[0] != "fit":
            raise MtzooError(_unknown(arguments, misspelt)) from None
        raise
    if rest and not getattr(args, "takes_overrides", False):
        raise MtzooError(_unknown(arguments, rest))
    args.overrides = rest

    from mtzoo.recipe.options import deny_imports

    deny_imports()
    return args.func(args)


def _unknown(arguments: list[str], rest: list[str]) -> str:
    """The message about arguments that the verb does not take."""
    option = next((r for r in rest if r.startswith("-")), rest[0]).partition("=")[0]
    known = _options(arguments)
    if not option.startswith("-"):
        return f"{option!r} was not expected; see `mtzoo {arguments[0]} --help`"
    return (
        f"mtzoo {arguments[0]} has no option {option}.{suggest(option, known)} "
        f"Options: {', '.join(known)}"
    )


def _options(arguments: list[str]) -> list[str]:
    return options_of(arguments[: 2 if arguments[0] in _WITH_USES else 1])


def suggest(option: str, known: Iterable[str]) -> str:
    """``" Did you mean ...?"`` for options; by their last words, so that dashes do not count."""
    words = {k.lstrip("-").rpartition(".")[2]: k for k in reversed(list(known))}
    close = [words[word] for word in nearest(option.lstrip("-"), words)]
    return f" Did you mean {' or '.join(close)}?" if close else ""


def options_of(verb: Sequence[str]) -> list[str]:
    """The long options of a verb, for example of ``["fit"]``."""
    parser: argparse.ArgumentParser = build_parser()
    for word in verb:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction) and word in action.choices:
                parser = action.choices[word]
    found = re.findall(r"(?<![\w-])--\w[\w-]*", parser.format_usage())
    return [*dict.fromkeys(found), "--help"]
