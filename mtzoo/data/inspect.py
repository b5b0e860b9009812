"""What a clip store holds, in words and pictures, and whether it can be trusted.

`summarise` and `contact_sheet` show; `verify` looks for damage and for splits that leak: frames
of one source on both sides, a person of the test part in training, and twins, which are two videos
of the same content whatever they are called: copied, encoded anew, shifted in time or mirrored.
Monkey-Net's Weizmann archive, for one, has each clip's mirror image as another file.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mtzoo import media
from mtzoo.data.store import ClipStore, Entry

WINDOW = 16
"""Frames of the paper's clips, for counts."""

# Twins are looked for in grey pictures of this side: small enough that noise of compression and a
# shift by a pixel vanish, large enough that an arm's place shows.
_SIDE = 16
# Pictures of the gallery that candidates are looked for in, and candidates tried a video.
_GALLERY, _CANDIDATES = 300_000, 6
# Twins correlate at least so much: as pictures, and in how they move. Measured on the Weizmann
# videos, BAIR's frames and the synthetic worlds: see tests/test_inspect.py.
_ALIKE, _MOVE_ALIKE = 0.93, 0.86
# Grey levels: in videos that move less than the first, compression hides the motion; it is enough
# that their pictures differ by less than the second.
_STILL, _SAME = 3.0, 1.5

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
        sources: Source files.
        windows: Videos that give at least one window of 16 frames.
    """

    videos: int
    frames: int
    sources: int
    windows: int


@dataclass(frozen=True)
class Summary:
    """A store in figures.

    Attributes:
        videos: Stored videos.
        frames: Their frames.
        bytes: Size of the shards.
        lengths: Least, median and largest number of frames.
        parts: By way and split.
        labels: How many videos have each value, by label.
        tracks: Numbers a frame beside the pictures, and how many each has.
        left_out: How many were left out, by reason.
        sampled: Frames that the figures below were taken from.
        mean: By channel, in [0, 255].
        deviation: Standard deviation of the pixels by channel, in the same units.
        motion: Mean absolute difference of a pixel from one frame to the next, likewise.
    """

    videos: int
    frames: int
    bytes: int
    lengths: tuple[int, float, int]
    parts: Mapping[str, Mapping[str, Part]]
    labels: Mapping[str, Mapping[str, int]]
    tracks: Mapping[str, int]
    left_out: Mapping[str, int]
    sampled: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    motion: float

    def lines(self, store: ClipStore) -> list[str]:
        """The store in words."""
        about = store.manifest
        options = ", ".join(f"{k} {_value(v)}" for k, v in about.get("preparation", {}).items())
        decoder = about.get("decoder", {})
        low, middle, high = self.lengths
        lines = [
            f"{store.root}: {store.source}, {self.videos:,} videos, {self.frames:,} frames of "
            f"{store.resolution}x{store.resolution}x{store.channels} at {store.fps:g} a second, "
            f"{self.bytes / 1e6:,.1f} MB in {len(about['shards'])} shards",
            f"prepared with: {options or 'no options'}"
            + (f"; decoded by {decoder.get('name')} {decoder.get('version')}" if decoder else ""),
            f"frames a video: {low} to {high}, median {middle:g}",
        ]
        for way, parts in self.parts.items():
            shown = "; ".join(
                f"{name} {part.videos:,} videos of {part.sources:,} sources, {part.frames:,} "
                f"frames, {part.windows:,} with {WINDOW} or more"
                for name, part in sorted(parts.items(), reverse=True)
            )
            lines.append(f"split by {way}: {shown or 'nothing'}")
        for label, values in self.labels.items():
            lines.append(f"label {label}: {_counted(values)}")
        for track, size in self.tracks.items():
            lines.append(f"track {track}: {size} numbers a frame")
        if self.left_out:
            lines.append(f"left out: {_counted(self.left_out)}")
        colours = "RGB" if len(self.mean) == 3 else "grey"
        lines.append(
            f"pixels ({self.sampled:,} frames, {colours}): mean "
            f"{' '.join(f'{v:.1f}' for v in self.mean)}, spread "
            f"{' '.join(f'{v:.1f}' for v in self.deviation)} of 255; mean "
            f"{' '.join(f'{v / 127.5 - 1:.3f}' for v in self.mean)}, spread "
            f"{' '.join(f'{v / 127.5:.3f}' for v in self.deviation)} in [-1, 1]; "
            f"{self.motion:.2f} of 255 from frame to frame"
        )
        return lines


def _value(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(str, value)) + "]"
    return "none" if value is None else str(value)


def _counted(values: Mapping[str, int], most: int = 12) -> str:
    ranked = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    rest = len(ranked) - most
    shown = ", ".join(f"{value} ({count:,})" for value, count in ranked[:most])
    return shown + (f" and {rest:,} more" if rest > 0 else "")


def summarise(store: ClipStore, *, sample: int = 2048, seed: int = 0) -> Summary:
    """Count what a store holds and measure its pixels.

    Args:
        store: An open store.
        sample: Frames, about, to measure the pixels on: pairs of neighbours, drawn with the seed.
        seed: Of that draw.
    """
    entries = store.entries()
    parts: dict[str, dict[str, Part]] = {}
    for way in store.split_by:
        gathered: dict[str, list[tuple[Entry, int]]] = defaultdict(list)
        for entry in entries:
            for name, start, stop in entry.splits.get(way, ()):
                gathered[name].append((entry, stop - start))
        parts[way] = {
            name: Part(
                videos=len({entry.id for entry, _ in runs}),
                frames=sum(count for _, count in runs),
                sources=len({entry.source or entry.id for entry, _ in runs}),
                windows=len({entry.id for entry, count in runs if count >= WINDOW}),
            )
            for name, runs in gathered.items()
        }
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        for label, value in entry.labels.items():
            labels[label][value] += 1
    lengths = sorted(entry.frames for entry in entries)
    mean, deviation, motion, sampled = _pixels(store, entries, sample, seed)
    return Summary(
        videos=len(entries),
        frames=sum(lengths),
        bytes=sum(int(shard["bytes"]) for shard in store.manifest["shards"]),
        lengths=(lengths[0], statistics.median(lengths), lengths[-1]),
        parts=parts,
        labels={label: dict(values) for label, values in labels.items()},
        tracks={name: size for entry in entries for name, size in entry.tracks.items()},
        left_out=dict(Counter(str(item["reason"]) for item in store.manifest.get("left_out", ()))),
        sampled=sampled,
        mean=mean,
        deviation=deviation,
        motion=motion,
    )


def _pixels(
    store: ClipStore, entries: Sequence[Entry], sample: int, seed: int
) -> tuple[tuple[float, ...], tuple[float, ...], float, int]:
    generator = torch.Generator().manual_seed(seed)
    each = max(1, sample // (2 * len(entries)))
    chosen = torch.randperm(len(entries), generator=generator)[: max(1, sample // 2)].tolist()
    total = torch.zeros(store.channels, dtype=torch.float64)
    squares, moved, frames, pairs = torch.zeros_like(total), 0.0, 0, 0
    runs: dict[int, list[tuple[Entry, int]]] = defaultdict(list)
    for index in chosen:
        entry = entries[index]
        starts = torch.randint(max(1, entry.frames - 1), (each,), generator=generator).tolist()
        runs[min(2, entry.frames)] += [(entry, start) for start in starts]
    for length, windows in runs.items():
        for i in range(0, len(windows), 64):
            read = store.read_windows(windows[i : i + 64], length).double()
            total += read.mean((2, 3)).sum((0, 1))
            squares += read.square().mean((2, 3)).sum((0, 1))
            frames += read.shape[0] * length
            if length == 2:
                moved += float((read[:, 1] - read[:, 0]).abs().mean((1, 2, 3)).sum())
                pairs += len(read)
    mean = total / frames
    deviation = (squares / frames - mean.square()).clamp(min=0).sqrt()
    return tuple(mean.tolist()), tuple(deviation.tolist()), moved / max(1, pairs), frames


def contact_sheet(store: ClipStore, *, rows: int = 16, columns: int = 10) -> Tensor:
    """Lay frames of some of a store's videos out: a row a video, labelled.

    The videos are spread over splits and labels as over the store.

    Args:
        store: An open store.
        rows: Videos to show.
        columns: Frames of each, spread over its length.

    Returns:
        uint8 ``(H, W, 3)``.
    """
    entries = _spread(store, rows)
    clips, names = [], []
    for entry in entries:
        times = torch.linspace(0, entry.frames - 1, min(columns, entry.frames)).round().long()
        clips.append(store.read_windows([(entry, t) for t in times.tolist()], 1)[:, 0])
        sides = sorted({name for name, _, _ in entry.splits.get(store.split_by[0], ())})
        name = entry.id if len(entry.id) <= 32 else f"...{entry.id[-29:]}"
        names.append(f"{name}  {entry.frames} frames  {'+'.join(sides) or 'unused'}")
    return media.sheet(clips, labels=names)


def _spread(store: ClipStore, count: int) -> list[Entry]:
    """Some videos: of every side in turn, evenly over each."""
    sides: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for entry in store.entries():
        sides[tuple(name for name, _, _ in entry.splits.get(store.split_by[0], ()))].append(entry)
    chosen: list[Entry] = []
    for number, members in enumerate(sorted(sides.values(), key=len)):
        share = min(len(members), -(-(count - len(chosen)) // (len(sides) - number)))
        places = torch.linspace(0, len(members) - 1, share).round().long().unique().tolist()
        chosen += [members[i] for i in places]
    return chosen


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


@dataclass
class Verdict:
    """What `verify` found.

    Attributes:
        findings: The worst first.
        shards: Shards whose hash was checked.
        videos: Videos looked at.
    """

    findings: list[Finding] = field(default_factory=list)
    shards: int = 0
    videos: int = 0

    @property
    def sound(self) -> bool:
        """Whether there are notes at most."""
        return all(finding.kind == "note" for finding in self.findings)


def verify(store: ClipStore, *, progress: Progress = _silent) -> Verdict:
    """Check hashes, counts and frames, and look for splits that leak.

    Reads all data. Which shapes the tensors have was checked when the store was opened.

    Args:
        store: An open store.
        progress: Told of shards and videos.
    """
    verdict = Verdict()
    shards = store.manifest["shards"]
    for done, shard in enumerate(shards):
        progress(f"hash of {shard['file']}", done, len(shards))
        if store.hash_of(shard["file"]) != shard["sha256"]:
            text = f"the SHA-256 of the shard {shard['file']} differs; prepare the store again"
            verdict.findings.append(Finding("damage", text))
        verdict.shards += 1
    verdict.findings += _counts(store)
    verdict.findings += _unused(store)
    verdict.findings += _shared(store)
    pictures: list[Tensor] = []
    entries = store.entries()
    for done, entry in enumerate(entries):
        progress(entry.id, done, len(entries))
        pictures.append(_grey(store.read(entry)))
        verdict.findings += _dull(entry, pictures[-1])
        verdict.videos += 1
    for first, second, mirrored, shift in twins(pictures, progress=progress):
        verdict.findings.append(
            _twin(store, entries[first], entries[second], mirrored=mirrored, shift=shift)
        )
    order = ("damage", "leak", "note")
    verdict.findings.sort(key=lambda finding: order.index(finding.kind))
    return verdict


def _counts(store: ClipStore) -> Iterator[Finding]:
    entries = store.entries()
    said: Mapping[str, Any] = store.manifest.get("counts", {})
    found = {"videos": len(entries), "frames": sum(entry.frames for entry in entries)}
    for what, count in found.items():
        if what in said and said[what] != count:
            text = f"the manifest counts {said[what]:,} {what}, there are {count:,}"
            yield Finding("damage", text)


def _unused(store: ClipStore) -> Iterator[Finding]:
    for way in store.split_by:
        unused = [entry.id for entry in store.entries() if not entry.splits.get(way)]
        if unused:
            yield Finding("note", f"split by {way}: in no part are {_some(unused)}")


def _shared(store: ClipStore) -> Iterator[Finding]:
    """What the names say of both sides: frames of one source, one person."""
    for way in store.split_by:
        runs: dict[str, list[tuple[str, float, float, str]]] = defaultdict(list)
        people: dict[str, set[str]] = defaultdict(set)
        for entry in store.entries():
            first, last = entry.source_range
            scale = (last - first) / entry.frames if last > first else 1.0
            for name, start, stop in entry.splits.get(way, ()):
                run = (name, first + start * scale, first + stop * scale, entry.id)
                runs[entry.source or entry.id].append(run)
                if "person" in entry.labels:
                    people[entry.labels["person"]].add(name)
        camera = {entry.id: entry.labels.get("camera", "") for entry in store.entries()}
        for source, found in runs.items():
            sides = {name for name, *_ in found}
            if len(sides) > 1 and way != "time":
                yield Finding(
                    "leak", f"split by {way}: {source} is in {' and '.join(sorted(sides))}"
                )
                continue
            for (a, start, stop, one), (b, begin, end, other) in combinations(found, 2):
                together = min(stop, end) - max(start, begin)
                if a != b and together > 0.5 and camera[one] == camera[other]:
                    text = f"{together:.0f} frames of {source} are in {a} and {b}"
                    yield Finding("leak", f"split by {way}: {text} ({one}, {other})")
        both = sorted(person for person, sides in people.items() if len(sides) > 1)
        if both:
            kind = "leak" if way == "person" else "note"
            text = f"split by {way}: in both parts are the persons {_some(both)}"
            yield Finding(kind, text)


def _dull(entry: Entry, grey: Tensor) -> Iterator[Finding]:
    """Frames and videos that show nothing, or nothing new."""
    flat = (grey.amax(1) - grey.amin(1)) < 2
    if bool(flat.all()):
        yield Finding("damage", f"{entry.id}: all its frames are of one colour")
    elif bool(flat.any()):
        count = int(flat.sum())
        yield Finding("note", f"{entry.id}: {count} of {len(grey)} frames are of one colour")
    elif len(grey) > 1 and float((grey - grey[:1]).abs().amax()) < 1:
        yield Finding("note", f"{entry.id}: nothing moves in it")


def _twin(store: ClipStore, one: Entry, other: Entry, *, mirrored: bool, shift: int) -> Finding:
    how = " mirrored" if mirrored else ""
    when = f", {abs(shift)} frames {'later' if shift > 0 else 'earlier'}" if shift else ""
    text = f"{other.id} shows what {one.id} shows{how}{when}"
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


def _grey(frames: Tensor) -> Tensor:
    """uint8 ``(T, H, W, C)`` as small grey pictures, float ``(T, 256)`` in [0, 255]."""
    grey = frames.float().mean(-1)[:, None]
    return functional.adaptive_avg_pool2d(grey, _SIDE).flatten(1)


class Twin(NamedTuple):
    """Two videos of one content.

    Attributes:
        first: Index of the one.
        second: Index of the other, larger.
        mirrored: Whether left and right are exchanged.
        shift: Frame ``t`` of the first is frame ``t + shift`` of the second.
    """

    first: int
    second: int
    mirrored: bool
    shift: int


def twins(videos: Sequence[Tensor], *, progress: Progress = _silent) -> list[Twin]:
    """Find the videos that show the same content.

    Frames from the middle of each video are compared with frames of all others (or, of a large
    set, with every n-th of them), as they are and mirrored; the nearest are candidates. Two
    videos are twins when, frame by frame, their pictures agree and so does the way in which
    they differ from their own mean picture: videos of one place and one person look alike, but
    move in their own ways.

    Args:
        videos: Small grey pictures of each, float ``(T, 256)`` as rows of 16x16.
        progress: Told of the videos compared.

    Returns:
        Each pair once.
    """
    if len(videos) < 2:
        return []
    frames = sum(len(video) for video in videos)
    step = max(1, -(-frames // _GALLERY))
    gallery = _unit(torch.cat([video[::step] for video in videos])).half()
    owner = torch.cat([torch.full((-(-len(v) // step),), i) for i, v in enumerate(videos)])
    place = torch.cat([torch.arange(0, len(v), step) for v in videos])
    found: dict[tuple[int, int], Twin] = {}
    block = max(1, 20_000_000 // len(gallery))
    for begin in range(0, len(videos), block):
        progress("comparing", begin, len(videos))
        members = range(begin, min(begin + block, len(videos)))
        middle = torch.stack([videos[i][len(videos[i]) // 2] for i in members])
        for mirrored in (False, True):
            queries = _unit(_mirror(middle) if mirrored else middle)
            likeness = queries @ gallery.float().T
            likeness[owner[None] == torch.tensor(list(members))[:, None]] = -1
            for row, index in enumerate(members):
                for other, at in _best(likeness[row], owner, place):
                    pair = (min(index, other), max(index, other))
                    if pair in found:
                        continue
                    shift = at - len(videos[index]) // 2
                    shift = _matches(videos[index], videos[other], mirrored, shift, step)
                    if shift is not None:
                        found[pair] = Twin(*pair, mirrored, shift if index < other else -shift)
    return sorted(found.values())


def _best(likeness: Tensor, owner: Tensor, place: Tensor) -> Iterator[tuple[int, int]]:
    """The likeliest other videos, each at the frame that is most alike."""
    values, indices = likeness.topk(min(64, len(likeness)))
    tried: set[int] = set()
    for value, index in zip(values.tolist(), indices.tolist(), strict=True):
        video = int(owner[index])
        if value < _ALIKE - 0.1 or len(tried) == _CANDIDATES:
            return
        if video not in tried:
            tried.add(video)
            yield video, int(place[index])


def _matches(one: Tensor, other: Tensor, mirrored: bool, shift: int, step: int) -> int | None:
    """The shift near ``shift`` at which two videos show the same, if there is one."""
    one = _mirror(one) if mirrored else one
    best, best_shift = 0.0, None
    for candidate in range(shift - step - 1, shift + step + 2):
        first, last = max(0, -candidate), min(len(one), len(other) - candidate)
        if last - first < min(8, len(one), len(other)):
            continue
        a, b = one[first:last], other[first + candidate : last + candidate]
        likeness = _likeness(a, b)
        if likeness > best:
            best, best_shift = likeness, candidate
    return best_shift


def _likeness(a: Tensor, b: Tensor) -> float:
    """How alike two runs of pictures are, above 0 where they are twins."""
    mean_a, mean_b = a.mean(0), b.mean(0)
    alike = _correlation(mean_a, mean_b)
    if alike < _ALIKE:
        return 0.0
    move_a, move_b = a - mean_a, b - mean_b
    together = _correlation(move_a, move_b)
    if together > _MOVE_ALIKE:
        return together
    if min(_spread_of(move_a), _spread_of(move_b)) < _STILL:
        gain = float(mean_a.std() / mean_b.std().clamp(min=1e-6))
        rest = (a - mean_a.mean()) - gain * (b - mean_b.mean())
        if _spread_of(rest) < _SAME and 0.8 < gain < 1.25:
            return alike
    return 0.0


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a.flatten() - a.mean(), b.flatten() - b.mean()
    return float(a @ b / (a.norm() * b.norm()).clamp(min=1e-6))


def _spread_of(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _unit(pictures: Tensor) -> Tensor:
    centred = pictures - pictures.mean(1, keepdim=True)
    return centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-6)


def _mirror(pictures: Tensor) -> Tensor:
    return pictures.view(-1, _SIDE, _SIDE).flip(2).flatten(1)


def _some(names: Sequence[str], most: int = 8) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")
