"""What a recipe's ``engine`` section holds. No torch here: recipes are checked without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mtzoo.errors import MtzooError


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How a recipe is trained, apart from its equations.

    Attributes:
        steps: Training steps in all; a step runs every phase that is due once.
        batch_size: Pairs per step over all processes (the global batch).
        learning_rate: Adam's, for the encoders and generators.
        discriminator_learning_rate: Adam's, for the discriminators; 0 takes ``learning_rate``.
        betas: Adam's two decay rates.
        weight_decay: Adam's L2 penalty (not decoupled).
        schedule: Course of both learning rates after the warm-up: ``constant``; ``linear`` to
            zero; ``cosine`` to zero.
        warmup_steps: Steps of linear warm-up of both learning rates from zero.
        gradient_clip: Largest gradient norm a phase may apply; 0 does not clip.
        ema_decay: Decay a step of the averaged generators that are evaluated, sampled and saved;
            0 keeps none. Ramped up at the start as (1 + step) / (10 + step).
        precision: ``fp32``; ``bf16`` (autocast, weights stay fp32); ``auto`` is bf16 on a GPU
            that has it and fp32 elsewhere.
        accelerator: Where to run; ``auto`` takes a GPU where there is one.
        devices: Processes on this machine, one a device; each takes an equal share of the batch.
        compile: Compile the networks with ``torch.compile``.
        cuda_graph: Record steps in CUDA graphs and replay them, which spares the host nearly all
            of its work. For one process with a GPU; on a CPU steps run as they are.
        workers: Loader processes a rank; 0 loads in the training process. Data that is read, not
            computed, is loaded by one thread instead, whatever the number above 0.
        log_every: Steps between rows of the log.
        health_every: Steps between health figures; 0 for never.
        health_start: Step from which health is judged in words, beside the end; a young model has
            not yet learned what it could lose.
        stop_on_collapse: Steps after which a run stops, with a whole checkpoint and an error, if
            one warning of its health has stood for so long; 0 goes on whatever it warns of.
        sample_every: Steps between sample sheets and clips; 0 for only at the end.
        evaluate_every: Steps between evaluations on test pairs; 0 for only at the ends.
        evaluate_pairs: Test pairs an evaluation takes.
        checkpoint_every: Steps between checkpoints; one is always written at the end.
        keep_checkpoints: How many of the latest checkpoints stay, beside the best.
    """

    steps: int
    batch_size: int
    learning_rate: float = 2e-4
    discriminator_learning_rate: float = 0.0
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    gradient_clip: float = 0.0
    ema_decay: float = 0.999
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    compile: bool = False
    cuda_graph: bool = False
    workers: int = 1
    log_every: int = 10
    health_every: int = 100
    health_start: int = 1000
    stop_on_collapse: int = 0
    sample_every: int = 500
    evaluate_every: int = 500
    evaluate_pairs: int = 64
    checkpoint_every: int = 500
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "devices", "log_every", "checkpoint_every"):
            self._at_least(name, 1)
        for name in (
            "learning_rate",
            "discriminator_learning_rate",
            "weight_decay",
            "warmup_steps",
            "gradient_clip",
            "workers",
            "health_every",
            "health_start",
            "stop_on_collapse",
            "sample_every",
            "evaluate_every",
        ):
            self._at_least(name, 0)
        self._at_least("evaluate_pairs", 1)
        self._at_least("keep_checkpoints", 1)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise MtzooError(f"engine.betas: {self.betas} must lie in [0, 1)")
        if not 0 <= self.ema_decay < 1:
            raise MtzooError(f"engine.ema_decay: {self.ema_decay} must lie in [0, 1)")
        if self.stop_on_collapse and not self.health_every:
            raise MtzooError(
                "engine.stop_on_collapse: nobody looks at the run's health where "
                "engine.health_every is 0; set it to 100, for example"
            )
        if self.cuda_graph and self.devices > 1:
            raise MtzooError(
                f"engine.cuda_graph: gradients of engine.devices: {self.devices} cannot be "
                "averaged in a recorded step; take one device, or cuda_graph: false"
            )
        if self.batch_size % self.devices:
            raise MtzooError(
                f"engine.batch_size: {self.batch_size} cannot be shared equally by "
                f"engine.devices: {self.devices}"
            )

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if not value >= least:  # also refuses NaN
            raise MtzooError(f"engine.{name}: {value} is too small; it must be at least {least}")
