"""Pictures and videos in and out: every form, every fault one line, files whole or absent."""

from __future__ import annotations

import io
import os
import resource
import struct
import tempfile
import threading
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mtzoo import media
from mtzoo.errors import MtzooError
from mtzoo.files import replacing

CODECS = {
    "mp4": ("libx264", "yuv420p"),
    "mov": ("mpeg4", "yuv420p"),
    "avi": ("mpeg4", "yuv420p"),
    "mkv": ("libx264", "yuv420p"),
    "webm": ("libvpx", "yuv420p"),
    "mpg": ("mpeg1video", "yuv420p"),
}


def moving(frames: int = 6, height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth background and a bright bar whose place says which frame it is."""
    rows, columns = np.mgrid[:height, :width]
    clip = np.zeros((frames, height, width, 3), np.uint8)
    clip[..., 0] = 40 + 60 * columns / width
    clip[..., 1] = 40 + 60 * rows / height
    for index in range(frames):
        left = index * width // frames
        clip[index, :, left : left + width // frames] = (250, 220, 60)
    return clip


def encode(
    path: Path,
    clip: np.ndarray,
    *,
    rate: int = 25,
    codec: str | None = None,
    pix_fmt: str | None = None,
    times: list[float] | None = None,
    rotation: int = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode with PyAV directly, so that reading is not tested against our own writing."""
    default_codec, default_format = CODECS[path.suffix[1:]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec or default_codec, rate=rate, options=options or {})
        stream.width, stream.height = clip.shape[2], clip.shape[1]
        stream.pix_fmt = pix_fmt or default_format
        if rotation:
            stream.set_display_rotation(rotation)
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, array in enumerate(clip):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if times is not None:
                frame.pts = round(times[index] * 1000)
                frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def places(frames: torch.Tensor, count: int) -> list[int]:
    """Which frame of `moving` each frame shows, by where its bar stands."""
    bright = frames[..., 0].float().mean(1)
    strips = torch.stack([s.mean(1) for s in bright.tensor_split(count, dim=1)], 1)
    return strips.argmax(1).tolist()


def close(a: torch.Tensor, b: np.ndarray, mean: float) -> None:
    assert a.shape == b.shape
    difference = (a.float() - torch.from_numpy(b).float()).abs().mean().item()
    assert difference < mean, f"mean difference {difference}"


def one_line(error: pytest.ExceptionInfo[MtzooError], path: object) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    return text


# Pictures


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I", "F"])
def test_reads_every_mode(tmp_path: Path, mode: str) -> None:
    grey = np.tile(np.linspace(0, 255, 16).round().astype(np.uint8), (16, 1))
    name = tmp_path / ("a.tif" if mode in ("CMYK", "F", "I") else "a.png")
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(name)
    elif mode == "I":
        Image.fromarray(grey.astype(np.int32) * 257).save(name)
    elif mode == "F":
        Image.fromarray(grey.astype(np.float32) / 255).save(name)
    else:
        Image.fromarray(grey).convert(mode).save(name)
    picture = media.read_image(name)
    assert picture.dtype == torch.uint8
    expected = (grey > 127) * 255 if mode == "1" else grey
    if mode == "1":  # dithered: only the mean is kept
        assert abs(picture.float().mean() - grey.mean()) < 12
    else:
        close(picture, np.repeat(expected[..., None], 3, -1), 1.0)
    assert media.read_image(name, resolution=8).shape == (8, 8, 3)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257, 25700, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert media.read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 1, 100, 255]


def test_pgm_of_sixteen_bits(tmp_path: Path) -> None:
    data = np.array([[0, 32768, 65535]], ">u2").tobytes()
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 65535\n" + data)
    assert media.read_image(tmp_path / "a.pgm")[0, :, 1].tolist() == [0, 128, 255]


def test_transparent_pixels_show_white(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:, 2:] = (10, 20, 30, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = media.read_image(tmp_path / "a.png")
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert picture[0, 3].tolist() == [10, 20, 30]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8))
    palette.putpalette([0, 0, 0, 9, 8, 7])
    palette.save(tmp_path / "p.png", transparency=0)
    assert media.read_image(tmp_path / "p.png")[0].tolist() == [[255] * 3, [9, 8, 7]]


def test_resizing_does_not_draw_dark_rims_from_transparent_pixels(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)  # transparent black
    pixels[:, 32:] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert media.read_image(tmp_path / "a.png", resolution=16).min() > 250


def test_exif_rotation(tmp_path: Path) -> None:
    image = Image.fromarray(moving(1)[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    image.save(tmp_path / "a.png", exif=exif)
    close(media.read_image(tmp_path / "a.png"), np.rot90(moving(1)[0], -1).copy(), 0.01)


def test_crop_and_antialiasing(tmp_path: Path) -> None:
    wide = np.zeros((64, 192, 3), np.uint8)
    wide[:, 64:128] = 200
    Image.fromarray(wide).save(tmp_path / "a.png")
    assert (media.read_image(tmp_path / "a.png", resolution=16) == 200).all()
    assert (
        media.read_image(tmp_path / "a.png", resolution=16, crop="none")[0, 0].tolist() == [0] * 3
    )
    checks = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checks).save(tmp_path / "c.png")
    reduced = media.read_image(tmp_path / "c.png", resolution=32).float()
    assert (reduced - 127.5).abs().max() < 3, "a fine checkerboard becomes grey, not moire"


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.webp", "a.bmp", "a.jpg", "a.ppm"])
def test_one_pixel(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (1, 1), (200, 200, 200)).save(tmp_path / name)
    assert (media.read_image(tmp_path / name, resolution=32).float() - 200).abs().max() <= 2
    assert media.read_image(tmp_path / name).shape == (1, 1, 3)


def test_large_pictures_work_and_larger_ones_are_refused(tmp_path: Path) -> None:
    Image.new("L", (8000, 8000), 90).save(tmp_path / "a.png", compress_level=1)
    Image.new("RGB", (8000, 8000), (90, 90, 90)).save(tmp_path / "a.jpg")
    for name in ("a.png", "a.jpg"):
        assert (media.read_image(tmp_path / name, resolution=64) == 90).all()
    for name, side in (("bomb.png", 60000), ("over.png", 11000)):
        header = struct.pack(">4s2I5B", b"IHDR", side, side, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
        data = struct.pack(">I4s", 1 << 20, b"IDAT") + bytes(1 << 20)
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + data)
    for name in ("bomb.png", "over.png"):
        for read in (media.read_image, media.read_video):
            with pytest.raises(MtzooError) as error:
                read(tmp_path / name)
            assert "megapixels" in one_line(error, name)


def hostile(folder: Path) -> dict[str, Path]:
    """Files that are not what they say."""
    picture = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(picture, "PNG")
    jpeg = io.BytesIO()
    Image.fromarray(noise).save(jpeg, "JPEG")
    flipped = bytearray(picture.getvalue())
    flipped[2000:2100] = bytes(100)
    files = {
        "empty.png": b"",
        "text.png": b"this is no picture\n" * 30,
        "text.mp4": b"this is no video\n" * 300,
        "truncated.png": picture.getvalue()[:3000],
        "header.png": picture.getvalue()[:20],
        "truncated.jpg": jpeg.getvalue()[:1500],
        "corrupt.png": bytes(flipped),
        "zeros.mp4": bytes(5000),
        "random.mp4": np.random.default_rng(1).bytes(20000),
        "playlist.mp4": b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nfile:///etc/hosts\n",
        "concat.mp4": b"ffconcat version 1.0\nfile whole.mp4\n",
        "vector.png": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    found = {name: folder / name for name in files}
    found["missing.png"] = folder / "missing.png"
    found["folder"] = folder / "empty folder"
    found["folder"].mkdir()
    return found


@pytest.mark.parametrize("read", [media.read_image, media.read_video])
def test_faults_are_one_line_with_the_path(tmp_path: Path, read, capfd, caplog) -> None:
    caplog.set_level(0)
    files = hostile(tmp_path)
    assert len(files) == 14
    for path in files.values():
        with pytest.raises(MtzooError) as error:
            read(path)
        one_line(error, path)
    out = capfd.readouterr()
    assert not out.err, "codecs keep quiet"
    assert not [r for r in caplog.records if r.name.startswith("libav")]


def test_a_misspelt_name_is_suggested(tmp_path: Path) -> None:
    media.write_image(tmp_path / "portrait.png", torch.zeros(4, 4, 3, dtype=torch.uint8))
    with pytest.raises(MtzooError, match=r"Did you mean 'portrait\.png'"):
        media.read_image(tmp_path / "potrait.png")


def test_what_is_no_plain_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for read in (media.read_image, media.read_video):
        with pytest.raises(MtzooError, match="plain file"):
            read(tmp_path / "pipe.mp4")


def test_a_video_given_as_a_picture_and_the_other_way_round(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", moving())
    Image.fromarray(moving(1)[0]).save(tmp_path / "a.png")
    with pytest.raises(MtzooError, match="is a video, not a picture"):
        media.read_image(tmp_path / "a.mp4")
    with pytest.raises(MtzooError, match="still picture, not a video"):
        media.read_video(tmp_path / "a.png")


@given(st.binary(max_size=400), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF"]))
def test_any_bytes_are_refused_in_one_line(content: bytes, start: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(start + content)
        file.flush()
        for read in (media.read_image, media.read_video):
            with pytest.raises(MtzooError) as error:
                read(file.name)
            one_line(error, file.name)


# Videos


@pytest.mark.parametrize("ending", sorted(CODECS))
def test_reads_every_container(tmp_path: Path, ending: str) -> None:
    clip = moving()
    path = encode(tmp_path / f"a.{ending}", clip, options={"b": "4000000"})
    read = media.read_video(path)
    close(read.frames, clip, 4.0)
    assert read.fps == pytest.approx(25, rel=0.01)
    assert read.skipped == 0
    assert places(read.frames, 6) == [0, 1, 2, 3, 4, 5]
    assert torch.equal(torch.stack(list(media.iter_video(path))), read.frames)
    small = media.read_video(path, resolution=32, frames=4)
    assert small.frames.shape == (4, 32, 32, 3)


def test_ten_bits_and_odd_sizes(tmp_path: Path) -> None:
    clip = moving(6, 47, 63)
    ten = encode(tmp_path / "a.mkv", clip, pix_fmt="yuv444p10le")
    close(media.read_video(ten).frames, clip, 2.0)
    odd = encode(tmp_path / "b.mkv", clip, codec="ffv1", pix_fmt="yuv420p")
    close(media.read_video(odd).frames, clip, 4.0)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_flags(tmp_path: Path, degrees: int) -> None:
    clip = moving()
    path = encode(tmp_path / "a.mp4", clip, rotation=degrees)
    turned = np.rot90(clip, degrees // 90, axes=(1, 2)).copy()
    close(media.read_video(path).frames, turned, 4.0)


def test_variable_rate_is_resampled_by_time_stamps(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.2, 0.5, 0.9, 1.0]
    path = encode(tmp_path / "a.mkv", moving(), times=times)
    clip = media.read_video(path, fps=10)
    assert clip.fps == 10
    # At 0.0, 0.1, ... the frame that is on show; the last one stays for one nominal frame.
    assert places(clip.frames, 6)[:11] == [0, 1, 2, 2, 2, 3, 3, 3, 3, 4, 5]
    assert places(media.read_video(path, fps=10, frames=5).frames, 6) == [0, 1, 2, 2, 2]
    assert len(media.read_video(path).frames) == 6


def test_resampling_down_and_up(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", moving(12, 32, 96), rate=24)
    assert places(media.read_video(path, fps=12).frames, 12) == [0, 2, 4, 6, 8, 10]
    assert places(media.read_video(path, fps=48, frames=6).frames, 12) == [0, 0, 1, 1, 2, 2]
    # 12 frames last half a second: three are drawn at 0, 0.2 and 0.4 s, the last for no 0.2 s.
    for fps, count, seconds in ((5, None, 0.5), (12, 3, 0.25), (None, 6, 0.25)):
        read = media.read_video(path, fps=fps, frames=count)
        assert read.seconds == pytest.approx(seconds, abs=1e-3)
    ntsc = media.read_video(path, fps=24000 / 1001)
    assert len(ntsc.frames) == 12


def test_a_long_video_is_read_no_further_than_asked(tmp_path: Path, monkeypatch) -> None:
    path = encode(tmp_path / "a.mp4", moving(60, 32, 60))
    decoded = 0
    original = media._fit

    def counting(*arguments):
        nonlocal decoded
        decoded += 1
        return original(*arguments)

    monkeypatch.setattr(media, "_fit", counting)
    assert len(media.read_video(path, resolution=32, frames=5).frames) == 5
    assert decoded == 5
    monkeypatch.setattr(media, "MAX_CLIP_BYTES", 20 * 32 * 60 * 3)
    with pytest.raises(MtzooError, match="read fewer frames"):
        media.read_video(path)


def test_streaming_keeps_one_frame_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    still = moving(1, 720, 1280)[0]
    encode(path, np.broadcast_to(still, (120, 720, 1280, 3)), options={"preset": "ultrafast"})
    assert sum(1 for _ in media.iter_video(path)) == 120  # warm
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in media.iter_video(path)) == 120
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000, f"grew by {grown} KiB; all frames are 324,000"


def test_truncated_videos_give_what_is_whole(tmp_path: Path) -> None:
    clip = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3)).astype(np.uint8)
    for ending in ("avi", "mkv", "mpg"):
        whole = encode(tmp_path / f"a.{ending}", clip).read_bytes()
        cut = tmp_path / f"cut.{ending}"
        cut.write_bytes(whole[: len(whole) // 2])
        read = media.read_video(cut)
        assert 1 <= len(read.frames) < 30
    whole = encode(tmp_path / "a.mp4", clip).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # its index is at the end
    with pytest.raises(MtzooError) as error:
        media.read_video(tmp_path / "cut.mp4")
    one_line(error, tmp_path / "cut.mp4")


def test_broken_last_frames_are_skipped_and_counted(tmp_path: Path) -> None:
    clip = moving(10, 64, 80)
    path = encode(tmp_path / "a.avi", clip, codec="mjpeg", pix_fmt="yuvj420p")
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    content = bytearray(path.read_bytes())
    for position, size in packets[-2:]:
        start = content.find(b"\xff\xd8", position)
        content[start : start + size - 16] = bytes(size - 16)
    path.write_bytes(content)
    read = media.read_video(path)
    assert len(read.frames) == 8
    assert read.skipped == 2
    close(read.frames, clip[:8], 6.0)


def test_animations(tmp_path: Path) -> None:
    clip = moving()
    images = [Image.fromarray(f) for f in clip]
    for name, options in (
        ("a.webp", {"lossless": True}),
        ("a.png", {}),
        ("a.tif", {}),
    ):
        images[0].save(
            tmp_path / name, save_all=True, append_images=images[1:], duration=50, **options
        )
        read = media.read_video(tmp_path / name)
        assert np.array_equal(read.frames.numpy(), clip)
        assert read.fps == pytest.approx(25 if name == "a.tif" else 20)
    varying = [100, 100, 300, 100, 100, 100]
    images[0].save(tmp_path / "v.gif", save_all=True, append_images=images[1:], duration=varying)
    resampled = media.read_video(tmp_path / "v.gif", fps=10)
    assert places(resampled.frames, 6) == [0, 1, 2, 2, 2, 3, 4, 5]
    whole = (tmp_path / "v.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(whole[: len(whole) * 2 // 3])
    cut = media.read_video(tmp_path / "cut.gif")
    assert 1 <= len(cut.frames) < 6
    assert places(cut.frames, 6) == list(range(len(cut.frames)))


def test_a_folder_of_frames(tmp_path: Path) -> None:
    clip = moving(12, 32, 96)
    for index, frame in enumerate(clip):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")  # 10.png after 9.png
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".hidden.png").write_bytes(b"")
    read = media.read_video(tmp_path)
    assert np.array_equal(read.frames.numpy(), clip)
    assert (read.fps, read.skipped) == (25.0, 0)
    rated = media.read_video(tmp_path, fps=10, frames=3)
    assert (rated.fps, rated.seconds) == (10, 0.3)
    (tmp_path / "5.png").write_bytes(b"broken")
    read = media.read_video(tmp_path)
    assert (len(read.frames), read.skipped) == (11, 1)
    Image.fromarray(clip[0, :16, :16]).save(tmp_path / "7.png")
    with pytest.raises(MtzooError, match="16x16 where the first is 96x32"):
        media.read_video(tmp_path)
    assert media.read_video(tmp_path, resolution=16).frames.shape == (11, 16, 16, 3)


@pytest.mark.parametrize(
    ("option", "value"), [("frames", 0), ("fps", 0.0), ("fps", float("nan")), ("resolution", 0)]
)
def test_impossible_requests(tmp_path: Path, option: str, value: float) -> None:
    path = encode(tmp_path / "a.mp4", moving())
    with pytest.raises(MtzooError, match=option):
        media.read_video(path, **{option: value})


@pytest.mark.footage
def test_real_footage(footage: Path) -> None:
    walk = sorted((footage / "weizmann" / "video" / "walk").glob("*.avi"))[0]
    faces = sorted((footage / "grid_faces").glob("*.mpg"))
    robots = sorted((footage / "bair_frames").iterdir())
    assert media.read_video(walk, frames=3).frames.shape == (3, 144, 180, 3)
    read = media.read_video(faces[0], resolution=64)
    assert (read.frames.shape, read.fps, read.skipped) == ((75, 64, 64, 3), 25.0, 0)
    assert media.read_video(robots[0]).frames.shape == (30, 64, 64, 3)
    strip = media.read_image(sorted((footage / "strips").glob("*.jpg"))[0])
    assert strip.shape[0] == 64
    assert strip.float().std() > 10


# Writing


def test_mp4_round_trip(tmp_path: Path) -> None:
    clip = torch.from_numpy(moving(6, 64, 64))
    media.write(tmp_path / "a.mp4", clip, fps=12.5, scale=4)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.pix_fmt) == (256, 256, "yuv420p")
        assert stream.codec_context.name == "h264"
    read = media.read_video(tmp_path / "a.mp4", resolution=64)
    close(read.frames, clip.numpy(), 4.0)
    assert read.fps == 12.5


def test_an_mp4_that_cannot_be_written_is_named() -> None:
    # /proc lets nobody make files, whatever its permissions say.
    with pytest.raises(MtzooError, match=r"^cannot write /proc/a.mp4: the video cannot be encoded"):
        media.write("/proc/a.mp4", torch.zeros(2, 64, 64, 3, dtype=torch.uint8), fps=5)


@pytest.mark.parametrize("shape", [(1, 33, 47), (3, 1, 1), (2, 64, 65)])
def test_mp4_of_odd_sizes_and_one_channel(tmp_path: Path, shape: tuple[int, ...]) -> None:
    grey = torch.full((*shape, 1), 120, dtype=torch.uint8)
    media.write(tmp_path / "a.mp4", grey, fps=29.97)
    read = media.read_video(tmp_path / "a.mp4")
    assert all(side % 2 == 0 for side in read.frames.shape[1:3])
    assert (read.frames.float() - 120).abs().max() <= 3
    assert read.fps == pytest.approx(29.97, rel=1e-4)


@pytest.mark.parametrize("fps", [5.0, 8.0, 12.5, 24.0, 30.0, 50.0])
def test_gif_keeps_its_duration(tmp_path: Path, fps: float) -> None:
    clip = torch.from_numpy(moving(24, 32, 48))
    media.write(tmp_path / "a.gif", clip, fps=fps)
    with Image.open(tmp_path / "a.gif") as image:
        total = 0
        for index in range(image.n_frames):
            image.seek(index)
            total += image.info["duration"]
        assert image.info["loop"] == 0
    assert total / 1000 == pytest.approx(24 / fps, abs=0.0051)
    assert media.read_video(tmp_path / "a.gif").fps == pytest.approx(fps, rel=0.02)


def test_gif_is_exact_up_to_256_colours(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    near = torch.cartesian_prod(torch.arange(16), torch.arange(16), torch.tensor([99]))
    table = (near + 100).to(torch.uint8)  # neighbours that a coarser search would join
    clip = table[torch.randint(256, (5, 40, 50), generator=generator)]
    media.write(tmp_path / "a.gif", clip)
    assert torch.equal(media.read_video(tmp_path / "a.gif").frames, clip)


def test_gif_does_not_flicker_where_nothing_moves(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:64, :64]
    still = np.stack([rows * 4, columns * 4, (rows + columns) * 2], -1).astype(np.uint8)
    clip = np.repeat(still[None], 6, 0)
    for index in range(6):
        clip[index, 50:60, index * 10 : index * 10 + 10] = (255, index * 40, 0)
    media.write(tmp_path / "a.gif", torch.from_numpy(clip))
    read = media.read_video(tmp_path / "a.gif").frames
    assert torch.equal(read[0, :50], read[5, :50])
    close(read, clip, 8.0)


def test_letters_that_the_font_lacks_are_written_as_escapes() -> None:
    clip = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)

    def sheet(label: str) -> list[list[list[int]]]:
        return media.sheet([clip], labels=[label]).tolist()

    assert sheet("\u52d5\u753b") == sheet(r"\u52d5\u753b")
    assert sheet("\u52d5") != sheet("\u753b")
    assert sheet("two words") != sheet(r"two\x20words")


def test_png_sheet_and_labels(tmp_path: Path) -> None:
    clip = torch.from_numpy(moving(4, 16, 16))
    media.write(tmp_path / "a.png", clip)
    sheet = media.read_image(tmp_path / "a.png")
    assert sheet.shape == (16 + 4, 4 * 18 + 2, 3)
    for index in range(4):
        assert torch.equal(sheet[2:18, 2 + 18 * index : 18 + 18 * index], clip[index])
    labelled = media.sheet([clip, clip[:2, :8]], labels=["source", "made"], scale=2)
    plain = media.sheet([clip, clip[:2, :8]], scale=2)
    margin = labelled.shape[1] - plain.shape[1]
    assert margin > 20
    assert torch.equal(labelled[:, margin:], plain)
    text = labelled[:, :margin]
    assert (text[:34] < 128).any(), "the first label is drawn"
    assert (text[36:] < 128).any(), "the second label is drawn"
    assert (plain[36:, 2 * 34 + 4 :] == 255).all(), "a shorter row ends in white"
    grey = media.sheet([clip[..., :1]])
    assert grey.shape[2] == 3


def test_rows_and_grids() -> None:
    clips = torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1, 1).expand(5, 2, 4, 4, 3)
    tiled = media.grid(clips, pad=2)
    assert tiled.shape == (2, 10, 16, 3)
    assert tiled[0, 0, ::6, 0].tolist() == [0, 1, 2]
    assert tiled[0, 6, ::6, 0].tolist() == [3, 4, 255]
    side = media.row([clips[0], clips[1]], pad=2)
    assert side[0, 0, :, 0].tolist() == [0] * 4 + [255] * 2 + [1] * 4


def test_ways_to_enlarge_that_there_are_not_are_refused() -> None:
    frames = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    with pytest.raises(
        MtzooError, match=r"enlarge: resample is 'cubic'; .* Did you mean 'bicubic'"
    ):
        media.enlarge(frames, 2, "cubic")  # type: ignore[arg-type]
    with pytest.raises(MtzooError, match="scale must be at least 1, not 0"):
        media.enlarge(frames, 0)


def test_bicubic_enlarging_is_smooth(tmp_path: Path) -> None:
    clip = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    clip[:, :, 2:] = 200
    media.write(tmp_path / "n.gif", clip, scale=4)
    media.write(tmp_path / "b.gif", clip, scale=4, resample="bicubic")
    assert len(media.read_image(tmp_path / "n.gif").unique()) == 2
    assert len(media.read_image(tmp_path / "b.gif").unique()) > 4


@pytest.mark.parametrize("ending", ["mp4", "gif", "png"])
def test_the_same_frames_give_the_same_file(tmp_path: Path, ending: str) -> None:
    clip = torch.from_numpy(moving())
    media.write(tmp_path / f"a.{ending}", clip)
    media.write(tmp_path / f"b.{ending}", clip)
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_unknown_ending_lists_the_known(tmp_path: Path) -> None:
    clip = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    for name in ("a.mov", "a", "a.jpg"):
        with pytest.raises(MtzooError, match=r"\.mp4, \.gif, \.png"):
            media.write(tmp_path / name, clip)
    with pytest.raises(MtzooError, match=r"\.png"):
        media.write_image(tmp_path / "a.jpg", clip[0])


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    clip = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    (tmp_path / "dir.gif").mkdir()
    (tmp_path / "file").write_text("")
    for path in (
        tmp_path / "missing" / "a.gif",
        tmp_path / "dir.gif",
        tmp_path / "file" / "a.gif",
        tmp_path / ("x" * 300 + ".gif"),
    ):
        with pytest.raises(MtzooError) as error:
            media.write(path, clip)
        one_line(error, path.name)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if not os.access(closed, os.W_OK):  # root may write anywhere
        with pytest.raises(MtzooError, match="no permission"):
            media.write(closed / "a.gif", clip)


@pytest.mark.parametrize(
    "frames",
    [
        torch.zeros(2, 8, 8, 3),
        torch.zeros(8, 8, 3, dtype=torch.uint8),
        torch.zeros(2, 8, 8, 4, dtype=torch.uint8),
        torch.zeros(0, 8, 8, 3, dtype=torch.uint8),
    ],
)
def test_frames_of_another_form(tmp_path: Path, frames: torch.Tensor) -> None:
    with pytest.raises(MtzooError, match="frames"):
        media.write(tmp_path / "a.mp4", frames)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["mp4", "gif", "png"])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_text("old")

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(MtzooError, match="No space left"):
        media.write(path, torch.from_numpy(moving()))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    media.write(path, torch.from_numpy(moving()))
    assert path.stat().st_size > 200
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_is_safe_from_several_threads(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"

    def put(text: str) -> None:
        for _ in range(20):
            with replacing(path) as temporary:
                temporary.write_text(text * 1000)

    threads = [threading.Thread(target=put, args=(t,)) for t in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(path.read_text())) == 1
    assert list(tmp_path.iterdir()) == [path]
