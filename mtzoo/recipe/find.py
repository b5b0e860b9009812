"""Where recipes are: a path, or the name of one that comes with mtzoo."""

from __future__ import annotations

from pathlib import Path

from mtzoo.errors import MtzooError, did_you_mean


def known_recipes() -> dict[str, Path]:
    """The recipes that come with mtzoo, by name."""
    here = Path(__file__).resolve().parent.parent
    # In a wheel the recipes lie in the package, in a checkout beside it.
    for folder in (here / "recipes", here.parent / "recipes"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.rglob("*.yaml"))}
    return {}


def find_recipe(recipe: str | Path) -> Path:
    """The file that ``recipe``, a path or the name of a recipe that comes along, means.

    Raises:
        MtzooError: There is no such file or recipe; the message lists the nearest.
    """
    path = Path(recipe)
    try:
        if path.is_file():
            return path
        if path.is_dir():
            raise MtzooError(f"recipe {str(recipe)!r} is a folder; name a YAML file in it")
    except (OSError, ValueError) as error:
        raise MtzooError(f"recipe {str(recipe)!r} cannot be read: {error}") from None
    known = known_recipes()
    if str(recipe) in known:
        return known[str(recipe)]
    raise MtzooError(
        f"there is no recipe {str(recipe)!r}.{did_you_mean(path.stem, known)} "
        f"Name a YAML file or a recipe that comes with mtzoo: {', '.join(known) or 'none'}"
    )
