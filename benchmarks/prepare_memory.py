"""Peak memory of ``mtzoo prepare bair`` at two sizes: it must not grow with the set.

    python benchmarks/prepare_memory.py [--sequences 256 2048] [--workers 2]

Makes tfrecords with the documented keys (both cameras, 30 frames of 64x64 of noise), prepares them
in a process of their own and watches that process and its workers: memory of their own (anonymous
pages) and all of it, pages of files that the system may drop at any time included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import google_crc32c
import numpy as np
from google.protobuf.internal.encoder import _VarintBytes  # the wire format's numbers


def field(number: int, content: bytes) -> bytes:
    return _VarintBytes(number << 3 | 2) + _VarintBytes(len(content)) + content


def masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32)


def record(generator: np.random.Generator) -> bytes:
    pairs = []
    for t in range(30):
        for camera in ("aux1", "main"):
            picture = field(1, field(1, generator.bytes(64 * 64 * 3)))
            pairs.append((f"{t}/image_{camera}/encoded", picture))
        for name, count in (("action", 4), ("endeffector_pos", 3)):
            numbers = generator.normal(size=count).astype("<f4").tobytes()
            pairs.append((f"{t}/{name}", field(2, field(1, numbers))))
    features = b"".join(field(1, field(1, k.encode()) + field(2, v)) for k, v in pairs)
    data = field(1, features)
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def make(folder: Path, sequences: int) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for first in range(0, sequences, 256):
        path = folder / f"traj_{first}_to_{first + 255}.tfrecords"
        with path.open("wb") as file:
            for _ in range(min(256, sequences - first)):
                file.write(record(generator))


def memory(group: int) -> tuple[int, int]:
    """Anonymous and all proportional memory of a process group, in bytes."""
    own = everything = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            stat = (process / "stat").read_text().rpartition(")")[2].split()
            if int(stat[2]) != group:
                continue
            for line in (process / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss_Anon:"):
                    own += 1024 * int(line.split()[1])
                elif line.startswith("Pss:"):
                    everything += 1024 * int(line.split()[1])
        except OSError:  # it has just ended
            continue
    return own, everything


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, nargs="+", default=[256, 2048])
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    print(
        f"{'sequences':>9}  {'source GB':>9}  {'own MB':>7}  {'with pages of files MB':>22}  videos"
    )
    for sequences in args.sequences:
        with tempfile.TemporaryDirectory() as scratch:
            source, output = Path(scratch) / "source", Path(scratch) / "store"
            make(source / "train", sequences)
            size = sum(path.stat().st_size for path in source.rglob("*.tfrecords"))
            command = [
                sys.executable,
                "-m",
                "mtzoo",
                "prepare",
                "bair",
                "--camera",
                "both",
                "--json",
            ]
            command += ["--source", str(source), "--output", str(output)]
            command += ["--workers", str(args.workers)]
            with tempfile.TemporaryFile("w+") as told:
                process = subprocess.Popen(command, stdout=told, start_new_session=True)
                peaks = [0, 0]
                while process.poll() is None:
                    peaks = [max(pair) for pair in zip(peaks, memory(process.pid), strict=True)]
                    time.sleep(0.05)
                told.seek(0)
                videos = len(json.load(told)["used"])
            print(
                f"{sequences:>9}  {size / 1e9:>9.2f}  {peaks[0] / 1e6:>7.0f}  "
                f"{peaks[1] / 1e6:>22.0f}  {videos}",
                flush=True,
            )
            shutil.rmtree(output, ignore_errors=True)
    os.sync()


if __name__ == "__main__":
    main()
