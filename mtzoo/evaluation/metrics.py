"""PSNR and SSIM of videos, with window, range and border said, and the figures made of them.

Published values of SSIM differ by how it was computed more than by model: SVG leaves the range of
its float pictures to scikit-image, which takes 2 for them, over a uniform window of 7x7; SAVP and
SRVP take a Gaussian window over the valid area and the true range. So the settings are a value of
their own (`SsimSettings`), and `PROTOCOLS` names those of published work.

All metrics here take uint8 videos ``(B, T, H, W, C)`` and give one figure a frame, float64
``(B, T)``; means over frames, videos and samples are taken of those. The truth may be one video
that all are scored against, ``(1, T, H, W, C)``: its means and variances are then computed once.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mtzoo.engine.evaluate import decibels, square_error
from mtzoo.errors import MtzooError, did_you_mean

# Bounds the memory that SSIM's maps take, and resamples.
_VALUES_AT_ONCE = 2**20


Colours = Literal["pooled", "channels"]
"""How a figure takes colour channels together: their errors before the logarithm, or the decibels
of each by itself."""


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
        psnr: How PSNR takes colours together, see `psnr`.
    """

    name: str
    source: str
    ssim: SsimSettings
    samples: int
    best: Literal["each", "ssim"] = "each"
    psnr: Colours = "pooled"


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="svg2018",
            source=(
                "Denton, Fergus, Stochastic Video Generation with a Learned Prior (ICML 2018): "
                "scikit-image's default window on floats in [0, 1], whose range it takes for 2; "
                "PSNR of each channel, averaged"
            ),
            ssim=SsimSettings(window="uniform", size=7, data_range=2.0, sample_covariance=True),
            samples=100,
            best="ssim",
            psnr="channels",
        ),
        Protocol(
            name="savp2018",
            source=(
                "Lee et al., Stochastic Adversarial Video Prediction (2018): tf.image.ssim, range "
                "1; PSNR of all channels together"
            ),
            ssim=SsimSettings(),
            samples=100,
        ),
        Protocol(
            name="srvp2020",
            source=(
                "Franceschi et al., Stochastic Latent Residual Video Prediction (ICML 2020): "
                "Gaussian window, valid area, range 1; PSNR of each channel, averaged"
            ),
            ssim=SsimSettings(),
            samples=100,
            psnr="channels",
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


def psnr(made: Tensor, truth: Tensor, colours: Colours = "pooled") -> Tensor:
    """Peak signal-to-noise ratio of each frame, in dB: 10 log10(255^2 / mean squared error).

    Args:
        made: uint8 ``(B, T, H, W, C)``.
        truth: uint8 of the same shape, or ``(1, T, H, W, C)``.
        colours: ``pooled``: the error is the mean over all channels; ``channels``: decibels of
            each channel by itself, averaged, which is never less.

    Returns:
        float64 ``(B, T)``; equal frames, or with ``channels`` equal channels, score 100.
    """
    if colours == "pooled":
        return decibels(square_errors(made, truth))
    truth = _check(made, truth)
    each = (frames.flatten(0, 1).movedim(-1, 1).flatten(0, 1) for frames in (made, truth))
    found = decibels(square_error(*each))
    return found.view(*made.shape[:2], made.shape[-1]).mean(-1)


def square_errors(made: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of each frame's 8-bit values, float64 ``(B, T)``; see `psnr`."""
    truth = _check(made, truth)
    return square_error(made.flatten(0, 1), truth.flatten(0, 1)).view(made.shape[:2])


def ssim(made: Tensor, truth: Tensor, settings: SsimSettings | None = None) -> Tensor:
    """Structural similarity of each frame.

    Args:
        made: uint8 ``(B, T, H, W, C)``.
        truth: uint8 of the same shape, or ``(1, T, H, W, C)``.
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
    blur = _Blur(settings, made.shape[2:4], made.device)
    at_once = max(1, _VALUES_AT_ONCE // math.prod(made.shape[2:]))
    columns = []
    for t in range(made.shape[1]):
        y = _planes(truth[:, t])
        known = (v.expand(len(made), -1, -1, -1) for v in (y, blur(y), blur(y * y)))
        parts = zip(*(v.split(at_once) for v in (made[:, t], *known)), strict=True)
        values = [
            _ssim(_planes(x), y, mean, square, blur, settings) for x, y, mean, square in parts
        ]
        columns.append(torch.cat(values))
    return torch.stack(columns, 1)


class _Blur:
    """Means under SSIM's window, where it lies wholly inside, as two products with a band matrix.

    On a CPU convolutions with one channel take many times as long (``benchmarks/metrics.py``).
    """

    def __init__(self, settings: SsimSettings, size: Sequence[int], device: torch.device) -> None:
        window = _window(settings)
        self._down, self._across = (
            torch.stack(
                [F.pad(window, (i, side - i - len(window))) for i in range(side - len(window) + 1)]
            ).to(device)
            for side in size
        )

    def __call__(self, planes: Tensor) -> Tensor:
        return self._down @ (planes @ self._across.T)


def _ssim(
    x: Tensor,
    y: Tensor,
    mean_y: Tensor,
    square_y: Tensor,
    blur: _Blur,
    settings: SsimSettings,
) -> Tensor:
    """SSIM of planes ``(N, C, H, W)`` less 1/2, in [-1/2, 1/2]; float64 ``(N,)``.

    About 1/2, because float32 would lose small variances beside large squares.
    """
    scale = 1.0
    if settings.sample_covariance:
        count = settings.size**2
        scale = count / (count - 1)
    mean_x = blur(x)
    var_x = scale * (blur(x * x) - mean_x.square())
    var_y = scale * (square_y - mean_y.square())
    both = scale * (blur(x * y) - mean_x * mean_y)
    c1 = (settings.k1 * settings.data_range) ** 2
    c2 = (settings.k2 * settings.data_range) ** 2
    mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
    above = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    below = (mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2)
    return (above / below).mean((1, 2, 3), dtype=torch.float64)


def _window(settings: SsimSettings) -> Tensor:
    if settings.window == "uniform":
        return torch.full((settings.size,), 1 / settings.size)
    reach = settings.size // 2
    at = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (at / settings.sigma).square())
    return (weights / weights.sum()).float()


def _planes(frames: Tensor) -> Tensor:
    return frames.permute(0, 3, 1, 2).contiguous().float() / 255 - 0.5


def _check(made: Tensor, truth: Tensor) -> Tensor:
    if made.dtype != torch.uint8 or truth.dtype != torch.uint8 or made.ndim != 5:
        raise ValueError(
            f"videos are uint8 (B, T, H, W, C), not {made.dtype} {tuple(made.shape)} and "
            f"{truth.dtype} {tuple(truth.shape)}"
        )
    if made.shape[1:] != truth.shape[1:] or len(truth) not in (1, len(made)):
        raise ValueError(f"{tuple(made.shape)} cannot be scored against {tuple(truth.shape)}")
    return truth.expand_as(made)


@dataclass(frozen=True)
class Figure:
    """A mean over clips with its uncertainty.

    Attributes:
        mean: The mean.
        low: Lower end of its 95 % interval; ``None`` where there is one source video alone, which
            tells nothing of others.
        high: Upper end.
        count: How many clips.
        sources: How many source videos they are cut from.
    """

    mean: float
    low: float | None
    high: float | None
    count: int
    sources: int

    def text(self, form: str = ".4g", factor: float = 1.0) -> str:
        """The mean and, where there is one, its interval.

        Args:
            form: Format of each number.
            factor: Of each number, 100 for per cent.
        """
        mean = f"{factor * self.mean:{form}}"
        if self.low is None or self.high is None:
            return mean
        return f"{mean} [{factor * self.low:{form}}, {factor * self.high:{form}}]"

    def __str__(self) -> str:
        return self.text()


def figure(
    values: Tensor,
    groups: Sequence[Hashable] = (),
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Figure:
    """The mean of one value a clip, with a percentile bootstrap interval over source videos.

    Clips of one video are alike, so what is drawn with replacement is videos, each with all of its
    clips (a cluster bootstrap).

    Args:
        values: ``(clips,)``.
        groups: The source video of each clip; empty where each has its own.
        draws: Resamples.
        seed: Of the draws.
        level: Coverage of the interval, in (0, 1).

    Raises:
        MtzooError: There are no values, or some are not finite.
    """
    values = values.detach().double().cpu().flatten()
    if not len(values) or not values.isfinite().all():
        raise MtzooError(f"no interval of {len(values)} values, some of them not finite")
    groups = groups or range(len(values))
    if len(groups) != len(values):
        raise ValueError(f"{len(values)} values of {len(groups)} clips")
    number = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    mean, count = float(values.mean()), len(number)
    if count < 2:
        return Figure(mean, None, None, len(values), count)
    of = torch.tensor([number[name] for name in groups])
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, of, values)
    sizes = torch.bincount(of)
    generator = torch.Generator().manual_seed(seed)
    means = []
    for some in torch.ones(draws).split(max(1, _VALUES_AT_ONCE // count)):
        chosen = torch.randint(count, (len(some), count), generator=generator)
        means.append(sums[chosen].sum(1) / sizes[chosen].sum(1))
    edge = (1 - level) / 2
    ends = torch.tensor([edge, 1 - edge], dtype=torch.float64)
    low, high = torch.quantile(torch.cat(means), ends).tolist()
    return Figure(mean, low, high, len(values), count)


def best_sample(scores: Tensor, *, first: int = 0, lower: bool = False) -> int:
    """Which sample of a video is best, by its mean over the frames that count.

    Args:
        scores: ``(samples, T)``, or ``(samples,)`` for metrics of whole videos.
        first: The first frame that counts.
        lower: Whether lower is better.
    """
    means = scores[:, first:].mean(1) if scores.ndim == 2 else scores
    return int(means.argmin() if lower else means.argmax())
