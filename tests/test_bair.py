"""BAIR: TFRecords written here by hand, byte by byte, and read back; and folders of frames."""

import gzip
import io
import struct
from collections.abc import Iterable
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.summary.writer.record_writer import RecordWriter

from mtzoo.data.datasets.clips import ClipsDataset
from mtzoo.data.prepare import tfrecord
from mtzoo.data.prepare.bair import FPS, prepare_bair
from mtzoo.data.store import ClipStore
from mtzoo.errors import MtzooError

FRAMES = 20  # of the set's 30, to be quick


# The wire format of protocol buffers, as its documentation has it: tag, then length or number.


def varint(number: int) -> bytes:
    out = bytearray()
    while True:
        number, low = number >> 7, number & 127
        out.append(low | (128 if number else 0))
        if not number:
            return bytes(out)


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(value: bytes | Iterable[float], packed: bool = True) -> bytes:
    if isinstance(value, bytes):
        return field(1, field(1, value))
    values = list(value)
    if packed:
        return field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
    return field(2, b"".join(varint(1 << 3 | 5) + struct.pack("<f", v) for v in values))


def example(features: dict[str, bytes | Iterable[float]], packed: bool = True) -> bytes:
    pairs = (
        field(1, field(1, name.encode()) + field(2, feature(value, packed)))
        for name, value in features.items()
    )
    return field(1, b"".join(pairs))


def masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32)


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def pictures(seed: int, camera: str) -> np.ndarray:
    generator = np.random.default_rng([seed, len(camera)])
    small = generator.integers(0, 256, (FRAMES, 8, 8, 3), np.uint8)
    return small.repeat(8, 1).repeat(8, 2)


def numbers(seed: int, count: int) -> np.ndarray:
    generator = np.random.default_rng([seed, count])
    return generator.normal(size=(FRAMES, count)).astype(np.float32)


def sequence(seed: int, **changes: bytes | Iterable[float] | None) -> dict:
    features = {}
    for t in range(FRAMES):
        for camera in ("aux1", "main"):
            features[f"{t}/image_{camera}/encoded"] = pictures(seed, camera)[t].tobytes()
        features[f"{t}/action"] = numbers(seed, 4)[t].tolist()
        features[f"{t}/endeffector_pos"] = numbers(seed, 3)[t].tolist()
    features |= {key.replace("__", "/"): value for key, value in changes.items()}
    return {key: value for key, value in features.items() if value is not None}


def write(path: Path, seeds: Iterable[int], **changes: bytes | Iterable[float] | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(record(example(sequence(seed, **changes))) for seed in seeds))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "softmotion30_44k"
    write(folder / "train" / "traj_0_to_255.tfrecords", range(20))
    write(folder / "train" / "traj_256_to_511.tfrecords", range(20, 23))
    write(folder / "test" / "traj_0_to_255.tfrecords", range(100, 104))
    return folder


def test_what_comes_out(source: Path, tmp_path: Path) -> None:
    report = prepare_bair(source, tmp_path / "out")
    assert (report.found, len(report.used), report.skipped) == (27, 27, [])
    assert report.frames == 27 * FRAMES
    store = ClipStore(report.output)
    assert (store.source, store.resolution, store.split_by) == ("bair", 64, ("official",))
    assert len(store.entries("train")) == 23
    assert len(store.entries("test")) == 4
    seeds = {
        "train/traj_0_to_255/017": 17,
        "train/traj_256_to_511/002": 22,
        "test/traj_0_to_255/003": 103,
    }
    for entry in store.entries():
        if entry.id in seeds:
            seed = seeds.pop(entry.id)
            assert np.array_equal(store.read(entry).numpy(), pictures(seed, "aux1"))
            assert np.array_equal(store.read_track(entry, "action").numpy(), numbers(seed, 4))
            position = store.read_track(entry, "endeffector_pos", 3, 2, 5)
            assert np.array_equal(position.numpy(), numbers(seed, 3)[[3, 8]])
            assert entry.labels == {"camera": "aux1"}
    assert not seeds
    assert "23 sequences train, 4 test" in report.notes[0]
    assert "43,264 and 256" in report.notes[1]


def test_both_cameras_of_a_sequence_never_make_a_pair(source: Path, tmp_path: Path) -> None:
    report = prepare_bair(source, tmp_path / "out", camera="both", clip=16)
    store = ClipStore(report.output)
    assert len(store) == 54
    main = next(e for e in store.entries() if e.id == "test/traj_0_to_255/002/main@00000")
    assert np.array_equal(store.read(main).numpy(), pictures(102, "main")[:16])
    assert np.array_equal(store.read_track(main, "action").numpy(), numbers(102, 4)[:16])
    assert {e.source for e in store.entries("test")} == {
        f"test/traj_0_to_255.tfrecords#{i:03d}" for i in range(4)
    }
    pairs = ClipsDataset("test", 0, root=str(report.output), source="bair")
    for pair in (pairs[i] for i in range(8)):
        sides = [
            {e.source for e in store.entries("test") if torch.equal(store.read(e), pair[key])}
            for key in ("video", "target_video")
        ]
        assert len(sides[0]) == len(sides[1]) == 1
        assert sides[0] != sides[1]


def test_another_resolution(source: Path, tmp_path: Path) -> None:
    store = ClipStore(prepare_bair(source, tmp_path / "out", resolution=32).output)
    assert store.resolution == 32
    entry = store.entries()[0]
    blocks = store.read(entry).view(FRAMES, 8, 4, 8, 4, 3)[:, :, 1:3, :, 1:3].float().mean((2, 4))
    assert (blocks - torch.from_numpy(pictures(100, "aux1")[:, ::8, ::8].copy())).abs().mean() < 8


def test_workers_change_nothing(source: Path, tmp_path: Path) -> None:
    one = prepare_bair(source, tmp_path / "one").output
    two = prepare_bair(source, tmp_path / "two", workers=2).output
    for name in ("clips-00000.safetensors", "manifest.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


# Damage


def test_a_damaged_record_costs_itself_only(source: Path, tmp_path: Path) -> None:
    path = source / "train" / "traj_256_to_511.tfrecords"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # in the second of three records
    path.write_bytes(data)
    report = prepare_bair(source, tmp_path / "out")
    assert report.skipped == [
        {
            "source": "train/traj_256_to_511.tfrecords#001",
            "reason": "the record is damaged (its checksum is wrong)",
        }
    ]
    assert (report.found, len(report.used)) == (27, 26)
    with pytest.raises(MtzooError, match="#001: the record is damaged"):
        prepare_bair(source, tmp_path / "strict", strict=True)
    assert not (tmp_path / "strict").exists()


@pytest.mark.parametrize("lost", [1, 5, 100_000])
def test_a_file_cut_off_is_used_as_far_as_it_goes(source: Path, tmp_path: Path, lost: int) -> None:
    path = source / "train" / "traj_256_to_511.tfrecords"
    path.write_bytes(path.read_bytes()[:-lost])
    report = prepare_bair(source, tmp_path / "out")
    assert len(report.used) == 26
    assert "cut off in record 2" in report.skipped[0]["reason"]


def damaged_length(data: bytes) -> bytes:
    return struct.pack("<Q", 2**63) + data[8:]


def huge_length(_: bytes) -> bytes:
    length = struct.pack("<Q", 2**63)
    return length + masked(length)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", "it is empty"),
        (lambda data: data[:10], "no whole TFRecord"),
        (damaged_length, "no whole TFRecord"),
        (huge_length, "no whole TFRecord"),
        (lambda data: b"no records at all" * 9, "no whole TFRecord"),
        (gzip.compress, "it is compressed; unpack it with gunzip"),
    ],
)
def test_files_that_are_none(source: Path, tmp_path: Path, damage, reason: str) -> None:
    path = source / "train" / "traj_256_to_511.tfrecords"
    path.write_bytes(damage(path.read_bytes()))
    report = prepare_bair(source, tmp_path / "out")
    assert len(report.used) == 24
    assert [item["source"] for item in report.skipped] == ["train/traj_256_to_511.tfrecords"]
    assert reason in report.skipped[0]["reason"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"0__image_aux1__encoded": None}, "no feature 0/image_aux1/encoded"),
        ({"4__image_aux1__encoded": b"\x89PNG"}, "frame 4 of camera aux1 is 4 bytes where 64x64"),
        ({"4__image_aux1__encoded": [1.0]}, "frame 4 of camera aux1 is something else"),
        ({"4__image_aux1__encoded": None}, "4 frames and 20 actions"),
        ({"7__action": [1.0, 2.0]}, "7/action is not 4 numbers"),
        ({"7__action": b"four"}, "7/action is not 4 numbers"),
        ({"0__endeffector_pos": None}, "no feature 0/endeffector_pos"),
    ],
)
def test_sequences_of_another_form(source: Path, tmp_path: Path, changes, reason: str) -> None:
    write(source / "train" / "other.tfrecords", [1], **changes)
    (source / "train" / "no.tfrecords").write_bytes(record(b"\xff no message"))
    report = prepare_bair(source, tmp_path / "out")
    reasons = {item["source"]: item["reason"] for item in report.skipped}
    assert reasons.keys() == {"train/other.tfrecords#000", "train/no.tfrecords#000"}
    assert reason in reasons["train/other.tfrecords#000"]
    assert "no tf.train.Example" in reasons["train/no.tfrecords#000"]


def test_nothing_of_the_set(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "notes.txt").write_text("nothing here")
    with pytest.raises(MtzooError, match=r"no BAIR's .*softmotion30_44k.* there is .txt"):
        prepare_bair(tmp_path / "source", tmp_path / "out")
    (tmp_path / "source" / "a.tfrecords").write_bytes(b"")
    with pytest.raises(MtzooError, match=r"no file in .* can be read; a.tfrecords: it is empty"):
        prepare_bair(tmp_path / "source", tmp_path / "out")
    with pytest.raises(MtzooError, match="camera must be"):
        prepare_bair(tmp_path / "source", tmp_path / "out", camera="left")  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


# The reader against a writer that is not ours


def test_framing_agrees_with_tensorboards(tmp_path: Path) -> None:
    contents = [b"", b"one", bytes(range(256)) * 500]
    raw = io.BytesIO()
    writer = RecordWriter(raw)
    for content in contents:
        writer.write(content)
    path = tmp_path / "x.tfrecords"
    path.write_bytes(raw.getvalue())
    index = tfrecord.index(path)
    assert (len(index.offsets), index.missing) == (3, "")
    assert list(tfrecord.read(path, index.offsets)) == contents


@pytest.mark.parametrize("packed", [True, False])
def test_messages(packed: bool) -> None:
    integers = field(3, field(1, varint(7) + varint(300)))
    data = example({"a": b"\x00\xffbytes", "b": [1.5, -2.0], "c": b""}, packed)

    data += field(1, field(1, field(1, b"d") + field(2, integers)))
    features = tfrecord.parse(data)
    assert features == {"a": [b"\x00\xffbytes"], "b": [1.5, -2.0], "c": [b""], "d": [7, 300]}


# Folders of frames


def test_folders_of_frames(tmp_path: Path) -> None:
    for side, name, seed in (
        ("train", "a", 1),
        ("train", "b", 2),
        ("test", "c", 3),
        ("test", "d", 4),
    ):
        folder = tmp_path / "source" / side / name
        folder.mkdir(parents=True)
        for t, picture in enumerate(pictures(seed, "aux1")):
            Image.fromarray(picture).save(folder / f"{t}.png")  # 2.png sorts before 10.png
    report = prepare_bair(tmp_path / "source", tmp_path / "out")
    store = ClipStore(report.output)
    assert {e.id for e in store.entries("test")} == {"test/c", "test/d"}
    assert np.array_equal(store.read(store.entries("train")[1]).numpy(), pictures(2, "aux1"))
    assert store.manifest["version"] == 1
    assert store.fps == FPS  # as of the tfrecords
    assert [item["fps"] for item in report.used] == [FPS] * 4


@pytest.mark.footage
def test_genuine_frames(footage: Path, tmp_path: Path) -> None:
    folder = footage / "bair_frames"
    report = prepare_bair(folder, tmp_path / "out")
    store = ClipStore(report.output)
    assert report.frames == len(list(folder.glob("*/*.png"))) == 210
    assert report.skipped == []
    assert len(store.entries("test")) == 2
    entry = next(e for e in store.entries() if e.id == "bair_00026")
    with Image.open(sorted((folder / "bair_00026").iterdir())[7]) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(store.read(entry, 7, 1)[0].numpy(), expected)
    assert any("no folders named train and test" in note for note in report.notes)
