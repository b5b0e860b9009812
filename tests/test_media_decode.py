"""Decoding for preparation: frames cut from the decoder's own pixels, strips, and how many."""

import itertools
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_media import encode, moving

from mtzoo import media
from mtzoo.errors import MtzooError
from mtzoo.media import Box, Frame


def smooth(height: int, width: int) -> np.ndarray:
    """A picture without sharp edges, whose places are told by its colours."""
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack(
        [
            60 + 130 * columns / width,
            60 + 130 * rows / height,
            120 + 60 * np.sin(9 * columns / width) * np.cos(7 * rows / height),
        ],
        axis=2,
    )
    return picture.round().astype(np.uint8)


def native(picture: np.ndarray, pixels: str = "yuv444p", turns: int = 0) -> Frame:
    """A frame as a video decoder gives it."""
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
    return Frame(frame, turns)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2))))


def by_pillow(picture: np.ndarray, box: Box, side: int) -> np.ndarray:
    corners = (box.left, box.top, box.left + box.width, box.top + box.height)
    part = Image.fromarray(picture).crop(tuple(round(c) for c in corners))
    return np.asarray(part.resize((side, side), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuv420p10le", "rgb24", "gray"])
def test_the_fast_cut_agrees_with_pillow(pixels: str, turns: int) -> None:
    stored = smooth(120, 200)
    if pixels == "gray":
        stored = stored[..., 1:2].repeat(3, 2)
    frame = native(stored, pixels, turns)
    shown = np.rot90(stored, turns)
    assert (frame.height, frame.width) == shown.shape[:2]
    for box in (Box(0, 0, frame.width, frame.height), Box(10, 6, 90, 90), Box(20, 30, 64, 64)):
        assert psnr(frame.cut(box, 32), by_pillow(shown, box, 32)) > 38
    assert np.array_equal(frame.cut(None, 32), frame.cut(Box(0, 0, frame.width, frame.height), 32))
    assert psnr(np.asarray(frame.image()), shown) > 38


def test_the_fast_cut_is_antialiased_and_not_shifted() -> None:
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(native(stripes).cut(None, 32)[2:-2, 2:-2]) < 16
    edge = np.zeros((128, 128, 3), np.uint8)
    edge[:, 64:] = 255
    cut = native(edge).cut(None, 32)[..., 1].astype(int)
    assert cut[:, :15].max() < 24
    assert cut[:, 17:].min() > 230
    assert abs(int(cut[16, 15]) + int(cut[16, 16]) - 255) < 12  # as far from one side as the other


@given(
    left=st.floats(-40, 100),
    top=st.floats(-40, 60),
    side=st.floats(20, 120),
    turns=st.integers(0, 3),
)
def test_any_box_is_cut_to_its_place(left: float, top: float, side: float, turns: int) -> None:
    stored = smooth(90, 130)
    frame = native(stored, turns=turns)
    shown = np.rot90(stored, turns).astype(float)
    cut = frame.cut(Box(left, top, side, side), 16).astype(float)
    centres = (np.arange(16) + 0.5) * side / 16 - 0.5
    rows = np.clip(top + centres, 0, frame.height - 1).round().astype(int)
    columns = np.clip(left + centres, 0, frame.width - 1).round().astype(int)
    assert np.abs(cut - shown[rows][:, columns])[2:-2, 2:-2].max() < 16


@pytest.mark.parametrize("turns", [0, 1])
def test_a_box_that_moves_is_cut_as_if_it_had_always_been_there(turns: int) -> None:
    """One chain of filters for all its places gives what one made for each gives."""
    frame = native(smooth(120, 200), "yuv420p", turns)
    boxes = [Box(x, y, side, side) for side in (40, 41.5) for x, y in ((0, 0), (6, 4), (7, 4))]
    boxes.append(Box(6.3, 4.7, 41.5, 41.5))
    for box in (*boxes, *boxes[::-1]):
        alone = Frame(frame._pixels, turns)  # type: ignore[arg-type]
        assert np.array_equal(frame.cut(box, 32), alone.cut(box, 32))
    assert len(frame._scaler._graphs) == 2
    # What lies around is not looked at: in all its surroundings this makes no difference.
    whole = Image.fromarray(np.ascontiguousarray(np.rot90(smooth(120, 200), turns)))
    for box in (Box(30.3, 20.6, 41.5, 41.5), Box(-3.5, 70.2, 60.4, 60.4)):
        assert np.abs(frame.cut(box, 32).astype(int) - Frame(whole).cut(box, 32)).max() <= 4


def test_pictures_are_cut_like_videos() -> None:
    picture = smooth(90, 130)
    frame = Frame(Image.fromarray(picture))
    for box in (Box(5, 7, 60, 60), None):
        assert psnr(frame.cut(box, 32), native(picture).cut(box, 32)) > 38
    clear = Image.fromarray(picture).convert("RGBA")
    clear.putalpha(0)
    assert (Frame(clear).cut(Box(5, 7, 60, 60), 32) == 255).all()


def test_grey() -> None:
    picture = smooth(90, 180)
    for turns in (0, 1):
        for frame in (
            native(picture, "yuv420p", turns),
            Frame(Image.fromarray(np.rot90(picture, turns))),
        ):
            grey = frame.grey(60)
            assert grey.shape == ((30, 60), (60, 30))[turns]
            assert grey.dtype == np.uint8
            small = Image.fromarray(np.ascontiguousarray(np.rot90(picture, turns))).convert("L")
            expected = np.asarray(small.resize(grey.shape[::-1], Image.Resampling.BOX)).astype(int)
            assert np.abs(grey - expected).mean() < 4
            assert frame.grey(1000).shape == (frame.height, frame.width)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "pixels", ["yuv420p", "yuv444p10le", "yuyv422", "rgb24", "gray", "picture"]
)
def test_a_square_of_a_reduced_frame_is_that_of_the_frame(pixels: str, turns: int) -> None:
    stored = smooth(360, 600)
    if pixels == "gray":
        stored = stored[..., 1:2].repeat(3, 2)
    shown = np.ascontiguousarray(np.rot90(stored, turns))
    frame = Frame(Image.fromarray(shown)) if pixels == "picture" else native(stored, pixels, turns)
    small = frame.reduced(3)
    assert (small.height, small.width) == (frame.height // 3, frame.width // 3)
    assert small.nbytes < frame.nbytes / 7
    left, top = (30, 72) if turns % 2 else (72, 30)
    expected = frame.cut(Box(3 * left, 3 * top, 240, 240), 32).astype(int)
    cut = small.cut(Box(left, top, 80, 80), 32).astype(int)
    assert np.abs(cut - expected).max() <= 3
    assert frame.reduced(1) is frame


@pytest.mark.parametrize("tags", [(1, 1), (5, 2), (9, 1)])  # BT.709, BT.470 full range, BT.2020
def test_reducing_keeps_what_is_said_of_colours(tags: tuple[int, int]) -> None:
    """And converts nothing: saturated colours would be clipped on the way."""
    picture = np.zeros((240, 320, 3), np.uint8)
    picture[:, :160, 0] = picture[:120, :, 2] = 255
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv444p")
    frame.colorspace, frame.color_range = tags
    expected = Frame(frame).cut(Box(0, 0, 240, 240), 40).astype(int)
    cut = Frame(frame).reduced(2).cut(Box(0, 0, 120, 120), 40).astype(int)
    inside = np.ones(40, bool)
    inside[[*range(18, 22), *range(25, 29)]] = False  # away from edges
    assert np.abs(cut - expected)[inside][:, inside].max() <= 1


def test_a_crop_as_large_as_memory_is_refused() -> None:
    with pytest.raises(MtzooError, match="megapixels"):
        native(smooth(64, 64)).cut(Box(-20_000, 0.5, 40_000, 40_000), 64)


def test_frames_outlive_the_next(tmp_path: Path) -> None:
    clip = moving(20, 48, 80)
    for path in (encode(tmp_path / "a.mkv", clip), encode(tmp_path / "b.avi", clip)):
        with media.decode(path) as decoded:
            frames = list(decoded)
        late = [frame.cut(None, 32) for frame in frames]
        with media.decode(path) as decoded:
            early = [frame.cut(None, 32) for frame in decoded]
        assert np.array_equal(late, early)
        assert len({cut.tobytes() for cut in late}) == 20
        assert all(frame.nbytes >= 48 * 80 * 3 // 2 for frame in frames)


@pytest.mark.parametrize("fps", [None, 10.0, 50.0])
@pytest.mark.parametrize("stride", [1, 3])
def test_decode_gives_the_frames_of_read_video(
    tmp_path: Path, fps: float | None, stride: int
) -> None:
    path = encode(tmp_path / "a.mkv", moving(20, 48, 80))
    clip = media.read_video(path, fps=fps)
    with media.decode(path, fps=fps, stride=stride) as decoded:
        frames = [np.asarray(frame.image()) for frame in decoded]
    assert np.array_equal(frames, clip.frames.numpy()[::stride])
    assert decoded.fps == pytest.approx(clip.fps / stride)
    assert (decoded.read, decoded.broken) == (20, 0)


def test_frames_passed_over_are_not_converted(tmp_path: Path, monkeypatch) -> None:
    path = encode(tmp_path / "a.mkv", moving(20, 48, 80))
    converted = []
    image = Frame.image
    monkeypatch.setattr(Frame, "image", lambda self: converted.append(self) or image(self))
    media.read_video(path, fps=5.0, resolution=32)
    assert len(converted) == 4


def test_one_frame_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(30):
        Image.fromarray(smooth(400, 400)).save(folder / f"{i}.png")
    tracemalloc.start()
    try:
        with media.decode(folder) as decoded:
            for frame in itertools.islice(decoded, 30):
                frame.cut(None, 32)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * 400 * 400 * 3


@pytest.mark.parametrize(("option", "value"), [("fps", 0.0), ("fps", float("nan")), ("stride", 0)])
def test_options_out_of_range(tmp_path: Path, option: str, value: float) -> None:
    path = encode(tmp_path / "a.mkv", moving())
    with pytest.raises(MtzooError, match=option):
        media.decode(path, **{option: value})  # type: ignore[arg-type]


# Strips


def test_strips_both_ways(tmp_path: Path) -> None:
    frames = [smooth(32, 32) + np.uint8(i) for i in range(7)]
    Image.fromarray(np.concatenate(frames, 1)).save(tmp_path / "row.jpg", "PNG")
    Image.fromarray(np.concatenate(frames, 0)).save(tmp_path / "column.gif", "PNG")
    for name in ("row.jpg", "column.gif"):
        with media.decode_strip(tmp_path / name) as decoded:
            assert np.array_equal([frame.image() for frame in decoded], frames)
    with media.decode_strip(tmp_path / "row.jpg", stride=3) as decoded:
        assert np.array_equal([frame.image() for frame in decoded], frames[::3])


def test_what_is_no_strip(tmp_path: Path) -> None:
    Image.new("RGB", (100, 32)).save(tmp_path / "odd.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    Image.new("1", (200_000, 1000)).save(tmp_path / "huge.png")
    encode(tmp_path / "film.mp4", moving())
    Image.fromarray(smooth(32, 96)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:200])
    for name, part in {
        "odd.png": "100x32 pixels, which is no row of square frames",
        "one.png": "32x32 pixels, which is no row of square frames",
        "huge.png": "megapixels",
        "film.mp4": "a video, not a picture",
        "cut.png": "damaged",
        "none.png": "no such file",
    }.items():
        with pytest.raises(MtzooError, match=part) as caught:
            list(media.decode_strip(tmp_path / name))
        assert "\n" not in str(caught.value)


# Genuine footage


@pytest.mark.footage
def test_genuine_cuts_agree_with_pillow(footage: Path) -> None:
    for path in ("grid_faces/bbaf2n.mpg", "weizmann/video/walk/eli_walk.avi"):
        with media.decode(footage / path) as decoded:
            frame = next(itertools.islice(decoded, 10, None))
            side = frame.height
            box = Box((frame.width - side) // 2, 0, side, side)
            assert psnr(frame.cut(box, 64), by_pillow(np.asarray(frame.image()), box, 64)) > 40
