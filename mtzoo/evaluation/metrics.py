"""PSNR and SSIM of videos, with window, range and border said, and the figures made of them.

Published values of SSIM differ by how it was computed more than by model: SVG leaves the range of
its float pictures to scikit-image, which takes 2 for them, over a uniform window of 7x7; SAVP and
SRVP take a Gaussian window over the valid area and the true range. So the settings are a value of
their own (`SsimSettings`), and `PROTOCOLS` names those of published work.

All metrics here take uint8 videos ``(B, T, H, W, C)`` and give one figure a frame, float64
``(B, T)``; means over frames, videos and samples are taken of those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mtzoo.errors import MtzooError, did_you_mean

PSNR_CAP = 100.0
"""PSNR of equal pictures in dB, so that means stay finite."""

_FRAMES_AT_ONCE = 512


@dataclass(frozen=True)
class SsimSettings:
    """How SSIM (Wang, Bovik, Sheikh, Simoncelli, 2004) is computed.

    The map is averaged over the places where the window lies wholly inside the picture, and over
    channels, each by itself.

    Attributes:
        window: ``gaussian``, or ``uniform``: all pixels alike.
        size: Side of the window in pixels, odd.
        sigma: Standard deviation of the Gaussian in pixels.
        data_range: Span of the values that the constants assume, where pixels span 1.
        sample_covariance: Divide by one less than the number of pixels in variances.
        k1: Constant of the luminance term.
        k2: Constant of the contrast term.
    """

    window: Literal["gaussian", "uniform"] = "gaussian"
    size: int = 11
    sigma: float = 1.5
    data_range: float = 1.0
    sample_covariance: bool = False
    k1: float = 0.01
    k2: float = 0.03

    def __post_init__(self) -> None:
        if self.size < 3 or self.size % 2 == 0:
            raise MtzooError(f"the window's size must be odd and at least 3, not {self.size}")
        for name in ("sigma", "data_range"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise MtzooError(f"{name} must be above 0, not {value}")


@dataclass(frozen=True)
class Protocol:
    """How a body of published work measures.

    Attributes:
        name: Its name here.
        source: Whose it is, and where it was read.
        ssim: Settings of SSIM.
        samples: Samples a video, of which the best counts.
        best: ``each``: the best sample is chosen for each metric; ``ssim``: the sample of best
            SSIM counts for all.
    """

    name: str
    source: str
    ssim: SsimSettings
    samples: int
    best: Literal["each", "ssim"] = "each"


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="svg2018",
            source=(
                "Denton, Fergus, Stochastic Video Generation with a Learned Prior (ICML 2018): "
                "scikit-image's default window on floats in [0, 1], whose range it takes for 2"
            ),
            ssim=SsimSettings(window="uniform", size=7, data_range=2.0, sample_covariance=True),
            samples=100,
            best="ssim",
        ),
        Protocol(
            name="savp2018",
            source=(
                "Lee et al., Stochastic Adversarial Video Prediction (2018): tf.image.ssim, range 1"
            ),
            ssim=SsimSettings(),
            samples=100,
        ),
        Protocol(
            name="srvp2020",
            source=(
                "Franceschi et al., Stochastic Latent Residual Video Prediction (ICML 2020): "
                "Gaussian window, valid area, range 1"
            ),
            ssim=SsimSettings(),
            samples=100,
        ),
        Protocol(
            name="mtzoo",
            source=(
                "ours: SSIM as in Wang et al. (2004), range 1; 25 samples, as in Dual-MTGAN's "
                "ablation"
            ),
            ssim=SsimSettings(),
            samples=25,
        ),
    )
}
"""The protocols by name."""


def protocol(name: str) -> Protocol:
    """Look a protocol up.

    Raises:
        MtzooError: There is none of that name.
    """
    if name not in PROTOCOLS:
        raise MtzooError(
            f"unknown protocol {name!r}.{did_you_mean(name, PROTOCOLS)} "
            f"Protocols: {', '.join(PROTOCOLS)}"
        )
    return PROTOCOLS[name]


def psnr(made: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each frame, in dB: 10 log10(255^2 / mean squared error).

    Args:
        made: uint8 ``(B, T, H, W, C)``.
        truth: uint8 of the same shape.

    Returns:
        float64 ``(B, T)``; equal frames score 100.
    """
    _check(made, truth)
    error = (made.to(torch.float64) - truth.to(torch.float64)).square().mean((2, 3, 4))
    return (10.0 * torch.log10(255.0**2 / error)).clamp(max=PSNR_CAP)


def ssim(made: Tensor, truth: Tensor, settings: SsimSettings | None = None) -> Tensor:
    """Structural similarity of each frame.

    Args:
        made: uint8 ``(B, T, H, W, C)``.
        truth: uint8 of the same shape.
        settings: How; ``None`` is the Gaussian window of 11x11 and the true range.

    Returns:
        float64 ``(B, T)``, at most 1.

    Raises:
        MtzooError: Frames are smaller than the window.
    """
    _check(made, truth)
    settings = settings or SsimSettings()
    if min(made.shape[2:4]) < settings.size:
        raise MtzooError(
            f"frames of {made.shape[3]}x{made.shape[2]} are smaller than SSIM's window of "
            f"{settings.size}x{settings.size}"
        )
    window = _window(settings).to(made.device)
    x, y = made.flatten(0, 1), truth.flatten(0, 1)
    values = [
        _ssim(_planes(a), _planes(b), window, settings)
        for a, b in zip(x.split(_FRAMES_AT_ONCE), y.split(_FRAMES_AT_ONCE), strict=True)
    ]
    return torch.cat(values).view(made.shape[:2])


def _ssim(x: Tensor, y: Tensor, window: Tensor, settings: SsimSettings) -> Tensor:
    """SSIM of planes ``(N, C, H, W)`` in [0, 1]; float64 ``(N,)``."""

    def blur(planes: Tensor) -> Tensor:
        flat = planes.flatten(0, 1).unsqueeze(1)
        flat = functional.conv2d(flat, window.view(1, 1, 1, -1))
        flat = functional.conv2d(flat, window.view(1, 1, -1, 1))
        return flat.view(*planes.shape[:2], *flat.shape[2:])

    scale = 1.0
    if settings.sample_covariance:
        count = settings.size**2
        scale = count / (count - 1)
    mean_x, mean_y = blur(x), blur(y)
    # About the pictures' own means: float32 would lose small variances beside large squares.
    at = 0.5
    u, v = x - at, y - at
    var_x = scale * (blur(u * u) - (mean_x - at).square())
    var_y = scale * (blur(v * v) - (mean_y - at).square())
    both = scale * (blur(u * v) - (mean_x - at) * (mean_y - at))
    c1 = (settings.k1 * settings.data_range) ** 2
    c2 = (settings.k2 * settings.data_range) ** 2
    above = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    below = (mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2)
    return (above / below).double().mean((1, 2, 3))


def _window(settings: SsimSettings) -> Tensor:
    if settings.window == "uniform":
        return torch.full((settings.size,), 1 / settings.size)
    reach = settings.size // 2
    at = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (at / settings.sigma).square())
    return (weights / weights.sum()).float()


def _planes(frames: Tensor) -> Tensor:
    return frames.permute(0, 3, 1, 2).float() / 255


def _check(made: Tensor, truth: Tensor) -> None:
    if made.dtype != torch.uint8 or truth.dtype != torch.uint8 or made.ndim != 5:
        raise ValueError(
            f"videos are uint8 (B, T, H, W, C), not {made.dtype} {tuple(made.shape)} and "
            f"{truth.dtype} {tuple(truth.shape)}"
        )
    if made.shape != truth.shape:
        raise ValueError(f"{tuple(made.shape)} cannot be scored against {tuple(truth.shape)}")


@dataclass(frozen=True)
class Figure:
    """A mean over videos with its uncertainty.

    Attributes:
        mean: The mean.
        low: Lower end of its 95 % interval.
        high: Upper end.
        count: How many videos.
    """

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


def figure(values: Tensor, *, draws: int = 2000, seed: int = 0, level: float = 0.95) -> Figure:
    """The mean of one value a video, with a percentile bootstrap interval over videos.

    Args:
        values: ``(videos,)``.
        draws: Resamples.
        seed: Of the draws.
        level: Coverage of the interval.

    Raises:
        MtzooError: There are no values, or some are not finite.
    """
    values = values.detach().double().cpu().flatten()
    if not len(values) or not values.isfinite().all():
        raise MtzooError(f"no interval of {len(values)} values, some of them not finite")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(values), (draws, len(values)), generator=generator)
    means = values[chosen].mean(1)
    edge = (1 - level) / 2
    low, high = torch.quantile(means, torch.tensor([edge, 1 - edge], dtype=torch.float64)).tolist()
    return Figure(float(values.mean()), low, high, len(values))


def best_of(scores: Tensor, by: Tensor | None = None) -> Tensor:
    """The score of the best sample of each video: best by its mean over frames.

    Args:
        scores: ``(videos, samples, T)``, larger is better.
        by: Another metric of the same shape that chooses the sample; ``None`` takes ``scores``.

    Returns:
        ``(videos, T)``.
    """
    chosen = (scores if by is None else by).mean(2).argmax(1)
    return scores[torch.arange(len(scores)), chosen]


def best_over_time(scores: Tensor) -> Tensor:
    """The best score at each time step, whichever sample has it, as in the paper's Fig. 6.

    Args:
        scores: ``(videos, samples, T)``, larger is better.

    Returns:
        ``(videos, T)``.
    """
    return scores.amax(1)
