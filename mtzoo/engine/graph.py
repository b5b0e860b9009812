"""Training steps recorded in CUDA graphs and replayed: one launch instead of thousands.

A recording does again what the device was told to do, in the same memory: it takes nothing from
the host. So batches, random numbers and how far ramps are get copied to where it reads them, the
learning rate is a tensor, and what else an objective takes from a step's number decides which
recording fits (`mtzoo.interfaces.Objective.variant`). A component that counts steps or draws by
Python itself would do in each replay what it did in the recording.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mtzoo.errors import MtzooError
from mtzoo.interfaces import Batch, Draws

WARM_UP = 3
"""Steps of a kind that run as they are before one is recorded: kernels are chosen in them."""

MOST = 8
"""Recordings that are kept; the one not used for longest goes first."""

UNWINDS = (2, 15)
"""By this torch's source a recording that fails leaves streams and random numbers as they were.
Some earlier ones did not, and which is not known, so steps do not go on there."""

Figures = Mapping[str, Mapping[str, Tensor]]
Kept = dict[tuple[Any, ...], Tensor]
Work = Callable[[int, Batch, Draws], Figures]
Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]


@dataclass(frozen=True)
class KeptDraws(Draws):
    """Draws that hand out the same tensors again, for a recording to read.

    Attributes:
        kept: By what was asked for, numbers by their names.
        sealed: Whether to refuse what was not asked for before.
    """

    kept: Kept = field(default_factory=dict)
    sealed: bool = False

    def normal(self, count: int, dim: int, stream: int) -> Tensor:
        """As `Draws.normal`."""
        return self._keep("normal", count, dim, stream)

    def integers(self, count: int, high: int, stream: int) -> Tensor:
        """As `Draws.integers`."""
        return self._keep("integers", count, high, stream)

    def number(self, name: str, value: float) -> Tensor:
        """As `Draws.number`, in a tensor."""
        asked = ("number", name)
        if asked not in self.kept:
            self._refuse_if_sealed()
            self.kept[asked] = torch.full((), value, device=self.device)
        return self.kept[asked]

    def refill(self, draws: Draws, numbers: Mapping[str, float]) -> None:
        """Replace all values by those of another step, in place."""
        for (name, *asked), values in self.kept.items():
            if name == "number":
                values.fill_(numbers[asked[0]])
            else:
                values.copy_(getattr(draws, name)(*asked), non_blocking=True)

    def _keep(self, *asked: Any) -> Tensor:
        if asked not in self.kept:
            self._refuse_if_sealed()
            self.kept[asked] = getattr(super(), asked[0])(*asked[1:])
        return self.kept[asked]

    def _refuse_if_sealed(self) -> None:
        if self.sealed:
            raise RuntimeError("it asks for other numbers than the steps before it")


def cuda_graphs() -> Capture:
    """What records in CUDA graphs that share their memory: they are replayed one after another.

    Returns:
        A function of a step that ran before with other values. It records what the step tells the
        GPU to do, without doing it, and returns what does it, and the tensor that the step
        returned, which is filled then. It raises `RuntimeError` where something cannot be recorded.
    """
    pool = torch.cuda.graph_pool_handle()

    def capture(run: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream()
        try:
            # Other threads go on pinning memory for batches to come.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                output = run()
        finally:
            torch.cuda.set_stream(current)  # a recording that fails may leave its own behind
        return graph.replay, output

    return capture


class Recorder:
    """Runs steps, from a recording wherever one fits.

    The first steps of a kind run as they are, the next is recorded, all later ones are replayed.
    Where recording fails a line says why, and steps go on as they are if torch can (`UNWINDS`).

    Args:
        work: One step, from its number, batch and draws: no host waits for the device in it.
        say: Where the line goes.
        seed: Seeds torch's generators for a step, before it runs in whatever way.
        capture: Records; by default `cuda_graphs`.
    """

    def __init__(
        self,
        work: Work,
        say: Callable[[str], None],
        seed: Callable[[int], object],
        capture: Capture | None = None,
    ) -> None:
        self._work, self._say, self._seed = work, say, seed
        self._capture = capture or cuda_graphs()
        self._seen: OrderedDict[Hashable, tuple[int, Kept]] = OrderedDict()
        self._made: OrderedDict[Hashable, _Recording] = OrderedDict()
        self.failed = False

    def __call__(
        self, kind: Hashable, numbers: Mapping[str, float], step: int, batch: Batch, draws: Draws
    ) -> Figures:
        """Run a step.

        Args:
            kind: Steps of one kind differ in nothing but tensors; ``None`` is never recorded.
            numbers: What the step asks `Draws.number` for.
            step: Its number, from 0.
            batch: On the device.
            draws: The step's random numbers.

        Returns:
            What ``work`` does, as tensors that later steps leave alone.

        Raises:
            MtzooError: Recording failed with a torch that cannot go on from there.
        """
        self._seed(step)
        if kind is None or self.failed:
            return self._work(step, batch, draws)
        kind = (kind, *((t.shape, t.stride(), t.dtype) for t in batch))
        if kind not in self._made:
            times, values = self._seen.pop(kind, (0, {}))
            kept = KeptDraws(draws.seed, step, draws.offset, draws.total, draws.device, values)
            if times < WARM_UP:
                kept.refill(draws, numbers)
                self._seen[kind] = (times + 1, values)
                while len(self._seen) > 2 * MOST:
                    self._seen.popitem(last=False)
                return self._work(step, batch, kept)
            self._make(kind, step, batch, kept)
            self._seed(step)  # recording may have drawn
            if self.failed:
                return self._work(step, batch, draws)
        self._made.move_to_end(kind)
        return self._made[kind].replay(numbers, batch, draws)

    def _make(self, kind: Hashable, step: int, batch: Batch, kept: KeptDraws) -> None:
        while len(self._made) >= MOST:
            self._made.popitem(last=False)
        try:
            self._made[kind] = _Recording(self._work, step, batch, kept, self._capture)
        except RuntimeError as error:
            self.failed = True
            self._made.clear()
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            why = f"engine.cuda_graph: step {step} cannot be recorded ({reason})"
            if tuple(int(part) for part in torch.__version__.split(".")[:2]) < UNWINDS:
                raise MtzooError(f"{why}; set it to false and go on with --resume") from error
            self._say(f"warning: {why}; going on without")


class _Recording:
    """One kind of step, and where it reads and writes."""

    def __init__(
        self, work: Work, step: int, batch: Batch, kept: KeptDraws, capture: Capture
    ) -> None:
        self._batch = Batch(*(torch.empty_like(t).copy_(t) for t in batch))
        # The host's choices, which the kind names, are those of this step.
        self._draws = dataclasses.replace(kept, sealed=True)
        self._names: list[tuple[str, str]] = []

        def run() -> Tensor:
            figures = work(step, self._batch, self._draws)
            self._names = [(phase, name) for phase in figures for name in figures[phase]]
            return torch.stack([figures[phase][name].float() for phase, name in self._names])

        self._play, self._output = capture(run)

    def replay(self, numbers: Mapping[str, float], batch: Batch, draws: Draws) -> Figures:
        for here, given in zip(self._batch, batch, strict=True):
            here.copy_(given, non_blocking=True)
        self._draws.refill(draws, numbers)
        self._play()
        found: dict[str, dict[str, Tensor]] = {}
        values = self._output.clone().unbind()
        for (phase, name), value in zip(self._names, values, strict=True):
            found.setdefault(phase, {})[name] = value
        return found
