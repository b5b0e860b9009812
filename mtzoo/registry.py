"""Registries: named, documented, lazily imported components.

Standard library and `catalogue` only, so that asking what exists costs nothing. A registry knows
three sources of entries:

- built-ins: every public module in the registry's package (``dcgan.py`` is the entry ``dcgan``),
  imported when asked for by name;
- installed plug-ins: entry points in the group ``mtzoo_<kind>``, of which only the one asked for
  is imported;
- entries registered at run time with [`Registry.register`][mtzoo.registry.Registry.register].

A name belongs to whoever has it: built-ins cannot be shadowed, and a name that two have is an error
for whoever asks for it, and for nobody else.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

import catalogue

from mtzoo.errors import MtzooError, did_you_mean

T = TypeVar("T", bound=type)

_NAME = re.compile(r"[A-Za-z0-9][\w+-]*", re.ASCII)


@dataclass(frozen=True)
class Card:
    """What a component is, where it comes from, and how to try it.

    Attributes:
        summary: One sentence for listings.
        source: Paper or code the design comes from, as a citation a reader can look up.
        faithful: What follows the source and what does not.
        inputs: Input shapes and value ranges, in words.
        outputs: Output shapes and value ranges, in words.
        tiny: Constructor options that build a small instance, for tests and examples.
        needs: Smallest input it accepts, where that is not any (for example ``"frames >= 4"``).
    """

    summary: str
    source: str
    faithful: str
    inputs: str
    outputs: str
    tiny: Mapping[str, object] = field(default_factory=dict)
    needs: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tiny", MappingProxyType(dict(self.tiny)))


@dataclass(frozen=True)
class Entry:
    """One registered component: its class, its card and where it was defined."""

    kind: str
    name: str
    target: type
    card: Card
    origin: str


def is_foreign(target: type) -> bool:
    """Whether a class comes from another package than mtzoo."""
    return not f"{target.__module__}.".startswith("mtzoo.")


class Registry:
    """The components of one kind.

    Args:
        kind: Plural name of the slot, for example ``"content_encoders"``.
        package: Dotted package whose public modules are the built-in entries.
        title: What one entry is, for messages and docs, for example ``"content encoder"``.
    """

    def __init__(self, kind: str, package: str, title: str) -> None:
        self.kind = kind
        self.title = title
        self.group = f"mtzoo_{kind}"
        self._package = package
        self._store = catalogue.create("mtzoo", kind, entry_points=False)
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, card: Card) -> Callable[[T], T]:
        """Return a class decorator that registers the class as ``name``.

        Raises:
            MtzooError: No recipe can state the name, ``card`` is none, what is decorated is no
                class, or the name is taken by another class or belongs to a built-in or plug-in
                that the decorated class is not.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise MtzooError(
                f"no recipe can state {name!r} as the name of a {self.title}; take letters, "
                "digits, '_', '-' and '+', a letter or digit first"
            )
        if not isinstance(card, Card):
            raise MtzooError(
                f"{self.title} {name!r} is registered with {card!r} in place of its card; pass a "
                "mtzoo.Card"
            )

        def decorate(target: T) -> T:
            if not isinstance(target, type):
                raise MtzooError(
                    f"{self.title} {name!r} is to be {target!r}, which is no class; register the "
                    "class itself"
                )
            owner = self._owner(name)
            known = self._entries.get(name)
            origin = f"{target.__module__}.{target.__qualname__}"
            if known is not None and known.origin != origin:
                raise MtzooError(
                    f"{self.title} {name!r} is already registered by {known.origin}; "
                    "choose another name"
                )
            if owner is not None and not f"{target.__module__}.".startswith(f"{owner}."):
                raise MtzooError(
                    f"{self.title} {name!r} belongs to {owner} and cannot be replaced by "
                    f"{origin}; choose another name"
                )
            self._store.register(name, func=target)
            self._entries[name] = Entry(self.kind, name, target, card, origin)
            return target

        return decorate

    def builtins(self) -> list[str]:
        """Names of the built-in entries; imports none of them."""
        spec = importlib.util.find_spec(self._package)
        paths = list(spec.submodule_search_locations or []) if spec else []
        return sorted(m.name for m in pkgutil.iter_modules(paths) if not m.name.startswith("_"))

    def plugins(self) -> dict[str, importlib.metadata.EntryPoint]:
        """Entry points that installed packages offer under this kind; imports none of them.

        Those whose name another has too are left out, see `clashes`.
        """
        return self._offers()[0]

    def clashes(self) -> dict[str, str]:
        """Messages about names that a package offers and another or mtzoo has too, by name."""
        return self._offers()[1]

    def _offers(self) -> tuple[dict[str, importlib.metadata.EntryPoint], dict[str, str]]:
        found: dict[str, importlib.metadata.EntryPoint] = {}
        clashes: dict[str, str] = {}
        builtins = set(self.builtins())
        for point in importlib.metadata.entry_points(group=self.group):
            package = point.dist.name if point.dist else point.value
            if point.name in builtins:
                clashes[point.name] = (
                    f"the installed package {package!r} names its {self.title} {point.name!r}, "
                    "which is built in and cannot be replaced; uninstall it or rename its entry"
                )
            elif point.name in found and found[point.name].value != point.value:
                clashes[point.name] = (
                    f"two installed packages offer the {self.title} {point.name!r} "
                    f"({found[point.name].value} and {point.value}); uninstall one of them"
                )
            else:
                found[point.name] = point
        return {name: point for name, point in found.items() if name not in clashes}, clashes

    def names(self) -> list[str]:
        """All names, sorted, without importing a component."""
        plugins, clashes = self._offers()
        return sorted({*self.builtins(), *plugins, *clashes, *self._entries})

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def entry(self, name: str) -> Entry:
        """Return the entry called ``name``, importing that one and no other.

        Raises:
            MtzooError: Nothing is called so (the message lists the nearest and all names), two
                are, or the plug-in that offers it cannot be imported or breaks the contract.
        """
        known = self._entries.get(name)
        if known is None or not f"{known.target.__module__}.".startswith(f"{self._package}."):
            plugins, clashes = self._offers()
            if name in clashes:
                raise MtzooError(clashes[name])
            if known is None and name in self.builtins():
                importlib.import_module(f"{self._package}.{name}")
            elif known is None and name in plugins:
                self._load_plugin(name, plugins[name])
        if name not in self._entries:
            raise MtzooError(self.unknown(name))
        return self._entries[name]

    def get(self, name: str) -> type:
        """Return the class registered as ``name``; raises as `entry` does."""
        return self.entry(name).target

    def name_of(self, target: type) -> str | None:
        """The name that a class was registered by, where it was."""
        found = (name for name, entry in self._entries.items() if entry.target is target)
        return next(found, None)

    def provider(self, name: str) -> str | None:
        """The distribution and its version that a name comes from, such as ``"my_package 0.1"``.

        The module of a class that was registered at run time; ``None`` for what is mtzoo's own.
        """
        point = self.plugins().get(name)
        if point is not None and point.dist is not None:
            return f"{point.dist.name} {point.dist.version}"
        target = self.get(name)
        return f"module {target.__module__}" if is_foreign(target) else None

    def refusal(self, name: str) -> str | None:
        """Why nothing can be had by ``name``, in words; imports nothing."""
        if (clash := self.clashes().get(name)) is not None:
            return clash
        return None if name in self else self.unknown(name)

    def unknown(self, name: str) -> str:
        """The message for a name that nothing is registered under."""
        names = self.names()
        return (
            f"unknown {self.title} {name!r}.{did_you_mean(str(name), names)} "
            f"Known: {', '.join(names) or 'none'}. More come with installed packages that offer "
            f"the entry point group '{self.group}'"
        )

    def _load_plugin(self, name: str, point: importlib.metadata.EntryPoint) -> None:
        package = point.dist.name if point.dist else point.value
        try:
            target = point.load()
        except (Exception, SystemExit) as error:
            raise MtzooError(
                f"the {self.title} {name!r} of the installed package {package!r} cannot be "
                f"imported ({type(error).__name__}: {error}); update or uninstall that package"
            ) from error
        if name not in self._entries:
            card = getattr(target, "card", None)
            if not isinstance(target, type) or not isinstance(card, Card):
                for entry in self._entries.values():
                    if entry.target is target:
                        raise MtzooError(
                            f"the {self.title} of the installed package {package!r} is registered "
                            f"as {entry.name!r} and offered as {name!r}; give its entry point the "
                            "name that it is registered by"
                        )
                raise MtzooError(
                    f"the {self.title} {name!r} of the installed package {package!r} is neither "
                    "registered with a Card nor a class with an attribute `card` of type Card"
                )
            self.register(name, card)(target)

    def _owner(self, name: str) -> str | None:
        """Built-in module or plug-in's top-level package that a name belongs to, if any.

        A package may offer a class from where it re-exports it, hence not the exact module.
        """
        if name in self.builtins():
            return f"{self._package}.{name}"
        point = self.plugins().get(name)
        return point.module.partition(".")[0] if point else None
