"""Where a recipe's training step spends its time, on this machine, and what would make it faster.

Every operation of one step is timed and put down to the component whose forward, or whose other
public method, made it: during the backward pass by the node of the autograd graph that runs, which
the call has marked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
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
from mtzoo.engine.memory import keep_freed
from mtzoo.engine.options import EngineOptions
from mtzoo.engine.step import Step
from mtzoo.errors import MtzooError
from mtzoo.interfaces import Batch, Component, Draws, as_video
from mtzoo.recipe import Recipe, build_dataset, build_model, build_objective

REST = "losses, optimisers, average"

LAYOUT = "pictures in NCHW"
"""Instead of channels_last. No recipe says so: where it gains, mtzoo's layout is wrong."""

WORTH = 1.1
"""Gain from which a setting is advised: less is within what a shared machine does to a timing."""


Figures = Mapping[str, Mapping[str, Tensor]]


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
    """Measure one training step of a recipe, component by component, and try other settings.

    The step has all terms of the objective switched on. Pictures are noise of the sizes that the
    recipe's data has: the cost of a step does not depend on what they show. Where the data says
    its resolution only once it is there, and it is not, 64 is taken. The step is that of one
    process: without what several exchange. Components are told apart in a step that runs as it is
    written, without compilation and graphs; the time of the step is that of the recipe's settings.

    Args:
        recipe: What to measure.
        batch_size: Pairs a step; ``None`` takes a process's share of the recipe's.
        repeats: Timed steps of each setting.
        trace: Where to write a step's trace for Perfetto or ``chrome://tracing``.

    Returns:
        JSON values: ``recipe``, ``device``, ``batch_size``, ``resolution``, ``frames``;
        ``components`` (a list of `Share` as dictionaries, with ``name`` and ``share``, the part of
        the operations' time in [0, 1]); ``step`` (a `Cost`, ``seconds``, ``floor_seconds``: its
        arithmetic at the speed of a large matrix product or convolution in the same precision and
        run); ``advice`` (a list of ``setting``, ``gain``: how many times as fast as the recipe's
        own, ``difference``: the largest relative difference of a loss in a step from equal
        weights, and ``worth``; of a setting that does not work here, ``failed`` says why).

    Raises:
        MtzooError: The recipe cannot be built or its step does not run here, or a batch of no
            pairs was asked for.
    """
    share = recipe.engine.batch_size // recipe.engine.devices
    if batch_size is not None:
        if batch_size < 1:
            raise MtzooError(f"a batch of {batch_size} pairs cannot be measured; take 1 or more")
        share = batch_size
    options = dataclasses.replace(recipe.engine, devices=1, batch_size=share)
    device = launch.fabric(options).device
    if device.type == "cpu":
        keep_freed()  # as `fit` does
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

    def run(step: Step, given: Batch = batch) -> Figures:
        return step(number, given, Draws(recipe.seed, number, 0, options.batch_size, device))

    def begun(changed: EngineOptions, given: Batch = batch) -> tuple[Step, Figures]:
        """A step after those before a recording, where there are any, and its losses."""
        step = build(changed)
        for _ in range(WARM_UP + 1 if device.type == "cuda" else 0):
            run(step, given)
        return step, run(step, given)

    plain = build(dataclasses.replace(options, compile=False, cuda_graph=False))
    run(plain)
    tally = Attributed(components(plain.model), device)
    with tally.watching():
        run(plain)
    if trace is not None:
        _trace(functools.partial(run, plain), trace, components(plain.model))
    total = sum(share.seconds for share in tally.shares.values())
    del plain
    try:
        step, losses = begun(options)
    except Exception as error:
        raise MtzooError(
            f"the recipe's engine settings do not work here: {_reason(error)}; change them, such "
            "as by --engine.compile false"
        ) from error
    half = launch.takes_bf16(options, device.type)
    arithmetic = ceilings(device, torch.bfloat16 if half else torch.float32)[0]
    seconds = in_turn({"": lambda: run(step)}, repeats=repeats, device=device)[""]
    settings = {name: (changed, batch) for name, changed in variants(options, device).items()}
    contiguous = Batch(*(part.contiguous() for part in batch))
    settings[LAYOUT] = (options, contiguous)
    advice: list[dict[str, Any]] = []
    for name, (changed, given) in settings.items():
        try:
            gain, difference = _tried(begun, run, step, losses, changed, given, repeats, device)
        except Exception as error:  # whatever a compiler or a driver raises
            advice.append({"setting": name, "failed": _reason(error)})
        else:
            advice.append(
                {"setting": name, "gain": gain, "difference": difference, "worth": gain >= WORTH}
            )
        _free(device, options.compile)
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
            "seconds": statistics.median(seconds),
            "floor_seconds": tally.cost.flops / arithmetic,
        },
        "advice": sorted(advice, key=lambda entry: "failed" in entry),
    }


def _tried(
    begun: Callable[[EngineOptions, Batch], tuple[Step, Figures]],
    run: Callable[..., object],
    step: Step,
    losses: Figures,
    changed: EngineOptions,
    given: Batch,
    repeats: int,
    device: torch.device,
) -> tuple[float, float]:
    """How many times as fast another setting is, and how far its losses are apart.

    A function of its own, so that nothing of the setting is left after it.
    """
    other, found = begun(changed, given)
    runs = {"as it is": lambda: run(step), "other": lambda: run(other, given)}
    times = in_turn(runs, repeats=repeats, device=device)
    return ratio(times["as it is"], times["other"]), distance(losses, found)


def _free(device: torch.device, compiled: bool) -> None:
    """Let go of what a setting that was tried has left; ``compiled`` is the recipe's own."""
    if not compiled:
        torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _reason(error: Exception) -> str:
    """One line of an error, and its kind where that is not mtzoo's own."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, MtzooError):
        return line
    return f"{type(error).__name__}: {line[:200]}".rstrip(": ")


def components(model: nn.Module) -> dict[str, nn.Module]:
    """A model's components by the last part of their names."""
    return {
        name.rpartition(".")[2]: part
        for name, part in model.named_modules()
        if isinstance(part, Component)
    }


def variants(options: EngineOptions, device: torch.device) -> dict[str, EngineOptions]:
    """Settings worth trying, by what a recipe would say: each differs from its own in one."""

    def other(name: str, value: object) -> tuple[str, EngineOptions]:
        said = str(value).lower() if isinstance(value, bool) else value
        return f"engine.{name}: {said}", dataclasses.replace(options, **{name: value})

    found = [other("compile", not options.compile)]
    if launch.takes_bf16(options, device.type):
        found.append(other("precision", "fp32"))
    elif launch.has_bf16(device.type):
        found.append(other("precision", "bf16"))
    if device.type == "cuda":
        found.append(other("cuda_graph", not options.cuda_graph))
    return dict(found)


def distance(one: Figures, two: Figures) -> float:
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
