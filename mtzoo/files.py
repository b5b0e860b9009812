"""Whole files or none: whatever the project writes for others goes through a name of its own."""

from __future__ import annotations

import contextlib
import os
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
