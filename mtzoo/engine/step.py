"""One training step: what a run, a benchmark and a profile all do to a model.

Apart from the loop, so that what is measured is what trains.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtzoo.engine import launch
from mtzoo.engine.average import Average
from mtzoo.engine.graph import Recorder
from mtzoo.engine.options import EngineOptions
from mtzoo.engine.schedule import scale
from mtzoo.errors import MtzooError
from mtzoo.interfaces import Batch, Component, Draws, Model, Objective
from mtzoo.nn.sync import synchronise_

Half = Literal["generators", "discriminators"]
HALVES: tuple[Half, ...] = ("generators", "discriminators")


class Step:
    """The shared forward, then every phase that is due, then the average.

    No host waits for the device in it: losses stay where they are computed.

    Args:
        model: On its device; put into training mode. Parts that were built frozen stay frozen.
        objective: What it learns.
        options: The recipe's engine section.
        seed: Of the run.
        rank: Number of this process.
        autocast: Makes the context that networks run in, once for each use.
        say: Where a line goes that a user should read.

    Raises:
        MtzooError: ``engine.cuda_graph`` with several processes.

    Attributes:
        learning: The parameters that learn, by half.
        optimizers: One for each half that has any.
        rates: The learning rates of the newest step, by half.
        average: The averaged generators, where the recipe averages.
        unsynchronised: Types of batch norms that see only their process's share of a batch: with
            several processes all others take their statistics over the whole of it.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        options: EngineOptions,
        *,
        seed: int,
        rank: int = 0,
        autocast: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
        say: Callable[[str], None] = warnings.warn,
    ) -> None:
        self.model = model.train()
        self.objective = objective
        self.options = options
        self.phases = objective.phases()
        self._seed, self._rank = seed, rank
        self._autocast = autocast
        self.learning: dict[Half, list[nn.Parameter]] = {
            "generators": _learning(model.generators()),
            "discriminators": _learning(model.discriminators()),
        }
        self._rates: dict[Half, float] = {
            "generators": options.learning_rate,
            "discriminators": options.discriminator_learning_rate or options.learning_rate,
        }
        device = next(model.parameters()).device
        launch.batched_solvers(device)
        self._recording = options.cuda_graph and device.type == "cuda"
        if options.cuda_graph and launch.processes() > 1:
            raise MtzooError(
                f"engine.cuda_graph: gradients of {launch.processes()} processes cannot be "
                "averaged in a recorded step; set it to false"
            )
        self.optimizers: dict[Half, torch.optim.Adam] = {
            half: torch.optim.Adam(
                parameters,
                lr=self._rates[half],
                betas=options.betas,
                weight_decay=options.weight_decay,
                fused=parameters[0].device.type in ("cpu", "cuda"),
                capturable=self._recording,
            )
            for half, parameters in self.learning.items()
            if parameters
        }
        self.unsynchronised = synchronise_(model) if launch.processes() > 1 else []
        self.average = Average(model, options.ema_decay) if options.ema_decay else None
        if options.compile:
            compile_parts(model)
        self._say = say
        self._recorder: Recorder | None = None
        self.rates: dict[Half, float] = dict(self._rates)
        for half in self.optimizers:
            self._settle(half)

    def __call__(self, step: int, batch: Batch, draws: Draws) -> Mapping[str, Mapping[str, Tensor]]:
        """Train on one batch.

        Args:
            step: Number of the step, from 0.
            batch: On the model's device.
            draws: The step's random numbers.

        Returns:
            By phase that ran: its ``loss`` and terms, detached scalars on the device.
        """
        self._set_rates(step)
        if self._recorder is None:
            self._seed_all(step)
            figures = self._work(step, batch, draws)
        else:
            kind = self.objective.variant(self.model, batch, draws, step)
            if kind is not None:
                kind = (kind, *(phase.due(step) for phase in self.phases))
            figures = self._recorder(kind, self.objective.numbers(step), step, batch, draws)
        if self.average:
            self.average.update(step)
        return figures

    def state(self, half: Half) -> dict[str, Any]:
        """An optimizer's state for a checkpoint, whatever the device and its recordings."""
        state = self.optimizers[half].state_dict()
        rate = self.rates[half]
        groups = [{**g, "lr": rate, "capturable": False} for g in state["param_groups"]]
        return {**state, "param_groups": groups}

    def restore(self, half: Half, state: Mapping[str, Any]) -> None:
        """Take a checkpoint's state; of its settings the recipe's own count."""
        self.optimizers[half].load_state_dict(dict(state))
        self._settle(half)

    def _settle(self, half: Half) -> None:
        if self._recording:
            self._recorder = Recorder(self._work, self._say, self._seed_all)  # of the state now
            # The steps before a recording run as they are, and torch would warn of the first.
            vars(self.optimizers[half])["_warned_capturable_if_run_uncaptured"] = True
        for group in self.optimizers[half].param_groups:
            group["betas"] = self.options.betas
            group["weight_decay"] = self.options.weight_decay
            group["capturable"] = self._recording
            if self._recording:  # which reads it where it lies
                device = group["params"][0].device
                group["lr"] = torch.tensor(float(group["lr"]), device=device)

    def _set_rates(self, step: int) -> None:
        factor = scale(self.options, step)
        for half, optimizer in self.optimizers.items():
            self.rates[half] = factor * self._rates[half]
            for group in optimizer.param_groups:
                if self._recording:
                    group["lr"].fill_(self.rates[half])
                else:
                    group["lr"] = self.rates[half]

    def _seed_all(self, step: int) -> None:
        torch.manual_seed(_mix(self._seed, step, self._rank))

    def _work(self, step: int, batch: Batch, draws: Draws) -> Mapping[str, Mapping[str, Tensor]]:
        self._let_learn("generators")
        with torch.profiler.record_function("forward"), self._autocast():
            shared = self.objective.forward(self.model, batch, draws, step)
        figures: dict[str, Mapping[str, Tensor]] = {}
        for phase in self.phases:
            parameters = self.learning[phase.learns]
            if not phase.due(step) or not parameters:
                continue
            self._let_learn(phase.learns)
            optimizer = self.optimizers[phase.learns]
            optimizer.zero_grad(set_to_none=True)
            with torch.profiler.record_function(phase.name):
                with self._autocast():
                    loss, terms = self.objective.loss(phase, self.model, batch, shared, draws, step)
                loss.backward()
                launch.average([p.grad for p in parameters if p.grad is not None])
                found = {"loss": loss.detach(), **terms}
                if self.options.gradient_clip:
                    found["gradient_norm"] = nn.utils.clip_grad_norm_(
                        parameters, self.options.gradient_clip
                    )
                optimizer.step()
            figures[phase.name] = found
        return figures

    def _let_learn(self, half: Half) -> None:
        for other, parameters in self.learning.items():
            for parameter in parameters:
                parameter.requires_grad_(other == half)


def compile_parts(model: nn.Module) -> None:
    """Compile a model's components in place, which keeps the names of their weights.

    They draw the random numbers that they would draw uncompiled, so that losses are the same.
    Recurrent ones are left to cuDNN: under ``torch.compile`` they break the graph and gain
    nothing (pytorch#158007).
    """
    for part in model.modules():
        recurrent = any(isinstance(inner, nn.RNNBase) for inner in part.modules())
        if isinstance(part, Component) and not recurrent:
            part.compile(options={"fallback_random": True})


def _learning(half: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in half.parameters() if parameter.requires_grad]


def _mix(seed: int, step: int, rank: int) -> int:
    """A seed for torch's global generators, different for each (seed, step, rank)."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
