"""Sample sheets and clips: what the model makes of a few test pairs, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import default_collate

from mtzoo import media
from mtzoo.engine.loader import load, to_batch
from mtzoo.interfaces import Model, PairDataset, as_frames

SAMPLES = 2
_COLUMNS = 16


def spread(count: int, length: int) -> list[int]:
    """Positions throughout a split of ``length`` videos, ``count`` at most.

    A store's videos of one person lie side by side, so the first few would show one person.
    """
    count = min(count, length)
    return [i * length // count for i in range(count)]


@torch.no_grad()
def paint(
    model: Model,
    pairs: PairDataset,
    positions: Sequence[int],
    *,
    device: torch.device,
    seed: int = 0,
    autocast: AbstractContextManager[object] | None = None,
) -> tuple[list[str], Tensor]:
    """Move some test pairs.

    Args:
        model: Put into eval mode for the time being.
        pairs: The test split.
        positions: Which of its pairs.
        device: Where the model is.
        seed: Of the motions drawn from the prior, the same at every step of a run.
        autocast: Context the networks run in.

    Returns:
        Names of the rows, and uint8 ``(pairs, rows, T, H, W, C)``.
    """
    items = default_collate(load(pairs, positions))
    batch = to_batch(items, device)
    frames = batch.video.shape[1]
    training = model.training
    model.eval()
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    try:
        with autocast or nullcontext():
            moved = model.transfer(batch.target, batch.video)
            again = model.reconstruct(batch.video)
            drawn = model.sample(batch.target, SAMPLES, frames, generator)
    finally:
        model.train(training)
    still = as_frames(batch.target).cpu().unsqueeze(1).expand_as(items["video"])
    rows = {"source": items["video"], "target": still}
    if pairs.has_truth:
        rows["truth"] = items["truth"]
    rows |= {"transfer": as_frames(moved).cpu(), "rebuilt": as_frames(again).cpu()}
    rows |= {f"sample {i + 1}": as_frames(drawn[:, i]).cpu() for i in range(SAMPLES)}
    return list(rows), torch.stack(list(rows.values()), 1)


def write(folder: Path, step: int, names: list[str], videos: Tensor) -> Tensor:
    """Write ``step_*.png``, rows of frames, and ``step_*.mp4``, rows of pairs that play at once.

    Args:
        folder: Where to.
        step: In the file names.
        names: Of the rows.
        videos: uint8 ``(pairs, rows, T, H, W, C)``.

    Returns:
        The sheet, uint8 ``(H', W', C)``.
    """
    pairs, _, frames, height = videos.shape[:4]
    every = -(-frames // _COLUMNS)
    scale = max(1, 64 // height)
    strips = [video[::every] for pair in videos for video in pair]
    sheet = media.sheet(strips, labels=names * pairs, scale=scale)
    media.write_image(folder / f"step_{step:08d}.png", sheet)
    wall = torch.nn.functional.pad(videos, (0, 0, 0, 2, 0, 2), value=255)  # right, bottom
    wall = wall.permute(2, 0, 3, 1, 4, 5).flatten(3, 4).flatten(1, 2)
    media.write(folder / f"step_{step:08d}.mp4", wall, scale=scale)
    return sheet
