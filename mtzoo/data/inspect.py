"""What a clip store holds, in words and pictures, and whether it can be trusted.

`summarise` and `contact_sheet` show; `verify` looks for damage and for splits that leak: frames
of one source on both sides, a person of the test part in training, and twins, which are two videos
of the same content whatever they are called: copied, encoded anew, shifted in time or mirrored.
Monkey-Net's Weizmann archive, for one, has each clip's mirror image as another file.
"""

from __future__ import annotations

import random
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from mtzoo import media
from mtzoo.data.store import ClipStore, Entry
from mtzoo.data.twins import Twins, find_twins, fingerprint, one_thread
from mtzoo.errors import MtzooError, did_you_mean, printable

WINDOW = 16
"""Frames of the paper's clips, for counts."""

SHOWN = 128
"""Frames that are larger are shown in this size on a sheet."""

# Of one colour is a frame, and still a video, whose pixels differ by no more than this in any
# channel: what an encoder makes of nothing.
_NOTHING = 8
# Fewer frames are too few to tell a motion by.
_LEAST = 4

Progress = Callable[[str, int, int], None]
"""Called with what is at hand, how much is done, and how much there is."""


def _silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Part:
    """One side of a way to split.

    Attributes:
        videos: Videos with frames in it.
        frames: Its frames.
        identities: Persons, or source files where persons are not known.
        windows: Videos that give at least one window of 16 neighbouring frames.
    """

    videos: int
    frames: int
    identities: int
    windows: int


@dataclass(frozen=True)
class Pixels:
    """Figures of the pixels, in [0, 255].

    Attributes:
        frames: Frames that were measured.
        of: Frames that there are; fewer were measured where there are many, drawn at random.
        mean: By channel.
        deviation: Standard deviation, by channel.
        motion: Mean absolute difference of a pixel from one frame to the next.
    """

    frames: int
    of: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    motion: float


@dataclass(frozen=True)
class Summary:
    """A store, or a part of one, in figures.

    Attributes:
        part: Which part of the store, in words; empty for all of it.
        videos: Stored videos.
        frames: Their frames.
        bytes: Size of the store's shards.
        lengths: Least, median and largest number of frames.
        rates: Least, median and largest number of frames a second.
        seconds: How long the frames last, each video at its own rate.
        identity: What tells identities apart: ``person``, or ``source`` where it is not known.
        parts: By way and split, of the whole store.
        labels: How many videos have each value, by label.
        tracks: Numbers a frame beside the pictures, and how many each has.
        left_out: How many were left out when the store was made, by reason; numbers in reasons
            that differ are written N.
        pixels: Their mean, spread and motion.
    """

    part: str
    videos: int
    frames: int
    bytes: int
    lengths: tuple[int, float, int]
    rates: tuple[float, float, float]
    seconds: float
    identity: str
    parts: Mapping[str, Mapping[str, Part]]
    labels: Mapping[str, Mapping[str, int]]
    tracks: Mapping[str, int]
    left_out: Mapping[str, int]
    pixels: Pixels

    def lines(self, store: ClipStore) -> list[str]:
        """The store in words."""
        return [printable(line) for line in self._lines(store)]

    def _lines(self, store: ClipStore) -> list[str]:
        about = store.manifest
        options = ", ".join(f"{k} {_value(v)}" for k, v in about.get("preparation", {}).items())
        decoder = about.get("decoder", {})
        low, middle, high = self.lengths
        slow, usual, fast = self.rates
        rate = f"{usual:g}" if slow == fast else f"{slow:g} to {fast:g}, median {usual:g},"
        colours = {1: "grey", 3: "RGB"}.get(store.channels, f"{store.channels}-channel")
        lines = [
            f"{store.root}: {store.source}, {self.part and f'{self.part}, '}"
            f"{_count(self.videos, 'video')}, "
            f"{_count(self.frames, 'frame')} ({_duration(self.seconds)}) of "
            f"{store.resolution}x{store.resolution} {colours} at {rate} a second, "
            f"{self.bytes / 1e6:,.1f} MB in {_count(len(about['shards']), 'shard')}",
            f"prepared with: {options or 'no options'}"
            + (f"; decoded by {decoder.get('name')} {decoder.get('version')}" if decoder else ""),
            f"left out: {_counted(self.left_out) or 'nothing'}",
            f"frames a video: {low:,} to {high:,}, median {middle:,g}",
        ]
        for way, parts in self.parts.items():
            shown = "; ".join(
                f"{name} {_count(part.videos, 'video')} of "
                f"{_count(part.identities, self.identity)}, {_count(part.frames, 'frame')}, "
                f"{part.windows:,} with {WINDOW} or more"
                for name, part in sorted(parts.items(), reverse=True)
            )
            lines.append(f"split by {way}: {shown or 'nothing'}")
        for label, values in self.labels.items():
            lines.append(f"label {label}: {_count(len(values), 'value')}: {_counted(values)}")
        for track, size in self.tracks.items():
            lines.append(f"track {track}: {size} numbers a frame")
        pixels = self.pixels
        drawn = "all" if pixels.frames == pixels.of else f"{pixels.frames:,} drawn of"
        lines.append(
            f"pixels ({drawn} {pixels.of:,} frames): mean {_figures(pixels.mean, '.1f')}, spread "
            f"{_figures(pixels.deviation, '.1f')} in [0, 255]; mean "
            f"{_figures([v / 127.5 - 1 for v in pixels.mean], '.3f')}, spread "
            f"{_figures([v / 127.5 for v in pixels.deviation], '.3f')} in [-1, 1]; "
            f"{pixels.motion:.2f} of 255 from frame to frame"
        )
        return lines


def _value(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(str, value)) + "]"
    return "none" if value is None else str(value)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02}:{seconds:02} h" if hours else f"{minutes}:{seconds:02} min"


def _figures(values: Sequence[float], form: str) -> str:
    return " ".join(format(value, form) for value in values)


def _counted(values: Mapping[str, int], most: int = 12) -> str:
    ranked = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    rest = len(ranked) - most
    shown = ", ".join(f"{value} ({count:,})" for value, count in ranked[:most])
    return shown + (f" and {rest:,} more" if rest > 0 else "")


def summarise(
    store: ClipStore,
    *,
    split: str | None = None,
    split_by: str | None = None,
    sample: int = 4096,
    seed: int = 0,
) -> Summary:
    """Count what a store holds and measure its pixels.

    Args:
        store: An open store.
        split: Part of the store to look at; ``None`` for all of it.
        split_by: Way to split that it is part of; ``None`` for the store's first.
        sample: Most frames to measure the pixels on; of more, so many are drawn.
        seed: Of that draw.

    Raises:
        MtzooError: There is no such part.
    """
    way = _way(store, split_by)
    entries = store.entries(split, way)
    whole = store.entries()
    identity = "person" if all("person" in entry.labels for entry in whole) else "source"
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        for label, value in entry.labels.items():
            labels[label][value] += 1
    lengths = [entry.frames for entry in entries]
    known = store.rates()
    rates = [known[name] for name in dict.fromkeys(entry.id for entry in entries)]
    return Summary(
        part="" if split is None else f"{split} split by {way}",
        videos=len({entry.id for entry in entries}),
        frames=sum(lengths),
        bytes=sum(int(shard["bytes"]) for shard in store.manifest["shards"]),
        lengths=(min(lengths), statistics.median(lengths), max(lengths)),
        rates=(min(rates), statistics.median(rates), max(rates)),
        seconds=sum(entry.frames / known[entry.id] for entry in entries),
        identity=identity,
        parts={way: _parts(whole, way, identity) for way in store.split_by},
        labels={label: dict(values) for label, values in labels.items()},
        tracks={name: size for entry in entries for name, size in entry.tracks.items()},
        left_out=_reasons([str(item["reason"]) for item in store.manifest.get("left_out", ())]),
        pixels=_pixels(store, entries, sample, seed),
    )


def _way(store: ClipStore, split_by: str | None) -> str:
    way = store.split_by[0] if split_by is None else split_by
    if way not in store.split_by:
        raise MtzooError(
            f"the clip store {store.root} has no split by {way!r}."
            f"{did_you_mean(way, store.split_by)} It is split by {', '.join(store.split_by)}"
        )
    return way


def _parts(entries: Sequence[Entry], way: str, identity: str) -> dict[str, Part]:
    gathered: dict[str, list[tuple[Entry, int]]] = defaultdict(list)
    for entry in entries:
        for name, start, stop in entry.splits.get(way, ()):
            gathered[name].append((entry, stop - start))
    return {
        name: Part(
            videos=len({entry.id for entry, _ in runs}),
            frames=sum(count for _, count in runs),
            identities=len(
                {
                    entry.labels[identity] if identity == "person" else _source(entry)
                    for entry, _ in runs
                }
            ),
            windows=len({entry.id for entry, count in runs if count >= WINDOW}),
        )
        for name, runs in gathered.items()
    }


def _source(entry: Entry) -> str:
    return entry.source or entry.id


def _reasons(reasons: Sequence[str]) -> dict[str, int]:
    """Count reasons that differ in their numbers as one."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for reason in reasons:
        kinds[re.sub(r"\d[\d,.]*(?<=\d)", "N", reason)].append(reason)
    return {found[0] if len(set(found)) == 1 else kind: len(found) for kind, found in kinds.items()}


def _pixels(store: ClipStore, entries: Sequence[Entry], sample: int, seed: int) -> Pixels:
    total = sum(entry.frames for entry in entries)
    chosen = range(total)
    if total > sample:
        chosen = sorted(random.Random(seed).sample(chosen, sample))
    ends = np.cumsum([entry.frames for entry in entries])
    places = np.searchsorted(ends, chosen, side="right").tolist()
    # Each with its successor, except a video's last.
    runs: dict[int, list[tuple[Entry, int]]] = {1: [], 2: []}
    for number, place in zip(chosen, places, strict=True):
        entry = entries[place]
        start = number - (int(ends[place]) - entry.frames)
        runs[min(2, entry.frames - start)].append((entry, start))
    sums = torch.zeros(2, store.channels, dtype=torch.float64)
    moved = 0.0
    for length, windows in runs.items():
        for i in range(0, len(windows), 64):
            read = store.read_windows(windows[i : i + 64], length).float()
            means = torch.stack([read[:, 0].mean((1, 2)), read[:, 0].square().mean((1, 2))])
            sums += means.sum(1)
            if length == 2:
                moved += float((read[:, 1] - read[:, 0]).abs().mean((1, 2, 3)).sum())
    mean, square = sums / len(chosen)
    return Pixels(
        frames=len(chosen),
        of=total,
        mean=tuple(mean.tolist()),
        deviation=tuple((square - mean.square()).clamp(min=0).sqrt().tolist()),
        motion=moved / max(1, len(runs[2])),
    )


def contact_sheet(
    store: ClipStore,
    *,
    split: str | None = None,
    split_by: str | None = None,
    rows: int = 16,
    columns: int = 10,
) -> Tensor:
    """Lay frames of some of a store's videos out: a row a video, labelled.

    All splits are shown alike, and in each the videos are chosen so that all values of all labels
    occur about equally often, as far as there is room.

    Args:
        store: An open store.
        split: Part of the store to show; ``None`` for all of it.
        split_by: Way to split by; ``None`` for the store's first.
        rows: Videos to show.
        columns: Frames of each, spread over its length.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        MtzooError: There is no such part.
    """
    clips, names = [], []
    for side, entry in _spread(store, split, split_by, rows):
        times = torch.linspace(0, entry.frames - 1, min(columns, entry.frames)).round().int()
        clip = store.read_windows([(entry, t) for t in times.tolist()], 1)[:, 0]
        clips.append(_at_most(clip, SHOWN))
        name = entry.id if len(entry.id) <= 32 else f"...{entry.id[-29:]}"
        labels = ", ".join(f"{k} {v}" for k, v in entry.labels.items())
        labels = labels if len(labels) <= 40 else f"{labels[:37]}..."
        names.append(printable(f"{side}  {name}  {labels}"))
    return media.sheet(clips, labels=names, scale=max(1, 64 // store.resolution))


def _at_most(clip: Tensor, side: int) -> Tensor:
    if clip.shape[1] <= side:
        return clip
    small = functional.interpolate(
        clip.permute(0, 3, 1, 2).float(), size=(side, side), mode="bilinear", antialias=True
    )
    return small.round().clamp(0, 255).byte().permute(0, 2, 3, 1)


def _spread(
    store: ClipStore, split: str | None, split_by: str | None, count: int
) -> list[tuple[str, Entry]]:
    """Some videos and the split that each is from."""
    way = _way(store, split_by)
    if split is not None:
        sides = {split: store.entries(split, way)}
    else:
        names = {name for e in store.entries() for name, _, _ in e.splits.get(way, ())}
        sides = {name: store.entries(name, way) for name in sorted(names, reverse=True)}
        sides["unused"] = [entry for entry in store.entries() if not entry.splits.get(way)]
    shares = dict.fromkeys(sides, 0)
    for _ in range(min(count, sum(map(len, sides.values())))):
        room = [side for side in sides if shares[side] < len(sides[side])]
        shares[min(room, key=lambda side: shares[side])] += 1
    return [(side, entry) for side in sides for entry in _varied(sides[side], shares[side])]


def _varied(entries: Sequence[Entry], count: int) -> list[Entry]:
    """Choose videos, each so that its labels are the least seen so far; in the store's order."""
    seen: Counter[tuple[str, str]] = Counter()
    left = dict(enumerate(entries))
    chosen = []
    for turn in range(count):
        # Among equals, from all over the store.
        wanted = turn * len(entries) // count
        best = min(
            left,
            key=lambda i: (sum(seen[pair] for pair in left[i].labels.items()), abs(i - wanted)),
        )
        seen.update(left.pop(best).labels.items())
        chosen.append(best)
    return [entries[i] for i in sorted(chosen)]


# Verifying ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """Something about a store that its user should know.

    Attributes:
        kind: ``damage``; ``leak``, where a test would score what training had seen; or ``note``.
        text: One line.
    """

    kind: Literal["damage", "leak", "note"]
    text: str

    def __str__(self) -> str:
        return printable(f"{self.kind}: {self.text}")


@dataclass
class Verdict:
    """What `verify` found.

    Attributes:
        findings: The worst first.
        shards: Shards whose hash was checked.
        videos: Videos looked at.
        compared: Videos that twins were looked for of: those with motion and 4 frames or more.
    """

    findings: list[Finding] = field(default_factory=list)
    shards: int = 0
    videos: int = 0
    compared: int = 0

    @property
    def sound(self) -> bool:
        """Whether there are notes at most."""
        return all(finding.kind == "note" for finding in self.findings)


def verify(store: ClipStore, *, progress: Progress = _silent) -> Verdict:
    """Check hashes, counts and frames, and look for splits that leak.

    Reads all data, once. Which shapes the tensors have was checked when the store was opened.
    Sources, persons and twins may be on both sides of a split; what of that is a leak and what a
    note depends on how it was split:

    - by ``time`` a source is on both sides by design, but no frame may be;
    - by any other way no source may be;
    - by ``person``, or any other label, none of its values may be; elsewhere, that is a note;
    - of twins, no frame that one has on one side may the other have on another.

    Args:
        store: An open store.
        progress: Told how far it is.
    """
    verdict = Verdict()
    verdict.findings += [*_counts(store), *_unused(store), *_shared(store)]
    # One block of memory, and numbers to tell its parts by: whatever else is allocated for good
    # between the frames that come and go would keep their memory from being used again.
    cells = np.empty((sum(entry.frames for entry in store.entries()), 8, 8), np.float16)
    moving: list[tuple[Entry, int]] = []
    stop = 0
    with one_thread():
        for entry, frames in _reading(store, verdict, progress):
            start, stop = stop, stop + entry.frames
            cells[start:stop] = fingerprint(frames)
            still = _still(frames, cells[start:stop])
            verdict.findings += _dull(entry, _blank(frames, cells[start:stop]), still)
            if not still and entry.frames >= _LEAST:
                moving.append((entry, start))
            verdict.videos += 1
    verdict.compared = len(moving)
    found = find_twins(
        [cells[start : start + entry.frames] for entry, start in moving],
        [_source(entry) for entry, _ in moving],
        lambda i: store.read(moving[i][0]),
        progress,
    )
    for twins in found:
        one, other = moving[twins.first][0], moving[twins.second][0]
        verdict.findings.append(_twins(store, one, other, twins))
    order = ("damage", "leak", "note")
    verdict.findings.sort(key=lambda finding: order.index(finding.kind))
    return verdict


def _reading(
    store: ClipStore, verdict: Verdict, progress: Progress
) -> Iterator[tuple[Entry, Tensor]]:
    """All videos, after the hash of the shard that they are in, so that it is read once."""
    shards: dict[str, list[Entry]] = {str(s["file"]): [] for s in store.manifest["shards"]}
    for entry in store.entries():
        shards[entry.shard].append(entry)
    done = 0
    for shard in store.manifest["shards"]:
        name = str(shard["file"])
        progress(f"hash of {name}", done, len(store))
        if store.hash_of(name) != shard["sha256"]:
            text = f"the SHA-256 of the shard {name} differs; prepare the store again"
            verdict.findings.append(Finding("damage", text))
        verdict.shards += 1
        for entry in shards[name]:
            progress(entry.id, done, len(store))
            yield entry, store.read(entry)
            done += 1


def _counts(store: ClipStore) -> Iterator[Finding]:
    entries = store.entries()
    said: Mapping[str, Any] = store.manifest.get("counts", {})
    found = {
        "videos": len(entries),
        "frames": sum(entry.frames for entry in entries),
        "bytes": sum(int(shard["bytes"]) for shard in store.manifest["shards"]),
        "left_out": len(store.manifest.get("left_out", ())),
    }
    for what, count in found.items():
        if what in said and said[what] != count:
            text = f"the manifest counts {said[what]:,} {what}, there are {count:,}"
            yield Finding("damage", text.replace("left_out", "left out"))


def _unused(store: ClipStore) -> Iterator[Finding]:
    for way in store.split_by:
        unused = [entry.id for entry in store.entries() if not entry.splits.get(way)]
        if unused:
            yield Finding("note", f"split by {way}: in no part are {_some(unused)}")


def _shared(store: ClipStore) -> Iterator[Finding]:
    """What the names say of both sides: frames of one source, one person."""
    known = {label for entry in store.entries() for label in entry.labels}
    for way in store.split_by:
        label = way if way in known else "person"
        runs: dict[str, list[_Run]] = defaultdict(list)
        values: dict[str, set[str]] = defaultdict(set)
        for entry in store.entries():
            first, last = entry.source_range
            scale = (last - first) / entry.frames if last > first else 1.0
            for name, start, stop in entry.splits.get(way, ()):
                run = _Run(first + start * scale, first + stop * scale, name, entry.id)
                runs[_source(entry)].append(run)
                if label in entry.labels:
                    values[entry.labels[label]].add(name)
        for source, found in runs.items():
            sides = sorted({run.side for run in found}, reverse=True)
            if way == "time":
                yield from _overlaps(source, found)
            elif len(sides) > 1:
                yield Finding("leak", f"split by {way}: {source} is in {' and '.join(sides)}")
        both = sorted(value for value, sides in values.items() if len(sides) > 1)
        if both:
            text = f"split by {way}: in more than one part are the {label}s {_some(both)}"
            yield Finding("leak" if way == label else "note", text)


class _Run(NamedTuple):
    """Frames of a source that are on one side of a split."""

    start: float
    stop: float
    side: str
    id: str


def _overlaps(source: str, runs: Sequence[_Run]) -> Iterator[Finding]:
    """Where frames of a source are on two sides: the first place only."""
    furthest: dict[str, _Run] = {}
    for run in sorted(runs):
        for other in furthest.values():
            together = min(run.stop, other.stop) - run.start
            # Less than a frame is what rounding a range leaves.
            if other.side != run.side and together > 0.5:
                yield Finding(
                    "leak",
                    f"split by time: frames {run.start:.0f} to {run.start + together - 1:.0f} of "
                    f"{source} are in {other.side} ({other.id}) and in {run.side} ({run.id})",
                )
                return
        if run.side not in furthest or furthest[run.side].stop < run.stop:
            furthest[run.side] = run


def _blank(frames: Tensor, cells: npt.NDArray[np.float16]) -> list[int]:
    """Which frames are of one colour."""
    flat = cells.reshape(len(cells), -1)
    likely = np.flatnonzero(flat.max(1) - flat.min(1) <= _NOTHING).tolist()
    ranges = [frames[i].flatten(0, 1).aminmax(dim=0) for i in likely]
    return [
        i
        for i, (low, high) in zip(likely, ranges, strict=True)
        if int((high - low).max()) <= _NOTHING
    ]


def _still(frames: Tensor, cells: npt.NDArray[np.float16]) -> bool:
    """Whether all frames are the first."""
    if float((cells.max(0) - cells.min(0)).max()) > _NOTHING:
        return False
    low, high = frames.amin(0), frames.amax(0)
    return int((high - low).max()) <= _NOTHING


def _dull(entry: Entry, blank: Sequence[int], still: bool) -> Iterator[Finding]:
    """What to say of frames and videos that show nothing, or nothing new."""
    if len(blank) == entry.frames:
        yield Finding("damage", f"{entry.id}: all its frames are of one colour")
        return
    if blank:
        text = f"{len(blank)} of its {entry.frames} frames are of one colour, from {blank[0]} on"
        yield Finding("note", f"{entry.id}: {text}")
    if still and entry.frames > 1:
        yield Finding("note", f"{entry.id}: nothing moves in it")


def _twins(store: ClipStore, one: Entry, other: Entry, twins: Twins) -> Finding:
    shift = twins.second_start - twins.first_start
    how = " mirrored" if twins.mirrored else ""
    when = f", {abs(shift)} frames {'later' if shift > 0 else 'earlier'}" if shift else ""
    text = f"{other.id} shows what {one.id} shows{how}{when} ({twins.frames} frames)"
    apart = [way for way in store.split_by if _on_both_sides(one, other, way, shift)]
    if apart:
        return Finding("leak", f"twins on both sides of the split by {', '.join(apart)}: {text}")
    return Finding("note", f"twins: {text}")


def _on_both_sides(one: Entry, other: Entry, way: str, shift: int) -> bool:
    """Whether a frame of ``one`` and its twin in ``other``, ``shift`` later, are on two sides."""
    return any(
        a != b and max(start, begin - shift) < min(stop, end - shift)
        for a, start, stop in one.splits.get(way, ())
        for b, begin, end in other.splits.get(way, ())
    )


def _some(names: Sequence[str], most: int = 8) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")
