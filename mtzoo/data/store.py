"""The clip store: prepared videos on disk as plain uint8 tensors, read by slice without decoding.

A store is a folder with ``manifest.json`` and safetensors shards. A shard holds one tensor
``(T, H, W, C)`` a video; the manifest says what each is, how it may be split, where it came from,
what was left out, and the SHA-256 of every shard. A video is stored once: splits are ranges of
frames over it, so that a split by time and one by person share their data.

Shards are mapped into memory and windows copied out of the mapping. That is somewhat faster than
safetensors' ``get_slice`` (in two trials 24,000 against 16,000 and 14,000 against 12,000 random
windows of 16x64x64 a second on one core), needs no open handle, survives a fork, and loader
processes share the page cache.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtzoo.errors import MtzooError, did_you_mean

FORMAT = "mtzoo-clips"
VERSION = 1
WITH_TRACKS = 2
"""Version of a store whose videos carry numbers a frame beside the pictures."""
MANIFEST = "manifest.json"

# Bytes of a number, by safetensors' name of its type: pictures and tracks.
_SIZES = {"U8": 1, "F32": 4}

# The cap that the safetensors format itself puts on a header.
_LARGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Entry:
    """A run of frames of one stored video: all of it, or the part that belongs to a split.

    Attributes:
        id: Name of the video, unique in the store.
        shard: File that holds it.
        key: Tensor in that file.
        start: First frame of the run, counted in the stored video.
        stop: Frame after the last of the run.
        labels: What is known about it, for example person and action.
        source: File that it was made from, relative to the source folder.
        source_range: Frames of the source file that the whole stored video covers, ``[a, b)``.
        splits: For each way to split, which ``(split, start, stop)`` ranges the video has.
        tracks: Numbers a frame that are stored beside the pictures, and how many each has.
    """

    id: str
    shard: str
    key: str
    start: int
    stop: int
    labels: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    source_range: tuple[int, int] = (0, 0)
    splits: Mapping[str, tuple[tuple[str, int, int], ...]] = field(default_factory=dict)
    tracks: Mapping[str, int] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """How many frames the run has."""
        return self.stop - self.start


@dataclass(frozen=True)
class _Shard:
    """A shard as it lies on disk: its size and where in it each tensor begins."""

    path: Path
    size: int
    tensors: Mapping[str, tuple[int, tuple[int, ...], str]]  # key -> (first byte, shape, type)


def _read_shard(path: Path) -> _Shard:
    """Read a safetensors header: 8 bytes of length, then JSON, then the tensors' bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(_LARGEST_HEADER, size - 8):
            raise ValueError("its header is damaged")
        header = json.loads(file.read(length))
    first = 8 + length
    tensors = {}
    for key, what in header.items():
        if key == "__metadata__":
            continue
        begin, end = (int(offset) for offset in what["data_offsets"])
        shape = tuple(int(n) for n in what["shape"])
        count = _SIZES.get(what["dtype"], 0)
        for n in shape:
            count *= n
        if not count or end - begin != count or begin < 0 or first + end > size:
            raise ValueError(f"its tensor {key!r} is not whole data of a known type")
        tensors[key] = (first + begin, shape, what["dtype"])
    return _Shard(path, size, tensors)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ClipStore:
    """A prepared set of videos, opened for reading.

    Opening reads the manifest and the shards' headers and checks them against each other; it
    does not read the frames (`verify` does). Copies of the object in other processes map the
    shards anew when they first read.

    Args:
        root: Folder of the store.

    Raises:
        MtzooError: There is no store, its format is unknown, or a part is missing, truncated or
            contradicts the manifest.

    Attributes:
        root: Absolute path of the store.
        manifest: The manifest as read.
        source: Short name of the source set, for example ``"weizmann"``.
        resolution: Side of the square frames in pixels.
        channels: Colour channels of a frame.
        fps: Frames a second of the stored videos.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).resolve()
        self._mapped: dict[str, Tensor] = {}
        try:
            text = (self.root / MANIFEST).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise MtzooError(f"no clip store at {self.root}: there is no {MANIFEST}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise MtzooError(
                f"the clip store's {self.root / MANIFEST} cannot be read: {error}"
            ) from error
        try:
            manifest = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise self._damaged(f"{MANIFEST} is no valid JSON ({error})") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise MtzooError(f"{self.root / MANIFEST} does not describe a clip store")
        if manifest.get("version") not in (VERSION, WITH_TRACKS):
            raise MtzooError(
                f"the clip store {self.root} has format version {manifest.get('version')!r}, this "
                f"mtzoo reads versions {VERSION} and {WITH_TRACKS}; prepare the store again or "
                "install the mtzoo that wrote it"
            )
        self.manifest: Mapping[str, Any] = manifest
        try:
            self._parse(manifest)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"misses {error}" if isinstance(error, KeyError) else f"is malformed: {error}"
            raise self._damaged(f"{MANIFEST} {what}") from error

    def _damaged(self, what: str) -> MtzooError:
        return MtzooError(f"the clip store {self.root} is damaged: {what}; prepare it again")

    def _parse(self, manifest: Mapping[str, Any]) -> None:
        self.source = str(manifest["source"])
        self.resolution = int(manifest["resolution"])
        self.channels = int(manifest["channels"])
        self.fps = float(manifest["fps"])
        self.split_by: tuple[str, ...] = tuple(str(name) for name in manifest["split_by"])
        if self.resolution < 1 or self.channels < 1 or not self.split_by:
            raise ValueError("it names no resolution, channels or splits")
        self._shards = {str(shard["file"]): self._open_shard(shard) for shard in manifest["shards"]}
        entries = [self._entry(raw) for raw in manifest["entries"]]
        if len({entry.id for entry in entries}) != len(entries):
            raise ValueError("two entries have one id")
        self._entries = tuple(entries)

    def _open_shard(self, described: Mapping[str, Any]) -> _Shard:
        name = str(described["file"])
        # A manifest may come from elsewhere: it names files of this folder and no others.
        if name != Path(name).name or name in {"", ".", ".."}:
            raise ValueError(f"{name!r} is no file name")
        path = self.root / name
        try:
            size = path.stat().st_size
        except OSError:
            raise self._damaged(f"the shard {name} is missing") from None
        if size != int(described["bytes"]):
            raise self._damaged(
                f"the shard {name} has {size:,} bytes where the manifest says "
                f"{int(described['bytes']):,} (truncated or replaced)"
            )
        try:
            return _read_shard(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(f"the shard {name} cannot be read ({error})") from error

    def _entry(self, raw: Mapping[str, Any]) -> Entry:
        name, shard, key, frames = str(raw["id"]), str(raw["shard"]), str(raw["key"]), raw["frames"]
        if shard not in self._shards or key not in self._shards[shard].tensors:
            raise ValueError(f"entry {name!r} lies in no shard")
        shape = (frames, self.resolution, self.resolution, self.channels)
        tracks = {str(k): tuple(int(n) for n in v) for k, v in raw.get("tracks", {}).items()}
        expected = {key: (shape, "U8")}
        expected |= {f"{key}//{track}": (size, "F32") for track, size in tracks.items()}
        for tensor, what in expected.items():
            if self._shards[shard].tensors.get(tensor, ())[1:] != what:
                raise ValueError(f"entry {name!r} has another shape than its shard says")
        if any(len(size) != 2 or size[0] != frames for size in tracks.values()):
            raise ValueError(f"a track of entry {name!r} is not one row a frame")
        splits = {
            str(by): tuple((str(split), int(a), int(b)) for split, a, b in ranges)
            for by, ranges in raw["splits"].items()
        }
        for by, ranges in splits.items():
            edge = 0
            for _, a, b in sorted(ranges, key=lambda r: r[1]):
                if not edge <= a < b <= frames:
                    raise ValueError(f"the split by {by} of entry {name!r} overlaps or overruns")
                edge = b
        first, last = raw["source_range"]
        return Entry(
            id=name,
            shard=shard,
            key=key,
            start=0,
            stop=int(frames),
            labels={str(k): str(v) for k, v in raw["labels"].items()},
            source=str(raw["source"]),
            source_range=(int(first), int(last)),
            splits=splits,
            tracks={track: size[1] for track, size in tracks.items()},
        )

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"ClipStore({str(self.root)!r}, source={self.source!r}, videos={len(self)})"

    def entries(self, split: str | None = None, split_by: str | None = None) -> list[Entry]:
        """List the stored videos, or the parts of them that belong to a split.

        Args:
            split: For example ``"train"``; ``None`` gives every video whole.
            split_by: Which way to split, one of ``self.split_by``; ``None`` takes the first.

        Returns:
            One entry a range of frames, in the manifest's order.

        Raises:
            MtzooError: The store is not split in that way, or has no such split.
        """
        if split is None:
            return list(self._entries)
        by = split_by or self.split_by[0]
        if by not in self.split_by:
            raise MtzooError(
                f"the clip store {self.root} has no split by {by!r}."
                f"{did_you_mean(by, self.split_by)} It is split by {', '.join(self.split_by)}"
            )
        found, names = [], set()
        for entry in self._entries:
            for name, start, stop in entry.splits.get(by, ()):
                names.add(name)
                if name == split:
                    found.append(dataclasses.replace(entry, start=start, stop=stop))
        if not found:
            raise MtzooError(
                f"the clip store {self.root}, split by {by}, has no split {split!r}."
                f"{did_you_mean(split, names)} It has {', '.join(sorted(names)) or 'none'}"
            )
        return found

    def read(
        self, entry: Entry, start: int = 0, count: int | None = None, stride: int = 1
    ) -> Tensor:
        """Read frames of an entry.

        Args:
            entry: One of `entries`.
            start: First frame, counted in the entry.
            count: How many frames; ``None`` takes all from ``start``.
            stride: Frames from one to the next.

        Returns:
            uint8 ``(count, H, W, C)``, a copy of its own.

        Raises:
            IndexError: The window reaches out of the entry.
        """
        return self._rows(entry, entry.key, start, count, stride)

    def read_track(
        self, entry: Entry, track: str, start: int = 0, count: int | None = None, stride: int = 1
    ) -> Tensor:
        """Read a track of an entry, for example a robot's actions.

        Args:
            entry: One of `entries`.
            track: One of ``entry.tracks``.
            start: First frame, counted in the entry.
            count: How many frames; ``None`` takes all from ``start``.
            stride: Frames from one to the next.

        Returns:
            float32 ``(count, D)``, a copy of its own.

        Raises:
            IndexError: The window reaches out of the entry.
            MtzooError: The entry has no such track.
        """
        if track not in entry.tracks:
            raise MtzooError(
                f"{entry.id!r} in the clip store {self.root} has no track {track!r}."
                f"{did_you_mean(track, entry.tracks)} It has {', '.join(entry.tracks) or 'none'}"
            )
        return self._rows(entry, f"{entry.key}//{track}", start, count, stride)

    def _rows(self, entry: Entry, key: str, start: int, count: int | None, stride: int) -> Tensor:
        """A window of a tensor whose rows are an entry's video's frames."""
        if count is None:
            count = (entry.frames - start + stride - 1) // stride
        last = start + (count - 1) * stride
        if start < 0 or count < 1 or stride < 1 or last >= entry.frames:
            raise IndexError(
                f"frames {start} to {last} by {stride} of {entry.id!r}, which has {entry.frames}"
            )
        begin, shape, kind = self._shards[entry.shard].tensors[key]
        row = _SIZES[kind] * math.prod(shape[1:])
        begin += (entry.start + start) * row
        run = self._map(entry.shard)[begin : begin + ((count - 1) * stride + 1) * row]
        if kind == "U8":
            return run.view(-1, *shape[1:])[::stride].clone()
        # A copy first: where a tensor lies in its file may be odd for its type.
        return run.view(-1, row)[::stride].clone().view(torch.float32)

    def verify(self) -> None:
        """Compare every shard with its SHA-256 in the manifest; reads all data.

        Raises:
            MtzooError: A shard differs.
        """
        for shard in self.manifest["shards"]:
            if sha256(self.root / shard["file"]) != shard["sha256"]:
                raise self._damaged(f"the SHA-256 of the shard {shard['file']} differs")

    def _map(self, shard: str) -> Tensor:
        mapped = self._mapped.get(shard)
        if mapped is None:
            known = self._shards[shard]
            # Touching a mapping beyond the end of its file kills the process, so look again:
            # the file may have been cut since the store was opened.
            if not known.path.exists() or known.path.stat().st_size != known.size:
                raise self._damaged(f"the shard {shard} changed after the store was opened")
            mapped = torch.from_file(
                str(known.path), shared=False, size=known.size, dtype=torch.uint8
            )
            self._mapped[shard] = mapped
        return mapped

    def __getstate__(self) -> dict[str, Any]:
        # A mapping would be pickled as a copy of all its bytes.
        return {**self.__dict__, "_mapped": {}}
