"""Space-time convolution blocks that the motion encoders and video discriminators share.

All take and give ``(B, C, T, H, W)``. Where a block halves a dimension of size n, it leaves
``ceil(n / 2)`` (kernel 3) or ``floor(n / 2)`` (kernel 4).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtzoo.errors import MtzooError
from mtzoo.interfaces import check_choice, check_floating, check_frames, check_numbers, check_sizes
from mtzoo.nn.conv3d import Conv3d
from mtzoo.nn.norm import Norm, Standard, needs_bias, norm3d, spectral

SLOPE = 0.2  # of the leaky ReLU, as in DCGAN's discriminator

Kind = Literal["full", "factorised"]
"""How a convolution in space and time is computed: at once, or in space and then in time."""

Stride = Literal[1, 2]
"""Of a video discriminator in time, in its first two stages."""

WHO = "motion encoder"


def widths(width: int, stages: int, most: int = 8) -> list[int]:
    """Channels of each stage: ``width``, doubled from stage to stage, up to ``most * width``."""
    return [width * min(2**stage, most) for stage in range(stages)]


def check_video(video: Tensor, channels: int, resolution: int, least: int, who: str) -> None:
    """Raise `MtzooError` unless ``video`` is float ``(B, T, channels, resolution, resolution)``.

    T has to be at least ``least``.
    """
    check_floating(video, "videos", who)
    if video.dim() != 5 or tuple(video.shape[2:]) != (channels, resolution, resolution):
        raise MtzooError(
            f"{who}: built for videos (B, T, {channels}, {resolution}, {resolution}), "
            f"given {tuple(video.shape)}; resize them or build it for that size"
        )
    check_frames(video.shape[1], least, who)


def halvings(resolution: int) -> int:
    """How often the side of a frame is halved until a 4x4 map is left."""
    return int(math.log2(resolution // 4))


def check_shrink(shrink: int, resolution: int, who: str) -> None:
    """Raise `MtzooError` unless ``shrink`` is a power of 2 that leaves frames of 16x16 or more."""
    sizes = [2**power for power in range(halvings(resolution) - 1)]
    if shrink not in sizes:
        raise MtzooError(
            f"{who}: shrink is {shrink}; at {resolution}x{resolution} it must be one of "
            f"{', '.join(map(str, sizes))}"
        )


def shrunken(video: Tensor, shrink: int) -> Tensor:
    """Average squares of ``shrink`` x ``shrink`` pixels of ``(B, T, C, H, W)``."""
    if shrink == 1:
        return video
    return F.avg_pool2d(video.flatten(0, 1), shrink).unflatten(0, video.shape[:2])


def check_time_halvings(time_halvings: int, most: int, who: str) -> None:
    """Raise `MtzooError` unless ``time_halvings`` is between 0 and ``most``."""
    if not 0 <= time_halvings <= most:
        raise MtzooError(
            f"{who}: time_halvings is {time_halvings}; at this resolution it must be 0 to {most}"
        )


def he_init_(module: nn.Module) -> None:
    """Initialise convolutions for leaky ReLU (He et al. 2015), in place, biases 0.

    It keeps the size of activations with any norm, "none" included; DCGAN's N(0, 0.02) needs
    batch norm to do so.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            nn.init.kaiming_normal_(part.weight, SLOPE)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def between(inputs: int, outputs: int, space: int, time: int) -> int:
    """Channels between the halves of a factorised convolution (Tran et al. 2018, Sec. 3.5).

    With so many the two halves have about as many weights as the full convolution with a
    ``time x space x space`` kernel.
    """
    return max(
        1,
        time * space**2 * inputs * outputs // (space**2 * inputs + time * outputs),
    )


class Conv3x3x3(nn.Sequential):
    """A padded 3x3x3 convolution, full or factorised into 1x3x3 and 3x1x1.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        stride: In time and in space, 1 or 2 each.
        kind: ``"factorised"`` puts norm and leaky ReLU between the halves.
        norm: The norm between the halves; it also says whether the convolution that ends the
            block wants a bias: none if a norm follows.

    Raises:
        MtzooError: There is no such ``kind``.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: tuple[int, int], kind: Kind, norm: Norm
    ) -> None:
        check_choice("Conv3x3x3", "kind", kind, Kind)
        in_time, in_space = stride
        bias = needs_bias(norm)
        if kind == "full":
            super().__init__(
                Conv3d(inputs, outputs, 3, (in_time, in_space, in_space), 1, bias=bias)
            )
            return
        middle = between(inputs, outputs, 3, 3)
        super().__init__(
            Conv3d(inputs, middle, (1, 3, 3), (1, in_space, in_space), (0, 1, 1), bias=bias),
            norm3d(norm, middle),
            nn.LeakyReLU(SLOPE, inplace=True),
            Conv3d(middle, outputs, (3, 1, 1), (in_time, 1, 1), (1, 0, 0), bias=bias),
        )


class ResidualBlock3d(nn.Module):
    """The basic block of a 3D ResNet: two 3x3x3 convolutions added to a shortcut.

    The shortcut is the input itself, or a strided 1x1x1 convolution of it where shapes differ.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        stride: Of the first convolution, in time and in space, 1 or 2 each.
        kind: Of the two convolutions.
        norm: After each convolution.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: tuple[int, int], kind: Kind, norm: Norm
    ) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            Conv3x3x3(inputs, outputs, stride, kind, norm),
            norm3d(norm, outputs),
            nn.LeakyReLU(SLOPE, inplace=True),
            Conv3x3x3(outputs, outputs, (1, 1), kind, norm),
            norm3d(norm, outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != (1, 1):
            in_time, in_space = stride
            self.shortcut = nn.Sequential(
                Conv3d(
                    inputs,
                    outputs,
                    1,
                    (in_time, in_space, in_space),
                    bias=needs_bias(norm),
                ),
                norm3d(norm, outputs),
            )
        self.activation = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, inputs, T, H, W)`` to ``(B, outputs, T', H', W')``."""
        return self.activation(self.convolutions(features) + self.shortcut(features))


def residual_network(
    resolution: int,
    channels: int,
    *,
    kind: Kind,
    width: int,
    blocks: int,
    time_halvings: int,
    norm: Norm,
) -> tuple[nn.Sequential, int]:
    """Build a 3D ResNet from ``resolution`` down to a 4x4 map.

    A stem convolution and then stages of ``blocks`` residual blocks, each halving the map's side;
    the first ``time_halvings`` stages halve time too.

    Args:
        resolution: Side of a frame: 32, 64 or 128.
        channels: Of the input.
        kind: Of its convolutions; see `Conv3x3x3`.
        width: Channels of stem and first stage; see `widths` for the others.
        blocks: Residual blocks a stage, at least 1.
        time_halvings: Stages that halve time, an odd number of frames rounded up.
        norm: After each convolution.

    Returns:
        The network, from ``(B, channels, T, resolution, resolution)`` to ``(B, C, T', 4, 4)``, and
        C.

    Raises:
        MtzooError: There is no such ``kind`` or norm.
    """
    stages = halvings(resolution) - 1  # the stem halves once
    sizes = widths(width, stages)
    layers: list[nn.Module] = [
        Conv3x3x3(channels, width, (1, 2), kind, norm),
        norm3d(norm, width),
        nn.LeakyReLU(SLOPE, inplace=True),
    ]
    inputs = width
    for stage, outputs in enumerate(sizes):
        stride = (2 if stage < time_halvings else 1, 2)
        layers.append(ResidualBlock3d(inputs, outputs, stride, kind, norm))
        layers.extend(
            ResidualBlock3d(outputs, outputs, (1, 1), kind, norm) for _ in range(blocks - 1)
        )
        inputs = outputs
    network = nn.Sequential(*layers)
    he_init_(network)
    return network, inputs


def _pooling(size: int, bins: int, like: Tensor) -> Tensor:
    """``(bins, size)`` weights of adaptive average pooling, made on the device: no transfer."""
    bin_ = torch.arange(bins, device=like.device)[:, None]
    place = torch.arange(size, device=like.device)
    inside = (place >= bin_ * size // bins) & (place < ((bin_ + 1) * size + bins - 1) // bins)
    return inside.to(like.dtype) / inside.sum(1, keepdim=True)


def pool_to(features: Tensor, time: int, space: int) -> Tensor:
    """Average ``(B, C, T, S, S)`` over bins to ``(B, C, time, space, space)``, any T and S.

    The bins are those of adaptive average pooling: each holds the same share of the clip, and
    neighbours share frames where T is no multiple. As a product with a small matrix, because
    torch's own has no deterministic gradient on CUDA.
    """
    if features.shape[3] != space:
        weights = _pooling(features.shape[3], space, features)
        features = weights @ features @ weights.T
    if features.shape[2] != time:
        weights = _pooling(features.shape[2], time, features)
        features = (weights @ features.flatten(3)).unflatten(3, (space, space))
    return features


def random_rotations(count: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Random orthogonal matrices ``(count, dim, dim)``, uniform over rotations and reflections.

    Drawn from torch's generator of the device: made on the CPU, they would be waited for. Gram and
    Schmidt's way from normal columns is uniform (Mezzadri, "How to generate random matrices from
    the classical compact groups", 2007).
    """
    columns: list[Tensor] = []
    for column in torch.randn(count, dim, dim, device=device).unbind(2):
        for _ in range(2):  # once more for what rounding left
            for other in columns:
                column = column - (column * other).sum(1, keepdim=True) * other
        columns.append(F.normalize(column, dim=1))
    return torch.stack(columns, 2)


def _linear(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.LeakyReLU(SLOPE))


class GaussianHead(nn.Module):
    """The end of a motion encoder: pooled features to mean and log-variance.

    Pools to ``time_bins`` x ``space_bins`` x ``space_bins`` and then flattens, instead of
    averaging all: when something was where is what a motion code has to hold. At the start the
    means are of about the features' size and the standard deviation is ``initial_sigma``
    whatever the video, so that the code is neither drowned in its own noise nor without any.

    Args:
        channels: Of the features.
        motion_dim: Size of the code.
        time_bins: Bins in time; 1 averages over the clip.
        space_bins: Bins along each side; 1 averages over the map.
        initial_sigma: Standard deviation at the start.
        mean_spread: Standard deviation over the batch at which each dimension's means are held,
            around 0; 0 leaves them free.
        log_variance_bound: Log-variances stay, softly, between minus and plus this; 0 leaves
            them free.
        bin_dim: Size to which a layer that all bins of time share first brings each of them; what
            is seen in one bin is then learned from all, and a layer of 4 times that size joins
            them. 0 reads mean and log-variance off the features at once.

    Raises:
        MtzooError: ``initial_sigma`` is not positive or beyond the bound; ``mean_spread``,
            ``log_variance_bound`` or ``bin_dim`` is negative; one is not finite; or ``bin_dim`` is
            no whole number.
    """

    def __init__(
        self,
        channels: int,
        motion_dim: int,
        *,
        time_bins: int,
        space_bins: int,
        initial_sigma: float,
        mean_spread: float = 0.0,
        log_variance_bound: float = 0.0,
        bin_dim: int = 0,
    ) -> None:
        super().__init__()
        check_numbers(WHO, above=0, initial_sigma=initial_sigma)
        check_numbers(WHO, mean_spread=mean_spread, log_variance_bound=log_variance_bound)
        check_sizes(WHO, least=0, bin_dim=bin_dim)
        start = 2 * math.log(initial_sigma)
        if log_variance_bound:
            if abs(start) >= log_variance_bound:
                raise MtzooError(
                    f"{WHO}: with log_variance_bound {log_variance_bound} sigma lies "
                    f"between {math.exp(-log_variance_bound / 2):.3g} and "
                    f"{math.exp(log_variance_bound / 2):.3g}; initial_sigma is {initial_sigma}"
                )
            start = log_variance_bound * math.atanh(start / log_variance_bound)
        self.time_bins = time_bins
        self.space_bins = space_bins
        inputs = channels * time_bins * space_bins**2
        self.bins = self.joined = None
        if bin_dim:
            self.bins = _linear(channels * space_bins**2, bin_dim)
            self.joined = _linear(time_bins * bin_dim, 4 * bin_dim)
            inputs = 4 * bin_dim
        self.mean = nn.Linear(inputs, motion_dim)
        self.log_variance = nn.Linear(inputs, motion_dim)
        nn.init.normal_(self.mean.weight, std=inputs**-0.5)
        nn.init.zeros_(self.mean.bias)
        nn.init.normal_(self.log_variance.weight, std=0.01 * inputs**-0.5)
        nn.init.constant_(self.log_variance.bias, start)
        self.log_variance_bound = log_variance_bound
        self.mean_spread = mean_spread
        if mean_spread:
            self.standard = Standard(motion_dim)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(B, channels, T, S, S)`` to mean and log-variance ``(B, motion_dim)``."""
        pooled = pool_to(features, self.time_bins, self.space_bins)
        flat = pooled.flatten(1)
        if self.bins is not None and self.joined is not None:
            flat = self.joined(self.bins(pooled.transpose(1, 2).flatten(2)).flatten(1))
        mean = self.mean(flat)
        if self.mean_spread:
            mean = self.standard(mean) * self.mean_spread
        log_variance = self.log_variance(flat)
        if bound := self.log_variance_bound:
            log_variance = bound * torch.tanh(log_variance / bound)
        return mean, log_variance


class Conv4x4(nn.Sequential):
    """A convolution that halves space with a 4x4 kernel, full or factorised, spectral or not.

    In time the kernel is 4 with stride 2, or 3 with stride 1; zero-padded by 1 either way.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        halve_time: Whether time is halved (``floor(T / 2)`` frames remain) or kept.
        kind: ``"factorised"`` is 1x4x4, leaky ReLU, then the kernel in time alone.
        spectral_norm: On every convolution.
        bias: Of the last convolution.

    Raises:
        MtzooError: There is no such ``kind``.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        halve_time: bool,
        kind: Kind,
        spectral_norm: bool,
        bias: bool,
    ) -> None:
        check_choice("Conv4x4", "kind", kind, Kind)
        time, stride = (4, 2) if halve_time else (3, 1)
        if kind == "full":
            super().__init__(
                _conv(inputs, outputs, (time, 4, 4), (stride, 2, 2), 1, bias, spectral_norm)
            )
            return
        super().__init__(
            _conv(inputs, outputs, (1, 4, 4), (1, 2, 2), (0, 1, 1), True, spectral_norm),
            nn.LeakyReLU(SLOPE, inplace=True),
            _conv(outputs, outputs, (time, 1, 1), (stride, 1, 1), (1, 0, 0), bias, spectral_norm),
        )


def _conv(
    inputs: int,
    outputs: int,
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int],
    padding: int | tuple[int, int, int],
    bias: bool,
    spectral_norm: bool,
) -> nn.Module:
    conv = Conv3d(inputs, outputs, kernel, stride, padding, bias=bias)
    # Before the spectral norm, whose power iteration starts from the weight that it finds.
    he_init_(conv)
    return spectral(conv, spectral_norm)


def critic_trunk(
    channels: int,
    *,
    stages: int,
    kind: Kind,
    width: int,
    time_halvings: int,
    norm: Norm,
    spectral_norm: bool,
) -> tuple[nn.Sequential, int]:
    """Build a video discriminator's convolutions: ``stages`` that halve the map's side each.

    The first ``time_halvings`` stages halve time too. Leaky ReLU after each stage, norm before it
    except in the first, as in DCGAN.

    Args:
        channels: Of the input.
        stages: How often the side is halved, at least 1.
        kind: Of its convolutions; see `Conv4x4`.
        width: Channels of the first stage; see `widths` for the others.
        time_halvings: Stages that halve time, an odd number of frames rounded down.
        norm: After each convolution but the first.
        spectral_norm: Whether every convolution is spectrally normalised.

    Returns:
        The network, from ``(B, channels, T, H, W)`` to ``(B, C, T', H', W')``, sides halved
        ``stages`` times, and C.

    Raises:
        MtzooError: There is no such ``kind`` or norm.
    """
    layers: list[nn.Module] = []
    inputs = channels
    for stage, outputs in enumerate(widths(width, stages)):
        own: Norm = norm if stage else "none"
        layers += [
            Conv4x4(inputs, outputs, stage < time_halvings, kind, spectral_norm, needs_bias(own)),
            norm3d(own, outputs),
            nn.LeakyReLU(SLOPE, inplace=True),
        ]
        inputs = outputs
    return nn.Sequential(*layers), inputs


def critic_head(inputs: int, kernel: int, spectral_norm: bool) -> nn.Module:
    """The last convolution of a discriminator, to one logit a place, over ``kernel`` in space.

    A kernel of 4 is unpadded and spans a 4x4 map; a kernel of 3 keeps the map's size.

    Args:
        inputs: Channels in.
        kernel: 4 or 3.
        spectral_norm: Whether it is spectrally normalised.

    Returns:
        A module from ``(B, inputs, T, H, W)`` to logits ``(B, 1, T, H', W')``: H - 3, W - 3 with a
        kernel of 4, H, W with one of 3.

    Raises:
        MtzooError: The kernel is neither.
    """
    check_choice("critic_head", "kernel", kernel, (3, 4))
    padding = (0, 1, 1) if kernel == 3 else (0, 0, 0)
    return _conv(inputs, 1, (1, kernel, kernel), (1, 1, 1), padding, True, spectral_norm)
