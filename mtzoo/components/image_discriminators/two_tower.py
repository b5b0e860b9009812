"""An image discriminator that reads condition and frame apart and joins them late."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mtzoo.errors import MtzooError
from mtzoo.interfaces import ImageDiscriminator, check_choice, check_resolution, check_sizes
from mtzoo.nn.blocks2d import check_image, check_pairs, conv_tower, stage_widths
from mtzoo.nn.norm import Norm, dcgan_init_, needs_bias, norm2d, spectral
from mtzoo.registries import image_discriminators
from mtzoo.registry import Card

WHO = "image discriminator 'two_tower'"

Output = Literal["plain", "projection"]
"""How condition and frame meet."""


@image_discriminators.register(
    "two_tower",
    Card(
        summary="A tower for the frame, one for the condition, joined over the last 4x4 map.",
        source="Reed, Akata, Yan, Logeswaran, Schiele, Lee, Generative Adversarial Text to Image "
        "Synthesis, ICML 2016; output projection: Miyato, Koyama, cGANs with Projection "
        "Discriminator, ICLR 2018",
        faithful="Tiling the embedded condition over the 4x4 map, the 1x1 convolution that mixes "
        "and the 4x4 one that judges follow Reed et al. The condition is a picture, so its "
        "embedding comes from a convolutional tower instead of a text encoder. Spectral norm "
        "instead of batch norm by default. The projection output is Miyato's sum of an "
        "unconditional logit and an inner product.",
        inputs="condition and frame, each (N, C, H, W) in [-1, 1], H = W = resolution",
        outputs="logits (N,)",
        tiny={"width": 4, "embed_dim": 8},
    ),
)
class TwoTowerImageDiscriminator(ImageDiscriminator):
    """One logit a pair, from two towers.

    ``forward(condition, frame)`` is ``judge(embed(condition), features(frame))``: who judges
    the same pictures in several pairings (real, generated, mismatched) computes each tower once.

    Args:
        resolution: Side of the pictures in pixels: 32, 64 or 128.
        channels: Colour channels of each picture.
        width: Channels after the first convolution of each tower; they double to 8 times that.
        embed_dim: Size of the condition's embedding.
        norm: Normalisation after each convolution but the first ones and the last.
        spectral_norm: Whether the layers are spectrally normalised.
        output: ``"plain"``: the tiled embedding is mixed into the frame's map. ``"projection"``:
            an unconditional logit plus the inner product of embedding and pooled features.

    Raises:
        MtzooError: A size that cannot work, or no such ``output``.
    """

    def __init__(
        self,
        resolution: int,
        channels: int = 3,
        *,
        width: int = 64,
        embed_dim: int = 128,
        norm: Norm = "none",
        spectral_norm: bool = True,
        output: Output = "plain",
    ) -> None:
        super().__init__()
        check_resolution(resolution, WHO)
        check_sizes(WHO, channels=channels, width=width, embed_dim=embed_dim)
        check_choice(WHO, "output", output, Output)
        self.resolution = resolution
        self.channels = channels
        self.frame_tower = conv_tower(
            channels, resolution, width, norm, spectral_norm, first_norm=False
        )
        self.condition_tower = conv_tower(
            channels, resolution, width, norm, spectral_norm, first_norm=False
        )
        last = stage_widths(resolution, width)[-1]
        self.embedding = spectral(nn.Conv2d(last, embed_dim, 4), spectral_norm)
        self.mix: nn.Module | None = None
        self.projection: nn.Module | None = None
        if output == "plain":
            conv = nn.Conv2d(last + embed_dim, last, 1, bias=needs_bias(norm))
            self.mix = nn.Sequential(
                spectral(conv, spectral_norm), norm2d(norm, last), nn.LeakyReLU(0.2, inplace=True)
            )
        else:
            self.projection = spectral(nn.Linear(last, embed_dim, bias=False), spectral_norm)
        self.head = spectral(nn.Conv2d(last, 1, 4), spectral_norm)
        dcgan_init_(self)

    def embed(self, condition: Tensor) -> Tensor:
        """Embed conditions ``(N, C, H, W)`` as ``(N, embed_dim)``."""
        check_image(condition, self.channels, self.resolution, WHO)
        embedding = self.embedding(self.condition_tower(condition)).flatten(1)
        # Reed et al. pass the embedding through a leaky ReLU; an inner product needs both signs.
        return embedding if self.mix is None else nn.functional.leaky_relu(embedding, 0.2)

    def features(self, frame: Tensor) -> Tensor:
        """Read frames ``(N, C, H, W)`` as maps ``(N, 8 * width, 4, 4)``."""
        check_image(frame, self.channels, self.resolution, WHO)
        return self.frame_tower(frame)

    def judge(self, embedding: Tensor, features: Tensor) -> Tensor:
        """Judge pairs from what `embed` and `features` gave: logits ``(N,)``.

        Raises:
            MtzooError: There are more of one than of the other.
        """
        if embedding.shape[0] != features.shape[0]:
            raise MtzooError(
                f"{WHO}: {embedding.shape[0]} conditions and {features.shape[0]} frames make no "
                "pairs; give as many of one as of the other (`expand` repeats without a copy)"
            )
        if self.mix is not None:
            tiled = embedding[:, :, None, None].expand(-1, -1, *features.shape[2:])
            features = self.mix(torch.cat((features, tiled.to(features.dtype)), dim=1))
        logits = self.head(features).flatten()
        if self.projection is not None:
            logits = logits + (embedding * self.projection(features.sum((2, 3)))).sum(1)
        return logits

    def forward(self, condition: Tensor, frame: Tensor) -> Tensor:
        """Judge pairs of ``(N, C, H, W)`` in [-1, 1]: logits ``(N,)``.

        Raises:
            MtzooError: Pictures are of another size, or there are more of one than of the other.
        """
        check_pairs(condition, frame, self.channels, self.resolution, WHO)
        return self.judge(self.embed(condition), self.features(frame))
