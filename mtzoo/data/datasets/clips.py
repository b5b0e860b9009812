"""Training pairs from a clip store: real footage that was prepared with ``mtzoo prepare``."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mtzoo.data.remote import is_remote
from mtzoo.data.store import MANIFEST, ClipStore, Entry
from mtzoo.errors import MtzooError, did_you_mean
from mtzoo.interfaces import PairDataset
from mtzoo.registries import datasets
from mtzoo.registry import Card

CONTENT = ("person",)
"""Labels of a store that say what is seen."""

MOTION = ("action",)
"""Labels of a store that say how it moves."""

# What to tell somebody who has not the data yet.
_WITHOUT = (
    "recipes/dual_mtgan_shapes.yaml and recipes/quickstart.yaml run without it, on synthetic data"
)
_MISSING = {
    "": (
        "there is no prepared data at {root} (looked for {manifest}); make it with `mtzoo prepare` "
        "or set data.root to the folder of a clip store; {without}"
    ),
    "weizmann": (
        "there is no prepared Weizmann data at {root} (looked for {manifest}); get the videos and "
        "silhouettes (classification_masks.mat) of the Weizmann action set and run `mtzoo prepare "
        "weizmann --source DIR --output {root}`, or set data.root to where it is; {without}"
    ),
    "nemo": (
        "there is no prepared UvA-NEMO data at {root} (looked for {manifest}): UvA-NEMO, 1,240 "
        "videos of smiles of 400 persons, is licensed to each person on request by its publishers "
        "at the University of Amsterdam and cannot be downloaded for you; with the videos run "
        "`mtzoo prepare nemo --source DIR --output {root}`, or set data.root to where the store "
        "is; {without}"
    ),
    "bair": (
        "there is no prepared BAIR data at {root} (looked for {manifest}): BAIR robot pushing is "
        "some 44,000 videos of a robot arm, 30 frames of 64x64 each, published by the Berkeley "
        "Artificial Intelligence Research lab; with its tfrecords run `mtzoo prepare bair "
        "--source DIR --output {root}`, or set data.root to where the store is; {without}"
    ),
}


@datasets.register(
    "clips",
    Card(
        summary="Windows of prepared videos, paired with videos of other persons or sources.",
        source=(
            "Yang, Chang, Lee, Wang, Dual-MTGAN (arXiv 2102.13329), Sec. IV-A: clips of 16 frames "
            "of UvA-NEMO, Weizmann and BAIR at 64x64"
        ),
        faithful=(
            "Clip length and splits are the paper's. It does not say how V and V_y are drawn: "
            "here windows start anywhere in training, V_y shows another identity than V, and y is "
            "any of its frames."
        ),
        inputs="A clip store made with mtzoo prepare.",
        outputs="uint8 video and target_video (T, H, W, C), target_index.",
        needs="root: the folder of a clip store",
    ),
)
class ClipsDataset(PairDataset):
    """Pairs of windows from a clip store.

    Training: every pass over the positions visits each video of the split once, in an order of
    its own, and takes a window of it at random. Test: position i is the i-th window where each
    video is cut into windows from its start, none overlapping. In both, V_y is a random window of
    a random video of another identity, unless ``target_identity`` says otherwise.

    Args:
        split: Which part of the store.
        seed: Of every draw.
        root: Folder of the clip store, relative to the working directory; or the address of one
            (``https://``, ``s3://``, ...), of which only what a batch needs is read.
        frames: Frames T of a window.
        stride: Frames of the video from one frame of the window to the next.
        target_frame: Which frame of V_y is the target y: any, or its first.
        identity: Label in which V and V_y differ; empty takes ``person`` where the store knows
            persons and the source video elsewhere.
        target_identity: Whether V_y shows another identity than V in training, or the same in
            another video (in the same where it has one alone), as ``content_frames: other`` and
            ``either`` of the model ask. In the test split it is always another.
        split_by: Which of the store's ways to split, for example ``time`` or ``person``; empty
            takes the store's first.
        source: What the store is expected to hold; checked, and named where it is missing.

    Raises:
        MtzooError: There is no store, it holds another set, an option names what it has not, no
            video is long enough, or all that are show one identity.

    Attributes:
        store: The clip store.
        left_out: How many videos of the split are too short for a window.
    """

    on_disk = True

    def __init__(
        self,
        split: Literal["train", "test"],
        seed: int,
        *,
        root: str,
        frames: int = 16,
        stride: int = 1,
        target_frame: Literal["random", "first"] = "random",
        identity: str = "",
        target_identity: Literal["other", "same"] = "other",
        split_by: str = "",
        source: Literal["", "weizmann", "nemo", "bair"] = "",
    ) -> None:
        for name, value in (("frames", frames), ("stride", stride)):
            if value < 1:
                raise MtzooError(f"dataset clips: {name} must be at least 1, not {value}")
        place = root if is_remote(root) else Path(root).expanduser().resolve()
        if isinstance(place, Path) and not (place / MANIFEST).exists():
            raise MtzooError(
                _MISSING[source].format(root=place, manifest=MANIFEST, without=_WITHOUT)
            )
        self.store = ClipStore(place)
        if source and self.store.source != source:
            raise MtzooError(
                f"the clip store {place} holds {self.store.source!r} where data.source says "
                f"{source!r}; set data.root to the right store"
            )
        self.split: Literal["train", "test"] = split
        self.split_by = split_by or self.store.split_by[0]
        self.seed = seed
        self.resolution = self.store.resolution
        self.channels = self.store.channels
        self.frames = frames
        self.stride = stride
        self.target_frame = target_frame
        self.target_identity = target_identity
        self._span = (frames - 1) * stride + 1

        parts = self.store.entries(split, self.split_by)
        long = [entry for entry in parts if entry.frames >= self._span]
        self.left_out = len(parts) - len(long)
        if not long:
            raise MtzooError(
                f"no video of the {split} split (by {self.split_by}) of {place} has the "
                f"{self._span} frames that frames={frames}, stride={stride} span; the longest has "
                f"{max(entry.frames for entry in parts)}"
            )
        self.identity, identities = _identities(self.store, long, identity)
        # Videos of one identity lie side by side, so that "all others" are two runs of indices.
        order = sorted(range(len(long)), key=lambda i: identities[i])
        self._entries = [long[i] for i in order]
        names = [identities[i] for i in order]
        counts = Counter(names)
        if len(counts) < 2:
            raise MtzooError(
                f"the {split} split (by {self.split_by}) of {place} shows one "
                f"{self.identity} only ({names[0]!r}); pairs need two"
            )
        first = {name: index for index, name in reversed(list(enumerate(names)))}
        self._same = [(first[name], first[name] + counts[name]) for name in names]
        self.content_classes = _classes(self._entries, CONTENT)
        self.motion_classes = _classes(self._entries, MOTION)
        self._windows = [
            (index, start)
            for index, entry in enumerate(self._entries)
            for start in range(0, entry.frames - self._span + 1, self._span)
        ]

    def __len__(self) -> int:
        """Number of videos to train on, or of windows to test on."""
        return len(self._entries) if self.split == "train" else len(self._windows)

    def summary(self) -> str:
        """One line on what the split holds."""
        what = "videos" if self.split == "train" else "windows"
        return (
            f"{self.store.source}, {self.split} split by {self.split_by}: {len(self)} {what} of "
            f"{self.frames} frames by {self.stride}, {len(set(self._same))} identities "
            f"({self.identity}), {self.left_out} videos too short and left out"
        )

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        """The pair at ``position``; see `PairDataset`."""
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Tensor]]:
        """The pairs at ``positions``, read together."""
        batch = self.batch(positions)
        return [{key: values[i] for key, values in batch.items()} for i in range(len(positions))]

    def labels(self, position: int) -> dict[str, dict[str, str]]:
        """What the pair at ``position`` shows: the labels of its two videos."""
        (source, _), (target, _), _ = self._pair(position)
        return {"video": dict(source.labels), "target_video": dict(target.labels)}

    def origin(self, position: int) -> str:
        """The source video of the pair at ``position``, by its file's name."""
        (source, _), _, _ = self._pair(position)
        return source.source or source.id

    def batch(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """The pairs at ``positions``, stacked: each key's values with a first dimension more."""
        pairs = [self._pair(position) for position in positions]
        windows = [pair[0] for pair in pairs] + [pair[1] for pair in pairs]
        videos = self.store.read_windows(windows, self.frames, self.stride)
        return {
            "video": videos[: len(pairs)],
            "target_video": videos[len(pairs) :],
            "target_index": torch.tensor([chosen for _, _, chosen in pairs]),
        }

    def _pair(self, position: int) -> tuple[tuple[Entry, int], tuple[Entry, int], int]:
        """Where V and V_y begin, and which frame is y."""
        if position < 0:
            raise IndexError(f"position {position} is negative")
        source, other, start, frame = self._draws(position)
        if self.split == "train":
            epoch, turn = divmod(position, len(self._entries))
            index = self._order(epoch)[turn]
            begin = self._draw_start(self._entries[index], source)
        else:
            index, begin = self._windows[position % len(self._windows)]
        low, high = self._same[index]
        if self.target_identity == "same" and self.split == "train":
            shift = 1 + _below(other, high - low - 1) if high - low > 1 else 0
            partner = low + (index - low + shift) % (high - low)
        else:
            partner = _below(other, len(self._entries) - (high - low))
            partner += 0 if partner < low else high - low
        target = self._entries[partner]
        chosen = _below(frame, self.frames) if self.target_frame == "random" else 0
        return (self._entries[index], begin), (target, self._draw_start(target, start)), chosen

    def _draw_start(self, entry: Entry, number: int) -> int:
        return _below(number, entry.frames - self._span + 1)

    def _draws(self, position: int) -> list[int]:
        return _numbers(f"{self.seed} {self.split} pair {position}")

    def _order(self, epoch: int) -> Sequence[int]:
        return _permutation(len(self._entries), f"{self.seed} {self.split} order {epoch}")


def _identities(store: ClipStore, entries: Sequence[Entry], label: str) -> tuple[str, list[str]]:
    """By which label V and V_y differ, and its value for each entry."""
    known = sorted(set.intersection(*(set(entry.labels) for entry in entries)))
    if label and label not in known:
        raise MtzooError(
            f"the clip store {store.root} has no label {label!r} on every video."
            f"{did_you_mean(label, known)} Labels: {', '.join(known) or 'none'}"
        )
    if not label and "person" not in known:
        return "source video", [entry.source or entry.id for entry in entries]
    label = label or "person"
    return label, [entry.labels[label] for entry in entries]


def _classes(entries: Sequence[Entry], labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The values of those of ``labels`` that every entry has."""
    return {
        label: tuple(sorted({entry.labels[label] for entry in entries}))
        for label in labels
        if all(label in entry.labels for entry in entries)
    }


def _numbers(what: str) -> list[int]:
    """Random 64-bit numbers that are a function of ``what``.

    A hash rather than a generator: torch's takes 32 bits of a seed, so that neighbouring runs
    would share draws, and a hash gives the same numbers with every version of every library.
    """
    digest = hashlib.blake2b(what.encode(), digest_size=32).digest()
    return [int.from_bytes(digest[i : i + 8], "little") for i in range(0, 32, 8)]


def _below(number: int, high: int) -> int:
    """Map a random 64-bit number to [0, high)."""
    return number * high >> 64


@functools.lru_cache(maxsize=8)
def _permutation(count: int, what: str) -> Sequence[int]:
    """A random order of ``range(count)`` that is a function of ``what``."""
    generator = torch.Generator().manual_seed(_numbers(what)[0] >> 1)
    return torch.randperm(count, generator=generator).tolist()
