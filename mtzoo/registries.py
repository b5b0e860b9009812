"""The registries, one a kind. Importing this module imports no component and no torch."""

from __future__ import annotations

from mtzoo.errors import MtzooError, did_you_mean
from mtzoo.registry import Entry, Registry

content_encoders = Registry(
    "content_encoders", "mtzoo.components.content_encoders", "content encoder"
)
motion_encoders = Registry("motion_encoders", "mtzoo.components.motion_encoders", "motion encoder")
motion_generators = Registry(
    "motion_generators", "mtzoo.components.motion_generators", "motion generator"
)
image_generators = Registry(
    "image_generators", "mtzoo.components.image_generators", "image generator"
)
image_discriminators = Registry(
    "image_discriminators", "mtzoo.components.image_discriminators", "image discriminator"
)
video_discriminators = Registry(
    "video_discriminators", "mtzoo.components.video_discriminators", "video discriminator"
)
motion_priors = Registry("motion_priors", "mtzoo.components.motion_priors", "motion prior")
models = Registry("models", "mtzoo.models", "model")
objectives = Registry("objectives", "mtzoo.objectives", "objective")
datasets = Registry("datasets", "mtzoo.data.datasets", "dataset")

REGISTRIES: dict[str, Registry] = {
    registry.kind: registry
    for registry in (
        content_encoders,
        motion_encoders,
        motion_generators,
        image_generators,
        image_discriminators,
        video_discriminators,
        motion_priors,
        models,
        objectives,
        datasets,
    )
}


def registry(kind: str) -> Registry:
    """Return the registry of ``kind``; singular and hyphenated spellings are understood.

    Raises:
        MtzooError: There is no such kind; the message lists them.
    """
    spelled = kind.strip().lower().replace("-", "_")
    for candidate in (spelled, spelled + "s"):
        if candidate in REGISTRIES:
            return REGISTRIES[candidate]
    raise MtzooError(
        f"unknown kind {kind!r}.{did_you_mean(spelled, REGISTRIES)} Kinds: {', '.join(REGISTRIES)}"
    )


def describe(kind: str, name: str) -> Entry:
    """Return the entry (class, card, origin) of one component."""
    return registry(kind).entry(name)


def create(kind: str, name: str, **options: object) -> object:
    """Build one component by kind and name.

    Args:
        kind: For example ``"content_encoders"`` (or ``"content_encoder"``).
        name: Registered name, see ``mtzoo ls``.
        **options: Passed to the constructor as they are.

    Raises:
        MtzooError: Unknown kind or name; an option that the constructor does not have, one that it
            needs and was not given, or a size that is no whole number.
    """
    import inspect
    import numbers

    target = registry(kind).get(name)
    who = f"{registry(kind).title} {name!r}"
    known = inspect.signature(target).parameters
    for option in options:
        if option not in known:
            raise MtzooError(
                f"{who} has no option {option!r}.{did_you_mean(option, known)} "
                f"Options: {', '.join(known)}"
            )
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [o for o, p in known.items() if p.default is p.empty and p.kind not in open_ended]
    missing = [option for option in needed if option not in options]
    if missing:
        raise MtzooError(
            f"{who} needs {', '.join(missing)}; write create({kind!r}, {name!r}, "
            f"{', '.join(f'{option}=...' for option in missing)})"
        )
    for size in getattr(target, "takes", ()):
        whole = size not in options or known[size].annotation not in (int, "int")
        value = options.get(size)
        if not whole and (not isinstance(value, numbers.Integral) or isinstance(value, bool)):
            raise MtzooError(f"{who}: {size} must be a whole number, not {value!r}")
    return target(**options)
