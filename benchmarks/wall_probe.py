"""What a classifier of actions goes by, and how well a camera's motion is found: Weizmann.

    python benchmarks/wall_probe.py --source DIR --classifiers DIR

Windows of the paper's test parts are put together anew from their silhouettes, so that persons are
real and what lies behind them is not what it was: a wall that stands still, or that is blurred, or
the wall without persons. The classifiers are those of `mtzoo evaluate --classifiers`. Beside them,
`mtzoo.nn.camera.camera_motion` is compared with how the squares that follow the persons were cut.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from report import markdown
from scipy import ndimage

from mtzoo.data.prepare.crops import plan_crops
from mtzoo.data.prepare.weizmann import crop, takes
from mtzoo.errors import MtzooError
from mtzoo.evaluation import classifiers
from mtzoo.interfaces import as_video
from mtzoo.nn.camera import camera_motion

FRAMES = 16
SIDE = 64
LOCOMOTION = ("jump", "run", "side", "skip", "walk")

_Array = npt.NDArray[np.float64]


class Clip(NamedTuple):
    """A video in pieces: frames, persons' opacity and walls ``(T, SIDE, SIDE, 3)``, up to 255 or 1.

    ``lies`` is where the wall lies in each frame, x and y in pixels, ``(T, 2)``.
    """

    action: str
    frames: _Array
    person: _Array
    wall: _Array
    lies: _Array


def clips(source: Path) -> Iterator[Clip]:
    for _, action, frames, mask in takes(source):
        crops = plan_crops(mask, margin=1.1, smoothing=4.0)
        opacity = np.stack([ndimage.binary_dilation(one, iterations=2) for one in mask])
        opacity = np.repeat(opacity[..., None].astype(np.uint8) * 255, 3, -1)
        empty = np.median(frames, axis=0).astype(np.uint8)
        empty = np.repeat(empty[None], len(frames), axis=0)
        cut, person_, wall = (
            crop(video, crops, SIDE).astype(np.float64) for video in (frames, opacity, empty)
        )
        yield Clip(action, cut, person_ / 255, wall, -crops.centres * SIDE / crops.side)


def soft(video: _Array) -> _Array:
    return ndimage.gaussian_filter(video, (0, 3, 3, 0))


def still(video: _Array) -> _Array:
    return np.repeat(video[FRAMES // 2, None], FRAMES, axis=0)


BEHIND: dict[str, Callable[[_Array], _Array] | None] = {
    "the wall as it is": None,
    "a wall that stands still": still,
    "a blurred wall": soft,
    "a blurred wall that stands still": lambda wall: still(soft(wall)),
}
ALONE = "the wall as it is, nobody before it"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--classifiers", type=Path, required=True)
    args = parser.parse_args()
    try:
        return look(args.source, args.classifiers)
    except MtzooError as error:
        raise SystemExit(str(error)) from None


def look(source: Path, folder: Path) -> int:
    judges, _ = classifiers.load(folder, torch.device("cpu"))
    if "pjump" not in judges.classes["motion"].get("action", ()):
        raise MtzooError(f"--classifiers: those in {folder} know no actions of Weizmann's")

    actions: list[str] = []
    shown: dict[str, list[_Array]] = {name: [] for name in (*BEHIND, ALONE)}
    apart: dict[str, list[torch.Tensor]] = {}
    for clip in clips(source):
        first = 2 * len(clip.frames) // 3
        for start in range(first, len(clip.frames) - FRAMES + 1, FRAMES):
            frames, person, wall, lies = (part[start : start + FRAMES] for part in clip[1:])
            actions.append(clip.action)
            for name, change in BEHIND.items():
                made = person * frames + (1 - person) * change(wall) if change else frames
                shown[name].append(made)
            shown[ALONE].append(wall)
            video = as_video(torch.from_numpy(frames.astype(np.uint8))[None])
            found = camera_motion(video)[0] * SIDE / 2
            true = torch.from_numpy(lies - lies[:1])
            apart.setdefault(clip.action, []).append(found - true)

    rows = []
    for name, videos in shown.items():
        seen = judges.see(torch.from_numpy(np.stack(videos).round().clip(0, 255).astype(np.uint8)))
        right = [a == b for a, b in zip(seen["motion"]["action"], actions, strict=True)]
        by = {
            moving: [r for r, a in zip(right, actions, strict=True) if (a in LOCOMOTION) == moving]
            for moving in (True, False)
        }
        taken = seen["motion"]["action"].count
        rows.append(
            [
                name,
                *(f"{sum(by[moving])} of {len(by[moving])}" for moving in (True, False)),
                str(taken("pjump")),
            ]
        )
    head = ["behind real persons", "across the picture", "in place", "taken for jumping in place"]
    print(markdown(head, rows))

    rows = []
    for action, errors in sorted(apart.items()):
        each = torch.stack(errors)[:, 1:]
        furthest = (each - each.mean(1, keepdim=True)).abs().amax(1)
        step = each.diff(dim=1).abs()
        rows.append(
            [
                action,
                str(len(each)),
                *(f"{v:.2f}" for v in step.flatten(0, 1).median(0).values.tolist()),
                *(f"{v:.2f}" for v in furthest.median(0).values.tolist()),
            ]
        )
    head = ["action", "windows", "a frame: x", "y", f"at most in {FRAMES} frames: x", "y"]
    print("\nPixels by which the camera's motion is missed, medians\n")
    print(markdown(head, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
