"""Layers with three channels at one end, by mtzoo.nn.subpixel beside torch's own.

    python benchmarks/few_channels.py [--batch 8] [--threads 2] [--output F.json]

What the training step of the 64x64 recipes has of them: the generator's last layer, and the
gradients that D_V and E_M hand back to generated videos. Each is checked against torch's result and
timed in turn with it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from report import keep, markdown, surroundings
from torch import Tensor

from mtzoo.engine import memory
from mtzoo.engine.measure import in_turn, ratio
from mtzoo.nn.subpixel import subpixel_conv, subpixel_weight


class Case(NamedTuple):
    """A transposed convolution to three channels; sizes of its input and of its output."""

    clips: int
    places: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    size: tuple[int, ...]


CASES = {
    "G_I's last layer, three videos": Case(3, (32, 32), (4, 4), (2, 2), (64, 64)),
    "gradient of three videos by D_V": Case(3, (8, 32, 32), (4, 4, 4), (2, 2, 2), (16, 64, 64)),
    "gradient of two videos by E_M": Case(2, (16, 32, 32), (3, 3, 3), (1, 2, 2), (16, 64, 64)),
}


def measure(batch: int, frames: int, repeats: int) -> dict[str, object]:
    """Every case in float32 and bfloat16."""
    torch.manual_seed(0)
    results = {}
    for name, case in CASES.items():
        for dtype in (torch.float32, torch.bfloat16):
            flat = len(case.places) == 2
            form = torch.channels_last if flat else torch.channels_last_3d
            count = case.clips * batch * (frames if flat else 1)
            x = torch.randn(count, 64, *case.places).to(dtype).contiguous(memory_format=form)
            weight = torch.randn(64, 3, *case.kernel).to(dtype)
            with torch.inference_mode():
                results[f"{name}, {str(dtype).removeprefix('torch.')}"] = _beside(
                    *_ways(x, weight, case), repeats
                )
    return {"batch": batch, "repeats": repeats, "results": results}


def _ways(
    x: Tensor, weight: Tensor, case: Case
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    padding = [1] * len(case.stride)
    extra = [
        wanted - ((n - 1) * s - 2 + k)
        for wanted, n, s, k in zip(case.size, case.places, case.stride, case.kernel, strict=True)
    ]
    how = (list(case.stride), padding, [1] * len(padding), True, extra, 1)

    def torchs() -> Tensor:
        return torch.convolution(x, weight, None, *how)

    def ours() -> Tensor:
        taps = subpixel_weight(weight, case.stride)
        return subpixel_conv(x, taps, None, case.stride, padding, case.size)

    return torchs, ours


def _beside(
    torchs: Callable[[], Tensor], ours: Callable[[], Tensor], repeats: int
) -> dict[str, float]:
    expected = torchs()
    apart = (ours() - expected).abs().max() / expected.abs().max()
    times = in_turn({"torch": torchs, "subpixel": ours}, repeats=repeats)
    return {"speed": ratio(times["torch"], times["subpixel"]), "error": float(apart)}


def table(result: Mapping[str, Any]) -> str:
    """One row a case."""
    head = (
        "layer",
        "speed, as a multiple of torch's",
        "largest error relative to the largest value",
    )
    rows = [
        (name, f"{found['speed']:.2f}", f"{found['error']:.0e}")
        for name, found in result["results"].items()
    ]
    return markdown(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    memory.keep_freed()  # as `mtzoo fit` does
    result = {**surroundings(), **measure(args.batch, args.frames, args.repeats)}
    keep(args.output, result)
    print(table(result))


if __name__ == "__main__":
    main()
