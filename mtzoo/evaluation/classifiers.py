"""Classifiers of content and motion: what a made video is taken for, with or without a truth.

Does a network that learned from real clips see the target's person and the source's action in a
transfer? Two networks, one for each: a residual network that sees single frames, so that it cannot
tell by motion, and 3D convolutions over the differences of neighbouring frames, in which what
stands still is gone. They learn from clips of the training split, and their accuracy on real test
clips stands beside every figure: no made video can be expected to be read better.
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
from mtzoo.interfaces import PairDataset, as_video

FORMAT = "mtzoo-classifiers-1"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"

STEPS = 600
"""Steps of training: some minutes on two cores at 64x64 and 16 frames."""

PAIRS = 12
"""Pairs a step; both clips of a pair are learned from."""

_FEATURES = 96
_LEARNING_RATE = 2e-3
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
        self.frames_network = ResNetContentEncoder(
            resolution, channels, width=16, content_dim=_FEATURES
        )
        self.clips_network = C3DMotionEncoder(
            resolution,
            channels,
            motion_dim=_FEATURES,
            width=16,
            time_bins=2,
            space_bins=2,
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
        features = self.frames_network(frames)
        return [head(features) for head in self._heads("content")]

    def motion(self, videos: Tensor) -> list[Tensor]:
        """Logits of videos ``(N, T, C, H, W)`` in [-1, 1]: for each label of motion ``(N, n)``."""
        features = self.clips_network(videos).mean
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


def shared(seen: Classes, asked: Classes) -> dict[str, tuple[str, ...]]:
    """The labels of a training split, ``seen``, that know all names of a test split, ``asked``."""
    return {
        label: tuple(names)
        for label, names in seen.items()
        if set(asked.get(label, ())) <= set(names)
    }


def train(
    pairs: PairDataset,
    *,
    content: Classes,
    motion: Classes,
    device: torch.device,
    steps: int | None = None,
    seed: int = 0,
    workers: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Classifiers:
    """Train classifiers on clips of a training split.

    Clips are shifted, brightened or darkened and, every other step, blurred: where in the frame
    something is, how bright and how sharp must not decide, for made videos are softer than real
    ones.

    Args:
        pairs: The training split; nothing else is looked at.
        content: Labels of what is seen, some of ``pairs.content_classes``.
        motion: Labels of how it moves, some of ``pairs.motion_classes``.
        device: Where to train.
        steps: How many steps of `PAIRS` pairs; `STEPS` if not given.
        seed: Of the networks and of what is done to clips.
        workers: Processes that load or render the clips.
        progress: Told of every step.

    Returns:
        The classifiers, in evaluation mode.

    Raises:
        MtzooError: There are no labels.
    """
    steps = STEPS if steps is None else steps
    devices = [device] if device.type == "cuda" else []
    items = batches(Steps(pairs, PAIRS), 0, steps, workers=workers, pin=False)
    with contextlib.closing(items), torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(seed)
        networks = Classifiers(content, motion, pairs.resolution, pairs.channels).to(device)
        learner = torch.optim.AdamW(networks.parameters(), _LEARNING_RATE, weight_decay=0.05)
        rate = torch.optim.lr_scheduler.OneCycleLR(learner, _LEARNING_RATE, max(2, steps))
        for step, item in enumerate(items):
            progress(step, steps)
            labels = [pairs.labels(step * PAIRS + i) for i in range(PAIRS)]
            clips = torch.cat([item["video"], item["target_video"]])
            video = _disturbed(as_video(clips.to(device)), blur=step % 2 == 1)
            rows = torch.arange(len(video), device=device)
            chosen = torch.randint(video.shape[1], (2, len(video)), device=device)
            frames = torch.cat([video[rows, some] for some in chosen])
            loss = torch.zeros((), device=device)
            for side, logits, times in (
                ("content", networks.content(frames), 2),
                ("motion", networks.motion(video), 1),
            ):
                names = [pair["video"] for pair in labels] + [p["target_video"] for p in labels]
                for (label, known), scores in zip(
                    networks.classes[side].items(), logits, strict=True
                ):
                    wanted = torch.tensor([known.index(name[label]) for name in names] * times)
                    loss = loss + F.cross_entropy(
                        scores, wanted.to(device), label_smoothing=_SMOOTHING
                    )
            learner.zero_grad(set_to_none=True)
            loss.backward()
            learner.step()
            rate.step()
        progress(steps, steps)
    return networks.eval()


def _disturbed(video: Tensor, *, blur: bool) -> Tensor:
    """Shift each video by up to an eighth of its side, change its brightness, soften it."""
    count, frames, _, side, _ = video.shape
    edge = side // _SHIFT
    flat = F.pad(video.flatten(0, 1), (edge,) * 4, mode="replicate").unflatten(0, (count, frames))
    starts = torch.randint(2 * edge + 1, (count, 2)).tolist()
    moved = [one[..., y : y + side, x : x + side] for one, (y, x) in zip(flat, starts, strict=True)]
    changed = torch.stack(moved)
    gain = torch.empty(count, 1, 1, 1, 1, device=video.device).uniform_(0.85, 1.15)
    shift = torch.empty_like(gain).uniform_(-0.1, 0.1)
    changed = (changed * gain + shift).clamp(-1, 1)
    if blur:
        changed = F.avg_pool2d(changed.flatten(0, 1), 3, 1, 1, count_include_pad=False).unflatten(
            0, (count, frames)
        )
    # The networks take videos that lie in memory as frames do.
    return changed.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


def save(folder: Path, networks: Classifiers, about: Mapping[str, Any]) -> None:
    """Write classifiers to a folder.

    Args:
        folder: Where to; made if missing, its parent must exist.
        networks: The classifiers.
        about: What they were trained on and how, JSON values.

    Raises:
        MtzooError: The folder cannot be written.
    """
    config = {
        "format": FORMAT,
        "classes": networks.classes,
        "resolution": networks.resolution,
        "channels": networks.channels,
        **about,
    }
    try:
        folder.mkdir(exist_ok=True)
        state = {name: value.contiguous().cpu() for name, value in networks.state_dict().items()}
        safetensors.torch.save_file(state, folder / WEIGHTS)
        # Last: a folder without it is taken for none.
        write_json(folder / CONFIG, config)
    except OSError as error:
        raise MtzooError(f"cannot write {folder}: {error.strerror or error}") from error


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
