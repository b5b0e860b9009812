"""Ways to split stored videos into train and test: functions of their names and a seed alone.

What belongs together stays together: clips cut from one source file, videos of one person. The
clip and its mirror image, or its neighbour in time, on both sides of a split would make test
scores of a model that learned them by heart.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from mtzoo.data.prepare.pipeline import Ranges, Stored

CLIP_FRAMES = 16
"""Length of the paper's clips."""

Sides = Mapping[str, Ranges]
"""By id, the ranges of frames and the split that each belongs to."""


def draw(names: Iterable[str], count: int, seed: int) -> list[str]:
    """Draw some of the names, sorted; the order in which they are given does not matter.

    A hash of seed and name decides, so that a name that is added or lost changes no other's lot
    but at the edge.

    Args:
        names: To draw from; repeated ones count once.
        count: How many; at least one is always left over.
        seed: Of the draw.
    """
    order = sorted(set(names), key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    return sorted(order[: max(0, min(count, len(order) - 1))])


def share_of(share: float, count: int) -> int:
    """A share of a number of things, rounded.

    At least two where that leaves two, because pairs need two; else one; none of none or one.
    """
    if count < 2:
        return 0
    least = 2 if count > 3 else 1
    return max(least, min(count - least, math.floor(share * count + 0.5)))


def by_group(
    stored: Sequence[Stored], group: Callable[[Stored], str], tested: Iterable[str]
) -> Sides:
    """Whole videos: those of the groups ``tested`` test, the others train."""
    held_out = set(tested)
    return {
        video.id: [("test" if group(video) in held_out else "train", 0, video.frames)]
        for video in stored
    }


def by_source(stored: Sequence[Stored], share: float, seed: int) -> Sides:
    """A share of the source files tests; all that was cut from one goes along."""
    sources = {video.source for video in stored}
    return by_group(stored, lambda v: v.source, draw(sources, share_of(share, len(sources)), seed))


def by_label(stored: Sequence[Stored], label: str, share: float, seed: int) -> Sides:
    """A share of the values of a label, for example of the persons, tests."""
    values = {video.labels[label] for video in stored}
    tested = draw(values, share_of(share, len(values)), seed)
    return by_group(stored, lambda v: v.labels[label], tested)


def by_time(stored: Sequence[Stored], share: float) -> Sides:
    """The last share of each source's frames tests; at least a clip of 16 where each side has one.

    Clips that were cut from one source carry their place in it as ``first`` and the source's
    length as ``of`` in `about`; one that lies across the edge belongs to neither side.
    """
    sides: dict[str, Ranges] = {}
    for video in stored:
        first = int(str(video.about.get("first", 0)))
        whole = int(str(video.about.get("of", video.frames)))
        least = CLIP_FRAMES if whole >= 2 * CLIP_FRAMES else min(1, whole - 1)
        tested = max(least, min(whole - least, math.floor(share * whole + 0.5)))
        edge = whole - tested - first
        if "first" not in video.about:
            parts = [("train", 0, edge), ("test", edge, video.frames)]
            sides[video.id] = [part for part in parts if part[1] < part[2]]
        elif 0 < edge < video.frames:
            sides[video.id] = []
        else:
            sides[video.id] = [("test" if edge <= 0 else "train", 0, video.frames)]
    return sides


def by_count(stored: Sequence[Stored], train: int, test: int, seed: int) -> Sides:
    """Exact numbers of source files on either side; with fewer files, the same shares of them.

    What is left over where there are more belongs to neither side.
    """
    sources = sorted({video.source for video in stored})
    if len(sources) < train + test:
        test = share_of(test / (train + test), len(sources))
        train = len(sources) - test
    tested = draw(sources, test, seed)
    trained = draw(set(sources) - set(tested), train, seed)
    # `draw` always leaves one over, which here may be wanted too.
    if len(sources) == train + test:
        trained = sorted(set(sources) - set(tested))
    sides = by_group(stored, lambda v: v.source, tested)
    used = {*tested, *trained}
    return {video.id: sides[video.id] if video.source in used else [] for video in stored}


def notes(stored: Sequence[Stored], made: Mapping[str, Mapping[str, Ranges]]) -> list[str]:
    """What a user should know of splits, by id and way, before training on them."""
    found = []
    for way in next(iter(made.values())):
        sources: dict[str, set[str]] = {"train": set(), "test": set()}
        short = 0
        for video in stored:
            for side, start, stop in made[video.id][way]:
                sources.setdefault(side, set()).add(video.source)
                short += side == "test" and stop - start < CLIP_FRAMES
        for side, names in sources.items():
            if len(names) < 2:
                count = "one video" if names else "nothing"
                found.append(f"split by {way}: there is {count} to {side} on; pairs need two")
        if way == "time" and short:
            found.append(
                f"split by time: {short} of {len(stored)} videos have a test part shorter than "
                f"{CLIP_FRAMES} frames, so they give no test clip of that length"
            )
    return found


def join(ways: Mapping[str, Sides]) -> dict[str, dict[str, Ranges]]:
    """From ranges by way and id to ranges by id and way, as `Preparation.split` gives them."""
    ids = next(iter(ways.values()))
    return {name: {way: sides[name] for way, sides in ways.items()} for name in ids}
