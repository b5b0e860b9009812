"""What a piece of computation costs: operations, FLOPs, bytes, memory, and time beside another's.

Counts are exact and the same on every run. Times on a shared machine are not, so they are taken in
turn with what they are compared with, and reported as ratios.
"""

from __future__ import annotations

import functools
import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from mtzoo.nn.pack import can_pack


@dataclass
class Cost:
    """Of one run of something.

    Attributes:
        operations: Calls that reached the dispatcher below autograd, views included.
        flops: Floating point operations of convolutions and matrix products, those within
            recurrent layers included, 2 a multiply-add.
        moved: Bytes of the operands and results of all operations that are not views: what would
            go through memory if no cache held anything.
        peak: The largest number of bytes held at a time beyond what was held before.
    """

    operations: int = 0
    flops: int = 0
    moved: int = 0
    peak: int = 0


class Tally(TorchDispatchMode):
    """Context that fills a `Cost`, available as ``cost``.

    Memory counts tensors only, not an operation's own scratch space.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cost = Cost()
        self._held = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket not in flop_registry:
            # In inference mode composite operations arrive whole; elsewhere autograd opens them.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for tensor in inputs:  # what was there before costs nothing
            self._hold(tensor, free=True)
        result = self._call(func, args, kwargs)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        packet = func._overloadpacket
        flops, moved = 0, 0
        if packet in flop_registry:
            flops = flop_registry[packet](*args, **kwargs, out_val=result)
        elif packet in _uncounted():
            flops = _uncounted()[packet](args, result)
        if not func.is_view:
            moved = sum(t.numel() * t.element_size() for t in (*inputs, *outputs))
        for tensor in outputs:
            self._hold(tensor)
        self._note(flops, moved)
        return result

    def _call(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        return func(*args, **kwargs)

    def _note(self, flops: int, moved: int) -> None:
        self.cost.operations += 1
        self.cost.flops += flops
        self.cost.moved += moved

    def _hold(self, tensor: Tensor, free: bool = False) -> None:
        if tensor.is_mkldnn:  # a packed weight, without a storage that torch knows
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, 0 if free else storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self._held += size
        self.cost.peak = max(self.cost.peak, self._held)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._held -= size


@functools.cache
def _uncounted() -> dict[Any, Callable[[Any, Any], int]]:
    """FLOPs of what torch counts none of, by operation: of its arguments and its result."""
    aten = torch.ops.aten
    found: dict[Any, Callable[[Any, Any], int]] = {
        # Gradients of inputs and of weights take as much as the products each.
        aten.mkldnn_rnn_layer: lambda given, _: _recurrent(given[0], given[1:3]),
        aten.mkldnn_rnn_layer_backward: lambda given, _: 2 * _recurrent(given[0], given[1:3]),
        aten._cudnn_rnn: lambda given, _: _recurrent(given[0], given[1]),
        aten._cudnn_rnn_backward: lambda given, _: (
            _recurrent(given[0], given[1]) * (1 + bool(given[-1][3]))
        ),
    }
    if can_pack():  # what `mtzoo.nn.pack` calls
        known = torch.ops.mkldnn
        found |= {
            known._convolution_pointwise: lambda given, out: 2 * _places(out) * given[1].numel(),
            known._convolution_transpose_pointwise: lambda given, _: (
                2 * _places(given[0]) * given[1].numel()
            ),
            known._linear_pointwise: lambda given, out: (
                2 * out.shape[:-1].numel() * given[1].numel()
            ),
        }
    return found


def _recurrent(inputs: Tensor, weights: Sequence[Tensor]) -> int:
    """Of a recurrent layer's matrices, each of which meets each step of each sequence once."""
    matrices = sum(weight.numel() for weight in weights if weight.dim() == 2)
    return 2 * inputs.shape[:-1].numel() * matrices


def _places(maps: Tensor) -> int:
    return maps.numel() // maps.shape[1]


def cost(run: Callable[[], object]) -> Cost:
    """Count what one call of ``run`` costs."""
    with Tally() as tally:
        run()
    return tally.cost


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(
    runs: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warmup: int = 1,
    device: torch.device | None = None,
) -> dict[str, list[float]]:
    """Time several runs alternately, so that what disturbs the machine disturbs all alike.

    Args:
        runs: By name.
        repeats: Rounds that count.
        warmup: Rounds before them.
        device: Waited for at both ends of a run; ``None`` is the CPU.

    Returns:
        Seconds of each round by name.
    """
    device = device or torch.device("cpu")
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warmup + repeats):
        for name, run in runs.items():
            wait(device)
            began = time.perf_counter()
            run()
            wait(device)
            if turn >= warmup:
                found[name].append(time.perf_counter() - began)
    return found


def ratio(slow: list[float], fast: list[float]) -> float:
    """How many times as long ``slow`` takes: the median over rounds taken in turn."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def ceilings(device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[float, float]:
    """What the machine can do at most, measured now: FLOPs and bytes a second.

    The first by a large matrix product or a large convolution in channels_last, whichever is
    faster, with TF32 where torch is set to take it; the second by copying a tensor far larger than
    a cache (bytes read and written).
    """
    on_cpu = device.type == "cpu"
    side, size = (1024, 64 << 20) if on_cpu else (8192, 1 << 30)
    count, channels, places = (8, 256, 32) if on_cpu else (64, 512, 128)
    a = torch.randn(side, side, device=device, dtype=dtype)
    b = torch.randn(side, side, device=device, dtype=dtype)
    # 4x4 with stride 2 as in DCGAN: of 3x3 some libraries save arithmetic that is counted.
    maps = torch.randn(count, channels, places, places, device=device, dtype=dtype)
    maps = maps.contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(channels, channels, 4, 4, device=device, dtype=dtype)
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    runs = {
        "product": lambda: a @ b,
        "convolution": lambda: torch.conv2d(maps, kernel, None, 2, 1),
        "copy": lambda: target.copy_(source),
    }
    with torch.no_grad():
        times = in_turn(runs, repeats=7, device=device)
    product = 2 * side**3 / min(times["product"])
    convolution = 2 * count * (places // 2) ** 2 * kernel.numel() / min(times["convolution"])
    return max(product, convolution), 2 * size / min(times["copy"])


def floor(cost: Cost, inputs: int, ceilings: tuple[float, float]) -> float:
    """The least seconds that a run can take: its arithmetic or its unavoidable traffic alone.

    Args:
        cost: Of the run.
        inputs: Bytes that have to be read or written whatever the implementation: inputs,
            weights, results.
        ceilings: See `ceilings`.
    """
    return max(cost.flops / ceilings[0], inputs / ceilings[1])
