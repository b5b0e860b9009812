"""Where a transfer on a synthetic world loses against the truth: content, pose, angle.

    python benchmarks/transfer_gap.py --model DIR [--world faces] [--videos 64]

Four pictures are moved by the same held-out videos, each scored against its own rendered truth:

- a frame of the video itself;
- the video's content in another pose: what reading the picture's pose costs;
- another content in the video's pose: what content in the motion code costs;
- another content in another pose: transfer, as `mtzoo evaluate` scores it.

On shapes, where the image generator is `layered` with one layer, its affine maps are set beside the
true ones, too: how far off the shape's centre, its size and its angle are, and what PSNR would be
if one of them, or all, were true.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

import torch
from report import markdown
from torch import Tensor
from trained import trained

from mtzoo.components.image_generators.layered import LayeredImageGenerator
from mtzoo.data.datasets.faces import Faces
from mtzoo.data.datasets.shapes import Shapes
from mtzoo.data.worlds.base import join, take
from mtzoo.data.worlds.shapes import Shapes as World
from mtzoo.data.worlds.shapes import ShapesMotion
from mtzoo.evaluation.metrics import psnr
from mtzoo.interfaces import as_frames, as_video
from mtzoo.models.dual_mtgan import DualMTGAN

WORLDS = {"shapes": Shapes, "faces": Faces}


def poses(world: World, motion: ShapesMotion, frames: int) -> Tensor:
    """From the shape's own axes to the frame's, x right and y down: ``(N, T, 3, 3)``."""
    track = world.track(motion, torch.arange(frames, dtype=torch.float64))
    cosine, sine = track.size * track.cosine, track.size * track.sine
    zero, one = torch.zeros_like(track.x), torch.ones_like(track.x)
    rows = (cosine, -sine, track.x, -sine, -cosine, -track.y, zero, zero, one)
    return torch.stack(rows, -1).double().unflatten(-1, (3, 3))


def parts(moved: Tensor, here: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take maps ``(N, T, 3, 3)`` from picture to frame apart.

    Args:
        moved: The maps.
        here: Centres of the shapes in the pictures, ``(N, 2)``.

    Returns:
        Where the centres come to lie, ``(N, T, 2)``, and by how much pictures are scaled and
        turned, ``(N, T)`` each, angles in radians.
    """
    linear = moved[..., :2, :2]
    centre = (linear @ here[:, None, :, None])[..., 0] + moved[..., :2, 2]
    turn = torch.atan2(linear[..., 1, 0] - linear[..., 0, 1], linear[..., 0, 0] + linear[..., 1, 1])
    return centre, linear.det().abs().sqrt(), turn


def joined(centre: Tensor, scale: Tensor, turn: Tensor, here: Tensor) -> Tensor:
    """Undo `parts`: similarities ``(N, T, 3, 3)``."""
    cosine, sine = scale * turn.cos(), scale * turn.sin()
    linear = torch.stack((cosine, -sine, sine, cosine), -1).unflatten(-1, (2, 2))
    shift = centre - (linear @ here[:, None, :, None])[..., 0]
    rows = torch.cat((linear, shift[..., None]), -1)
    return torch.cat((rows, rows.new_tensor((0, 0, 1)).expand_as(rows[..., :1, :])), -2)


def geometry(
    model: DualMTGAN, picture: Tensor, video: Tensor, here: Tensor, there: Tensor, truth: Tensor
) -> tuple[str, ...]:
    """What is off in a transfer's maps, and what the transfer scores with parts of the true ones.

    Args:
        model: With a layered image generator of one layer.
        picture: ``(N, C, H, W)``.
        video: ``(N, T, C, H, W)``.
        here: True poses in the pictures, ``(N, 3, 3)``.
        there: True poses in the frames, ``(N, T, 3, 3)``.
        truth: True transfers, ``(N, T, C, H, W)``.

    Returns:
        Medians over frames: pixels between centres, relative size, degrees between angles. Then
        PSNR in dB with true centres, with true sizes, with true angles, with all.
    """
    frames, _, side = video.shape[1:4]
    generator = model.image_generator
    assert isinstance(generator, LayeredImageGenerator)
    motion = model.motion_generator(model.motion_encoder(video).mean, frames)
    content = model.content_encoder(picture)
    background, layers = generator.take_apart(content, picture)
    moves = generator.poses(content, layers, picture).unsqueeze(1) @ torch.linalg.inv(
        generator.frame_poses(motion)
    )
    middle = here[:, :2, 2]
    found = parts(torch.linalg.inv(moves[:, :, 0].double()), middle)
    true = parts(there @ torch.linalg.inv(here)[:, None], middle)
    centre = (found[0] - true[0]).norm(dim=-1) * side / 2
    size = (found[1] / true[1]).log().abs().exp() - 1
    turn = found[2] - true[2]
    angle = torch.atan2(turn.sin(), turn.cos()).abs()

    def score(*taken: int) -> str:
        chosen = [true[i] if i in taken else found[i] for i in range(3)]
        back = torch.linalg.inv(joined(*chosen, middle)).to(background)[:, :, None]
        made = generator.compose(background, layers, back)
        return f"{float(psnr(as_frames(made), as_frames(truth)).mean()):.2f}"

    return (
        f"{float(centre.median()):.1f}",
        f"{100 * float(size.median()):.0f} %",
        f"{math.degrees(float(angle.median())):.0f}°",
        *map(score, range(3)),
        score(0, 1, 2),
    )


@torch.inference_mode()
def rows(model: DualMTGAN, world: str, videos: int, seed: int) -> Iterator[tuple[str, ...]]:
    """A row a picture."""
    pairs = WORLDS[world]("test", seed, resolution=model.resolution)
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
    layered = isinstance(pairs, Shapes) and getattr(model.image_generator, "layers", 0) == 1
    there = poses(pairs.world, take(motions, own), 16) if layered else None
    for name, (content, motion) in cases.items():
        picture = shown(content, motion)[each, index]
        truth = shown(content, own)
        score = psnr(as_frames(model.transfer(picture, video)), as_frames(truth)).mean()
        row = [name, f"{float(score):.2f}"]
        if there is not None:
            here = poses(pairs.world, take(motions, motion), 16)[each, index]
            row += geometry(model, picture, video, here, there, truth)
        yield tuple(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--world", choices=WORLDS, default="shapes")
    parser.add_argument("--videos", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = trained(args.model)
    found = list(rows(model, args.world, args.videos, args.seed))
    head = ["picture", "PSNR in dB", "centre off by pixels", "size off by", "angle off by"]
    head += [f"with true {what}" for what in ("centres", "sizes", "angles", "poses")]
    print(markdown(head[: len(found[0])], found))


if __name__ == "__main__":
    main()
