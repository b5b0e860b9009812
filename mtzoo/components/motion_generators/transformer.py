"""A motion generator without recurrence: causal self-attention over the time steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mtzoo.errors import MtzooError
from mtzoo.interfaces import MotionGenerator, check_choice, check_sizes
from mtzoo.nn.time import OutputNorm, check_unroll, time_features
from mtzoo.registries import motion_generators
from mtzoo.registry import Card


class _Block(nn.Module):
    """Causal self-attention and a perceptron, each normalised first and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        # No bias: one that all keys share cancels in the softmax and would never learn.
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attended = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, steps: Tensor) -> Tensor:
        joined = self.query_key_value(self.attention_norm(steps))  # (B, T, 3 * width)
        query, key, value = joined.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
        steps = steps + self.attended(mixed.transpose(1, 2).flatten(2))
        return steps + self.perceptron(steps)


def _renamed(state: dict[str, Tensor], prefix: str, old: str, new: str) -> None:
    """Rename a layer's weights in place, each in its place in the order."""
    items = list(state.items())
    state.clear()
    for key, value in items:
        own = key.startswith(f"{prefix}{old}.")
        state[f"{prefix}{new}.{key[len(prefix) + len(old) + 1 :]}" if own else key] = value


def _as_saved(_: nn.Module, state: dict[str, Tensor], prefix: str, __: object) -> None:
    _renamed(state, prefix, "token", "code")


def _as_built(_: nn.Module, state: dict[str, Tensor], prefix: str, *__: object) -> None:
    _renamed(state, prefix, "code", "token")


WHO = "motion generator 'transformer'"


@motion_generators.register(
    "transformer",
    Card(
        summary="Causal transformer over time steps that each carry the motion code.",
        source="Vaswani et al., Attention Is All You Need, NeurIPS 2017",
        faithful=(
            "Causal self-attention blocks with sinusoidal positions. Ours: normalisation before "
            "each sublayer, GELU, no dropout, periods of 4 to 256 frames; each step's token is "
            "the sum of a map of z_M and a map of its position, nothing is fed back."
        ),
        inputs="motion code (B, motion_dim), number of frames T >= 1",
        outputs="frame motion codes (B, T, frame_motion_dim), unbounded",
        tiny={"width": 16, "heads": 2, "layers": 1, "frame_motion_dim": 8},
    ),
)
class TransformerMotionGenerator(MotionGenerator):
    """One motion code to T frame motion codes by causal attention; deterministic.

    Frame t looks at the frames up to t only, so a longer clip begins with the shorter one.

    Args:
        motion_dim: Size of the motion code z_M.
        frame_motion_dim: Size of each z_m^t.
        width: Size of a token.
        layers: Number of blocks.
        heads: Attention heads; they share the width evenly.
        output_norm: ``"layer"`` normalises each z_m^t (with learned scale and shift), ``"none"``
            leaves the linear output.

    Raises:
        MtzooError: A size is not positive, ``width`` is odd or no multiple of ``heads``, or there
            is no such ``output_norm``.
    """

    def __init__(
        self,
        motion_dim: int,
        *,
        frame_motion_dim: int = 64,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        output_norm: OutputNorm = "layer",
    ) -> None:
        super().__init__()
        check_sizes(
            WHO,
            motion_dim=motion_dim,
            frame_motion_dim=frame_motion_dim,
            layers=layers,
            heads=heads,
        )
        check_sizes(WHO, even=True, width=width)
        if width % heads:
            raise MtzooError(
                f"{WHO}: width {width} cannot be shared by {heads} heads; "
                "make width a multiple of heads"
            )
        check_choice(WHO, "output_norm", output_norm, OutputNorm)
        self.motion_dim = motion_dim
        self.frame_motion_dim = frame_motion_dim
        self.width = width
        self.token = nn.Linear(motion_dim, width)
        self.position = nn.Linear(width, width, bias=False)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))
        self.output = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, frame_motion_dim))
        self.norm = nn.LayerNorm(frame_motion_dim) if output_norm == "layer" else nn.Identity()
        # A graph module has an attribute `code` of its own, which an exported module must not take;
        # in weights the layer keeps that name.
        self.register_state_dict_post_hook(_as_saved)
        self.register_load_state_dict_pre_hook(_as_built)

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
        positions = self.position(time_features(frames, self.width, like=code))  # (T, width)
        steps = self.token(code)[:, None] + positions
        return self.norm(self.output(self.blocks(steps)))
