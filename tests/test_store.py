"""The clip store: what goes in comes out, by slice; half or damaged stores are refused."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset

from mtzoo.data import writer as writer_module
from mtzoo.data.store import ClipStore
from mtzoo.data.writer import StoreWriter
from mtzoo.errors import MtzooError

SIDE = 4
LENGTHS = {"a": 9, "b": 6, "c": 12}


def footage(name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(ord(name))
    shape = (LENGTHS[name], SIDE, SIDE, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def write(root: Path, *, shard_bytes: int = 2**20, finish: bool = True) -> Path:
    with StoreWriter(
        root,
        source="made_up",
        resolution=SIDE,
        fps=25.0,
        split_by=("time", "person"),
        decoder={"name": "none", "version": "0"},
        preparation={"margin": 1.5},
        shard_bytes=shard_bytes,
    ) as writer:
        for name, count in LENGTHS.items():
            edge = 2 * count // 3
            writer.add(
                name,
                footage(name),
                labels={"person": name.upper()},
                splits={
                    "time": [("train", 0, edge), ("test", edge, count)],
                    "person": [("test" if name == "c" else "train", 0, count)],
                },
                source=f"{name}.avi",
                source_range=(0, count),
            )
        writer.leave_out("d.avi", "broken")
        if finish:
            writer.finish()
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path / "store")


def change(root: Path, **values: object) -> None:
    path = root / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(root: Path) -> str:
    with pytest.raises(MtzooError) as caught:
        ClipStore(root)
    message = str(caught.value)
    assert "\n" not in message
    assert str(root) in message
    return message


@pytest.mark.parametrize("shard_bytes", [1, 500, 2**20])
def test_round_trip(tmp_path: Path, shard_bytes: int) -> None:
    store = ClipStore(write(tmp_path / "store", shard_bytes=shard_bytes))
    assert len(store.manifest["shards"]) == {1: 3, 500: 2, 2**20: 1}[shard_bytes]
    assert [entry.id for entry in store.entries()] == ["a", "b", "c"]
    for entry in store.entries():
        assert torch.equal(store.read(entry), footage(entry.id))
        assert entry.labels == {"person": entry.id.upper()}
        assert entry.source == f"{entry.id}.avi"
        assert entry.source_range == (0, LENGTHS[entry.id])
    assert (store.source, store.resolution, store.channels, store.fps) == ("made_up", 4, 3, 25.0)
    assert store.manifest["counts"]["frames"] == 27
    assert store.manifest["left_out"] == [{"source": "d.avi", "reason": "broken"}]
    store.verify()


def test_shards_are_plain_safetensors(root: Path) -> None:
    tensors = load_file(root / "clips-00000.safetensors")
    assert torch.equal(tensors["b"], footage("b"))


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    names = sorted(os.listdir(one))
    assert names == ["clips-00000.safetensors", "manifest.json"]
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_others_may_read_what_the_folder_lets_them(root: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in root.iterdir()}
    assert modes["clips-00000.safetensors"] == modes["manifest.json"]


def test_splits_are_ranges_over_one_copy(root: Path) -> None:
    store = ClipStore(root)
    by_time = store.entries("test")
    assert [(e.id, e.start, e.stop) for e in by_time] == [("a", 6, 9), ("b", 4, 6), ("c", 8, 12)]
    assert torch.equal(store.read(by_time[2]), footage("c")[8:])
    assert torch.equal(store.read(by_time[2], 1, 2), footage("c")[9:11])
    by_person = store.entries("test", "person")
    assert [(e.id, e.frames) for e in by_person] == [("c", 12)]


@given(st.data())
def test_reading_is_slicing(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    root = tmp_path_factory.getbasetemp() / "sliced"
    if not root.exists():
        write(root)
    store = ClipStore(root)
    entry = data.draw(st.sampled_from([*store.entries(), *store.entries("train")]))
    start = data.draw(st.integers(0, entry.frames - 1))
    stride = data.draw(st.integers(1, 5))
    count = data.draw(st.integers(1, (entry.frames - start - 1) // stride + 1))
    expected = footage(entry.id)[entry.start : entry.stop]
    got = store.read(entry, start, count, stride)
    assert torch.equal(got, expected[start::stride][:count])
    assert torch.equal(store.read(entry, start, stride=stride), expected[start::stride])


@pytest.mark.parametrize("window", [(-1, 2, 1), (0, 10, 1), (0, 5, 2), (0, 0, 1), (0, 1, 0)])
def test_a_window_beyond_the_entry_is_an_error(root: Path, window: tuple[int, int, int]) -> None:
    store = ClipStore(root)
    entry = store.entries("train")[0]  # 6 of 9 stored frames
    with pytest.raises((IndexError, ZeroDivisionError)):
        store.read(entry, *window)


def test_what_is_read_is_a_copy(root: Path) -> None:
    store = ClipStore(root)
    entry = store.entries()[0]
    store.read(entry).zero_()
    assert torch.equal(store.read(entry), footage("a"))
    assert torch.equal(ClipStore(root).read(entry), footage("a"))


class Reading(Dataset):
    def __init__(self, store: ClipStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.store.read(self.store.entries()[index % 3], index // 3, 2)


def test_forked_workers_read_what_the_parent_reads(root: Path) -> None:
    reading = Reading(ClipStore(root))
    here = [reading[i] for i in range(12)]  # maps the shard before the fork
    there = list(DataLoader(reading, batch_size=None, num_workers=2))
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_a_pickled_store_carries_no_frames(root: Path) -> None:
    store = ClipStore(root)
    before = len(pickle.dumps(store))
    entry = store.entries()[2]
    store.read(entry)
    pickled = pickle.dumps(store)
    assert len(pickled) == before
    assert torch.equal(pickle.loads(pickled).read(entry), footage("c"))


# Writing: whole or not at all


def test_without_finish_nothing_is_left(tmp_path: Path) -> None:
    write(tmp_path / "store", finish=False)
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with StoreWriter(
            tmp_path / "store", source="s", resolution=SIDE, fps=1.0, split_by=("time",)
        ):
            assert [p.name.partition(".")[0] for p in tmp_path.iterdir()] == ["store"]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    about = {"labels": {}, "splits": {"time": []}, "source": "", "source_range": (0, 3)}
    with StoreWriter(
        tmp_path / "store", source="s", resolution=SIDE, fps=1.0, split_by=("time",)
    ) as writer:
        for shape, dtype in (
            ((3, 5, 5, 3), torch.uint8),
            ((3, SIDE, SIDE, 1), torch.uint8),
            ((0, SIDE, SIDE, 3), torch.uint8),
            ((3, SIDE, SIDE, 3), torch.float32),
        ):
            with pytest.raises(ValueError, match="'a': torch"):
                writer.add("a", torch.zeros(shape, dtype=dtype), **about)
        good = torch.zeros(3, SIDE, SIDE, 3, dtype=torch.uint8)
        writer.add("a", good, **about)
        with pytest.raises(ValueError, match="already"):
            writer.add("a", good, **about)


def test_an_empty_folder_is_taken_a_full_one_refused(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    root = write(tmp_path / "store")
    before = (root / "manifest.json").read_bytes()
    with pytest.raises(MtzooError, match="holds something already"):
        write(root)
    assert (root / "manifest.json").read_bytes() == before
    with pytest.raises(MtzooError, match="is a file"):
        write(root / "manifest.json")


def test_a_folder_that_fills_up_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with StoreWriter(root, source="s", resolution=4, fps=1.0, split_by=("time",)) as writer:
        root.mkdir()
        (root / "precious").write_text("mine")
        with pytest.raises(MtzooError, match="cannot be written"):
            writer.finish()
    assert [p.name for p in tmp_path.iterdir()] == ["store"]
    assert (root / "precious").read_text() == "mine"


def test_a_parent_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MtzooError) as caught:
        write(tmp_path / "file" / "store")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fault", [OSError(28, "No space left on device"), SafetensorError("No space left on device")]
)
def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(writer_module, "save_file", fail)
    with pytest.raises(MtzooError, match="No space left on device"):
        write(tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


# Opening: damage is named


def test_no_store(tmp_path: Path) -> None:
    assert "no clip store" in refused(tmp_path / "nowhere")
    assert "no clip store" in refused(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other"}', "\udce4", "[" * 100_000])
def test_a_manifest_that_is_none(root: Path, text: str) -> None:
    (root / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(root)


def test_an_unknown_version(root: Path) -> None:
    change(root, version=3)
    assert "format version 3" in refused(root)


def test_a_truncated_shard(root: Path) -> None:
    shard = root / "clips-00000.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    assert f"{len(data) - 1:,} bytes" in refused(root)
    shard.unlink()
    assert "is missing" in refused(root)


def test_a_shard_cut_after_opening_is_an_error_not_a_crash(root: Path) -> None:
    store = ClipStore(root)
    (root / "clips-00000.safetensors").write_bytes(b"")
    with pytest.raises(MtzooError, match="changed after"):
        store.read(store.entries()[0])


@pytest.mark.parametrize("at", [0, 7, 8, 20])
def test_a_damaged_shard_header(root: Path, at: int) -> None:
    shard = root / "clips-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[at] ^= 0xFF
    shard.write_bytes(data)
    assert "damaged" in refused(root)


def test_verify_finds_a_flipped_bit(root: Path) -> None:
    shard = root / "clips-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    store = ClipStore(root)
    with pytest.raises(MtzooError, match="SHA-256"):
        store.verify()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", ""])
def test_a_manifest_cannot_point_out_of_its_folder(root: Path, name: str) -> None:
    shard = json.loads((root / "manifest.json").read_text())["shards"][0]
    change(root, shards=[{**shard, "file": name}])
    assert "no file name" in refused(root)


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames": 8},
        {"frames": None},
        {"key": "z"},
        {"shard": "clips-00001.safetensors"},
        {"splits": {"time": [["train", 0, 7], ["test", 6, 9]]}},
        {"splits": {"time": [["train", 0, 10]]}},
        {"splits": {"time": [["train", -1, 3]]}},
        {"splits": 3},
        {"labels": None},
        {"source_range": [1]},
        {"id": "b"},
    ],
)
def test_an_entry_that_contradicts_itself(root: Path, wrong: dict[str, object]) -> None:
    entries = json.loads((root / "manifest.json").read_text())["entries"]
    change(root, entries=[{**entries[0], **wrong}, *entries[1:]])
    assert "damaged" in refused(root)


@pytest.mark.parametrize(
    "key", ["shards", "entries", "resolution", "channels", "fps", "split_by", "source"]
)
def test_a_manifest_without_a_key(root: Path, key: str) -> None:
    manifest = json.loads((root / "manifest.json").read_text())
    del manifest[key]
    (root / "manifest.json").write_text(json.dumps(manifest))
    assert f"misses {key!r}" in refused(root)


def test_unknown_splits_are_named(root: Path) -> None:
    store = ClipStore(root)
    with pytest.raises(MtzooError, match="Did you mean 'person'"):
        store.entries("train", "persons")
    with pytest.raises(MtzooError, match=r"has no split 'val'.* It has test, train"):
        store.entries("val")
