"""Reading a clip store that lies on a server or in an object store, by ranges of bytes.

fsspec does the talking, many requests at once. What a batch needs is asked for together, so a
step costs about one round trip, and nothing but the needed bytes crosses the network.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mtzoo.errors import MtzooError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

PROTOCOLS = {
    "http": "fsspec[http]",
    "https": "fsspec[http]",
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "memory": "",
}
"""Protocols that are read, and the package that each needs. A closed list: the address may stand
in a recipe from a stranger, and others start programs or chain further addresses."""

ATTEMPTS = 5
"""How often a request that failed is made in all."""

_PAUSE = 0.2  # seconds before the second attempt; doubled for each further one
_PIECE = 8 << 20  # bytes a request while hashing
_NOT_AGAIN = (FileNotFoundError, PermissionError)


class Range(NamedTuple):
    """Bytes ``[begin, end)`` of a file."""

    name: str
    begin: int
    end: int


def is_remote(root: object) -> bool:
    """Whether a store's root is an address rather than a folder."""
    return isinstance(root, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", root) is not None


class Remote:
    """A folder elsewhere.

    Args:
        root: Address of the folder, for example ``https://host/path`` or ``s3://bucket/path``.

    Raises:
        MtzooError: The protocol is none of `PROTOCOLS`, or its package is not installed.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        protocol = root.partition("://")[0].lower()
        if protocol not in PROTOCOLS or "::" in root:
            raise MtzooError(
                f"a clip store cannot be read from {root}; give a folder or an address that "
                f"begins with one of {', '.join(f'{p}://' for p in PROTOCOLS if p != 'memory')}"
            )
        if "?" in root or "#" in root:
            raise MtzooError(f"the address {root} must end in the store's folder, without ? or #")
        self._protocol = protocol
        self._opened: AbstractFileSystem | None = None
        self._owner = 0
        self._ranges_work = not protocol.startswith("http")
        self._system()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _system(self) -> AbstractFileSystem:
        """The file system of this process: connections do not survive a fork."""
        if self._opened is None or self._owner != os.getpid():
            self._opened, self._owner = self._connect(), os.getpid()
        return self._opened

    def _connect(self) -> AbstractFileSystem:
        import fsspec

        options: dict[str, Any] = {"skip_instance_cache": True}
        try:
            if self._protocol.startswith("http"):
                from aiohttp import ClientTimeout

                timeout = ClientTimeout(total=None, sock_connect=15, sock_read=60)
                options["client_kwargs"] = {"timeout": timeout}
            return fsspec.filesystem(self._protocol, **options)
        except ImportError:
            package = PROTOCOLS[self._protocol]
            raise MtzooError(
                f"reading {self.root} needs the package {package}; install it with `pip install "
                f"'{package}'`"
            ) from None

    def text(self, name: str) -> str:
        """Read a whole file of text.

        Raises:
            FileNotFoundError: There is none.
            MtzooError: It cannot be read.
        """
        last: Exception | None = None
        for attempt in range(ATTEMPTS):
            time.sleep(_PAUSE * 2 ** (attempt - 1) if attempt else 0)
            try:
                data = self._system().cat_file(self._path(name))
                return bytes(data).decode()  # type: ignore[arg-type]
            except _NOT_AGAIN:
                raise
            except Exception as error:  # each protocol's package has its own
                last = error
                if not _passing(error):
                    break
        raise self._failed(name, last)

    def fetch(self, ranges: Sequence[Range]) -> list[bytes]:
        """Read ranges of bytes, all at once; what fails is asked for again, a few times.

        Raises:
            MtzooError: A range cannot be had, or the server does not give ranges.
        """
        if not self._ranges_work:
            self._check_ranges(max(ranges, key=lambda r: r.end))
        found: list[bytes | None] = [None] * len(ranges)
        missing = list(range(len(ranges)))
        last: Exception | None = None
        for attempt in range(ATTEMPTS):
            time.sleep(_PAUSE * 2 ** (attempt - 1) if attempt else 0)
            answers = self._system().cat_ranges(
                [self._path(ranges[i].name) for i in missing],
                [ranges[i].begin for i in missing],
                [ranges[i].end for i in missing],
                on_error="return",
            )
            left = []
            for i, answer in zip(missing, answers, strict=True):
                if isinstance(answer, bytes) and len(answer) == ranges[i].end - ranges[i].begin:
                    found[i] = answer
                    continue
                last = answer if isinstance(answer, Exception) else None
                if not _passing(last):
                    raise self._failed(ranges[i].name, last)
                left.append(i)
            missing = left
            if not missing:
                return [answer for answer in found if answer is not None]
        raise self._failed(ranges[missing[0]].name, last)

    def sha256(self, name: str, size: int) -> str:
        """Hex SHA-256 of a file of ``size`` bytes, read piece by piece."""
        digest = hashlib.sha256()
        for begin in range(0, size, _PIECE):
            digest.update(self.fetch([Range(name, begin, min(begin + _PIECE, size))])[0])
        return digest.hexdigest()

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _check_ranges(self, wanted: Range) -> None:
        """Find out with a small request whether the server gives parts of files at all.

        One that does not would answer every range with the whole file.
        """
        if wanted.end < 2:
            return
        try:
            size = self._system().info(self._path(wanted.name)).get("size")
            if size is not None and size < wanted.end:
                return  # the requests to come will show it
            # Without a cache: what is read is asked for as it is, and an answer that is no range
            # is not read to its end.
            with self._system().open(
                self._path(wanted.name), block_size=1 << 16, cache_type="none"
            ) as file:
                file.seek(wanted.end - 1)
                file.read(1)
        except (ValueError, NotImplementedError, AttributeError):
            raise MtzooError(
                f"the server of {self.root} does not give parts of files (HTTP ranges), without "
                "which a store cannot be streamed; copy the store to a folder or to a server "
                "that does"
            ) from None
        except Exception:  # the requests to come will show it, and are made again
            return
        self._ranges_work = True

    def _failed(self, name: str, error: Exception | None) -> MtzooError:
        if error is None:
            return MtzooError(f"{self.root}/{name} ends before its time; it was changed or cut off")
        reason = " ".join(str(error).split()) or type(error).__name__
        return MtzooError(f"{self.root}/{name} cannot be read: {reason}")


def _passing(error: Exception | None) -> bool:
    """Whether the same request may do better a little later."""
    status = getattr(error, "status", None)
    if status == 416:  # beyond the file's end
        return False
    if isinstance(status, int):
        return status >= 500 or status in (408, 425, 429)
    return not isinstance(error, _NOT_AGAIN)
