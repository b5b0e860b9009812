"""Devices, precision and processes by Lightning Fabric; the networks themselves stay unwrapped.

Gradients are averaged over processes by one all-reduce of a flat tensor a phase (as StyleGAN3
does), not by DistributedDataParallel: its hooks count forward passes, while here one forward
serves two phases, discriminators run twice before one backward, halves are frozen in turn and
parts may be unused for thousands of steps. The price is that communication does not overlap with
the backward pass.

Fabric's own ``all_reduce`` puts a barrier before each reduction; torch's is called directly.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Literal

import torch
from lightning.fabric import Fabric
from torch import Tensor, distributed
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from mtzoo.engine.options import EngineOptions
from mtzoo.errors import MtzooError
from mtzoo.nn.sync import processes


def launched_outside() -> bool:
    """Whether torchrun (or Fabric's own launcher, which uses it) started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "LOCAL_WORLD_SIZE" in os.environ


def rank_outside() -> int:
    """This process's rank among those that torchrun started; 0 without it."""
    return int(os.environ.get("RANK", "0")) if launched_outside() else 0


def fabric(options: EngineOptions) -> Fabric:
    """Set Fabric up as the recipe says; under torchrun, with as many processes as that started.

    Raises:
        MtzooError: The devices are not there, or the batch cannot be shared among the processes.
    """
    accelerator: Literal["cpu", "cuda"] = "cpu"
    if options.accelerator == "cuda" and not torch.cuda.is_available():
        raise MtzooError(
            "engine.accelerator: cuda, but torch finds no NVIDIA GPU; use 'auto' or 'cpu'"
        )
    if options.accelerator != "cpu" and torch.cuda.is_available():
        accelerator = "cuda"
    devices, nodes = options.devices, 1
    if launched_outside():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    if accelerator == "cuda" and devices > torch.cuda.device_count():
        raise MtzooError(
            f"{devices} devices were asked for, torch finds {torch.cuda.device_count()}; "
            "lower engine.devices"
        )
    if options.batch_size % (devices * nodes):
        raise MtzooError(
            f"engine.batch_size: {options.batch_size} cannot be shared equally by "
            f"{devices * nodes} processes"
        )
    _quiet()
    outside = "ddp" if launched_outside() else "ddp_spawn"
    return Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=outside if launched_outside() or devices > 1 else "auto",
        precision="bf16-mixed" if takes_bf16(options, accelerator) else "32-true",
    )


def takes_bf16(options: EngineOptions, accelerator: str) -> bool:
    """Whether networks run under bfloat16 autocast on ``accelerator`` (``cpu`` or ``cuda``)."""
    if options.precision != "auto":
        return options.precision == "bf16"
    return accelerator == "cuda" and has_bf16(accelerator)


def batched_solvers(device: torch.device) -> None:
    """Let a GPU solve many small systems at once without the host waiting for it.

    Left to itself torch 2.11 hands batches of matrices beyond 16x16 to MAGMA, which waits for the
    device and cannot be recorded; cuSOLVER's way through cuBLAS does neither.
    """
    if device.type == "cuda":
        torch.backends.cuda.preferred_linalg_library("cusolver")


def has_bf16(accelerator: str) -> bool:
    """Whether ``accelerator`` (``cpu`` or ``cuda``) has instructions for bfloat16.

    Without them torch computes in it all the same, on a CPU dozens of times slower than in float32.
    """
    if accelerator == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def leave() -> None:
    """End this process's part in all groups of processes; alone, do nothing.

    A gloo group that is still there when Python ends takes the process down with it now and then
    ("terminate called without an active exception"): its threads are running. Fabric ends NCCL's
    groups only.
    """
    if distributed.is_initialized():
        gc.collect()  # a group that something still refers to keeps its threads
        distributed.destroy_process_group()


def average(tensors: Sequence[Tensor]) -> None:
    """Average tensors over all processes in place, in one reduction; alone, do nothing."""
    if processes() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= processes()
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(  # pyright: ignore[reportPrivateImportUsage]
        list(tensors), [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
    )


def alike(values: Tensor) -> bool:
    """Whether all processes hold equal ``values`` (int64)."""
    if processes() == 1:
        return True
    least, most = values.clone(), values.clone()
    distributed.all_reduce(least, op=distributed.ReduceOp.MIN)
    distributed.all_reduce(most, op=distributed.ReduceOp.MAX)
    return bool((least == most).all())


class Agreement:
    """The largest of a small number over all processes, agreed on the CPU once a step.

    A group of its own, so that asking does not wait for the GPU.
    """

    def __init__(self) -> None:
        self._group: Any = distributed.new_group(backend="gloo") if processes() > 1 else None

    def __call__(self, value: int) -> int:
        """Return the largest ``value`` that any process gave."""
        if self._group is None:
            return value
        agreed = torch.tensor(value)
        distributed.all_reduce(agreed, op=distributed.ReduceOp.MAX, group=self._group)
        return int(agreed)


def spawn(fabric: Fabric, function: Callable[..., Any], *arguments: object) -> Any:
    """Run ``function(fabric, *arguments)`` in one new process a device; give rank 0's result.

    Signals go to the processes as SIGTERM, whichever they were here, so that they stop between
    steps; this one then leaves with the status of what it heard. A second Ctrl-C kills them.

    Raises:
        MtzooError: One was raised in any of the processes.
        SystemExit: With 130 or 143, after they stopped on Ctrl-C or SIGTERM.
    """
    heard: list[int] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and heard:
            for child in multiprocessing.active_children():
                child.kill()
            raise KeyboardInterrupt
        heard.append(number)
        for child in multiprocessing.active_children():
            child.terminate()

    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {n: signal.signal(n, pass_on) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        # Fabric walks through what it is handed openly, and refuses frozen dataclasses.
        result = fabric.launch(_Call(function, arguments))
    except ProcessRaisedException as error:
        line = str(error).strip().splitlines()[-1]
        name = f"{MtzooError.__module__}.{MtzooError.__qualname__}: "
        if line.startswith(name):
            raise MtzooError(line.removeprefix(name)) from None
        raise
    except ProcessExitedException as error:
        if heard:
            raise SystemExit(130 if heard[0] == signal.SIGINT else 143) from error
        raise MtzooError(
            f"one of the training processes died (exit status {error.exit_code}); if the system "
            "is short of memory, lower engine.batch_size; go on with --resume"
        ) from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if heard:
        raise SystemExit(130 if heard[0] == signal.SIGINT else 143)
    return result


class _Call:
    """A function and its arguments on their way to new processes."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
        self.function = function
        self.arguments = arguments

    def __call__(self, fabric: Fabric) -> Any:
        try:
            return self.function(fabric, *self.arguments)
        finally:
            leave()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Arriving in a new process, just before Fabric sets it up and would say so.
        self.__dict__.update(state)
        _quiet()


def _quiet() -> None:
    """Keep Fabric from announcing its precision and each process it starts, by two loggers."""
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
