"""The training loop: phases in turn, and all that a run keeps beside them.

The loop knows no equation and the objective no device. Everything random in a step follows from
(seed, step, rank), every sample from its position, the learning rate from the step: a run that is
killed and resumed computes what it would have computed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
import yaml
from lightning.fabric import Fabric
from torch import Tensor

from mtzoo import weights
from mtzoo.engine import checkpoint, folder, launch, loader, samples
from mtzoo.engine.evaluate import evaluate, score, table
from mtzoo.engine.health import diagnose
from mtzoo.engine.logs import Board, CsvLog, Terminal
from mtzoo.engine.memory import keep_freed
from mtzoo.engine.pending import Pending
from mtzoo.engine.signals import StopFlag
from mtzoo.engine.step import HALVES, Step
from mtzoo.errors import MtzooError
from mtzoo.interfaces import Component, Draws, Model, Objective, PairDataset, check_frames
from mtzoo.recipe import Recipe, build_dataset, build_model, build_objective, load_recipe
from mtzoo.recipe.build import check_together, try_objective

SAMPLE_PAIRS = 3


def fit(recipe: Recipe, output: str | os.PathLike[str], *, resume: bool = False) -> dict[str, Any]:
    """Train what ``recipe`` describes.

    The run folder receives ``recipe.yaml`` (resolved), ``versions.json``, ``log.csv``,
    ``tensorboard/``, ``samples/step_*.png`` and ``.mp4``, ``checkpoints/step_*.ckpt`` and
    ``best.ckpt``, ``model/`` (weights for others: the newest checkpoint's, averaged where the
    recipe averages) and, at the end, ``result.json``. It is made only once everything has been
    built and a first batch has been loaded.

    With several processes (``engine.devices``, or torchrun's) a step gives the same result as one
    process with the same global batch, up to rounding: batch norm takes its statistics over all
    of them. Parts that draw from torch's global generators draw differently on each process.

    Args:
        recipe: What to train.
        output: The run folder.
        resume: Go on from the newest whole checkpoint there. Seed, data, model, objective and
            batch size must be those of the run; the rest of ``engine`` may differ.

    Returns:
        What ``result.json`` holds: ``step``, ``seconds``, ``before`` and ``after`` (see
        `mtzoo.engine.evaluate.evaluate`), ``best`` (``step`` and ``score``), ``losses``
        (latest means), ``training`` (``ok``; ``collapsed``: a warning stood at the end;
        ``diverged``: something was not finite) and ``warnings``, the reasons in words. The file is
        written, too, where a run stops because it collapsed or diverged.

    Raises:
        MtzooError: Something to mend, from the recipe, the data, the folder, a loss or weight that
            is no longer finite, or a collapse that ``engine.stop_on_collapse`` stops at.
        SystemExit: Status 143 after SIGTERM and 130 after Ctrl-C, with a whole checkpoint.
    """
    output = Path(output)
    if launch.rank_outside() == 0:  # the others would find what it has begun to write
        folder.check(output, resume)
    fabric = launch.fabric(recipe.engine)
    if launch.launched_outside() or recipe.engine.devices == 1:
        if not os.environ.get("LT_CLI_USED"):
            fabric.launch()
        if launch.launched_outside():
            atexit.register(launch.leave)
        return _train(fabric, recipe, output, resume)
    # What is wrong shows here, in one process, before others are started.
    _build(recipe, recipe.engine.devices)
    return launch.spawn(fabric, _train, recipe, output, resume)


class Built(NamedTuple):
    """What a recipe describes, on the CPU."""

    train: PairDataset
    test: PairDataset
    model: Model
    objective: Objective


def _build(recipe: Recipe, processes: int) -> Built:
    """Build everything and try it on a first pair, so that faults show before a folder is made.

    Args:
        recipe: What to build.
        processes: How many share a batch.

    Raises:
        MtzooError: Whatever is wrong.
    """
    where = recipe.where
    train = build_dataset(recipe.data, split="train", seed=recipe.seed, where=where)
    test = build_dataset(recipe.data, split="test", seed=recipe.seed, where=where)
    who = str(recipe.data["name"])
    for split, pairs in (("train", train), ("test", test)):
        if len(pairs) < 1:
            raise MtzooError(f"dataset {who!r}: its {split} split is empty")
        loader.check_pair(pairs, split, who)
    torch.manual_seed(recipe.seed)  # initial weights are the same on all ranks
    model = build_model(
        recipe.model,
        resolution=train.resolution,
        channels=train.channels,
        frames=train.frames,
        where=where,
    )
    objective = build_objective(recipe.objective, where=where)
    check_together(recipe, model, objective, processes)
    for part in model.modules():
        if isinstance(part, Component):
            least = int(getattr(part, "min_frames", 1))
            check_frames(train.frames, least, type(part).__name__)
    first = loader.Steps(train, recipe.engine.batch_size)[0]
    if isinstance(first, MtzooError):
        raise first
    loader.check_items(first, train, who)
    batch = loader.to_batch(first, torch.device("cpu"))
    try_objective(recipe, objective, model, batch)
    model.eval()
    with torch.no_grad():
        model.transfer(batch.target[:1], batch.video[:1])
    model.train()
    return Built(train, test, model, objective)


def _train(fabric: Fabric, recipe: Recipe, output: Path, resume: bool) -> dict[str, Any]:
    """One process's part of `fit`."""
    run = _Run(fabric, recipe, output, _build(recipe, fabric.world_size))
    try:
        return run.go(resume)
    finally:
        run.close()


class _Run:
    """The state of a run and what is done to it."""

    def __init__(self, fabric: Fabric, recipe: Recipe, output: Path, built: Built) -> None:
        self.fabric = fabric
        self.device = fabric.device
        self.first = fabric.global_rank == 0
        self.recipe = recipe
        self.options = recipe.engine
        self.output = output
        self.train, self.test, self.model, self.objective = built
        self.share = self.options.batch_size // fabric.world_size
        self.offset = self.share * fabric.global_rank
        self.model.to(self.device)
        if self.device.type == "cpu":
            keep_freed()
        self.learn = Step(
            self.model,
            self.objective,
            self.options,
            seed=recipe.seed,
            rank=fabric.global_rank,
            autocast=fabric.autocast,
            say=lambda line: self.terminal.say(line),
        )
        self.learning = self.learn.learning
        self.optimizers = self.learn.optimizers
        self.average = self.learn.average
        self.pending = Pending()
        self.agree = launch.Agreement()
        self.step = 0
        self.began, self.seconds = 0.0, 0.0
        self.before: dict[str, float] = {}
        self.after: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.losses: dict[str, float] = {}
        self.health: dict[str, float] = {}
        self.since: dict[str, int] = {}  # at which step a warning that still stands came up
        self.diverged = ""
        self.terminal = Terminal(self.options.steps, quiet=True)
        self.log: CsvLog | None = None
        self.board: Board | None = None

    @property
    def shown(self) -> Model:
        """The model that is evaluated, sampled and saved: the averaged one where there is one."""
        return self.average.model if self.average else self.model

    # The course of a run ---------------------------------------------------------------------

    def go(self, resume: bool) -> dict[str, Any]:
        """Train to the end."""
        say = Terminal(self.options.steps, quiet=not self.first, bar=False).say
        where = self.device.type
        if launch.takes_bf16(self.options, where) and not launch.has_bf16(where):
            say(
                f"warning: this {where.upper()} has no instructions for bfloat16 and imitates "
                "them, slowly; engine.precision: auto takes fp32 here"
            )
        if self.options.cuda_graph and where != "cuda":
            say("engine.cuda_graph: there is no GPU here to record steps for; they run as they are")
        for kind in self.learn.unsynchronised:
            say(f"warning: {kind} normalises over each process's share of a batch alone")
        if resume:
            self._resume(say)
        self._check_alike()
        if self.first and not resume:
            say("scoring what knows nothing yet")
            self.before = self._evaluate()
        # Loader processes start before this one has threads of its own.
        batches = loader.batches(
            loader.Steps(self.train, self.options.batch_size, self.offset, self.share),
            self.step,
            self.options.steps,
            workers=self.options.workers,
            pin=self.device.type == "cuda",
        )
        # Under a parent that starts processes, Ctrl-C is the parent's to hear.
        spawned = self.fabric.world_size > 1 and not launch.launched_outside()
        with contextlib.closing(batches), StopFlag(ignore_interrupt=spawned) as stop:
            if self.first:
                self._open(resume)
            self._steps(batches, stop)
            if self.first:
                self._finish()
        self.fabric.barrier()
        return self.fabric.broadcast(self._result())  # rank 0's

    def _steps(self, batches: Iterator[dict[str, Tensor]], stop: StopFlag) -> None:
        self.began = time.monotonic() - self.seconds
        move = loader.Mover(self.device)
        for step, items in zip(range(self.step, self.options.steps), batches, strict=True):
            batch = move(items)
            draws = Draws(self.recipe.seed, step, self.offset, self.options.batch_size, self.device)
            for phase, figures in self.learn(step, batch, draws).items():
                self.pending.add(phase, step, figures)
            self.step = step + 1
            self.seconds = time.monotonic() - self.began
            self.terminal.step(self.step)
            code = self.agree(stop.code)
            if code:
                # The grace period may be short: first of all a checkpoint.
                self._save(alone=False)
            self._events(batch, draws)
            if code and self.step < self.options.steps:
                self._save(alone=False)
                self.fabric.barrier()  # nobody leaves while rank 0 still writes
                self.close()
                if self.first:
                    self.terminal.say(
                        f"stopped after step {self.step} of {self.options.steps}; "
                        f"go on with --resume {self.output}"
                    )
                raise SystemExit(code)
            self._stop_if_collapsed()

    def _events(self, batch: Any, draws: Draws) -> None:
        """Whatever is due after a step: log, health, evaluation, samples, checkpoint."""
        options, done = self.options, self.step
        last = done == options.steps
        logging = last or done % options.log_every == 0
        feeling = bool(options.health_every) and (last or done % options.health_every == 0)
        judging = last or _due(done, options.evaluate_every)
        painting = last or _due(done, options.sample_every)
        saving = last or done % options.checkpoint_every == 0
        if not (logging or feeling or judging or painting or saving):
            return
        self._check_finite()
        self.seconds = time.monotonic() - self.began  # now that the device has done its steps
        if judging or saving:
            self._check_weights()
        if logging:
            self.losses = self.pending.take()
        if not self.first:
            return
        row: dict[str, float | str] = {"step": done, "seconds": round(self.seconds, 3)}
        if logging:
            row |= self.losses
            row |= {
                "lr" if half == "generators" else "lr_discriminators": self.learn.rates[half]
                for half in self.optimizers
            }
        if feeling:
            self.health = self._feel(batch, draws)
            row |= {f"health/{name}": value for name, value in self.health.items()}
        if logging or feeling:
            if last or done >= options.health_start:
                self._tell_health()
            row["warnings"] = "; ".join(self.terminal.subjects)
        better = False
        if judging:
            self.after = self._evaluate()
            row |= {f"evaluation/{name}": value for name, value in self.after.items()}
            better = not self.best or score(self.after) > self.best["score"]
            if better:
                self.best = {"step": done, "score": score(self.after)}
        if logging or feeling or judging:
            assert self.log is not None
            assert self.board is not None
            self.log.write(row)
            figures = {k: v for k, v in row.items() if k != "step" and not isinstance(v, str)}
            self.board.scalars(figures, done)
        if logging:
            self.terminal.figures(done, self._headline())
        if painting:
            self._paint()
        if saving or better:
            self._save(alone=True)
        if better:
            checkpoint.mark_best(self.output / "checkpoints", checkpoint.step_name(done))
            checkpoint.prune(self.output / "checkpoints", options.keep_checkpoints)

    def _finish(self) -> None:
        """Show and keep what came of it."""
        if not self.after:  # resumed with nothing left to do
            self.after = self._evaluate()
            self._paint()
            self._save_weights()
        folder.write_json(self.output / "result.json", self._result())
        self.close()
        head = (f"after {self.step} steps", "before", "after", "copying")
        pairs = min(self.options.evaluate_pairs, len(self.test))
        self.terminal.table(f"{pairs} test pairs", head, table(self.before, self.after))
        for finding in self.terminal.unwell:
            self.terminal.say(f"warning: {finding}")
        self.terminal.say(f"weights: {self.output / 'model'}")

    def _result(self) -> dict[str, Any]:
        unwell = self.terminal.unwell
        state = "diverged" if self.diverged else "collapsed" if unwell else "ok"
        return {
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "before": self.before,
            "after": self.after,
            "best": self.best,
            "losses": self.losses,
            "training": state,
            "warnings": [*([self.diverged] if self.diverged else []), *unwell],
        }

    # Looking at it ---------------------------------------------------------------------------

    def _evaluate(self) -> dict[str, float]:
        return evaluate(
            self.shown,
            self.test,
            self.options.evaluate_pairs,
            batch_size=self.share,
            device=self.device,
            seed=self.recipe.seed,
            autocast=_Reentered(self.fabric),
        )

    def _feel(self, batch: Any, draws: Draws) -> dict[str, float]:
        """Health of the model that learns, on this rank's batch; running statistics stay."""
        self.model.eval()
        try:
            with torch.no_grad(), self.fabric.autocast():
                figures = self.objective.health(self.model, batch, draws)
        finally:
            self.model.train()
        return {name: float(value) for name, value in figures.items()}

    def _tell_health(self) -> None:
        self.terminal.health(self.step, diagnose({**self.health, **self.losses}))
        self.since = {name: self.since.get(name, self.step) for name in self.terminal.subjects}

    def _stop_if_collapsed(self) -> None:
        """Stop, with everything kept, where a warning has stood for too long.

        Raises:
            MtzooError: Names the warning, on all processes.
        """
        patience = self.options.stop_on_collapse
        if not patience or self.step == self.options.steps:
            return
        lasting = [
            f"since step {since}, {finding}"
            for since, finding in zip(self.since.values(), self.terminal.unwell, strict=True)
            if self.step - since >= patience
        ]
        if not self.agree(len(lasting)):  # rank 0 alone feels the run's health
            return
        self._save(alone=False)
        if self.first:
            folder.write_json(self.output / "result.json", self._result())
        reason = self.fabric.broadcast(" ".join(lasting[:1]))
        raise MtzooError(
            f"stopped after step {self.step} of {self.options.steps} because the run has "
            f"collapsed: {reason}. All is kept; to go on regardless, --resume {self.output} "
            "--engine.stop_on_collapse 0"
        )

    def _headline(self) -> dict[str, float]:
        """The few figures that fit on a line, the most telling first."""
        shown = {"PSNR": score(self.after)} if self.after else {}
        for phase in self.learn.phases:
            for name in ("loss", "reconstruction"):
                if (value := self.losses.get(f"{phase.name}/{name}")) is not None:
                    shown[phase.name if name == "loss" else name] = value
        return shown

    def _paint(self) -> None:
        names, videos = samples.paint(
            self.shown,
            self.test,
            samples.spread(SAMPLE_PAIRS, len(self.test)),
            device=self.device,
            seed=self.recipe.seed,
            autocast=_Reentered(self.fabric),
        )
        sheet = samples.write(self.output / "samples", self.step, names, videos)
        if self.board is not None:
            self.board.picture("samples", sheet, self.step)

    def _check_finite(self) -> None:
        """Stop where a term was not finite in any step since the last look, on any process.

        Raises:
            MtzooError: Names the term and the step.
        """
        bad = self.pending.fetch()
        if bad is not None:
            self._diverge(f"{bad.name} became {bad.value} in step {bad.step}")

    def _diverge(self, what: str) -> NoReturn:
        """Keep what came of it apart from the good checkpoints, and stop."""
        self.diverged = what
        file = f"failed_step_{self.step:08d}.ckpt"
        place = self.output / "checkpoints" / file
        if self.first:
            checkpoint.save(place.parent, file, self._state())
            folder.write_json(self.output / "result.json", self._result())
        self.fabric.barrier()
        raise MtzooError(
            f"{what}; the state after step {self.step} is kept in "
            f"{place} to look at. Lower the learning rate or set engine.gradient_clip, then go "
            f"on from the last good checkpoint with --resume {self.output}"
        )

    def _check_weights(self) -> None:
        """Look at the weights before they are kept or judged.

        The last update may have broken what the losses before it did not show.

        Raises:
            MtzooError: One is not finite, or those of the processes have drifted apart.
        """
        self._check_alike()
        named = [
            (f"{half}: {name}", value)
            for half, module in (
                ("generators", self.model.generators()),
                ("discriminators", self.model.discriminators()),
            )
            for name, value in module.named_parameters()
        ]
        sums = torch.stack([value.detach().float().abs().max() for _, value in named])
        broken = (~sums.isfinite()).nonzero().flatten().tolist()
        if broken:
            self._diverge(
                f"{len(broken)} of {len(named)} weights became {sums[broken[0]].item()} in step "
                f"{self.step - 1}, the first of them {named[broken[0]][0]}"
            )

    def _check_alike(self) -> None:
        """Compare the weights of all processes.

        Raises:
            MtzooError: They have drifted apart.
        """
        if self.fabric.world_size == 1:
            return
        sums = [_fingerprint(p) for half in HALVES for p in self.learning[half]]
        if not launch.alike(torch.stack(sums)):
            raise MtzooError(
                f"after step {self.step} the weights of the processes differ: a part depends on "
                "the process it runs in; train with engine.devices 1, or mend that part"
            )

    # Keeping it ------------------------------------------------------------------------------

    def _open(self, resume: bool) -> None:
        """Make the folder and all that writes into it."""
        folder.create(self.output)
        checkpoints = self.output / "checkpoints"
        for place in (checkpoints, self.output, self.output / "samples", self.output / "model"):
            checkpoint.clean(place)
        folder.write_text(self.output / "recipe.yaml", self.recipe.to_yaml())
        folder.write_json(self.output / "versions.json", folder.versions(self.device, self.recipe))
        self.log = CsvLog(self.output / "log.csv", keep=self.step)
        self.board = Board(self.output / "tensorboard", self.step)
        unwell = self.terminal.unwell
        self.terminal = Terminal(self.options.steps, self.step)
        self.terminal.remember(unwell)
        if resume:
            if self.best.get("step") == self.step:  # killed before its second name was made
                checkpoint.mark_best(checkpoints, checkpoint.step_name(self.step))
            self.terminal.say(f"going on from step {self.step} of {self.options.steps}")
        else:
            # From now on there is something to resume.
            checkpoint.save(checkpoints, checkpoint.step_name(0), self._state())

    def close(self) -> None:
        """Close what is open."""
        self.terminal.close()
        if self.board is not None:
            self.board.close()
            self.board = None

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "seconds": self.seconds,
            "recipe": self.recipe.to_yaml(),
            "versions": folder.versions(self.device, self.recipe),
            "generators": self.model.generators().state_dict(),
            "discriminators": self.model.discriminators().state_dict(),
            "average": self.average.model.generators().state_dict() if self.average else None,
            "optimizers": {half: self.learn.state(half) for half in self.optimizers},
            "pending": self.pending.state(),
            "losses": self.losses,
            "health": self.health,
            "unwell": self.terminal.unwell,
            "since": self.since,
            "before": self.before,
            "best": self.best,
        }

    def _save(self, alone: bool) -> None:
        """Write a checkpoint and the weights for others.

        Args:
            alone: Only rank 0 is here, and the state has been checked.
        """
        if not alone:
            self._check_finite()
            self._check_weights()
        if not self.first:
            return
        checkpoints = self.output / "checkpoints"
        checkpoint.save(checkpoints, checkpoint.step_name(self.step), self._state())
        checkpoint.prune(checkpoints, self.options.keep_checkpoints)
        self._save_weights()

    def _save_weights(self) -> None:
        weights.save_model(
            self.output / "model",
            self.shown,
            {
                "model": self.recipe.model,
                "resolution": self.train.resolution,
                "channels": self.train.channels,
                "frames": self.train.frames,
                "step": self.step,
                "licence": str(getattr(self.train, "licence", "not stated")),
                "data": str(self.recipe.data["name"]),
                "recipe": self.recipe.name,
                "versions": folder.versions(self.device, self.recipe),
            },
        )

    def _resume(self, say: Any) -> None:
        """Take the newest whole checkpoint's state, the same on all processes."""
        folder_ = self.output / "checkpoints"
        name = ""
        if self.first:
            name = checkpoint.load_newest(folder_, say)[0].name
        name = self.fabric.broadcast(name)
        state = checkpoint.load(folder_ / name)
        self._check_recipe(state["recipe"], folder_ / name)
        if state["step"] > self.options.steps:
            raise MtzooError(
                f"{self.output} has {state['step']} steps behind it already; "
                f"engine.steps is {self.options.steps}, set it higher"
            )
        self.step, self.seconds = state["step"], state["seconds"]
        self.model.generators().load_state_dict(state["generators"])
        self.model.discriminators().load_state_dict(state["discriminators"])
        if self.average:
            kept = state["average"] or state["generators"]
            self.average.model.generators().load_state_dict(kept)
        for half in self.optimizers:
            self.learn.restore(half, state["optimizers"][half])
        self.pending.restore(state["pending"])
        self.losses, self.health = state["losses"], state["health"]
        self.before, self.best = state["before"], state["best"]
        self.terminal.remember(state["unwell"])
        self.since = {
            name: state.get("since", {}).get(name, self.step) for name in self.terminal.subjects
        }

    def _check_recipe(self, text: str, path: Path) -> None:
        """Refuse to go on with another model, data, equations or batch.

        Raises:
            MtzooError: Names the first key that differs.
        """
        old, new = (_flat(yaml.safe_load(t)) for t in (_refreshed(text), self.recipe.to_yaml()))
        for key in dict.fromkeys([*old, *new]):
            free = key == "name" or (key.startswith("engine.") and key != "engine.batch_size")
            if not free and old.get(key) != new.get(key):
                raise MtzooError(
                    f"{key}: the run that {path} belongs to has {old.get(key)!r}, the recipe "
                    f"{new.get(key)!r}; resume with the run's own recipe.yaml, or start a run in "
                    "a new folder"
                )


class _Reentered(contextlib.AbstractContextManager):
    """Fabric's autocast as one object that can be entered again and again."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._open: list[Any] = []

    def __enter__(self) -> None:
        self._open.append(self._fabric.autocast())
        self._open[-1].__enter__()

    def __exit__(self, *error: Any) -> None:
        self._open.pop().__exit__(*error)


def _due(done: int, every: int) -> bool:
    return bool(every) and done % every == 0


def _fingerprint(parameter: Tensor) -> Tensor:
    """An int64 scalar that differs where weights differ, for all practical purposes."""
    flat = parameter.detach().to(torch.float32).contiguous().view(-1).view(torch.int32)
    return flat.to(torch.int64).sum()


def _refreshed(text: str) -> str:
    """A checkpoint's recipe as this version resolves it: options that came later have defaults."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "recipe.yaml"
        file.write_text(text, encoding="utf-8")
        try:
            return load_recipe(file).to_yaml()
        except MtzooError:  # an option has gone since: compare what was written
            return text


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
