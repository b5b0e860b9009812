"""UvA-NEMO: files of its names that these tests draw, and genuine faces given its form."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from mtzoo import media
from mtzoo.cli import prepare as verb
from mtzoo.data.datasets.clips import ClipsDataset
from mtzoo.data.prepare import nemo, videos
from mtzoo.data.prepare.nemo import prepare_nemo
from mtzoo.data.prepare.pipeline import Stored
from mtzoo.data.prepare.report import Report
from mtzoo.data.store import ClipStore
from mtzoo.errors import MtzooError

NAMES = [
    f"{person}_{kind}_smile_{take}"
    for person in ("001", "007", "042", "558")
    for kind, take in (("deliberate", 2), ("spontaneous", 1))
]
LENGTH = 40


def smile(index: int, count: int = LENGTH) -> torch.Tensor:
    """A face that smiles, before a colour that tells who it is; uint8 ``(T, 120, 192, 3)``."""
    frames = []
    for t in range(count):
        canvas = Image.new("RGB", (384, 240), (200, 40 + 20 * index, 120))
        draw = ImageDraw.Draw(canvas)

        def ellipse(x: float, y: float, width: float, height: float, grey: int, draw=draw) -> None:
            x, y, width, height = (120 + 140 * x, 60 + 140 * y, 70 * width, 70 * height)
            draw.ellipse([x - width, y - height, x + width, y + height], fill=(grey,) * 3)

        ellipse(0.5, 0.45, 1.0, 1.35, 60)
        ellipse(0.5, 0.5, 0.8, 1.1, 190)
        for x in (0.32, 0.68):
            ellipse(x, 0.36, 0.24, 0.12, 110)
            ellipse(x, 0.37, 0.16, 0.09, 40)
            ellipse(x, 0.29, 0.26, 0.04, 70)
        ellipse(0.5, 0.52, 0.08, 0.3, 215)
        ellipse(0.5, 0.63, 0.16, 0.05, 130)
        ellipse(0.5, 0.78, 0.25 + 0.1 * t / count, 0.07, 90)
        canvas = canvas.filter(ImageFilter.GaussianBlur(1.5))
        frames.append(np.asarray(canvas.resize((192, 120), Image.Resampling.BOX)))
    return torch.from_numpy(np.stack(frames))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for index, name in enumerate(NAMES):
        media.write(folder / f"{name}.mp4", smile(index), fps=50.0)
    return folder


@pytest.fixture
def source(films: Path, tmp_path: Path) -> Path:
    """The set as it might lie on a disk: its videos, in folders or not, and its lists beside."""
    folder = tmp_path / "UvA-NEMO"
    for path in films.iterdir():
        target = folder / "videos" / path.name.split("_")[1]
        target.mkdir(parents=True, exist_ok=True)
        (target / path.name).symlink_to(path)
    (folder / "UvA-NEMO_SMILE_DETAILS.txt").write_text("001_deliberate_smile_2.mp4 f 24\n")
    return folder


def reasons(report: Report) -> dict[str, str]:
    return {Path(item["source"]).name: item["reason"] for item in report.skipped}


def test_names_give_person_kind_and_take(source: Path, tmp_path: Path) -> None:
    report = prepare_nemo(source, tmp_path / "out", resolution=32)
    store = ClipStore(report.output)
    found = {entry.id: dict(entry.labels) for entry in store.entries()}
    assert found == {
        f"videos/{name.split('_')[1]}/{name}": dict(
            zip(("person", "kind", "take"), (*name.split("_")[:2], name[-1]), strict=True)
        )
        for name in NAMES
    }
    assert (store.resolution, store.fps) == (32, 50.0)
    assert (report.found, report.frames, report.skipped) == (8, 8 * LENGTH, [])
    assert all(item["faces"] == 1.0 for item in report.used)
    notes = "\n".join(report.notes)
    assert "8 videos of 4 persons: 4 deliberate and 4 spontaneous smiles" in notes
    assert "1 .txt" in notes
    assert "names are not the set's" not in notes
    # The face is there, in the middle: lips under it, hair above, background at the corners.
    picture = store.read(store.entries()[0])[0].float()
    assert picture[0, 0].tolist() == pytest.approx([200, 40, 120], abs=12)
    assert picture[16, 16].tolist() == pytest.approx([205, 205, 205], abs=25)


def test_persons_are_on_one_side_only_and_drawn_by_the_seed(source: Path, tmp_path: Path) -> None:
    tested = set()
    for seed in range(4):
        report = prepare_nemo(source, tmp_path / f"out{seed}", resolution=32, test=0.3, seed=seed)
        store = ClipStore(report.output)
        assert store.manifest["split_by"] == ["person", "paper"]
        sides = {
            side: {entry.labels["person"] for entry in store.entries(side, "person")}
            for side in ("train", "test")
        }
        assert sides["train"] | sides["test"] == {"001", "007", "042", "558"}
        assert not sides["train"] & sides["test"]
        assert {entry.id for entry in store.entries("test")} == {
            entry.id for entry in store.entries("test", "person")
        }
        tested.add(frozenset(sides["test"]))
    assert len(tested) > 1


def stored(count: int, persons: int = 400) -> list[Stored]:
    kinds = ("deliberate", "spontaneous")
    return [
        Stored(
            id=str(i),
            frames=30 + i % 5,
            fps=50.0,
            source=f"{i % persons:03d}_{kinds[i % 2]}_smile_{i // persons}.mp4",
            labels={"person": f"{i % persons:03d}", "kind": kinds[i % 2], "take": "1"},
            about={},
        )
        for i in range(count)
    ]


def sides(split: dict, way: str) -> Counter[str]:
    return Counter(
        part[0][0] if (part := list(ways[way])) else "neither" for ways in split.values()
    )


def test_the_split_of_the_paper_has_its_counts() -> None:
    videos = stored(1240)
    split = nemo._split(0.1, 0, videos)
    assert sides(split, "paper") == {"train": 1110, "test": 124, "neither": 6}
    assert all(
        list(split[v.id]["paper"]) in ([], [("train", 0, v.frames)], [("test", 0, v.frames)])
        for v in videos
    )
    assert nemo._split(0.1, 0, videos[::-1]) == split
    other = nemo._split(0.1, 1, videos)
    for way in ("person", "paper"):
        assert any(other[v.id][way] != split[v.id][way] for v in videos)
    assert sides(nemo._split(0.1, 0, stored(1234)), "paper") == {"train": 1110, "test": 124}
    assert sides(nemo._split(0.1, 0, stored(617)), "paper") == {"train": 555, "test": 62}
    # By person: forty of the four hundred, whatever the number of their videos.
    tested = {v.labels["person"] for v in videos if split[v.id]["person"][0][0] == "test"}
    trained = {v.labels["person"] for v in videos if split[v.id]["person"][0][0] == "train"}
    assert (len(tested), len(trained), len(tested & trained)) == (40, 360, 0)


def test_clips_of_one_video_stay_together_and_count_as_one() -> None:
    whole = stored(1240)
    clips = [
        Stored(f"{v.id}@{k}", 16, v.fps, v.source, v.labels, v.about) for v in whole for k in (0, 1)
    ]
    split = nemo._split(0.1, 5, clips)
    assert sides(split, "paper") == {"train": 2220, "test": 248, "neither": 12}
    for video in whole:
        for way in ("paper", "person"):
            assert list(split[f"{video.id}@0"][way]) == list(split[f"{video.id}@1"][way])


def test_the_notes_say_how_the_counts_differ() -> None:
    def told(count: int) -> str:
        return "\n".join(nemo._notes(stored(count)))

    assert "the other 6 videos belong to neither part" in told(1240)
    assert "the paper's 1,110 + 124 videos are 1,234, here are 617" in told(617)
    assert "split paper" not in told(1234)


def test_clips_and_rates(source: Path, tmp_path: Path) -> None:
    report = prepare_nemo(source, tmp_path / "out", resolution=32, fps=25.0, clip=8, min_frames=8)
    store = ClipStore(report.output)
    assert store.fps == 25.0
    assert {entry.frames for entry in store.entries()} == {8}
    # 40 frames at 50 a second are 20 at 25: two clips of 8.
    assert Counter(entry.source for entry in store.entries()) == dict.fromkeys(
        (entry.source for entry in store.entries()), 2
    )
    assert len(store.entries()) == 16
    # Two of the four persons train, and six of the eight videos.
    for way, clips in (("person", 8), ("paper", 12)):
        data = ClipsDataset(
            "train",
            0,
            root=str(report.output),
            frames=8,
            identity="person",
            split_by=way,
            source="nemo",
        )
        assert len(data) == clips
        assert data[0]["video"].shape[0] == 8


def test_other_names_are_taken_whole_and_told(films: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    names = ["Ayşe.mp4", "001_deliberate_smile_2 (copy).mp4", "bob_smile.mp4", "x_spontaneous.mp4"]
    for name, path in zip([*names, f"{NAMES[0]}.mp4"], sorted(films.iterdir()), strict=False):
        (source / name).symlink_to(path)
    report = prepare_nemo(source, tmp_path / "out", resolution=32)
    labels = {e.source: dict(e.labels) for e in ClipStore(report.output).entries()}
    assert labels == {name: {"person": Path(name).stem} for name in names} | {
        f"{NAMES[0]}.mp4": {"person": "001", "kind": "deliberate", "take": "2"}
    }
    notes = "\n".join(report.notes)
    assert "5 videos of 5 persons: 1 deliberate and 0 spontaneous smiles" in notes
    assert "4 names are not the set's" in notes
    assert "Ayşe.mp4" in notes
    assert " ...)" not in notes


def test_what_cannot_be_used_is_named(source: Path, tmp_path: Path) -> None:
    videos = source / "videos"
    grey = torch.full((20, 120, 192, 3), 128, dtype=torch.uint8)
    media.write(videos / "101_deliberate_smile_1.mp4", grey, fps=50.0)
    media.write(videos / "102_deliberate_smile_1.mp4", smile(0, 9), fps=50.0)
    (videos / "103_deliberate_smile_1.mp4").write_bytes(b"no video")
    (videos / "104_deliberate_smile_1.mp4").symlink_to(tmp_path / "nowhere.mp4")
    told: list[tuple[int, int]] = []
    report = prepare_nemo(
        source,
        tmp_path / "out",
        resolution=32,
        progress=lambda name, done, total: told.append((done, total)),
    )
    assert told == [(done, 11) for done in range(12)]
    assert len(report.used) == 8
    found = reasons(report)
    assert found.keys() == {f"{n}_deliberate_smile_1.mp4" for n in (101, 102, 103, 104)}
    assert found["101_deliberate_smile_1.mp4"] == "no face was found in 3 frames looked at"
    assert "it has 9 frames of the 16 needed" in found["102_deliberate_smile_1.mp4"]
    assert all("\n" not in reason and str(source) not in reason for reason in found.values())
    assert json.loads((report.output / "report.json").read_text())["skipped"] == report.skipped
    (videos / "104_deliberate_smile_1.mp4").unlink()
    with pytest.raises(MtzooError, match=r"101_deliberate.*no face.*--strict"):
        prepare_nemo(source, tmp_path / "strict", strict=True)
    assert not (tmp_path / "strict").exists()


def test_damaged_videos_are_used_if_asked_for(films: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in NAMES[:3]:
        (source / f"{name}.mp4").symlink_to(films / f"{name}.mp4")
    data = bytearray((films / f"{NAMES[3]}.mp4").read_bytes())
    box = data.index(b"mdat") - 4  # of the coded frames: its length, its name, its content
    end = box + int.from_bytes(data[box : box + 4], "big")
    data[end - 300 : end - 200] = b"\xff" * 100
    (source / f"{NAMES[3]}.mp4").write_bytes(data)
    report = prepare_nemo(source, tmp_path / "out", resolution=32)
    assert "--keep-damaged uses the rest" in reasons(report)[f"{NAMES[3]}.mp4"]
    report = prepare_nemo(source, tmp_path / "kept", resolution=32, keep_damaged=True)
    assert report.skipped == []
    frames = {item["source"]: item["frames"] for item in report.used}
    assert 16 <= frames.pop(f"{NAMES[3]}.mp4") < LENGTH
    assert set(frames.values()) == {LENGTH}


def test_in_worker_processes_the_same_comes_out(source: Path, tmp_path: Path) -> None:
    one = prepare_nemo(source, tmp_path / "one", resolution=32).output
    two = prepare_nemo(source, tmp_path / "two", resolution=32, workers=2).output
    for name in ("manifest.json", "clips-00000.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert prepare_nemo(source, one, resolution=32).unchanged


def test_bad_options_are_one_line_and_leave_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    for option, value in (
        ("resolution", 48),
        ("margin", 9.0),
        ("fps", -1.0),
        ("clip", 0),
        ("min_frames", 0),
        ("test", 1.0),
    ):
        with pytest.raises(MtzooError, match=rf"^prepare nemo: .*{value}") as caught:
            prepare_nemo(source, out, **{option: value})
        assert "\n" not in str(caught.value)
    with pytest.raises(MtzooError, match="lie in one another"):
        prepare_nemo(source, source / "out")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MtzooError, match=r"^prepare nemo: .*OpenCV.*mtzoo\[faces\]"):
        prepare_nemo(source, out)
    assert not list(tmp_path.rglob("out*"))


def test_the_verb(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    verb.add_parser(parser.add_subparsers())
    words = ["--source", source, "--output", tmp_path / "out", "--resolution", 32, "--workers", 0]
    words += ["--margin", 2.0, "--fps", 25, "--clip", 16, "--test", 0.5, "--seed", 3]
    args = parser.parse_args(["prepare", "nemo", *map(str, words)])
    assert args.func(args) == 0
    assert "8 videos found, 8 used, 0 skipped" in capsys.readouterr().out
    kept = ClipStore(tmp_path / "out").manifest["preparation"]
    told = {"resolution": 32, "margin": 2.0, "fps": 25.0, "clip": 16, "test": 0.5, "seed": 3}
    assert told.items() <= kept.items()


# Genuine footage


@pytest.mark.footage
def test_genuine_faces_in_the_form_of_the_set(
    footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two GRID speakers as films of 1920x1080 at 50 frames a second, as NEMO's are."""
    source = tmp_path / "in"
    source.mkdir()
    for name, file, left in (
        ("001_deliberate_smile_1", "lbax4n", 500),
        ("002_spontaneous_smile_1", "brbk7n", 80),
    ):
        clip = media.read_video(footage / "grid_faces" / f"{file}.mpg", frames=10).frames.numpy()
        frames = np.full((20, 1080, 1920, 3), 90, np.uint8)
        for target, frame in zip(frames, clip.repeat(2, 0), strict=True):
            large = Image.fromarray(frame).resize((1080, 864), Image.Resampling.BICUBIC)
            target[216:, left : left + 1080] = large
        media.write(source / f"{name}.mp4", torch.from_numpy(frames), fps=50.0)
    squares: list[media.Box] = []
    cut = media.Frame.cut

    def noted(frame: media.Frame, box: media.Box, resolution: int) -> np.ndarray:
        factor = 1920 // frame.width
        assert factor >= 3
        squares.append(media.Box(*(factor * edge for edge in box)))
        return cut(frame, box, resolution)

    with monkeypatch.context() as patch:
        patch.setattr(videos, "WHOLE_BYTES", 17 * 1920 * 1080 * 3 // 2)  # frames are kept reduced
        patch.setattr(media.Frame, "cut", noted)
        report = prepare_nemo(source, tmp_path / "out")
    assert report.skipped == []
    store = ClipStore(report.output)
    assert (store.fps, store.resolution, report.frames) == (50.0, 64, 40)
    # The same squares of the frames as decoded.
    for i, path in enumerate(sorted(source.iterdir())):
        with media.decode(path) as decoded:
            expected = np.stack([frame.cut(squares[20 * i], 64) for frame in decoded])
        off = np.abs(store.read(store.entries()[i]).numpy().astype(int) - expected)
        assert off.mean() < 1
        assert off.max() <= 8
    assert all(item["faces"] == 1.0 for item in report.used)
    assert all(600 < float(str(item["crop_side"])) < 900 for item in report.used)
    for entry in store.entries():
        frames = store.read(entry).float()
        # Skin in the middle, redder than blue; the studio's blue or green wall in the corners.
        middle, wall = frames[:, 24:40, 24:40].mean((0, 1, 2)), frames[:, 8:14, :6]
        assert middle[0] > middle[2] + 20
        assert wall[..., 0].mean() < wall[..., 2].mean()
        # Nothing but the face moves: a square that jittered would move the wall, too.
        assert wall.mean(-1).std(0).max() < 4
