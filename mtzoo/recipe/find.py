"""Where recipes are: a path, or the name of one that comes with mtzoo."""

from __future__ import annotations

import itertools
import re
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


def find_base(name: object, recipe: Path) -> Path:
    """The file that ``base: name`` in the file ``recipe`` means.

    A name, never a path: a recipe from a stranger must not reach for files elsewhere.

    Raises:
        MtzooError: It is no name, or there is no such recipe beside it or with mtzoo.
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w+-]*", name):
        raise MtzooError(
            f"expected the name of a recipe that lies beside this one or comes with mtzoo, "
            f"got {name!r}"
        )
    beside = recipe.parent / f"{name}.yaml"
    if beside.is_file() and not beside.samefile(recipe):
        return beside
    known = {stem: path for stem, path in known_recipes().items() if stem != recipe.stem}
    if name not in known:
        raise MtzooError(
            f"there is no other recipe {name!r} beside this one or with mtzoo."
            f"{did_you_mean(name, known)}"
        )
    return known[name]


def about(recipe: Path) -> str:
    """What a recipe's leading comment says it is: the first sentence after the command."""
    lines = itertools.takewhile(
        lambda line: line.startswith("#"), recipe.read_text(encoding="utf-8").splitlines()
    )
    text = "\n".join(line.removeprefix("#").strip() for line in lines)
    prose = next((p for p in text.split("\n\n") if not p.startswith("mtzoo ")), "")
    return re.split(r"(?<=\.)\s(?=[A-Z])", " ".join(prose.split()), maxsplit=1)[0].rstrip(".")
