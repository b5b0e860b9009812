"""Dataset ``faces``: cartoon faces, for want of real ones that may be passed on."""

from __future__ import annotations

from typing import Literal

from mtzoo.data.worlds.base import WorldPairs
from mtzoo.data.worlds.faces import Faces as World
from mtzoo.registries import datasets
from mtzoo.registry import Card


@datasets.register(
    "faces",
    Card(
        summary="Cartoon heads that smile, talk, blink, raise brows, nod and turn; unlimited",
        source="mtzoo; smiles with onset, apex, offset as in UvA-NEMO (Dibeklioglu et al., 2012)",
        faithful="Original. Content and motion are independent factors, so transfer has a truth",
        inputs="positions from 0, without end",
        outputs="video, target_video and (test) truth: uint8 (T, H, W, 3); target_index: int64",
        tiny={"resolution": 32, "frames": 8},
        needs="frames >= 2",
    ),
)
class Faces(WorldPairs):
    """Pairs from the world of [`Faces`][mtzoo.data.worlds.faces.Faces].

    Identity is shape and colours of head, hair, features, clothes and background; V and V_y never
    share one. The test split's identities and motions do not occur in training; the ranges they are
    drawn from are the same.

    Args:
        split: ``"train"``, or ``"test"``, whose items have ``truth``.
        seed: Of the whole set.
        resolution: Side of a frame in pixels: 32, 64 or 128.
        frames: Frames a clip, at least 2.
        target_frame: Which frame of V_y is the target: any, or the first.
        speed: Time from frame to frame. At 1.0 a smile or a nod takes 10 to 20 frames.
        size: What ``len`` says; 10000 for training and 256 for testing if not given.
        target_identity: Whether V_y shows another identity than V in training, or the same in
            another motion, as ``content_frames: other`` and ``either`` of the model ask.

    Raises:
        MtzooError: An option is out of range.
    """

    def __init__(
        self,
        split: Literal["train", "test"],
        seed: int,
        *,
        resolution: int = 64,
        frames: int = 16,
        target_frame: Literal["random", "first"] = "random",
        speed: float = 1.0,
        size: int | None = None,
        target_identity: Literal["other", "same"] = "other",
    ) -> None:
        super().__init__(
            World(),
            split,
            seed,
            resolution=resolution,
            frames=frames,
            target_frame=target_frame,
            speed=speed,
            size=size,
            target_identity=target_identity,
        )
