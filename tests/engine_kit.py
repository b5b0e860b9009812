"""A tiny run of the real model on a real world, for the engine's tests."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mtzoo.engine import launch
from mtzoo.engine.pending import Pending
from mtzoo.recipe import Recipe, load_recipe

TINY = """
seed: 3
data: {name: shapes, resolution: 32, frames: 8}
model:
  name: dual_mtgan
  content_encoder: {name: dcgan, width: 4, content_dim: 8, norm: instance}
  motion_encoder: {name: c3d, width: 4, motion_dim: 4, norm: instance}
  motion_generator: {name: lstm, frame_motion_dim: 4}
  image_generator: {name: dcgan, width: 4, norm: instance}
  image_discriminator: {name: pair, width: 4}
  video_discriminator: {name: c3d, width: 4}
objective: {name: dual_mtgan, motion_start: 2, adversarial_start: 3}
engine:
  steps: 4
  batch_size: 4
  accelerator: cpu
  workers: 0
  log_every: 2
  health_every: 0
  sample_every: 0
  evaluate_every: 0
  evaluate_pairs: 2
  checkpoint_every: 100
"""


def tiny(folder: Path, *, store: str = "", norm: str = "instance", **engine: object) -> Recipe:
    """The tiny recipe with other engine options, another norm, or a clip store's pairs."""
    path = folder / "tiny.yaml"
    clips = f"data: {{name: clips, root: {store!r}, frames: 8}}"
    text = TINY.replace("norm: instance", f"norm: {norm}")
    path.write_text(re.sub("data: .*", clips, text) if store else text, encoding="utf-8")
    return load_recipe(path, [f"--engine.{name}={value}" for name, value in engine.items()])


def newest(run: Path) -> dict[str, Any]:
    """The state in a run's newest checkpoint."""
    path = max((run / "checkpoints").glob("step_*.ckpt"))
    return torch.load(path, weights_only=True)


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a state, by path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{name}/{index}")
    else:
        yield name, value


# What is about the machine or the clock, not about the training.
_APART = ("/seconds", "/versions", "/recipe")


def differences(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """Paths at which two states differ by a bit."""
    first = {k: v for k, v in leaves(one) if not k.startswith(_APART)}
    second = {k: v for k, v in leaves(two) if not k.startswith(_APART)}
    assert len([v for v in first.values() if isinstance(v, torch.Tensor)]) > 100
    found = sorted(set(first) ^ set(second))
    for name in first.keys() & second.keys():
        a, b = first[name], second[name]
        same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        if not same:
            found.append(name)
    return found


def probe(report: Path) -> None:
    """Two processes, started already, try out working together; rank 0 reports."""
    rank = torch.distributed.get_rank()
    mine = [torch.full((2, 2), float(rank)), torch.tensor([rank * 2.0])]
    launch.average(mine)
    agree = launch.Agreement()
    pending = Pending()
    pending.add("g", 5, {"kl": torch.tensor([1.0, math.nan][rank])})
    found = {
        "average": [value.tolist() for value in mine],
        "alike": launch.alike(torch.tensor([4, 2])),
        "not alike": launch.alike(torch.tensor([4, rank])),
        "agreed": agree(143 * rank),
        "bad": str(pending.fetch()),
    }
    if rank == 0:
        report.write_text(json.dumps(found))
