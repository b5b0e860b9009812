"""A patch discriminator on the joined pair: one logit for each overlapping patch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtzoo.errors import MtzooError
from mtzoo.interfaces import ImageDiscriminator, check_resolution, check_sizes
from mtzoo.nn.blocks2d import check_pairs, conv_down
from mtzoo.nn.norm import Norm, dcgan_init_, spectral
from mtzoo.registries import image_discriminators
from mtzoo.registry import Card

WHO = "image discriminator 'patch'"


@image_discriminators.register(
    "patch",
    Card(
        summary="Condition and frame joined by channel, one logit for each patch (PatchGAN).",
        source="Isola, Zhu, Zhou, Efros, Image-to-Image Translation with Conditional Adversarial "
        "Networks, CVPR 2017",
        faithful="Layers, widths and the join by channel follow the paper's PatchGAN (70x70 "
        "pixels a patch with 3 layers). Spectral norm instead of batch norm by default.",
        inputs="condition and frame, each (N, C, H, W) in [-1, 1], H = W = resolution",
        outputs="logits (N, h, w), h = w = resolution / 2^layers - 2",
        tiny={"width": 4},
    ),
)
class PatchImageDiscriminator(ImageDiscriminator):
    """Logits a pair on a grid, each seeing one patch of both pictures.

    Args:
        resolution: Side of the pictures in pixels: 32, 64 or 128.
        channels: Colour channels of each picture.
        width: Channels after the first convolution; they double with each layer to 8 times that.
        layers: Convolutions of stride 2; patches are 16, 34, 70, 142 pixels wide with 1 to 4.
        norm: Normalisation after each convolution but the first and the last.
        spectral_norm: Whether the convolutions are spectrally normalised.

    Raises:
        MtzooError: A size that cannot work, or too many layers for the resolution.
    """

    def __init__(
        self,
        resolution: int,
        channels: int = 3,
        *,
        width: int = 64,
        layers: int = 3,
        norm: Norm = "none",
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        check_resolution(resolution, WHO)
        check_sizes(WHO, channels=channels, width=width, layers=layers)
        if resolution >> layers < 4:
            raise MtzooError(
                f"{WHO}: {layers} layers leave no patches of {resolution}x{resolution} pictures; "
                f"use {(resolution // 4).bit_length() - 1} at most"
            )
        self.resolution = resolution
        self.channels = channels
        blocks: list[nn.Module] = []
        inputs = 2 * channels
        for i in range(layers + 1):
            outputs = width * min(2**i, 8)
            kind: Norm = norm if i else "none"
            stride = 2 if i < layers else 1
            blocks.append(conv_down(inputs, outputs, kind, spectral_norm, stride=stride))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = spectral(nn.Conv2d(inputs, 1, 4, 1, 1), spectral_norm)
        dcgan_init_(self)

    def forward(self, condition: Tensor, frame: Tensor) -> Tensor:
        """Judge pairs of ``(N, C, H, W)`` in [-1, 1]: logits ``(N, h, w)``.

        Raises:
            MtzooError: Pictures are of another size, or there are more of one than of the other.
        """
        check_pairs(condition, frame, self.channels, self.resolution, WHO)
        return self.head(self.blocks(torch.cat((condition, frame), dim=1))).squeeze(1)
