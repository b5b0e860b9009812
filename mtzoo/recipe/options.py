"""What a component's constructor takes, and checking a recipe's values against it.

jsonargparse does the checking. It is made for command lines and so turns text into numbers and
takes null for anything; a recipe has types of its own, so what jsonargparse had to convert is
refused here. Constructors are closed: an option is a number, a bool, a string, a `Literal`, a
tuple or list of those, or optional. Nothing else is handed to jsonargparse, which could import
what a value names for richer types; that is what keeps a stranger's recipe data.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union

from mtzoo.errors import MtzooError, did_you_mean
from mtzoo.recipe.text import show

_PLAIN = (int, float, bool, str, type(None))


@dataclass(frozen=True)
class Slot:
    """A constructor parameter that a component fills.

    Attributes:
        kind: Of the registry that has what fits.
        optional: Whether it may stay empty.
        gives: Sizes that whatever fills it hands on.
    """

    kind: str
    optional: bool
    gives: tuple[str, ...]


@dataclass(frozen=True)
class Option:
    """A plain constructor option: its type, and its default unless it is required."""

    hint: Any
    default: Any
    required: bool


@dataclass(frozen=True)
class Signature:
    """A constructor, sorted into what is handed on, slots and options, each in its order."""

    target: type
    takes: tuple[str, ...]
    slots: Mapping[str, Slot]
    options: Mapping[str, Option]

    @property
    def keys(self) -> list[str]:
        """What a recipe may say, beside ``name``."""
        return [*self.slots, *self.options]


class MistypedError(Exception):
    """A value does not have its option's type; ``str`` says what was expected and found."""


@cache
def signature(target: type) -> Signature:
    """Sort the constructor of ``target``.

    Raises:
        MtzooError: The constructor breaks the contract: open, untyped, or with a type that no
            recipe can state.
    """
    origin = f"{target.__module__}.{target.__qualname__}"
    try:
        hints = typing.get_type_hints(target.__init__)
    except Exception as error:
        raise MtzooError(
            f"{origin} breaks the contract: the types of its constructor cannot be resolved "
            f"({type(error).__name__}: {error})"
        ) from error
    takes: list[str] = []
    slots: dict[str, Slot] = {}
    options: dict[str, Option] = {}
    for name, parameter in list(inspect.signature(target.__init__).parameters.items())[1:]:
        if target.__init__ is object.__init__:
            break  # object's own (*args, **kwargs): a class without a constructor has no options
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or (
            parameter.kind is parameter.POSITIONAL_ONLY
        ):
            raise MtzooError(
                f"{origin} breaks the contract: its constructor must be closed, but it takes "
                f"{str(parameter)!r}"
            )
        if name in getattr(target, "takes", ()):
            takes.append(name)
            continue
        if name not in hints or name == "name":
            raise MtzooError(
                f"{origin} breaks the contract: its constructor's parameter {name!r} "
                + ("has no type" if name != "name" else "is what recipes call components by")
            )
        slot = _slot(hints[name])
        if slot is not None:
            slots[name] = slot
        elif _is_plain(hints[name]):
            required = parameter.default is parameter.empty
            options[name] = Option(hints[name], None if required else parameter.default, required)
        else:
            raise MtzooError(
                f"{origin} breaks the contract: no recipe can state the type "
                f"{describe(hints[name])} of its parameter {name!r}"
            )
    return Signature(target, tuple(takes), slots, options)


def conform(target: type, option: str, value: object) -> object:
    """Return ``value`` as ``option`` of ``target``'s constructor holds it.

    Whole numbers become floats and lists become tuples where the option wants them; nothing else
    is converted.

    Raises:
        MistypedError: The value is of another type.
    """
    hint = signature(target).options[option].hint
    value = _as_lists(value)
    fits, parsed = _parsed(target, option, value)
    if not fits:
        alone = not isinstance(value, list) and _parsed(target, option, [value])[0]
        raise _mistyped(hint, value, alone)
    return parsed


def _parsed(target: type, option: str, value: object) -> tuple[bool, object]:
    """Whether ``value`` has the option's type, and how the option holds it."""
    try:
        parsed = _parser(target, option).parse_object({option: value})[option]
    except ArgumentError:
        return False, None
    null = value is None and not _accepts_null(signature(target).options[option].hint)
    return _kept(value, parsed) and not null, parsed


def deny_imports() -> None:
    """Forbid jsonargparse, for the whole process, to import anything that a value names.

    A second lock for the command line, whose process is ours: closed constructors already leave
    jsonargparse nothing to import. In a library it would change the host's own parsers.
    """
    from jsonargparse import set_parsing_settings

    set_parsing_settings(import_path_denylist=["*"])


def describe(hint: Any) -> str:
    """A type in words, for messages and listings, like ``one of 'a', 'b'``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is type(None):
        return "null"
    if hint is bool:
        return "bool (true or false)"
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(map(show, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(describe(a) for a in arguments)
    if origin in (tuple, list):
        if origin is list or (len(arguments) == 2 and arguments[1] is Ellipsis):
            return f"a list of {_bare(arguments[0])}"
        return f"a list [{', '.join(_bare(a) for a in arguments)}]"
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _bare(hint: Any) -> str:
    return "bool" if hint is bool else describe(hint)


def _mistyped(hint: Any, value: object, alone: bool) -> MistypedError:
    """The error about ``value``, which would do as a list of one if ``alone``."""
    close = ""
    literals = [a for a in _flat(hint) if isinstance(a, str)]
    if alone:
        one = value if isinstance(value, str) and re.fullmatch(r"\w+", value) else show(value)
        close = f" A list of one is written [{one}]"
    elif isinstance(value, str) and literals:
        close = did_you_mean(value, literals)
    return MistypedError(f"expected {describe(hint)}, got {show(value)}.{close}".rstrip("."))


def _flat(hint: Any) -> list[Any]:
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    return [leaf for a in typing.get_args(hint) for leaf in _flat(a)]


@cache
def _parser(target: type, option: str) -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False, add_help=False)
    parameters = inspect.signature(target.__init__).parameters
    others: set[str | int] = {name for name in parameters if name not in (option, "self")}
    parser.add_class_arguments(target, skip=others, fail_untyped="all", instantiate=False)
    return parser


def _kept(given: object, parsed: object) -> bool:
    """Whether ``parsed`` is ``given``, but for whole numbers as floats and lists as tuples."""
    if isinstance(given, list):
        return (
            isinstance(parsed, list | tuple)
            and len(given) == len(parsed)
            and all(map(_kept, given, parsed))
        )
    if type(given) is int and type(parsed) is float:
        return given == parsed
    return type(given) is type(parsed) and given == parsed


def _accepts_null(hint: Any) -> bool:
    if typing.get_origin(hint) in (Union, types.UnionType):
        return any(_accepts_null(a) for a in typing.get_args(hint))
    return hint is type(None) or (
        typing.get_origin(hint) is Literal and None in typing.get_args(hint)
    )


def _as_lists(value: object) -> object:
    return [_as_lists(v) for v in value] if isinstance(value, list | tuple) else value


def _is_plain(hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return all(isinstance(a, _PLAIN) for a in arguments)
    if origin in (Union, types.UnionType):
        return all(_is_plain(a) for a in arguments)
    if origin in (tuple, list):
        return bool(arguments) and all(a is Ellipsis or _is_plain(a) for a in arguments)
    return hint in _PLAIN


def _slot(hint: Any) -> Slot | None:
    kinds = _slot_kinds()
    if isinstance(hint, type):
        return Slot(kinds[hint], False, hint.gives) if hint in kinds else None
    if typing.get_origin(hint) in (Union, types.UnionType):
        arguments = typing.get_args(hint)
        found = [a for a in arguments if isinstance(a, type) and a in kinds]
        if len(found) == 1 and set(arguments) == {found[0], type(None)}:
            return Slot(kinds[found[0]], True, found[0].gives)
    return None


def _slot_kinds() -> dict[type, str]:
    # Where the interfaces are not loaded nothing can be a slot: engine options need no torch.
    interfaces: Any = sys.modules.get("mtzoo.interfaces")
    if interfaces is None:
        return {}

    return {
        interfaces.ContentEncoder: "content_encoders",
        interfaces.MotionEncoder: "motion_encoders",
        interfaces.MotionGenerator: "motion_generators",
        interfaces.ImageGenerator: "image_generators",
        interfaces.ImageDiscriminator: "image_discriminators",
        interfaces.VideoDiscriminator: "video_discriminators",
        interfaces.MotionPrior: "motion_priors",
    }
