"""Parts from other packages, held to their contracts before anything is trained.

mtzoo's own parts are held to theirs by its tests (`mtzoo.testing`), so nothing here costs them
anything. What others bring is looked at when it has been built, and run once on a tiny batch: a
part that gives codes of another width than it says would otherwise end in a traceback that names
the part after it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mtzoo import interfaces
from mtzoo.errors import MtzooError
from mtzoo.interfaces import Batch, Draws, Gaussian, ImageGenerator, Model, Objective, Phase

BASES: dict[str, type] = {
    "content_encoders": interfaces.ContentEncoder,
    "motion_encoders": interfaces.MotionEncoder,
    "motion_generators": interfaces.MotionGenerator,
    "image_generators": interfaces.ImageGenerator,
    "image_discriminators": interfaces.ImageDiscriminator,
    "video_discriminators": interfaces.VideoDiscriminator,
    "motion_priors": interfaces.MotionPrior,
    "models": interfaces.Model,
    "objectives": interfaces.Objective,
    "datasets": interfaces.PairDataset,
}
"""What every entry of a registry must be derived from, by kind."""

COUNT = 2
"""Videos that a part is tried on."""

# Attributes that are sizes: whole numbers of at least 1.
_SIZES: dict[str, tuple[str, ...]] = {
    "content_encoders": ("content_dim",),
    "motion_encoders": ("motion_dim", "min_frames"),
    "motion_generators": ("motion_dim", "frame_motion_dim"),
    "image_generators": ("resolution", "channels"),
    "video_discriminators": ("min_frames",),
    "motion_priors": ("motion_dim",),
    "models": ("resolution", "channels"),
    "datasets": ("resolution", "channels", "frames"),
}

# Whatever a stranger's class does is the stranger's, leaving Python included.
FAILURES = (Exception, SystemExit)


def check_base(target: type, kind: str, who: str) -> None:
    """Refuse a class of ``kind``, called ``who``, that is not derived from the kind's base class.

    Raises:
        MtzooError: Says which that is.
    """
    if not issubclass(target, BASES[kind]):
        raise MtzooError(
            f"{who}: {target.__module__}.{target.__qualname__} is no {BASES[kind].__name__}; "
            f"derive it from mtzoo.interfaces.{BASES[kind].__name__}"
        )


def check_sizes(part: object, kind: str, handed: Mapping[str, object]) -> None:
    """Hold what was just built to the sizes that it promises.

    Args:
        part: An instance of a class of ``kind``.
        kind: Of the registry.
        handed: What its constructor was handed, by name.

    Raises:
        MtzooError: An attribute is missing, no whole number of at least 1, or not what was handed
            on; or the constructor forgot its base class's.
    """
    if isinstance(part, nn.Module) and "_modules" not in vars(part):
        raise MtzooError("its __init__ does not call super().__init__(), which comes first in it")
    gives = getattr(part, "gives", ())
    for size in dict.fromkeys((*gives, *_SIZES.get(kind, ()))):
        try:
            value = getattr(part, size)
        except AttributeError:
            promised = "in gives" if size in gives else f"as every {BASES[kind].__name__}"
            raise MtzooError(
                f"promises {size} {promised} and has no such attribute; set self.{size} in its "
                "__init__"
            ) from None
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise MtzooError(f"promises a whole number of at least 1 as {size}, not {value!r}")
        if handed.get(size, value) != value:
            raise MtzooError(f"was built with {size} {handed[size]} and says that it is {value}")


def try_part(part: Any, kind: str, sizes: Mapping[str, Any], frames: int) -> None:
    """Run a part once on a tiny batch, in evaluation mode, and hold what it gives to its contract.

    Its buffers, its training mode and torch's CPU generator are afterwards what they were.

    Args:
        part: On the CPU.
        kind: Of its slot's registry.
        sizes: What has been handed on so far: ``resolution``, ``channels``, code sizes.
        frames: Length of the clips that it is to be trained on.

    Raises:
        MtzooError: What was promised and what came, without the part's name.
    """
    frames = max(frames, int(getattr(part, "min_frames", 1)))
    resolution, channels = sizes["resolution"], sizes["channels"]
    picture = (COUNT, channels, resolution, resolution)
    clip = (COUNT, frames, *picture[1:])
    source = torch.Generator().manual_seed(0)

    def seen(shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=source, device="cpu") * 2 - 1

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source, device="cpu")

    def run(given: str, function: Callable[..., Any], *inputs: object) -> Any:
        try:
            return function(*inputs)
        except FAILURES as error:
            raise MtzooError(f"fails for {given} ({_reason(error)})") from error

    with _untouched(part):
        if kind == "content_encoders":
            code = run(f"images {picture}", part, seen(picture))
            _hold(code, "content codes", (COUNT, part.content_dim))
        elif kind == "motion_encoders":
            posterior = run(f"videos {clip}", part, _dense(seen(clip)))
            if not isinstance(posterior, Gaussian):
                raise MtzooError(
                    "promises a mtzoo.interfaces.Gaussian of means and log-variances and gave "
                    f"{_told(posterior)}"
                )
            for value, what in zip(posterior, ("means", "log-variances"), strict=True):
                _hold(value, what, (COUNT, part.motion_dim))
            if not posterior.sample(torch.ones_like(posterior.mean)).isfinite().all():
                raise MtzooError(
                    "promises log-variances that can be drawn with and gave some of "
                    f"{float(posterior.log_variance.max()):.4g}, whose deviation is infinite"
                )
        elif kind == "motion_generators":
            codes = (COUNT, part.motion_dim)
            given = f"codes {codes} and {frames} frames"
            motion = run(given, part, drawn(*codes), frames)
            _hold(motion, "frame motion codes", (COUNT, frames, part.frame_motion_dim))
        elif kind == "image_generators":
            assert isinstance(part, ImageGenerator)
            shown = (seen(picture),) if part.takes_picture else ()
            content, motion = sizes["content_dim"], sizes["frame_motion_dim"]
            # Codes far from where they begin: a range that only small ones keep is none.
            for shape, size in (((COUNT, content), 1.0), ((COUNT, frames, content), 100.0)):
                moves = (COUNT, frames, motion)
                given = f"content codes {shape} and frame motion codes {moves}"
                video = run(given, part, size * drawn(*shape), size * drawn(*moves), *shown)
                _hold(video, "videos", clip, bounded=True)
        elif kind == "motion_priors":
            dim = sizes["motion_dim"]
            codes, image = (2 * COUNT, dim), seen(picture)
            given = f"codes {codes} and images {picture}"
            code = run(given, part, drawn(*codes), image)
            _hold(code, "motion codes", codes)
            likely = run(given, part.log_likelihood, code, image)
            _hold(likely, "log-likelihoods", codes[:1])
        elif kind == "image_discriminators":
            pair = seen(picture), seen(picture)
            _hold_logits(run(f"pairs of images {picture}", part, *pair))
        else:
            _hold_logits(run(f"videos {clip}", part, _dense(seen(clip))))


def check_phases(objective: Objective) -> None:
    """Refuse an objective whose phases no step could run, or that has none.

    Raises:
        MtzooError: Names the phase.
    """
    phases = objective.phases()
    if not isinstance(phases, tuple | list) or not phases:
        raise MtzooError(
            f"has no phases, so it would train nothing: phases() gave {phases!r:.60}; return "
            "a tuple of mtzoo.interfaces.Phase"
        )
    for phase in phases:
        if not isinstance(phase, Phase):
            raise MtzooError(
                f"phases() gave {phase!r} among its phases, which is no mtzoo.interfaces.Phase"
            )
        if phase.learns not in ("generators", "discriminators"):
            raise MtzooError(
                f"phase {phase.name!r} learns {phase.learns!r}; it may be 'generators' or "
                "'discriminators'"
            )
        for name, least in (("every", 1), ("start", 0)):
            value = getattr(phase, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise MtzooError(
                    f"phase {phase.name!r} has {name} {value!r}; it must be a whole number of at "
                    f"least {least}"
                )
    names = [phase.name for phase in phases]
    for name in names:
        if not isinstance(name, str) or names.count(name) > 1:
            raise MtzooError(f"{name!r} is no name of a phase, or that of two")


def try_objective(objective: Objective, model: Model, batch: Batch, seed: int) -> None:
    """Compute every phase's loss once, in evaluation mode, and hold it to its contract.

    Parameters, buffers, training mode and torch's CPU generator are afterwards what they were.

    Args:
        objective: Its phases have been checked.
        model: On the CPU.
        batch: Some videos on the CPU; the first `COUNT` are taken.
        seed: Of the run.

    Raises:
        MtzooError: Names the phase, what was promised and what came.
    """
    batch = Batch(*(values[:COUNT] for values in batch))
    count = len(batch.video)
    halves = {"generators": model.generators(), "discriminators": model.discriminators()}
    with _untouched(model), torch.enable_grad():
        for phase in objective.phases():
            if not any(p.requires_grad for p in halves[phase.learns].parameters()):
                continue  # no step runs it
            step = -(-phase.start // phase.every) * phase.every  # the first on which it runs
            draws = Draws(seed, step, 0, count, torch.device("cpu"))
            try:
                shared = objective.forward(model, batch, draws, step)
                found = objective.loss(phase, model, batch, shared, draws, step)
            except FAILURES as error:
                raise MtzooError(f"fails in phase {phase.name!r} ({_reason(error)})") from error
            who = f"phase {phase.name!r} promises"
            if not isinstance(found, tuple) or len(found) != 2:
                raise MtzooError(f"{who} a pair of a loss and terms to log and gave {_told(found)}")
            loss, terms = found
            if not isinstance(loss, Tensor) or loss.dim() or not loss.is_floating_point():
                raise MtzooError(f"{who} a scalar loss and gave {_told(loss)}")
            if not loss.requires_grad:
                raise MtzooError(
                    f"{who} a loss that something can learn from, and gave one that no parameter "
                    "of the model has a part in, or that is detached"
                )
            if not isinstance(terms, Mapping):
                raise MtzooError(f"{who} a mapping of terms to log and gave {_told(terms)}")
            for name, term in terms.items():
                if not isinstance(term, Tensor) or term.dim():
                    raise MtzooError(f"{who} scalar terms to log and gave {_told(term)} as {name}")


@contextlib.contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards the module and the generator are as before."""
    modes = {part: part.training for part in module.modules()}
    buffers = {buffer: buffer.clone() for buffer in module.buffers() if not is_lazy(buffer)}
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        try:
            module.eval()
            yield
        finally:
            for part, training in modes.items():
                part.training = training
            for buffer, values in buffers.items():
                buffer.copy_(values)


def _dtype() -> torch.dtype:
    """What parts compute in, when nothing else is asked of them."""
    return torch.get_default_dtype()


def _hold(found: object, what: str, shape: tuple[int, ...], *, bounded: bool = False) -> None:
    """Refuse what is no tensor of finite numbers of this shape, in [-1, 1] if ``bounded``."""
    if not isinstance(found, Tensor) or found.dtype != _dtype() or found.shape != shape:
        raise MtzooError(f"promises {what}, {_dtype()} {shape}, and gave {_told(found)}")
    _hold_finite(found, what)
    if bounded and found.abs().max() > 1 + 1e-4:
        raise MtzooError(
            f"promises {what} in [-1, 1] and gave values from {float(found.min()):.4g} to "
            f"{float(found.max()):.4g}; end in torch.tanh"
        )


def _hold_logits(found: object) -> None:
    fits = isinstance(found, Tensor) and found.dtype == _dtype() and found.dim() > 0
    if not isinstance(found, Tensor) or not fits or len(found) != COUNT or not found.numel():
        raise MtzooError(f"promises logits, {_dtype()} ({COUNT}, ...), and gave {_told(found)}")
    _hold_finite(found, "logits")


def _hold_finite(found: Tensor, what: str) -> None:
    if not found.isfinite().all():
        bad = found[~found.isfinite()][0].item()
        raise MtzooError(f"promises {what} that are finite and gave {bad} among them")


def _told(found: object) -> str:
    """What came, in a few words."""
    if isinstance(found, Tensor):
        return f"{found.dtype} {tuple(found.shape)}"
    if isinstance(found, tuple | list) and found:
        return f"a {type(found).__name__} of {', '.join(map(_told, found[:4]))}"
    return "None" if found is None else f"a {type(found).__name__}"


def _reason(error: BaseException) -> str:
    said = " ".join(str(error).split())[:200]
    return said if isinstance(error, MtzooError) else f"{type(error).__name__}: {said}"


def _dense(video: Tensor) -> Tensor:
    """A video dense as B, T, H, W, C, as all are."""
    return video.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
