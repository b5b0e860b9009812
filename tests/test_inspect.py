"""What a store holds in figures and pictures; damage, leaks and twins are named, nothing else."""

import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from mtzoo.cli import main
from mtzoo.data.inspect import _grey, contact_sheet, summarise, twins, verify
from mtzoo.data.prepare.bair import prepare_bair
from mtzoo.data.prepare.weizmann import prepare_weizmann
from mtzoo.data.store import ClipStore
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
        writer.leave_out("y.mp4", "it is broken")
        writer.finish()
    return ClipStore(root)


def told(store: ClipStore) -> list[str]:
    return [f"{finding.kind}: {finding.text}" for finding in verify(store).findings]


def test_summary(tmp_path: Path) -> None:
    frames = {"a": video(1, 20), "b": video(2, 10), "c": video(3, 40)}
    labels = {name: {"person": name, "kind": "x"} for name in frames}
    store = write(tmp_path / "s", frames, sides={"c": "test"}, labels=labels)
    summary = summarise(store, sample=4000)
    assert (summary.videos, summary.frames, summary.lengths) == (3, 70, (10, 20, 40))
    assert summary.bytes == (tmp_path / "s" / "clips-00000.safetensors").stat().st_size
    parts = summary.parts["share"]
    assert {k: (p.videos, p.frames, p.sources, p.windows) for k, p in parts.items()} == {
        "train": (2, 30, 2, 1),
        "test": (1, 40, 1, 1),
    }
    assert summary.labels == {"person": {"a": 1, "b": 1, "c": 1}, "kind": {"x": 3}}
    assert summary.left_out == {"it is broken": 2}
    # Every video has the same share of the sample.
    means = torch.stack([f.float().mean() for f in frames.values()])
    assert summary.mean[0] == pytest.approx(float(means.mean()), abs=3)
    within = torch.stack([f.float().square().mean() for f in frames.values()]).mean()
    assert summary.deviation[0] == pytest.approx(float((within - means.mean() ** 2).sqrt()), abs=3)
    moved = [(f[1:].float() - f[:-1].float()).abs().mean() for f in frames.values()]
    assert summary.motion == pytest.approx(float(torch.stack(moved).mean()), rel=0.2)
    text = "\n".join(summary.lines(store))
    for part in ("3 videos, 70 frames of 32x32x3 at 10", "a [1, 2]", "median 20", "x (3)", "(2)"):
        assert part in text


def test_one_picture_is_measured_exactly(tmp_path: Path) -> None:
    frames = torch.tensor([10, 20, 60], dtype=torch.uint8).expand(1, SIDE, SIDE, 3)
    summary = summarise(write(tmp_path / "s", {"a": frames.contiguous()}))
    assert summary.mean == (10, 20, 60)
    assert summary.deviation == (0, 0, 0)
    assert summary.motion == 0


def test_sheet_shows_all_parts(tmp_path: Path) -> None:
    size = (3, SIDE, SIDE, 3)
    frames = {f"v{i:02d}": torch.full(size, 8 * i, dtype=torch.uint8) for i in range(30)}
    store = write(tmp_path / "s", frames, sides={"v17": "test", "v29": ""})
    sheet = contact_sheet(store, rows=6, columns=10)
    shown = {8 * i for i in range(1, 30) if (sheet == 8 * i).all(-1).sum() >= 3 * SIDE * SIDE}
    assert len(shown) >= 5
    assert {8 * 17, 8 * 29} <= shown
    assert sheet.shape[0] < 7 * (SIDE + 2) + 2


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
        "damage: the SHA-256 of the shard clips-00000.safetensors differs; prepare the store again",
        "damage: the manifest counts 99 frames, there are 80",
        "damage: black: all its frames are of one colour",
        "note: split by share: in no part are good",
        "note: gaps: 3 of 20 frames are of one colour",
        "note: frozen: nothing moves in it",
    ]
    assert not verify(ClipStore(store.root)).sound


# Leaks by name


def test_one_source_on_both_sides(tmp_path: Path) -> None:
    frames = {"a1": video(1), "a2": video(2), "b": video(3)}
    sources = {"a1": ("a.mp4", 0, 20), "a2": ("a.mp4", 20, 40)}
    store = write(tmp_path / "s", frames, sides={"a2": "test"}, sources=sources)
    assert told(store) == ["leak: split by share: a.mp4 is in test and train"]


def test_by_time_only_shared_frames_leak(tmp_path: Path) -> None:
    frames = {"a1": video(1), "a2": video(2)}
    for last, expected in (
        (20, []),
        (30, ["leak: split by time: 10 frames of a.mp4 are in train and test (a1, a2)"]),
    ):
        sources = {"a1": ("a.mp4", 0, last), "a2": ("a.mp4", 20, 40)}
        root = tmp_path / str(last)
        store = write(root, frames, sides={"a2": "test"}, way="time", sources=sources)
        assert told(store) == expected


@pytest.mark.parametrize(("way", "kind"), [("person", "leak"), ("share", "note")])
def test_one_person_on_both_sides(tmp_path: Path, way: str, kind: str) -> None:
    people = {"a": "ann", "b": "ann", "c": "cy"}
    labels = {name: {"person": person} for name, person in people.items()}
    frames = {"a": video(1), "b": video(2), "c": video(3)}
    store = write(tmp_path / "s", frames, sides={"b": "test"}, way=way, labels=labels)
    assert told(store) == [f"{kind}: split by {way}: in both parts are the persons ann"]


# Twins


def jpeg(frames: Tensor) -> Tensor:
    given = []
    for frame in frames.numpy():
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=40)
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
    text = f"twin shows what 4 shows{how}"
    assert told(write(tmp_path / "a", frames, sides={"twin": "test"})) == [
        f"leak: twins on both sides of the split by share: {text}"
    ]
    assert told(write(tmp_path / "b", frames)) == [f"note: twins: {text}"]


def test_twins_whose_shared_frames_train_do_not_leak(tmp_path: Path) -> None:
    frames = video(1, 40)
    with StoreWriter(
        tmp_path / "s", source="made", resolution=SIDE, fps=1.0, split_by=("time",)
    ) as writer:
        for name, part, edge in (("a", frames[:30], 24), ("b", frames[20:], 12)):
            splits = {"time": [("train", 0, edge), ("test", edge, len(part))]}
            span = (0, len(part))
            writer.add(name, part, labels={}, splits=splits, source=name, source_range=span)
        writer.finish()
    # Frame 24 of a, which tests, is frame 4 of b, which trains.
    assert told(ClipStore(tmp_path / "s")) == [
        "leak: twins on both sides of the split by time: b shows what a shows, 20 frames earlier"
    ]


@pytest.mark.parametrize("world", ["shapes", "faces"])
def test_worlds_have_no_twins(world: str) -> None:
    pairs = datasets.get(world)("train", 0, resolution=32)
    clips = [_grey(pairs[i]["video"]) for i in range(120)]
    assert twins(clips) == []
    assert [t.first for t in twins([*clips, _grey(mirrored(pairs[7]["video"]))])] == [7]


def all_twins_of(store: ClipStore) -> None:
    """No two videos are taken for twins, and every made twin is found."""
    clips = [store.read(entry) for entry in store.entries()]
    assert twins([_grey(clip) for clip in clips]) == []
    for change in CHANGES.values():
        made = [change(clip) for clip in clips]
        found = twins([_grey(clip) for clip in (*clips, *made)])
        assert [(a, b) for a, b, _, _ in found] == [(i, i + len(clips)) for i in range(len(clips))]
        assert {pair.mirrored for pair in found} == {change is mirrored}
        shift = -5 if change is later else 0
        assert all(abs(pair.shift - shift) <= 1 for pair in found)  # slow motion: a frame off


@pytest.mark.footage
def test_genuine_twins_of_weizmann(footage: Path, tmp_path: Path) -> None:
    """70 videos of 7 persons before one wall: alike, and none another's twin."""
    report = prepare_weizmann(footage / "weizmann", tmp_path / "s", workers=2)
    all_twins_of(ClipStore(report.output))


@pytest.mark.footage
def test_genuine_twins_of_bair(footage: Path, tmp_path: Path) -> None:
    """7 videos of one arm over one table."""
    all_twins_of(ClipStore(prepare_bair(footage / "bair_frames", tmp_path / "s").output))


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
    assert "sound; 1 shards and 3 videos checked" in capsys.readouterr().out
    assert main(["data", "verify", str(bad)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("leak: twins")
    assert "NOT sound" in out[-1]
    assert main(["data", "verify", str(bad), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["kind"] == "leak"


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
