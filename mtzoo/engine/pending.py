"""Losses on their way to the log: they stay on the device until somebody needs to know them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtzoo.engine import launch


class Bad(NamedTuple):
    """A term that was not finite: ``phase/name``, its value, the step (from 0)."""

    name: str
    value: float
    step: int


class Pending:
    """Figures of the steps since the last row of the log.

    Adding costs one small kernel and no waiting. Fetching is collective: all processes must do it
    after the same step.
    """

    def __init__(self) -> None:
        # On the device, by phase and names, as names may change from step to step.
        self._device: dict[tuple[str, tuple[str, ...]], list[tuple[int, Tensor]]]
        self._device = defaultdict(list)
        self._fetched: list[tuple[str, tuple[str, ...], int, list[float]]] = []

    def add(self, phase: str, step: int, figures: Mapping[str, Tensor]) -> None:
        """Note a phase's scalars, detached ones, by name."""
        values = torch.stack([value.detach().float().reshape(()) for value in figures.values()])
        self._device[phase, tuple(figures)].append((step, values))

    def fetch(self) -> Bad | None:
        """Bring everything to the CPU, averaged over processes.

        Returns:
            The earliest figure that was not finite; the terms of a phase go before its sum.
        """
        bad: list[tuple[int, bool, Bad]] = []
        for (phase, names), entries in self._device.items():
            values = torch.stack([values for _, values in entries])
            launch.average([values])
            for (step, _), row in zip(entries, values.tolist(), strict=True):
                self._fetched.append((phase, names, step, row))
                for name, value in zip(names, row, strict=True):
                    if not abs(value) < float("inf"):  # NaN as well
                        bad.append((step, name == "loss", Bad(f"{phase}/{name}", value, step)))
        self._device.clear()
        return min(bad, key=lambda found: found[:2])[2] if bad else None

    def take(self) -> dict[str, float]:
        """Means over the steps since the last time, as ``phase/name``; call `fetch` first."""
        sums: dict[str, list[float]] = {}
        for phase, names, _, row in self._fetched:
            for name, value in zip(names, row, strict=True):
                sums.setdefault(f"{phase}/{name}", []).append(value)
        self._fetched.clear()
        return {name: sum(values) / len(values) for name, values in sums.items()}

    def state(self) -> list[dict[str, Any]]:
        """What a checkpoint keeps; call `fetch` first."""
        return [
            {"phase": phase, "names": list(names), "step": step, "values": list(row)}
            for phase, names, step, row in self._fetched
        ]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Take back what `state` gave."""
        self._fetched = [
            (entry["phase"], tuple(entry["names"]), entry["step"], list(entry["values"]))
            for entry in state
        ]
