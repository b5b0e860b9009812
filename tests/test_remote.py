"""A store on a server is the store in the folder: same windows, few bytes, few round trips."""

import multiprocessing
import pickle
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from http_kit import Server
from torch import Tensor

from mtzoo.cli import main
from mtzoo.data import remote as remote_module
from mtzoo.data.datasets.clips import ClipsDataset
from mtzoo.data.inspect import verify
from mtzoo.data.store import ClipStore
from mtzoo.data.writer import StoreWriter
from mtzoo.engine.loader import Steps, batches
from mtzoo.errors import MtzooError

SIDE, FRAMES, LENGTH, VIDEOS = 32, 4, 60, 24
WINDOW = FRAMES * SIDE * SIDE * 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 videos of 60 frames in some shards, with a track each."""
    root = tmp_path_factory.mktemp("remote") / "store"
    generator = torch.Generator().manual_seed(0)
    with StoreWriter(
        root, source="made", resolution=SIDE, fps=5.0, split_by=("share",), shard_bytes=1_000_000
    ) as writer:
        for i in range(VIDEOS):
            size = (LENGTH, SIDE, SIDE, 3)
            frames = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
            writer.add(
                f"v{i:02d}",
                frames,
                labels={"person": str(i // 2)},
                splits={"share": [("test" if i < 6 else "train", 0, LENGTH)]},
                source=f"v{i}.mp4",
                source_range=(0, LENGTH),
                tracks={"action": torch.randn(LENGTH, 4, generator=generator)},
            )
        writer.finish()
    return root


@pytest.fixture
def server(root: Path) -> Iterator[Server]:
    with Server(root) as server:
        yield server


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "_PAUSE", 0.01)


def dataset(root: Path | str, **options: object) -> ClipsDataset:
    return ClipsDataset("train", 3, root=str(root), frames=FRAMES, **options)  # type: ignore[arg-type]


def steps(
    root: Path | str, first: int, last: int, workers: int = 0, offset: int = 0, count: int = 0
) -> list[dict[str, Tensor]]:
    pairs = Steps(dataset(root), 8, offset, count)
    return list(batches(pairs, first, last, workers=workers, pin=False))


def same(a: list[dict[str, Tensor]], b: list[dict[str, Tensor]]) -> bool:
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x)
        for x, y in zip(a, b, strict=True)
    )


def refused(url: str) -> str:
    def read() -> None:
        store = ClipStore(url)
        store.read(store.entries()[0])

    with pytest.raises(MtzooError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_it_is_the_same_store(root: Path, server: Server) -> None:
    here, there = ClipStore(root), ClipStore(server.url + "/")
    assert there.root == server.url
    assert len(here.manifest["shards"]) > 3
    assert here.entries("train") == there.entries("train")
    for entry in here.entries("test"):
        assert torch.equal(here.read(entry, 3, 7, 5), there.read(entry, 3, 7, 5))
        assert torch.equal(
            here.read_track(entry, "action", 2, 9, 3), there.read_track(entry, "action", 2, 9, 3)
        )
    there.verify()
    assert verify(there).findings == verify(here).findings


def test_training_reads_what_it_needs_and_no_more(root: Path, server: Server) -> None:
    expected = steps(root, 0, 6)
    opened = ClipStore(server.url)
    before = server.sent
    assert before < 20_000  # the manifest
    del opened
    assert same(steps(server.url, 0, 6), expected)
    windows = 2 * 8 * 6 * WINDOW
    headers = len(list(root.glob("*.safetensors"))) * ((1 << 16) + 1)
    assert windows <= server.sent - 2 * before <= windows + headers


def test_ranks_read_their_own_share(root: Path) -> None:
    whole = steps(root, 0, 4)
    parts, asked = [], []
    for rank in range(2):
        with Server(root) as server:
            parts.append(steps(server.url, 0, 4, offset=4 * rank, count=4))
            asked.append([r for r in server.requests if r[2] - r[1] + 1 == WINDOW])
    for step, one, two in zip(whole, *parts, strict=True):
        for key in step:
            assert torch.equal(step[key], torch.cat([one[key], two[key]]))
    assert [len(requests) for requests in asked] == [4 * 4 * 2] * 2


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_resuming_at_a_step_gives_its_batches(root: Path, server: Server, workers: int) -> None:
    assert same(steps(server.url, 5, 9, workers), steps(root, 0, 9)[5:])


def test_epochs_are_shuffled(root: Path, server: Server) -> None:
    store = ClipStore(server.url)
    videos = [store.read(entry) for entry in store.entries("train")]
    seen = []
    for step in steps(server.url, 0, 9):  # four epochs of 18
        for clip in step["video"]:
            starts = range(LENGTH - FRAMES + 1)
            found = [
                i
                for i, video in enumerate(videos)
                if any(torch.equal(clip, video[s : s + FRAMES]) for s in starts)
            ]
            seen += found
    epochs = [seen[i : i + 18] for i in range(0, 72, 18)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(18))] * 4
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_batch_is_about_one_round_trip(root: Path) -> None:
    """Many requests under way at once, against one after another, in one run."""
    with Server(root, delay=0.05) as server:
        pairs = dataset(server.url)
        pairs.batch(range(40))  # headers
        server.most = 0
        began = time.perf_counter()
        together = pairs.batch(range(100, 108))
        fast = time.perf_counter() - began
        assert server.most >= 8
        began = time.perf_counter()
        singly = [pairs.store.read(*w, FRAMES) for i in range(100, 108) for w in pairs._pair(i)[:2]]
        slow = time.perf_counter() - began
    assert torch.equal(torch.stack(singly[::2]), together["video"])
    assert slow > 4 * fast


def read_there(pairs: ClipsDataset) -> Tensor:
    return pairs.batch([7, 8])["video"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_connect_anew(root: Path, server: Server, method: str) -> None:
    pairs = dataset(server.url)
    expected = pairs.batch([7, 8])["video"]  # connections are open now
    assert torch.equal(read_there(pickle.loads(pickle.dumps(pairs))), expected)
    context = multiprocessing.get_context(method)
    with context.Pool(1) as pool:
        assert torch.equal(pool.apply_async(read_there, (pairs,)).get(60), expected)


# Faults


def test_failures_that_pass_are_tried_again(root: Path) -> None:
    with Server(root, failing=3) as server:
        assert same(steps(server.url, 0, 2), steps(root, 0, 2))


def test_failures_that_stay_are_one_line(root: Path) -> None:
    with Server(root, failing=1000) as server:
        assert "cannot be read: 503" in refused(server.url)


def test_a_server_without_ranges_is_named_and_not_read(root: Path) -> None:
    with Server(root, ranges=False) as server:
        assert "does not give parts of files (HTTP ranges)" in refused(server.url)
        assert server.sent < 1_500_000  # some of one shard was on its way, of six


def test_nothing_there(root: Path, server: Server) -> None:
    assert f"no clip store at {server.url}/other" in refused(server.url + "/other")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x"
        assert f"{url}/manifest.json cannot be read" in refused(url)


@pytest.mark.parametrize("lost", ["one byte", "all", "the file"])
def test_a_shard_that_changed(root: Path, tmp_path: Path, lost: str) -> None:
    copy = tmp_path / "store"
    shutil.copytree(root, copy)
    shard = copy / ClipStore(copy).entries()[0].shard
    data = shard.read_bytes()
    if lost == "the file":
        shard.unlink()
    else:
        shard.write_bytes(data[:-1] if lost == "one byte" else b"")
    with Server(copy) as server:
        assert shard.name in refused(server.url)


def test_a_hostile_manifest_names_no_other_files(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(root, copy)
    manifest = copy / "manifest.json"
    text = manifest.read_text()
    for name in ("../clips", "http://elsewhere/clips", "a?b/../../c"):
        manifest.write_text(text.replace('"file": "clips', f'"file": "{name}'))
        with Server(copy) as server:
            assert "no file name" in refused(server.url)
            assert server.requests == []


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("file:///tmp", "begins with one of http://"),
        ("ssh://host/x", "begins with one of http://"),
        ("simplecache::http://host/x", "no clip store"),
        ("http://host/x::memory://y", "begins with one of http://"),
        ("http://host/x?token=1", "must end in the store's folder"),
    ],
)
def test_other_addresses_are_refused(url: str, part: str) -> None:
    assert part in refused(url)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(protocol: str, **_: object) -> None:
        raise ImportError(f"Install s3fs to access {protocol}")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    assert "pip install 's3fs'" in refused("s3://bucket/store")


def test_other_protocols_go_the_same_way(root: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in root.iterdir():
        memory.pipe_file(f"/bucket/store/{path.name}", path.read_bytes())
    try:
        assert same(steps("memory://bucket/store", 0, 3), steps(root, 0, 3))
        memory.rm(f"/bucket/store/{ClipStore(root).entries()[0].shard}")
        assert "cannot be read" in refused("memory://bucket/store")
    finally:
        memory.rm("/bucket", recursive=True)


# From the command line


def test_show_and_fit_from_a_server(
    root: Path, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    assert main(["data", "show", server.url, "--output", str(sheet)]) == 0
    assert sheet.exists()
    assert main(["data", "show", server.url]) == 2
    assert "--output" in capsys.readouterr().err
    words = [
        "fit",
        "--recipe",
        "recipes/dual_mtgan_weizmann.yaml",
        "--output",
        str(tmp_path / "run"),
    ]
    options = {
        "data.root": server.url,
        "data.source": "",
        "data.split_by": "share",
        "data.stride": 1,
        "model.content_encoder.width": 4,
        "model.motion_encoder.width": 4,
        "model.motion_generator.hidden": 8,
        "model.image_generator.width": 4,
        "model.image_discriminator.width": 4,
        "model.video_discriminator.width": 4,
        "engine.steps": 2,
        "engine.batch_size": 2,
        "engine.workers": 1,
        "engine.evaluate_pairs": 2,
    }
    for key, value in options.items():
        words += [f"--{key}", str(value)]
    status = main(words)
    assert status == 0, capsys.readouterr().err
