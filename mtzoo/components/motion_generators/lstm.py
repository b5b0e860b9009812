"""The paper recipes' motion generator: an LSTM unrolled from the motion code."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mtzoo.errors import MtzooError
from mtzoo.interfaces import MotionGenerator, check_choice, check_sizes
from mtzoo.nn.recurrent import LSTM
from mtzoo.nn.time import OutputNorm, check_unroll, cosines, time_features
from mtzoo.registries import motion_generators
from mtzoo.registry import Card

WHO = "motion generator 'lstm'"

Entry = Literal["every_step", "first_step", "initial_state", "tracks"]
"""How a motion code enters."""


@motion_generators.register(
    "lstm",
    Card(
        summary="LSTM unrolled from the motion code; how the code enters is an option.",
        source=(
            "Yang et al., Dual-MTGAN, arXiv 2102.13329, Sec. III (G_T, an LSTM); sizes after "
            "Denton and Fergus, Stochastic Video Generation, ICML 2018"
        ),
        faithful=(
            "An LSTM from one z_M to z_m^1..z_m^T, as in the paper. Ours: how z_M enters (the "
            "paper does not say), two layers of 256 (SVG's), the time step as a further input and "
            "layer norm on z_m^t; both can be switched off."
        ),
        inputs="motion code (B, motion_dim), number of frames T >= 1",
        outputs="frame motion codes (B, T, frame_motion_dim), unbounded",
        tiny={"hidden": 16, "layers": 2, "frame_motion_dim": 8, "time_dim": 4},
    ),
)
class LSTMMotionGenerator(MotionGenerator):
    """One motion code to T frame motion codes by an LSTM; deterministic.

    Frame t depends on the code and on t alone, so a longer clip begins with the shorter one.

    Args:
        motion_dim: Size of the motion code z_M.
        frame_motion_dim: Size of each z_m^t.
        hidden: Units of each LSTM layer.
        layers: Number of LSTM layers.
        entry: How z_M enters: as input at ``"every_step"``, as input at the ``"first_step"`` only
            (zeros after), as ``"initial_state"``, from which linear maps give every layer's
            hidden and cell state, or as ``"tracks"``: the code is read as coefficients of cosines
            over time, as the motion encoder ``trajectories`` writes it, and at each step its
            tracks' values there are the input, which also passes the LSTM by.
        time_input: Whether the time step, as sines and cosines, is a further input. Without it
            all steps of ``"every_step"`` see the same input and only the state tells them apart.
        time_dim: Number of time features, even; unused without ``time_input``.
        output_norm: ``"layer"`` normalises each z_m^t (with learned scale and shift), so that it
            reaches the image generator at the size of a content code; ``"none"`` leaves the
            linear output, which starts near 0.
        tracks: With ``entry: tracks``, the encoder's ``tracks``, and two more for its ``camera``.
        period: Likewise, its ``period``.

    Raises:
        MtzooError: A size is not positive, ``time_dim`` is odd, there is no such ``entry`` or
            ``output_norm``, or the code has not as many numbers for each of the tracks, at most
            ``period``.
    """

    def __init__(
        self,
        motion_dim: int,
        *,
        frame_motion_dim: int = 64,
        hidden: int = 256,
        layers: int = 2,
        entry: Entry = "every_step",
        time_input: bool = True,
        time_dim: int = 16,
        output_norm: OutputNorm = "layer",
        tracks: int = 6,
        period: int = 16,
    ) -> None:
        super().__init__()
        check_sizes(
            WHO,
            motion_dim=motion_dim,
            frame_motion_dim=frame_motion_dim,
            hidden=hidden,
            layers=layers,
        )
        check_sizes(WHO, even=True, time_dim=time_dim)
        check_sizes(WHO, tracks=tracks, period=period)
        check_choice(WHO, "entry", entry, Entry)
        check_choice(WHO, "output_norm", output_norm, OutputNorm)
        self.motion_dim = motion_dim
        self.frame_motion_dim = frame_motion_dim
        self.entry = entry
        self.layers = layers
        self.time_dim = time_dim if time_input else 0
        code_inputs = {"initial_state": 0, "tracks": tracks}.get(entry, motion_dim)
        self.tracks, self.terms, self.period = tracks, motion_dim // tracks, period
        if entry == "tracks" and (motion_dim % tracks or self.terms > period):
            raise MtzooError(
                f"{WHO}: a code of {motion_dim} cannot be {tracks} tracks of up to {period} "
                "cosines each; give tracks (and two more for its camera) and period as the motion "
                "encoder 'trajectories' has them, and with any other encoder entry: every_step"
            )
        # An LSTM needs some input: with nothing to say it gets the constant 1.
        self.constant = code_inputs + self.time_dim == 0
        self.lstm = LSTM(
            code_inputs + self.time_dim + self.constant, hidden, layers, batch_first=True
        )
        if entry == "initial_state":
            self.state = nn.Linear(motion_dim, 2 * layers * hidden)
        if entry == "tracks":
            # A code from the prior makes tracks of unit size.
            self.size = nn.Parameter(torch.full((tracks, self.terms), self.terms**-0.5))
            self.past = nn.Linear(tracks, frame_motion_dim, bias=False)
        self.output = nn.Linear(hidden, frame_motion_dim)
        self.norm = nn.LayerNorm(frame_motion_dim) if output_norm == "layer" else nn.Identity()

    def forward(
        self, code: Tensor, frames: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Unroll motion codes over time.

        Args:
            code: ``(B, motion_dim)``, encoded or drawn from N(0, I).
            frames: Number of frames T, at least 1.
            generator: Ignored, nothing is drawn.

        Returns:
            Frame motion codes ``(B, T, frame_motion_dim)``.

        Raises:
            MtzooError: ``frames`` is less than 1 or the code of another size.
        """
        check_unroll(code, self.motion_dim, frames, WHO)
        batch = code.shape[0]
        inputs, start = [], None
        if self.entry == "every_step":
            inputs.append(code[:, None].expand(-1, frames, -1))
        elif self.entry == "first_step":
            inputs.append(nn.functional.pad(code[:, None], (0, 0, 0, frames - 1)))
        elif self.entry == "tracks":
            waves = cosines(frames, self.terms, self.period, like=code)
            inputs.append(waves @ (code.unflatten(1, self.size.shape) * self.size).transpose(1, 2))
        else:
            # (B, 2 * layers * hidden) -> (2, layers, B, hidden): hidden and cell states.
            states = self.state(code).unflatten(1, (2, self.layers, -1)).permute(1, 2, 0, 3)
            hidden, cell = states.contiguous()
            start = (hidden.tanh(), cell)
        if self.time_dim:
            steps = time_features(frames, self.time_dim, like=code)
            inputs.append(steps.expand(batch, -1, -1))
        if self.constant:
            inputs.append(code.new_ones(batch, frames, 1))
        unrolled = self.lstm(torch.cat(inputs, dim=2), start)  # (B, T, hidden)
        made = self.output(unrolled)
        return self.norm(made + self.past(inputs[0]) if self.entry == "tracks" else made)
