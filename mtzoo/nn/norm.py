"""Normalisation, spectral normalisation and initialisation by name, for 2D and 3D networks alike.

Kept in one place so that ``norm`` and ``spectral_norm`` mean the same in every component.
"""

from __future__ import annotations

import math
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from mtzoo.errors import MtzooError, did_you_mean

Norm = Literal["batch", "instance", "group", "none"]

M = TypeVar("M", bound=nn.Module)


def _check(kind: str) -> None:
    kinds = get_args(Norm)
    if kind not in kinds:
        raise MtzooError(
            f"unknown norm {kind!r}.{did_you_mean(str(kind), kinds)} Known: {', '.join(kinds)}"
        )


def _group_norm(channels: int) -> nn.GroupNorm:
    # 32 groups as in the paper (Wu & He 2018), fewer where a group would hold under 8 channels:
    # over a 4x4 map a group of one channel would be instance norm under another name.
    groups = math.gcd(32, channels)
    while groups > 1 and channels // groups < 8:
        groups //= 2
    return nn.GroupNorm(groups, channels)


def norm2d(kind: Norm, channels: int) -> nn.Module:
    """Return a learned normalisation of ``(N, channels, H, W)``.

    Args:
        kind: ``"batch"``, ``"instance"``, ``"group"`` (up to 32 groups of at least 8 channels)
            or ``"none"``, an identity. Batch and instance norm need more than one value a
            channel in training: keep them off 1x1 maps.
        channels: Size of the dimension 1.

    Raises:
        MtzooError: ``kind`` is none of these.
    """
    _check(kind)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    return _group_norm(channels) if kind == "group" else nn.Identity()


def norm3d(kind: Norm, channels: int) -> nn.Module:
    """Return a learned normalisation of ``(N, channels, T, H, W)``; see `norm2d`."""
    _check(kind)
    if kind == "batch":
        return nn.BatchNorm3d(channels)
    if kind == "instance":
        return nn.InstanceNorm3d(channels, affine=True)
    return _group_norm(channels) if kind == "group" else nn.Identity()


def needs_bias(kind: Norm) -> bool:
    """Whether a convolution wants a bias of its own when ``kind`` follows it.

    Every normalisation subtracts a mean and brings a shift: a bias before it would be dead.
    """
    return kind == "none"


def spectral(module: M, enabled: bool) -> M:
    """Divide the module's ``weight`` by its largest singular value, where ``enabled``.

    Spectral normalisation (Miyato et al. 2018) as torch's parametrisation: one power iteration
    each time the weight is used in training mode, none in eval mode. The state dict then holds
    ``parametrizations.weight.original`` and the two vectors of the iteration.

    Args:
        module: A convolution or a linear layer, changed in place.
        enabled: ``False`` returns the module as it is.

    Returns:
        The same module.
    """
    if enabled:
        parametrizations.spectral_norm(module)
    return module


class Standard(nn.BatchNorm1d):
    """Codes ``(N, dim)`` to mean 0 and variance 1 over the batch in every dimension.

    Nothing is learned. In training N is at least 2; after it the running statistics are used.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, affine=False)

    def forward(self, input: Tensor) -> Tensor:
        """Standardise ``(N, dim)``.

        Raises:
            MtzooError: One code in training.
        """
        if self.training:
            check_batch(self, len(input))
        return super().forward(input)


def check_batch(module: nn.Module, size: int) -> None:
    """Raise `MtzooError` where a part of ``module`` cannot be trained on so many samples."""
    if size < 2 and any(isinstance(part, Standard) for part in module.modules()):
        raise MtzooError(
            "a batch of 1 has no spread to hold codes at; take engine.batch_size 2 or more for "
            "each process, or set mean_spread: 0 and an output other than batch_norm"
        )


_WEIGHTED = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
)


@torch.no_grad()
def dcgan_init_(module: M) -> M:
    """Initialise as DCGAN does (Radford et al. 2016), in place, all modules within.

    Weights of convolutions and linear layers from N(0, 0.02), scales of normalisations from
    N(1, 0.02), biases and shifts 0. Layers under `spectral` get a new weight to normalise, and
    their power iteration starts over.

    Returns:
        The same module.
    """
    for part in module.modules():
        if isinstance(part, _WEIGHTED):
            if parametrize.is_parametrized(part, "weight"):
                # The setter hands the value to the parametrisation; `part.weight` is a result.
                part.weight = torch.randn_like(part.weight) * 0.02
                _settle(part)
            else:
                nn.init.normal_(part.weight, 0.0, 0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, _NORMS) and part.weight is not None:
            nn.init.normal_(part.weight, 1.0, 0.02)
            nn.init.zeros_(part.bias)
    return module


def initialise_(module: M, norm: Norm) -> M:
    """Initialise a DCGAN-like network for the norm it has, in place.

    With a norm as `dcgan_init_` does. Without one N(0, 0.02) would shrink activations from layer to
    layer (a tenth at width 24), so weights are drawn after He et al. 2015, for leaky ReLU of slope
    0.2 and for the number of inputs that reach one output pixel.

    Returns:
        The same module.
    """
    dcgan_init_(module)
    if norm != "none":
        return module
    gain = nn.init.calculate_gain("leaky_relu", 0.2)
    for part in module.modules():
        if isinstance(part, _WEIGHTED) and not parametrize.is_parametrized(part, "weight"):
            reach = part.weight[0].numel()
            if isinstance(part, (nn.ConvTranspose2d, nn.ConvTranspose3d)):
                taps = math.prod(part.kernel_size) / math.prod(part.stride)
                reach = part.in_channels // part.groups * taps
            nn.init.normal_(part.weight, 0.0, gain / math.sqrt(reach))
    return module


def _settle(part: nn.Module) -> None:
    # 15 iterations, as many as torch's own constructor of the parametrisation does.
    training = part.training
    part.train()
    for _ in range(15):
        _ = part.weight
    part.train(training)
