"""Scores on test pairs: against the rendered truth where a world knows it, and against copying."""

from __future__ import annotations

from collections import defaultdict
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.utils.data import default_collate

from mtzoo.engine.loader import load, to_batch
from mtzoo.interfaces import Model, PairDataset, as_frames

PSNR_CAP = 100.0


def psnr(made: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of videos in dB, 10 log10(255^2 / mean squared error).

    The one definition of the project: on 8-bit values, the mean taken over all values of a video,
    one figure a video. Equal videos score 100 dB (the cap), so that means stay finite.

    Args:
        made: uint8 ``(B, ...)``.
        truth: uint8, same shape.

    Returns:
        float64 ``(B,)``.
    """
    return decibels(square_error(made, truth))


def square_error(made: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of uint8 ``(B, ...)``, float64 ``(B,)``."""
    return (made.float() - truth.float()).square().flatten(1).mean(1, dtype=torch.float64)


def decibels(error: Tensor) -> Tensor:
    """PSNR in dB of mean squared errors of 8-bit values."""
    return (10.0 * torch.log10(255.0**2 / error)).clamp(max=PSNR_CAP)


@torch.no_grad()
def evaluate(
    model: Model,
    pairs: PairDataset,
    count: int,
    *,
    batch_size: int,
    device: torch.device,
    seed: int = 0,
    autocast: AbstractContextManager[object] | None = None,
) -> dict[str, float]:
    """Score ``model`` on the first ``count`` test pairs, each figure a mean over them.

    Args:
        model: Put into eval mode for the time being.
        pairs: The test split; its positions 0 to ``count - 1`` are taken, fewer where it is
            shorter.
        count: Number of pairs.
        batch_size: Pairs at a time.
        device: Where the model is.
        seed: Of torch's global generators, for motion generators that draw noise.
        autocast: Context the networks run in; re-entered for each batch.

    Returns:
        - ``reconstruction_psnr``, dB: V taken apart and put together, against V, the frames after
            the first, which repeating the first frame would have for nothing;
        - ``reconstruction_l1``: the same as mean absolute error in [0, 1];
        - ``still_psnr``, dB: the first frame of V repeated, against the same frames; what no
            motion scores;
        - with a truth, in dB against it: ``transfer_psnr``, the model's transfer; ``copy_psnr``,
            the target image repeated; ``source_psnr``, the source video as it is.
    """
    training = model.training
    model.eval()
    sums: dict[str, float] = defaultdict(float)
    count = min(count, len(pairs))
    torch.manual_seed(seed)
    try:
        for start in range(0, count, batch_size):
            items = default_collate(load(pairs, range(start, min(start + batch_size, count))))
            batch = to_batch(items, device)
            source = items["video"].to(device)
            with autocast or nullcontext():
                again = as_frames(model.reconstruct(batch.video))
                moved = as_frames(model.transfer(batch.target, batch.video))
            first, later, again = source[:, :1], source[:, 1:], again[:, 1:]
            scores = {
                "reconstruction_psnr": psnr(again, later),
                "reconstruction_l1": (again.double() - later.double()).abs().flatten(1).mean(1)
                / 255,
                "still_psnr": psnr(first.expand_as(later), later),
            }
            if pairs.has_truth:
                truth = items["truth"].to(device)
                still = as_frames(batch.target).unsqueeze(1).expand_as(truth)
                scores |= {
                    "transfer_psnr": psnr(moved, truth),
                    "copy_psnr": psnr(still, truth),
                    "source_psnr": psnr(source, truth),
                }
            for name, values in scores.items():
                sums[name] += values.sum().item()
    finally:
        model.train(training)
    return {name: total / count for name, total in sums.items()}


def score(figures: dict[str, float]) -> float:
    """The one figure that decides which checkpoint is the best; larger is better."""
    return figures.get("transfer_psnr", figures["reconstruction_psnr"])


def table(before: dict[str, float], after: dict[str, float]) -> list[tuple[str, str, str, str]]:
    """Rows for people: what is measured, before training, after it, and by copying."""
    rows = []
    if "transfer_psnr" in after:
        copied = f"{after['copy_psnr']:.2f} (target), {after['source_psnr']:.2f} (source)"
        rows.append(("transfer, PSNR in dB against the truth", "transfer_psnr", copied))
    still = f"{after['still_psnr']:.2f} (first frame)"
    rows.append(("reconstruction, PSNR in dB", "reconstruction_psnr", still))
    rows.append(("reconstruction, mean absolute error", "reconstruction_l1", ""))

    def shown(figures: dict[str, float], name: str) -> str:
        digits = 4 if name.endswith("l1") else 2
        return f"{figures[name]:.{digits}f}" if name in figures else ""

    return [
        (title, shown(before, name), shown(after, name), copied) for title, name, copied in rows
    ]
