"""Learning the prior of motion codes after the model, whose own weights stay as they are.

Codes of training clips are the aggregate posterior, and that is not N(0, I): L_KL is paid for each
number, and what a code says of its clip is what it differs by. So the density of codes is learned
afterwards, as Ghosh et al. do for autoencoders (From Variational to Deterministic Autoencoders,
ICLR 2020, ex-post density estimation), here given a clip's first frame, as the prior of Denton and
Fergus (ICML 2018) is given the frames before.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mtzoo.engine.loader import Steps, batches
from mtzoo.errors import MtzooError
from mtzoo.interfaces import Gaussian, MotionPrior, PairDataset, as_video
from mtzoo.models.dual_mtgan import DualMTGAN

BATCH = 16
"""Codes a step."""

_CLIP = 20.0  # largest gradient norm of a step

Progress = Callable[[int, int], None]
"""Called with how many clips or steps are done, and how many there are."""


class Known(NamedTuple):
    """What motion codes are of clips, and what the clips begin with.

    Attributes:
        codes: Posteriors, ``(N, motion_dim)`` each.
        first: First frames, uint8 ``(N, 1, H, W, C)``.
    """

    codes: Gaussian
    first: Tensor

    def picture(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """First frames as ``(n, C, H, W)`` in [-1, 1]."""
        return as_video(self.first[rows])[:, 0]


@torch.no_grad()
def encode(
    model: DualMTGAN,
    pairs: PairDataset,
    clips: int,
    device: torch.device,
    *,
    workers: int = 0,
    progress: Progress = lambda done, total: None,
) -> Known:
    """Run E_M once on the source videos at positions 0 to ``clips - 1``.

    Args:
        model: In evaluation mode, on ``device``.
        pairs: A split.
        clips: How many.
        device: Where to compute; what is found stays there.
        workers: Processes that load.
        progress: Told after each batch.
    """
    means, variances, first = [], [], []
    count = math.ceil(clips / BATCH)
    loading = batches(Steps(pairs, BATCH), 0, count, workers=workers, pin=False)
    with contextlib.closing(loading):
        for done, items in enumerate(loading, 1):
            video = items["video"].to(device)
            posterior: Gaussian = model.motion_encoder(as_video(video))
            means.append(posterior.mean)
            variances.append(posterior.log_variance)
            first.append(video[:, :1].clone())
            progress(min(done * BATCH, clips), clips)
    mean, log_variance, pictures = (torch.cat(each)[:clips] for each in (means, variances, first))
    return Known(Gaussian(mean, log_variance), pictures)


def learn(
    prior: MotionPrior,
    known: Known,
    *,
    steps: int,
    seed: int = 0,
    learning_rate: float = 1e-3,
    progress: Progress = lambda done, total: None,
) -> None:
    """Make codes sampled from posteriors likely, by Adam with a cosine to zero.

    Args:
        prior: On the device of ``known``; ends in evaluation mode.
        known: Of the training split.
        steps: Of `BATCH` codes each.
        seed: Of what is drawn; torch's global generator is left as it was.
        learning_rate: Adam's, at first.
        progress: Told after each step.

    Raises:
        MtzooError: Gradients were not finite; the prior is then not to be used.
    """
    device = known.first.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        optimizer = torch.optim.Adam(prior.parameters(), lr=learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        prior.train()
        for step in range(steps):
            rows = torch.randint(len(known.first), (BATCH,)).to(device)
            mean, log_variance = (numbers[rows] for numbers in known.codes)
            code = Gaussian(mean, log_variance).sample(torch.randn_like(mean))
            loss = -prior.log_likelihood(code, known.picture(rows)).mean()
            optimizer.zero_grad()
            loss.backward()
            size = nn.utils.clip_grad_norm_(prior.parameters(), _CLIP)
            if not torch.isfinite(size):
                raise MtzooError(
                    f"the motion prior's gradients are not finite at step {step + 1}: the model's "
                    "codes are too wild; train the model with a larger lambda_kl"
                )
            optimizer.step()
            schedule.step()
            progress(step + 1, steps)
        prior.eval()


@torch.no_grad()
def surprise(prior: MotionPrior | None, known: Known) -> float:
    """Mean of minus the log-likelihood of posteriors' means, nats a number; lower is better.

    Args:
        prior: In evaluation mode; ``None`` is N(0, I).
        known: Of held-out clips.
    """
    mean = known.codes.mean
    if prior is None:
        return (0.5 * (mean.square() + math.log(2 * math.pi))).mean().item()
    return -prior.log_likelihood(mean, known.picture()).mean().item() / mean.shape[1]
