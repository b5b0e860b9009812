"""Fréchet Video Distance, where somebody has the weights of its detector.

Unterthiner, van Steenkiste, Kurach, Marinier, Michalski, Gelly, "Towards Accurate Generative Models
of Video", 2018: the Fréchet distance of two Gaussians fitted to features of I3D, a network trained
to recognise actions. The usual detector is a TorchScript file, ``i3d_torchscript.pt``, published
beside StyleGAN-V (Skorokhodov et al., CVPR 2022); it resizes and rescales videos itself.

The distance is biased: fewer videos give larger values. Compare only values of equal counts.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
from torch import Tensor

from mtzoo.data.store import sha256
from mtzoo.errors import MtzooError

ENOUGH = 2048
"""Videos below which published values cannot be compared with."""

MIN_FRAMES = 10
"""Shorter clips do not pass the detector's strides."""


def check_enough(videos: int, frames: int) -> None:
    """Refuse, before anything is made, what no distance can be measured of.

    Args:
        videos: How many are compared with as many.
        frames: Of each.

    Raises:
        MtzooError: There are fewer than two videos, or they are too short.
    """
    if videos < 2:
        raise MtzooError(f"FVD needs two videos at least, there is {videos}; raise --videos")
    if frames < MIN_FRAMES:
        raise MtzooError(f"FVD needs clips of at least {MIN_FRAMES} frames, these have {frames}")


class Detector:
    """Features of videos from a TorchScript file.

    Args:
        path: The file; called as StyleGAN-V's is, with videos ``(N, 3, T, H, W)`` in [0, 255] and
            ``rescale=True, resize=True, return_features=True``.
        device: Where to compute.

    Raises:
        MtzooError: The file is not there or is no TorchScript module.
    """

    def __init__(self, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> None:
        path = Path(path)
        if not path.is_file():
            raise MtzooError(
                f"FVD needs a detector and there is no file {path}; give i3d_torchscript.pt, "
                "published beside StyleGAN-V"
            )
        try:
            with warnings.catch_warnings():
                # Newer torch advises against TorchScript, in which this detector is published.
                warnings.simplefilter("ignore")
                self._module = torch.jit.load(str(path), map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            raise MtzooError(
                f"{path} is no TorchScript module, so it is not FVD's detector; give "
                "i3d_torchscript.pt, published beside StyleGAN-V"
            ) from error
        self.path = path
        self.sha256 = sha256(path)
        self.device = torch.device(device)

    @torch.inference_mode()
    def features(self, videos: Tensor) -> Tensor:
        """Features of uint8 videos ``(N, T, H, W, C)``; float64 ``(N, D)`` on the CPU.

        Raises:
            MtzooError: The clips are too short, or the module is not called like FVD's detector.
            torch.cuda.OutOfMemoryError: The GPU's memory is too small.
            RuntimeError: The memory is too small.
        """
        if videos.dtype != torch.uint8 or videos.ndim != 5:
            raise ValueError(f"videos are uint8 (N, T, H, W, C), not {tuple(videos.shape)}")
        check_enough(2, videos.shape[1])
        pictures = videos.to(self.device).permute(0, 4, 1, 2, 3).float()
        pictures = pictures.expand(-1, 3, -1, -1, -1)
        try:
            found = self._module(pictures, rescale=True, resize=True, return_features=True)
        except RuntimeError as error:
            # TorchScript's interpreter hands torch's own type of it on as a plain RuntimeError.
            if "CUDA out of memory" in str(error):
                raise torch.cuda.OutOfMemoryError(str(error)) from error
            if "allocate memory" in str(error):
                raise
            line = str(error).strip().splitlines()[-1]
            raise MtzooError(
                f"{self.path} cannot be used as FVD's detector ({line}); give i3d_torchscript.pt, "
                "published beside StyleGAN-V"
            ) from error
        return found.double().flatten(1).cpu()


def frechet_distance(one: Tensor, two: Tensor) -> float:
    """Fréchet distance of the Gaussians fitted to two sets of features.

    ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))``, with sample covariances.

    Args:
        one: float64 ``(N, D)``, N at least 2.
        two: float64 ``(M, D)``, M at least 2.

    Raises:
        MtzooError: Fewer than two videos in a set, or values that are not finite.
    """
    for features in (one, two):
        if len(features) < 2 or not features.isfinite().all():
            raise MtzooError("a Fréchet distance needs two videos a set and finite features")
    means = [features.double().mean(0) for features in (one, two)]
    centred = [
        (features.double() - mean) / (len(features) - 1) ** 0.5
        for features, mean in zip((one, two), means, strict=True)
    ]
    # tr (S1 S2)^(1/2) is the sum of the singular values of X1 X2^T, where S = X^T X: small
    # matrices where there are fewer videos than features, and no root of a singular matrix.
    cross = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    spread = sum(x.square().sum() for x in centred)
    return float((means[0] - means[1]).square().sum() + spread - 2 * cross)
