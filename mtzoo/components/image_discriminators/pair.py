"""The paper recipes' image discriminator: both pictures as the channels of one input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtzoo.interfaces import ImageDiscriminator, check_resolution, check_sizes
from mtzoo.nn.blocks2d import check_pairs, conv_tower, stage_widths
from mtzoo.nn.norm import Norm, dcgan_init_, spectral
from mtzoo.registries import image_discriminators
from mtzoo.registry import Card

WHO = "image discriminator 'pair'"


@image_discriminators.register(
    "pair",
    Card(
        summary="Condition and frame joined by channel, DCGAN's convolutions to one logit.",
        source="Radford, Metz, Chintala, Unsupervised Representation Learning with DCGAN, "
        "ICLR 2016; joined by channel as in Isola et al., Image-to-Image Translation with "
        "Conditional Adversarial Networks, CVPR 2017; spectral norm of Miyato et al., ICLR 2018",
        faithful="Layers, widths, leaky ReLU of 0.2 and initialisation follow DCGAN's 64x64 "
        "discriminator, with spectral norm instead of batch norm, which lets it run away from "
        "the generator. 32x32 has one stage less, 128x128 one more.",
        inputs="condition and frame, each (N, C, H, W) in [-1, 1], H = W = resolution",
        outputs="logits (N,)",
        tiny={"width": 4},
    ),
)
class PairImageDiscriminator(ImageDiscriminator):
    """One logit a pair, from a stack that sees both pictures at once.

    Args:
        resolution: Side of the pictures in pixels: 32, 64 or 128.
        channels: Colour channels of each picture.
        width: Channels after the first convolution; they double to 8 times that.
        norm: Normalisation after each convolution but the first and the last.
        spectral_norm: Whether the convolutions are spectrally normalised.

    Raises:
        MtzooError: A size that cannot work.
    """

    def __init__(
        self,
        resolution: int,
        channels: int = 3,
        *,
        width: int = 64,
        norm: Norm = "none",
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        check_resolution(resolution, WHO)
        check_sizes(WHO, channels=channels, width=width)
        self.resolution = resolution
        self.channels = channels
        self.tower = conv_tower(
            2 * channels, resolution, width, norm, spectral_norm, first_norm=False
        )
        self.head = spectral(nn.Conv2d(stage_widths(resolution, width)[-1], 1, 4), spectral_norm)
        dcgan_init_(self)

    def forward(self, condition: Tensor, frame: Tensor) -> Tensor:
        """Judge pairs of ``(N, C, H, W)`` in [-1, 1]: logits ``(N,)``.

        Raises:
            MtzooError: Pictures are of another size, or there are more of one than of the other.
        """
        check_pairs(condition, frame, self.channels, self.resolution, WHO)
        return self.head(self.tower(torch.cat((condition, frame), dim=1))).flatten()
