"""Dataset ``shapes``: a synthetic world to train and test on with nothing to download."""

from __future__ import annotations

from typing import Literal

from mtzoo.data.worlds.base import BACKGROUNDS, WorldPairs
from mtzoo.data.worlds.shapes import FAMILIES, KINDS
from mtzoo.data.worlds.shapes import Shapes as World
from mtzoo.registries import datasets
from mtzoo.registry import Card

Kind = Literal["disc", "square", "triangle", "hexagon", "star", "cross", "heart", "clover"]
Family = Literal["circle", "sway", "hop", "zoom", "spin", "bounce"]
Background = Literal["linear", "radial", "stripes", "checks"]


@datasets.register(
    "shapes",
    Card(
        summary="One large shape that travels, turns and breathes on a soft background; unlimited",
        source="mtzoo; in the spirit of the sprite worlds of video prediction",
        faithful="Original. Content and motion are independent factors, so transfer has a truth",
        inputs="positions from 0, without end",
        outputs="video, target_video and (test) truth: uint8 (T, H, W, 3); target_index: int64",
        tiny={"resolution": 32, "frames": 8},
        needs="frames >= 2",
    ),
)
class Shapes(WorldPairs):
    """Pairs from the world of [`Shapes`][mtzoo.data.worlds.shapes.Shapes].

    Identity is kind, size, colours and mark of the shape and the background; V and V_y never share
    one. The test split's identities and motions do not occur in training; the ranges they are
    drawn from are the same.

    Args:
        split: ``"train"``, or ``"test"``, whose items have ``truth``.
        seed: Of the whole set.
        resolution: Side of a frame in pixels: 32, 64 or 128.
        frames: Frames a clip, at least 2.
        target_frame: Which frame of V_y is the target: any, or the first.
        speed: Time from frame to frame. At 1.0 one turn of a motion takes 8 to 18 frames.
        size: What ``len`` says; 10000 for training and 256 for testing if not given.
        target_identity: Whether V_y shows another identity than V in training, or the same in
            another motion, as ``content_frames: other`` and ``either`` of the model ask.
        kinds: The shapes there are.
        families: The motions there are.
        backgrounds: The grounds there are.
        scale: Factor on the size of all shapes, 0.5 to 1.5.
        palette: Colours told apart by brightness (``soft``) or by hue (``vivid``).

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
        kinds: tuple[Kind, ...] = KINDS,
        families: tuple[Family, ...] = FAMILIES,
        backgrounds: tuple[Background, ...] = BACKGROUNDS,
        scale: float = 1.0,
        palette: Literal["soft", "vivid"] = "soft",
    ) -> None:
        super().__init__(
            World(
                kinds=kinds,
                families=families,
                backgrounds=backgrounds,
                scale=scale,
                palette=palette,
            ),
            split,
            seed,
            resolution=resolution,
            frames=frames,
            target_frame=target_frame,
            speed=speed,
            size=size,
            target_identity=target_identity,
        )
