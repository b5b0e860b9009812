"""Building blocks of the 2D networks: stacks of convolutions, residual blocks, modulation.

What several image components share lives here, so that the components hold their architecture
and nothing else. Nothing here knows a registry.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtzoo.errors import MtzooError
from mtzoo.interfaces import check_choice, check_floating
from mtzoo.nn.norm import Norm, Standard, needs_bias, norm2d, spectral

CodeOutput = Literal["linear", "tanh", "layer_norm", "batch_norm"]


def check_image(image: Tensor, channels: int, resolution: int, who: str) -> None:
    """Raise `MtzooError` unless ``image`` is float ``(N, channels, resolution, resolution)``."""
    check_floating(image, "images", who)
    wanted = (channels, resolution, resolution)
    if image.dim() != 4 or tuple(image.shape[1:]) != wanted:
        raise MtzooError(
            f"{who}: built for images (N, {channels}, {resolution}, {resolution}), "
            f"given {tuple(image.shape)}; resize them or build it for that size"
        )


def check_picture(picture: Tensor, batch: int, channels: int, resolution: int, who: str) -> None:
    """Raise `MtzooError` unless ``picture`` is what `check_image` wants, ``batch`` of them."""
    check_image(picture, channels, resolution, who)
    if picture.shape[0] != batch:
        raise MtzooError(
            f"{who}: codes of {batch} videos came with {picture.shape[0]} pictures; "
            "give one picture for each video (`expand` repeats without a copy)"
        )


def check_pairs(condition: Tensor, frame: Tensor, channels: int, resolution: int, who: str) -> None:
    """Raise `MtzooError` unless both are as `check_image` wants and as many as each other."""
    check_image(condition, channels, resolution, who)
    check_image(frame, channels, resolution, who)
    if condition.shape[0] != frame.shape[0]:
        raise MtzooError(
            f"{who}: {condition.shape[0]} conditions and {frame.shape[0]} frames make no pairs; "
            "give as many of one as of the other (`expand` repeats without a copy)"
        )


def check_codes(
    content: Tensor, motion: Tensor, content_dim: int, frame_motion_dim: int, who: str
) -> None:
    """Raise `MtzooError` unless codes are what an image generator paints from.

    Args:
        content: ``(B, content_dim)``, one code for all frames, or ``(B, T, content_dim)``.
        motion: ``(B, T, frame_motion_dim)``, B and T at least 1.
        content_dim: What the generator was built for.
        frame_motion_dim: Likewise.
        who: The generator, as the message is to call it.
    """
    fit = (
        motion.dim() == 3
        and motion.shape[2] == frame_motion_dim
        and motion.shape[0] > 0
        and motion.shape[1] > 0
        and content.dim() in (2, 3)
        and content.shape[-1] == content_dim
        and content.shape[:-1] == motion.shape[: content.dim() - 1]
    )
    if not fit:
        raise MtzooError(
            f"{who}: built for content codes (B, {content_dim}) or (B, T, {content_dim}) and "
            f"motion codes (B, T, {frame_motion_dim}), given {tuple(content.shape)} and "
            f"{tuple(motion.shape)}; make B and T the same, or build it with the codes' sizes"
        )


def stage_widths(resolution: int, width: int) -> list[int]:
    """Channels after each halving from ``resolution`` to 4: width, 2, 4, 8 times that, then on.

    Growth ends at ``8 * width``, so that 128x128 adds a stage and not a factor.
    """
    stages = round(math.log2(resolution // 4))
    return [width * min(2**i, 8) for i in range(stages)]


def join_codes(content: Tensor, motion: Tensor) -> Tensor:
    """Concatenate content and frame motion codes, one row a frame (Eq. 3 of the paper).

    Args:
        content: ``(B, content_dim)``, one code for all frames, or ``(B, T, content_dim)``.
        motion: ``(B, T, frame_motion_dim)``.

    Returns:
        ``(B * T, content_dim + frame_motion_dim)``, frames of a video together.
    """
    if content.dim() == 2:
        # A view: the only copy of a code given once a video is the one that `cat` makes.
        content = content.unsqueeze(1).expand(-1, motion.shape[1], -1)
    return torch.cat((content, motion), dim=-1).flatten(0, 1)


def as_video_frames(frames: Tensor, batch: int) -> Tensor:
    """View painted frames ``(B * T, C, H, W)`` as ``(B, T, C, H, W)``, dense as B, T, H, W, C."""
    # No copy where the convolutions already ran in channels_last.
    frames = frames.contiguous(memory_format=torch.channels_last)
    return frames.unflatten(0, (batch, -1))


def code_output(kind: CodeOutput, dim: int) -> nn.Module:
    """Return what a content code passes through last.

    Args:
        kind: ``"linear"``: nothing. ``"tanh"``: into (-1, 1), as SVG does. ``"layer_norm"``:
            zero mean and unit variance over each code's dimensions, nothing learned, so that a
            loss on differences of codes cannot be served by shrinking them. ``"batch_norm"``:
            zero mean and unit variance over the batch in every dimension, nothing learned, so
            that it cannot be served by one code for all pictures either; takes more than one
            picture in training, and their running statistics after it.
        dim: Size of the code.

    Returns:
        A module from ``(N, dim)`` to ``(N, dim)``.

    Raises:
        MtzooError: There is no such ``kind``, or a code of 1 dimension is to be layer-normalised.
    """
    check_choice("content encoder", "output", kind, CodeOutput)
    if kind == "tanh":
        return nn.Tanh()
    if kind == "layer_norm":
        if dim < 2:
            raise MtzooError(
                "content encoder: a code of 1 dimension cannot be layer-normalised; "
                "set content_dim to 2 or more, or output to another kind"
            )
        return nn.LayerNorm(dim, elementwise_affine=False)
    if kind == "batch_norm":
        return Standard(dim)
    return nn.Identity()


def conv_down(
    inputs: int,
    outputs: int,
    norm: Norm,
    spectral_norm: bool,
    *,
    stride: int = 2,
) -> nn.Sequential:
    """4x4 convolution, normalisation, leaky ReLU of 0.2 (DCGAN's discriminator layer).

    Args:
        inputs: Channels in.
        outputs: Channels out.
        norm: After the convolution.
        spectral_norm: Whether the convolution is spectrally normalised.
        stride: Of the convolution, padded by 1: 2 halves height and width, 1 takes one pixel off
            each.

    Returns:
        A module from ``(N, inputs, H, W)`` to ``(N, outputs, H / 2, W / 2)``, or H - 1, W - 1.

    Raises:
        MtzooError: There is no such norm.
    """
    conv = nn.Conv2d(inputs, outputs, 4, stride, 1, bias=needs_bias(norm))
    return nn.Sequential(
        spectral(conv, spectral_norm), norm2d(norm, outputs), nn.LeakyReLU(0.2, inplace=True)
    )


def conv_tower(
    channels: int,
    resolution: int,
    width: int,
    norm: Norm,
    spectral_norm: bool,
    *,
    first_norm: bool,
) -> nn.Sequential:
    """DCGAN's stack of 4x4 convolutions of stride 2 from ``resolution`` to 4x4.

    Args:
        channels: Of the input.
        resolution: Side of the input in pixels.
        width: Channels of the first layer; see `stage_widths` for the others.
        norm: Normalisation after each convolution.
        spectral_norm: Whether each convolution is spectrally normalised.
        first_norm: Whether the first layer is normalised too (SVG) or not (DCGAN).

    Returns:
        A module from ``(N, channels, resolution, resolution)`` to ``(N, C, 4, 4)``, C the last of
        `stage_widths`.

    Raises:
        MtzooError: There is no such norm.
    """
    layers = []
    for i, outputs in enumerate(stage_widths(resolution, width)):
        kind: Norm = norm if i or first_norm else "none"
        layers.append(conv_down(channels, outputs, kind, spectral_norm))
        channels = outputs
    return nn.Sequential(*layers)


class ResidualDown(nn.Module):
    """Pre-activation residual block (He et al. 2016, "Identity mappings"), halving if asked.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        norm: Normalisation before each activation.
        spectral_norm: Whether the convolutions are spectrally normalised.
        down: Whether height and width are halved; the shortcut then takes the mean of 2x2.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        norm: Norm,
        spectral_norm: bool = False,
        down: bool = True,
    ) -> None:
        super().__init__()
        self.norm1 = norm2d(norm, inputs)
        conv1 = nn.Conv2d(inputs, outputs, 3, 2 if down else 1, 1, bias=needs_bias(norm))
        self.conv1 = spectral(conv1, spectral_norm)
        self.norm2 = norm2d(norm, outputs)
        # What adds a constant to the residual stream is undone by every norm that reads it.
        conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=needs_bias(norm))
        self.conv2 = spectral(conv2, spectral_norm)
        self.shortcut = (
            nn.Identity()
            if inputs == outputs
            else spectral(nn.Conv2d(inputs, outputs, 1, bias=False), spectral_norm)
        )
        self.down = down

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs, H, W)`` to ``(N, outputs, H / 2, W / 2)``, or H, W without ``down``."""
        h = self.conv1(F.relu(self.norm1(x)))
        h = self.conv2(F.relu(self.norm2(h)))
        return h + self.shortcut(F.avg_pool2d(x, 2) if self.down else x)


class ResidualUp(nn.Module):
    """Pre-activation residual block that doubles height and width by nearest neighbours.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        norm: Normalisation before each activation.
        spectral_norm: Whether the convolutions are spectrally normalised.
    """

    def __init__(
        self, inputs: int, outputs: int, *, norm: Norm, spectral_norm: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = norm2d(norm, inputs)
        conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=needs_bias(norm))
        self.conv1 = spectral(conv1, spectral_norm)
        self.norm2 = norm2d(norm, outputs)
        conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=needs_bias(norm))
        self.conv2 = spectral(conv2, spectral_norm)
        self.shortcut = (
            nn.Identity()
            if inputs == outputs
            else spectral(nn.Conv2d(inputs, outputs, 1, bias=False), spectral_norm)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs, H, W)`` to ``(N, outputs, 2 H, 2 W)``."""
        h = F.interpolate(F.relu(self.norm1(x)), scale_factor=2.0, mode="nearest")
        h = self.conv2(F.relu(self.norm2(self.conv1(h))))
        # 1x1 convolution and nearest neighbours commute; this order is a quarter of the work.
        return h + F.interpolate(self.shortcut(x), scale_factor=2.0, mode="nearest")


class CodeToMap(nn.Module):
    """A linear layer from a code to a 4x4 map, which is a 4x4 transposed convolution from 1x1.

    As a linear layer whose outputs are ordered H, W, C it hands the map on in channels_last
    without a copy.

    Args:
        dim: Size of the code.
        outputs: Channels of the map.
        bias: Whether each channel has a bias, the same at all places.
        spectral_norm: Whether the layer is spectrally normalised.
    """

    def __init__(
        self, dim: int, outputs: int, *, bias: bool = True, spectral_norm: bool = False
    ) -> None:
        super().__init__()
        self.linear = spectral(nn.Linear(dim, 16 * outputs, bias=False), spectral_norm)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, code: Tensor) -> Tensor:
        """Map ``(N, dim)`` to ``(N, outputs, 4, 4)`` in channels_last."""
        x = self.linear(code).unflatten(1, (4, 4, -1))
        if self.bias is not None:
            x = x + self.bias.to(x.dtype)
        return x.permute(0, 3, 1, 2)

    @torch.no_grad()
    def fold_(self, norm: nn.BatchNorm2d) -> None:
        """Take in, for good, what ``norm`` does to the map in eval mode; in place."""
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = (norm.running_var + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight
        shift = -norm.running_mean * scale
        if norm.bias is not None:
            shift = shift + norm.bias
        if self.bias is not None:
            shift = shift + self.bias * scale
        # Rows of the weight are ordered H, W, C.
        self.linear.weight.mul_(scale.repeat(16)[:, None])
        self.linear.bias = nn.Parameter(shift.repeat(16), requires_grad=False)
        self.bias = None


def double(x: Tensor) -> Tensor:
    """Double height and width bilinearly.

    Between edges this is StyleGAN2's upsampling with the filter 1, 3, 3, 1.
    """
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def style_mapping(inputs: int, style_dim: int, layers: int) -> nn.Sequential:
    """Linear layers with leaky ReLU of 0.2 from a code to a style vector.

    Args:
        inputs: Size of the code.
        style_dim: Size of the style and of what lies between.
        layers: How many, at least 1.
    """
    found: list[nn.Module] = []
    for _ in range(layers):
        linear = nn.Linear(inputs, style_dim)
        nn.init.kaiming_normal_(linear.weight, 0.2)
        nn.init.zeros_(linear.bias)
        found += [linear, nn.LeakyReLU(0.2)]
        inputs = style_dim
    return nn.Sequential(*found)


class ModulatedConv2d(nn.Module):
    """Convolution whose input channels are scaled by a style (StyleGAN2, Karras et al. 2020).

    With weights ``w``, style ``s`` and output channel ``o`` the effective weights are
    ``w'_oik = s_i w_oik`` divided by their norm over i and k (demodulation). Computed by scaling
    activations: inputs by ``s``, one convolution with the shared weights, outputs by the norms'
    inverses, which are a matrix product of ``s^2`` with ``sum_k w^2``. That is the same function
    as a grouped convolution with one set of weights a sample, without N copies of the weights
    and with one dense convolution instead of N narrow ones.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        kernel: Side of the kernel, odd.
        style_dim: Size of the style vector that a linear layer turns into ``s``.
        demodulate: Whether outputs are brought back to unit variance.
        gain: Factor on the initial weights, which demodulation would take out again.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        style_dim: int,
        *,
        demodulate: bool = True,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        std = gain / (inputs * kernel * kernel) ** 0.5
        self.weight = nn.Parameter(std * torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = nn.Linear(style_dim, inputs)
        nn.init.normal_(self.style.weight, 0.0, style_dim**-0.5)
        nn.init.ones_(self.style.bias)
        self.demodulate = demodulate

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Map ``(N, inputs, H, W)`` and ``(N, style_dim)`` to ``(N, outputs, H, W)``."""
        scale = self.style(style)
        y = F.conv2d(
            x * scale[:, :, None, None].to(x.dtype), self.weight, padding=self.weight.shape[2] // 2
        )
        if self.demodulate:
            energy = F.linear(scale.square(), self.weight.square().sum((2, 3)))
            # Under autocast rsqrt is float32 and would promote the whole map.
            y = y * (energy + 1e-8).rsqrt().to(y.dtype)[:, :, None, None]
        return y + self.bias.to(y.dtype)[:, None, None]
