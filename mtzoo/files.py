"""Whole files and folders or none: what is written for others goes through a name of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from mtzoo.errors import MtzooError


def check_place(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` as a `Path` once a file can be put there.

    Meant for before a long computation as well as before the writing itself.

    Raises:
        MtzooError: The folder is missing, is not a folder or may not be written to, or a folder
            stands where the file should go.
    """
    path = Path(path)
    parent = path.parent
    if not path.name:
        raise MtzooError(f"{str(path)!r} does not name a file; give a file name")
    try:
        if path.is_dir():
            raise MtzooError(f"{path} is a folder; give the name of a file in it")
        if not parent.exists():
            raise MtzooError(
                f"cannot write {path}: the folder {parent} does not exist; create it first"
            )
        if not parent.is_dir():
            raise MtzooError(f"cannot write {path}: {parent} is not a folder")
    except OSError as error:
        raise MtzooError(f"cannot write {path}: {error.strerror or error}") from error
    if not os.access(parent, os.W_OK | os.X_OK):
        raise MtzooError(f"cannot write {path}: no permission to write in the folder {parent}")
    return path


@contextlib.contextmanager
def making_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a folder beside ``path`` to fill; it becomes ``path`` when the block succeeds.

    When the block raises, nothing is left. ``path`` must not exist, or be an empty folder.

    Raises:
        MtzooError: Something is there already, the place cannot be written to, or the disk refuses.
    """
    path = check_new_folder(path)
    temporary = path.parent / f".{path.name[:40]}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise MtzooError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_new_folder(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` as a `Path` once a folder can be made there, or an empty one is.

    Raises:
        MtzooError: Something is there already, or the place cannot be written to.
    """
    path = Path(path)
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise MtzooError(f"{path} is there already; name another folder")
        above = next(p for p in path.absolute().parents if p.exists())
    except OSError as error:
        raise MtzooError(f"cannot write {path}: {error.strerror or error}") from error
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise MtzooError(f"cannot write {path}: {above} is no folder that may be written to")
    try:  # permission does not say that the file system lets anyone, as /proc does not
        os.rmdir(tempfile.mkdtemp(prefix=".mtzoo-", dir=above))
    except OSError as error:
        raise MtzooError(f"cannot write {path}: {error.strerror or error}") from error
    return path


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; it becomes ``path`` when the block succeeds.

    The content is flushed to disk before the rename, so a reader, a crash or a power cut meets
    the old file or the whole new one. When the block raises, the temporary file is removed and
    ``path`` is as it was.

    Raises:
        MtzooError: The place cannot be written to (see `check_place`), or the disk refuses.
    """
    path = check_place(path)
    # The name is short whatever the final one is: file systems cap names at 255 bytes.
    temporary = path.parent / f".{path.name[:40]}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise MtzooError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def open_as_folder(path: Path) -> None:
    """Let those read and write a file whom its folder lets.

    Some libraries, safetensors for one, make files for their owner alone. Where the file system
    knows no permissions, there is nothing to be done.
    """
    with contextlib.suppress(OSError):
        path.chmod(path.parent.stat().st_mode & 0o666)
