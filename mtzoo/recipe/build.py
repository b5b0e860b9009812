"""From resolved sections to objects; the sizes that parts share are handed on here.

Generic over models: what fills which slot follows from the constructor's annotations, what a part
takes and gives from its base class.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from mtzoo.errors import MtzooError
from mtzoo.recipe.options import signature
from mtzoo.recipe.resolve import Recipe, Resolver, check_names
from mtzoo.recipe.text import Key, Where
from mtzoo.registries import REGISTRIES
from mtzoo.registry import Registry, is_foreign

if TYPE_CHECKING:
    from mtzoo.interfaces import Batch, Model, Objective, PairDataset

# What torch and NumPy raise where an option's value cannot work (a negative width, say). Other
# exceptions are defects of the component and keep their traceback, where the component is ours.
_UNWORKABLE = (ValueError, RuntimeError, ZeroDivisionError, OverflowError, AssertionError)

# A check of a recipe tries no part of more numbers than this, a quarter of a gigabyte; `fit` does.
_CHEAP = 1 << 26

# Length of the clips that parts are tried on where only the data itself says it.
_FRAMES = 8


def build_model(
    config: Mapping[str, object],
    *,
    resolution: int,
    channels: int,
    download: bool = True,
    frames: int | None = None,
    where: Where | None = None,
) -> Model:
    """Build a model and the parts in its slots.

    Args:
        config: A recipe's ``model`` section, resolved or not; checked as a stranger's.
        resolution: Side of a frame in pixels.
        channels: Colour channels of a frame.
        download: False takes every option called ``pretrained`` as false: where weights are
            loaded afterwards, or only sizes are of interest, none need to be fetched.
        frames: Where given, parts that come from other packages than mtzoo are tried on a tiny
            batch of clips of so many frames.
        where: Where ``config`` was written, to begin messages with.

    Raises:
        MtzooError: The section is wrong, a part refuses its size or breaks its contract.
    """
    where = where or Where()
    section = _resolved(config, "model", where)
    return _build_model(section, resolution, channels, download, frames, where)[0]


def _build_model(
    section: Mapping[str, object],
    resolution: int,
    channels: int,
    download: bool,
    frames: int | None,
    where: Where,
) -> tuple[Model, dict[str, Any]]:
    """The model of a resolved section, and its parts by slot."""
    sizes: dict[str, object] = {"resolution": resolution, "channels": channels}
    model = signature(REGISTRIES["models"].get(str(section["name"])))
    parts: dict[str, Any] = {}
    for slot, spec in model.slots.items():
        inner = section[slot]
        if inner is None:
            parts[slot] = None
            continue
        assert isinstance(inner, Mapping)
        arguments = (inner, REGISTRIES[spec.kind], ("model", slot), sizes, {}, download, where)
        part = _build(*arguments)
        if frames is not None and is_foreign(type(part)):
            _try(part, arguments, frames)
        for size in part.gives:
            sizes[size] = getattr(part, size)
        parts[slot] = part
    built = _build(section, REGISTRIES["models"], ("model",), sizes, parts, download, where)
    return built, parts


def _try(part: Any, arguments: tuple[Any, ...], frames: int) -> None:
    """Hold a part from elsewhere to its contract; one without memory is built again with it."""
    import torch

    from mtzoo.recipe.probe import try_part

    inner, registry, key, sizes, *_, where = arguments
    numbers = list(chain(part.parameters(), part.buffers()))
    if any(number.is_meta for number in numbers):
        if sum(number.numel() for number in numbers) > _CHEAP:
            return
        with torch.device("cpu"):
            part = _build(*arguments)
    try:
        try_part(part, registry.kind, sizes, frames)
    except MtzooError as error:
        raise where.fault(key, f"{registry.title} {inner['name']!r} {error}") from error


def build_objective(config: Mapping[str, object], *, where: Where | None = None) -> Objective:
    """Build an objective from a recipe's ``objective`` section, resolved or not.

    Raises:
        MtzooError: The section is wrong, the objective refuses a value, or no step could run its
            phases.
    """
    from mtzoo.recipe.probe import check_phases

    where = where or Where()
    section = _resolved(config, "objective", where)
    built = _build(section, REGISTRIES["objectives"], ("objective",), {}, {}, True, where)
    _lay_to(built, section, where, partial(check_phases, built))
    return built


def try_objective(recipe: Recipe, objective: Objective, model: Model, batch: Batch) -> None:
    """Compute the losses of an objective from another package once, on two videos of a batch.

    mtzoo's own are taken at their word. Model and torch's CPU generator are left as they were.

    Args:
        recipe: What it was built from.
        objective: What the model is to learn.
        model: On the CPU.
        batch: On the CPU.

    Raises:
        MtzooError: A loss or a term breaks the contract; names the objective and the phase.
    """
    if is_foreign(type(objective)):
        from mtzoo.recipe import probe

        tried = partial(probe.try_objective, objective, model, batch, recipe.seed)
        _lay_to(objective, recipe.objective, recipe.where, tried)


def _lay_to(
    objective: Objective, section: Mapping[str, object], where: Where, check: Callable[[], None]
) -> None:
    """Run a check of an objective, and say of whatever is wrong whose it is."""
    who = f"objective {section['name']!r}"
    try:
        check()
    except MtzooError as error:
        raise where.fault(("objective",), f"{who}: {error}") from error
    except (Exception, SystemExit) as error:
        if not is_foreign(type(objective)):
            raise
        raise where.fault(("objective",), f"{who} fails ({_reason(error)})") from error


def build_dataset(
    config: Mapping[str, object],
    *,
    split: Literal["train", "test"],
    seed: int,
    where: Where | None = None,
) -> PairDataset:
    """Build a dataset from a recipe's ``data`` section, resolved or not.

    Args:
        config: The section.
        split: Which part of the data.
        seed: Of the order and the draws.
        where: Where ``config`` was written, to begin messages with.

    Raises:
        MtzooError: The section is wrong, or the data is not there.
    """
    where = where or Where()
    section = _resolved(config, "data", where)
    sizes: dict[str, object] = {"split": split, "seed": seed}
    return _build(section, REGISTRIES["datasets"], ("data",), sizes, {}, True, where)


def resolve_data(config: Mapping[str, object]) -> dict[str, object]:
    """Return a ``data`` section with the defaults of what it leaves out.

    Raises:
        MtzooError: The section is wrong.
    """
    return _resolved(config, "data", Where())


def resolve_model(config: Mapping[str, object]) -> dict[str, object]:
    """Return a ``model`` section with the defaults of what it leaves out.

    Raises:
        MtzooError: The section is wrong.
    """
    return _resolved(config, "model", Where())


def check_recipe(recipe: Recipe) -> None:
    """Refuse a recipe whose sizes cannot work: build its networks, but without memory.

    Touches no data. Where the ``data`` section does not say the resolution, because the data
    itself does, one that the networks can be built for is enough.

    Raises:
        MtzooError: A part refuses its size or value; one line with file, line and key.
    """
    objective = build_objective(recipe.objective, where=recipe.where)
    frames = recipe.data.get("frames")
    if not REGISTRIES["datasets"].get(str(recipe.data["name"])).on_disk:
        frames = build_dataset(
            recipe.data, split="train", seed=recipe.seed, where=recipe.where
        ).frames
    model, parts = None, {}
    faults: list[MtzooError] = []
    for resolution, channels in _sizes(recipe):
        try:
            tried = frames if isinstance(frames, int) else _FRAMES
            model, parts = _build_without_memory(recipe, resolution, channels, tried)
            break
        except MtzooError as error:
            faults.append(error)
    else:
        raise faults[0]
    for slot, part in parts.items():
        least = getattr(part, "min_frames", 1)
        if isinstance(frames, int) and frames < least:
            raise recipe.where.fault(
                ("data", "frames"),
                f"clips of {frames} frames are too short for model.{slot}, which needs at "
                f"least {least}",
            )
    check_together(recipe, model, objective, recipe.engine.devices)


def check_together(recipe: Recipe, model: Model, objective: Objective, processes: int) -> None:
    """Refuse parts each of which is in order, but which do not go together.

    Args:
        recipe: What they were built from.
        model: With or without memory.
        objective: What the model is to learn.
        processes: How many share a batch.

    Raises:
        MtzooError: The objective refuses the model or the data, or a part so small a batch.
    """
    from mtzoo.nn.norm import check_batch

    checks = (
        (("objective",), partial(objective.check, model, recipe.data)),
        (
            ("engine", "batch_size"),
            partial(check_batch, model, recipe.engine.batch_size // processes),
        ),
    )
    for key, check in checks:
        try:
            check()
        except MtzooError as error:
            raise recipe.where.fault(key, str(error)) from error
        except (Exception, SystemExit) as error:
            if key != ("objective",) or not is_foreign(type(objective)):
                raise
            who = f"objective {recipe.objective['name']!r}"
            raise recipe.where.fault(key, f"{who} fails ({_reason(error)})") from error


def _build_without_memory(
    recipe: Recipe, resolution: int, channels: int, frames: int
) -> tuple[Model, dict[str, Any]]:
    """The recipe's model and its parts by slot, on torch's meta device."""
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    class NoPowerIterations(TorchFunctionMode):
        # Spectral norms settle their vectors when they are built. Without memory there are no
        # numbers to settle, and torch's shape functions made that most of a check's time.
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = (kwargs or {}).get("out")
            if func is functional.normalize and isinstance(out, torch.Tensor) and out.is_meta:
                return out
            return func(*args, **(kwargs or {}))

    arguments = (recipe.model, resolution, channels, False, frames, recipe.where)
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"), NoPowerIterations():
                return _build_model(*arguments)
        except Exception as error:
            # Not every constructor can do without memory; then the real thing decides.
            if "meta" not in f"{error.__cause__ or error}" and not _has_foreign(recipe.model):
                raise
        return _build_model(*arguments)


def plugins(recipe: Recipe) -> dict[str, str]:
    """What a recipe needs beside mtzoo: distribution and version by the part that comes from it.

    Returns:
        For example ``{"content encoder 'average'": "my_package 0.1"}``; of classes that were
        registered at run time, their module.
    """
    model = signature(REGISTRIES["models"].get(str(recipe.model["name"])))
    named: list[tuple[Registry, object]] = [
        (REGISTRIES["datasets"], recipe.data),
        (REGISTRIES["models"], recipe.model),
        *((REGISTRIES[slot.kind], recipe.model[name]) for name, slot in model.slots.items()),
        (REGISTRIES["objectives"], recipe.objective),
    ]
    found: dict[str, str] = {}
    for registry, section in named:
        if isinstance(section, Mapping):
            name = str(section["name"])
            if is_foreign(registry.get(name)) and (provider := registry.provider(name)):
                found[f"{registry.title} {name!r}"] = provider
    return found


def tell_plugins(versions: object) -> str:
    """What `plugins` found, in words, from the ``versions`` of a run or of its weights.

    Returns:
        For example ``"my_package 0.1 (content encoder 'average')"``; empty where nothing is
        needed. A stranger's file is taken for what it is.
    """
    found = versions.get("plugins") if isinstance(versions, Mapping) else None
    parts: dict[str, list[str]] = {}
    for part, provider in found.items() if isinstance(found, Mapping) else ():
        parts.setdefault(" ".join(str(provider).split())[:100], []).append(str(part)[:100])
    return "; ".join(f"{name} ({', '.join(of)})" for name, of in parts.items())[:500]


def _has_foreign(section: Mapping[str, object]) -> bool:
    """Whether a resolved model section names a class from another package."""
    target = REGISTRIES["models"].get(str(section["name"]))
    parts = (
        REGISTRIES[slot.kind].get(str(inner["name"]))
        for name, slot in signature(target).slots.items()
        if isinstance(inner := section[name], Mapping)
    )
    return any(map(is_foreign, (target, *parts)))


def _sizes(recipe: Recipe) -> list[tuple[int, int]]:
    """Resolution and channels of the recipe's data, or all that they may turn out to be."""
    target = REGISTRIES["datasets"].get(str(recipe.data["name"]))
    resolution = recipe.data.get("resolution", getattr(target, "resolution", None))
    channels = recipe.data.get("channels", getattr(target, "channels", None))
    resolutions = [resolution] if isinstance(resolution, int) else [64, 32, 128]
    return [(r, channels if isinstance(channels, int) else 3) for r in resolutions]


def _resolved(config: Mapping[str, object], section: str, where: Where) -> dict[str, object]:
    kind = {"model": "models", "objective": "objectives", "data": "datasets"}[section]
    check_names(config, REGISTRIES[kind], where, (section,))
    return Resolver(where, {}).component(config, REGISTRIES[kind], (section,))


def _build(
    section: Mapping[str, object],
    registry: Registry,
    key: Key,
    sizes: Mapping[str, object],
    parts: Mapping[str, object],
    download: bool,
    where: Where,
) -> Any:
    from mtzoo.recipe.probe import check_sizes

    who = f"{registry.title} {section['name']!r}"
    sign = signature(registry.get(str(section["name"])))
    arguments: dict[str, object] = dict(parts)
    handed: dict[str, object] = {}
    for size in sign.takes:
        if size not in sizes:
            raise where.fault(key, f"{who} takes {size!r}, which no part before it gives")
        arguments[size] = handed[size] = sizes[size]
    for option in sign.options:
        arguments[option] = section[option]
        if option == "pretrained" and not download:
            arguments[option] = False
    try:
        built = sign.target(**arguments)
    except MtzooError as error:
        # A message that names one option is about that option; one that names none, about the
        # only list that is empty.
        named = [o for o in sign.options if re.search(rf"\b{o}\b", str(error))]
        named = named or [o for o in sign.options if section[o] in ((), [])]
        raise where.fault((*key, *named) if len(named) == 1 else key, str(error)) from error
    except (Exception, SystemExit) as error:
        if is_foreign(sign.target):
            origin = f"{sign.target.__module__}.{sign.target.__qualname__}"
            why = f"{who} ({origin}) cannot be built ({_reason(error)})"
        elif isinstance(error, _UNWORKABLE):
            why = f"{who} cannot be built with these values ({_reason(error)})"
        else:
            raise
        raise where.fault(key, why) from error
    try:
        check_sizes(built, registry.kind, handed)
    except MtzooError as error:
        raise where.fault(key, f"{who} {error}") from error
    return built


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
