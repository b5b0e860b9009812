"""One base class a slot: the tensor contract of each kind of component.

Conventions that hold everywhere:

- A video is a float tensor ``(B, T, C, H, W)`` in [-1, 1], dense in memory as B, T, H, W, C. So
  ``video.flatten(0, 1)`` is a ``(B*T, C, H, W)`` view in ``channels_last`` and
  ``video.transpose(1, 2)`` a ``(B, C, T, H, W)`` view in ``channels_last_3d``.
- Sizes flow by construction. Each base class names in ``takes`` the constructor arguments that
  the assembly hands on (a recipe never states them) and in ``gives`` the attributes it hands on
  to the parts after it. ``resolution`` is the side of a square frame in pixels, ``channels`` the
  number of colour channels.
- Constructors are typed and closed: no ``**kwargs``, no ``Any``, nothing that names a file or an
  import path. A size that cannot work raises `MtzooError` in the constructor; a clip too short
  raises it in ``forward``.
- Components draw random numbers only from ``generator`` arguments or torch's global generators.
"""

from __future__ import annotations

import abc
import hashlib
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mtzoo.errors import MtzooError, did_you_mean

RESOLUTIONS = (32, 64, 128)


def check_resolution(resolution: int, who: str) -> None:
    """Raise `MtzooError` unless ``resolution`` is one the zoo's 64x64-style networks can honour."""
    if resolution not in RESOLUTIONS:
        raise MtzooError(
            f"{who}: resolution {resolution} is not supported; "
            f"use one of {', '.join(map(str, RESOLUTIONS))}"
        )


def check_frames(frames: int, least: int, who: str) -> None:
    """Raise `MtzooError` where a clip of ``frames`` is shorter than ``least``."""
    if frames < least:
        raise MtzooError(
            f"{who}: a clip of {frames} frames is too short; it needs at least {least}"
        )


def check_sizes(who: str, *, even: bool = False, least: int = 1, **sizes: int) -> None:
    """Raise `MtzooError` unless every named size is a whole number from ``least`` on.

    Args:
        who: The component or function, as the message is to call it.
        even: Whether sizes have to be even, too.
        least: The smallest that will do.
        sizes: By name.
    """
    for name, size in sizes.items():
        whole = isinstance(size, int) and not isinstance(size, bool)
        if not whole or size < least or (even and size % 2):
            wanted = "positive and even" if even else f"a whole number of at least {least}"
            raise MtzooError(f"{who}: {name} must be {wanted}, not {size!r}")


def check_choice(who: str, name: str, value: object, choices: object) -> None:
    """Raise `MtzooError` unless ``value`` is one of ``choices``.

    Args:
        who: The component or function, as the message is to call it.
        name: Of the option.
        value: What was given.
        choices: A ``Literal``, or a tuple of what there is.
    """
    known = choices if isinstance(choices, tuple) else get_args(choices)
    if not any(type(value) is type(choice) and value == choice for choice in known):
        hint = did_you_mean(value.lower(), map(str, known)) if isinstance(value, str) else ""
        raise MtzooError(
            f"{who}: {name} is {value!r}; it must be one of {', '.join(map(str, known))}"
            + (f".{hint}" if hint else "")
        )


def check_numbers(who: str, *, above: float | None = None, **numbers: float) -> None:
    """Raise `MtzooError` unless every named number is finite and 0 or more.

    Args:
        who: The component or function, as the message is to call it.
        above: What each must be above; ``-math.inf`` allows any finite number. ``None`` is 0 or
            more.
        numbers: By name.
    """
    for name, number in numbers.items():
        real = isinstance(number, (int, float)) and not isinstance(number, bool)
        enough = real and (number >= 0 if above is None else number > above)
        if not enough or not math.isfinite(number):
            least = "0 or more" if above is None else f"above {above:g}"
            wanted = "a finite number" if above == -math.inf else least
            if real and enough:
                wanted = "finite"
            raise MtzooError(f"{who}: {name} must be {wanted}, not {number!r}")


def check_floating(values: Tensor, what: str, who: str) -> None:
    """Raise `MtzooError` unless ``values`` are floating point numbers.

    Args:
        values: Pictures, videos or codes.
        what: What they are, in the plural.
        who: The component or function, as the message is to call it.
    """
    if not values.is_floating_point():
        kind = str(values.dtype).removeprefix("torch.")
        raise MtzooError(
            f"{who}: {what} must be floats in [-1, 1], not {kind}; "
            "mtzoo.interfaces.as_video makes such of uint8 frames (B, T, H, W, C)"
        )


class Component(nn.Module, abc.ABC):
    """What all slots share."""

    takes: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()


class ContentEncoder(Component):
    """An image to a content code: what is seen, not how it moves (E_C of the paper)."""

    takes = ("resolution", "channels")
    gives = ("content_dim",)
    content_dim: int

    @abc.abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Encode images.

        Args:
            image: ``(N, C, H, W)`` in [-1, 1].

        Returns:
            Content codes ``(N, content_dim)``.
        """


class Gaussian(NamedTuple):
    """A diagonal Gaussian over motion codes: ``mean`` and ``log_variance``, ``(B, motion_dim)``."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Reparametrised sample from standard normal ``noise`` of the mean's shape."""
        return self.mean + noise * (0.5 * self.log_variance).exp()


class MotionEncoder(Component):
    """A video to the posterior of its motion code, P(z_M) (E_M of the paper)."""

    takes = ("resolution", "channels")
    gives = ("motion_dim",)
    motion_dim: int
    min_frames: int = 1

    @abc.abstractmethod
    def forward(self, video: Tensor) -> Gaussian:
        """Encode videos.

        Args:
            video: ``(B, T, C, H, W)`` in [-1, 1], any T from ``min_frames``.

        Returns:
            Mean and log-variance, ``(B, motion_dim)`` each.

        Raises:
            MtzooError: The clip is shorter than ``min_frames``.
        """


class MotionPrior(Component):
    """Motion codes that a picture is likely to move by, where N(0, I) is too blunt a guess.

    Learned once E_M has (`mtzoo.engine.prior`).
    """

    takes = ("resolution", "channels", "motion_dim")
    motion_dim: int

    @abc.abstractmethod
    def forward(self, noise: Tensor, image: Tensor) -> Tensor:
        """Draw codes.

        Args:
            noise: Standard normal ``(B * S, motion_dim)``, S for the first picture, then S for the
                next; equal noise gives equal codes.
            image: The pictures that are to move, ``(B, C, H, W)`` in [-1, 1].

        Returns:
            Motion codes ``(B * S, motion_dim)``.
        """

    @abc.abstractmethod
    def log_likelihood(self, code: Tensor, image: Tensor) -> Tensor:
        """Logarithm of the density of codes.

        Args:
            code: ``(B * S, motion_dim)``, S for the first picture, then S for the next.
            image: The first frames of the videos that move so, ``(B, C, H, W)`` in [-1, 1].

        Returns:
            In nats, ``(B * S,)``.
        """


class MotionGenerator(Component):
    """A motion code to one motion feature a frame (G_T of the paper)."""

    takes = ("motion_dim",)
    gives = ("frame_motion_dim",)
    motion_dim: int
    frame_motion_dim: int

    @abc.abstractmethod
    def forward(
        self, code: Tensor, frames: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Unroll motion codes over time.

        Args:
            code: ``(B, motion_dim)``, encoded or drawn from N(0, I).
            frames: Number of frames T, at least 1; longer than in training is allowed.
            generator: Source of fresh noise for generators that draw any, on the CPU or on the
                code's device; ``None`` takes torch's global one. Ignored by the others.

        Returns:
            Frame motion codes ``(B, T, frame_motion_dim)``.
        """


class ImageGenerator(Component):
    """Content and frame motion codes to frames (G_I of the paper).

    Attributes:
        takes_picture: Whether ``forward`` takes a third argument, ``picture``, ``(B, C, H, W)``
            in [-1, 1] or ``None``: the picture that the content code was read from, for content
            that a code is too narrow for. The paper's generator sees codes only.
    """

    takes = ("resolution", "channels", "content_dim", "frame_motion_dim")
    gives = ()
    takes_picture: ClassVar[bool] = False
    resolution: int
    channels: int

    @abc.abstractmethod
    def forward(self, content: Tensor, motion: Tensor) -> Tensor:
        """Paint videos.

        Args:
            content: ``(B, content_dim)``, one code for all frames, or ``(B, T, content_dim)``.
            motion: ``(B, T, frame_motion_dim)``.

        Returns:
            Videos ``(B, T, C, H, W)`` in [-1, 1] (tanh), dense as B, T, H, W, C.
        """


class ImageDiscriminator(Component):
    """Judges a frame given a condition picture (D_I of the paper).

    High logits say: the frame is real and shows what the condition shows.
    """

    takes = ("resolution", "channels")

    @abc.abstractmethod
    def forward(self, condition: Tensor, frame: Tensor) -> Tensor:
        """Judge pairs.

        Args:
            condition: ``(N, C, H, W)`` in [-1, 1].
            frame: ``(N, C, H, W)`` in [-1, 1].

        Returns:
            Logits ``(N, ...)``, without a sigmoid; several a pair for patch discriminators.
        """


class VideoDiscriminator(Component):
    """Judges a whole video (D_V of the paper)."""

    takes = ("resolution", "channels")
    min_frames: int = 1

    @abc.abstractmethod
    def forward(self, video: Tensor) -> Tensor:
        """Judge videos.

        Args:
            video: ``(B, T, C, H, W)`` in [-1, 1], any T from ``min_frames``.

        Returns:
            Logits ``(B, ...)``, without a sigmoid.

        Raises:
            MtzooError: The clip is shorter than ``min_frames``.
        """


class Model(nn.Module, abc.ABC):
    """An assembly of components that moves pictures.

    The constructor's parameters annotated with a slot class (or ``SlotClass | None``) are slots:
    a recipe fills them by registered name, in the constructor's order, and the assembly hands the
    sizes on. The other parameters are plain options.
    """

    resolution: int
    channels: int

    @abc.abstractmethod
    def generators(self) -> nn.Module:
        """The networks that make videos, as one module (what weights for others hold)."""

    @abc.abstractmethod
    def discriminators(self) -> nn.Module:
        """The networks that judge videos, as one module; may be empty."""

    @abc.abstractmethod
    def transfer(self, image: Tensor, video: Tensor) -> Tensor:
        """Move pictures as videos move.

        Args:
            image: ``(B, C, H, W)`` in [-1, 1].
            video: ``(B, T, C, H, W)`` in [-1, 1], one for each image.

        Returns:
            ``(B, T, C, H, W)`` in [-1, 1].

        Raises:
            MtzooError: Image or video is of another size, the video too short, or there are more
                of one than of the other.
        """

    @abc.abstractmethod
    def sample(
        self,
        image: Tensor,
        samples: int,
        frames: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Move pictures in ways drawn from the prior.

        Args:
            image: ``(B, C, H, W)`` in [-1, 1].
            samples: Videos drawn for each image, at least 1.
            frames: Frames T of each video, at least 1.
            generator: Source of all that is drawn, on the CPU or the image's device; ``None``
                takes torch's global one.

        Returns:
            ``(B, samples, T, C, H, W)`` in [-1, 1].

        Raises:
            MtzooError: ``samples`` or ``frames`` is less than 1, or the image of another size.
        """

    @abc.abstractmethod
    def reconstruct(self, video: Tensor) -> Tensor:
        """Take videos apart and put them together again.

        Args:
            video: ``(B, T, C, H, W)`` in [-1, 1].

        Returns:
            The same shape, in [-1, 1].

        Raises:
            MtzooError: The video is too short or of another size.
        """


class Batch(NamedTuple):
    """What one training step sees, as floats in [-1, 1] on the device.

    Attributes:
        video: The source videos V, ``(B, T, C, H, W)``.
        target_video: The real videos V_y that the targets were taken from, same shape.
        target: The target images y, ``(B, C, H, W)``.
    """

    video: Tensor
    target_video: Tensor
    target: Tensor


@dataclass(frozen=True)
class Draws:
    """Random numbers of one training step.

    Everything follows from (seed, step) and a sample's index in the global batch: a rank draws
    for the whole global batch and keeps its share, so that the number of processes changes
    nothing. Drawn on the CPU, moved without waiting.

    Attributes:
        seed: Of the run.
        step: Number of the training step, from 0.
        offset: Index of this rank's first sample in the global batch.
        total: Size of the global batch.
        device: Where results go.
    """

    seed: int
    step: int
    offset: int
    total: int
    device: torch.device

    def _generator(self, stream: int) -> torch.Generator:
        # A hash keeps the streams apart. torch's CPU generator takes 32 bits of a seed, in which
        # sums and products of seed, step and stream would soon meet again.
        name = f"{self.seed}/{self.step}/{stream}".encode()
        digest = hashlib.blake2b(name, digest_size=4).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little"))

    def normal(self, count: int, dim: int, stream: int) -> Tensor:
        """Standard normal ``(count, dim)`` for this rank's ``count`` samples."""
        noise = torch.randn(self.total, dim, generator=self._generator(stream))
        return self._moved(noise[self.offset : self.offset + count])

    def integers(self, count: int, high: int, stream: int) -> Tensor:
        """Uniform integers ``(count,)`` in [0, high) for this rank's samples."""
        drawn = torch.randint(high, (self.total,), generator=self._generator(stream))
        return self._moved(drawn[self.offset : self.offset + count])

    def number(self, name: str, value: float) -> float | Tensor:
        """A number that follows from the step, such as how far a term's ramp is.

        A recorded step (``engine.cuda_graph``) reads it anew each time it is replayed, where the
        objective's `Objective.numbers` has it under the same name.
        """
        return value

    def _moved(self, values: Tensor) -> Tensor:
        if self.device.type == "cuda":  # from elsewhere the host waits for the copy
            values = values.pin_memory()
        return values.to(self.device, non_blocking=True)


class Phase(NamedTuple):
    """One turn within a training step.

    Attributes:
        name: For logs and profiles: ``"discriminator"``, ``"generator"``.
        learns: Which of the model's halves learns in it.
        every: The phase runs on steps divisible by this.
        start: The first step on which the phase runs.
    """

    name: str
    learns: Literal["generators", "discriminators"]
    every: int = 1
    start: int = 0

    def due(self, step: int) -> bool:
        """Whether the phase runs on ``step``."""
        return step >= self.start and step % self.every == 0


class Objective(abc.ABC):
    """Equations and their weighted sum per phase; knows no device and no loop.

    A training step is ``shared = forward(model, batch, draws, step)``, once, with gradients
    enabled for the generators, then for every phase that is due, in order,
    ``loss(phase, model, batch, shared, draws, step)``.
    """

    def check(self, model: Any, data: Mapping[str, object]) -> None:  # noqa: B027  # most need none
        """Refuse what no step could train, before a run begins; by default nothing.

        Args:
            model: What is to be trained; its networks may be without memory.
            data: The recipe's ``data`` section, resolved.

        Raises:
            MtzooError: The model, the data and the objective do not go together.
        """

    @abc.abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        """The phases in the order they run; at least one, the names unlike."""

    @abc.abstractmethod
    def forward(self, model: Any, batch: Batch, draws: Draws, step: int) -> Any:
        """Compute what the phases share: every code once, all generated videos in one pass.

        Args:
            model: What trains, in training mode, on the batch's device.
            batch: This rank's share of the step's pairs.
            draws: Random numbers of the step, the same however many processes share the batch.
            step: Number of the step, from 0.

        Returns:
            Whatever `loss` wants of it, once for each phase that is due. Tensors in it may carry
            gradients to the generators.
        """

    @abc.abstractmethod
    def loss(
        self, phase: Phase, model: Any, batch: Batch, shared: Any, draws: Draws, step: int
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """What a phase minimises.

        Args:
            phase: One of `phases`, due on this step.
            model: What trains. Only the half that ``phase.learns`` names is stepped; the weights
                of the other may already have been on this step.
            batch: As in `forward`.
            shared: What `forward` returned on this step; detach it where its networks do not learn.
            draws: As in `forward`: the same stream gives the same numbers again.
            step: Number of the step, from 0.

        Returns:
            The loss, a scalar whose gradient reaches that half; and terms to log by name, detached
            scalars, none or more.
        """

    def variant(self, model: Any, batch: Batch, draws: Draws, step: int) -> Hashable | None:
        """What forward and loss take from the step but through tensors: its number, host's choices.

        Two steps of equal variants tell the device to do the same with other values, so one may be
        recorded and replayed for the other (``engine.cuda_graph``). What `Draws` gives on its own
        device, and numbers asked for by `Draws.number`, do not count.

        Args:
            model: As in `forward`.
            batch: Likewise; its sizes may be looked at, its values not.
            draws: Likewise.
            step: Likewise.

        Returns:
            Anything that can be compared and hashed; ``None``, the default, where it is not known:
            such steps are never recorded.
        """
        return None

    def numbers(self, step: int) -> Mapping[str, float]:
        """What loss asks `Draws.number` for, by name; by default nothing."""
        return {}

    @abc.abstractmethod
    def health(self, model: Any, batch: Batch, draws: Draws) -> Mapping[str, Tensor]:
        """Figures that say whether the run is alive.

        Args:
            model: What trains, in evaluation mode.
            batch: Pairs to look at.
            draws: Random numbers, as in `forward`.

        Returns:
            Detached scalars by name, computed without gradients.
        """


class PairDataset(Dataset[dict[str, Tensor]], abc.ABC):
    """Training pairs (V, V_y, y) of the paper, addressed by position.

    An item is a function of (constructor options, seed, split, position) alone. Training asks for
    positions ``step * global_batch + index``, without end; evaluation asks for ``0, 1, ...`` of
    the test split.

    Items are dictionaries:

    - ``video``: uint8 ``(T, H, W, C)``, the source V;
    - ``target_video``: uint8 ``(T, H, W, C)``, V_y, another identity than V where identities
      are known;
    - ``target_index``: int64 scalar, which frame of V_y is the target y;
    - ``truth``: uint8 ``(T, H, W, C)``, the true "motion of V on the appearance of y", only where
      ``has_truth`` and only in the test split.

    Where the data say in words what is seen and how it moves, `labels` does, and classifiers can
    learn from it.

    Attributes:
        content_classes: Labels of what is seen, each with the names it may have.
        motion_classes: Labels of how it moves.
        left_out: How many videos of the split are too short for a clip.
    """

    takes: ClassVar[tuple[str, ...]] = ("split", "seed")
    gives: ClassVar[tuple[str, ...]] = ("resolution", "channels", "frames")
    resolution: int
    channels: int
    frames: int
    has_truth: bool = False
    left_out: int = 0
    content_classes: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    motion_classes: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    on_disk: ClassVar[bool] = False
    """Whether building it reads data that the user must have; checks of recipes build no such."""

    @abc.abstractmethod
    def __getitem__(self, position: int) -> dict[str, Tensor]:
        """The pair at ``position`` (0 or more)."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """How many distinct source clips the split has; worlds give a nominal number."""

    def labels(self, position: int) -> dict[str, dict[str, str]]:
        """What the pair shows: for ``video`` and ``target_video``, the name by label."""
        return {"video": {}, "target_video": {}}

    def origin(self, position: int) -> str | None:
        """The source video that V is cut from, by name; ``None`` where no two pairs share one."""
        return None

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Iterate over positions 0 to ``len(self) - 1``."""
        return (self[i] for i in range(len(self)))


def as_video(frames: Tensor) -> Tensor:
    """View uint8 ``(B, T, H, W, C)`` as a float video ``(B, T, C, H, W)`` in [-1, 1].

    Memory stays dense as B, T, H, W, C; value v becomes v / 127.5 - 1.
    """
    return (frames.to(torch.float32) / 127.5 - 1.0).permute(0, 1, 4, 2, 3)


def join_videos(videos: Sequence[Tensor]) -> Tensor:
    """Join float videos ``(B, T, C, H, W)`` along the batch, dense as B, T, H, W, C.

    `torch.cat` would lay the whole out as B, T, C, H, W whatever its parts are, and convolutions
    in space and time would no longer run in channels_last.
    """
    return torch.cat([video.movedim(2, -1) for video in videos]).movedim(-1, 2)


def as_frames(video: Tensor) -> Tensor:
    """Turn a float video ``(..., C, H, W)`` in [-1, 1] into uint8 ``(..., H, W, C)``."""
    scaled = (video.detach().float().clamp(-1, 1) + 1.0) * 127.5
    return scaled.round().to(torch.uint8).movedim(-3, -1)
