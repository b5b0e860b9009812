"""How soon a motion encoder learns what moves where: told the true poses, on the world of shapes.

    python benchmarks/pose_probe.py [--steps 300] [--clips 4800] [--seed 0]

An encoder that cannot learn poses when it is told them will not find them by itself. Variants of
`c3d`, and `trajectories`, encode clips of 16 frames at 32x32. One linear layer reads position, and
size times cosine and sine of the angle, of all frames off the mean of `c3d`'s code; of that of
`trajectories` a small network reads them frame by frame, from its tracks' values there. All see the
same batches. Printed are root mean square errors on held-out clips, in pixels of a 64x64 frame,
beside what the mean of all poses would score.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from report import markdown
from torch import Tensor, nn
from torch.nn import functional as F

from mtzoo.components.motion_encoders.c3d import C3DMotionEncoder
from mtzoo.components.motion_encoders.trajectories import TrajectoryMotionEncoder
from mtzoo.data.datasets.shapes import Shapes
from mtzoo.data.worlds.base import take
from mtzoo.interfaces import MotionEncoder, as_video
from mtzoo.nn.time import cosines

FRAMES, SIDE, BATCH = 16, 32, 16
BINS = {"time_halvings": 1, "time_bins": 8, "bin_dim": 64}
VARIANTS: dict[str, dict[str, object]] = {
    "frames": {},
    "differences": {"view": "differences"},
    "deviations": {"view": "deviations"},
    "frames, bins share a layer": BINS,
    "differences, bins share a layer": {"view": "differences", **BINS},
    "deviations, bins share a layer": {"view": "deviations", **BINS},
}
TRACKS = {"tracks": 5, "terms": 6}  # about as large a code


class FromTracks(nn.Module):
    """Poses ``(B, T, 4)`` from the code of `trajectories`."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Sequential(nn.Linear(TRACKS["tracks"], 64), nn.LeakyReLU(0.2))
        self.poses = nn.Linear(64, 4)

    def forward(self, code: Tensor) -> Tensor:
        waves = cosines(FRAMES, TRACKS["terms"], FRAMES, code)
        size = TRACKS["terms"] ** -0.5
        tracks = waves @ code.unflatten(1, (TRACKS["tracks"], -1)).transpose(1, 2) * size
        return self.poses(self.read(tracks))


class FromCode(nn.Linear):
    """Poses ``(B, T, 4)`` from a code of 32."""

    def __init__(self) -> None:
        super().__init__(32, FRAMES * 4)

    def forward(self, code: Tensor) -> Tensor:
        return super().forward(code).unflatten(1, (FRAMES, 4))


def clips(split: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Videos ``(N, T, H, W, C)`` uint8, and poses ``(N, T, 4)``."""
    pairs = Shapes("train" if split == "train" else "test", seed, resolution=64, frames=FRAMES)
    videos, poses = [], []
    for start in range(0, count, 32):
        contents, motions = pairs._draw(range(start, min(start + 32, count)))
        own = slice(0, min(32, count - start))
        seen = pairs.world.render(
            take(contents, own), take(motions, own), frames=FRAMES, resolution=64
        )
        small = F.avg_pool2d(torch.as_tensor(seen).movedim(-1, 2).flatten(0, 1).float(), 2)
        videos.append(small.round().byte().movedim(1, -1).unflatten(0, (-1, FRAMES)))
        track = pairs.world.track(take(motions, own), torch.arange(FRAMES, dtype=torch.float64))
        size = track.size
        pose = (track.x, track.y, size * track.cosine, size * track.sine)
        poses.append(torch.stack(pose, -1).float())
    return torch.cat(videos), torch.cat(poses)


def errors(made: Tensor, true: Tensor) -> list[str]:
    """Root mean square of each number, in pixels of a 64x64 frame."""
    return [f"{32 * e:.1f}" for e in (made - true).square().mean((0, 1)).sqrt().tolist()]


def probe(
    build: Callable[[], tuple[MotionEncoder, nn.Module]],
    training: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    steps: int,
    seed: int,
) -> list[str]:
    """Train one variant and say how far off it is."""
    torch.manual_seed(seed)
    encoder, read = build()
    parameters = [*encoder.parameters(), *read.parameters()]
    optimizer = torch.optim.Adam(parameters, 1e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)

    def poses(videos: Tensor) -> Tensor:
        return read(encoder(as_video(videos)).mean)

    for _ in range(steps):
        rows = torch.randint(len(training[0]), (BATCH,), generator=generator)
        loss = (poses(training[0][rows]) - training[1][rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    encoder.eval()
    with torch.inference_mode():
        return errors(poses(test[0]), test[1])


def builders() -> dict[str, Callable[[], tuple[MotionEncoder, nn.Module]]]:
    """An encoder and what reads poses off its code, by name."""

    def c3d(options: dict[str, object]) -> Callable[[], tuple[MotionEncoder, nn.Module]]:
        return lambda: (
            C3DMotionEncoder(SIDE, width=24, motion_dim=32, **options),  # type: ignore[arg-type]
            FromCode(),
        )

    found = {f"c3d: {name}": c3d(options) for name, options in VARIANTS.items()}
    for view in ("frames", "deviations"):
        found[f"trajectories: {view}"] = lambda view=view: (
            TrajectoryMotionEncoder(SIDE, width=24, view=view, **TRACKS),
            FromTracks(),
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--clips", type=int, default=4800)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    training, test = clips("train", args.clips, args.seed), clips("test", 128, args.seed)
    rows = [["the mean of all poses", *errors(training[1].mean((0, 1)), test[1])]]
    for name, build in builders().items():
        rows.append([name, *probe(build, training, test, args.steps, args.seed)])
        print(rows[-1], flush=True)
    head = ["what the encoder sees", "x", "y", "size, cosine", "size, sine"]
    print(markdown(head, rows))


if __name__ == "__main__":
    main()
