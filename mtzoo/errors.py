"""The one exception that reaches a user as a single line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MtzooError(Exception):
    """Something the user can mend: bad input, a wrong name, a missing file.

    The message is one line that names the thing and the way out. The command line prints it
    as ``mtzoo: error: <message>`` and exits with status 2; in Python it is raised as it is.
    Whatever is not an ``MtzooError`` is a defect of ours and keeps its traceback.
    """


def printable(text: str) -> str:
    """Write control characters, which names of files may hold, as escapes: one line stays one."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return up to ``count`` of the ``known`` names that a misspelt ``name`` may have meant.

    Names that start with what was typed, or the other way round, come along even where the edit
    distance is large (``lstm`` for ``lstm_generator``).
    """
    known = sorted(set(known))
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.55)
    prefixed = [k for k in known if len(name) > 1 and (k.startswith(name) or name.startswith(k))]
    return list(dict.fromkeys(close + prefixed))[:count]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known names, or an empty string."""
    close = nearest(name, known)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
