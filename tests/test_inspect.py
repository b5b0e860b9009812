"""What a store holds in figures and pictures; damage, leaks and twins are named, nothing else."""

import io
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from mtzoo import media
from mtzoo.cli import main
from mtzoo.data.inspect import contact_sheet, summarise, verify
from mtzoo.data.prepare.bair import prepare_bair
from mtzoo.data.prepare.weizmann import prepare_weizmann
from mtzoo.data.store import ClipStore
from mtzoo.data.twins import Twins, find_twins, fingerprint
from mtzoo.data.writer import StoreWriter
from mtzoo.registries import datasets

SIDE = 32


def video(seed: int, frames: int = 20) -> Tensor:
    """A blob that goes its own way over its own ground, uint8 ``(T, H, W, 3)``."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(16, generator=generator).tolist()
    grid = torch.linspace(-1, 1, SIDE)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    waves = torch.sin((2 + 3 * draw[0]) * x + 6 * draw[1]) * torch.cos((2 + 3 * draw[2]) * y)
    ground = 90 + 60 * waves
    t = torch.linspace(0, 1, frames)[:, None, None]
    place_x = 0.6 * torch.sin((3 + 6 * draw[3]) * t + 6 * draw[4])
    place_y = 0.6 * torch.cos((3 + 6 * draw[5]) * t + 6 * draw[6])
    blob = ((x - place_x) ** 2 + (y - place_y) ** 2 < 0.06).float()
    grey = ground * (1 - blob) + 250 * draw[7] * blob
    return grey[..., None].expand(-1, -1, -1, 3).clamp(0, 255).byte().contiguous()


def write(
    root: Path,
    videos: Mapping[str, Tensor],
    *,
    sides: Mapping[str, str] | None = None,
    way: str = "share",
    labels: Mapping[str, dict[str, str]] | None = None,
    sources: Mapping[str, tuple[str, int, int]] | None = None,
) -> ClipStore:
    with StoreWriter(
        root, source="made", resolution=SIDE, fps=10.0, split_by=(way,), preparation={"a": [1, 2]}
    ) as writer:
        for name, frames in videos.items():
            source, first, last = (sources or {}).get(name, (f"{name}.mp4", 0, len(frames)))
            side = (sides or {}).get(name, "train")
            writer.add(
                name,
                frames,
                labels=(labels or {}).get(name, {}),
                splits={way: [(side, 0, len(frames))] if side else []},
                source=source,
                source_range=(first, last),
            )
        writer.leave_out("x.mp4", "it is broken")
        writer.leave_out("y.mp4", "it has 3 frames of the 16 needed")
        writer.leave_out("z.mp4", "it has 12 frames of the 16 needed")
        writer.finish()
    return ClipStore(root)


def told(store: ClipStore) -> list[str]:
    return [f"{finding.kind}: {finding.text}" for finding in verify(store).findings]


def test_summary(tmp_path: Path) -> None:
    frames = {"a": video(1, 20), "b": video(2, 10), "c": video(3, 40)}
    labels = {name: {"person": name, "kind": "x"} for name in frames}
    store = write(tmp_path / "s", frames, sides={"c": "test"}, labels=labels)
    summary = summarise(store)
    assert (summary.videos, summary.frames, summary.lengths) == (3, 70, (10, 20, 40))
    assert summary.bytes == (tmp_path / "s" / "clips-00000.safetensors").stat().st_size
    parts = summary.parts["share"]
    assert {k: (p.videos, p.frames, p.identities, p.windows) for k, p in parts.items()} == {
        "train": (2, 30, 2, 1),
        "test": (1, 40, 1, 1),
    }
    assert summary.labels == {"person": {"a": 1, "b": 1, "c": 1}, "kind": {"x": 3}}
    assert summary.left_out == {"it is broken": 1, "it has N frames of the N needed": 2}
    pixels = torch.cat(list(frames.values())).double()
    assert (summary.pixels.frames, summary.pixels.of) == (70, 70)
    assert summary.pixels.mean == pytest.approx(pixels.mean((0, 1, 2)).tolist())
    deviation = pixels.std((0, 1, 2), correction=0).tolist()
    assert summary.pixels.deviation == pytest.approx(deviation, rel=1e-4)
    moved = torch.cat([f[1:].float() - f[:-1].float() for f in frames.values()]).abs().mean()
    assert summary.pixels.motion == pytest.approx(float(moved), rel=1e-4)
    text = "\n".join(summary.lines(store))
    for part in (
        "3 videos, 70 frames (0:07 min) of 32x32 RGB at 10 a second",
        "a [1, 2]",
        "10 to 40, median 20",
        "train 2 videos of 2 persons, 30 frames, 1 with 16 or more",
        "kind: 1 value: x (3)",
        "left out: it has N frames of the N needed (2), it is broken (1)",
        "pixels (all 70 frames)",
    ):
        assert part in text


def test_a_part_is_summarised(tmp_path: Path) -> None:
    frames = {"a": video(1, 20), "b": video(2, 10), "c": video(3, 40)}
    store = write(tmp_path / "s", frames, sides={"c": "test"})
    summary = summarise(store, split="test", split_by="share")
    assert (summary.videos, summary.frames, summary.identity) == (1, 40, "source")
    assert summary.pixels.mean == pytest.approx(
        frames["c"].double().mean((0, 1, 2)).tolist(), rel=1e-5
    )
    assert "made, test split by share, 1 video," in summary.lines(store)[0]


def test_videos_last_as_long_as_their_own_rates_say(tmp_path: Path) -> None:
    frames = {"a": video(1, 20), "b": video(2, 10), "c": video(3, 40)}
    store = write(tmp_path / "s", frames, sides={"c": "test"})
    report = tmp_path / "s" / "report.json"
    used = [{"id": "a", "fps": 2.0}, {"id": "b", "fps": 1}, {"id": "c", "fps": 20.0}]
    report.write_text(json.dumps({"used": used}))
    summary = summarise(store)
    assert (summary.seconds, summary.rates) == (22.0, (1.0, 2.0, 20.0))
    said = "70 frames (0:22 min) of 32x32 RGB at 1 to 20, median 2, a second"
    assert said in summary.lines(store)[0]
    summary = summarise(store, split="test")
    assert "40 frames (0:02 min) of 32x32 RGB at 20 a second" in summary.lines(store)[0]
    # Of what the report does not tell, or not rightly, the store's rate is taken.
    rows = [{"id": "a", "fps": "x"}, {"id": "b", "fps": 0}, {"id": "z", "fps": 1}]
    for text in ("[", "[]", '{"used": 1}', json.dumps({"used": rows})):
        report.write_text(text)
        assert summarise(store).rates == (10.0, 10.0, 10.0)


def test_of_many_frames_some_are_drawn_by_seed(tmp_path: Path) -> None:
    frames = {str(i): video(i, 50) for i in range(20)}
    store = write(tmp_path / "s", frames)
    drawn = [summarise(store, sample=300, seed=seed).pixels for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert "pixels (300 drawn of 1,000 frames)" in summarise(store, sample=300).lines(store)[-1]
    whole = summarise(store).pixels
    for one in drawn:
        assert one.mean == pytest.approx(whole.mean, abs=3)
        assert one.deviation == pytest.approx(whole.deviation, abs=3)
        assert one.motion == pytest.approx(whole.motion, rel=0.1)


def test_one_picture_is_measured_exactly(tmp_path: Path) -> None:
    frames = torch.tensor([10, 20, 60], dtype=torch.uint8).expand(1, SIDE, SIDE, 3)
    summary = summarise(write(tmp_path / "s", {"a": frames.contiguous()}))
    assert summary.pixels.mean == (10, 20, 60)
    assert summary.pixels.deviation == (0, 0, 0)
    assert summary.pixels.motion == 0
    assert summary.lengths == (1, 1, 1)


def shades(count: int) -> dict[str, Tensor]:
    size = (3, SIDE, SIDE, 3)
    return {f"v{i:02d}": torch.full(size, 8 * i + 4, dtype=torch.uint8) for i in range(count)}


def shown(sheet: Tensor) -> list[int]:
    """Which of the shades are on a sheet, from the top."""
    found = {}
    for i in range(30):
        rows = (sheet == 8 * i + 4).all(-1).sum(1) >= 3 * SIDE
        if rows.any():
            found[i] = int(rows.int().argmax())
    return sorted(found, key=lambda i: found[i])


def test_sheet_shows_all_parts_and_labels(tmp_path: Path) -> None:
    labels = {name: {"kind": "rare" if name in ("v20", "v21") else "usual"} for name in shades(30)}
    sides = {"v17": "test", "v29": ""}
    store = write(tmp_path / "s", shades(30), sides=sides, labels=labels)
    sheet = contact_sheet(store, rows=6, columns=10)
    seen = shown(sheet)
    assert len(seen) == 6
    assert seen[-2:] == [17, 29]
    assert {20, 21} <= set(seen)
    assert sheet.shape[0] == 6 * (2 * SIDE + 2) + 2
    assert shown(contact_sheet(store, rows=6, split="test")) == [17]
    # The rows' names stand in the margin.
    margin = sheet[:, : sheet.shape[1] - 3 * (2 * SIDE + 2) - 2]
    assert (margin < 100).all(-1).sum() > 200


def test_frames_of_a_row_are_spread_over_the_video(tmp_path: Path) -> None:
    frames = torch.arange(50, dtype=torch.uint8)[:, None, None, None].expand(-1, SIDE, SIDE, 3)
    store = write(tmp_path / "s", {"a": frames.contiguous()})
    sheet = contact_sheet(store, columns=5)
    row = sheet[SIDE, :, 0]
    assert [v for v in row.unique_consecutive().tolist() if v in (0, 12, 24, 37, 49)] == [
        0,
        12,
        24,
        37,
        49,
    ]


def test_large_frames_are_shown_smaller(tmp_path: Path) -> None:
    with StoreWriter(
        tmp_path / "s", source="made", resolution=512, fps=10.0, split_by=("share",)
    ) as writer:
        frames = torch.full((2, 512, 512, 3), 90, dtype=torch.uint8)
        splits = {"share": [("train", 0, 2)]}
        writer.add("a", frames, labels={}, splits=splits, source="a", source_range=(0, 2))
        writer.finish()
    sheet = contact_sheet(ClipStore(tmp_path / "s"))
    assert sheet.shape[0] == 128 + 4
    assert int((sheet == 90).all(-1).sum()) == 2 * 128 * 128


def test_a_sound_store_has_no_findings(tmp_path: Path) -> None:
    frames = {str(i): video(i) for i in range(12)}
    assert told(write(tmp_path / "s", frames, sides={"3": "test", "7": "test"})) == []


# Damage


def test_damage_is_named(tmp_path: Path) -> None:
    frames = {"good": video(1), "black": torch.zeros(20, SIDE, SIDE, 3, dtype=torch.uint8)}
    frames["gaps"] = video(2).clone()
    frames["gaps"][4:7] = 128
    frames["frozen"] = video(3)[:1].repeat(20, 1, 1, 1)
    store = write(tmp_path / "s", frames, sides={"good": ""})
    path = tmp_path / "s" / "clips-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    manifest = tmp_path / "s" / "manifest.json"
    text = json.loads(manifest.read_text())
    text["counts"]["frames"] = 99
    manifest.write_text(json.dumps(text))
    assert told(ClipStore(tmp_path / "s")) == [
        "damage: the manifest counts 99 frames, there are 80",
        "damage: the SHA-256 of the shard clips-00000.safetensors differs; prepare the store again",
        "damage: black: all its frames are of one colour",
        "note: split by share: in no part are good",
        "note: gaps: 3 of its 20 frames are of one colour, from 4 on",
        "note: frozen: nothing moves in it",
    ]
    assert not verify(ClipStore(store.root)).sound


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_store(tmp_path: Path) -> None:
    with StoreWriter(
        tmp_path / "s", source="made", resolution=64, fps=10.0, split_by=("share",)
    ) as writer:
        splits = {"share": [("train", 0, 30)]}
        for i in range(600):
            clip = torch.full((30, 64, 64, 3), 100, dtype=torch.uint8)
            clip[torch.arange(30), torch.arange(30) + i % 34] = 10 + i % 83
            writer.add(str(i), clip, labels={}, splits=splits, source="one", source_range=(0, 30))
        writer.finish()

    def held() -> int:
        status = Path("/proc/self/status").read_text()
        return next(int(s.split()[1]) for s in status.splitlines() if s.startswith("RssAnon"))

    store = ClipStore(tmp_path / "s")
    before = held()
    seen = []
    verify(store, progress=lambda what, done, total: seen.append(held()))
    assert len(seen) > 600
    assert max(seen) - before < 60_000  # kB, of 221,000 in the store


# Leaks by name


def test_one_source_on_both_sides(tmp_path: Path) -> None:
    frames = {"a1": video(1), "a2": video(2), "b": video(3)}
    sources = {"a1": ("a.mp4", 0, 20), "a2": ("a.mp4", 20, 40)}
    store = write(tmp_path / "s", frames, sides={"a2": "test"}, sources=sources)
    assert told(store) == ["leak: split by share: a.mp4 is in train and test"]


def test_by_time_only_shared_frames_leak(tmp_path: Path) -> None:
    frames = {"a1": video(1), "a2": video(2)}
    for last, expected in (
        (20, []),
        (
            30,
            ["leak: split by time: frames 20 to 29 of a.mp4 are in train (a1) and in test (a2)"],
        ),
    ):
        sources = {"a1": ("a.mp4", 0, last), "a2": ("a.mp4", 20, 40)}
        root = tmp_path / str(last)
        store = write(root, frames, sides={"a2": "test"}, way="time", sources=sources)
        assert told(store) == expected


def test_many_clips_of_one_source_take_no_time(tmp_path: Path) -> None:
    names = [f"c{i:05d}" for i in range(3000)]
    frames = dict.fromkeys(names, video(1, 4))
    sources = {name: ("a.mp4", 4 * i, 4 * i + 4) for i, name in enumerate(names)}
    sides = dict.fromkeys(names[2000:], "test")
    store = write(tmp_path / "s", frames, sides=sides, way="time", sources=sources)
    began = time.perf_counter()
    assert told(store) == []
    assert time.perf_counter() - began < 30  # all pairs of them would take minutes


@pytest.mark.parametrize(("way", "kind"), [("person", "leak"), ("share", "note")])
def test_one_person_on_both_sides(tmp_path: Path, way: str, kind: str) -> None:
    people = {"a": "ann", "b": "ann", "c": "cy"}
    labels = {name: {"person": person} for name, person in people.items()}
    frames = {"a": video(1), "b": video(2), "c": video(3)}
    store = write(tmp_path / "s", frames, sides={"b": "test"}, way=way, labels=labels)
    expected = f"{kind}: split by {way}: in more than one part are the persons ann"
    assert told(store) == [expected]


def test_a_way_named_after_a_label_keeps_its_values_apart(tmp_path: Path) -> None:
    labels = {name: {"place": place} for name, place in zip("abc", "xxy", strict=True)}
    frames = {"a": video(1), "b": video(2), "c": video(3)}
    store = write(tmp_path / "s", frames, sides={"b": "test"}, way="place", labels=labels)
    assert told(store) == ["leak: split by place: in more than one part are the places x"]


# Twins


def jpeg(frames: Tensor) -> Tensor:
    given = []
    for frame in frames.numpy():
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=60)
        given.append(np.asarray(Image.open(buffer)))
    return torch.from_numpy(np.stack(given))


def noise(frames: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    added = torch.randint(-3, 4, frames.shape, generator=generator)
    return (frames.int() + added).clamp(0, 255).byte()


def brighter(frames: Tensor) -> Tensor:
    return (frames.float() * 1.02).clamp(0, 255).byte()


def cropped(frames: Tensor) -> Tensor:
    inner = frames[:, 1:, 1:].permute(0, 3, 1, 2).float()
    size = frames.shape[1]
    grown = functional.interpolate(inner, size=size, mode="bilinear", antialias=True)
    return grown.clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def mirrored(frames: Tensor) -> Tensor:
    return frames.flip(2)


def later(frames: Tensor) -> Tensor:
    return frames[5:]


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    f.__name__: f for f in (torch.clone, jpeg, noise, brighter, cropped, mirrored, later)
}


@pytest.mark.parametrize("change", CHANGES)
def test_twins_across_a_split_are_a_leak(tmp_path: Path, change: str) -> None:
    frames = {str(i): video(i) for i in range(8)}
    frames["twin"] = CHANGES[change](video(4))
    how = {"mirrored": " mirrored", "later": ", 5 frames earlier"}.get(change, "")
    text = f"twin shows what 4 shows{how} ({len(frames['twin'])} frames)"
    assert told(write(tmp_path / "a", frames, sides={"twin": "test"})) == [
        f"leak: twins on both sides of the split by share: {text}"
    ]
    assert told(write(tmp_path / "b", frames)) == [f"note: twins: {text}"]


@pytest.mark.parametrize("edge", [22, 24])
def test_twins_leak_by_the_frames_that_they_share(tmp_path: Path, edge: int) -> None:
    frames = video(1, 40)
    with StoreWriter(
        tmp_path / "s", source="made", resolution=SIDE, fps=1.0, split_by=("time",)
    ) as writer:
        # Frame t of a is frame t - 10 of b.
        for name, part, last in (("a", frames[:30], 24), ("b", frames[10:], edge - 10)):
            splits = {"time": [("train", 0, last), ("test", last, len(part))]}
            span = (0, len(part))
            writer.add(name, part, labels={}, splits=splits, source=name, source_range=span)
        writer.finish()
    text = "b shows what a shows, 10 frames earlier (20 frames)"
    assert told(ClipStore(tmp_path / "s")) == [
        f"note: twins: {text}"
        if edge == 24
        else f"leak: twins on both sides of the split by time: {text}"
    ]


def pairs(clips: Sequence[Tensor], sources: Sequence[str] | None = None) -> list[Twins]:
    names = sources or [str(i) for i in range(len(clips))]
    return find_twins([fingerprint(clip) for clip in clips], names, clips.__getitem__)


def test_clips_of_one_source_are_not_compared() -> None:
    clips = [video(1), video(1), video(2)]
    assert [(p.first, p.second) for p in pairs(clips)] == [(0, 1)]
    assert pairs(clips, ["a", "a", "b"]) == []
    assert pairs([]) == []
    assert pairs(clips[:1]) == []


def test_an_excerpt_is_found_where_it_was_cut() -> None:
    clips = [video(i, 90) for i in range(4)]
    (found,) = pairs([*clips, clips[2][61:77].flip(2)])
    assert (found.first, found.second, found.mirrored) == (2, 4, True)
    assert (found.first_start, found.second_start, found.frames) == (61, 0, 16)


def test_the_period_of_a_motion_does_not_mislead() -> None:
    """A shift by a whole period looks alike too; a slow drift tells."""
    t = torch.arange(60)
    x, y = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="xy")
    place = 16 + 9 * torch.sin(t * (2 * torch.pi / 12))
    blob = 150 * torch.exp(-((x - place[:, None, None]) ** 2 + (y - 14.0) ** 2) / 20)
    drift = 30 * torch.exp(-((x - 8) ** 2 + (y - 28.0) ** 2) / 20) * (t / 60)[:, None, None]
    clip = (50 + blob + drift)[..., None].expand(-1, -1, -1, 3).byte()
    (found,) = pairs([clip, noise(cropped(clip)[7:])])
    assert (found.first_start, found.second_start, found.frames) == (7, 0, 53)


def test_fingerprints_are_means_of_cells() -> None:
    frames = torch.randint(0, 256, (3, 20, 20, 1), dtype=torch.uint8)
    cells = fingerprint(frames)
    assert cells.shape == (3, 8, 8)
    # A cell is 2.5 pixels wide.
    weight = torch.tensor([1, 1, 0.5])
    expected = (frames[:, :3, :3, 0] * weight * weight[:, None]).sum((1, 2)) / 2.5**2 - 128
    assert cells[:, 0, 0] == pytest.approx(expected.numpy(), abs=0.1)
    grey = torch.tensor([[0.299, 0.587, 0.114]]) @ torch.tensor([200.0, 100.0, 50.0])
    colour = torch.tensor([200, 100, 50], dtype=torch.uint8).expand(1, 9, 9, 3)
    assert fingerprint(colour) == pytest.approx(float(grey) - 128, abs=0.1)


@pytest.mark.parametrize("world", ["shapes", "faces"])
def test_worlds_have_no_twins(world: str) -> None:
    made = datasets.get(world)("train", 0, resolution=32)
    clips = [made[i]["video"] for i in range(120)]
    assert pairs(clips) == []
    assert [(p.first, p.second, p.mirrored) for p in pairs([*clips, mirrored(clips[7])])] == [
        (7, 120, True)
    ]


def all_twins_among(clips: Sequence[Tensor]) -> None:
    """No two videos are taken for twins, and every made twin is found."""
    assert pairs(clips) == []
    for change in CHANGES.values():
        found = pairs([*clips, *(change(clip) for clip in clips)])
        assert [(p.first, p.second) for p in found] == [
            (i, i + len(clips)) for i in range(len(clips))
        ]
        assert {p.mirrored for p in found} == {change is mirrored}
        start = 5 if change is later else 0
        assert {(p.first_start, p.second_start) for p in found} == {(start, 0)}


@pytest.mark.footage
def test_genuine_twins_of_weizmann(footage: Path, tmp_path: Path) -> None:
    """70 videos of 7 persons before one wall: alike, and none another's twin."""
    store = ClipStore(prepare_weizmann(footage / "weizmann", tmp_path / "s", workers=2).output)
    clips = [store.read(entry) for entry in store.entries()]
    assert pairs(clips) == []
    all_twins_among(clips[::5])


@pytest.mark.footage
def test_genuine_twins_of_bair(footage: Path, tmp_path: Path) -> None:
    """7 videos of one arm over one table."""
    store = ClipStore(prepare_bair(footage / "bair_frames", tmp_path / "s").output)
    all_twins_among([store.read(entry) for entry in store.entries()])


@pytest.mark.footage
def test_genuine_twins_of_faces(footage: Path) -> None:
    """7 talking faces, which hardly move."""
    files = sorted((footage / "grid_faces").iterdir())
    clips = [media.read_video(path, resolution=64).frames for path in files]
    all_twins_among(clips)
    # One person who goes on talking is not a twin of what was said before.
    halves = [half for clip in clips for half in (clip[:37], clip[37:])]
    assert pairs(halves) == []


@pytest.mark.footage
def test_genuine_twins_of_strips(footage: Path) -> None:
    """2 persons in 4 actions each, as Monkey-Net's archive has them."""
    files = sorted((footage / "strips").iterdir())
    frames = [[f.cut(None, 64) for f in media.decode_strip(path)] for path in files]
    all_twins_among([torch.from_numpy(np.stack(strip)) for strip in frames])


# The verb


def test_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path / "s", {"a": video(1), "b": video(2)}).root
    assert main(["data", "show", str(root)]) == 0
    out = capsys.readouterr().out
    assert "made, 2 videos, 40 frames" in out
    assert f"sheet: {root / 'sheet.png'}" in out
    with Image.open(root / "sheet.png") as image:
        assert image.height > 2 * SIDE
    output = tmp_path / "other.png"
    assert main(["data", "show", str(root), "--json", "--output", str(output)]) == 0
    assert json.loads(capsys.readouterr().out)["videos"] == 2
    assert output.exists()
    before = sorted(os.listdir(tmp_path))
    assert main(["data", "show", str(root), "--videos", "0"]) == 0
    assert sorted(os.listdir(tmp_path)) == before
    ClipStore(root).verify()


def test_verify_says_by_its_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = {"a": video(1), "b": video(2), "c": mirrored(video(1))}
    good = write(tmp_path / "good", frames).root
    bad = write(tmp_path / "bad", frames, sides={"c": "test"}).root
    assert main(["data", "verify", str(good)]) == 0
    assert "sound; 3 videos in 1 shard checked, 3 of them for twins" in capsys.readouterr().out
    assert main(["data", "verify", str(bad)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("leak: twins")
    assert "NOT sound" in out[-1]
    assert main(["data", "verify", str(bad), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["findings"][0]["kind"] == "leak"
    assert told["sound"] is False


@pytest.mark.parametrize("fault", ["missing", "cut", "flipped", "no manifest", "manifest cut"])
def test_verify_takes_what_it_cannot_open_for_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    root = Path(write(tmp_path / "s", {"a": video(1)}).root)
    shard, manifest = root / "clips-00000.safetensors", root / "manifest.json"
    whole = shard.read_bytes()
    if fault == "missing":
        shard.unlink()
    elif fault == "cut":
        shard.write_bytes(whole[:-1])
    elif fault == "flipped":
        shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif fault == "no manifest":
        manifest.unlink()
    else:
        manifest.write_bytes(manifest.read_bytes()[:-9])
    code = main(["data", "verify", str(root), "--json"])
    out, err = capsys.readouterr()
    if fault == "no manifest":  # then there is no store to be damaged
        assert (code, out) == (2, "")
        return
    told = json.loads(out)
    name = manifest.name if fault == "manifest cut" else shard.name
    assert (code, err, told["sound"], told["store"]) == (1, "", False, str(root))
    assert [finding["kind"] for finding in told["findings"]] == ["damage"]
    assert name in told["findings"][0]["text"]
    assert main(["data", "verify", str(root)]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert (len(lines), err) == (2, "")
    assert lines[0].startswith("damage: ")
    assert lines[1].startswith(f"{root}: NOT sound; ")


def test_verify_prints_the_first_of_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    black = torch.zeros(4, SIDE, SIDE, 3, dtype=torch.uint8)
    root = write(tmp_path / "s", {f"v{i:02d}": black for i in range(30)}).root
    assert main(["data", "verify", str(root)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 22
    assert lines[20] == "damage: and 10 more; --json tells all"
    assert main(["data", "verify", str(root), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["findings"]) == 30


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["show", "nowhere"], "no clip store"),
        (["verify", "nowhere"], "no clip store"),
        (["verfy", "x"], "verify"),
        (["show"], "STORE"),
        (["show", "x", "--outptu", "y"], "--output"),
        (["show", "STORE", "--output", "x.jpg"], ".png"),
        (["show", "STORE", "--videos", "1000"], "--videos"),
        (["show", "STORE", "--split", "tset"], "no split 'tset'"),
        (["show", "STORE", "--split-by", "tiem"], "no split by 'tiem'"),
        (["show", "STORE", "--output", "nowhere/x.png"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], part: str
) -> None:
    store = str(write(tmp_path / "s", {"a": video(1)}).root)
    assert main(["data", *(store if word == "STORE" else word for word in words)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert part in lines[0]
