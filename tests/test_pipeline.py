"""What every preparation shares: order, workers, going on after a kill, reports, full disks."""

import errno
import functools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from mtzoo.data import writer as writer_module
from mtzoo.data.prepare.pipeline import LeftOut, Preparation, Stored, Video, run
from mtzoo.data.store import ClipStore
from mtzoo.data.writer import StoreWriter
from mtzoo.errors import MtzooError

SIDE = 8


@dataclass(frozen=True)
class Made:
    """A task whose name says what becomes of it."""

    source: str
    videos: int = 1


def frames(name: str) -> np.ndarray:
    generator = np.random.default_rng(list(name.encode()))
    return generator.integers(0, 256, (5 + len(name), SIDE, SIDE, 3), np.uint8)


def work(log: str, task: Made) -> Sequence[Video | LeftOut]:
    if log:
        with open(log, "a") as file:
            file.write(task.source + "\n")
    if "broken" in task.source:
        raise MtzooError(f"/somewhere/{task.source}: it is broken")
    if "crash" in task.source:
        os.kill(os.getpid(), signal.SIGKILL)
    if "slow" in task.source:
        time.sleep(0.3)
    if "stop" in task.source:
        raise KeyboardInterrupt
    return made(task)


def made(task: Made) -> list[Video]:
    pictures = frames(task.source)
    action = np.arange(2 * len(pictures), dtype=np.float32).reshape(-1, 2)
    return [
        Video(
            id=task.source.removeprefix("copy of "),
            frames=pictures,
            fps=25.0 + len(task.source),
            source=task.source,
            source_range=(0, len(pictures)),
            labels={"person": task.source[0]},
            tracks={"action": action} if "tracked" in task.source else {},
            about={"brightness": round(float(pictures.mean()), 2)},
        )
    ]


def split(stored: Sequence[Stored]) -> dict:
    return {
        video.id: {"share": [("test" if i == 0 else "train", 0, video.frames)]}
        for i, video in enumerate(stored)
    }


def notes(stored: Sequence[Stored]) -> list[str]:
    return [f"{len(stored)} are stored"]


def preparation(root: Path, names: Sequence[str], log: str = "", **changes: object) -> Preparation:
    source = root / "source"
    source.mkdir(exist_ok=True)
    for name in names:
        if not (source / name).exists():
            (source / name).write_text(name)
    given = {
        "source_set": "made",
        "source": source,
        "output": root / "store",
        "resolution": SIDE,
        "options": {"margin": 2},
        "files": [source / name for name in names],
        "tasks": [Made(name) for name in names],
        "work": functools.partial(work, log),
        "split_by": ("share",),
        "split": split,
        "notes": notes,
        "decoder": {"name": "none", "version": "0"},
    }
    return Preparation(**{**given, **changes})


def content(root: Path) -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in root.iterdir()}
    report = json.loads(files.pop("report.json"))
    del report["seconds"], report["output"]
    return {**files, "report": json.dumps(report).encode()}


def small_shards(monkeypatch: pytest.MonkeyPatch, size: int = 3000) -> None:
    defaults = StoreWriter.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "shard_bytes", size)


NAMES = (
    "alpha",
    "beta tracked",
    "gamma broken",
    "delta",
    "epsilon",
    "zeta tracked",
    "copy of alpha",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of one undisturbed run in this process."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        small_shards(patch)
        run(preparation(root, NAMES))
    return root


def test_what_comes_out(whole: Path) -> None:
    assert sorted(path.name for path in whole.iterdir()) == ["source", "store"]
    store = ClipStore(whole / "store")
    store.verify()
    assert len(store.manifest["shards"]) == 3
    assert [e.id for e in store.entries()] == [
        "alpha",
        "beta tracked",
        "delta",
        "epsilon",
        "zeta tracked",
    ]
    for entry in store.entries():
        assert np.array_equal(store.read(entry).numpy(), frames(entry.id))
    assert [e.id for e in store.entries("test")] == ["alpha"]
    assert len(store.entries("train")) == 4
    assert store.manifest["left_out"] == [
        {"source": "gamma broken", "reason": "it is broken"},
        {"source": "copy of alpha", "reason": "alpha is the same sequence, alpha"},
    ]
    assert store.fps == 25.0 + 7  # the median of 30, 37, 30, 32, 37
    report = json.loads((whole / "store" / "report.json").read_text())
    assert (report["found"], len(report["used"]), len(report["skipped"])) == (7, 5, 2)
    assert report["frames"] == sum(e.frames for e in store.entries())
    assert report["bytes"] == report["frames"] * SIDE * SIDE * 3
    assert report["notes"] == ["5 are stored"]
    assert report["used"][0]["brightness"] == round(float(frames("alpha").mean()), 2)


def test_tracks_are_stored_beside_the_frames(whole: Path) -> None:
    store = ClipStore(whole / "store")
    assert store.manifest["version"] == 2
    entry = next(e for e in store.entries() if e.id == "zeta tracked")
    count = entry.frames
    expected = torch.arange(2.0 * count).reshape(-1, 2)
    assert torch.equal(store.read_track(entry, "action"), expected)


def test_workers_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    small_shards(monkeypatch)
    told: list[tuple[str, int, int]] = []
    report = run(
        preparation(
            tmp_path, NAMES, files=preparation(whole, NAMES).files, source=whole / "source"
        ),
        workers=2,
        progress=lambda *what: told.append(what),
    )
    assert content(report.output) == content(whole / "store")
    assert [done for _, done, _ in told] == list(range(8))
    assert {total for _, _, total in told} == {7}


def test_a_crash_of_a_worker_costs_its_own_video_only(tmp_path: Path) -> None:
    names = ["alpha", "crash one", "beta", "crash two", "gamma", "delta"]
    report = run(preparation(tmp_path, names), workers=2)
    assert [item["id"] for item in report.used] == ["alpha", "beta", "gamma", "delta"]
    assert [item["source"] for item in report.skipped] == ["crash one", "crash two"]
    assert "was killed" in report.skipped[0]["reason"]


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = run(preparation(tmp_path, NAMES, str(log)))
    before = {p: p.stat().st_mtime_ns for p in first.output.iterdir()}
    second = run(preparation(tmp_path, NAMES, str(log)))
    assert len(log.read_text().splitlines()) == len(NAMES)
    assert {p: p.stat().st_mtime_ns for p in first.output.iterdir()} == before
    assert second.unchanged
    assert not first.unchanged
    assert (second.found, second.used, second.skipped) == (first.found, first.used, first.skipped)
    assert "nothing to do" in second.lines()[-1]


@pytest.mark.parametrize(
    ("names", "changes", "says"),
    [
        (NAMES, {"options": {"margin": 3}}, "with other options (margin 2, not 3)"),
        (NAMES, {"options": {}}, "with other options (margin 2, not null)"),
        (NAMES, {"source_set": "found"}, "of another kind of source (made)"),
        (NAMES, {}, "of these files before some of them changed"),
        ((*NAMES, "eta"), {}, "of these files before eta came"),
        (NAMES[1:3], {}, "of these files before alpha, copy of alpha, delta and 2 more went"),
        ((*NAMES[1:], "eta", "theta"), {}, "of these files before eta, theta came and alpha went"),
        (("eta",), {}, "of other files"),
    ],
)
def test_another_store_in_the_way_is_refused_and_kept(
    tmp_path: Path, names: Sequence[str], changes: dict, says: str
) -> None:
    first = run(preparation(tmp_path, NAMES))
    before = content(first.output)
    if names == NAMES and not changes:
        (tmp_path / "source" / "delta").write_text("grown")
    with pytest.raises(MtzooError) as caught:
        run(preparation(tmp_path, names, **changes))
    assert str(caught.value) == (
        f"{first.output} holds a clip store {says}; remove it to prepare it anew, or name "
        "another output folder"
    )
    assert content(first.output) == before


def test_strict_names_the_first_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(MtzooError, match=r"gamma broken: it is broken \(--strict"):
        run(preparation(tmp_path, NAMES), strict=True)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]
    left_out = [LeftOut("x.txt", "it is text")]
    with pytest.raises(MtzooError, match=r"x\.txt: it is text"):
        run(preparation(tmp_path, NAMES, left_out=left_out), strict=True)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_nothing_usable(tmp_path: Path) -> None:
    with pytest.raises(MtzooError, match=r"none of the 2 videos .*broken 1: it is broken"):
        run(preparation(tmp_path, ["broken 1", "broken 2"]))
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_too_many_workers(tmp_path: Path) -> None:
    with pytest.raises(MtzooError, match="workers"):
        run(preparation(tmp_path, NAMES), workers=100_000)


# Going on


def interrupt(root: Path, names: Sequence[str], log: str = "") -> Path:
    """Stop a run at the task named ``stop``; returns the folder that is left."""
    with pytest.raises(KeyboardInterrupt) as caught:
        run(preparation(root, names, log))
    assert "store.partial" in str(caught.value)
    return root / "store.partial"


@pytest.mark.parametrize("at", range(1, 7))
@pytest.mark.parametrize("size", [1, 3000, 2**20])
def test_going_on_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, size: int
) -> None:
    small_shards(monkeypatch, size)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    names = [*NAMES[:at], "here we go on", *NAMES[at:]]
    source = preparation(tmp_path / "two", names).source
    there = {"source": source, "files": [source / name for name in names]}
    left_out = [LeftOut("notes.txt", "it is text")]
    one = run(preparation(tmp_path / "one", names, **there, left_out=left_out)).output

    log = tmp_path / "log"
    stopping = preparation(tmp_path / "two", names, str(log), left_out=left_out)

    def stop(task: Made) -> Sequence[Video | LeftOut]:
        if task.source == "here we go on":
            raise KeyboardInterrupt
        return work(str(log), task)

    with pytest.raises(KeyboardInterrupt):
        run(preparation(tmp_path / "two", names, left_out=left_out, work=stop))
    assert not (tmp_path / "two" / "store").exists()
    two = run(stopping).output
    assert sorted(log.read_text().splitlines()) == sorted(names)
    assert content(one) == content(two)


def test_seconds_are_those_of_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("mtzoo.data.prepare.pipeline.time.monotonic", lambda: clock[0])

    def slowly(task: Made) -> Sequence[Video | LeftOut]:
        if task.source == "here we go on":
            clock[0] += 3.0  # lost
            raise KeyboardInterrupt
        clock[0] += 10.0
        return work("", task)

    names = ["alpha", "beta", "here we go on", "gamma"]
    with pytest.raises(KeyboardInterrupt):
        run(preparation(tmp_path, names, work=slowly))
    clock[0] += 500.0
    report = run(preparation(tmp_path, names))
    assert report.seconds == pytest.approx(20.0)


@pytest.mark.parametrize(
    "damage", ["half a line", "no frames", "other frames", "frames beyond", "a shard half written"]
)
def test_what_a_kill_left_half_is_done_again(tmp_path: Path, damage: str) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    names = ["alpha", "beta", "stop", "gamma"]
    partial = interrupt(tmp_path / "two", names)
    journal, spool = partial / "journal.jsonl", partial / "spool.bin"
    if damage == "half a line":
        journal.write_bytes(journal.read_bytes()[:-20])
    elif damage == "no frames":
        spool.write_bytes(spool.read_bytes()[:1000])
    elif damage == "other frames":
        spool.write_bytes(bytes([7]) + spool.read_bytes()[1:])
    elif damage == "frames beyond":
        with spool.open("ab") as file:
            file.write(b"half a video")
    else:
        (partial / "clips-00000.safetensors").write_bytes(b"half")
    source = partial.parent / "source"
    there = {"source": source, "files": [source / name for name in names]}
    fresh = {"work": made}
    two = run(preparation(tmp_path / "two", names, **fresh)).output
    one = run(preparation(tmp_path / "one", names, **there, **fresh)).output
    ClipStore(two).verify()
    assert content(one) == content(two)


def test_other_options_do_not_go_on_and_lose_nothing(tmp_path: Path) -> None:
    partial = interrupt(tmp_path, ["alpha", "stop"])
    before = {p.name: p.read_bytes() for p in partial.iterdir()}
    with pytest.raises(MtzooError, match="unfinished preparation"):
        run(preparation(tmp_path, ["alpha", "stop"], options={"margin": 9}))
    assert {p.name: p.read_bytes() for p in partial.iterdir()} == before


def test_two_at_once(tmp_path: Path) -> None:
    about = {"source": "s", "resolution": 4, "fps": 1.0, "split_by": ("time",), "resume": "key"}
    with StoreWriter(tmp_path / "store", **about):
        with pytest.raises(MtzooError, match="another process is preparing"):
            StoreWriter(tmp_path / "store", **about)
        assert (tmp_path / "store.partial").exists()
    assert not (tmp_path / "store.partial").exists()


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "store.partial").mkdir()
    (tmp_path / "store.partial" / "mine").write_text("precious")
    with pytest.raises(MtzooError, match="is in the way"):
        run(preparation(tmp_path, NAMES))
    assert (tmp_path / "store.partial" / "mine").read_text() == "precious"


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_outright(tmp_path: Path, workers: int) -> None:
    """SIGKILL in the middle, workers die with it, the next run gives what one run gives."""
    names = ["alpha", "beta tracked", "slow c", "slow d", "slow e", "slow f", "slow g", "slow h"]
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        import test_pipeline as t
        if __name__ == "__main__":
            t.run(t.preparation(Path({str(tmp_path)!r}), {names!r}), workers={workers})
        """)
    )
    process = subprocess.Popen([sys.executable, str(script)], start_new_session=True)
    journal = tmp_path / "store.partial" / "journal.jsonl"
    end = time.monotonic() + 60
    while not journal.exists() or len(journal.read_bytes().splitlines()) < 4:
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (tmp_path / "store").exists()
    end = time.monotonic() + 20
    while group_lives(process.pid):
        assert time.monotonic() < end, "worker processes outlived their parent"
        time.sleep(0.05)
    log = tmp_path / "log"
    report = run(preparation(tmp_path, names, str(log)))
    assert 0 < len(log.read_text().splitlines()) < len(names)
    (tmp_path / "other").mkdir()
    source = tmp_path / "source"
    files = [source / name for name in names]
    other = run(preparation(tmp_path / "other", names, source=source, files=files))
    assert content(report.output) == content(other.output)


def large(task: Made) -> list[Video]:
    """A result that is long under way from process to process."""
    pictures = np.zeros((4000, 64, 64, 3), np.uint8)
    return [Video(id=task.source, frames=pictures, fps=25, source=task.source, source_range=(0, 1))]


def test_the_end_does_not_wait_for_what_a_worker_was_sending(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_pipeline as t
        from mtzoo.data.prepare.pipeline import _outcomes
        if __name__ == "__main__":
            for _ in range(5):
                outcomes = _outcomes(t.large, [t.Made(str(i)) for i in range(8)], 2)
                next(outcomes)
                outcomes.close()
        """)
    )
    process = subprocess.Popen([sys.executable, str(script)], start_new_session=True)
    try:
        assert process.wait(timeout=120) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def nothing(task: Made) -> list[Video]:
    """No result."""
    return []


@pytest.mark.parametrize("beginner", ["fork server", "worker"])
def test_ctrl_c_while_processes_begin_is_the_parent_s_alone(tmp_path: Path, beginner: str) -> None:
    # The whole group hears it, as from a terminal: as the fork server begins, which could not see
    # to signals yet, or when a worker was asked for and not yet told what to begin with.
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
        import os, signal, sys
        if {beginner == "fork server"} and "forkserver" in " ".join(sys.orig_argv):
            os.killpg(0, signal.SIGINT)
        """)
    )
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, signal, sys
        from multiprocessing import forkserver
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_pipeline as t
        from mtzoo.data.prepare.pipeline import _outcomes
        connect, asked = forkserver.connect_to_new_process, []
        def interrupted(fds):
            asked.append(connect(fds))
            if len(asked) == 2:  # the fork server is there by now
                os.killpg(0, signal.SIGINT)
            return asked[-1]
        if __name__ == "__main__":
            # Ignored, if the tests run behind a shell's "&", and then by all that they start.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if {beginner == "worker"}:
                forkserver.connect_to_new_process = interrupted
            try:
                list(_outcomes(t.nothing, [t.Made(str(i)) for i in range(9)], 2))
                signal.pause()
            except KeyboardInterrupt:
                print("heard", flush=True)
        """)
    )
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "heard\n", "")


def group_lives(group: int) -> bool:
    """Whether any process of a process group is more than a zombie."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            return True
    return False


# Disks


def test_a_full_disk_keeps_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    appended = StoreWriter._append
    left = [2]

    def append(self: StoreWriter, key: str, values: torch.Tensor) -> None:
        left[0] -= 1
        if left[0] < 0:
            self._spool.write(b"half a frame")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        appended(self, key, values)

    monkeypatch.setattr(StoreWriter, "_append", append)
    with pytest.raises(
        MtzooError, match="No space left on device; what was done is kept"
    ) as caught:
        run(preparation(tmp_path, ["alpha", "beta", "gamma"]))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()
    left[0] = 100
    report = run(preparation(tmp_path, ["alpha", "beta", "gamma"]))
    assert [item["id"] for item in report.used] == ["alpha", "beta", "gamma"]
    ClipStore(report.output).verify()


def test_a_full_disk_at_the_first_video_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(StoreWriter, "_append", full)
    with pytest.raises(MtzooError, match="nothing was left there"):
        run(preparation(tmp_path, ["alpha"]))
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_memory_does_not_grow_with_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard is written from the mapped spool: its tensors are never all in memory at once."""
    copied: list[int] = []
    saved = writer_module.save_file

    def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
        copied.append(len({t.untyped_storage().data_ptr() for t in tensors.values()}))
        saved(tensors, path)

    monkeypatch.setattr(writer_module, "save_file", save)
    run(preparation(tmp_path, ["alpha", "beta tracked", "gamma"]))
    assert copied == [1]  # views of one mapping
