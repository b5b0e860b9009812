"""What `mtzoo prepare videos` takes beside what ffmpeg alone takes for the same files.

    python benchmarks/decode.py [FOLDER ...] [--workers 2] [--repeats 5]

Both decode every file, cut the central square and scale it to 64x64 RGB, with as many processes at
once as there are workers and one decoding thread in each. ffmpeg throws its pictures away; ours
cross from process to process and are stored, hashed and written to disk. Ours is timed as in its
report, from the list of files to the finished store. The two run in turn, and the best of each
counts: on a machine that others use, too, the best is what was disturbed least. So the first run,
in which our worker processes import torch (once, some two seconds), does not count.

Without folders it makes its own: four 1920x1080 H.264 files of 8 seconds at 50 frames a second.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mtzoo.data.prepare.sources import find_videos
from mtzoo.data.prepare.videos import prepare_videos

SIDE = 64


def make(folder: Path) -> None:
    folder.mkdir()
    for i in range(4):
        picture = f"testsrc2=size=1920x1080:rate=50:duration=8,hue=h={60 * i},noise=alls=8:allf=t"
        command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", picture, "-pix_fmt", "yuv420p"]
        subprocess.run([*command, "-preset", "veryfast", str(folder / f"{i}.mp4")], check=True)


def ffmpeg(files: list[Path], workers: int) -> float:
    """Seconds that ffmpeg takes for the files, so many at once."""

    def one(path: Path) -> None:
        square = f"crop=w='min(iw,ih)':h='min(iw,ih)',scale={SIDE}:{SIDE}"
        command = ["ffmpeg", "-v", "quiet", "-threads", "1", "-i", str(path), "-vf", square]
        command += ["-pix_fmt", "rgb24", "-f", "rawvideo", "-y", "/dev/null"]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)

    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, files))
    return time.perf_counter() - began


def ours(folder: Path, workers: int) -> tuple[float, int]:
    """Seconds that the preparation takes, and frames that it stores."""
    with tempfile.TemporaryDirectory() as scratch:
        report = prepare_videos(
            folder, Path(scratch) / "store", min_frames=1, keep_damaged=True, workers=workers
        )
        return report.seconds, report.frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if shutil.which("ffmpeg") is None:
        parser.error("there is no ffmpeg; install it first")
    with tempfile.TemporaryDirectory() as scratch:
        folders = args.folders
        if not folders:
            folders = [Path(scratch) / "1080p"]
            make(folders[0])
        print(f"{'':<24} files  frames  ffmpeg frames/s  ours frames/s  ours/ffmpeg")
        for folder in folders:
            files = [video.path for video in find_videos(folder).videos if video.kind == "file"]
            times = [
                (ffmpeg(files, args.workers), *ours(folder, args.workers))
                for _ in range(args.repeats)
            ]
            theirs, mine, frames = min(t[0] for t in times), min(t[1] for t in times), times[0][2]
            print(
                f"{folder.name:<24} {len(files):>5}  {frames:>6}  {frames / theirs:>15,.0f}  "
                f"{frames / mine:>13,.0f}  {theirs / mine:>11.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
