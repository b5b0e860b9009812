"""From a recipe's values to a resolved recipe: names first, then types, each option filled in.

Two stages, so that a stranger's recipe is data. First every name in the whole recipe must be
registered, which asks the registries and imports nothing. Then the named components, and only
those, are imported, and their options are checked against their constructors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from mtzoo.engine.options import EngineOptions
from mtzoo.errors import MtzooError, did_you_mean
from mtzoo.recipe.options import MistypedError, Signature, conform, describe, signature
from mtzoo.recipe.text import Key, Where, dump, show
from mtzoo.registries import REGISTRIES
from mtzoo.registry import Registry

COMPONENT_SECTIONS = {"data": "datasets", "model": "models", "objective": "objectives"}
SECTIONS = ("name", "seed", *COMPONENT_SECTIONS, "engine")
SLOT_KINDS = tuple(kind for kind in REGISTRIES if kind not in COMPONENT_SECTIONS.values())

_IMPORT_KEYS = ("class_path", "init_args", "dict_kwargs", "_target_", "_component_")
_RECIPE_NAME = re.compile(r"\w[\w .+-]{0,99}")

Renamed = Mapping[Key, tuple[object, Mapping[str, object]]]


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe: every option present and type-checked; what it was read from forgotten.

    Attributes:
        name: What runs are called by; the file's stem unless the recipe says otherwise.
        seed: Of every random draw, 0 to 2**32 - 1.
        model: The model's ``name``, its slots (a section each, or None) and its options.
        objective: The objective's ``name`` and options.
        data: The dataset's ``name`` and options.
        engine: How it is trained.
        notes: What a reader should know about how it was resolved, a line each.
        where: Where each key was written, to begin messages with.
    """

    name: str
    seed: int
    model: dict[str, object]
    objective: dict[str, object]
    data: dict[str, object]
    engine: EngineOptions
    notes: tuple[str, ...] = field(default=(), compare=False)
    where: Where = field(default_factory=Where, compare=False, repr=False)

    def to_yaml(self) -> str:
        """YAML text of the recipe; loading it again gives an equal recipe."""
        return dump(
            {
                "name": self.name,
                "seed": self.seed,
                "data": self.data,
                "model": self.model,
                "objective": self.objective,
                "engine": {f.name: getattr(self.engine, f.name) for f in fields(self.engine)},
            }
        )


def resolve(
    data: Mapping[str, object], where: Where, stem: str, renamed: Renamed | None = None
) -> Recipe:
    """Check a recipe's values and fill in the defaults.

    Args:
        data: What the file and the command line say.
        where: Where they say it.
        stem: The recipe's name unless it gives one.
        renamed: Components whose name the command line changed, see `text.merge`.

    Raises:
        MtzooError: Something in the recipe is wrong; one line with file, line and key.
    """
    for section in data:
        if section not in SECTIONS:
            raise where.fault(
                (section,),
                f"unknown section.{did_you_mean(section, ('base', *SECTIONS))} "
                f"Sections: base, {', '.join(SECTIONS)}",
            )
    for section in (*COMPONENT_SECTIONS, "engine"):
        if section not in data:
            raise MtzooError(
                f"{_source(where)}the section {section!r} is missing; a recipe has "
                f"{', '.join(SECTIONS[1:])}"
            )
    given = {
        section: check_names(data[section], REGISTRIES[kind], where, (section,))
        for section, kind in COMPONENT_SECTIONS.items()
    }
    seed = _seed(data.get("seed", 0), where)
    engine = _engine(data["engine"], where)
    resolver = Resolver(where, renamed or {})
    sections = {
        section: resolver.component(given[section], REGISTRIES[kind], (section,))
        for section, kind in COMPONENT_SECTIONS.items()
    }
    return Recipe(
        _name(data, stem, where),
        seed,
        engine=engine,
        notes=tuple(resolver.notes),
        where=where,
        **sections,
    )


def check_names(
    value: object, registry: Registry | None, where: Where, key: Key
) -> Mapping[str, object]:
    """Refuse a component section unless all names in it are registered; imports nothing.

    Args:
        value: The section.
        registry: Where its name must be registered; None takes any kind that fills slots.
        where: Begins messages.
        key: Of the section.

    Returns:
        The section, now known to be one.
    """
    title = registry.title if registry else "component"
    if not isinstance(value, Mapping):
        hint = f"; write {key[-1]}: {{name: {value}}}" if isinstance(value, str) else ""
        raise where.fault(
            key,
            f"expected a mapping with the name of a registered {title}, got {_kind(value)}{hint}",
        )
    for option in value:
        if option in _IMPORT_KEYS:
            raise where.fault(
                (*key, option),
                "recipes name registered components only, never something to import; write "
                f"name: and a registered {title}" + _known(registry),
            )
        if not isinstance(option, str):
            raise where.fault(key, f"the key {show(option)} is not text")
    if "name" not in value:
        raise where.fault(
            key, f"has no name; add the name of a registered {title}{_known(registry)}"
        )
    name = value["name"]
    if not isinstance(name, str):
        raise where.fault(
            (*key, "name"), f"expected the name of a registered {title}, got {show(name)}"
        )
    if re.search(r"[.:/\\]", name):
        raise where.fault(
            (*key, "name"),
            f"{show(name)} looks like something to import, and recipes name registered "
            f"components only{_known(registry)}",
        )
    if registry is not None:
        if (refusal := registry.refusal(name)) is not None:
            raise where.fault((*key, "name"), refusal)
    elif not any(name in REGISTRIES[kind] for kind in SLOT_KINDS):
        every = sorted({n for kind in SLOT_KINDS for n in REGISTRIES[kind].names()})
        raise where.fault(
            (*key, "name"),
            f"nothing registered is called {show(name)}.{did_you_mean(name, every)} "
            f"Known: {', '.join(every) or 'none'}",
        )
    is_model = registry is not None and registry.kind == "models"
    for option, inner in value.items():
        if isinstance(inner, Mapping):
            if not is_model:
                raise where.fault(
                    (*key, option), "expected a plain value, got a mapping" + _never_import(inner)
                )
            check_names(inner, _slot_registry(option), where, (*key, option))
        elif _holds_mapping(inner):
            raise where.fault((*key, option), "expected a plain value, got a list with a mapping")
    return value


def _slot_registry(slot: str) -> Registry | None:
    """The registry that a slot of this name has, by custom; None where its model has to say."""
    return REGISTRIES[f"{slot}s"] if f"{slot}s" in SLOT_KINDS else None


class Resolver:
    """Fills in and type-checks component sections whose names are known to be registered."""

    def __init__(self, where: Where, renamed: Renamed) -> None:
        self.where = where
        self.renamed = renamed
        self.notes: list[str] = []

    def component(
        self,
        given: Mapping[str, object],
        registry: Registry,
        key: Key,
        model: Signature | None = None,
    ) -> dict[str, object]:
        """Resolve one section: ``name``, then slots and options in the constructor's order."""
        name = str(given["name"])
        who = f"{registry.title} {name!r}"
        from mtzoo.recipe.probe import check_base

        try:
            target = registry.get(name)
            check_base(target, registry.kind, who)
            sign = signature(target)
        except MtzooError as error:
            raise self.where.fault((*key, "name"), str(error)) from error
        carried = self._carried(key, sign, who)
        for option in given:
            if option != "name" and option not in sign.keys and option not in carried:
                raise self._unknown(option, sign, who, key, model)
        resolved: dict[str, object] = {"name": name}
        for slot in sign.slots:
            resolved[slot] = self._slot(given.get(slot), sign, slot, who, (*key, slot))
        for option, spec in sign.options.items():
            if option in given and carried.get(option, True):
                resolved[option] = self._option(given[option], sign, option, (*key, option))
            elif spec.required:
                raise self.where.fault(
                    key, f"{who} needs the option {option!r} ({describe(spec.hint)})"
                )
            else:
                resolved[option] = spec.default
        return resolved

    def _carried(self, key: Key, sign: Signature, who: str) -> dict[str, bool]:
        """Options that the file gave to a component since renamed: whether the new one has them."""
        old, options = self.renamed.get(key, (None, {}))
        keeps: dict[str, bool] = {}
        for option, value in options.items():
            keeps[option] = option in sign.slots
            if option in sign.options:
                try:
                    conform(sign.target, option, value)
                    keeps[option] = True
                except MistypedError:
                    pass
            if not keeps[option]:
                self.notes.append(
                    f"{'.'.join((*key, option))}: {show(value)} was meant for {old!r} and is "
                    f"dropped; {who} does not take it"
                )
        return keeps

    def _slot(
        self, value: object, sign: Signature, slot: str, who: str, key: Key
    ) -> dict[str, object] | None:
        kind, optional = sign.slots[slot].kind, sign.slots[slot].optional
        registry = REGISTRIES[kind]
        if value is None:
            if optional:
                return None
            raise self.where.fault(
                key,
                f"{who} needs {_a(registry.title)}; add {slot}: {{name: ...}}{_known(registry)}",
            )
        # Checked already, unless only the model's constructor could say that this is a slot.
        if _slot_registry(slot) is not registry or not isinstance(value, Mapping):
            check_names(value, registry, self.where, key)
        assert isinstance(value, Mapping)
        return self.component(value, registry, key, model=sign)

    def _option(self, value: object, sign: Signature, option: str, key: Key) -> object:
        try:
            return conform(sign.target, option, value)
        except MistypedError as error:
            typed = self.where.typed.get(key)
            if typed is not None and not isinstance(value, str):
                # A shell strips quotes: --x.name 5 may mean the text '5'.
                try:
                    return conform(sign.target, option, typed)
                except MistypedError:
                    pass
            raise self.where.fault(key, str(error)) from None

    def _unknown(
        self, option: str, sign: Signature, who: str, key: Key, model: Signature | None
    ) -> MtzooError:
        full = (*key, option)
        handed = getattr(sign.target, "takes", ())
        if option in handed:
            return self.where.fault(full, f"handed on by the assembly; {_instead(option, model)}")
        return self.where.fault(
            full,
            f"unknown option of {who}.{did_you_mean(option, sign.keys)} "
            f"Options: {', '.join(sign.keys) or 'none'}",
        )


def _instead(option: str, model: Signature | None) -> str:
    if option in ("resolution", "channels"):
        return f"set data.{option} instead, where the dataset has it"
    if option == "seed":
        return "set seed at the top of the recipe instead"
    if option == "split":
        return "training takes the split 'train', evaluation the split 'test'"
    for slot, spec in (model.slots if model else {}).items():
        if option in spec.gives:
            return f"set model.{slot}.{option} instead"
    return "it follows from the parts before it"


def _engine(value: object, where: Where) -> EngineOptions:
    key = ("engine",)
    if not isinstance(value, Mapping):
        raise where.fault(key, f"expected a mapping with engine options, got {_kind(value)}")
    sign = signature(EngineOptions)
    resolver = Resolver(where, {})
    for option in value:
        if option not in sign.options:
            raise where.fault(
                (*key, option),
                f"unknown engine option.{did_you_mean(option, sign.options)} "
                f"Options: {', '.join(sign.options)}",
            )
    for option, spec in sign.options.items():
        if spec.required and option not in value:
            raise where.fault(key, f"the option {option!r} ({describe(spec.hint)}) is missing")
    checked = {o: resolver._option(v, sign, o, (*key, o)) for o, v in value.items()}
    try:
        return EngineOptions(**checked)  # type: ignore[arg-type]
    except MtzooError as error:
        found = re.match(r"engine\.(\w+): (.*)", str(error), re.DOTALL)
        if found is None:
            raise where.fault(key, str(error)) from error
        raise where.fault((*key, found[1]), found[2]) from error


def _seed(value: object, where: Where) -> int:
    if type(value) is not int or not 0 <= value < 2**32:
        raise where.fault(
            ("seed",), f"expected a whole number from 0 to 4294967295, got {show(value)}"
        )
    return value


def _name(data: Mapping[str, object], stem: str, where: Where) -> str:
    if "name" not in data:
        clean = re.sub(r"[^\w .+-]", "_", stem).strip(" .+-")[:100]
        return clean or "recipe"
    name = data["name"]
    if not isinstance(name, str) or not _RECIPE_NAME.fullmatch(name) or ".." in name:
        raise where.fault(
            ("name",),
            f"expected a recipe's name of letters, digits and ' .+-_' (run folders are called "
            f"so), got {show(name)}",
        )
    return name


def _source(where: Where) -> str:
    return f"{where.source}: " if where.source else ""


def _known(registry: Registry | None) -> str:
    return f". Known: {', '.join(registry.names()) or 'none'}" if registry else ""


def _never_import(value: Mapping[object, object]) -> str:
    named = any(option in _IMPORT_KEYS for option in value)
    return "; recipes name registered components only, never something to import" if named else ""


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else show(value)


def _holds_mapping(value: object) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, list | tuple) and any(map(_holds_mapping, value))
    )


def _a(title: str) -> str:
    return f"an {title}" if title[0] in "aeiou" else f"a {title}"
