"""The paper recipes' content encoder: DCGAN's convolutions as SVG uses them."""

from __future__ import annotations

from torch import Tensor, nn

from mtzoo.interfaces import ContentEncoder, check_resolution, check_sizes
from mtzoo.nn.blocks2d import (
    CodeOutput,
    check_image,
    code_output,
    conv_tower,
    stage_widths,
)
from mtzoo.nn.norm import Norm, initialise_, spectral
from mtzoo.registries import content_encoders
from mtzoo.registry import Card

WHO = "content encoder 'dcgan'"


@content_encoders.register(
    "dcgan",
    Card(
        summary="4x4 convolutions of stride 2 down to 4x4, then one 4x4 convolution to the code.",
        source="Radford, Metz, Chintala, Unsupervised Representation Learning with DCGAN, "
        "ICLR 2016, in the form of Denton, Fergus, Stochastic Video Generation with a Learned "
        "Prior, ICML 2018",
        faithful="Layers, widths (64 to 512 at 64x64), batch norm in every layer but the last, "
        "leaky ReLU of 0.2, code of 128 and initialisation follow SVG's 64x64 encoder. The code "
        "is linear by default, where SVG has batch norm and tanh. 32x32 has one stage less, "
        "128x128 one more.",
        inputs="image (N, C, H, W) in [-1, 1], H = W = resolution",
        outputs="content codes (N, content_dim); in (-1, 1) with output tanh",
        tiny={"width": 4, "content_dim": 8},
    ),
)
class DCGANContentEncoder(ContentEncoder):
    """Content codes from DCGAN's stack of strided convolutions.

    The code is linear by default: Eq. 1 (L1 between codes of neighbouring frames) then pulls
    equally hard at every value, a tanh passes little gradient once it saturates, and the
    initialisation already gives codes of a standard deviation near 1. There is no normalisation
    over the batch after the last convolution, so a single image can be encoded in training mode.

    Args:
        resolution: Side of the images in pixels: 32, 64 or 128.
        channels: Colour channels of the images.
        width: Channels after the first convolution; they double to 8 times that.
        content_dim: Size of the content code.
        norm: Normalisation after each convolution but the last.
        spectral_norm: Whether the convolutions are spectrally normalised.
        output: What the code passes through last: ``"linear"`` (nothing), ``"tanh"`` (as SVG),
            ``"layer_norm"`` (unit variance within each code, so that Eq. 1 cannot be
            minimised by shrinking all codes), or ``"batch_norm"`` (unit variance of each
            dimension over the batch, so that it cannot be minimised by making them one, either;
            SVG has one before its tanh).

    Raises:
        MtzooError: A size that cannot work.
    """

    def __init__(
        self,
        resolution: int,
        channels: int = 3,
        *,
        width: int = 64,
        content_dim: int = 128,
        norm: Norm = "batch",
        spectral_norm: bool = False,
        output: CodeOutput = "linear",
    ) -> None:
        super().__init__()
        check_resolution(resolution, WHO)
        check_sizes(WHO, channels=channels, width=width, content_dim=content_dim)
        self.resolution = resolution
        self.channels = channels
        self.content_dim = content_dim
        self.tower = conv_tower(channels, resolution, width, norm, spectral_norm, first_norm=True)
        last = stage_widths(resolution, width)[-1]
        self.head = spectral(nn.Conv2d(last, content_dim, 4), spectral_norm)
        self.output = code_output(output, content_dim)
        initialise_(self, norm)

    def forward(self, image: Tensor) -> Tensor:
        """Encode ``(N, C, H, W)`` in [-1, 1] to ``(N, content_dim)``.

        Raises:
            MtzooError: Images are of another size.
        """
        check_image(image, self.channels, self.resolution, WHO)
        return self.output(self.head(self.tower(image)).flatten(1))
