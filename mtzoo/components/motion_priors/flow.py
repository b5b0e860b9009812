"""A normalising flow over motion codes that sees the picture which is to move."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor, nn

from mtzoo.errors import MtzooError
from mtzoo.interfaces import MotionPrior, check_resolution, check_sizes
from mtzoo.nn.blocks2d import check_image, conv_tower, stage_widths
from mtzoo.registries import motion_priors
from mtzoo.registry import Card

WHO = "motion prior 'flow'"

# Most that one layer may stretch a number by, as a logarithm. Without a bound a flow that is asked
# about a picture unlike any it learned from can throw codes far away.
_STRETCH = 2.0


@motion_priors.register(
    "flow",
    Card(
        summary="Affine coupling layers from N(0, I) to motion codes, given the picture.",
        source="Dinh, Sohl-Dickstein, Bengio, Density Estimation Using Real NVP, ICLR 2017; as a "
        "prior given a picture as in Bhattacharyya et al., Conditional Flow Variational "
        "Autoencoders, arXiv 1908.09008",
        faithful="Affine coupling with bounded scales. Not the paper's: Dual-MTGAN draws z_M from "
        "N(0, I). Permutations are fixed, there is no batch norm between layers, and the picture "
        "also sets the Gaussian that the flow begins with.",
        inputs="noise (B * S, motion_dim) and image (B, C, H, W) in [-1, 1]",
        outputs="motion codes (B * S, motion_dim)",
        tiny={"width": 4, "layers": 2, "hidden": 8, "picture_dim": 8},
    ),
)
class FlowMotionPrior(MotionPrior):
    """Codes from noise by invertible layers, so that the likelihood of a code is known.

    Built, it only permutes: what it draws is N(0, I) until it has learned.

    Args:
        resolution: Side of the pictures in pixels: 32, 64 or 128.
        channels: Colour channels of the pictures.
        motion_dim: Size of the motion code, at least 2.
        width: Channels after the first convolution on the picture; they double to 8 times that.
        picture_dim: Numbers that layers are told of the picture.
        layers: Coupling layers; each changes one half of a code by the other half.
        hidden: Width of the two hidden layers in each.
        dropout: Share of hidden values that are dropped in training: a few hundred clips are
            soon known by heart.

    Raises:
        MtzooError: A size that cannot work.
    """

    orders: Tensor

    def __init__(
        self,
        resolution: int,
        channels: int,
        motion_dim: int,
        *,
        width: int = 16,
        picture_dim: int = 128,
        layers: int = 8,
        hidden: int = 256,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        check_resolution(resolution, WHO)
        check_sizes(
            WHO,
            channels=channels,
            width=width,
            picture_dim=picture_dim,
            layers=layers,
            hidden=hidden,
        )
        if motion_dim < 2:
            raise MtzooError(f"{WHO}: motion_dim must be at least 2, not {motion_dim}")
        if not 0 <= dropout < 1:
            raise MtzooError(f"{WHO}: dropout must lie in [0, 1), not {dropout}")
        self.motion_dim = motion_dim
        self.resolution, self.channels = resolution, channels
        self._kept = motion_dim // 2
        self.picture = nn.Sequential(
            conv_tower(channels, resolution, width, "group", False, first_norm=True),
            nn.Flatten(),
            nn.Linear(16 * stage_widths(resolution, width)[-1], picture_dim),
            nn.LayerNorm(picture_dim),
            nn.SiLU(),
        )
        self.base = nn.Linear(picture_dim, 2 * motion_dim)
        couplings = [
            nn.Sequential(
                nn.Linear(self._kept + picture_dim, hidden),
                nn.SiLU(),
                nn.Dropout(dropout),
                nn.Linear(hidden, hidden),
                nn.SiLU(),
                nn.Dropout(dropout),
                nn.Linear(hidden, 2 * (motion_dim - self._kept)),
            )
            for _ in range(layers)
        ]
        self.couplings = nn.ModuleList(couplings)
        for last in (self.base, *(layer[-1] for layer in couplings)):
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        orders, shuffle = [], random.Random(0)
        for _ in range(layers):
            orders.append(shuffle.sample(range(motion_dim), motion_dim))
        self.register_buffer("orders", torch.tensor(orders))

    def forward(self, noise: Tensor, image: Tensor) -> Tensor:
        """Draw codes; see `MotionPrior.forward`."""
        mean, scale, told = self._told(noise, image)
        code = mean + scale.exp() * noise
        for order, layer in reversed(list(zip(self.orders, self.couplings, strict=True))):
            kept, changed = code[:, : self._kept], code[:, self._kept :]
            stretch, shift = self._coupling(layer, kept, told)
            code = torch.cat((kept, changed * stretch.exp() + shift), 1)[:, order.argsort()]
        return code

    def log_likelihood(self, code: Tensor, image: Tensor) -> Tensor:
        """How likely codes are; see `MotionPrior.log_likelihood`."""
        mean, scale, told = self._told(code, image)
        stretched = scale.sum(1)
        for order, layer in zip(self.orders, self.couplings, strict=True):
            code = code[:, order]
            kept, changed = code[:, : self._kept], code[:, self._kept :]
            stretch, shift = self._coupling(layer, kept, told)
            code = torch.cat((kept, (changed - shift) * (-stretch).exp()), 1)
            stretched = stretched + stretch.sum(1)
        noise = (code - mean) * (-scale).exp()
        each = -0.5 * (noise.square() + math.log(2 * math.pi))
        return each.sum(1) - stretched

    def _told(self, code: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and logarithm of the scale of the first Gaussian, and what layers are told."""
        check_image(image, self.channels, self.resolution, WHO)
        count = image.shape[0]
        each = code.shape[0] // max(1, count)
        if code.shape != (each * count, self.motion_dim):
            raise MtzooError(
                f"{WHO}: built for codes (N, {self.motion_dim}), N a multiple of the number of "
                f"pictures, here {count}, given {tuple(code.shape)}"
            )
        # However many codes are drawn for a picture, it is looked at once.
        told = self.picture(image).repeat_interleave(each, 0)
        mean, scale = self.base(told).chunk(2, 1)
        return mean, _bounded(scale), told

    def _coupling(self, layer: nn.Module, kept: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        stretch, shift = layer(torch.cat((kept, told), 1)).chunk(2, 1)
        return _bounded(stretch), shift


def _bounded(stretch: Tensor) -> Tensor:
    return _STRETCH * torch.tanh(stretch / _STRETCH)
