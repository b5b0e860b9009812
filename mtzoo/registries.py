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
        **options: Passed to the constructor as they are; a wrong name is an error there.

    Raises:
        MtzooError: Unknown kind or name, or an option that the constructor does not have.
    """
    import inspect

    target = registry(kind).get(name)
    known = inspect.signature(target).parameters
    for option in options:
        if option not in known:
            raise MtzooError(
                f"{registry(kind).title} {name!r} has no option {option!r}."
                f"{did_you_mean(option, known)} Options: {', '.join(known)}"
            )
    return target(**options)
