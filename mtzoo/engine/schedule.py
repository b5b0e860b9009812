"""Learning rates as a function of the step alone: nothing to save, nothing to restore wrongly."""

from __future__ import annotations

import math

from mtzoo.engine.options import EngineOptions


def scale(options: EngineOptions, step: int) -> float:
    """Factor on both learning rates in ``step`` (from 0), in [0, 1]."""
    if step < options.warmup_steps:
        return (step + 1) / options.warmup_steps
    if options.schedule == "constant":
        return 1.0
    progress = (step - options.warmup_steps) / max(options.steps - options.warmup_steps, 1)
    if options.schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))
