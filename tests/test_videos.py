"""Any folder of videos in: what is found, how it is labelled, cut and split, and every fault."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from test_crops import head as face
from test_media import encode, moving

from mtzoo import media
from mtzoo.cli import main
from mtzoo.data.prepare import videos
from mtzoo.data.prepare.sources import find_videos
from mtzoo.data.prepare.videos import prepare_videos
from mtzoo.data.store import ClipStore
from mtzoo.media import Box, Frame

COUNT = 20


def film(path: Path, frames: int = COUNT, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return encode(path, moving(frames, 48, 80), **options)  # type: ignore[arg-type]


def walker(path: Path, frames: int = COUNT, scale: int = 1) -> Path:
    """Somebody large enough to be followed."""
    clip = np.full((frames, 96 * scale, 160 * scale, 3), 90, np.uint8)
    for i, picture in enumerate(clip):
        left = scale * 10 + i * scale * 100 // frames
        picture[scale * 30 : scale * 70, left : left + scale * 24] = (220, 60, 60)
    path.parent.mkdir(parents=True, exist_ok=True)
    return encode(path, clip)


def frame_folder(folder: Path, frames: int = COUNT) -> Path:
    folder.mkdir(parents=True)
    for i, picture in enumerate(moving(frames, 48, 80)):
        Image.fromarray(picture).save(folder / f"{i}.png")
    return folder


def strip(path: Path, frames: int = COUNT, kind: str = "PNG", mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = np.concatenate(list(moving(frames, 32, 32)), axis=1)
    Image.fromarray(pictures).convert(mode).save(path, kind)
    return path


def reasons(report) -> dict[str, str]:
    return {item["source"]: item["reason"] for item in report.skipped}


def bars(frames: torch.Tensor) -> list[int]:
    """Where the bright bar of `moving` is in each frame, in columns."""
    return [int(frame[..., 1].float().mean(0).argmax()) for frame in frames]


# What is found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    film(root / "ann" / "walk" / "a one.mp4")
    film(root / "ann" / "run" / "Ünïcode 動画.avi")
    film(root / "bob" / "walk" / "b.webm")
    film(root / "bob" / "run" / "b.mkv")
    frame_folder(root / "cy" / "walk" / "frames")
    film(root / "cy" / "run" / "c.mov")
    film(root / "dee" / "walk" / "d.mpg")
    film(root / "dee" / "run" / "d.mp4")
    (root / "readme.txt").write_text("hello")
    (root / "cy" / "notes.txt").write_text("hello")
    (root / ".DS_Store").write_text("hidden")
    (root / "ann" / "walk" / "._a one.mp4").write_text("hidden")
    return root


def test_a_tree_of_everything(tree: Path, tmp_path: Path) -> None:
    report = prepare_videos(tree, tmp_path / "out", levels=("person", "action"), resolution=32)
    store = ClipStore(report.output)
    found = {e.id: dict(e.labels) for e in store.entries()}
    assert found == {
        "ann/run/Ünïcode 動画": {"person": "ann", "action": "run"},
        "ann/walk/a one": {"person": "ann", "action": "walk"},
        "bob/run/b": {"person": "bob", "action": "run"},
        "bob/walk/b": {"person": "bob", "action": "walk"},
        "cy/run/c": {"person": "cy", "action": "run"},
        "cy/walk/frames": {"person": "cy", "action": "walk"},
        "dee/run/d": {"person": "dee", "action": "run"},
        "dee/walk/d": {"person": "dee", "action": "walk"},
    }
    assert (report.found, report.skipped, report.frames) == (8, [], 8 * COUNT)
    assert report.bytes == 8 * COUNT * 32 * 32 * 3
    assert "other files in the source were not read: 2 .txt" in report.notes
    assert store.split_by == ("person", "share", "time")
    tested = {e.labels["person"] for e in store.entries("test")}
    assert len(tested) == 2
    assert not tested & {e.labels["person"] for e in store.entries("train")}
    assert len(store.entries("test", "share")) == 2
    assert all((e.start, e.stop) == (18, 20) for e in store.entries("test", "time"))
    saved = json.loads((report.output / "report.json").read_text())
    assert saved["found"] == 8
    assert saved["notes"] == report.notes


def test_frames_are_the_central_square(tmp_path: Path) -> None:
    film(tmp_path / "in" / "a.mp4", options={"crf": "1"})
    store = ClipStore(prepare_videos(tmp_path / "in", tmp_path / "out", resolution=32).output)
    frames = store.read(store.entries()[0])
    expected = np.stack(
        [
            np.asarray(Image.fromarray(f[:, 16:64]).resize((32, 32), Image.Resampling.BICUBIC))
            for f in moving(COUNT, 48, 80)
        ]
    )
    assert (frames.float() - torch.from_numpy(expected).float()).abs().mean() < 3
    assert len(set(bars(frames[5:15]))) == 10  # it moves


def test_stride_and_rate(tmp_path: Path) -> None:
    film(tmp_path / "in" / "a.mp4", 40)
    whole = ClipStore(prepare_videos(tmp_path / "in", tmp_path / "whole", resolution=32).output)
    all_frames = whole.read(whole.entries()[0])
    for name, options, fps in (
        ("stride", {"stride": 2}, 12.5),
        ("rate", {"fps": 12.5}, 12.5),
        ("both", {"fps": 12.5, "stride": 2, "min_frames": 8}, 6.25),
    ):
        report = prepare_videos(tmp_path / "in", tmp_path / name, resolution=32, **options)
        store = ClipStore(report.output)
        step = round(25 / fps)
        assert store.fps == fps
        assert torch.equal(store.read(store.entries()[0]), all_frames[::step])


def test_cut_into_clips(tmp_path: Path) -> None:
    film(tmp_path / "in" / "a.mp4", 40)
    film(tmp_path / "in" / "b.mp4", 15)
    report = prepare_videos(tmp_path / "in", tmp_path / "out", resolution=32, clip=16)
    store = ClipStore(report.output)
    assert [(e.id, e.frames, e.source_range) for e in store.entries()] == [
        ("a@00000", 16, (0, 16)),
        ("a@00016", 16, (16, 32)),
    ]
    assert "1 used as 2 clips, 1 skipped" in report.lines()[0]
    assert reasons(report) == {"b.mp4": "it has 15 frames of the 16 needed"}
    assert {e.source for e in store.entries("train", "share")} == {"a.mp4"}


def test_pattern_labels(tmp_path: Path) -> None:
    for name in ("eli_walk", "eli_run", "ira_walk", "other"):
        film(tmp_path / "in" / f"{name}.mp4")
    report = prepare_videos(
        tmp_path / "in",
        tmp_path / "out",
        resolution=32,
        pattern=r"(?P<person>[a-z]+)_(?P<action>[a-z]+)",
    )
    found = {e.id: dict(e.labels) for e in ClipStore(report.output).entries()}
    assert found["eli_run"] == {"person": "eli", "action": "run"}
    assert len(found) == 3
    assert reasons(report) == {"other.mp4": "its path does not match the pattern"}


def test_too_few_levels_are_named(tmp_path: Path) -> None:
    film(tmp_path / "in" / "ann" / "a.mp4")
    film(tmp_path / "in" / "b.mp4")
    report = prepare_videos(tmp_path / "in", tmp_path / "out", resolution=32, levels=("person",))
    assert "it lies 0 folders deep where the levels person need 1" in reasons(report)["b.mp4"]
    assert ClipStore(report.output).entries()[0].labels == {"person": "ann"}


def test_names_that_would_clash_keep_their_endings(tmp_path: Path) -> None:
    film(tmp_path / "in" / "a.mp4")
    film(tmp_path / "in" / "a.avi")
    film(tmp_path / "in" / "b.mp4")
    store = ClipStore(prepare_videos(tmp_path / "in", tmp_path / "out", resolution=32).output)
    assert [e.id for e in store.entries()] == ["a.avi", "a.mp4", "b"]


@pytest.mark.parametrize("kind", ["PNG", "GIF", "JPEG"])
def test_strips_whatever_their_names_say(tmp_path: Path, kind: str) -> None:
    for name in ("a.jpg", "b.gif", "c.png"):
        strip(tmp_path / "in" / name, kind=kind, mode="RGB" if kind != "GIF" else "P")
    strip(tmp_path / "in" / "alpha.png", mode="RGBA")
    Image.new("RGB", (100, 32)).save(tmp_path / "in" / "odd.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "in" / "one.png")
    film(tmp_path / "in" / "film.mp4")
    report = prepare_videos(tmp_path / "in", tmp_path / "out", resolution=32, strips=True)
    store = ClipStore(report.output)
    assert [e.id for e in store.entries()] == ["a", "alpha", "b", "c"]
    for entry in store.entries():
        frames = store.read(entry).float()
        expected = torch.from_numpy(moving(COUNT, 32, 32)).float()
        assert frames.shape == expected.shape
        assert (frames - expected).abs().mean() < (
            1 if kind == "PNG" or entry.id == "alpha" else 16
        )
    assert "100x32 pixels, which is no row of square frames" in reasons(report)["odd.png"]
    assert set(reasons(report)) == {"odd.png", "one.png"}
    assert "other files in the source were not read: 1 .mp4" in report.notes


def test_tall_strips(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(np.concatenate(list(moving(COUNT, 32, 32)))).save(tmp_path / "in" / "a.png")
    report = prepare_videos(tmp_path / "in", tmp_path / "out", resolution=32, strips=True)
    store = ClipStore(report.output)
    assert torch.equal(store.read(store.entries()[0]), torch.from_numpy(moving(COUNT, 32, 32)))


def test_links(tmp_path: Path) -> None:
    root = tmp_path / "in"
    film(root / "real" / "a.mp4")
    film(tmp_path / "elsewhere" / "b.mp4")
    (root / "file.mp4").symlink_to(tmp_path / "elsewhere" / "b.mp4")
    (root / "dangling.mp4").symlink_to(tmp_path / "nothing.mp4")
    (root / "real" / "loop").symlink_to(root)
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    found = find_videos(root)
    assert [v.source for v in found.videos] == ["file.mp4", "folder/b.mp4", "real/a.mp4"]
    assert {item.source: item.reason for item in found.left_out} == {
        "dangling.mp4": "a link to nothing",
        "real/loop": "a link to a folder that is read already",
    }


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    film(tmp_path / "in" / "a.mp4")
    try:
        os.rename(tmp_path / "in" / "a.mp4", os.fsencode(tmp_path / "in") + b"/b\xff.mp4")
    except OSError:
        pytest.skip("this file system takes names of UTF-8 only")
    film(tmp_path / "in" / "c.mp4")
    report = prepare_videos(tmp_path / "in", tmp_path / "out", resolution=32)
    assert reasons(report) == {"b\\udcff.mp4": "its name is no valid UTF-8; rename it"}
    assert len(report.used) == 1
    ClipStore(report.output).verify()


# Bad input


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line with which the command line refuses."""
    assert main(["prepare", "videos", *map(str, words)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1, told
    return told[0]


def test_sources_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--output", tmp_path / "out")
    assert "does not exist" in refused(capsys, "--source", tmp_path / "no", *out)
    (tmp_path / "empty").mkdir()
    assert "there is nothing" in refused(capsys, "--source", tmp_path / "empty", *out)
    (tmp_path / "empty" / "a.txt").write_text("")
    assert "there is .txt" in refused(capsys, "--source", tmp_path / "empty", *out)
    video = film(tmp_path / "in" / "a.mp4")
    assert "is a file; name the folder" in refused(capsys, "--source", video, *out)
    for place in (tmp_path / "in", tmp_path / "in" / "store", tmp_path):
        message = refused(capsys, "--source", tmp_path / "in", "--output", place)
        assert "lie in one another" in message or "holds something already" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "in"]


def test_archives_are_not_unpacked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--output", tmp_path / "out")
    good, bad = tmp_path / "good.zip", tmp_path / "bad.zip"
    tar, cut = tmp_path / "bad.tar.gz", tmp_path / "cut.zip"
    with zipfile.ZipFile(good, "w") as archive:
        archive.writestr("a.mp4", b"video")
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("a.mp4", b"video")
        archive.writestr("../evil.mp4", b"video")
    with tarfile.open(tar, "w:gz") as archive:
        member = tarfile.TarInfo("/etc/evil")
        archive.addfile(member)
    cut.write_bytes(good.read_bytes()[:30])
    assert refused(capsys, "--source", good, *out).endswith(
        "good.zip is an archive (zip); unpack it and name the folder"
    )
    assert "beware: it holds '../evil.mp4'" in refused(capsys, "--source", bad, *out)
    assert "beware: it holds '/etc/evil'" in refused(capsys, "--source", tar, *out)
    assert "is an archive (zip, not whole); unpack it" in refused(capsys, "--source", cut, *out)
    names = {"good.zip", "bad.zip", "bad.tar.gz", "cut.zip"}
    assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("--resolution", 60, "resolution 60"),
        ("--fps", 0, "fps must lie above 0"),
        ("--fps", "nan", "fps must lie above 0"),
        ("--stride", 0, "stride must lie between"),
        ("--clip", 0, "clip must lie between"),
        ("--min-frames", -1, "min_frames must lie between"),
        ("--test", 1, "test must lie between 0 and 1"),
        ("--margin", 2, "margin has no meaning with crop 'centre'"),
        ("--pattern", "(", "no regular expression"),
        ("--pattern", "a+", "names no label"),
        ("--levels", "person,person", "given twice"),
        ("--levels", "per son", "cannot name a label"),
        ("--split", "person", "a label person is needed"),
        ("--split", "persn", "person"),
        ("--workers", -1, "workers must lie between"),
        ("--wokers", 1, "--workers"),
        ("--crop", "centr", "centre"),
    ],
)
def test_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: object, part: str
) -> None:
    film(tmp_path / "in" / "a.mp4")
    words = ("--source", tmp_path / "in", "--output", tmp_path / "out", option, value)
    assert part in refused(capsys, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def two_sizes(path: Path) -> None:
    """One MPEG transport stream whose picture changes its size in the middle."""
    parts = []
    for size in ((48, 80), (64, 64)):
        part = path.with_name(f"part{size[0]}.mpg")
        encode(part, moving(COUNT, *size), codec="mpeg1video")
        raw = path.with_name("raw.m1v")
        with av.open(str(part)) as source, av.open(str(raw), "w", format="mpeg1video") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
        parts.append(raw.read_bytes())
        part.unlink()
        raw.unlink()
    path.write_bytes(b"".join(parts))


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    film(root / "good.mp4")
    film(root / "good too.mp4")
    data = film(root / "x.mp4", 60).read_bytes()
    (root / "x.mp4").unlink()
    (root / "no moov.mp4").write_bytes(data[: len(data) // 2])
    half = film(root / "half.avi", 60)
    half.write_bytes(half.read_bytes()[: half.stat().st_size * 8 // 10])
    (root / "empty.mp4").write_bytes(b"")
    (root / "text.mp4").write_text("this is no video\n" * 100)
    with av.open(str(root / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        silence = np.zeros((1, 8000), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    encode(root / "ten bits.mkv", moving(COUNT, 48, 80), pix_fmt="yuv420p10le")
    encode(root / "odd.mkv", moving(COUNT, 47, 63), pix_fmt="yuv444p")
    encode(root / "turned.mp4", moving(COUNT, 48, 80), rotation=90)
    times = [i / 25 + (0.5 if i > 9 else 0) for i in range(COUNT)]
    encode(root / "variable.mp4", moving(COUNT, 48, 80), times=times)
    two_sizes(root / "sizes.mpg")
    film(root / "short.mp4", 5)
    big = root / "big pictures"
    frame_folder(big)
    Image.new("1", (30_000, 30_000)).save(big / "10.png")
    Image.new("1", (30_000, 30_000)).save(root / "big.gif", "PNG")
    return root


def test_every_hostile_file_is_named_and_the_rest_used(hostile: Path, tmp_path: Path) -> None:
    report = prepare_videos(hostile, tmp_path / "out", resolution=32)
    found = reasons(report)
    expected = {
        "no moov.mp4": "is not a video that can be read",
        "half.avi": "of its frames cannot be read; ",
        "empty.mp4": "is empty (0 bytes)",
        "text.mp4": "is not a video that can be read",
        "sound.mp4": "holds no video stream",
        "short.mp4": "it has 5 frames of the 16 needed",
        "big pictures": "1 of its frames cannot be read; 10.png: more than the 100 megapixels",
        "big.gif": "more than the 100 megapixels that are read",
    }
    assert found.keys() == expected.keys()
    for name, part in expected.items():
        assert str(hostile) not in found[name]
        assert "\n" not in found[name]
        assert part in found[name]
    store = ClipStore(report.output)
    frames = {e.id: e.frames for e in store.entries()}
    # libav gives up the frame that it still holds back when the size changes.
    assert frames.pop("sizes") in (2 * COUNT - 1, 2 * COUNT)
    assert frames == {
        "good": COUNT,
        "good too": COUNT,
        "odd": COUNT,
        "ten bits": COUNT,
        "turned": COUNT,
        "variable": COUNT,
    }
    assert any("changes its size within: sizes.mpg" in note for note in report.notes)
    by_name = {e.id: store.read(e) for e in store.entries()}
    # Turned by a quarter, the bar lies and moves up or down instead of across.
    rows = by_name["turned"].float().mean((2, 3)).argmax(1)
    assert len(set(rows[5:15].tolist())) > 7
    assert len(set(bars(by_name["ten bits"][5:15]))) > 7


def test_damaged_ones_can_be_kept(hostile: Path, tmp_path: Path) -> None:
    report = prepare_videos(hostile, tmp_path / "out", resolution=32, keep_damaged=True)
    used = {item["source"]: item for item in report.used}
    assert used["big pictures"]["broken_frames"] == 1
    assert used["big pictures"]["frames"] == COUNT - 1
    assert 16 <= used["half.avi"]["frames"] < 60
    assert used["half.avi"]["broken_frames"] > 0
    assert any("in spite of frames" in note and "half.avi" in note for note in report.notes)


def test_variable_rate_is_resampled_by_time(hostile: Path, tmp_path: Path) -> None:
    report = prepare_videos(hostile, tmp_path / "out", resolution=32, fps=25.0)
    frames = {item["source"]: item["frames"] for item in report.used}
    assert frames["variable.mp4"] in range(COUNT + 12, COUNT + 15)  # a pause of half a second


def test_person_crop_refuses_changing_sizes(hostile: Path, tmp_path: Path) -> None:
    report = prepare_videos(hostile, tmp_path / "out", resolution=32, crop="person")
    assert "change size (80x48, 64x64)" in reasons(report)["sizes.mpg"]


def test_strict_is_an_error_and_leaves_nothing(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--source", hostile, "--output", tmp_path / "out", "--strict", "--workers", 0)
    message = refused(capsys, *words)
    assert "(--strict allows no skipped video)" in message
    assert str(hostile) in message
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_video_too_long_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtzoo.data.prepare.videos.MAX_BYTES", 30 * 32 * 32 * 3)
    film(tmp_path / "in" / "a.mp4", 20)
    film(tmp_path / "in" / "b.mp4", 40)
    report = prepare_videos(tmp_path / "in", tmp_path / "out", resolution=32)
    assert "cut the file into parts" in reasons(report)["b.mp4"]
    assert len(report.used) == 1


# Frames kept until it is known where to cut


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Which files were decoded, each time."""
    files: list[Path] = []
    decode = media.decode

    def listed(path: Path, **options: object) -> media.Decoded:
        files.append(path)
        return decode(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(media, "decode", listed)
    return files


@pytest.fixture
def factors(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """By what frames were reduced."""
    found: set[int] = set()
    reduced = Frame.reduced

    def noted(frame: Frame, factor: int) -> Frame:
        found.add(factor)
        return reduced(frame, factor)

    monkeypatch.setattr(Frame, "reduced", noted)
    return found


def talker(path: Path, *parts: tuple[int, int]) -> Path:
    """A drawn face before a still wall, so many frames of such a side each; 640x480 pixels."""
    rows, columns = np.mgrid[:480, :640]
    wall = (120 + 60 * np.sin(columns / 9) * np.cos(rows / 7))[..., None] * (0.6, 0.8, 1.0)
    clip = []
    for count, side in parts:
        for i in range(count):
            canvas = Image.fromarray(wall.astype(np.uint8))
            face(canvas, 330 - side / 2 + 4 * math.sin(i / 5), 220 - side / 2, side)
            clip.append(np.asarray(canvas.filter(ImageFilter.GaussianBlur(1.5))))
    path.parent.mkdir(parents=True, exist_ok=True)
    return encode(path, np.stack(clip))


def stored(tmp_path: Path, name: str, crop: str) -> tuple[np.ndarray, dict[str, object]]:
    report = prepare_videos(tmp_path / "in", tmp_path / name, resolution=32, crop=crop)  # type: ignore[arg-type]
    store = ClipStore(report.output)
    return store.read(store.entries()[0]).numpy().astype(int), report.used[0]


@pytest.mark.parametrize("crop", ["face", "person"])
def test_large_frames_are_kept_reduced_and_decoded_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    decoded: list[Path],
    factors: set[int],
    crop: str,
) -> None:
    """The square is the same to a hundredth of its side, and what it shows is, too."""
    path = tmp_path / "in" / "a.mp4"
    width, height = (640, 480) if crop == "face" else (960, 576)
    talker(path, (60, 240)) if crop == "face" else walker(path, 60, scale=6)
    boxes: list[Box] = []
    cut = Frame.cut

    def noted(frame: Frame, box: Box, resolution: int) -> np.ndarray:
        factor = round(width / frame.width)
        boxes.append(Box(*(factor * edge for edge in box)))
        return cut(frame, box, resolution)

    monkeypatch.setattr(Frame, "cut", noted)
    monkeypatch.setattr(videos, "WHOLE_BYTES", 1 << 30)
    _, told = stored(tmp_path, "whole", crop)
    assert factors == {1}
    whole = list(boxes)
    size = width * height * 3 // 2
    monkeypatch.setattr(videos, "WHOLE_BYTES", 20 * size)
    monkeypatch.setattr(videos, "BUFFER_BYTES", 40 * size)  # not enough for 60 whole ones
    decoded.clear()
    boxes.clear()
    found, told_too = stored(tmp_path, "reduced", crop)
    assert len(decoded) == 1
    assert max(factors) >= 2
    side = float(str(told["crop_side"]))
    assert float(str(told_too["crop_side"])) == pytest.approx(side, abs=0.015 * side)
    assert np.abs(np.subtract(boxes, whole)).max() <= 0.015 * side
    with media.decode(path) as frames:
        expected = [cut(frame, box, 32) for frame, box in zip(frames, boxes, strict=True)]
    off = np.abs(found - np.stack(expected))
    assert off.mean() < 1
    assert off.max() <= (10 if crop == "face" else 20)  # whose edges are sharp


def test_a_face_that_is_smaller_than_was_thought_is_decoded_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[Path], factors: set[int]
) -> None:
    """Two faces, one after another; the first is larger and the second seen for longer."""
    talker(tmp_path / "in" / "a.mp4", (24, 240), (160, 100))
    monkeypatch.setattr(videos, "WHOLE_BYTES", 1 << 30)
    expected, told = stored(tmp_path, "whole", "face")
    assert float(str(told["face_side"])) < 120
    assert factors == {1}
    monkeypatch.setattr(videos, "WHOLE_BYTES", 20 * 640 * 480 * 3 // 2)
    decoded.clear()
    found, told_too = stored(tmp_path, "reduced", "face")
    assert max(factors) >= 2
    assert len(decoded) == 2
    assert told_too == told
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_what_does_not_fit_the_buffer_is_decoded_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[Path], budget: int
) -> None:
    monkeypatch.setattr(videos, "BUFFER_BYTES", budget)
    walker(tmp_path / "in" / "a.mp4", 30)
    frames, _ = stored(tmp_path, "out", "person")
    assert len(frames) == 30
    assert len(decoded) == (2 if budget == 0 else 1)


# Disks and kills


def test_no_permission(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    film(tmp_path / "in" / "a.mp4")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.geteuid() == 0:  # who may write anywhere; be told what others are
        mkdir = Path.mkdir

        def refuse(self: Path, *args: object, **options: object) -> None:
            if self.parent == closed:
                raise PermissionError(13, "Permission denied", str(self))
            mkdir(self, *args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(Path, "mkdir", refuse)
    message = refused(capsys, "--source", tmp_path / "in", "--output", closed / "out")
    assert f"{closed / 'out'} cannot be written: Permission denied; nothing was left" in message
    assert list(closed.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("size", ["100k", "600k"])
def test_a_full_disk(tmp_path: Path, size: str) -> None:
    """A tmpfs of a few hundred kilobytes, mounted in a namespace of the test's own."""
    for i in range(6):
        film(tmp_path / "in" / f"{i}.mp4", 40)
    (tmp_path / "disk").mkdir()
    script = textwrap.dedent(f"""
        set -e
        mount -t tmpfs -o size={size} tmpfs {tmp_path}/disk
        {sys.executable} -m mtzoo prepare videos --source {tmp_path}/in \\
            --output {tmp_path}/disk/out --resolution 64 --workers 0 || echo status $?
        ls {tmp_path}/disk
        mount -o remount,size=20m {tmp_path}/disk
        {sys.executable} -m mtzoo prepare videos --source {tmp_path}/in \\
            --output {tmp_path}/disk/out --resolution 64 --workers 0
        {sys.executable} -m mtzoo data verify {tmp_path}/disk/out || true
        ls {tmp_path}/disk
    """)
    allowed = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if allowed.returncode:
        pytest.skip("mounting in a namespace is not allowed here")
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    errors = done.stderr.splitlines()
    assert len(errors) == 1
    assert "No space left on device" in errors[0]
    out = done.stdout.splitlines()
    assert out[0] == "status 2"
    # The first video does not fit at all; or some do, and are kept for the next run.
    assert out[1].startswith("out.partial") == (size == "600k")
    assert "6 videos found, 6 used" in done.stdout
    assert "6 videos in 1 shard checked" in out[-2]
    assert not any(line.startswith("damage") for line in out)
    assert out[-1] == "out"


@pytest.mark.slow
def test_killed_and_gone_on_with(tmp_path: Path) -> None:
    for i in range(12):
        walker(tmp_path / "in" / f"{i:02d}.mp4", 150)
    command = [sys.executable, "-m", "mtzoo", "prepare", "videos", "--source", tmp_path / "in"]
    command += ["--output", tmp_path / "out", "--crop", "person", "--workers", "2"]
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    journal = tmp_path / "out.partial" / "journal.jsonl"
    end = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
        assert time.monotonic() < end
        assert process.poll() is None, "it was done before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out").exists()
    assert main([str(word) for word in command[3:-1]] + ["0"]) == 0
    report = prepare_videos(tmp_path / "in", tmp_path / "whole", crop="person")
    for name in ("clips-00000.safetensors", "manifest.json"):
        assert (tmp_path / "out" / name).read_bytes() == (report.output / name).read_bytes()
    assert not (tmp_path / "out.partial").exists()


# Genuine footage


@pytest.mark.footage
def test_genuine_strips(footage: Path, tmp_path: Path) -> None:
    report = prepare_videos(footage / "strips", tmp_path / "out", strips=True)
    store = ClipStore(report.output)
    assert (report.found, report.skipped) == (8, [])
    for entry in store.entries():
        with Image.open(footage / "strips" / f"{entry.id}.jpg") as image:
            assert image.format == "PNG"
            assert entry.frames == image.width // image.height
            expected = np.asarray(image.convert("RGB"))[:, 128:192]
        assert np.array_equal(store.read(entry, 2, 1)[0].numpy(), expected)


@pytest.mark.footage
def test_genuine_videos(footage: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    for action in ("bend", "run"):
        shutil.copytree(footage / "weizmann" / "video" / action, source / action)
    report = prepare_videos(
        source, tmp_path / "out", levels=("action",), pattern="/(?P<person>[a-z]+)_", workers=2
    )
    store = ClipStore(report.output)
    for entry in store.entries():
        with av.open(str(source / entry.source)) as container:
            assert entry.frames == sum(1 for _ in container.decode(video=0))
    assert len(store) == len(list(source.rglob("*.avi"))) == 14
    assert {e.labels["person"] for e in store.entries()} >= {"eli", "lena"}
