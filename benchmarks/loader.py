"""How fast a clip store feeds training: pairs a second through the loader that `fit` uses.

    python benchmarks/loader.py [--store DIR] [--workers 0 1 2] [--batch 32] [--remote]

A pair is what one place in a batch needs: 16 frames of 64x64 of V and as many of V_y. Without a
store it makes one of noise (400 videos of 60 frames). Everything is read once before, so that it
lies in the page cache. Beside each rate stands its share of what copying the same bytes within
memory takes in the same run, which no loader of these bytes can exceed on one core. With --remote
the same store is read over HTTP from a server on this machine, too, whose answers are held back
by 30 ms, as far servers' are: one range at a time, and as the dataset asks for them.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from mtzoo.data.datasets.clips import ClipsDataset
from mtzoo.data.writer import StoreWriter
from mtzoo.engine.loader import Steps, batches

FRAMES, SIDE = 16, 64


def make(root: Path, videos: int = 400, frames: int = 60) -> None:
    generator = torch.Generator().manual_seed(0)
    with StoreWriter(root, source="made", resolution=SIDE, fps=25.0, split_by=("share",)) as writer:
        for i in range(videos):
            size = (frames, SIDE, SIDE, 3)
            noise = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
            splits = {"share": [("train", 0, frames)]}
            name = f"v{i:04d}"
            writer.add(name, noise, labels={}, splits=splits, source=name, source_range=(0, frames))
        writer.finish()


def memcpy(batch: int) -> float:
    """Pairs a second by copying alone, windows from all over a large tensor."""
    store = torch.zeros(300_000_000, dtype=torch.uint8)
    window = FRAMES * SIDE * SIDE * 3
    target = torch.empty(2 * batch, window, dtype=torch.uint8)
    starts = torch.randint(0, len(store) - window, (50, 2 * batch)).tolist()
    began = time.perf_counter()
    for row in starts:
        for i, start in enumerate(row):
            target[i].copy_(store[start : start + window])
    return 50 * batch / (time.perf_counter() - began)


def rate(pairs: ClipsDataset, batch: int, workers: int, seconds: float) -> float:
    """Pairs a second, once the workers are there."""
    with contextlib.closing(
        batches(Steps(pairs, batch), 0, 10**9, workers=workers, pin=False)
    ) as steps:
        for _ in range(2 * workers + 2):
            next(steps)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            next(steps)
            count += batch
        return count / (time.perf_counter() - began)


def compare(settings: dict[str, Callable[[], float]], repeats: int) -> Iterator[tuple[str, float]]:
    """The settings in turn, over and over; the median of each."""
    found: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(repeats):
        for name, measure in settings.items():
            found[name].append(measure())
    for name, rates in found.items():
        yield name, statistics.median(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--remote", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = args.store or Path(scratch) / "store"
        if args.store is None:
            make(root)
        for shard in root.glob("*.safetensors"):
            shard.read_bytes()
        pairs = ClipsDataset("train", 0, root=str(root), frames=FRAMES)
        settings: dict[str, Callable[[], float]] = {"copying alone": lambda: memcpy(args.batch)}
        for workers in args.workers:
            settings[f"{workers} workers"] = lambda workers=workers: rate(
                pairs, args.batch, workers, args.seconds
            )
        with contextlib.ExitStack() as stack:
            if args.remote:
                sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
                from http_kit import Server

                server = stack.enter_context(Server(root, delay=0.03))
                far = ClipsDataset("train", 0, root=server.url, frames=FRAMES)
                settings["remote, together"] = lambda: rate(far, args.batch, 0, args.seconds)
                settings["remote, one by one"] = lambda: one_by_one(far, args.seconds)
            results = dict(compare(settings, args.repeats))
        ceiling = results["copying alone"]
        for name, found in results.items():
            print(f"{name:<20} {found:>8,.0f} pairs/s  {found / ceiling:>5.2f} of copying")


def one_by_one(pairs: ClipsDataset, seconds: float) -> float:
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        pairs[count]
        count += 1
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
