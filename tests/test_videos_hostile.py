"""Names, links, archives and colour tags that once ended a whole preparation, or its meaning."""

import io
import os
import time
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from test_media import encode, moving

from mtzoo.cli import main
from mtzoo.data.prepare.sources import find_videos
from mtzoo.data.prepare.videos import prepare_videos
from mtzoo.data.store import ClipStore
from mtzoo.errors import MtzooError


def film(path: Path, frames: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return encode(path, moving(frames, 48, 80))


def no_utf8(folder: Path, name: bytes) -> Path:
    path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
    try:
        path.touch()
        path.unlink()
    except OSError:
        pytest.skip("this file system takes names of UTF-8 only")
    return path


def ids(output: Path) -> list[str]:
    store = ClipStore(output)
    store.verify()
    return sorted(entry.id for entry in store.entries())


def test_an_ending_that_is_no_utf8(tmp_path: Path) -> None:
    film(tmp_path / "in" / "a.mp4")
    no_utf8(tmp_path / "in", b"notes.\xff").touch()
    report = prepare_videos(tmp_path / "in", tmp_path / "out", resolution=32)
    assert ids(report.output) == ["a"]
    "".join(report.lines()).encode()


def test_a_loop_whose_name_is_no_utf8(tmp_path: Path) -> None:
    film(tmp_path / "in" / "a.mp4")
    no_utf8(tmp_path / "in", b"loop\xff").symlink_to(tmp_path / "in")
    report = prepare_videos(tmp_path / "in", tmp_path / "out", resolution=32)
    assert len(report.skipped) == 1
    "".join(report.lines()).encode()


def test_an_output_whose_name_is_no_utf8(tmp_path: Path) -> None:
    film(tmp_path / "in" / "a.mp4")
    output = no_utf8(tmp_path, b"out\xff")
    try:
        prepare_videos(tmp_path / "in", output, resolution=32)
    except MtzooError:
        assert [path.name for path in tmp_path.iterdir()] == ["in"]
    else:
        assert ids(output) == ["a"]


def test_a_video_named_as_safetensors_names_its_metadata(tmp_path: Path) -> None:
    film(tmp_path / "in" / "__metadata__.mp4")
    film(tmp_path / "in" / "b.mp4")
    report = prepare_videos(tmp_path / "in", tmp_path / "out", resolution=32)
    assert len(ids(report.output)) + len(report.skipped) == 2


def test_a_name_on_two_lines_is_told_on_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film(tmp_path / "in" / "a.mp4")
    (tmp_path / "in" / "b\x1b[31m\nc.mp4").write_text("no video\n" * 100)
    words = ["--source", tmp_path / "in", "--output", tmp_path / "out", "--workers", 0]
    assert main(["prepare", "videos", *map(str, words)]) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told
    starts = [line.split(":")[0] for line in told.splitlines()]
    assert starts[0] == "videos"
    assert starts[-2:] == ["skipped", "store"]
    assert set(starts[1:-2]) == {"note"}


def test_a_store_of_such_names_is_told_on_one_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a\n\x1b[31mb", "c", "d"):
        film(tmp_path / "in" / name / "x.mp4")
    store = tmp_path / "out\nput"
    prepare_videos(tmp_path / "in", store, resolution=32, levels=("person",))
    status = [main(["data", "verify", str(store)]), main(["data", "show", str(store)])]
    assert status == [1, 0]  # all three show the same
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if "\x1b" in line]
    assert not [line for line in lines if line.startswith(("put", "b/x"))]
    assert [line for line in lines if "a\\n\\x1b[31mb" in line]
    assert main(["data", "show", "no\x1b[31mwhere"]) == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["mkv", "webm"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_half_a_matroska_file_is_not_taken_for_a_whole_one(
    tmp_path: Path, ending: str, share: float
) -> None:
    film(tmp_path / "in" / "a.mp4")
    whole = encode(tmp_path / "in" / f"whole.{ending}", moving(60, 48, 80))
    data = whole.read_bytes()
    whole.with_stem("half").write_bytes(data[: int(share * len(data))])
    report = prepare_videos(tmp_path / "in", tmp_path / "out", resolution=32)
    assert {item["source"] for item in report.used} == {"a.mp4", whole.name}
    [left_out] = report.skipped
    assert left_out["source"] == f"half.{ending}"
    assert f"the file is cut off: it has {int(share * len(data)):,} bytes" in left_out["reason"]


def test_a_matroska_file_that_says_no_length_is_taken(tmp_path: Path) -> None:
    path = film(tmp_path / "in" / "a.mkv")
    data = bytearray(path.read_bytes())
    at = data.index(b"\x18\x53\x80\x67") + 4
    data[at : at + 8] = b"\x01" + b"\xff" * 7  # as it is while it is being recorded
    path.write_bytes(data)
    assert prepare_videos(tmp_path / "in", tmp_path / "out", resolution=32).skipped == []


def test_of_frames_that_cannot_be_read_the_first_is_named(tmp_path: Path) -> None:
    film(tmp_path / "in" / "a.mp4")
    folder = tmp_path / "in" / "frames"
    folder.mkdir()
    for name in ("1.png", "2.png"):
        Image.new("1", (30_000, 30_000)).save(folder / name)
    report = prepare_videos(tmp_path / "in", tmp_path / "out", resolution=32)
    [left_out] = report.skipped
    assert "1.png: more than the 100 megapixels that are read" in left_out["reason"]
    assert str(tmp_path) not in left_out["reason"]


def test_no_two_videos_share_an_id(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.avi", "a.avi.mp4"):
        film(tmp_path / "in" / name)
    for folder in (tmp_path / "in" / "in", tmp_path / "frames", tmp_path / "frames" / "frames"):
        folder.mkdir()
        for i, picture in enumerate(moving(20, 48, 80)):
            Image.fromarray(picture).save(folder / f"{i}.png")
    for name, count in (("in", 4), ("frames", 2)):
        report = prepare_videos(tmp_path / name, tmp_path / f"out {name}", resolution=32)
        assert report.skipped == []
        assert len(ids(report.output)) == count


def test_a_link_with_a_name_too_long(tmp_path: Path) -> None:
    film(tmp_path / "in" / "a.mp4")
    (tmp_path / "in" / "b.mp4").symlink_to("x" * 300)
    found = find_videos(tmp_path / "in")
    assert [video.source for video in found.videos] == ["a.mp4"]
    assert [item.source for item in found.left_out] == ["b.mp4"]


def test_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    film(tmp_path / "in" / "a.mp4")
    film(tmp_path / "in" / ".Trash" / "b.mp4")
    assert [video.source for video in find_videos(tmp_path / "in").videos] == ["a.mp4"]


def test_a_home_of_nobody(tmp_path: Path) -> None:
    with pytest.raises(MtzooError, match="nobody_has_this_name"):
        find_videos("~nobody_has_this_name/videos")


def test_a_zip_of_a_later_version(tmp_path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("a.mp4", b"video")
    later = bytearray(data.getvalue())
    later[later.index(b"PK\1\2") + 6] = 99
    (tmp_path / "a.zip").write_bytes(later)
    with pytest.raises(MtzooError, match="is an archive"):
        find_videos(tmp_path / "a.zip")


def test_many_files_in_one_folder_take_no_time_squared(tmp_path: Path) -> None:
    for kind in ("png", "mp4"):
        (tmp_path / kind).mkdir()
        for i in range(8000):
            (tmp_path / kind / f"{i}.{kind}").touch()
        start = time.process_time()
        find_videos(tmp_path / kind)
        assert time.process_time() - start < 1.5


@pytest.mark.parametrize("workers", [0, 1])
def test_colours_that_libav_cannot_convert(tmp_path: Path, workers: int) -> None:
    film(tmp_path / "in" / "a.mp4")
    plain = film(tmp_path / "plain.mp4")
    target = tmp_path / "in" / "b.mkv"
    with av.open(str(plain)) as source, av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        stream.codec_context.colorspace = 14  # ICtCp
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    report = prepare_videos(tmp_path / "in", tmp_path / "out", resolution=32, workers=workers)
    assert "a" in ids(report.output)
    assert len(report.used) + len(report.skipped) == 2


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_by_time_there_is_something_on_both_sides(tmp_path: Path, share: float) -> None:
    film(tmp_path / "in" / "a.mp4", 40)
    output = prepare_videos(tmp_path / "in", tmp_path / "out", resolution=32, test=share).output
    assert ClipStore(output).entries("train", "time")
    assert ClipStore(output).entries("test", "time")


def test_a_split_without_anything_to_test_on_is_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        film(tmp_path / "in" / "ann" / f"{name}.mp4")
    report = prepare_videos(
        tmp_path / "in", tmp_path / "out", resolution=32, levels=("person",), split="person"
    )
    assert any("person" in note and "test" in note for note in report.notes)


def test_pictures_that_move_are_videos_not_frames(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c"):
        first, *rest = (Image.fromarray(np.asarray(p)) for p in moving(20, 48, 80))
        path = tmp_path / "in" / f"{name}.webp"
        first.save(path, save_all=True, append_images=rest, duration=40)
    report = prepare_videos(tmp_path / "in", tmp_path / "out", resolution=32)
    assert ids(report.output) == ["a", "b", "c"]
