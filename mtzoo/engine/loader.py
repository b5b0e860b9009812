"""Batches by step: what a step sees follows from its number, whoever loads it.

One item of the loader is one step's share of a rank, so the number of workers, their order and
where a resumed run starts change nothing.
"""

from __future__ import annotations

import itertools
import signal
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from mtzoo.errors import MtzooError
from mtzoo.interfaces import Batch, PairDataset, as_video
from mtzoo.registries import datasets
from mtzoo.registry import is_foreign

KEYS = ("video", "target_video", "target_index")


class Steps(Dataset[Any]):
    """The pairs of a dataset, one item a step.

    Args:
        pairs: The training split, or the test split in evaluation.
        total: Size of the global batch.
        offset: Index of this rank's first pair in the global batch.
        count: Pairs that this rank takes.
        positions: Which pairs they are, in order; ``None`` is all of them.
    """

    def __init__(
        self,
        pairs: PairDataset,
        total: int,
        offset: int = 0,
        count: int = 0,
        positions: Sequence[int] | None = None,
    ) -> None:
        self.pairs = pairs
        self.total = total
        self.offset = offset
        self.count = count or total
        self.positions = positions

    def __getitem__(self, step: int) -> dict[str, Tensor] | MtzooError:
        """Pairs ``step * total + offset + i``, stacked: uint8 ``(count, T, H, W, C)`` each.

        A test split's ``truth`` comes along.
        """
        first = step * self.total + self.offset
        positions: Sequence[int] = range(first, first + self.count)
        if self.positions is not None:
            positions = [self.positions[number] for number in positions]
        try:
            if (batch := getattr(self.pairs, "batch", None)) is not None:
                return batch(positions)
            items = load(self.pairs, positions)
        except MtzooError as error:
            # Raised by whoever takes it: a loader process would wrap it into its traceback.
            return error
        wanted = [key for key in (*KEYS, "truth") if key in items[0]]
        return default_collate([{key: item[key] for key in wanted} for item in items])


def load(pairs: PairDataset, positions: Sequence[int]) -> list[dict[str, Tensor]]:
    """The pairs at ``positions``, at once where the dataset can (``__getitems__``).

    Raises:
        MtzooError: One is not what its dataset promises, so that they could not be stacked.
    """
    together = getattr(pairs, "__getitems__", None)
    items = together(positions) if together else [pairs[position] for position in positions]
    for position, item in zip(positions, items, strict=True):
        check_item(item, pairs, position)
        if ("truth" in item) != ("truth" in items[0]):
            raise MtzooError(
                f"dataset {_name(pairs)!r}: of positions {positions[0]} and {position} one has a "
                "'truth' and the other none; all of a split's have one, or none has"
            )
    return items


def batches(
    steps: Steps, start: int, stop: int, *, workers: int, pin: bool
) -> Generator[dict[str, Tensor], None, None]:
    """Load steps ``start`` to ``stop - 1`` in order, ahead of who takes them.

    What is computed, like a synthetic world, is computed in worker processes. What is read from a
    disk or a network is read by one thread: processes would spend several times as long on handing
    the pictures over (`benchmarks/loader.py`).

    Close what this returns when done with it early: that ends the workers.

    Raises:
        MtzooError: From the iterator, when a pair cannot be loaded.
    """
    if workers and steps.pairs.on_disk:
        return _raising(_ahead(steps, range(start, stop), pin))
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin,
        worker_init_fn=_leave_signals,
        # The loader draws a seed from torch's global generator otherwise.
        generator=torch.Generator().manual_seed(0),
    )
    return _raising(iter(loader))


def _ahead(
    steps: Steps, numbers: Sequence[int], pin: bool
) -> Generator[dict[str, Tensor] | MtzooError, None, None]:
    """Load steps in a thread, two ahead."""

    def take(step: int) -> dict[str, Tensor] | MtzooError:
        items = steps[step]
        if pin and not isinstance(items, MtzooError):
            items = {key: values.pin_memory() for key, values in items.items()}
        return items

    coming = iter(numbers)
    pool = ThreadPoolExecutor(1, thread_name_prefix="loader")
    try:
        waiting = deque(pool.submit(take, step) for step in itertools.islice(coming, 2))
        while waiting:
            items = waiting.popleft().result()
            waiting.extend(pool.submit(take, step) for step in itertools.islice(coming, 1))
            yield items
    finally:
        pool.shutdown(cancel_futures=True)


def _raising(items: Iterator[Any]) -> Generator[dict[str, Tensor], None, None]:
    try:
        for item in items:
            if isinstance(item, MtzooError):
                raise item
            yield item
    finally:
        # Left to the garbage collector, the processes would outlive an error whose traceback
        # holds on to the iterator, and Python's exit would wait for them without end.
        end = getattr(items, "_shutdown_workers", None) or getattr(items, "close", None)
        if end is not None:
            end()


def _as_it_is(item: object) -> object:
    return item


def _leave_signals(_: int) -> None:
    # Ctrl-C and a scheduler's SIGTERM reach the whole process group. The training process decides
    # what to do and still needs its loaders to finish the step; they end when it does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def to_batch(items: dict[str, Tensor], device: torch.device) -> Batch:
    """Move uint8 pairs to ``device`` without waiting and view them as a `Batch` of floats."""
    video, target_video, index = (items[key].to(device, non_blocking=True) for key in KEYS)
    rows = torch.arange(len(index), device=device)
    target = target_video[rows, index].unsqueeze(1)
    return Batch(as_video(video), as_video(target_video), as_video(target)[:, 0])


class Mover:
    """`to_batch` beside what a GPU is at: on a stream of its own, for which later work waits.

    Args:
        device: Where batches go; a CPU has no streams.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, items: dict[str, Tensor]) -> Batch:
        """Move pairs from pinned memory."""
        if self._stream is None:
            return to_batch(items, self.device)
        with torch.cuda.stream(self._stream):
            batch = to_batch(items, self.device)
        using = torch.cuda.current_stream(self.device)
        using.wait_stream(self._stream)
        for part in batch:  # its memory is not given to the next batch while a step reads it
            part.record_stream(using)
        return batch


def check_pair(pairs: PairDataset, split: str, who: str) -> None:
    """Load the first pair of a dataset from another package and hold it to its promise.

    mtzoo's own are taken at their word.

    Args:
        pairs: The dataset.
        split: ``"train"``, or ``"test"``, whose pairs have a truth where the dataset says so.
        who: Its registered name.

    Raises:
        MtzooError: It cannot be loaded, or is not what the dataset promises.
    """
    if not is_foreign(type(pairs)):
        return
    try:
        item = load(pairs, [0])[0]
    except MtzooError:
        raise
    except (Exception, SystemExit) as error:
        raise MtzooError(
            f"dataset {who!r}: the first pair of its {split} split cannot be loaded "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        ) from error
    if split == "test" and pairs.has_truth and "truth" not in item:
        raise MtzooError(
            f"dataset {who!r}: has_truth is true, and the pairs of its test split lack 'truth'; "
            "add it, or set has_truth to false"
        )


def check_item(item: object, pairs: PairDataset, position: int) -> None:
    """Hold one pair, before it is stacked with others, against what its dataset promises.

    Raises:
        MtzooError: It is no dictionary, lacks a key, or a shape or type differs.
    """
    who = f"dataset {_name(pairs)!r}, position {position}"
    if not isinstance(item, Mapping):
        raise MtzooError(
            f"{who}: the pair is a {type(item).__name__}; it must be a dictionary with "
            f"{', '.join(KEYS)}"
        )
    found: dict[str, Tensor] = {}
    for key in (*KEYS, *(["truth"] if "truth" in item else [])):
        if key not in item:
            raise MtzooError(
                f"{who}: the pair lacks {key!r}; it has {', '.join(map(str, item)) or 'nothing'}"
            )
        try:
            found[key] = torch.as_tensor(item[key])[None]
        except (TypeError, ValueError, RuntimeError) as error:
            raise MtzooError(
                f"{who}: {key!r} is a {type(item[key]).__name__}, which is no tensor"
            ) from error
    _check(found, pairs, who)


def check_items(items: dict[str, Tensor], pairs: PairDataset, who: str) -> None:
    """Hold a loaded batch against what its dataset promises.

    Raises:
        MtzooError: A key is missing, or a shape or type differs; the message says which.
    """
    for key in KEYS:
        if key not in items:
            raise MtzooError(f"dataset {who!r}: its pairs lack {key!r}")
    _check(items, pairs, f"dataset {who!r}")


def _check(items: Mapping[str, Tensor], pairs: PairDataset, who: str) -> None:
    size = (pairs.frames, pairs.resolution, pairs.resolution, pairs.channels)
    for key in ("video", "target_video", *(["truth"] if "truth" in items else [])):
        found = items[key]
        if found.dtype != torch.uint8 or tuple(found.shape[1:]) != size:
            raise MtzooError(
                f"{who}: {key!r} is {found.dtype} {tuple(found.shape[1:])}, "
                f"it promises torch.uint8 {size} (frames, height, width, channels)"
            )
    index = items["target_index"]
    fits = index.dtype == torch.int64 and index.dim() == 1
    if not fits or not bool(((index >= 0) & (index < pairs.frames)).all()):
        raise MtzooError(
            f"{who}: 'target_index' must be int64 in [0, {pairs.frames}), it is "
            f"{index.dtype} {index.flatten().tolist()[:4]}"
        )


def _name(pairs: PairDataset) -> str:
    """What recipes call a dataset, or else its class."""
    return datasets.name_of(type(pairs)) or type(pairs).__name__
