"""Where a transfer on the world of shapes loses against the truth: content, pose, angle.

    python benchmarks/transfer_gap.py --model DIR [--videos 64]

Four pictures are moved by the same held-out videos, each scored against its own rendered truth:

- a frame of the video itself;
- the video's content in another pose: what reading the picture's pose costs;
- another content in the video's pose: what content in the motion code costs;
- another content in another pose: transfer, as `mtzoo evaluate` scores it.

Where the image generator is `layered` with one layer, its affine maps are set beside the true ones,
too: how far off the shape's centre, its size and its angle are.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

import torch
from report import markdown
from torch import Tensor

import mtzoo
from mtzoo.components.image_generators.layered import LayeredImageGenerator
from mtzoo.data.datasets.shapes import Shapes
from mtzoo.data.worlds.base import join, take
from mtzoo.data.worlds.shapes import Shapes as World
from mtzoo.data.worlds.shapes import ShapesMotion
from mtzoo.evaluation.metrics import psnr
from mtzoo.interfaces import as_frames, as_video
from mtzoo.models.dual_mtgan import DualMTGAN


def poses(world: World, motion: ShapesMotion, frames: int) -> Tensor:
    """From the shape's own axes to the frame's, x right and y down: ``(N, T, 3, 3)``."""
    track = world.track(motion, torch.arange(frames, dtype=torch.float64))
    cosine, sine = track.size * track.cosine, track.size * track.sine
    zero, one = torch.zeros_like(track.x), torch.ones_like(track.x)
    rows = (cosine, -sine, track.x, -sine, -cosine, -track.y, zero, zero, one)
    return torch.stack(rows, -1).double().unflatten(-1, (3, 3))


def geometry(
    model: DualMTGAN, picture: Tensor, video: Tensor, here: Tensor, there: Tensor
) -> tuple[float, float, float]:
    """Medians over frames: pixels between centres, relative size, degrees between angles.

    Args:
        model: With a layered image generator of one layer.
        picture: ``(N, C, H, W)``.
        video: ``(N, T, C, H, W)``.
        here: True poses in the pictures, ``(N, 3, 3)``.
        there: True poses in the frames, ``(N, T, 3, 3)``.
    """
    frames, _, side = video.shape[1:4]
    generator = model.image_generator
    assert isinstance(generator, LayeredImageGenerator)
    motion = model.motion_generator(model.motion_encoder(video).mean, frames)
    content = model.content_encoder(picture)
    _, layers = generator.take_apart(content, picture)
    moves = generator.poses(content, layers, picture).unsqueeze(1) @ torch.linalg.inv(
        generator.frame_poses(motion)
    )
    moved = torch.linalg.inv(moves[:, :, 0].double()) @ here[:, None]  # shape's axes to frame's
    centre = (moved[..., :2, 2] - there[..., :2, 2]).norm(dim=-1) * side / 2
    size = 0.5 * (moved[..., :2, :2].det().abs() / there[..., :2, :2].det().abs()).log()
    turn = moved[..., :2, :2] @ torch.linalg.inv(there[..., :2, :2])
    angle = torch.atan2(turn[..., 1, 0] - turn[..., 0, 1], turn[..., 0, 0] + turn[..., 1, 1])
    return (
        float(centre.median()),
        float(size.abs().exp().median()) - 1,
        math.degrees(float(angle.abs().median())),
    )


@torch.inference_mode()
def rows(model: DualMTGAN, videos: int, seed: int) -> Iterator[tuple[str, ...]]:
    """A row a picture."""
    pairs = Shapes("test", seed, resolution=model.resolution)
    contents, motions = pairs._draw(range(videos))
    own, other = slice(0, videos), slice(videos, None)
    cases = {
        "a frame of the video": (own, own),
        "its content in another pose": (own, other),
        "another content in the video's pose": (other, own),
        "another content in another pose: transfer": (other, other),
    }
    index = torch.tensor([pairs._target_index(position) for position in range(videos)])
    each = torch.arange(videos)

    def shown(content: slice, motion: slice) -> Tensor:
        found = pairs.world.render(
            join([take(contents, content)]),
            join([take(motions, motion)]),
            frames=16,
            resolution=model.resolution,
        )
        return as_video(torch.as_tensor(found))

    video = shown(own, own)
    there = poses(pairs.world, take(motions, own), 16)
    layered = getattr(model.image_generator, "layers", 0) == 1
    for name, (content, motion) in cases.items():
        picture = shown(content, motion)[each, index]
        truth = shown(content, own)
        score = psnr(as_frames(model.transfer(picture, video)), as_frames(truth)).mean()
        row = [name, f"{float(score):.2f}"]
        if layered:
            here = poses(pairs.world, take(motions, motion), 16)[each, index]
            centre, size, angle = geometry(model, picture, video, here, there)
            row += [f"{centre:.1f}", f"{100 * size:.0f} %", f"{angle:.0f}°"]
        yield tuple(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--videos", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = mtzoo.load(args.model).eval()
    assert isinstance(model, DualMTGAN)
    found = list(rows(model, args.videos, args.seed))
    head = ["picture", "PSNR in dB", "centre off by pixels", "size off by", "angle off by"]
    print(markdown(head[: len(found[0])], found))


if __name__ == "__main__":
    main()
