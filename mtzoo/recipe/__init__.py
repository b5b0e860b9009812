"""YAML recipes: from text to objects. Importing this package does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtzoo.errors import MtzooError
from mtzoo.recipe.build import (
    build_dataset,
    build_model,
    build_objective,
    check_recipe,
    plugins,
    resolve_data,
    resolve_model,
    tell_plugins,
)
from mtzoo.recipe.find import find_base, find_recipe, known_recipes
from mtzoo.recipe.resolve import Recipe, resolve
from mtzoo.recipe.text import Where, lay_over, merge, read

__all__ = [
    "Recipe",
    "build_dataset",
    "build_model",
    "build_objective",
    "check_recipe",
    "find_recipe",
    "known_recipes",
    "load_recipe",
    "plugins",
    "resolve_data",
    "resolve_model",
    "tell_plugins",
]


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, merge overrides into it, check it and fill in the defaults.

    Imports the components that the recipe names by registered name, and nothing else; builds
    nothing (`check_recipe` does, without memory).

    A recipe with ``base: NAME`` builds on the recipe ``NAME.yaml`` beside it, or else on the one of
    that name that comes with mtzoo: it says only what differs (see `lay_over`).

    An override that changes a component's ``name`` keeps those options of the file that the new
    component can hold; the others fall back to its defaults and are listed in ``Recipe.notes``.

    Args:
        path: A YAML file, or the name of a recipe that comes with mtzoo.
        overrides: As typed: ``["--engine.steps", "20", "--model.content_encoder.width=32"]``.

    Raises:
        MtzooError: The file is missing, or something in it or in the overrides is wrong; one
            line with file, line, key and the nearest right spelling.
    """
    file = find_recipe(path)
    data, where = _read_with_base(file)
    renamed = merge(data, where, overrides)
    return resolve(data, where, file.stem, renamed)


def _read_with_base(file: Path) -> tuple[dict[str, object], Where]:
    data, where = read(file)
    if "base" not in data:
        return data, where
    name = data.pop("base")
    try:
        base = find_base(name, file)
        below, where.base = read(base)
    except MtzooError as error:
        raise where.fault(("base",), str(error)) from None
    if "base" in below:
        # Two files to read are bearable, a chain of them is not.
        raise where.fault(
            ("base",), f"{name} builds on another recipe itself; name {below['base']}"
        )
    below.pop("name", None)
    return lay_over(below, data), where
