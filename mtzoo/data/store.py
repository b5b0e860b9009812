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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtzoo.data.remote import Range, Remote, is_remote
from mtzoo.errors import MtzooError, did_you_mean

FORMAT = "mtzoo-clips"
VERSION = 1
WITH_TRACKS = 2
"""Version of a store whose videos carry numbers a frame beside the pictures."""
MANIFEST = "manifest.json"
REPORT = "report.json"
"""What the preparation tells of each video; a store is one without it."""

# Bytes of a number, by safetensors' name of its type: pictures and tracks.
_SIZES = {"U8": 1, "F32": 4}

# How much of a remote shard is asked for to find its header: enough for some hundred videos.
_FIRST = 1 << 16

# The cap that the safetensors format itself puts on a header.
_LARGEST_HEADER = 100_000_000


class DamagedError(MtzooError):
    """A clip store is there, and a part of it is missing, cut or contradicts another."""


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

    size: int
    tensors: Mapping[str, tuple[int, tuple[int, ...], str]]  # key -> (first byte, shape, type)


def _read_shard(path: Path) -> _Shard:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = _header_length(file.read(8), size)
        return _Shard(size, _tensors(file.read(length), size))


def _header_length(start: bytes, size: int) -> int:
    """A safetensors file's first 8 bytes: the length of its header."""
    length = int.from_bytes(start[:8], "little")
    if not 0 < length <= min(_LARGEST_HEADER, size - 8):
        raise ValueError("its header is damaged")
    return length


def _tensors(text: bytes, size: int) -> dict[str, tuple[int, tuple[int, ...], str]]:
    """A safetensors file's header, which is JSON; the tensors' bytes come after it."""
    header = json.loads(text)
    first = 8 + len(text)
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
    return tensors


def _file_name(name: object) -> str:
    if not isinstance(name, str) or name != Path(name).name or name in {"", ".", ".."}:
        raise ValueError(f"{name!r} is no file name")
    return name


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ClipStore:
    """A prepared set of videos, opened for reading.

    Opening reads the manifest and the shards' headers and checks them against each other; it
    does not read the frames (`verify` does). Copies of the object in other processes map the
    shards anew when they first read.

    A store may also lie elsewhere and be read over the network, by the same calls: then its
    shards' headers are read and checked when they are first needed, and `read_windows` asks for
    all its windows at once.

    Args:
        root: Folder of the store, or the address of one: ``https://``, ``s3://``, ``gs://``,
            ``az://`` (see `mtzoo.data.remote`).

    Raises:
        MtzooError: There is no store, or its format is unknown.
        DamagedError: A part is missing, truncated or contradicts the manifest.

    Attributes:
        root: Absolute path of the store, or its address.
        manifest: The manifest as read.
        source: Short name of the source set, for example ``"weizmann"``.
        resolution: Side of the square frames in pixels.
        channels: Colour channels of a frame.
        fps: Frames a second of the stored videos; their median where they differ, see `rates`.
    """

    def __init__(self, root: str | Path) -> None:
        self._remote = Remote(str(root)) if is_remote(root) else None
        self.root: Path | str = self._remote.root if self._remote else Path(root).resolve()
        self._mapped: dict[str, Tensor] = {}
        try:
            text = self._text(MANIFEST)
        except FileNotFoundError:
            raise MtzooError(f"no clip store at {self.root}: there is no {MANIFEST}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise MtzooError(
                f"the clip store's {self.root}/{MANIFEST} cannot be read: {error}"
            ) from error
        try:
            manifest = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise self._damaged(f"{MANIFEST} is no valid JSON ({error})") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise MtzooError(f"{self.root}/{MANIFEST} does not describe a clip store")
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

    def _text(self, name: str) -> str:
        if self._remote:
            return self._remote.text(name)
        return Path(self.root, name).read_text(encoding="utf-8")

    def _damaged(self, what: str) -> DamagedError:
        return DamagedError(f"the clip store {self.root} is damaged: {what}; prepare it again")

    def _parse(self, manifest: Mapping[str, Any]) -> None:
        self.source = str(manifest["source"])
        self.resolution = int(manifest["resolution"])
        self.channels = int(manifest["channels"])
        self.fps = float(manifest["fps"])
        self.split_by: tuple[str, ...] = tuple(str(name) for name in manifest["split_by"])
        if self.resolution < 1 or self.channels < 1 or not self.split_by:
            raise ValueError("it names no resolution, channels or splits")
        # A manifest may come from elsewhere: it names files of this folder and no others.
        self._sizes = {
            _file_name(shard["file"]): int(shard["bytes"]) for shard in manifest["shards"]
        }
        self._shards: dict[str, _Shard] = {}
        if self._remote is None:
            self._shards = {name: self._open_shard(name) for name in self._sizes}
        entries = [self._entry(raw) for raw in manifest["entries"]]
        if len({entry.id for entry in entries}) != len(entries):
            raise ValueError("two entries have one id")
        self._entries = tuple(entries)

    def _open_shard(self, name: str) -> _Shard:
        path = Path(self.root, name)
        try:
            size = path.stat().st_size
        except OSError:
            raise self._damaged(f"the shard {name} is missing") from None
        if size != self._sizes[name]:
            raise self._damaged(
                f"the shard {name} has {size:,} bytes where the manifest says "
                f"{self._sizes[name]:,} (truncated or replaced)"
            )
        try:
            return _read_shard(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(f"the shard {name} cannot be read ({error})") from error

    def _open_remote(self, remote: Remote, names: Iterable[str]) -> None:
        """Read the headers of shards that are needed for the first time, and see their ends."""
        names = [name for name in dict.fromkeys(names) if name not in self._shards]
        if not names:
            return
        sizes = [self._sizes[name] for name in names]
        starts = [Range(n, 0, min(size, _FIRST)) for n, size in zip(names, sizes, strict=True)]
        ends = [Range(n, size - 1, size) for n, size in zip(names, sizes, strict=True)]
        answers = remote.fetch([*starts, *ends])
        for name, size, start in zip(names, sizes, answers, strict=False):
            try:
                length = _header_length(start, size)
                if 8 + length > len(start):
                    start = remote.fetch([Range(name, 0, 8 + length)])[0]
                self._shards[name] = _Shard(size, _tensors(start[8 : 8 + length], size))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise self._damaged(f"the shard {name} cannot be read ({error})") from error

    def _entry(self, raw: Mapping[str, Any]) -> Entry:
        name, shard, key, frames = str(raw["id"]), str(raw["shard"]), str(raw["key"]), raw["frames"]
        if shard not in self._sizes or not isinstance(frames, int):
            raise ValueError(f"entry {name!r} lies in no shard")
        tracks = {str(k): tuple(int(n) for n in v) for k, v in raw.get("tracks", {}).items()}
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
        entry = Entry(
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
        if self._remote is None:
            for tensor in (key, *(f"{key}//{track}" for track in tracks)):
                self._place(entry, tensor)
        return entry

    def _place(self, entry: Entry, key: str) -> tuple[int, tuple[int, ...], str]:
        """Where a tensor of an entry lies in its shard: first byte, shape and type."""
        place = self._shards[entry.shard].tensors.get(key)
        track = key.removeprefix(f"{entry.key}//")
        frames = entry.frames if place is None else place[1][0]
        expected = (
            ((frames, self.resolution, self.resolution, self.channels), "U8")
            if key == entry.key
            else ((frames, entry.tracks[track]), "F32")
        )
        if place is None or place[1:] != expected or entry.stop > frames:
            raise ValueError(f"entry {entry.id!r} is not in its shard as the manifest says")
        return place

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

    def rates(self) -> dict[str, float]:
        """Frames a second of each stored video, by id, as the preparation's report says.

        Where there is no report, or it says nothing of a video, that is ``fps``.
        """
        rates = dict.fromkeys((entry.id for entry in self._entries), self.fps)
        try:
            for video in json.loads(self._text(REPORT))["used"]:
                name, fps = video["id"], video["fps"]
                if name in rates and isinstance(fps, int | float) and 0 < fps < math.inf:
                    rates[name] = float(fps)
        except (OSError, MtzooError, ValueError, KeyError, TypeError, RecursionError):
            pass  # made by other means, or copied without its report
        return rates

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
        return self._windows([(entry, key, start)], count, stride)[0]

    def read_windows(
        self, windows: Sequence[tuple[Entry, int]], count: int, stride: int = 1
    ) -> Tensor:
        """Read windows of one length into one tensor; from elsewhere, all at once.

        Args:
            windows: Entries, each with the first frame of its window, counted in the entry.
            count: Frames of a window.
            stride: Frames from one to the next.

        Returns:
            uint8 ``(len(windows), count, H, W, C)``.

        Raises:
            IndexError: A window reaches out of its entry.
        """
        last = (count - 1) * stride
        for entry, start in windows:
            if start < 0 or count < 1 or stride < 1 or start + last >= entry.frames:
                raise IndexError(f"{count} frames from {start} by {stride} of {entry.id!r}")
        return self._windows([(entry, entry.key, start) for entry, start in windows], count, stride)

    def _windows(
        self, windows: Sequence[tuple[Entry, str, int]], count: int, stride: int
    ) -> Tensor:
        """Rows of tensors, ``(len(windows), count, ...)``; the windows are known to be there."""
        if self._remote is not None:
            self._open_remote(self._remote, (entry.shard for entry, _, _ in windows))
        ranges = []
        shape: tuple[int, ...] = ()
        kind = "U8"
        for entry, key, start in windows:
            try:
                begin, shape, kind = self._place(entry, key)
            except ValueError as error:
                raise self._damaged(str(error)) from error
            row = _SIZES[kind] * math.prod(shape[1:])
            begin += (entry.start + start) * row
            ranges.append(Range(entry.shard, begin, begin + ((count - 1) * stride + 1) * row))
        row = _SIZES[kind] * math.prod(shape[1:])
        given = torch.empty(len(windows), count, row, dtype=torch.uint8)
        for target, run in zip(given, self._runs(ranges), strict=True):
            target.copy_(run.view(-1, row)[::stride])
        if kind != "U8":
            given = given.view(torch.float32)
        return given.view(len(windows), count, *shape[1:])

    def _runs(self, ranges: Sequence[Range]) -> Iterator[Tensor]:
        """The bytes of ranges, uint8, not to be written to."""
        if self._remote is None:
            for name, begin, end in ranges:
                yield self._map(name)[begin:end]
            return
        for data in self._remote.fetch(ranges):
            yield torch.frombuffer(bytearray(data), dtype=torch.uint8)

    def hash_of(self, shard: str) -> str:
        """The SHA-256 of a shard as it is now; reads all of it."""
        if self._remote is not None:
            return self._remote.sha256(shard, self._sizes[shard])
        return sha256(Path(self.root, shard))

    def verify(self) -> None:
        """Compare every shard with its SHA-256 in the manifest; reads all data.

        Raises:
            MtzooError: A shard differs.
        """
        for shard in self.manifest["shards"]:
            if self.hash_of(shard["file"]) != shard["sha256"]:
                raise self._damaged(f"the SHA-256 of the shard {shard['file']} differs")

    def _map(self, shard: str) -> Tensor:
        mapped = self._mapped.get(shard)
        if mapped is None:
            path, size = Path(self.root, shard), self._shards[shard].size
            # Touching a mapping beyond the end of its file kills the process, so look again:
            # the file may have been cut since the store was opened.
            if not path.exists() or path.stat().st_size != size:
                raise self._damaged(f"the shard {shard} changed after the store was opened")
            mapped = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
            self._mapped[shard] = mapped
        return mapped

    def __getstate__(self) -> dict[str, Any]:
        # A mapping would be pickled as a copy of all its bytes.
        return {**self.__dict__, "_mapped": {}}
