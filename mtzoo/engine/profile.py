"""Where a recipe's training step spends its time, on this machine, and what would make it faster.

Every operation of one step is timed and put down to the component whose forward, or whose other
public method, made it: during the backward pass by the node of the autograd graph that runs, which
the call has marked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mtzoo.engine import launch
from mtzoo.engine.graph import WARM_UP
from mtzoo.engine.measure import Cost, Tally, ceilings, in_turn, ratio, wait
from mtzoo.engine.options import EngineOptions
from mtzoo.engine.step import Step
from mtzoo.errors import MtzooError
from mtzoo.interfaces import Batch, Component, Draws, as_video
from mtzoo.recipe import Recipe, build_dataset, build_model, build_objective

REST = "losses, optimisers, average"

WORTH = 1.1
"""Gain from which a setting is advised: less is within what a shared machine does to a timing."""


@dataclass
class Share:
    """One component's part of a step.

    Attributes:
        parameters: How many numbers it learns.
        calls: Calls of it from outside in the step, of its forward or of another method.
        forward: What those cost.
        backward: What the backward passes through them cost.
        forward_seconds: Time of the calls' operations.
        backward_seconds: Time of the backward passes' operations.
        kept: Bytes that the calls added and left for the backward pass.
    """

    parameters: int = 0
    calls: int = 0
    forward: Cost = field(default_factory=Cost)
    backward: Cost = field(default_factory=Cost)
    forward_seconds: float = 0.0
    backward_seconds: float = 0.0
    kept: int = 0

    @property
    def seconds(self) -> float:
        """Time of all its operations."""
        return self.forward_seconds + self.backward_seconds


class Attributed(Tally):
    """A `Tally` that also puts operations and time down to components.

    Args:
        parts: The components by name.
        device: Waited for after each operation, so that its time is its own.
    """

    def __init__(self, parts: Mapping[str, nn.Module], device: torch.device) -> None:
        super().__init__()
        self.shares = {name: Share() for name in (*parts, REST)}
        for name, part in parts.items():
            self.shares[name].parameters = sum(p.numel() for p in part.parameters())
        self._parts = parts
        self._device = device
        self._inside: list[str] = []
        self._seconds = 0.0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Count what runs inside."""
        with _around(self._parts, self._enter, self._leave), self:
            yield

    def _enter(self, name: str) -> None:
        if name not in self._inside:
            self.shares[name].calls += 1
            self.shares[name].kept -= self._held
        self._inside.append(name)

    def _leave(self, name: str, given: Any, result: Any) -> None:
        self._inside.pop()
        if name not in self._inside:
            self.shares[name].kept += self._held
        _mark(result, given, name)

    def _call(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        began = time.perf_counter()
        result = func(*args, **kwargs)
        wait(self._device)
        self._seconds = time.perf_counter() - began
        return result

    def _note(self, flops: int, moved: int) -> None:
        super()._note(flops, moved)
        node = torch._C._current_autograd_node()
        if self._inside:
            share = self.shares[self._inside[-1]]
        else:
            share = self.shares[REST if node is None else _notes(node).get("part", REST)]
        backward = node is not None and not self._inside
        cost = share.backward if backward else share.forward
        cost.operations += 1
        cost.flops += flops
        cost.moved += moved
        if backward:
            share.backward_seconds += self._seconds
        else:
            share.forward_seconds += self._seconds


@contextlib.contextmanager
def _around(
    parts: Mapping[str, nn.Module],
    enter: Callable[[str], object],
    leave: Callable[[str, Any, Any], object],
) -> Iterator[None]:
    """Tell of each call of a part: by hooks of its forward, by wrapping its other public methods.

    Args:
        parts: By name.
        enter: Is given the name.
        leave: Is given the name, what the call was given and its result.
    """

    def wrapped(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*given: Any, **named: Any) -> Any:
            enter(name)
            result = None
            try:
                result = method(*given, **named)
            finally:
                leave(name, (given, named), result)
            return result

        return call

    with contextlib.ExitStack() as stack:
        for name, part in parts.items():
            before = part.register_forward_pre_hook(lambda *_, name=name: enter(name))
            after = part.register_forward_hook(
                lambda _, given, named, result, name=name: leave(name, (given, named), result),
                with_kwargs=True,
                always_call=True,
            )
            stack.callback(before.remove)
            stack.callback(after.remove)
            for method in _methods(part):
                vars(part)[method] = wrapped(name, getattr(part, method))
                stack.callback(vars(part).pop, method)
        yield


def _methods(part: nn.Module) -> list[str]:
    """Names of a component's public methods but ``forward``, without those of every module."""
    return [
        name
        for kind in type(part).__mro__
        if kind is not Component and issubclass(kind, Component)
        for name, value in vars(kind).items()
        if inspect.isfunction(value) and not name.startswith("_") and name != "forward"
    ]


def _notes(node: Any) -> dict[str, Any]:
    """What can be written on a node of the autograd graph."""
    return node.metadata


def _mark(result: Any, inputs: Any, name: str) -> None:
    """Write ``name`` on the nodes of the autograd graph between inputs and result."""
    ends = {leaf.grad_fn for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)}
    nodes = [leaf.grad_fn for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    while nodes:
        node = nodes.pop()
        if node is None or node in ends or "part" in _notes(node):
            continue
        _notes(node)["part"] = name
        nodes.extend(following for following, _ in node.next_functions)


def profile(
    recipe: Recipe, *, batch_size: int | None = None, repeats: int = 3, trace: Path | None = None
) -> dict[str, Any]:
    """Measure one training step of a recipe, component by component, and try faster settings.

    The step has all terms of the objective switched on. Pictures are noise of the sizes that the
    recipe's data has: the cost of a step does not depend on what they show. Where the data says
    its resolution only once it is there, and it is not, 64 is taken.

    Args:
        recipe: What to measure.
        batch_size: Pairs a step; ``None`` takes the recipe's.
        repeats: Timed steps of each setting.
        trace: Where to write a step's trace for Perfetto or ``chrome://tracing``.

    Returns:
        JSON values: ``recipe``, ``device``, ``batch_size``, ``resolution``, ``frames``;
        ``components`` (a list of `Share` as dictionaries, with ``name`` and ``share``, the part of
        the step's time in [0, 1]); ``step`` (a `Cost`, ``seconds``, ``floor_seconds``: its
        arithmetic at the speed of a large matrix product in the same precision and run);
        ``advice`` (a list of ``setting``, ``gain``: how many times as fast, ``difference``: the
        largest relative difference of a loss in a step from equal weights, and ``worth``; of a
        setting that does not work here, ``failed`` says why).

    Raises:
        MtzooError: The recipe cannot be built, or a batch of no pairs was asked for.
    """
    options = dataclasses.replace(recipe.engine, devices=1, compile=False, cuda_graph=False)
    if batch_size is not None:
        if batch_size < 1:
            raise MtzooError(f"a batch of {batch_size} pairs cannot be measured; take 1 or more")
        options = dataclasses.replace(options, batch_size=batch_size)
    device = launch.fabric(options).device
    resolution, channels, frames = _sizes(recipe)
    batch = _noise(options.batch_size, frames, resolution, channels, device)
    number = max(options.steps - 1, 0)

    def build(changed: EngineOptions) -> Step:
        torch.manual_seed(recipe.seed)
        model = build_model(
            recipe.model, resolution=resolution, channels=channels, where=recipe.where
        )
        objective = build_objective(recipe.objective, where=recipe.where)
        autocast = launch.fabric(changed).autocast
        return Step(model.to(device), objective, changed, seed=recipe.seed, autocast=autocast)

    def run(step: Step) -> Mapping[str, Mapping[str, Tensor]]:
        return step(number, batch, Draws(recipe.seed, number, 0, options.batch_size, device))

    step = build(options)
    run(step)
    tally = Attributed(components(step.model), device)
    with tally.watching():
        run(step)
    if trace is not None:
        _trace(lambda: run(step), trace, components(step.model))
    total = sum(share.seconds for share in tally.shares.values())
    settings = {"as it is": step, **{k: build(v) for k, v in variants(options, device).items()}}
    # A recorded step is replayed after some as they are.
    before = {
        name: WARM_UP + 1 if found.options.cuda_graph else 0 for name, found in settings.items()
    }

    def after(found: Step, count: int) -> Mapping[str, Mapping[str, Tensor]]:
        for _ in range(count):
            run(found)
        return run(found)

    losses, failed = {}, {}
    for name in [name for name in settings if name != "as it is"]:
        try:
            losses[name] = after(settings[name], before[name])
        except MtzooError as error:
            failed[name] = str(error)
            del settings[name]
    plain = {count: after(build(options), count) for count in set(before.values())}
    times = in_turn(
        {name: lambda found=found: run(found) for name, found in settings.items()},
        repeats=repeats,
        device=device,
    )
    half = launch.takes_bf16(options, device.type)
    arithmetic = ceilings(device, torch.bfloat16 if half else torch.float32)[0]
    advice: list[dict[str, Any]] = []
    for name, found in losses.items():
        gain = ratio(times["as it is"], times[name])
        difference = distance(plain[before[name]], found)
        advice.append(
            {"setting": name, "gain": gain, "difference": difference, "worth": gain >= WORTH}
        )
    advice += [{"setting": name, "failed": why} for name, why in failed.items()]
    return {
        "recipe": recipe.name,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "batch_size": options.batch_size,
        "resolution": resolution,
        "frames": frames,
        "components": [
            {"name": name, "share": share.seconds / total, **dataclasses.asdict(share)}
            for name, share in tally.shares.items()
        ],
        "step": {
            **dataclasses.asdict(tally.cost),
            "seconds": statistics.median(times["as it is"]),
            "floor_seconds": tally.cost.flops / arithmetic,
        },
        "advice": advice,
    }


def components(model: nn.Module) -> dict[str, nn.Module]:
    """A model's components by the last part of their names."""
    return {
        name.rpartition(".")[2]: part
        for name, part in model.named_modules()
        if isinstance(part, Component)
    }


def variants(options: EngineOptions, device: torch.device) -> dict[str, EngineOptions]:
    """Settings worth trying, by what a recipe would say."""
    found = {"engine.compile: true": dataclasses.replace(options, compile=True)}
    if launch.has_bf16(device.type) and not launch.takes_bf16(options, device.type):
        found["engine.precision: bf16"] = dataclasses.replace(options, precision="bf16")
    if device.type == "cuda" and not options.cuda_graph:
        found["engine.cuda_graph: true"] = dataclasses.replace(options, cuda_graph=True)
    return found


def distance(
    one: Mapping[str, Mapping[str, Tensor]], two: Mapping[str, Mapping[str, Tensor]]
) -> float:
    """The largest relative difference of a loss between two steps' figures, where both have it."""
    return max(
        abs(float(value) - float(two[phase][name])) / max(abs(float(value)), 1e-8)
        for phase, terms in one.items()
        for name, value in terms.items()
        if name in two[phase]
    )


def _sizes(recipe: Recipe) -> tuple[int, int, int]:
    """Resolution, channels and frames of the recipe's data."""
    try:
        pairs = build_dataset(recipe.data, split="train", seed=recipe.seed, where=recipe.where)
    except MtzooError:
        frames = recipe.data.get("frames")
        if not isinstance(frames, int):
            raise
        resolution = recipe.data.get("resolution")
        return resolution if isinstance(resolution, int) else 64, 3, frames
    return pairs.resolution, pairs.channels, pairs.frames


def _noise(count: int, frames: int, side: int, channels: int, device: torch.device) -> Batch:
    size = (count, frames, side, side, channels)
    generator = torch.Generator().manual_seed(0)
    one, two = (
        as_video(torch.randint(0, 256, size, dtype=torch.uint8, generator=generator).to(device))
        for _ in range(2)
    )
    return Batch(one, two, two[:, 0])


def _trace(run: Any, path: Path, parts: Mapping[str, nn.Module]) -> None:
    """Write one step's trace, with components and phases as ranges."""
    open_: list[Any] = []

    def enter(name: str) -> None:
        open_.append(torch.profiler.record_function(name))
        open_[-1].__enter__()

    def leave(*_: Any) -> None:
        open_.pop().__exit__(None, None, None)

    with _around(parts, enter, leave), torch.profiler.profile() as recorded:
        run()
    recorded.export_chrome_trace(str(path))
