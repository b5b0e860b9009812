"""What all benchmarks print and keep: where and when it was measured, and tables."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

# What a reader of docs/performance.md types, by result file.
RESULTS = Path(__file__).resolve().parent / "results"


def surroundings(device: str = "cpu") -> dict[str, object]:
    """Hardware, threads, versions and day."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    if device == "cuda":
        name = torch.cuda.get_device_name()
    return {
        "hardware": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__.partition("+")[0],
        "date": datetime.date.today().isoformat(),
    }


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


# What tables of a GPU have beside ratios, with what a number is divided by.
GPU_COLUMNS = {"ms": ("ms", 1.0), "allocated": ("allocator's peak, MiB", 2.0**20)}


def gpu_cell(entry: Mapping[str, Any], key: str) -> str:
    """A number of a GPU's column; a dash where there is none."""
    return f"{entry[key] / GPU_COLUMNS[key][1]:.3g}" if key in entry else "-"


def variants_table(
    result: Mapping[str, Any], what: str = "variant", error: str = "relative error"
) -> str:
    """A table of variants beside their reference; ``what`` and ``error`` head their columns."""
    head = (
        what,
        "speed, as a multiple of the reference's",
        "operations",
        "GF",
        "MiB moved",
        "peak MiB beyond weights",
        "times its floor",
        error,
    )
    entries = result["results"].values()
    more = [key for key in GPU_COLUMNS if any(key in entry for entry in entries)]
    head = (*head, *(GPU_COLUMNS[key][0] for key in more))
    rows = [
        (
            name,
            f"{entry['speed']:.2f}",
            entry.get("operations", "-"),
            f"{entry['flops'] / 1e9:.2f}" if "flops" in entry else "-",
            f"{entry['moved'] / 2**20:.0f}" if "moved" in entry else "-",
            f"{entry['peak'] / 2**20:.1f}" if "peak" in entry else "-",
            f"{entry['above_floor']:.2f}" if "above_floor" in entry else "-",
            f"{entry['error']:.1e}",
            *(gpu_cell(entry, key) for key in more),
        )
        for name, entry in result["results"].items()
    ]
    return markdown(head, rows)


def keep(path: Path | None, result: Mapping[str, object]) -> None:
    """Write a result as JSON where a path is given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
