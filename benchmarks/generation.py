"""Generation of 16-frame videos, codes and first frame to video: variants beside the reference.

    python benchmarks/generation.py [--batch 1 8] [--threads 2] [--device cpu] [--output FILE.json]

What `sample` does with a picture and drawn codes (E_C, G_T, G_I), with the weights of
dual_mtgan_weizmann as they are drawn. The reference is the plain one of `reference_step.py`:
contiguous NCHW, eager, fp32, nothing folded, all frames in one pass of G_I; and once more with a
pass for each frame. Each round runs all variants in turn. The floor is the arithmetic of the eager
model at the speed of a large matrix product or convolution in the variant's precision, or its
weights at the speed of a large copy, measured in the same run. bfloat16 is left out where the
processor has no instructions for it. On a GPU milliseconds and the allocator's peak stand beside.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config
from bench_kit import graphed, kind_of, limits, on_gpu, tf32
from reference_step import RECIPE, Reference
from report import keep, surroundings, variants_table
from torch import Tensor, nn

from mtzoo.engine.launch import has_bf16
from mtzoo.engine.measure import cost, floor, in_turn, ratio
from mtzoo.models.dual_mtgan import DualMTGAN
from mtzoo.nn.fold import fold
from mtzoo.recipe import build_model, load_recipe

FRAMES, SIDE = 16, 64


def settle(model: nn.Module) -> None:
    """Give batch norms statistics of their own, as training would."""
    model.train()
    with torch.no_grad():
        video = torch.rand(2, FRAMES, 3, SIDE, SIDE) * 2 - 1
        for _ in range(3):
            model.reconstruct(video)
    model.eval()


def variants(model: DualMTGAN, batch: int, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """Ways to make the same videos."""
    image = (torch.rand(batch, 3, SIDE, SIDE) * 2 - 1).to(device)
    image = image.contiguous(memory_format=torch.channels_last)
    code = torch.randn(batch, model.motion_dim).to(device)
    reference = Reference(model, load_recipe(RECIPE))
    plain = image.contiguous()

    def make(ours: DualMTGAN) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.inference_mode():
                motion = ours.motion_generator(code, FRAMES)
                return ours.paint(ours.content_encoder(image), motion, image)

        return run

    def frozen(ours: DualMTGAN) -> Callable[[], Tensor]:
        # Weights as constants, which the compiler lays out once as the kernels want them. It looks
        # at the setting when it traces, in the first call; compile's `options` come too late.
        for part in (ours.content_encoder, ours.image_generator):
            part.compile()
        run = make(ours)
        with torch._inductor.config.patch(freezing=True):
            run()
        return run

    found = {
        "reference": lambda: reference.sample(plain, code, FRAMES),
        "reference, frame by frame": lambda: reference.sample(plain, code, FRAMES, together=False),
        "eager": make(model),
    }
    for name, dtype in {"folded": torch.float32, "folded, bf16": torch.bfloat16}.items():
        if dtype is torch.bfloat16 and not has_bf16(device.type):
            continue
        if device.type == "cuda":
            fused = make(fold(model, dtype=dtype, fused=True))
            found[f"{name}, fused"] = fused
            found[f"{name}, fused, CUDA graph"] = graphed(fused)
            found[f"{name}, CUDA graph"] = graphed(make(fold(model, dtype=dtype)))
        else:
            found[f"{name}, not packed"] = make(fold(model, dtype=dtype, pack=False))
        found[name] = make(fold(model, dtype=dtype))
        found[f"{name}, compiled"] = frozen(fold(model, dtype=dtype))
    if device.type == "cuda":
        found["folded, tf32"] = tf32(make(fold(model)))
    return found


def compare(batches: list[int], repeats: int, device: torch.device) -> dict[str, object]:
    """All variants at all batch sizes."""
    torch.manual_seed(0)
    recipe = load_recipe(RECIPE)
    model = build_model(recipe.model, resolution=SIDE, channels=3)
    assert isinstance(model, DualMTGAN)
    settle(model)
    model.to(device)
    found: dict[str, Mapping[str, object]] = {}
    for batch in batches:
        runs = variants(model, batch, device)
        outputs = {name: run() for name, run in runs.items()}
        expected = outputs["reference"]
        # Triton's kernels do not pass the dispatcher, either.
        hidden = ("compiled", "graph", "fused")
        counted = {k: r for k, r in runs.items() if not any(word in k for word in hidden)}
        costs = {name: cost(run) for name, run in counted.items()}
        times = in_turn(runs, repeats=repeats, warmup=2, device=device)
        networks = (model.content_encoder, model.motion_generator, model.image_generator)
        weights = sum(p.numel() * 4 for part in networks for p in part.parameters())
        for name in runs:
            ceilings = limits(device, kind_of(name))
            least = floor(costs["eager"], weights + expected.numel() * 4, ceilings)
            error = (outputs[name] - expected).abs().max() / expected.abs().max()
            found[f"{batch}, {name}"] = {
                "speed": ratio(times["reference"], times[name]),
                "seconds": statistics.median(times[name]),
                "above_floor": min(times[name]) / least,
                "error": float(error),
                **on_gpu(runs[name], times[name], device),
                **(dataclasses.asdict(costs[name]) if name in costs else {}),
            }
    used = {kind_of(name.partition(", ")[2]) for name in found}
    ceilings = {kind: limits(device, kind) for kind in sorted(used)}
    return {"ceilings": ceilings, **surroundings(device.type), "results": found}


def table(result: Mapping[str, Any]) -> str:
    """For people."""
    return variants_table(result, "batch, variant", "largest error relative to the largest value")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = compare(args.batch, args.repeats, torch.device(args.device))
    keep(args.output, result)
    print(table(result))


if __name__ == "__main__":
    main()
