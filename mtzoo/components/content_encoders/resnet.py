"""A residual content encoder: deeper than `dcgan`, pooled over the whole image."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mtzoo.interfaces import ContentEncoder, check_resolution, check_sizes
from mtzoo.nn.blocks2d import (
    CodeOutput,
    ResidualDown,
    check_image,
    code_output,
    stage_widths,
)
from mtzoo.nn.norm import Norm, needs_bias, norm2d, spectral
from mtzoo.registries import content_encoders
from mtzoo.registry import Card

WHO = "content encoder 'resnet'"


@content_encoders.register(
    "resnet",
    Card(
        summary="Pre-activation residual blocks down to 4x4, mean over the map, a linear layer.",
        source="He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016, and "
        "Identity Mappings in Deep Residual Networks, ECCV 2016",
        faithful="The pre-activation block of two 3x3 convolutions, halving in the first, and the "
        "global pooling follow the papers. The 3x3 stem without pooling, the count of blocks, "
        "the widths and the averaging shortcut are ours, cut for 32x32 to 128x128.",
        inputs="image (N, C, H, W) in [-1, 1], H = W = resolution",
        outputs="content codes (N, content_dim); in (-1, 1) with output tanh",
        tiny={"width": 4, "content_dim": 8},
    ),
)
class ResNetContentEncoder(ContentEncoder):
    """Content codes from residual blocks.

    Global pooling forgets where things are, which suits content that must not tell the pose;
    `dcgan` keeps places.

    Args:
        resolution: Side of the images in pixels: 32, 64 or 128.
        channels: Colour channels of the images.
        width: Channels of the stem; they double with each halving to 8 times that.
        content_dim: Size of the content code.
        blocks: Residual blocks at each resolution below the first.
        norm: Normalisation before each activation.
        spectral_norm: Whether convolutions and the linear layer are spectrally normalised.
        output: What the code passes through last: ``"linear"`` (nothing), ``"tanh"``,
            ``"layer_norm"`` (unit variance within each code) or ``"batch_norm"`` (unit variance
            of each dimension over the batch).

    Raises:
        MtzooError: A size that cannot work.
    """

    def __init__(
        self,
        resolution: int,
        channels: int = 3,
        *,
        width: int = 32,
        content_dim: int = 128,
        blocks: int = 1,
        norm: Norm = "batch",
        spectral_norm: bool = False,
        output: CodeOutput = "linear",
    ) -> None:
        super().__init__()
        check_resolution(resolution, WHO)
        check_sizes(WHO, channels=channels, width=width, content_dim=content_dim, blocks=blocks)
        self.resolution = resolution
        self.channels = channels
        self.content_dim = content_dim
        stem = nn.Conv2d(channels, width, 3, 1, 1, bias=needs_bias(norm))
        self.stem = spectral(stem, spectral_norm)
        layers: list[nn.Module] = []
        inputs = width
        for outputs in stage_widths(2 * resolution, width)[1:]:
            layers.append(ResidualDown(inputs, outputs, norm=norm, spectral_norm=spectral_norm))
            layers += [
                ResidualDown(outputs, outputs, norm=norm, spectral_norm=spectral_norm, down=False)
                for _ in range(blocks - 1)
            ]
            inputs = outputs
        self.blocks = nn.Sequential(*layers)
        self.norm = norm2d(norm, inputs)
        self.head = spectral(nn.Linear(inputs, content_dim), spectral_norm)
        self.output = code_output(output, content_dim)

    def forward(self, image: Tensor) -> Tensor:
        """Encode ``(N, C, H, W)`` in [-1, 1] to ``(N, content_dim)``.

        Raises:
            MtzooError: Images are of another size.
        """
        check_image(image, self.channels, self.resolution, WHO)
        x = F.relu(self.norm(self.blocks(self.stem(image))))
        return self.output(self.head(x.mean((2, 3))))
