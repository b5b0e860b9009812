"""What exchanging gradients between processes costs, and how a step would scale.

    python benchmarks/exchange.py [--recipe R.yaml] [--output FILE.json]

Two processes average gradients of the recipe's sizes as `fit` does (one flat reduction a phase,
gloo) and, beside that, add up tensors as large by hand, which is the least a reduction can do. The
model of scaling takes the bytes from here and bandwidths as stated: a ring of N processes moves
2 (N - 1) / N times the bytes through each link, after which the next phase begins; nothing
overlaps with the backward pass. The step's own time is a parameter, in ms a process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from report import keep, markdown, surroundings
from torch import distributed

from mtzoo.engine import launch
from mtzoo.recipe import build_model, load_recipe

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "dual_mtgan_weizmann.yaml"

# Bytes a second one way, as the makers state them, and the most GPUs that are linked so; what a
# reduction reaches is less.
LINKS = {
    "NVLink within a node, 450 GB/s (H100 and H200, NVIDIA data sheet: 900 GB/s both ways)": (
        450e9,
        8,
    ),
    "400 Gbit/s network, one link a GPU": (50e9, None),
    "100 Gbit/s network, one link a GPU": (12.5e9, None),
}
STEPS_MS = (50.0, 200.0)


def work(rank: int, port: int, sizes: dict[str, list[list[int]]], repeats: int, line: Any) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    found: dict[str, list[tuple[float, float]]] = {}
    for half, shapes in sizes.items():
        gradients = [torch.ones(shape) * rank for shape in shapes]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        other = flat.clone()
        found[half] = []
        for _ in range(repeats + 1):
            distributed.barrier()
            began = time.perf_counter()
            launch.average(gradients)
            middle = time.perf_counter()
            flat.add_(other)
            found[half].append((middle - began, time.perf_counter() - middle))
        assert float(gradients[0].flatten()[0]) == 0.5
    distributed.barrier()
    launch.leave()
    if rank == 0:
        line.send(found)


def measure(recipe_path: Path, repeats: int) -> dict[str, object]:
    """Bytes and times of each phase's exchange."""
    recipe = load_recipe(recipe_path)
    model = build_model(recipe.model, resolution=64, channels=3)
    sizes = {
        half: [list(parameter.shape) for parameter in module.parameters()]
        for half, module in (
            ("generators", model.generators()),
            ("discriminators", model.discriminators()),
        )
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    line, end = context.Pipe()
    processes = [
        context.Process(target=work, args=(rank, port, sizes, repeats, end)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    found = line.recv()
    for process in processes:
        process.join()
    results = {}
    for half, times in found.items():
        exchange, adding = zip(*times[1:], strict=True)
        results[half] = {
            "bytes": 4 * sum(torch.Size(shape).numel() for shape in sizes[half]),
            "seconds": statistics.median(exchange),
            "times adding alone": statistics.median(exchange) / statistics.median(adding),
        }
    return {"recipe": recipe.name, "repeats": repeats, "results": results}


def scaled(size: float, processes: int, bandwidth: float, step: float) -> float:
    """Share of ideal speed-up that is left when a step of ``step`` seconds exchanges ``size``."""
    return step / (step + 2 * (processes - 1) / processes * size / bandwidth)


def table(result: Mapping[str, Any]) -> str:
    """The measured exchange and the modelled scaling."""
    halves = result["results"]
    rows = [
        (half, f"{entry['bytes'] / 2**20:.1f}", f"{entry['times adding alone']:.1f}")
        for half, entry in halves.items()
    ]
    measured = markdown(
        ("gradients of", "MiB a step and process", "time, as a multiple of adding as many numbers"),
        rows,
    )
    size = sum(entry["bytes"] for entry in halves.values())
    model = [
        (
            link,
            f"{step:.0f}",
            *(
                "-"
                if most is not None and n > most
                else f"{scaled(size, n, speed, step / 1e3):.0%}"
                for n in (8, 64)
            ),
        )
        for link, (speed, most) in LINKS.items()
        for step in STEPS_MS
    ]
    head = ("link", "step without exchange, ms", "8 GPUs", "64 GPUs")
    return f"{measured}\n\nModelled, share of the ideal speed-up:\n\n{markdown(head, model)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)  # what each of the two processes has
    result = {**surroundings(), **measure(args.recipe, args.repeats)}
    keep(args.output, result)
    print(table(result))


if __name__ == "__main__":
    main()
