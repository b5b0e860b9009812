"""``mtzoo prepare weizmann``: on made-up videos in all the set's forms, and on genuine ones."""

import argparse
import json
import os
from pathlib import Path

import av
import numpy as np
import pytest
from scipy.io import loadmat, savemat

from mtzoo.cli import prepare as verb
from mtzoo.data.prepare import weizmann
from mtzoo.data.prepare.crops import plan_crops, smooth
from mtzoo.data.prepare.report import Report
from mtzoo.data.prepare.weizmann import fit, prepare_weizmann
from mtzoo.data.store import ClipStore
from mtzoo.errors import MtzooError

HEIGHT, WIDTH = 72, 90
FOOTAGE = Path(os.environ.get("MTZOO_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def person(count: int, *, speed: float = 2.0, start: float = 20.0) -> np.ndarray:
    """Silhouettes (T, H, W) of a walking block, 10 wide and 24 high, feet at row 60."""
    mask = np.zeros((count, HEIGHT, WIDTH), np.uint8)
    for t in range(count):
        left = round(start + speed * t)
        mask[t, 36:60, max(0, left) : max(0, left + 10)] = 1
    return mask


def filmed(mask: np.ndarray) -> np.ndarray:
    """Frames (T, H, W, 3): red where the person is, a blue ramp elsewhere."""
    ramp = np.linspace(60, 200, WIDTH, dtype=np.uint8)
    frames = np.zeros((*mask.shape, 3), np.uint8)
    frames[..., 2] = ramp
    frames[mask > 0] = (230, 30, 30)
    return frames


def write_avi(path: Path, frames: np.ndarray, rate: int = 25) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate, options={"q:v": "2"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def write_masks(path: Path, masks: dict[str, np.ndarray], field: str = "original_masks") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {field: {name: mask.transpose(1, 2, 0) for name, mask in masks.items()}})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three persons: one in two official takes, one whose file starts over, one recompressed."""
    root = tmp_path / "source"
    walk = person(24)
    take1, take2 = person(20, speed=3.0, start=5), person(18, speed=-3.0, start=75)
    write_avi(root / "video" / "walk" / "ira_walk.avi", filmed(walk))
    write_avi(root / "video" / "walk" / "eli_walk.avi", filmed(np.concatenate([walk, walk[:9]])))
    write_avi(root / "video" / "run" / "lena_run.avi", filmed(np.concatenate([take2, take2[:5]])))
    masks = {"ira_walk": walk, "eli_walk": walk, "lena_run1": take1, "lena_run2": take2}
    write_masks(root / "original_masks.mat", masks)
    return root


def entries(report: Report) -> dict[str, object]:
    return {entry.id: entry for entry in ClipStore(report.output).entries()}


def test_it_cuts_where_the_silhouettes_end_and_knows_the_take(source: Path, tmp_path: Path) -> None:
    report = prepare_weizmann(source, tmp_path / "out", resolution=32)
    store = ClipStore(report.output)
    found = {e.id: (e.frames, e.source, dict(e.labels)) for e in store.entries()}
    assert found == {
        "eli_walk": (24, "video/walk/eli_walk.avi", {"person": "eli", "action": "walk"}),
        "ira_walk": (24, "video/walk/ira_walk.avi", {"person": "ira", "action": "walk"}),
        "lena_run2": (18, "video/run/lena_run.avi", {"person": "lena", "action": "run"}),
    }
    assert (store.resolution, store.channels, store.fps) == (32, 3, 25.0)
    assert store.manifest["decoder"]["name"] == "PyAV"
    assert (report.found, len(report.used), report.skipped) == (3, 3, [])
    assert report.frames == 66
    assert report.bytes == 66 * 32 * 32 * 3
    written = json.loads((report.output / "report.json").read_text())
    assert written["used"] == report.used
    assert [item["test_frames"] for item in report.used] == [8, 8, 6]
    assert "3 of 3 videos have a test part shorter than 16 frames" in "\n".join(report.lines())


def test_splits(source: Path, tmp_path: Path) -> None:
    report = prepare_weizmann(source, tmp_path / "out", resolution=32, held_out=1, seed=3)
    store = ClipStore(report.output)
    train = {e.id: (e.start, e.stop) for e in store.entries("train", "time")}
    test = {e.id: (e.start, e.stop) for e in store.entries("test", "time")}
    assert train == {"eli_walk": (0, 16), "ira_walk": (0, 16), "lena_run2": (0, 12)}
    assert test == {"eli_walk": (16, 24), "ira_walk": (16, 24), "lena_run2": (12, 18)}
    tested = {e.labels["person"] for e in store.entries("test", "person")}
    trained = {e.labels["person"] for e in store.entries("train", "person")}
    assert len(tested) == 1
    assert tested | trained == {"eli", "ira", "lena"}
    assert not tested & trained
    assert list(tested) == store.manifest["preparation"]["test_persons"]


def test_persons_are_drawn_by_seed() -> None:
    names = list("abcdefg")
    draws = {tuple(weizmann.draw_persons(names, 2, seed)) for seed in range(20)}
    assert len(draws) > 5
    assert weizmann.draw_persons(names, 2, 4) == weizmann.draw_persons(names, 2, 4)
    assert len(weizmann.draw_persons(names, 99, 0)) == 6
    assert weizmann.draw_persons(["a"], 2, 0) == []


def box(frame: np.ndarray) -> tuple[float, float, int, int]:
    """Centre and size of what is red in a frame."""
    y, x = np.nonzero(frame[..., 0] > 115)
    return (
        (x.min() + x.max() + 1) / 2,
        (y.min() + y.max() + 1) / 2,
        int(np.ptp(x)) + 1,
        int(np.ptp(y)) + 1,
    )


def test_the_person_is_centred_upright_and_of_one_size(source: Path, tmp_path: Path) -> None:
    report = prepare_weizmann(source, tmp_path / "out", resolution=64, margin=1.25)
    store = ClipStore(report.output)
    for entry in store.entries():
        boxes = np.array([box(frame) for frame in store.read(entry).numpy()])
        assert np.abs(boxes[:, :2] - 32).max() < 2, entry.id
        # 24 of 30 pixels high, 10 of 30 wide.
        assert np.abs(boxes[:, 2] - 64 / 1.25 * 10 / 24).max() <= 4, entry.id
        assert np.abs(boxes[:, 3] - 64 / 1.25).max() <= 4, entry.id


def test_beyond_the_border_its_pixels_are_repeated() -> None:
    frames = filmed(person(5, speed=0, start=0))
    crops = plan_crops(person(5, speed=0, start=0), margin=2.0, smoothing=0.0)
    cut = weizmann.crop(frames, crops, 48)
    assert crops.side == 48.0
    assert crops.centres.tolist() == [[5.0, 48.0]] * 5
    # The square's left edge is column -19: its first 19 columns repeat column 0, and its row 24
    # is the picture's 48th. Columns in the picture are taken as they are.
    picture = frames[0].astype(int)
    # The filter also looks a pixel to the side: leave the edges out.
    assert np.abs(cut[0, 24, :17].astype(int) - picture[48, 0]).max() <= 1
    assert np.abs(cut[0, 2:46, 21:46].astype(int) - picture[26:70, 2:27]).max() <= 1


def test_smoothing_keeps_straight_motion_and_takes_jitter() -> None:
    line = 3.0 * np.arange(40) + 7
    assert np.allclose(smooth(line, 4.0), line)
    jitter = np.where(np.arange(40) % 2, 1.0, -1.0)
    assert np.abs(smooth(line + jitter, 4.0) - line).max() < 0.25
    assert np.abs(smooth(line + jitter, 4.0) - line)[8:-8].max() < 0.01
    assert smooth(jitter, 0.0) is jitter
    assert np.allclose(smooth(jitter, 0.11), jitter)
    for count in (1, 2, 3):
        assert smooth(line[:count], 4.0).shape == (count,)


def test_the_crop_holds_the_person_whatever_the_smoothing() -> None:
    generator = np.random.default_rng(0)
    mask = np.zeros((30, HEIGHT, WIDTH), np.uint8)
    for t in range(30):
        x, y = generator.integers(5, 60), generator.integers(5, 40)
        mask[t, y : y + 20, x : x + 12] = 1
    for smoothing in (0.0, 2.0, 9.0):
        crops = plan_crops(mask, margin=1.0, smoothing=smoothing)
        low, high = crops.centres - crops.side / 2, crops.centres + crops.side / 2
        for t in range(30):
            y, x = np.nonzero(mask[t])
            assert (low[t] <= (x.min() + 1e-6, y.min() + 1e-6)).all()
            assert (high[t] >= (x.max() + 1 - 1e-6, y.max() + 1 - 1e-6)).all()


def test_empty_silhouettes_are_interpolated() -> None:
    mask = person(21)
    whole = plan_crops(mask, margin=1.0, smoothing=0.0)
    mask[5:9] = 0
    mask[-1] = 0
    holed = plan_crops(mask, margin=1.0, smoothing=0.0)
    assert np.allclose(holed.centres[:-1], whole.centres[:-1])
    assert np.allclose(holed.centres[-1], whole.centres[-2])
    with pytest.raises(MtzooError, match="all empty"):
        plan_crops(np.zeros_like(mask), margin=1.0, smoothing=0.0)


def test_fit_tells_sequences_apart() -> None:
    mask, other = person(24), person(24, speed=-2.0, start=70)
    frames = filmed(mask)
    assert fit(frames, mask) > 0.9
    assert fit(frames, other) < 0.4
    assert fit(np.repeat(frames[:1], 5, 0), mask) == 0.0


def test_official_naming_flat_folder_and_classification_masks(tmp_path: Path) -> None:
    source = tmp_path / "flat"
    take1, take2 = person(20, speed=3.0, start=5), person(18, speed=-3.0, start=75)
    write_avi(source / "lena_run1.avi", filmed(take1))
    write_avi(source / "lena_run2.AVI", filmed(take2))
    write_avi(source / "ido_wave2.avi", filmed(person(20)))
    masks = {"lena_run1": take1, "lena_run2": take2, "ido_wave2": person(20)}
    write_masks(source / "classification_masks.mat", masks)
    report = prepare_weizmann(source, tmp_path / "out")
    found = {i: (e.labels["person"], e.labels["action"]) for i, e in entries(report).items()}
    assert found == {
        "ido_wave2": ("ido", "wave2"),
        "lena_run1": ("lena", "run"),
        "lena_run2": ("lena", "run"),
    }


def test_what_cannot_be_used_is_skipped_and_named(source: Path, tmp_path: Path) -> None:
    folder = source / "video" / "walk"
    (folder / "ira_run.avi").write_bytes(b"RIFF not a video")
    (folder / "empty_walk.avi").write_bytes(b"")
    write_avi(folder / "dog.avi", filmed(person(4)))
    write_avi(folder / "ira_dance.avi", filmed(person(4)))
    write_avi(folder / "moshe_walk.avi", filmed(person(4)))
    write_avi(folder / "ido_walk.avi", filmed(person(24))[:, :64])
    write_avi(folder / "lena_run2.avi", filmed(person(18, speed=-3.0, start=75)))
    walk = person(24)
    masks = dict.fromkeys(("ira_walk", "eli_walk", "ido_walk", "ira_run", "empty_walk"), walk)
    take2 = person(18, speed=-3.0, start=75)
    masks |= {"lena_run1": person(20, speed=3.0, start=5), "lena_run2": take2}
    masks["nobody_walk"] = np.zeros_like(walk)
    write_avi(folder / "nobody_walk.avi", filmed(walk))
    write_masks(source / "original_masks.mat", masks)
    report = prepare_weizmann(source, tmp_path / "out")
    reasons = {Path(item["source"]).name: item["reason"] for item in report.skipped}
    expected = {
        "ira_run.avi": "not a video",
        "empty_walk.avi": "is empty",
        "dog.avi": "name is not",
        "ira_dance.avi": "none of the actions",
        "moshe_walk.avi": "no silhouettes named moshe_walk",
        "ido_walk.avi": "frames are 90x64, its silhouettes 90x72",
        "lena_run.avi": "same sequence",
        "nobody_walk.avi": "all empty",
    }
    assert reasons.keys() == expected.keys()
    for name, part in expected.items():
        assert part in reasons[name], name
        assert "\n" not in reasons[name]
    # The file that names its take in full keeps it.
    assert set(entries(report)) == {"eli_walk", "ira_walk", "lena_run2"}
    assert ClipStore(report.output).manifest["left_out"] == report.skipped
    assert all(name in "\n".join(report.lines()) for name in expected)
    with pytest.raises(MtzooError, match=r"\.avi.*--strict"):
        prepare_weizmann(source, tmp_path / "strict", strict=True)
    assert not (tmp_path / "strict").exists()


def test_a_file_cut_off_is_used_as_far_as_it_goes_and_told(source: Path, tmp_path: Path) -> None:
    write_avi(source / "video" / "walk" / "ira_walk.avi", filmed(person(24))[:15])
    report = prepare_weizmann(source, tmp_path / "out")
    assert entries(report)["ira_walk"].frames == 15
    assert "ira_walk (15 of 24 frames)" in "\n".join(report.notes)


def test_preparing_twice_gives_the_same_store(source: Path, tmp_path: Path) -> None:
    one = prepare_weizmann(source, tmp_path / "one").output
    two = prepare_weizmann(source, tmp_path / "two").output
    for name in ("manifest.json", "clips-00000.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def fault(*args: object, **options: object) -> str:
    with pytest.raises(MtzooError) as caught:
        prepare_weizmann(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_input_is_one_line_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "does not exist" in fault(tmp_path / "nowhere", out)
    assert "is a file; name the folder" in fault(source / "original_masks.mat", out)
    (tmp_path / "bare").mkdir()
    assert "no .avi file" in fault(tmp_path / "bare", out)
    assert "are not there" in fault(source, out, masks=tmp_path / "no.mat")
    (source / "original_masks.mat").unlink()
    assert "--masks" in fault(source, out)
    write_masks(tmp_path / "other.mat", {"zoe_walk": person(4)})
    assert "none of the 3 videos" in fault(source, out, masks=tmp_path / "other.mat")
    for option, value in (
        ("resolution", 48),
        ("margin", 0.5),
        ("margin", float("nan")),
        ("smoothing", -1.0),
        ("held_out", -1),
    ):
        assert str(value) in fault(source, out, **{option: value})
    assert not out.exists()
    assert not list(tmp_path.glob("out*"))


def test_masks_that_are_none(source: Path, tmp_path: Path) -> None:
    path = source / "original_masks.mat"
    whole = path.read_bytes()
    for damaged in (b"", b"text, not MATLAB" * 20, whole[: len(whole) // 2], whole[:130]):
        path.write_bytes(damaged)
        assert str(path) in fault(source, tmp_path / "out")
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    path.write_bytes(header + b"\x89HDF\r\n\x1a\n" + bytes(512))
    assert "7.3" in fault(source, tmp_path / "out")
    write_masks(path, {"ira_walk": person(4)}, field="something")
    assert "no struct 'original_masks'" in fault(source, tmp_path / "out")
    savemat(path, {"original_masks": {"ira_walk": "a word"}})
    assert "not (height, width, frames)" in fault(source, tmp_path / "out")
    savemat(path, {"original_masks": np.zeros((3, 3))})
    assert "no struct" in fault(source, tmp_path / "out")


def test_the_verb(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    verb.add_parser(parser.add_subparsers())
    out = tmp_path / "out"
    words = ["--source", source, "--output", out, "--resolution", 32, "--held-out", 1]
    args = parser.parse_args(["prepare", "weizmann", *map(str, words)])
    assert args.func(args) == 0
    printed = capsys.readouterr().out
    assert "3 videos found, 3 used, 0 skipped" in printed
    assert str(out) in printed
    assert ClipStore(out).resolution == 32
    assert args.func(args) == 0
    assert "was there already" in capsys.readouterr().out
    args.resolution = 64
    with pytest.raises(MtzooError, match="other options"):
        args.func(args)
    with pytest.raises(SystemExit):
        parser.parse_args(["prepare", "weizmann"])
    with pytest.raises(SystemExit):
        parser.parse_args(["prepare"])


# Genuine footage


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, dict[str, np.ndarray]]:
    folder = FOOTAGE / "weizmann"
    if not folder.is_dir():
        pytest.skip(f"the Weizmann videos are not at {folder} (MTZOO_TEST_DATA)")
    source = tmp_path_factory.mktemp("weizmann")
    for name in ("walk/eli_walk", "run/lena_run", "wave2/ido_wave2"):
        (source / f"{Path(name).name}.avi").symlink_to((folder / "video" / f"{name}.avi").resolve())
    masks = folder / "original_masks.mat"
    report = prepare_weizmann(source, source / "store", masks=masks, smoothing=4.0)
    loaded = loadmat(masks, variable_names=["original_masks"])["original_masks"][0, 0]
    names = ("eli_walk", "lena_run1", "ido_wave2")
    return report, {name: loaded[name] for name in names}


@pytest.mark.footage
def test_genuine_lengths_and_takes(genuine: tuple[Report, dict[str, np.ndarray]]) -> None:
    report, masks = genuine
    assert {u["id"]: u["frames"] for u in report.used} == {
        name: mask.shape[2] for name, mask in masks.items()
    }
    assert report.skipped == []
    assert {u["id"]: u["agreement"] > 0.25 for u in report.used} == dict.fromkeys(masks, True)
    assert sum(u["agreement"] > 0.85 for u in report.used) == 2


@pytest.mark.footage
def test_genuine_persons_are_centred_and_do_not_jitter(
    genuine: tuple[Report, dict[str, np.ndarray]],
) -> None:
    report, masks = genuine
    for name, mask in masks.items():
        mask = mask.transpose(2, 0, 1)
        crops = plan_crops(mask, margin=1.1, smoothing=4.0)
        for silhouette, centre in zip(mask, crops.centres, strict=True):
            y, x = np.nonzero(silhouette)
            low = (np.array([x.min(), y.min()]) - centre) / crops.side
            high = (np.array([x.max() + 1, y.max() + 1]) - centre) / crops.side
            # Whole and near the middle, as fractions of the square.
            assert low.min() > -0.5, name
            assert high.max() < 0.5, name
            assert np.abs(low + high).max() / 2 < 0.1, name
        # The crop's acceleration, in pixels of the result: what the eye sees as jitter.
        shake = np.abs(np.diff(crops.centres, n=2, axis=0)).max() * 64 / crops.side
        assert shake < 0.5, name
    assert all(60 < u["crop_side"] < 110 for u in report.used)
