"""``mtzoo transfer`` and ``mtzoo sample`` through the real command line, hostile files and all."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtzoo import cli, media
from mtzoo.recipe import build_model
from mtzoo.weights import load_model, save_model

SECTION = {
    "name": "dual_mtgan",
    "content_encoder": {"name": "dcgan", "width": 8, "content_dim": 8},
    "motion_encoder": {"name": "c3d", "width": 4, "motion_dim": 4},
    "motion_generator": {"name": "lstm", "frame_motion_dim": 4},
    "image_generator": {"name": "dcgan", "width": 8},
    "image_discriminator": None,
    "video_discriminator": None,
}
FRAMES = 8


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a picture and a video."""
    folder = tmp_path_factory.mktemp("files")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(SECTION, resolution=32, channels=3)
        clip = torch.randint(256, (12, 40, 60, 3), dtype=torch.uint8)
    with torch.no_grad():
        # Fresh networks paint grey; so that a mistake shows, theirs must be strong pictures.
        for parameter in model.generators().parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    config = {"model": SECTION, "resolution": 32, "channels": 3, "frames": FRAMES}
    (folder / "run").mkdir()
    save_model(folder / "run" / "model", model, config)
    media.write(folder / "video.mp4", clip, fps=20)
    media.write_image(folder / "picture.png", clip[0])
    return folder


@pytest.fixture
def mtzoo(
    files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command; ``transfer`` and ``sample`` get a model, a picture and a video by default."""

    def run(verb: str, **options: object) -> tuple[int, str, str]:
        defaults: dict[str, object] = {
            "model": files / "run",
            "image": files / "picture.png",
            "output": tmp_path / "out.png",
            "device": "cpu",
        }
        if verb == "transfer":
            defaults["video"] = files / "video.mp4"
        argv = [verb]
        for option, value in {**defaults, **options}.items():
            argv.append(f"--{option.replace('_', '-')}")
            if value is not True:
                argv.append(str(value))
        try:
            code = cli.main(argv)
        except SystemExit as stopped:
            code = stopped.code
        out, err = capfd.readouterr()
        return int(code or 0), out, err

    return run


def refused(result: tuple[int, str, str], folder: Path) -> str:
    """Check that a command ended in one line and left nothing; return the line."""
    code, out, err = result
    assert code == 2
    assert not out
    assert err.startswith("mtzoo: error: ")
    assert err.count("\n") == 1
    assert not [p for p in folder.iterdir() if p.name.startswith((".out", "out"))]
    return err


@pytest.mark.parametrize("ending", ["mp4", "gif", "png"])
def test_transfer_writes_what_the_ending_says(mtzoo, tmp_path: Path, ending: str) -> None:
    output = tmp_path / f"out.{ending}"
    code, out, err = mtzoo("transfer", output=output)
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    for said in (str(output), f"{FRAMES} frames", "32x32", "0.40 s", "20 frames a second"):
        assert said in out
    if ending == "png":
        assert media.read_image(output).shape == (36, FRAMES * 34 + 2, 3)
    else:
        clip = media.read_video(output)
        assert clip.frames.shape == (FRAMES, 256, 256, 3)
        assert clip.fps == pytest.approx(20)


def test_transfer_is_what_the_model_makes(mtzoo, files: Path, tmp_path: Path) -> None:
    mtzoo("transfer", frames=6)
    written = media.read_image(tmp_path / "out.png")
    model = load_model(files / "run")
    image = media.read_image(files / "picture.png", resolution=32)
    video = media.read_video(files / "video.mp4", resolution=32, frames=6).frames
    scale = [t.float().permute(0, 3, 1, 2) / 127.5 - 1 for t in (image[None], video)]
    with torch.inference_mode():
        made = model.transfer(scale[0], scale[1][None])[0]
    expected = ((made + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    assert len(expected) == 6
    assert expected.float().std() > 30
    assert (expected[0].float() - expected[5].float()).abs().mean() > 2
    for index, frame in enumerate(expected):
        left = 2 + 34 * index
        shown = written[2:34, left : left + 32]
        assert (shown.int() - frame.int()).abs().max() <= 1


def test_transfer_options(mtzoo, tmp_path: Path) -> None:
    mtzoo("transfer", frames=12, fps=40, output=tmp_path / "out.gif", scale=2)
    clip = media.read_video(tmp_path / "out.gif")
    assert clip.frames.shape == (12, 64, 64, 3)
    assert clip.fps == pytest.approx(40, rel=0.01)
    # Of a video of 0.6 s: the fifth frame, at 0.57 s, would last beyond its end.
    _, out, _ = mtzoo("transfer", frames=5, fps=7)
    assert "5 frames at 32x32, from the first 0.60 s of " in out
    mtzoo("transfer", side_by_side=True)
    assert media.read_image(tmp_path / "out.png").shape[0] == 3 * 34 + 2
    mtzoo("transfer", side_by_side=True, output=tmp_path / "out.mp4", scale=1)
    wide = media.read_video(tmp_path / "out.mp4")
    assert wide.frames.shape == (FRAMES, 32, 3 * 32 + 4, 3)


def test_transfer_of_a_folder_of_frames(mtzoo, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for index in range(9):
        Image.new("L", (50, 30), index * 20).save(tmp_path / "frames" / f"{index}.png")
    (tmp_path / "frames" / "3.png").write_bytes(b"broken")
    code, out, _ = mtzoo("transfer", video=tmp_path / "frames")
    assert code == 0
    assert "8 frames" in out
    assert "1 broken frame" in out


@pytest.mark.parametrize("ending", ["mp4", "gif", "png"])
def test_the_same_seed_gives_the_same_file(mtzoo, tmp_path: Path, ending: str) -> None:
    outputs = [tmp_path / f"{name}.{ending}" for name in "abc"]
    for output, seed in zip(outputs, (5, 5, 6), strict=True):
        code, out, err = mtzoo("sample", samples=3, seed=seed, frames=6, output=output)
        assert (code, err) == (0, "")
        assert "3 samples of 6 frames" in out
    first, second, third = (output.read_bytes() for output in outputs)
    assert first == second
    assert first != third
    if ending == "png":
        sheet = media.read_image(outputs[0])
        rows = 3 * 34 + 2
        assert sheet.shape[0] == rows
        margin = sheet.shape[1] - (7 * 34 + 2)
        assert margin > 20, "rows are labelled"
    else:
        assert media.read_video(outputs[0]).frames.shape == (6, 8 * 66, 8 * 66, 3)


def test_samples_differ_and_start_with_the_picture(mtzoo, files: Path, tmp_path: Path) -> None:
    mtzoo("sample", samples=2, seed=1)
    sheet = media.read_image(tmp_path / "out.png")
    margin = sheet.shape[1] - ((FRAMES + 1) * 34 + 2)
    picture = media.read_image(files / "picture.png", resolution=32)
    rows = [sheet[2 + 34 * i : 34 + 34 * i, margin:] for i in range(2)]
    for row in rows:
        assert torch.equal(row[:, 2:34], picture)
    assert (rows[0][:, 36:].float() - rows[1][:, 36:].float()).abs().mean() > 2


def save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
    return path


@pytest.mark.parametrize(
    "kind", ["1x1", "rgba", "grey", "sixteen", "palette", "cmyk", "8000x8000", "panorama"]
)
def test_any_picture_will_do(mtzoo, tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 50, 4), np.uint8)
    path = tmp_path / "in.png"
    match kind:
        case "1x1":
            save(path, noise[:1, :1, :3])
        case "rgba":
            save(path, noise)
        case "grey":
            save(path, noise[..., 0])
        case "sixteen":
            save(path, noise[..., 0].astype(np.uint16) * 257)
        case "palette":
            save(path, noise[..., :3], "P")
        case "cmyk":
            path = save(tmp_path / "in.jpg", noise[..., :3], "CMYK")
        case "8000x8000":
            Image.new("RGB", (8000, 8000), (9, 99, 199)).save(path, compress_level=1)
        case "panorama":
            save(path, noise[:1].repeat(200, 1)[..., :3])
    verbs = ("sample",) if kind == "8000x8000" else ("transfer", "sample")
    for verb in verbs:
        code, out, err = mtzoo(verb, image=path)
        assert (code, err) == (0, ""), f"{verb}: {err}"
        assert out
        assert media.read_image(tmp_path / "out.png").shape[1] > FRAMES * 32


HOSTILE = ["empty", "text", "truncated", "corrupt", "missing", "folder", "bomb"]


def hostile(folder: Path, kind: str, ending: str, whole: bytes) -> Path:
    path = folder / f"in{ending}"
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("dear codec, this is a letter\n" * 50)
        case "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        case "corrupt":
            path.write_bytes(np.random.default_rng(0).bytes(len(whole)))
        case "folder":
            path.mkdir()
        case "bomb":
            size = (30000).to_bytes(4, "big")
            path.write_bytes(whole[:16] + size * 2 + whole[24:])
    return path


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("verb", ["transfer", "sample"])
def test_hostile_pictures(mtzoo, files: Path, tmp_path: Path, verb: str, kind: str) -> None:
    path = hostile(tmp_path, kind, ".png", (files / "picture.png").read_bytes())
    assert str(path) in refused(mtzoo(verb, image=path), tmp_path)


@pytest.mark.parametrize("kind", sorted({*HOSTILE} - {"bomb", "truncated"}))
@pytest.mark.parametrize("ending", [".mp4", ".gif", ".avi"])
def test_hostile_videos(mtzoo, files: Path, tmp_path: Path, kind: str, ending: str) -> None:
    path = hostile(tmp_path, kind, ending, (files / "video.mp4").read_bytes())
    line = refused(mtzoo("transfer", video=path, output=tmp_path / "out.mp4"), tmp_path)
    assert str(path) in line


def test_of_a_truncated_video_the_whole_frames_are_taken(
    mtzoo, files: Path, tmp_path: Path
) -> None:
    whole = (files / "video.mp4").read_bytes()
    path = hostile(tmp_path, "truncated", ".mp4", whole)
    code, out, err = mtzoo("transfer", video=path)
    assert (code, err) == (0, "")
    taken, skipped = map(int, re.findall(r"(\d+) (?:broken )?frames (?:at|skipped)", out))
    assert taken == 5
    assert taken + skipped == 12
    path.write_bytes(whole[: len(whole) // 12])
    (tmp_path / "out.png").unlink()
    assert str(path) in refused(mtzoo("transfer", video=path), tmp_path)


def test_a_clip_too_short_for_the_model(mtzoo, files: Path, tmp_path: Path) -> None:
    line = refused(mtzoo("transfer", frames=1), tmp_path)
    assert "video.mp4 gives 1 frame here" in line
    assert "--frames" in line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"output": "out.mov"}, ".mp4, .gif, .png"),
        ({"output": "nowhere/out.mp4"}, "does not exist"),
        ({"model": "nowhere"}, "no such folder"),
        ({"image": "pcture.png"}, "Did you mean 'picture.png'"),
        ({"frames": 0}, "--frames"),
        ({"frames": 10**9}, "--frames"),
        ({"fps": "nan"}, "--fps"),
        ({"scale": 0}, "--scale"),
    ],
)
@pytest.mark.parametrize("verb", ["transfer", "sample"])
def test_wrong_arguments(mtzoo, files, tmp_path, monkeypatch, verb, options, says) -> None:
    monkeypatch.chdir(files)
    assert says in refused(mtzoo(verb, **options), tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"samples": 0}, "--samples"), ({"samples": 10**6}, "--samples"), ({"seed": -1}, "--seed")],
)
def test_wrong_arguments_of_sample(mtzoo, tmp_path: Path, options, says: str) -> None:
    assert says in refused(mtzoo("sample", **options), tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_output_beyond_memory_is_refused_before_the_work(mtzoo, tmp_path: Path) -> None:
    line = refused(mtzoo("sample", samples=64, frames=64, scale=32), tmp_path)
    assert "GiB" in line
    assert "--scale" in line


def test_an_input_is_not_overwritten(mtzoo, files: Path, tmp_path: Path) -> None:
    video = tmp_path / "mine.mp4"
    video.write_bytes((files / "video.mp4").read_bytes())
    code, _, err = mtzoo(
        "transfer", video=video, output=tmp_path / ".." / tmp_path.name / video.name
    )
    assert code == 2
    assert "is an input too" in err
    assert video.read_bytes() == (files / "video.mp4").read_bytes()
    frames = tmp_path / "frames"
    frames.mkdir()
    Image.new("L", (50, 30)).save(frames / "0.png")
    before = (frames / "0.png").read_bytes()
    for name in ("0.png", "99.png"):
        code, _, err = mtzoo("transfer", video=frames, output=frames / name)
        assert code == 2
        assert f"--output {frames / name} lies among the frames in {frames}; name" in err
    assert (frames / "0.png").read_bytes() == before
    assert len(list(frames.iterdir())) == 1


def test_a_configuration_with_endless_clips(mtzoo, files: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(files / "run" / "model", model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "frames": 10**9}))
    code, _, err = mtzoo("sample", model=model)
    assert code == 2
    assert "'frames' must lie between 1 and 4096" in err


def test_a_gpu_that_is_not_there(mtzoo, tmp_path: Path) -> None:
    assert "--device cpu" in refused(mtzoo("transfer", device="cuda"), tmp_path)


def test_a_model_gone_wrong_is_said(mtzoo, files: Path, tmp_path: Path) -> None:
    model = load_model(files / "run")
    with torch.no_grad():
        for parameter in model.generators().parameters():
            parameter.fill_(float("nan"))
    config = {"model": SECTION, "resolution": 32, "channels": 3, "frames": FRAMES}
    save_model(tmp_path / "bad", model, config)
    for verb in ("transfer", "sample"):
        assert "not finite" in refused(mtzoo(verb, model=tmp_path / "bad"), tmp_path)


def test_an_old_output_survives_a_failure(mtzoo, tmp_path: Path) -> None:
    output = tmp_path / "old.mp4"
    output.write_text("precious")
    code, _, _ = mtzoo("transfer", image=tmp_path / "missing.png", output=output)
    assert code == 2
    assert output.read_text() == "precious"
    code, _, _ = mtzoo("transfer", output=output)
    assert code == 0
    assert len(media.read_video(output).frames) == FRAMES


def test_a_grey_model(mtzoo, tmp_path: Path) -> None:
    model = build_model(SECTION, resolution=32, channels=1)
    config = {"model": SECTION, "resolution": 32, "channels": 1, "frames": FRAMES}
    save_model(tmp_path / "grey", model, config)
    for verb in ("transfer", "sample"):
        code, _, err = mtzoo(verb, model=tmp_path / "grey")
        assert (code, err) == (0, "")


def test_as_a_process(files: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    common = [sys.executable, "-W", "error", "-c", "import sys, mtzoo.cli as c; sys.exit(c.main())"]
    arguments = ["transfer", "--model", files / "run", "--image", files / "picture.png"]
    bad = subprocess.run(
        [*common, *arguments, "--video", "text.mp4", "--output", "out.mp4"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("mtzoo: error: text.mp4 is not a video")
    assert bad.stderr.count("\n") == 1
    good = subprocess.run(
        [*common, *arguments, "--video", files / "video.mp4", "--output", "out.mp4"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (good.returncode, good.stderr) == (0, "")
    assert (tmp_path / "out.mp4").stat().st_size > 500


@pytest.mark.footage
def test_real_footage(mtzoo, footage: Path, tmp_path: Path) -> None:
    videos = [
        *sorted((footage / "weizmann" / "video").glob("*/*.avi"))[:2],
        *sorted((footage / "grid_faces").glob("*.mpg"))[:1],
        *sorted((footage / "bair_frames").iterdir())[:1],
    ]
    assert len(videos) == 4
    picture = footage / "lpips_reference" / "imgs" / "ex_ref.png"
    for video in videos:
        code, _, err = mtzoo("transfer", video=video, image=picture, output=tmp_path / "out.mp4")
        assert (code, err) == (0, "")
        assert len(media.read_video(tmp_path / "out.mp4").frames) == FRAMES
