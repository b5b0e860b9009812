"""What `mtzoo prepare videos` takes beside what ffmpeg alone takes for the same files.

    python benchmarks/decode.py [FOLDER ...] [--crop face] [--workers 2] [--rounds 5]

ffmpeg decodes every file, cuts the central square and scales it to 64x64 RGB; ours does so too, or
looks for the face or the person and cuts there. Both have as many processes at once as there are
workers and one decoding thread in each. ffmpeg throws its pictures away; ours cross from process to
process and are stored, hashed and written to disk.

The two run in turn, round by round; what counts is the median of the rounds' ratios. ``cpu`` is the
processors' time, user and system, of all processes together, and hardly depends on what else the
machine does; ``wall`` is the time from the list of files to the finished store, and does. A round
before the first, in which the worker processes import torch (once, some two seconds), is not
counted. Linux only, as it reads ``/proc``.

Without folders it makes its own: six 1920x1080 H.264 files of 10 seconds at 50 frames a second, of
three heads drawn before a still wall, which sway, with a camera's noise.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFilter

from mtzoo.data.prepare.sources import find_videos
from mtzoo.data.prepare.videos import prepare_videos

SIDE = 64
CROPS = ("centre", "face", "person", "none")


class Cost(NamedTuple):
    """Seconds."""

    wall: float
    cpu: float


def head(side: int) -> Image.Image:
    """A head that a face detector takes for one, on nothing."""
    picture = Image.new("RGBA", (side, round(1.4 * side)), (60, 50, 40, 0))
    draw = ImageDraw.Draw(picture)
    # Centre, width and height in shares of the side; hair, skin, then what lies on it.
    for x, y, width, height, colour in (
        (0.5, 0.70, 1.0, 1.35, (60, 50, 40)),
        (0.5, 0.75, 0.8, 1.1, (205, 160, 130)),
        *((x, 0.61, 0.24, 0.12, (130, 90, 75)) for x in (0.32, 0.68)),
        *((x, 0.62, 0.16, 0.09, (40, 35, 30)) for x in (0.32, 0.68)),
        *((x, 0.54, 0.26, 0.04, (75, 60, 50)) for x in (0.32, 0.68)),
        (0.5, 0.77, 0.08, 0.3, (225, 185, 160)),
        (0.5, 0.88, 0.16, 0.05, (150, 105, 90)),
        (0.5, 1.03, 0.3, 0.07, (130, 60, 60)),
    ):
        x, y, width, height = (side * share for share in (x, y, width / 2, height / 2))
        draw.ellipse([x - width, y - height, x + width, y + height], fill=colour)
    return picture.filter(ImageFilter.GaussianBlur(side / 90))


def make(folder: Path) -> None:
    """Write the footage described above."""
    folder.mkdir()
    for i, side in enumerate((380, 440, 500)):
        picture = folder.parent / f"{i}.png"
        head(side).save(picture)
        place = f"x='{700 - 80 * i}+60*sin(t+{i})':y='{200 + 30 * i}+20*sin(2*t)'"
        command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i"]
        command += ["gradients=s=1920x1080:r=50:d=10:speed=0.00001:c0=gray:c1=steelblue:seed=1"]
        command += ["-loop", "1", "-r", "50", "-i", str(picture), "-filter_complex"]
        command += [f"[0][1]overlay={place}:shortest=1,noise=alls=6:allf=t,format=yuv420p"]
        command += ["-preset", "veryfast", "-crf", "20", str(folder / f"{i}.mp4")]
        subprocess.run(command, check=True)
        os.link(folder / f"{i}.mp4", folder / f"{i} again.mp4")


def ffmpeg(files: list[Path], workers: int) -> None:
    """Decode and scale the files by ffmpeg, so many at once."""

    def one(path: Path) -> None:
        square = f"crop=w='min(iw,ih)':h='min(iw,ih)',scale={SIDE}:{SIDE}"
        command = ["ffmpeg", "-v", "quiet", "-threads", "1", "-i", str(path), "-vf", square]
        command += ["-pix_fmt", "rgb24", "-f", "rawvideo", "-y", "/dev/null"]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, files))


def ours(folder: Path, crop: str, workers: int) -> int:
    """Prepare the folder and give how many frames were stored."""
    with tempfile.TemporaryDirectory() as scratch:
        report = prepare_videos(
            folder,
            Path(scratch) / "store",
            crop=crop,  # type: ignore[arg-type]  # argparse knows the choices
            min_frames=1,
            keep_damaged=True,
            workers=workers,
        )
        return report.frames


def children(process: int | str) -> list[int]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def processor_seconds() -> float:
    """Processors' time so far of this process, its children, and theirs that have ended."""
    ticks = 0
    for child in children("self"):  # the server from which workers are forked
        while children(child):  # a worker that was told to end and has not yet
            time.sleep(0.01)
        ticks += sum(int(n) for n in Path(f"/proc/{child}/stat").read_text().split()[13:17])
    return sum(os.times()[:4]) + ticks / os.sysconf("SC_CLK_TCK")


def cost(work: Callable[[], object]) -> Cost:
    cpu, wall = processor_seconds(), time.perf_counter()
    work()
    wall = time.perf_counter() - wall
    return Cost(wall, processor_seconds() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--crop", choices=CROPS, default="centre")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if shutil.which("ffmpeg") is None:
        parser.error("there is no ffmpeg; install it first")
    with tempfile.TemporaryDirectory() as scratch:
        folders = args.folders
        if not folders:
            folders = [Path(scratch) / "1080p"]
            make(folders[0])
        print(f"crop {args.crop}, {args.workers} workers, medians of {args.rounds} rounds")
        print(f"{'':<20} files frames  cpu ms a frame: ffmpeg  ours  ffmpeg/ours: cpu   wall")
        for folder in folders:
            files = [video.path for video in find_videos(folder).videos if video.kind == "file"]
            frames = ours(folder, args.crop, args.workers)
            both = (
                partial(ffmpeg, files, args.workers),
                partial(ours, folder, args.crop, args.workers),
            )
            rounds = [tuple(cost(work) for work in both) for _ in range(args.rounds)]
            theirs, mine = (1e3 * statistics.median(r[i].cpu for r in rounds) for i in (0, 1))
            cpu = statistics.median(a.cpu / b.cpu for a, b in rounds)
            wall = statistics.median(a.wall / b.wall for a, b in rounds)
            print(
                f"{folder.name:<20} {len(files):>5} {frames:>6} {theirs / frames:>23.2f} "
                f"{mine / frames:>5.2f} {cpu:>17.2f} {wall:>6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
