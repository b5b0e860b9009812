"""How well the image generator `layered` tells which way up something lies, taught by a prior.

    python benchmarks/direction_probe.py [--model shapes-demo] [--steps 800] [--turns 16]

On the world of shapes, with opacities of a model that is given. What reads the direction turns with
the picture from the start; it learns from `uprightness` alone, that most pictures show things
upright, and is never told an angle. Printed are medians and means in degrees, on held-out
contents: how far two pictures of one content are from differing by as much as they were turned, and
how far the direction is from the true one; and the length of the mean of that difference as a unit
vector, 1 where all contents agree on which way is up.
"""

from __future__ import annotations

import argparse
import math

import torch
from report import markdown
from torch import Tensor, nn
from trained import layers_of, trained

from mtzoo.components.image_generators.layered import LayeredImageGenerator
from mtzoo.data.datasets.shapes import Shapes as Pairs
from mtzoo.data.worlds.base import take
from mtzoo.data.worlds.shapes import Shapes
from mtzoo.interfaces import as_video
from mtzoo.objectives.dual_mtgan import uprightness

BATCH, SHOWN = 32, 4


def pictures(split: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Some frames of each of ``count`` contents in two motions.

    Returns:
        Frames ``(2, count, SHOWN, H, W, C)`` uint8, and angles in radians, ``(2, count, SHOWN)``,
        as rotations in the picture's coordinates, whose y points down.
    """
    pairs = Pairs("train" if split == "train" else "test", seed, resolution=64)
    world = pairs.world
    assert isinstance(world, Shapes)
    at = torch.linspace(0, 15, SHOWN).long()
    frames, angles = [], []
    for start in range(0, count, BATCH):
        contents, motions = pairs._draw(range(start, start + BATCH))
        for own in (slice(0, BATCH), slice(BATCH, None)):
            seen = world.render(
                take(contents, slice(0, BATCH)), take(motions, own), frames=16, resolution=64
            )
            track = world.track(take(motions, own), torch.arange(16, dtype=torch.float64))
            frames.append(torch.as_tensor(seen)[:, at])
            angles.append(-torch.atan2(track.sine, track.cosine)[:, at].float())
    return tuple(  # type: ignore[return-value]  # two of them
        torch.stack([torch.cat(found[motion::2]) for motion in (0, 1)])
        for found in (frames, angles)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="shapes-demo")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--turns", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = trained(args.model)
    painter = layers_of(model)

    def read(direction: nn.Module, frames: Tensor, *, disturbed: bool = False) -> Tensor:
        """Rotations ``(N, 3, 3)`` of the first layer in frames ``(N, H, W, C)``."""
        picture = as_video(frames[:, None])[:, 0]
        with torch.no_grad():
            _, layers = painter.take_apart(model.content_encoder(picture), picture)
        return direction(picture, layers[:, :, -1], disturbed=0.3 if disturbed else 0.0)[:, 0]

    training, _ = pictures("train", 64 * BATCH, args.seed)
    training = training.flatten(0, 2)
    test, true = pictures("test", 3 * BATCH, args.seed)

    def row(name: str, read_off: Tensor) -> list[str]:
        off = read_off.view(true.shape) - true
        errors = (_turn(off[0] - off[1]).abs().rad2deg(), _turn(off).abs().rad2deg())
        agreement = torch.polar(torch.ones_like(off), off).mean().abs()
        figures = [f"{of(error):.0f}" for error in errors for of in (torch.median, torch.mean)]
        return [name, *figures, f"{agreement:.2f}"]

    def learned(steps: int, *, disturbed: bool) -> Tensor:
        torch.manual_seed(args.seed)
        direction = LayeredImageGenerator(64, 3, 1, 1, width=1, turns=args.turns).direction
        assert direction is not None
        if steps:
            optimizer = torch.optim.Adam(direction.parameters(), 1e-3, betas=(0.5, 0.999))
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps, pct_start=0.1)
        for _ in range(steps):
            frames = training[torch.randint(len(training), (BATCH,))]
            loss = uprightness(read(direction, frames, disturbed=disturbed))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            maps = read(direction, test.flatten(0, 2))
        return torch.atan2(maps[:, 1, 0], maps[:, 0, 0])

    rows = [
        row("all called upright", torch.zeros_like(true)),
        row("nothing learned", learned(0, disturbed=False)),
        row(f"after {args.steps} steps", learned(args.steps, disturbed=True)),
        row("the same, looks undisturbed", learned(args.steps, disturbed=False)),
    ]
    head = ["direction", "two poses, median", "mean", "off, median", "mean", "agreement"]
    print(markdown(head, rows))


def _turn(angle: Tensor) -> Tensor:
    """Into [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


if __name__ == "__main__":
    main()
