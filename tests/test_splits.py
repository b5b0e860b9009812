"""Splits: what belongs together stays together, and the draw is a function of names and seed."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtzoo.data.prepare import splits
from mtzoo.data.prepare.pipeline import Stored


def stored(name: str, frames: int = 30, source: str = "", person: str = "", **about: int) -> Stored:
    labels = {"person": person} if person else {}
    return Stored(name, frames, 25.0, source or f"{name}.mp4", labels, about)


def sides(found: splits.Sides) -> dict[str, list[str]]:
    given: dict[str, list[str]] = {}
    for name, ranges in found.items():
        for side, _, _ in ranges:
            given.setdefault(side, []).append(name)
    return given


names = st.lists(st.text("abcdefgh", min_size=1, max_size=4), min_size=1, max_size=30, unique=True)


@given(names, st.integers(0, 40), st.integers(0, 3))
def test_draw(names: Sequence[str], count: int, seed: int) -> None:
    drawn = splits.draw(names, count, seed)
    assert drawn == sorted(set(drawn))
    assert set(drawn) <= set(names)
    assert len(drawn) == min(count, len(names) - 1)
    assert splits.draw(reversed(names), count, seed) == drawn


def test_draw_depends_on_the_seed_and_changes_little_with_the_set() -> None:
    names = [f"v{i}" for i in range(100)]
    one = splits.draw(names, 20, 0)
    assert splits.draw(names, 20, 1) != one
    assert len(set(splits.draw([*names, "new"], 20, 0)) ^ set(one)) <= 2
    # A golden draw: it must not change from version to version.
    assert splits.draw("abcdefgh", 3, 0) == GOLDEN


GOLDEN = ["e", "g", "h"]


@pytest.mark.parametrize(
    ("share", "count", "expected"),
    [
        (0.1, 1240, 124),
        (0.1, 1, 0),
        (0.1, 2, 1),
        (0.1, 3, 1),
        (0.1, 7, 2),
        (0.9, 7, 5),
        (0.25, 10, 3),
    ],
)
def test_share(share: float, count: int, expected: int) -> None:
    assert splits.share_of(share, count) == expected


@given(st.integers(1, 12), st.integers(1, 4), st.floats(0.01, 0.99), st.integers(0, 5))
def test_by_source_keeps_clips_of_one_file_together(
    sources: int, clips: int, share: float, seed: int
) -> None:
    videos = [stored(f"{s}@{c}", source=f"{s}.mp4") for s in range(sources) for c in range(clips)]
    found = splits.by_source(videos, share, seed)
    assert found.keys() == {v.id for v in videos}
    for source in range(sources):
        assert len({found[f"{source}@{c}"][0][0] for c in range(clips)}) == 1
    assert len(sides(found).get("test", ())) == clips * splits.share_of(share, sources)
    assert all(ranges == [(ranges[0][0], 0, 30)] for ranges in found.values())


def test_by_label_keeps_persons_together() -> None:
    videos = [stored(f"{p}{i}", person=p) for p in "abcdefghij" for i in range(3)]
    found = sides(splits.by_label(videos, "person", 0.3, 4))
    people = {side: {name[0] for name in found[side]} for side in found}
    assert len(people["test"]) == 3
    assert len(people["train"]) == 7
    assert len(found["test"]) == 9


def test_by_time() -> None:
    videos = [stored("whole", 30), stored("tiny", 1)]
    assert splits.by_time(videos, 1 / 3) == {
        "whole": [("train", 0, 20), ("test", 20, 30)],
        "tiny": [("train", 0, 1)],
    }


@given(st.integers(2, 200), st.floats(0.01, 0.99))
def test_by_time_leaves_something_on_both_sides(frames: int, share: float) -> None:
    train, test = splits.by_time([stored("v", frames)], share)["v"]
    assert (train[0], test[0]) == ("train", "test")
    assert (train[1], train[2], test[2]) == (0, test[1], frames)
    lengths = [train[2], frames - test[1]]
    assert min(lengths) >= (16 if frames >= 32 else 1)
    if min(lengths) > 16:
        assert abs(lengths[1] - share * frames) <= 0.5


def test_notes_tell_of_parts_without_pairs() -> None:
    videos = [stored("a", 40), stored("b", 20)]
    made = splits.join(
        {"share": splits.by_source(videos, 0.1, 0), "time": splits.by_time(videos, 0.1)}
    )
    assert splits.notes(videos, made) == [
        "split by share: there is one video to train on; pairs need two",
        "split by share: there is one video to test on; pairs need two",
        "split by time: 1 of 2 videos have a test part shorter than 16 frames, so they give no "
        "test clip of that length",
    ]


def test_by_time_of_clips_cut_from_one_video() -> None:
    clips = [stored(f"c{a}", 16, "v.mp4", first=a, of=100) for a in range(0, 96, 16)]
    # The last 30 of 100 frames test: from frame 70. The clip from 64 to 80 lies across.
    found = splits.by_time(clips, 0.3)
    assert sides(found) == {"train": ["c0", "c16", "c32", "c48"], "test": ["c80"]}
    assert found["c64"] == []


@pytest.mark.parametrize(
    ("count", "train", "test"), [(1240, 1110, 124), (1234, 1110, 124), (1233, 1109, 124), (7, 5, 2)]
)
def test_the_papers_counts(count: int, train: int, test: int) -> None:
    videos = [stored(f"{i:04d}") for i in range(count)]
    found = splits.by_count(videos, 1110, 124, 0)
    given = sides(found)
    assert (len(given["train"]), len(given["test"])) == (train, test)
    assert not set(given["train"]) & set(given["test"])
    assert len(found) == count


def test_join_turns_ways_and_ids_around() -> None:
    assert splits.join({"x": {"a": [("train", 0, 1)]}, "y": {"a": []}}) == {
        "a": {"x": [("train", 0, 1)], "y": []}
    }
