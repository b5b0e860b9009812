"""Writing a clip store, whole or not at all; `mtzoo.data.store` reads it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mtzoo.data.store import FORMAT, MANIFEST, VERSION, sha256
from mtzoo.errors import MtzooError

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


class StoreWriter:
    """Writes a clip store, whole or not at all.

    A context manager. Everything goes into a sibling folder ``<name>.partial-<id>`` that becomes
    the store by one rename in `finish`; leaving the block without `finish`, or by an
    exception, removes it.

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

    Raises:
        MtzooError: The folder holds something already, or cannot be written.
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
    ) -> None:
        self.root = check_output(root)
        self.fps = fps
        self._about = {
            "source": source,
            "decoder": dict(decoder or {}),
            "preparation": dict(preparation or {}),
        }
        self._split_by = list(split_by)
        self._frame = (resolution, resolution, channels)
        self._shard_bytes = shard_bytes
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._entries: list[dict[str, Any]] = []
        self._ids: set[str] = set()
        self._shards: list[dict[str, Any]] = []
        self._left_out: list[dict[str, str]] = []
        self._done = False
        self.folder = self.root.with_name(f"{self.root.name}.partial-{secrets.token_hex(4)}")
        self._guard(self._make_folder)

    def _make_folder(self) -> None:
        self.root.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir()

    def _guard(self, act: Callable[..., _R], *given: Any) -> _R:
        """Do ``act``, telling the faults of a disk in one line."""
        try:
            return act(*given)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise MtzooError(
                f"the clip store {self.root} cannot be written: {reason}; nothing was left there"
            ) from error

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._done:
            shutil.rmtree(self.folder, ignore_errors=True)

    def add(
        self,
        name: str,
        frames: Tensor,
        *,
        labels: Mapping[str, str],
        splits: Mapping[str, Sequence[tuple[str, int, int]]],
        source: str,
        source_range: tuple[int, int],
    ) -> None:
        """Add one video.

        Args:
            name: Its id, unique in the store.
            frames: uint8 ``(T, H, W, C)`` of the store's size.
            labels: For example person and action.
            splits: For each way to split, ``(split, start, stop)`` ranges of its frames.
            source: File that it was made from, relative to the source folder.
            source_range: Frames of that file that it covers, ``[a, b)``.
        """
        if frames.dtype != torch.uint8 or tuple(frames.shape[1:]) != self._frame or not len(frames):
            raise ValueError(f"{name!r}: {frames.dtype} {tuple(frames.shape)}, not {self._frame}")
        if name in self._ids:
            raise ValueError(f"{name!r} is in the store already")
        if set(splits) != set(self._split_by):
            raise ValueError(f"{name!r} is split by {sorted(splits)}, not by {self._split_by}")
        self._ids.add(name)
        self._pending[name] = frames.contiguous()
        self._pending_bytes += frames.numel()
        self._entries.append(
            {
                "id": name,
                "shard": f"clips-{len(self._shards):05d}.safetensors",
                "key": name,
                "frames": len(frames),
                "labels": dict(labels),
                "source": source,
                "source_range": list(source_range),
                "splits": {by: [list(r) for r in ranges] for by, ranges in splits.items()},
            }
        )
        if self._pending_bytes >= self._shard_bytes:
            self._guard(self._close_shard)

    def leave_out(self, source: str, reason: str) -> None:
        """Record that ``source`` is not in the store, and why."""
        self._left_out.append({"source": source, "reason": reason})

    def write_json(self, name: str, content: Mapping[str, object]) -> None:
        """Put one more JSON file beside the manifest."""
        self._guard(self._write_json, name, content)

    def finish(self) -> Path:
        """Write the manifest and give the store its name; returns its absolute path."""
        if self._pending:
            self._guard(self._close_shard)
        self.write_json(MANIFEST, self._manifest())
        self._guard(self._publish)
        self._done = True
        return self.root

    def _manifest(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            **self._about,
            "resolution": self._frame[0],
            "channels": self._frame[2],
            "fps": self.fps,
            "split_by": self._split_by,
            "counts": {
                "videos": len(self._entries),
                "frames": sum(entry["frames"] for entry in self._entries),
                "bytes": sum(shard["bytes"] for shard in self._shards),
                "left_out": len(self._left_out),
            },
            "shards": self._shards,
            "entries": self._entries,
            "left_out": self._left_out,
        }

    def _write_json(self, name: str, content: Mapping[str, object]) -> None:
        with (self.folder / name).open("w", encoding="utf-8") as file:
            file.write(_readable_json(content))
            file.flush()
            os.fsync(file.fileno())

    def _close_shard(self) -> None:
        path = self.folder / f"clips-{len(self._shards):05d}.safetensors"
        save_file(self._pending, path)
        # It makes files for their owner alone; a store is as open as its folder.
        path.chmod(self.folder.stat().st_mode & 0o666)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        self._shards.append(
            {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
        )
        self._pending, self._pending_bytes = {}, 0

    def _publish(self) -> None:
        # Renaming over an empty folder is one step; over a full one it fails, as it should.
        os.replace(self.folder, self.root)
        descriptor = os.open(self.root.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
