"""Classifiers of content and motion: what a made video is taken for, with or without a truth.

Does a network that learned from real clips see the target's person and the source's action in a
transfer? Two networks, one for each: a residual network that sees single frames, so that it cannot
tell by motion, and 3D convolutions over the differences of neighbouring frames, in which what
stands still is gone. They learn from clips of the training split, and their accuracy on real test
clips stands beside every figure: no made video can be expected to be read better.

Both see squares of pixels as channels of one place of 32x32 (space to depth): all detail is kept
at a fraction of the cost of convolutions at full size. Both average over all places and times
before they decide: what they learn in one place they know in all, so that fewer clips do.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtzoo.components.content_encoders.resnet import ResNetContentEncoder
from mtzoo.components.motion_encoders.c3d import C3DMotionEncoder
from mtzoo.engine.folder import write_json
from mtzoo.engine.loader import Steps, batches
from mtzoo.errors import MtzooError
from mtzoo.files import making_folder
from mtzoo.interfaces import PairDataset, as_video, check_frames, check_resolution
from mtzoo.weights import write_tensors

FORMAT = "mtzoo-classifiers-1"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"

STILL_FRAMES = 2
"""Frames of the clips that content is learned from: the fewest that all datasets give."""

STEPS = {"content": 3600, "motion": 1600}
"""Steps of training. What fewer leave unread: docs/reproduction.md, "Faces"."""

_PAIRS = {"content": 24, "motion": 12}  # a step; both clips of a pair are learned from
_RATE = {"content": 6e-3, "motion": 4e-3}
_CLIPS = ("video", "target_video")
_FEATURES = 96
_SIDE = 32
_WARM = 0.1
_DECAY = 0.05
_SMOOTHING = 0.05
_SHIFT = 8
_FRAMES_AT_ONCE = 512

Classes = Mapping[str, Sequence[str]]
"""By label, what it may be."""


class Classifiers(nn.Module):
    """Two networks with one linear layer a label.

    Args:
        content: Labels of what is seen.
        motion: Labels of how it moves.
        resolution: Side of a frame in pixels.
        channels: Colour channels.

    Raises:
        MtzooError: There is no label at all, or a size is not supported.
    """

    def __init__(self, content: Classes, motion: Classes, resolution: int, channels: int) -> None:
        super().__init__()
        if not content and not motion:
            raise MtzooError(
                "there is nothing to classify: the data have no labels of content or motion (of a "
                "store, the labels person and action)"
            )
        self.classes = {
            side: {label: tuple(names) for label, names in labels.items()}
            for side, labels in (("content", content), ("motion", motion))
        }
        self.resolution = resolution
        self.channels = channels
        check_resolution(resolution, "classifiers")
        self._square = resolution // _SIDE
        deep = channels * self._square**2
        self.frames_network = ResNetContentEncoder(_SIDE, deep, width=16, content_dim=_FEATURES)
        self.clips_network = C3DMotionEncoder(
            _SIDE,
            deep,
            motion_dim=_FEATURES,
            width=24,
            time_bins=1,
            space_bins=1,
            view="differences",
        )
        self.heads = nn.ModuleDict(
            {
                side: nn.ModuleList([nn.Linear(_FEATURES, len(names)) for names in labels.values()])
                for side, labels in self.classes.items()
            }
        )

    def content(self, frames: Tensor) -> list[Tensor]:
        """Logits of frames ``(N, C, H, W)`` in [-1, 1]: for each label of content ``(N, n)``."""
        squares = F.pixel_unshuffle(_standard(frames), self._square)
        features = self.frames_network(squares.contiguous(memory_format=torch.channels_last))
        return [head(features) for head in self._heads("content")]

    def motion(self, videos: Tensor) -> list[Tensor]:
        """Logits of videos ``(N, T, C, H, W)`` in [-1, 1]: for each label of motion ``(N, n)``."""
        squares = F.pixel_unshuffle(_standard(videos), self._square)
        # The network takes videos that lie in memory as frames do.
        squares = squares.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
        features = self.clips_network(squares).mean
        return [head(features) for head in self._heads("motion")]

    def _heads(self, side: str) -> list[nn.Module]:
        return list(self.heads[side].children())

    @torch.inference_mode()
    def see(self, clips: Tensor) -> dict[str, dict[str, list[str]]]:
        """What the networks take videos for; of frames, by the mean of their probabilities.

        Args:
            clips: uint8 ``(N, T, H, W, C)``, T at least 3.

        Returns:
            For ``content`` and ``motion``, by label, a name a video.
        """
        device = next(self.parameters()).device
        several = max(1, _FRAMES_AT_ONCE // clips.shape[1])
        found: dict[str, list[list[Tensor]]] = {"content": [], "motion": []}
        for some in clips.split(several):
            video = as_video(some.to(device))
            frames = [
                logits.softmax(1).unflatten(0, video.shape[:2]).mean(1)
                for logits in self.content(video.flatten(0, 1))
            ]
            found["content"].append([scores.argmax(1) for scores in frames])
            found["motion"].append([logits.argmax(1) for logits in self.motion(video)])
        return {
            side: {
                label: [names[i] for i in torch.cat(parts).tolist()]
                for (label, names), parts in zip(
                    self.classes[side].items(), zip(*turns, strict=True), strict=True
                )
            }
            for side, turns in found.items()
        }


def _standard(values: Tensor) -> Tensor:
    """Each item's values at mean 0 and deviation 1: brightness and contrast must not decide."""
    dims = tuple(range(1, values.ndim))
    mean, deviation = values.mean(dims, keepdim=True), values.std(dims, keepdim=True)
    return (values - mean) / (deviation + 0.05)


def shared(seen: Classes, asked: Classes) -> dict[str, tuple[str, ...]]:
    """The labels of a training split, ``seen``, that know all names of a test split, ``asked``."""
    return {
        label: tuple(names)
        for label, names in seen.items()
        if set(asked.get(label, ())) <= set(names)
    }


def train(
    stills: PairDataset,
    clips: PairDataset,
    *,
    content: Classes,
    motion: Classes,
    device: torch.device,
    steps: Mapping[str, int] | None = None,
    seed: int = 0,
    workers: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Classifiers:
    """Train classifiers on clips of a training split.

    Clips are mirrored, shifted, brightened or darkened and, every other step, blurred: on which
    side and where in the frame something is, how bright and how sharp must not decide, for made
    videos are softer than real ones.

    Args:
        stills: The training split in short clips, of which content is learned from one frame
            each: many contents are worth more than many frames of few.
        clips: The same in clips of full length, from which motion is learned. Nothing else is
            looked at.
        content: Labels of what is seen, some of ``stills.content_classes``.
        motion: Labels of how it moves, some of ``clips.motion_classes``.
        device: Where to train.
        steps: How many steps for ``content`` and ``motion``; `STEPS` if not given.
        seed: Of the networks and of what is done to clips.
        workers: Processes that load or render the clips.
        progress: Told of every step.

    Returns:
        The classifiers, in evaluation mode.

    Raises:
        MtzooError: There are no labels, or clips are too short to show motion.
    """
    check_frames(clips.frames, 3, "classifiers")
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(seed)
        networks = Classifiers(content, motion, clips.resolution, clips.channels).to(device)

        def look_at_frames(video: Tensor) -> list[Tensor]:
            at = torch.randint(video.shape[1], (len(video),), device=device)
            rows = torch.arange(len(video), device=device)
            return networks.content(video[rows, at])

        parts = [
            (side, data, look, networks.classes[side])
            for side, data, look in (
                ("content", stills, look_at_frames),
                ("motion", clips, networks.motion),
            )
            if networks.classes[side]
        ]
        steps = steps or STEPS
        total, done = sum(steps[side] for side, *_ in parts), 0
        for side, data, look, classes in parts:
            network = networks.frames_network if side == "content" else networks.clips_network
            learned = [*network.parameters(), *networks.heads[side].parameters()]
            size = _PAIRS[side]
            learner = torch.optim.AdamW(learned, _RATE[side], weight_decay=_DECAY)
            rate = torch.optim.lr_scheduler.OneCycleLR(
                learner, _RATE[side], max(2, steps[side]), pct_start=_WARM
            )
            items = batches(Steps(data, size), 0, steps[side], workers=workers, pin=False)
            with contextlib.closing(items):
                for step, item in enumerate(items):
                    progress(done + step, total)
                    labels = [data.labels(step * size + i) for i in range(size)]
                    names = [pair[clip] for clip in _CLIPS for pair in labels]
                    shown = torch.cat([item[clip] for clip in _CLIPS]).to(device)
                    loss = _loss(look(_disturbed(shown, blur=step % 2 == 1)), classes, names)
                    learner.zero_grad(set_to_none=True)
                    loss.backward()
                    learner.step()
                    rate.step()
            done += steps[side]
        progress(total, total)
    return networks.eval()


def _loss(logits: Sequence[Tensor], classes: Classes, names: Sequence[Mapping[str, str]]) -> Tensor:
    """Cross-entropy of all labels, given the names of each clip by label."""
    found = []
    for (label, known), scores in zip(classes.items(), logits, strict=True):
        wanted = torch.tensor([known.index(name[label]) for name in names], device=scores.device)
        found.append(F.cross_entropy(scores, wanted, label_smoothing=_SMOOTHING))
    return torch.stack(found).sum()


def _disturbed(clips: Tensor, *, blur: bool) -> Tensor:
    """Mirror half of the clips, shift all by up to an eighth of the side, brighten, soften.

    Args:
        clips: uint8 ``(N, T, H, W, C)``.
        blur: Whether to soften.

    Returns:
        ``(N, T, C, H, W)`` in [-1, 1].
    """
    count, frames, side = clips.shape[:3]
    reach = side // _SHIFT
    axis = torch.arange(side, device=clips.device)
    places = torch.randint(-reach, reach + 1, (2, count, 1), device=clips.device) + axis
    moved = [
        clip.index_select(1, rows).index_select(2, columns)
        for clip, rows, columns in zip(clips, *places.clamp(0, side - 1), strict=True)
    ]
    mirrored = torch.rand(count, 1, 1, 1, 1, device=clips.device) < 0.5
    stacked = torch.stack(moved)
    video = as_video(torch.where(mirrored, stacked.flip(3), stacked))
    gain = torch.empty(count, 1, 1, 1, 1, device=clips.device).uniform_(0.85, 1.15)
    shift = torch.empty_like(gain).uniform_(-0.1, 0.1)
    video = (video * gain).add_(shift).clamp_(-1, 1)
    if not blur:
        return video
    soft = F.avg_pool2d(video.flatten(0, 1), 3, 1, 1, count_include_pad=False)
    return soft.unflatten(0, (count, frames))


def save(folder: Path, networks: Classifiers, about: Mapping[str, Any]) -> None:
    """Write classifiers to a folder, which appears whole or not at all.

    Args:
        folder: Where to; nothing may be there but an empty folder.
        networks: The classifiers.
        about: What they were trained on and how, JSON values.

    Raises:
        MtzooError: Something is there already, or the folder cannot be written.
    """
    config = {
        "format": FORMAT,
        "classes": networks.classes,
        "resolution": networks.resolution,
        "channels": networks.channels,
        **about,
    }
    state = {name: value.contiguous().cpu() for name, value in networks.state_dict().items()}
    with making_folder(folder) as made:
        write_tensors(made / WEIGHTS, state)
        write_json(made / CONFIG, config)


def load(folder: Path, device: torch.device) -> tuple[Classifiers, dict[str, Any]]:
    """Read classifiers that `save` wrote, in evaluation mode, with all that is said about them.

    Raises:
        MtzooError: A file is missing, damaged or of something else.
    """
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        if config["format"] != FORMAT:
            raise ValueError(f"its format is {config['format']!r}, not {FORMAT!r}")
        networks = Classifiers(
            config["classes"]["content"],
            config["classes"]["motion"],
            config["resolution"],
            config["channels"],
        )
        networks.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        MtzooError,
        safetensors.SafetensorError,
    ) as error:
        line = " ".join(str(error).split())[:160]
        raise MtzooError(
            f"{folder} holds no classifiers that can be read ({line}); name another folder, or "
            "remove it and they are trained again"
        ) from error
    return networks.to(device).eval(), config
