"""The run folder: who may start in it, and what describes the run."""

from __future__ import annotations

import contextlib
import json
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mtzoo.engine import checkpoint
from mtzoo.errors import MtzooError
from mtzoo.files import replacing
from mtzoo.recipe import Recipe, plugins

# Whatever one of these is in, is a run.
_MARKS = ("recipe.yaml", "log.csv", "checkpoints", "result.json")


def check(output: Path, resume: bool) -> None:
    """Refuse, before anything is built, a folder that a run cannot start or go on in.

    Raises:
        MtzooError: A new run would overwrite one; or there is none to resume; or no folder can
            be made there.
    """
    if output.exists() and not output.is_dir():
        raise MtzooError(f"output {output} is a file; give the name of a folder")
    marks = [mark for mark in _MARKS if (output / mark).exists()]
    if resume:
        if not output.is_dir():
            raise MtzooError(f"nothing to resume: there is no folder {output}")
        folder = output / "checkpoints"
        if not checkpoint.steps(folder) and not (folder / checkpoint.BEST).is_file():
            raise MtzooError(
                f"nothing to resume: {output} holds no checkpoint; start a run in a new folder"
            )
    elif marks:
        raise MtzooError(
            f"output {output} holds a run already ({', '.join(marks)}); "
            "go on with it by --resume, or choose another folder"
        )


def create(output: Path) -> None:
    """Make the folder and those in it.

    Raises:
        MtzooError: The system refuses.
    """
    try:
        for name in ("checkpoints", "samples"):
            (output / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MtzooError(f"cannot make the folder {output}: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def versions(device: torch.device, recipe: Recipe | None = None) -> dict[str, Any]:
    """What the run depends on, by name, of lpips where it is installed.

    Where mtzoo runs from a checkout, with the commit, and ``, changed`` after it where files of the
    package differ from it.

    Args:
        device: Where it runs.
        recipe: Where given and parts of it come from other packages, ``plugins`` says which
            (see `mtzoo.recipe.plugins`); all else is text.
    """
    import lightning
    import numpy

    import mtzoo

    cuda = device.type == "cuda"
    found: dict[str, Any] = {
        "mtzoo": mtzoo.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "lightning": str(lightning.__version__),
        "numpy": str(numpy.__version__),
        **_installed("torchvision", "lpips"),
        "device": torch.cuda.get_device_name(device) if cuda else platform.machine() or "cpu",
    }
    root = Path(mtzoo.__file__).parent.parent
    if (root / ".git").exists():
        try:
            found["commit"] = _git(root, "rev-parse", "HEAD")
            if _git(root, "status", "--porcelain", "--", "mtzoo"):
                found["commit"] += ", changed"
        except (OSError, subprocess.SubprocessError):
            pass  # no git here: the version has to do
    if recipe is not None and (needed := plugins(recipe)):
        found["plugins"] = needed
    return found


def _installed(*packages: str) -> dict[str, str]:
    """Versions of those packages that are there, without importing them."""
    found = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _git(root: Path, *words: str) -> str:
    asked = subprocess.run(
        ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True
    )
    return asked.stdout.strip()
