"""A recipe as text: YAML to plain values with the line of every key, and overrides merged in.

A recipe may come from a stranger, so this reads far less than YAML offers: one document of
mappings, lists and plain values. Tags, anchors, aliases, merge keys and keys given twice are
refused while the parser's events go by, before a single object is built; depth and size are
bounded. Scalars follow YAML 1.2 (``1e-4`` is a number, ``no`` is a string), as most people who
write a recipe expect.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from mtzoo.errors import MtzooError

MAX_BYTES = 64 * 1024
MAX_DEPTH = 6

Key = tuple[str, ...]
"""Where a value stands, for example ``("model", "content_encoder", "width")``."""

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF|nan|NaN|NAN)")


def show(value: object, limit: int = 60) -> str:
    """``repr`` of a value from a recipe on one line, cut short."""
    shown = "null" if value is None else str(value).lower() if value in (True, False) else ""
    shown = shown if isinstance(value, bool | None) else repr(value)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


@dataclass
class Where:
    """Where each key of a recipe was written, to begin messages with.

    Attributes:
        source: The file's name as given; empty for a recipe that never was a file.
        lines: Line of each key, from 1.
        typed: Text of each value that was given on the command line instead.
        base: Where the recipe that this one builds on says what this one does not.
    """

    source: str = ""
    lines: dict[Key, int] = field(default_factory=dict)
    typed: dict[Key, str] = field(default_factory=dict)
    base: Where | None = None

    def at(self, key: Key) -> str:
        """The beginning of a message about ``key``: this recipe, and its base if that says it."""
        dotted = ".".join(key)
        upwards = [key[:n] for n in range(len(key), 0, -1)]
        below = key not in self.lines and any(k[: len(key)] == key for k in self.typed)
        if below or any(k in self.typed for k in upwards):
            return f"--{dotted}"
        written = (
            (where, where.lines[k])
            for k in upwards
            for where in (self, self.base)
            if where and k in where.lines
        )
        where, line = next(written, (self, 0))
        place = f"{where.source}:{line}" if where.source and line else where.source
        if where is not self:
            place = f"{self.source} (by its base, {place})"
        return ": ".join(part for part in (place, dotted) if part)

    def fault(self, key: Key, message: str) -> MtzooError:
        """The error to raise about ``key``."""
        return MtzooError(f"{self.at(key)}: {message}")


def read(path: Path) -> tuple[dict[str, object], Where]:
    """Read a recipe file.

    Raises:
        MtzooError: The file is missing, too large, not UTF-8 or not what a recipe may hold.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise MtzooError(f"recipe {str(path)!r} cannot be read: {reason}") from None
    if len(raw) > MAX_BYTES:
        raise MtzooError(f"{path}: larger than {MAX_BYTES // 1024} KiB, which no recipe is")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise MtzooError(f"{path}:{line}: not UTF-8 text; save the recipe as UTF-8") from None
    where = Where(str(path))
    value = parse(text, where)
    if not isinstance(value, dict):
        raise MtzooError(
            f"{path}: a recipe is a mapping with the sections seed, data, model, objective and "
            f"engine; this file holds {_kind(value)}"
        )
    return value, where


def parse(text: str, where: Where, root: Key = ()) -> object:
    """Parse YAML ``text`` into dictionaries, lists and plain values; fill ``where.lines``.

    Args:
        text: One YAML document.
        where: Begins messages; takes the lines of the keys.
        root: Key of the value that ``text`` is, for values given on the command line.

    Raises:
        MtzooError: The text is not YAML or uses what a recipe may not.
    """
    try:
        return _Builder(where, root).build(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = _place(where, root, mark.line + 1 if mark else 0)
        raise MtzooError(f"{place}: not valid YAML: {_one_line(error.problem)}") from None
    except yaml.YAMLError as error:
        place = _place(where, root, 0)
        raise MtzooError(f"{place}: not valid YAML: {_one_line(error)}") from None


class _Builder:
    """Builds plain values from YAML events; the stack is ours, so depth cannot exhaust Python's."""

    def __init__(self, where: Where, root: Key) -> None:
        self.where = where
        self.root = root
        self.result: object = None
        # One frame an open collection: the collection, its key, and the pending key of a mapping.
        self.stack: list[tuple[dict | list, Key, list[str]]] = []

    def build(self, events: Iterable[yaml.Event]) -> object:
        documents = 0
        for event in events:
            line = event.start_mark.line + 1 if event.start_mark else 0
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._refuse(line, "a second YAML document; a recipe is one")
            elif isinstance(event, yaml.AliasEvent):
                raise self._refuse(
                    line, f"the alias '*{event.anchor}' is not allowed; write it out"
                )
            elif isinstance(event, yaml.NodeEvent):
                self._node(event, line)
            elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                self.stack.pop()
        return self.result

    def _node(self, event: yaml.NodeEvent, line: int) -> None:
        if event.anchor is not None:
            raise self._refuse(line, f"the anchor '&{event.anchor}' is not allowed; write it out")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise self._refuse(
                line, f"the tag {show(tag)} is not allowed; a recipe holds plain values only"
            )
        if self._expects_key():
            self._key(event, line)
            return
        if isinstance(event, yaml.ScalarEvent):
            plain = event.implicit[0] and not event.style
            self._add(self._scalar(event.value, line) if plain else event.value)
            return
        if len(self.stack) >= MAX_DEPTH:
            raise self._refuse(line, f"nested deeper than {MAX_DEPTH} levels, which no recipe is")
        collection: dict | list = {} if isinstance(event, yaml.MappingStartEvent) else []
        key = self._here()
        self._add(collection)
        self.stack.append((collection, key, []))

    def _expects_key(self) -> bool:
        return bool(self.stack) and isinstance(self.stack[-1][0], dict) and not self.stack[-1][2]

    def _key(self, event: yaml.NodeEvent, line: int) -> None:
        mapping, parent, pending = self.stack[-1]
        key = event.value if isinstance(event, yaml.ScalarEvent) else None
        if key == "<<":
            raise self._refuse(line, "merge keys ('<<') are not allowed; write the keys out")
        if key is None or not _KEY.fullmatch(key):
            shown = "a collection" if key is None else show(key)
            dot = "; nest keys instead of joining them with dots" if key and "." in key else ""
            raise self._refuse(line, f"{shown} cannot be a key of a recipe{dot}")
        full = (*parent, key)
        if key in mapping:
            first = self.where.lines.get(full)
            before = f", first in line {first}" if first else ""
            raise self._refuse(line, f"the key {key!r} is given twice{before}")
        if not self.root:
            self.where.lines[full] = line
        pending.append(key)

    def _here(self) -> Key:
        if not self.stack:
            return self.root
        collection, key, pending = self.stack[-1]
        return (*key, *pending) if isinstance(collection, dict) else key

    def _add(self, value: object) -> None:
        if not self.stack:
            self.result = value
            return
        collection, _, pending = self.stack[-1]
        if isinstance(collection, dict):
            collection[pending.pop()] = value
        else:
            collection.append(value)

    def _scalar(self, text: str, line: int) -> object:
        if _NULL.fullmatch(text):
            return None
        if _BOOL.fullmatch(text):
            return text[0] in "tT"
        if _NOT_FINITE.fullmatch(text):
            raise self._refuse(line, f"{text} is not a finite number")
        if _INT.fullmatch(text):
            # Longer than any 64-bit number in any base; Python would refuse the longest itself.
            number = 2**64 if len(text) > 40 else _integer(text)
            if not -(2**63) <= number < 2**63:
                raise self._refuse(line, f"the number {show(text)} is too large")
            return number
        if _FLOAT.fullmatch(text):
            value = float(text)
            if not math.isfinite(value):
                raise self._refuse(line, f"the number {show(text)} is too large")
            return value
        return text

    def _refuse(self, line: int, message: str) -> MtzooError:
        key = self._here()
        place = _place(self.where, self.root, line)
        dotted = f": {'.'.join(key)}" if key and not self.root else ""
        return MtzooError(f"{place}{dotted}: {message}")


def lay_over(base: Mapping[str, object], data: Mapping[str, object]) -> dict[str, object]:
    """What a recipe that builds on another says: its own values, and the other's for the rest.

    Mappings are merged key by key, but a section that names another component than ``base`` does
    is taken as it stands: the old one's options mean nothing to it.
    """
    result = dict(base)
    for key, value in data.items():
        old = base.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            same = value.get("name", old.get("name")) == old.get("name")
            value = lay_over(old if same else {}, value)
        result[key] = value
    return result


def merge(
    data: dict[str, object], where: Where, overrides: Sequence[str]
) -> dict[Key, tuple[object, dict[str, object]]]:
    """Merge overrides, as typed on a command line, into ``data`` in place.

    Args:
        data: The recipe's values.
        where: Learns what came from the command line.
        overrides: For example ``["--engine.steps", "20", "--model.content_encoder.width=32"]``.

    Returns:
        For each component whose ``name`` changed: its key, with the old name and the options
        that the file gave it. What becomes of those follows from the new one's constructor.

    Raises:
        MtzooError: An override has no value or no place.
    """
    given = _pairs(overrides)
    from_file: dict[Key, dict[str, object]] = {}
    for key, text in given.items():
        value = parse(text, Where(), root=key)
        parent = data
        *above, last = key
        for depth, part in enumerate(above, 1):
            inner = parent.get(part)
            if inner is None:
                inner = parent[part] = {}
            if not isinstance(inner, dict):
                stem = ".".join(key[:depth])
                raise MtzooError(
                    f"--{'.'.join(key)}: {stem} is {show(inner)}, which has no options"
                )
            parent = inner
        if last == "name" and above and parent.get("name", value) != value:
            from_file[tuple(above)] = dict(parent)
        parent[last] = value
        where.typed[key] = text
    return {
        key: (
            old.pop("name"),
            {option: value for option, value in old.items() if (*key, option) not in given},
        )
        for key, old in from_file.items()
    }


def _pairs(overrides: Sequence[str]) -> dict[Key, str]:
    pairs: dict[Key, str] = {}
    rest = list(overrides)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--") or token == "--":
            raise MtzooError(
                f"{show(token)} was not expected; overrides look like --engine.steps 20"
            )
        dotted, equals, text = token[2:].partition("=")
        key = tuple(dotted.split("."))
        if not all(_KEY.fullmatch(part) for part in key):
            raise MtzooError(f"{show(token)} is not a recipe's key; write --section.key value")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise MtzooError(f"--{dotted} needs a value, for example --{dotted} 1")
            text = rest.pop(0)
        pairs.pop(key, None)  # the last of several wins, and counts as given last
        pairs[key] = text
    return pairs


class _Dumper(yaml.SafeDumper):
    """Writes what `parse` reads back as it was, and what YAML 1.1 readers read the same way."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_Dumper.yaml_implicit_resolvers = {
    k: list(v) for k, v in yaml.SafeDumper.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in (
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("float", _NOT_FINITE, "-+."),
):
    _Dumper.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern.pattern})\Z"), list(_first)
    )
for _sequence in (list, tuple):
    _Dumper.add_representer(
        _sequence,
        lambda dumper, value: dumper.represent_sequence(
            "tag:yaml.org,2002:seq", value, flow_style=True
        ),
    )


def dump(data: dict[str, object]) -> str:
    """YAML text of ``data`` that `parse` reads back as it was (tuples as lists)."""
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True
    )


def _integer(text: str) -> int:
    base = {"0x": 16, "0o": 8}.get(text[:2], 10)
    return int(text.replace("_", "") if base == 10 else text[2:], base)


def _place(where: Where, root: Key, line: int) -> str:
    if root:
        return f"--{'.'.join(root)}"
    return f"{where.source}:{line}" if line else where.source


def _one_line(problem: object) -> str:
    return " ".join(str(problem).split())


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    return "a list" if isinstance(value, list) else f"the value {show(value)}"
