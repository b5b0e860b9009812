"""How good a guess of what comes next motions from the prior are, beside those of other videos.

    python benchmarks/prior_gap.py --model DIR [--videos 96] [--samples 5]

First pictures of held-out videos are moved by codes drawn from N(0, I), from the model's own prior
where it has learned one (`mtzoo prior`), and by codes of training videos, which are motions of the
world for certain: of any of them, and of those whose own first pictures are most alike. Where the
codes of any predict no better than N(0, I), no prior that does not look at the picture could; what
those that begin alike gain is what a picture tells. Printed are PSNR in dB after the first frame,
best of the samples and their mean, and how far two samples of one picture are apart, in grey levels
of 255 a pixel.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from report import markdown
from torch import Tensor
from trained import trained

from mtzoo.evaluation.metrics import psnr
from mtzoo.interfaces import PairDataset, as_frames, as_video
from mtzoo.models.dual_mtgan import DualMTGAN
from mtzoo.registries import datasets

KNOWN, AT_ONCE = 512, 64


def videos(data: PairDataset, count: int) -> Tensor:
    """uint8 ``(count, T, H, W, C)``."""
    some = [
        data.__getitems__(list(range(start, min(start + AT_ONCE, count))))
        for start in range(0, count, AT_ONCE)
    ]
    return torch.stack([item["video"] for items in some for item in items])


@torch.inference_mode()
def rows(model: DualMTGAN, world: str, count: int, samples: int) -> list[list[str]]:
    """A row a way to guess."""
    build = datasets.get(world)
    true = videos(build(split="test", seed=0, resolution=model.resolution), count)
    training = videos(build(split="train", seed=0, resolution=model.resolution), KNOWN)
    codes = torch.cat([model.motion_encoder(as_video(v)).mean for v in training.split(AT_ONCE)])
    first = as_video(true[:, :1])[:, 0]
    content = model.content_encoder(first)
    begun = as_video(training[:, :1])[:, 0].flatten(1)
    alike = torch.cdist(first.flatten(1), begun).topk(samples, largest=False).indices

    def noise() -> Tensor:
        return torch.randn(count, model.motion_dim)

    def row(name: str, draw: Callable[[int], Tensor]) -> list[str]:
        scores, made = [], []
        for sample in range(samples):
            motion = model.motion_generator(draw(sample), true.shape[1])
            made.append(as_frames(model.paint(content, motion, first)))
            scores.append(psnr(made[-1], true)[:, 1:].mean(1))
        apart = (made[0].float() - made[1].float()).abs().mean()
        best = torch.stack(scores).amax(0).mean()
        return [name, f"{best:.2f}", f"{torch.stack(scores).mean():.2f}", f"{apart:.1f}"]

    still = psnr(true[:, :1].expand_as(true), true)[:, 1:].mean()
    found = [
        ["repeating the picture", f"{still:.2f}", f"{still:.2f}", "0.0"],
        row("codes from N(0, I)", lambda _: noise()),
        row("codes of other videos", lambda _: codes[torch.randperm(KNOWN)[:count]]),
        row("codes of videos that begin alike", lambda sample: codes[alike[:, sample]]),
    ]
    if (prior := model.motion_prior) is not None:
        found.append(row("the model's own prior", lambda _: prior(noise(), first)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--world", default="shapes")
    parser.add_argument("--videos", type=int, default=96)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not 1 <= args.videos <= KNOWN or args.samples < 2:
        parser.error(f"--videos must be 1 to {KNOWN}, --samples at least 2")
    torch.manual_seed(args.seed)
    model = trained(args.model)
    found = rows(model, args.world, args.videos, args.samples)
    head = ["motion", f"best of {args.samples}, dB", "mean, dB", "samples differ"]
    print(markdown(head, found))


if __name__ == "__main__":
    main()
