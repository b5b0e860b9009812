"""Any timm backbone as a content encoder, by its timm name; downloads only when asked to."""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn

from mtzoo.errors import MtzooError, did_you_mean
from mtzoo.interfaces import ContentEncoder, check_resolution, check_sizes
from mtzoo.nn.blocks2d import CodeOutput, check_image, code_output
from mtzoo.registries import content_encoders
from mtzoo.registry import Card

WHO = "content encoder 'timm'"


def _check_name(model: str) -> None:
    """Refuse whatever is not the plain name of an architecture that timm itself ships.

    timm also takes ``hf-hub:owner/name`` and ``local-dir:path``: those fetch or read what a
    stranger wrote, so a recipe cannot name them.
    """
    base = model.split(".", 1)[0]
    if base in timm.list_models() and (base == model or model in timm.list_pretrained()):
        return
    if ":" in model or "/" in model or "\\" in model:
        raise MtzooError(
            f"{WHO}: model {model!r} names a place, not an architecture; give the plain name of "
            "a timm model, for example 'resnet18' (timm.list_models() lists them)"
        )
    known = [*timm.list_models(), *timm.list_pretrained()] if base != model else timm.list_models()
    raise MtzooError(
        f"{WHO}: timm {timm.__version__} has no model {model!r}."
        f"{did_you_mean(model.lower(), known)} "
        "timm.list_models() lists all names"
    )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


def _build(model: str, pretrained: bool, resolution: int, channels: int) -> nn.Module:
    options = {"pretrained": pretrained, "num_classes": 0, "in_chans": channels}
    try:
        return timm.create_model(model, img_size=resolution, **options)
    except TypeError as error:
        # Architectures that work at any size have no such argument; those that fix their size
        # at construction (vision transformers, mixers) do.
        if "img_size" not in str(error):
            raise
    return timm.create_model(model, **options)


def _backbone(model: str, pretrained: bool, resolution: int, channels: int) -> nn.Module:
    if pretrained and not timm.is_model_pretrained(model):
        raise MtzooError(
            f"{WHO}: timm has no pretrained weights for {model!r}; set pretrained to false"
        )
    try:
        backbone = _build(model, False, resolution, channels)
    except Exception as error:
        raise MtzooError(
            f"{WHO}: {model!r} cannot be built for {resolution}x{resolution} images with "
            f"{channels} channels ({_one_line(error)}); choose another model or resolution"
        ) from error
    if not pretrained:
        return backbone
    try:
        # Built twice, so that whatever goes wrong here is about the weights.
        return _build(model, True, resolution, channels)
    except Exception as error:
        cfg = timm.get_pretrained_cfg(model)
        source = getattr(cfg, "hf_hub_id", None) or getattr(cfg, "url", None) or model
        raise MtzooError(
            f"{WHO}: the pretrained weights {source!r} of {model!r} cannot be had "
            f"({_one_line(error)}); they belong in the Hugging Face cache (HF_HOME, by default "
            "~/.cache/huggingface): fetch them where there is a network, or set pretrained to "
            "false"
        ) from error


@content_encoders.register(
    "timm",
    Card(
        summary="Any timm backbone by its timm name, pretrained or not, with a linear layer.",
        source="Wightman, PyTorch Image Models (timm), 2019, doi:10.5281/zenodo.4414861; each "
        "model's own paper is named in timm",
        faithful="The backbone and its pooling are timm's own. Images are brought from [-1, 1] to "
        "the mean and deviation of the model's pretrained configuration; the linear layer to the "
        "code is ours. Resolutions are the zoo's, mostly below what pretrained weights saw.",
        inputs="image (N, C, H, W) in [-1, 1], H = W = resolution",
        outputs="content codes (N, content_dim); in (-1, 1) with output tanh",
        tiny={"model": "test_convnext", "content_dim": 8},
    ),
)
class TimmContentEncoder(ContentEncoder):
    """Content codes from a timm backbone.

    Args:
        resolution: Side of the images in pixels: 32, 64 or 128. Architectures that fix their
            size when built (vision transformers, mixers) are built for it.
        channels: Colour channels of the images; pretrained first layers are adapted by timm.
        model: A name from ``timm.list_models()``, with a tag of ``timm.list_pretrained()`` if
            certain weights are meant (``"resnet18.a1_in1k"``). Never a path or hub address.
        pretrained: Whether to start from timm's pretrained weights, fetched to the Hugging Face
            cache where they are not there yet. Without it nothing is downloaded.
        content_dim: Size of the content code.
        output: What the code passes through last: ``"linear"`` (nothing), ``"tanh"``,
            ``"layer_norm"`` (unit variance within each code) or ``"batch_norm"`` (unit variance
            of each dimension over the batch).

    Raises:
        MtzooError: No such model, one that cannot work at this resolution, or pretrained weights
            that cannot be had; in ``forward``, a single image in training mode where the model
            normalises over the batch on a 1x1 map.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        resolution: int,
        channels: int = 3,
        *,
        model: str = "resnet18",
        pretrained: bool = False,
        content_dim: int = 128,
        output: CodeOutput = "linear",
    ) -> None:
        super().__init__()
        check_resolution(resolution, WHO)
        check_sizes(WHO, channels=channels, content_dim=content_dim)
        _check_name(model)
        self.resolution = resolution
        self.channels = channels
        self.content_dim = content_dim
        self.model = model
        self.backbone = _backbone(model, pretrained, resolution, channels)
        cfg: dict[str, tuple[float, ...]] = vars(self.backbone)["pretrained_cfg"]
        mean, std = torch.tensor(cfg["mean"]), torch.tensor(cfg["std"])
        if channels != len(mean):
            mean, std = mean.mean().expand(channels), std.mean().expand(channels)
        # ((x + 1) / 2 - mean) / std as one multiplication and one addition.
        self.register_buffer("scale", (0.5 / std).view(1, -1, 1, 1).clone())
        self.register_buffer("shift", ((0.5 - mean) / std).view(1, -1, 1, 1).clone())
        self.head = nn.Linear(self._features(), content_dim)
        self.output = code_output(output, content_dim)

    @torch.no_grad()
    def _features(self) -> int:
        """Size of the backbone's features, found by trying one image of the right size."""
        training = self.backbone.training
        self.backbone.eval()
        try:
            probe = torch.zeros(1, self.channels, self.resolution, self.resolution)
            features = self.backbone(probe)
        except (RuntimeError, AssertionError, ValueError, IndexError) as error:
            raise MtzooError(
                f"{WHO}: {self.model!r} does not take images of "
                f"{self.resolution}x{self.resolution} ({_one_line(error)}); choose another model "
                "or a higher resolution"
            ) from error
        finally:
            self.backbone.train(training)
        if not isinstance(features, Tensor) or features.dim() != 2:
            raise MtzooError(
                f"{WHO}: {self.model!r} does not give one feature vector an image; choose another "
                "model"
            )
        return features.shape[1]

    def forward(self, image: Tensor) -> Tensor:
        """Encode ``(N, C, H, W)`` in [-1, 1] to ``(N, content_dim)``.

        Raises:
            MtzooError: Images are of another size or, in training, a
                single one where the model normalises over the batch on a 1x1 map.
        """
        check_image(image, self.channels, self.resolution, WHO)
        try:
            features = self.backbone(image * self.scale + self.shift)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise MtzooError(
                f"{WHO}: {self.model!r} normalises over the batch on a 1x1 map at "
                f"{self.resolution}x{self.resolution}: train with 2 images or more, at a higher "
                "resolution, or with another model"
            ) from error
        return self.output(self.head(features))
