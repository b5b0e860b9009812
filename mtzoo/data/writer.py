"""Writing a clip store, whole or not at all; `mtzoo.data.store` reads it.

Frames go to a spool file as they come and from there, mapped, into a shard; so what is in memory
is one video, however many there are. A writer with a ``resume`` key also keeps a journal: what it
had committed when it was killed is there for the next one with the same key.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mtzoo.data.store import FORMAT, MANIFEST, VERSION, WITH_TRACKS, sha256
from mtzoo.errors import MtzooError
from mtzoo.files import open_as_folder

JOURNAL = "journal.jsonl"
_SPOOL = "spool.bin"
# What safetensors keeps for itself among the names of tensors.
_RESERVED = "__metadata__"
# Where a tensor begins in the spool: right for every type that a shard may hold.
_ALIGNMENT = 64

_R = TypeVar("_R")


def _readable_json(content: Mapping[str, object]) -> str:
    """Lay JSON out so that people can read and compare it: one line an item, no more."""
    lines = []
    for key, value in content.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            items = ",\n".join(f"    {json.dumps(item, ensure_ascii=False)}" for item in value)
            text = f"[\n{items}\n  ]"
        else:
            text = json.dumps(value, ensure_ascii=False)
        lines.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def check_output(output: str | Path) -> Path:
    """Return ``output`` as an absolute path if a store may be written there.

    Raises:
        MtzooError: It is a file, or a folder that holds something.
    """
    root = Path(output).resolve()
    try:
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            what = "holds something already" if root.is_dir() else "is a file"
            raise MtzooError(f"{root} {what}; remove it or name another output folder")
    except OSError as error:
        raise MtzooError(f"{root} cannot be looked into: {error}") from error
    return root


@dataclass(frozen=True)
class _Spooled:
    """A tensor in the spool."""

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def stop(self) -> int:
        size = self.dtype.itemsize
        for n in self.shape:
            size *= n
        return self.offset + size


@dataclass
class _Fresh:
    """What came since the last commit."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    spooled: list[_Spooled] = field(default_factory=list)
    crc: int = 0


class StoreWriter:
    """Writes a clip store, whole or not at all.

    A context manager. Everything goes into a sibling folder ``<name>.partial-<id>`` that becomes
    the store by one rename in `finish`; leaving the block without `finish`, or by an
    exception, removes it.

    With a ``resume`` key the folder is ``<name>.partial`` and stays when the block is left
    early, if anything was committed. The next writer with that key finds what was committed in
    `committed` and goes on from there.

    Args:
        root: Folder to make; it may exist if it is empty.
        source: Short name of the source set.
        resolution: Side of the square frames in pixels.
        channels: Colour channels of a frame.
        fps: Frames a second.
        split_by: Ways in which the entries are split; the first is the default.
        decoder: Name and version of what decoded the videos.
        preparation: Options of the preparation, as JSON values.
        shard_bytes: A shard is closed once it holds this much.
        resume: What the store is made from and how, in one string; kept in the manifest as
            ``inputs``. Empty writes without a journal.

    Raises:
        MtzooError: The folder holds something already, cannot be written, is being written by
            another process, or an unfinished one with another key is in the way.

    Attributes:
        folder: Where the store is being written.
        committed: The records given to `commit`, those of an earlier, killed writer first.
        entries: What is in the store so far, as in the manifest.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        source: str,
        resolution: int,
        channels: int = 3,
        fps: float,
        split_by: Sequence[str],
        decoder: Mapping[str, str] | None = None,
        preparation: Mapping[str, object] | None = None,
        shard_bytes: int = 256 * 2**20,
        resume: str = "",
    ) -> None:
        self.root = check_output(root)
        self.fps = fps
        self._about = {
            "source": source,
            "decoder": dict(decoder or {}),
            "preparation": dict(preparation or {}),
            **({"inputs": resume} if resume else {}),
        }
        self._split_by = list(split_by)
        self._frame = (resolution, resolution, channels)
        self._shard_bytes = shard_bytes
        self._resume = resume
        self._spooled: list[_Spooled] = []
        self._fresh = _Fresh()
        self._ids: set[str] = set()
        self._shards: list[dict[str, Any]] = []
        self._left_out: list[dict[str, str]] = []
        self._done = False
        self.entries: list[dict[str, Any]] = []
        self.committed: list[Any] = []
        name = f"partial-{secrets.token_hex(4)}" if not resume else "partial"
        self.folder = self.root.with_name(f"{self.root.name}.{name}")
        self._open = contextlib.ExitStack()
        try:
            self._guard(self._start)
        except BaseException:
            self._open.close()
            raise

    def _start(self) -> None:
        self.root.parent.mkdir(parents=True, exist_ok=True)
        if not self._resume:
            self.folder.mkdir()
        elif self.folder.exists() and any(self.folder.iterdir()):
            if not (self.folder / JOURNAL).is_file():
                raise MtzooError(f"{self.folder} is in the way; remove it")
            self._journal = self._open.enter_context((self.folder / JOURNAL).open("r+b"))
            _lock(self._journal, self.folder)
            self._spool = self._open.enter_context((self.folder / _SPOOL).open("a+b"))
            self._recover()
            return
        else:
            self.folder.mkdir(exist_ok=True)
            self._journal = self._open.enter_context((self.folder / JOURNAL).open("xb"))
            _lock(self._journal, self.folder)
            self._note({"inputs": self._resume})
        self._spool = self._open.enter_context((self.folder / _SPOOL).open("xb"))

    def _recover(self) -> None:
        """Take up what a killed writer had committed; drop what it had only begun."""
        lines = list(_journal_lines(self._journal))
        if not lines or lines[0][0].get("inputs") != self._resume:
            raise MtzooError(
                f"{self.folder} holds an unfinished preparation of another source or with other "
                "options; remove it to begin anew"
            )
        # What lies in a closed shard is no longer in the spool.
        closed = max((i for i, (line, _) in enumerate(lines) if "shard" in line), default=0)
        whole = lines[0][1]
        for number, (line, end) in enumerate(lines[1:], 1):
            if "shard" in line:
                shard = line["shard"]
                if not _has_size(self.folder / shard["file"], shard["bytes"]):
                    raise MtzooError(
                        f"{self.folder / shard['file']} was changed; remove {self.folder}"
                    )
                self._shards.append(shard)
            else:
                spooled = [
                    _Spooled(key, getattr(torch, dtype), tuple(shape), offset)
                    for key, dtype, shape, offset in line["spooled"]
                ]
                if number > closed:
                    if spooled and self._checksum(spooled) != line["crc"]:
                        break  # a power cut: the journal reached the disk, the frames did not
                    self._spooled += spooled
                self.entries += line["entries"]
                self._left_out += line["left_out"]
                self.committed.append(line["record"])
            whole = end
        self._ids = {entry["id"] for entry in self.entries}
        self._journal.seek(whole)
        self._journal.truncate()
        self._spool.truncate(_aligned(self._spooled[-1].stop) if self._spooled else 0)
        self._spool.seek(0, os.SEEK_END)

    def _checksum(self, spooled: Sequence[_Spooled]) -> int:
        self._spool.seek(spooled[0].offset)
        left, crc = _aligned(spooled[-1].stop) - spooled[0].offset, 0
        while left and (piece := self._spool.read(min(left, 1 << 24))):
            crc, left = zlib.crc32(piece, crc), left - len(piece)
        return -1 if left else crc

    def _guard(self, act: Callable[..., _R], *given: Any) -> _R:
        """Do ``act``, telling the faults of a disk in one line."""
        try:
            return act(*given)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise MtzooError(
                f"the clip store {self.root} cannot be written: {reason}; {self.kept()}"
            ) from error

    def kept(self) -> str:
        """What is left of the work if it ends now, as a clause for a message."""
        if self._resume and self.committed:
            return (
                f"what was done is kept in {self.folder.name} beside it: give the same command "
                "again to go on from there, or remove that folder"
            )
        return "nothing was left there"

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # what a full disk did not take was not committed
            self._open.close()
        if not self._done and not (self._resume and self.committed):
            self.discard()

    def discard(self) -> None:
        """Remove the unfinished store, whatever was committed."""
        self.committed.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(
        self,
        name: str,
        frames: Tensor,
        *,
        labels: Mapping[str, str],
        splits: Mapping[str, Sequence[tuple[str, int, int]]] | None = None,
        source: str,
        source_range: tuple[int, int],
        tracks: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Add one video.

        Args:
            name: Its id, unique in the store.
            frames: uint8 ``(T, H, W, C)`` of the store's size.
            labels: For example person and action.
            splits: For each way to split, ``(split, start, stop)`` ranges of its frames; ``None``
                where `finish` is going to say.
            source: File that it was made from, relative to the source folder.
            source_range: Frames of that file that it covers, ``[a, b)``.
            tracks: Numbers a frame, float32 ``(T, D)`` each.
        """
        if frames.dtype != torch.uint8 or tuple(frames.shape[1:]) != self._frame or not len(frames):
            raise ValueError(f"{name!r}: {frames.dtype} {tuple(frames.shape)}, not {self._frame}")
        if name in self._ids:
            raise ValueError(f"{name!r} is in the store already")
        tracks = tracks or {}
        for track, values in tracks.items():
            if values.dtype != torch.float32 or values.ndim != 2 or len(values) != len(frames):
                raise ValueError(f"{name!r}: {track!r} is {values.dtype} {tuple(values.shape)}")
        if splits is not None:
            self._check_splits(name, splits)
        self._ids.add(name)
        key = "video:" + name if name == _RESERVED else name
        entry: dict[str, Any] = {
            "id": name,
            "shard": self._shard_name(),
            "key": key,
            "frames": len(frames),
            "labels": dict(labels),
            "source": source,
            "source_range": list(source_range),
            "splits": _as_lists(splits or {}),
        }
        if tracks:
            entry["tracks"] = {track: list(values.shape) for track, values in tracks.items()}
        self._guard(self._append, key, frames)
        for track, values in tracks.items():
            self._guard(self._append, f"{key}//{track}", values)
        self.entries.append(entry)
        self._fresh.entries.append(entry)
        if not self._resume:
            self._close_full_shard()

    def leave_out(self, source: str, reason: str) -> None:
        """Record that ``source`` is not in the store, and why."""
        item = {"source": source, "reason": reason}
        self._left_out.append(item)
        self._fresh.left_out.append(item)

    def commit(self, record: object) -> None:
        """Make durable against a kill what was added and left out since the last commit.

        Args:
            record: JSON value that tells the caller's next run what was done.
        """
        fresh, self._fresh = self._fresh, _Fresh()
        self._guard(self._spool.flush)
        line = {
            "entries": fresh.entries,
            "left_out": fresh.left_out,
            "record": record,
            "spooled": [
                [s.key, str(s.dtype).removeprefix("torch."), s.shape, s.offset]
                for s in fresh.spooled
            ],
            "crc": fresh.crc,
        }
        self._guard(self._note, line)
        self.committed.append(record)
        self._close_full_shard()

    def write_json(self, name: str, content: Mapping[str, object]) -> None:
        """Put one more JSON file beside the manifest."""
        self._guard(self._write_json, name, content)

    def finish(
        self, splits: Mapping[str, Mapping[str, Sequence[tuple[str, int, int]]]] | None = None
    ) -> Path:
        """Write the manifest and give the store its name.

        Args:
            splits: By id, the splits of videos added without.

        Returns:
            Absolute path of the store.
        """
        for name, ranges in (splits or {}).items():
            self._check_splits(name, ranges)
        for entry in self.entries:
            if splits is not None and entry["id"] in splits:
                entry["splits"] = _as_lists(splits[entry["id"]])
            self._check_splits(entry["id"], entry["splits"])
        if self._spooled:
            self._guard(self._close_shard)
        self.write_json(MANIFEST, self._manifest())
        self._guard(self._publish)
        self._done = True
        return self.root

    def _check_splits(self, name: str, splits: Mapping[str, object]) -> None:
        if set(splits) != set(self._split_by):
            raise ValueError(f"{name!r} is split by {sorted(splits)}, not by {self._split_by}")

    def _manifest(self) -> dict[str, Any]:
        tracks = any("tracks" in entry for entry in self.entries)
        return {
            "format": FORMAT,
            "version": WITH_TRACKS if tracks else VERSION,
            **self._about,
            "resolution": self._frame[0],
            "channels": self._frame[2],
            "fps": self.fps,
            "split_by": self._split_by,
            "counts": {
                "videos": len(self.entries),
                "frames": sum(entry["frames"] for entry in self.entries),
                "bytes": sum(shard["bytes"] for shard in self._shards),
                "left_out": len(self._left_out),
            },
            "shards": self._shards,
            "entries": self.entries,
            "left_out": self._left_out,
        }

    def _append(self, key: str, values: Tensor) -> None:
        """Put a tensor at the end of the spool."""
        offset = self._spool.tell()
        data = values.detach().contiguous().numpy().reshape(-1).view("uint8").data
        padding = bytes(_aligned(offset + len(data)) - offset - len(data))
        for piece in (data, padding):
            self._spool.write(piece)
            if self._resume:
                self._fresh.crc = zlib.crc32(piece, self._fresh.crc)
        spooled = _Spooled(key, values.dtype, tuple(values.shape), offset)
        self._spooled.append(spooled)
        self._fresh.spooled.append(spooled)

    def _note(self, line: Mapping[str, object]) -> None:
        self._journal.write(json.dumps(line).encode() + b"\n")
        self._journal.flush()

    def _write_json(self, name: str, content: Mapping[str, object]) -> None:
        with (self.folder / name).open("w", encoding="utf-8") as file:
            file.write(_readable_json(content))
            file.flush()
            os.fsync(file.fileno())

    def _shard_name(self) -> str:
        return f"clips-{len(self._shards):05d}.safetensors"

    def _close_full_shard(self) -> None:
        if self._spooled and self._spooled[-1].stop >= self._shard_bytes:
            self._guard(self._close_shard)

    def _close_shard(self) -> None:
        self._spool.flush()
        path = self.folder / self._shard_name()
        spool = torch.from_file(
            str(self.folder / _SPOOL),
            shared=False,
            size=self._spool.tell(),
            dtype=torch.uint8,
        )
        tensors = {
            s.key: spool[s.offset : s.stop].view(s.dtype).view(s.shape) for s in self._spooled
        }
        save_file(tensors, path)
        del spool, tensors
        open_as_folder(path)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        shard = {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
        if self._resume:
            self._note({"shard": shard})
            os.fsync(self._journal.fileno())
        self._shards.append(shard)
        self._spooled = []
        self._spool.seek(0)
        self._spool.truncate()

    def _publish(self) -> None:
        self._spool.close()
        (self.folder / _SPOOL).unlink()
        # Renaming over an empty folder is one step; over a full one it fails, as it should.
        os.replace(self.folder, self.root)
        # Last, so that a kill at any moment leaves something to go on from, or the store.
        (self.root / JOURNAL).unlink(missing_ok=True)
        descriptor = os.open(self.root.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _as_lists(splits: Mapping[str, Sequence[tuple[str, int, int]]]) -> dict[str, list[list[Any]]]:
    return {by: [list(r) for r in ranges] for by, ranges in splits.items()}


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _journal_lines(journal: IO[bytes]) -> Iterator[tuple[dict[str, Any], int]]:
    """The journal's whole lines, each with the offset after it; a kill may have cut the last."""
    journal.seek(0)
    end = 0
    for line in journal:
        end += len(line)
        try:
            content = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            content = None
        if not isinstance(content, dict):
            return
        yield content, end


def _lock(journal: IO[bytes], folder: Path) -> None:
    """Let one process write at a time; the lock goes with the process, however it ends."""
    try:
        import fcntl
    except ImportError:  # not on this system
        return
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise MtzooError(f"another process is preparing {folder}; wait for it") from None
