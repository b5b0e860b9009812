"""MoCoGAN's way to unroll motion: a GRU that gets fresh noise at each step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtzoo.interfaces import MotionGenerator, check_choice, check_sizes
from mtzoo.nn.recurrent import GRU
from mtzoo.nn.time import OutputNorm, check_unroll, time_features
from mtzoo.registries import motion_generators
from mtzoo.registry import Card

WHO = "motion generator 'gru'"


@motion_generators.register(
    "gru",
    Card(
        summary="GRU fed the motion code joined with fresh noise at each step.",
        source="Tulyakov et al., MoCoGAN, CVPR 2018, Sec. 3 (R_M)",
        faithful=(
            "A GRU whose input at each step holds noise e_t ~ N(0, I) drawn for that step, as in "
            "MoCoGAN. Ours: the motion code z_M joins the noise (MoCoGAN has none and draws the "
            "first state instead; ours is 0), a linear output, time input and layer norm as in "
            "'lstm', and more units than MoCoGAN's 10."
        ),
        inputs="motion code (B, motion_dim), number of frames T >= 1, optional torch.Generator",
        outputs="frame motion codes (B, T, frame_motion_dim), unbounded, random",
        tiny={"hidden": 16, "frame_motion_dim": 8, "noise_dim": 4, "time_dim": 4},
    ),
)
class GRUMotionGenerator(MotionGenerator):
    """One motion code to T frame motion codes by a GRU; random, in evaluation too.

    Two calls with one code differ by the noise; give equal generators for equal results.

    Args:
        motion_dim: Size of the motion code z_M.
        frame_motion_dim: Size of each z_m^t.
        hidden: Units of each GRU layer.
        layers: Number of GRU layers.
        noise_dim: Size of the noise e_t (MoCoGAN: 10).
        time_input: Whether the time step, as sines and cosines, is a further input.
        time_dim: Number of time features, even; unused without ``time_input``.
        output_norm: ``"layer"`` normalises each z_m^t (with learned scale and shift), ``"none"``
            leaves the linear output.

    Raises:
        MtzooError: A size is not positive, ``time_dim`` is odd, or there is no such
            ``output_norm``.
    """

    def __init__(
        self,
        motion_dim: int,
        *,
        frame_motion_dim: int = 64,
        hidden: int = 256,
        layers: int = 1,
        noise_dim: int = 10,
        time_input: bool = True,
        time_dim: int = 16,
        output_norm: OutputNorm = "layer",
    ) -> None:
        super().__init__()
        check_sizes(
            WHO,
            motion_dim=motion_dim,
            frame_motion_dim=frame_motion_dim,
            hidden=hidden,
            layers=layers,
            noise_dim=noise_dim,
        )
        check_sizes(WHO, even=True, time_dim=time_dim)
        check_choice(WHO, "output_norm", output_norm, OutputNorm)
        self.motion_dim = motion_dim
        self.frame_motion_dim = frame_motion_dim
        self.noise_dim = noise_dim
        self.time_dim = time_dim if time_input else 0
        self.gru = GRU(motion_dim + noise_dim + self.time_dim, hidden, layers, batch_first=True)
        self.output = nn.Linear(hidden, frame_motion_dim)
        self.norm = nn.LayerNorm(frame_motion_dim) if output_norm == "layer" else nn.Identity()

    def forward(
        self, code: Tensor, frames: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Unroll motion codes over time with noise of their own.

        Args:
            code: ``(B, motion_dim)``, encoded or drawn from N(0, I).
            frames: Number of frames T, at least 1.
            generator: Source of the noise, on the CPU or on the code's device; ``None`` takes
                torch's global one of the code's device.

        Returns:
            Frame motion codes ``(B, T, frame_motion_dim)``.

        Raises:
            MtzooError: ``frames`` is less than 1 or the code of another size.
        """
        check_unroll(code, self.motion_dim, frames, WHO)
        batch = code.shape[0]
        size = (batch, frames, self.noise_dim)
        if generator is None:  # not handed on: torch then exports a batch of one size alone
            noise = torch.randn(size, device=code.device)
        else:
            noise = torch.randn(size, generator=generator, device=generator.device)
        inputs = [code[:, None].expand(-1, frames, -1), noise.to(code, non_blocking=True)]
        if self.time_dim:
            steps = time_features(frames, self.time_dim, like=code)
            inputs.append(steps.expand(batch, -1, -1))
        unrolled = self.gru(torch.cat(inputs, dim=2))  # (B, T, hidden)
        return self.norm(self.output(unrolled))
