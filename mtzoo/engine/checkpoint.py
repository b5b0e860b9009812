"""Checkpoints that are whole or absent: a kill at any instant leaves one to resume from.

A checkpoint is written beside its place, synced and renamed; older ones go only after that. What
is read back is checked first (zip checksums) and unpickled with ``weights_only=True``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from mtzoo.errors import MtzooError
from mtzoo.files import replacing

FORMAT = 1
BEST = "best.ckpt"
_STEP = re.compile(r"step_(\d+)\.ckpt")


def step_name(step: int) -> str:
    """File name of the checkpoint after ``step`` steps."""
    return f"step_{step:08d}.ckpt"


def save(folder: Path, name: str, state: Mapping[str, Any]) -> Path:
    """Write ``state`` as ``folder/name``, whole or not at all.

    Args:
        folder: Made if missing.
        name: File name, see `step_name`.
        state: Tensors and plain values only, so that it can be read back without unpickling code.

    Raises:
        MtzooError: The disk refused; an older file of that name is untouched.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
    except (OSError, RuntimeError, MtzooError) as error:  # torch tells a full disk as the second
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MtzooError(
            f"the checkpoint was not written ({reason}); make room, then go on from the previous "
            "one with --resume"
        ) from error
    sync_folder(folder)
    return path


def mark_best(folder: Path, name: str) -> None:
    """Make ``best.ckpt`` a second name of ``folder/name``; a copy where links cannot be made."""
    temporary = folder / f".{BEST}.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    try:
        os.link(folder / name, temporary)
    except OSError:
        shutil.copyfile(folder / name, temporary)
    os.replace(temporary, folder / BEST)
    # Renaming one name of a file onto another of the same file does nothing at all (POSIX).
    temporary.unlink(missing_ok=True)
    sync_folder(folder)


def prune(folder: Path, keep: int) -> None:
    """Delete all step checkpoints but the ``keep`` latest; ``best.ckpt`` is no step checkpoint."""
    for path in steps(folder)[keep:]:
        path.unlink(missing_ok=True)


def clean(folder: Path) -> None:
    """Delete what a killed run left half-written."""
    for path in folder.glob(".*.tmp"):
        if path.is_dir():  # of weights
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def steps(folder: Path) -> list[Path]:
    """The step checkpoints, latest first."""
    found = [
        (int(match[1]), path)
        for path in folder.glob("step_*.ckpt")
        if (match := _STEP.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found, reverse=True)]


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        MtzooError: It is damaged or not one of ours.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not look at the checksums
            broken = archive.testzip()
        if broken is not None:
            raise ValueError(f"{broken} is damaged")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways, all of them mean the same
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MtzooError(f"the checkpoint {path} cannot be read ({reason})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise MtzooError(
            f"the checkpoint {path} is not of format {FORMAT}; "
            "it was written by another version of mtzoo, resume it with that one"
        )
    return state


def load_newest(folder: Path, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
    """Read the newest whole checkpoint of a run.

    Args:
        folder: The run's ``checkpoints`` folder.
        say: Takes one line for each damaged one that was passed over.

    Raises:
        MtzooError: There is none.
    """
    candidates = [*steps(folder), *([folder / BEST] if (folder / BEST).is_file() else [])]
    if not candidates:
        raise MtzooError(
            f"nothing to resume: {folder} holds no checkpoint; start a run in a new folder"
        )
    for path in candidates:
        try:
            return path, load(path)
        except MtzooError as error:
            if path == candidates[-1]:
                raise
            say(f"{error}; going on from an older one")
    raise AssertionError("unreachable")


def sync_folder(folder: Path) -> None:
    """Make a rename within ``folder`` survive a power cut, where the system can."""
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
