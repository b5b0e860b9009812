"""LPIPS of videos, with the features of a frame computed once.

LPIPS (Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric", CVPR 2018) is a weighted squared distance of unit-length features, averaged
over places. With weights of at least 0 that is the squared Euclidean distance of two vectors, each
of which belongs to one picture: `Lpips.embed` computes it, and distances between any number of
pictures cost one pass of the network a picture.

Networks and calibrated weights are those of the package ``lpips``. The backbone's weights
(ImageNet) are torchvision's; nothing is downloaded here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mtzoo.data.store import sha256
from mtzoo.errors import MtzooError, did_you_mean

# Bounds the memory that the network's maps take.
_PICTURES_AT_ONCE = 64


@dataclass(frozen=True)
class Backbone:
    """A network that LPIPS can stand on.

    Attributes:
        file: torchvision's file of its weights; the hash in its name is the file's.
        url: Where torchvision has it from.
    """

    file: str
    url: str


BACKBONES = {
    name: Backbone(file, f"https://download.pytorch.org/models/{file}")
    for name, file in (
        ("alex", "alexnet-owt-7be5be79.pth"),
        ("vgg", "vgg16-397923af.pth"),
        ("squeeze", "squeezenet1_1-b8a52dc0.pth"),
    )
}
"""The backbones by their name in the package ``lpips``; ``alex`` is what papers report."""


def weights_place(backbone: str) -> Path:
    """Where the backbone's weights are looked for: torch's folder of downloaded files.

    Raises:
        MtzooError: There is no such backbone.
    """
    if backbone not in BACKBONES:
        raise MtzooError(
            f"LPIPS has no backbone {backbone!r}.{did_you_mean(backbone, BACKBONES)} "
            f"Backbones: {', '.join(BACKBONES)}"
        )
    return Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES[backbone].file


class Lpips:
    """LPIPS, version 0.1.

    Args:
        backbone: ``alex``, ``vgg`` or ``squeeze``.
        weights: File of the backbone's weights in torchvision's form; ``None`` looks in
            `weights_place` and checks the hash that the file's name gives.
        device: Where to compute.

    Raises:
        MtzooError: The weights are not there, damaged or of another network.
    """

    def __init__(
        self,
        backbone: str = "alex",
        weights: str | os.PathLike[str] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        place = weights_place(backbone)
        path = place if weights is None else Path(weights)
        if not path.is_file():
            raise MtzooError(
                f"LPIPS needs the weights of its backbone {backbone!r} and there is no file "
                f"{path}; get {BACKBONES[backbone].url} and put it there"
            )
        if weights is None:
            _check_hash(path)
        network = _network(backbone)
        _load(network, path, backbone)
        self.backbone = backbone
        self.device = torch.device(device)
        self.weights_sha256 = sha256(path)
        self._network = network.to(self.device).eval().requires_grad_(False)
        self._scales = [
            layer.model[-1].weight.detach().clamp(min=0).sqrt().view(1, -1, 1, 1)
            for layer in network.lins
        ]

    @torch.inference_mode()
    def embed(self, frames: Tensor) -> Tensor:
        """Vectors whose squared Euclidean distances are LPIPS.

        Args:
            frames: uint8 ``(N, H, W, 3)``, or ``(N, H, W, 1)`` in grey. Only uint8 is taken, so
                that the range cannot be mistaken.

        Returns:
            float32 ``(N, D)`` on the device.
        """
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[3] not in (1, 3):
            raise ValueError(
                f"frames are uint8 (N, H, W, 3), not {frames.dtype} {tuple(frames.shape)}"
            )
        return torch.cat([self._embed(some) for some in frames.split(_PICTURES_AT_ONCE)])

    def _embed(self, frames: Tensor) -> Tensor:
        pictures = frames.to(self.device).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
        pictures = pictures.float() / 127.5 - 1
        network = self._network
        vectors = []
        for maps, scale in zip(
            network.net(network.scaling_layer(pictures)), self._scales, strict=True
        ):
            length = maps.square().sum(1, keepdim=True).sqrt()
            unit = maps / (length + 1e-10) * scale
            vectors.append(unit.flatten(1) / (maps.shape[2] * maps.shape[3]) ** 0.5)
        return torch.cat(vectors, 1)

    def compare(
        self,
        clips: Mapping[str, Tensor],
        pairs: Sequence[tuple[str, str]],
        spread: Sequence[str] = (),
    ) -> tuple[dict[tuple[str, str], Tensor], dict[str, Tensor]]:
        """Distances within a family of clips; every picture goes through the network once.

        Args:
            clips: By name, uint8 ``(N, T, H, W, C)``, each N of its own; T of 1 is a picture that
                stands still for all time.
            pairs: Names of two clips whose frames are compared, one N of which is 1 or equal to
                the other.
            spread: Names of clips whose N videos are compared with each other.

        Returns:
            For each pair its distances frame by frame, float64 ``(N, T)``, and for each name in
            ``spread`` the mean over all pairs of its videos and over frames of one time,
            float64 scalar; 0 for fewer than two videos.
        """
        still = {name: self.embed(clip[:, 0]) for name, clip in clips.items() if clip.shape[1] == 1}
        moving = {name: clip for name, clip in clips.items() if name not in still}
        apart: dict[tuple[str, str], list[Tensor]] = {pair: [] for pair in pairs}
        within: dict[str, list[Tensor]] = {name: [] for name in spread}
        for t in range(max(clip.shape[1] for clip in clips.values())):
            seen = dict(still)
            if moving:
                now = self.embed(torch.cat([clip[:, t] for clip in moving.values()]))
                parts = now.split([len(clip) for clip in moving.values()])
                seen |= dict(zip(moving, parts, strict=True))
            for (one, two), found in apart.items():
                found.append((seen[one] - seen[two]).double().square().sum(1))
            for name, found in within.items():
                squares = F.pdist(seen[name]).double().square()
                found.append(squares.sum() / max(1, len(squares)))
        return (
            {pair: torch.stack(found, 1).cpu() for pair, found in apart.items()},
            {name: torch.stack(found).mean().cpu() for name, found in within.items()},
        )

    def distance(self, made: Tensor, truth: Tensor) -> Tensor:
        """LPIPS of each frame of each video.

        Args:
            made: uint8 ``(N, T, H, W, C)``.
            truth: uint8 ``(1, T, H, W, C)`` or ``(N, T, H, W, C)``.

        Returns:
            float64 ``(N, T)``, 0 for equal frames, larger is worse.
        """
        pair = ("made", "truth")
        return self.compare({"made": made, "truth": truth}, [pair])[0][pair]

    def diversity(self, samples: Tensor) -> Tensor:
        """Mean LPIPS over all pairs of samples, frames of one time with each other (Table II).

        Args:
            samples: uint8 ``(N, T, H, W, C)``, videos made from one picture.

        Returns:
            float64 scalar; 0 for fewer than two samples.
        """
        return self.compare({"samples": samples}, [], ["samples"])[1]["samples"]


def _network(backbone: str) -> Any:
    try:
        import lpips
    except ImportError as error:
        raise MtzooError(f"LPIPS needs the package lpips: pip install lpips ({error})") from error
    import warnings

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # It asks torchvision with the argument of older versions, which warns.
        warnings.simplefilter("ignore")
        return lpips.LPIPS(net=backbone, pnet_rand=True, verbose=False)


def _load(network: Any, path: Path, backbone: str) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        given = {
            name.removeprefix("features."): value
            for name, value in state.items()
            if name.startswith("features.")
        }
        # lpips cuts the network into slices and keeps torchvision's numbers in them.
        wanted = {name.partition(".")[2]: name for name in network.net.state_dict()}
        missing = [name for name in wanted if name not in given]
        if missing:
            raise KeyError(f"lacks features.{missing[0]}")
        network.net.load_state_dict({wanted[name]: given[name] for name in wanted})
    except Exception as error:
        line = " ".join(str(error).split())[:160]
        raise MtzooError(
            f"{path} does not hold torchvision's weights of LPIPS's backbone {backbone!r} "
            f"({line}); get {BACKBONES[backbone].url}"
        ) from error


def _check_hash(path: Path) -> None:
    wanted = path.stem.rpartition("-")[2]
    found = sha256(path)
    if not found.startswith(wanted):
        raise MtzooError(
            f"{path} is damaged: its SHA-256 begins with {found[:8]} where its name says {wanted}; "
            "copy or download it again"
        )
