"""How fast samples are scored, and how often LPIPS looks at a picture.

    python benchmarks/metrics.py [--videos 256] [--samples 25] [--pairs 100] [--protocol mtzoo]

Scores soft noise in place of generated videos, 16 frames of 64x64, as ``mtzoo evaluate`` does once
a model has made them: SSIM and PSNR of every sample against its video, the best sample of each
video and of each time step, the baselines, and bootstrap intervals. Beside that stand
scikit-image's functions, called frame by frame as the evaluation scripts of the field do, on
``--pairs`` frames in the same run, and their ratio to ours for as many frames. Seconds are the
processor's, over all threads, as other work on the machine does not count into them, and the
wall's.

Then LPIPS: how many pictures go through its network for the distances of all samples to their
video, of the first picture to the video, and between all samples; and how many would, were every
distance computed by itself. Untrained weights do for counting.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from mtzoo.evaluation import metrics, perceptual
from mtzoo.evaluation.scores import score
from mtzoo.interfaces import Model, PairDataset, as_video

FRAMES, SIDE = 16, 64


def soft(count: int, generator: torch.Generator) -> Tensor:
    """uint8 ``(count, FRAMES, SIDE, SIDE, 3)``."""
    coarse = torch.rand(count * FRAMES, 3, 9, 9, generator=generator)
    fine = nn.functional.interpolate(coarse, size=SIDE, mode="bilinear")
    return (
        (255 * fine).byte().permute(0, 2, 3, 1).reshape(count, FRAMES, SIDE, SIDE, 3).contiguous()
    )


class Videos(PairDataset):
    """One soft video, over and over."""

    resolution, channels, frames = SIDE, 3, FRAMES

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count = count
        self.video = soft(1, generator)[0]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        return {
            "video": self.video,
            "target_video": self.video,
            "target_index": torch.tensor(position % FRAMES),
        }


class Made(Model):
    """Gives samples that were made before, and videos as they are."""

    resolution, channels = SIDE, 3

    def __init__(self, samples: Tensor) -> None:
        super().__init__()
        self.samples = as_video(samples)[None]

    def generators(self) -> nn.Module:
        return self

    def discriminators(self) -> nn.Module:
        return nn.Identity()

    def transfer(self, image: Tensor, video: Tensor) -> Tensor:
        return video

    def reconstruct(self, video: Tensor) -> Tensor:
        return video

    def sample(
        self,
        image: Tensor,
        samples: int,
        frames: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        return self.samples


def ours(made: Tensor, truth: Tensor, settings: metrics.SsimSettings) -> Tensor:
    return torch.stack([metrics.ssim(made, truth, settings), metrics.psnr(made, truth)])


def by_pairs(made: Tensor, truth: Tensor, settings: metrics.SsimSettings, pairs: int) -> Tensor:
    """The same of the first ``pairs`` frames, by scikit-image."""
    options = {"win_size": settings.size, "use_sample_covariance": settings.sample_covariance}
    if settings.window == "gaussian":
        options = {"gaussian_weights": True, "sigma": settings.sigma, **options}
        del options["win_size"]
    found = []
    for index in range(pairs):
        n, t = divmod(index, FRAMES)
        x, y = (v.numpy() / 255.0 for v in (made[n, t], truth[0, t]))
        similar = structural_similarity(
            x, y, channel_axis=2, data_range=settings.data_range, **options
        )
        found.append([similar, peak_signal_noise_ratio(y, x, data_range=1.0)])
    return torch.tensor(found).T


def by_convolution(planes: Tensor, window: Tensor) -> Tensor:
    """Means under a window as two convolutions with one channel."""
    flat = planes.flatten(0, 1).unsqueeze(1)
    flat = nn.functional.conv2d(flat, window.view(1, 1, 1, -1))
    flat = nn.functional.conv2d(flat, window.view(1, 1, -1, 1))
    return flat.view(*planes.shape[:2], *flat.shape[2:])


def blurs(settings: metrics.SsimSettings, generator: torch.Generator) -> float:
    """How many times as long as products with a band matrix convolutions take."""
    planes = soft(25, generator).flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    product = metrics._Blur(settings, (SIDE, SIDE), planes.device)
    window = metrics._window(settings)
    seconds = []
    for blur in (product, lambda x: by_convolution(x, window)):
        blur(planes)
        began = time.process_time()
        for _ in range(3):
            blur(planes)
        seconds.append(time.process_time() - began)
    return seconds[1] / seconds[0]


def passes(samples: int) -> tuple[int, int]:
    """Pictures through LPIPS's network for one video: ours, and one pair at a time."""
    seen = 0

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal seen
        seen += len(inputs[0])

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "backbone.pth"
        network = perceptual._network("alex")
        state = {f"features.{k.partition('.')[2]}": v for k, v in network.net.state_dict().items()}
        torch.save(state, path)
        judge = perceptual.Lpips("alex", path)
    judge._network.net.register_forward_pre_hook(count)
    generator = torch.Generator().manual_seed(0)
    video, made = soft(1, generator), soft(samples, generator)
    judge.compare(
        {"video": video, "first": video[:, :1], "samples": made},
        [("samples", "video"), ("first", "video")],
        ["samples"],
    )
    distances = FRAMES * (samples + 1 + samples * (samples - 1) // 2)
    return seen, 2 * distances


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=256)
    parser.add_argument("--samples", type=int, default=25)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--protocol", choices=metrics.PROTOCOLS, default="mtzoo")
    args = parser.parse_args()
    settings = metrics.PROTOCOLS[args.protocol].ssim
    generator = torch.Generator().manual_seed(0)
    made, truth = soft(args.samples, generator), soft(1, generator)

    wall, processor = time.perf_counter(), time.process_time()
    scores = score(
        Made(made).eval(),
        Videos(args.videos, generator),
        protocol=metrics.PROTOCOLS[args.protocol],
        videos=args.videos,
        samples=args.samples,
        device=torch.device("cpu"),
    )
    scores.as_json()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    frames = args.videos * args.samples * FRAMES

    found = ours(made, truth, settings)
    turns = max(1, args.videos // 16)
    began = time.process_time()
    for _ in range(turns):
        ours(made, truth, settings)
    fast = (time.process_time() - began) / turns * args.videos

    began = time.process_time()
    expected = by_pairs(made, truth, settings, args.pairs)
    slow = (time.process_time() - began) / args.pairs * frames
    apart = (found.flatten(1)[:, : args.pairs] - expected).abs().amax(1).tolist()

    print(
        f"{args.samples} samples for each of {args.videos} videos of {FRAMES} frames scored "
        f"({args.protocol}): {processor:.1f} s of one core, {wall:.1f} s by the clock on "
        f"{torch.get_num_threads()} threads"
    )
    print(
        f"SSIM and PSNR of {frames:,} frames by scikit-image pair by pair, from {args.pairs} of "
        f"them: {slow / fast:.1f} times as long as here"
    )
    print(f"largest difference: SSIM {apart[0]:.1e}, PSNR {apart[1]:.1e} dB")
    print(
        "means under the window: by convolutions "
        f"{blurs(settings, generator):.0f} times as long as by products"
    )
    mine, theirs = passes(args.samples)
    print(
        f"LPIPS of {args.samples} samples of one video: {mine} pictures through the network, pair "
        f"by pair {theirs} ({theirs / mine:.1f} times as many)"
    )


if __name__ == "__main__":
    main()
