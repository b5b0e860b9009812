"""The tables of docs/performance.md from the results of the benchmarks.

    python benchmarks/tables.py             # from benchmarks/results
    python benchmarks/tables.py --measure   # measure everything that this machine can, first
    python benchmarks/tables.py --measure rivals_cpu   # or some of it

A table stands between ``<!-- NAME -->`` and ``<!-- end -->`` with its command, hardware and date.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import exchange
import few_channels
import generation
import reference_step
import rivals
import torch
from report import GPU_COLUMNS, RESULTS, gpu_cell, keep, markdown, variants_table

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"


class Entry(NamedTuple):
    """Where a table comes from."""

    script: str
    arguments: tuple[str, ...]
    table: Callable[[Mapping[str, Any]], str]
    needs_gpu: bool = False

    def command(self) -> str:
        """What a reader types."""
        return " ".join(["python", f"benchmarks/{self.script}.py", *self.arguments])

    def measure(self, output: Path) -> None:
        """Run it and keep what it found."""
        script = str(ROOT / "benchmarks" / f"{self.script}.py")
        command = [sys.executable, script, *self.arguments, "--output", str(output)]
        subprocess.run(command, check=True, env=self.surroundings())

    def surroundings(self) -> dict[str, str]:
        """Environment: what is measured on the CPU sees no GPU."""
        return {**os.environ, **({} if self.needs_gpu else {"CUDA_VISIBLE_DEVICES": ""})}


class Suite(Entry):
    """A file of the pytest-benchmark suite."""

    def command(self) -> str:
        """What a reader types."""
        return f"pytest -c benchmarks/pytest.ini benchmarks/{self.script}.py"

    def measure(self, output: Path) -> None:
        """Run it and keep what it found, without what pytest-benchmark notes of the machine."""
        with tempfile.TemporaryDirectory() as scratch:
            found = Path(scratch) / "found.json"
            command = [sys.executable, "-m", *self.command().split()]
            command.append(f"--benchmark-json={found}")
            subprocess.run(command, cwd=ROOT, check=True, env=self.surroundings())
            entries = json.loads(found.read_text(encoding="utf-8"))["benchmarks"]
        keep(output, reduced(entries))


def reduced(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """What the tables take of pytest-benchmark's JSON; entries without a reference are left out."""
    compared = [entry for entry in entries if "speed" in entry["extra_info"]]
    where = ("hardware", "threads", "torch", "date")
    info = compared[0]["extra_info"]
    return {
        **{key: info[key] for key in where},
        "results": {
            f"{entry['group']}, {list(entry['params'].values())[-1]}": {
                key: value for key, value in entry["extra_info"].items() if key not in where
            }
            for entry in compared
        },
    }


def components_table(result: Mapping[str, Any]) -> str:
    """One row for each component and way, one column for each variant's speed."""
    rows: dict[str, dict[str, Any]] = {}
    for name, found in result["results"].items():
        group, _, variant = name.rpartition(", ")
        rows.setdefault(group, {})[variant] = found
    variants = [name for name in next(iter(rows.values())) if name != "nchw"]
    head = ["component", "operations", "GF", "MiB moved", "peak MiB", "times its floor"]
    head += ["the same again: speed"]
    more = [key for key in GPU_COLUMNS if any(key in f["nchw"] for f in rows.values())]
    head += [f"nchw: {GPU_COLUMNS[key][0]}" for key in more]
    head += [f"{name}: speed (error)" for name in variants]
    lines = []
    for group, found in rows.items():
        plain = found["nchw"]
        line = [group.replace("_", " "), f"{plain['operations']:,}", f"{plain['flops'] / 1e9:.2f}"]
        line += [f"{plain['moved'] / 2**20:.0f}", f"{plain['peak'] / 2**20:.1f}"]
        line += [f"{plain['above_floor']:.2f}", f"{plain['speed']:.2f}"]
        line += [*(gpu_cell(plain, key) for key in more)]
        line += [f"{found[v]['speed']:.2f} ({found[v]['error']:.0e})" for v in variants]
        lines.append(line)
    return markdown(head, lines)


def suite_table(result: Mapping[str, Any]) -> str:
    """One row for each group and variant."""
    return variants_table(result, "run, variant")


TABLES = {
    "step_cpu": Entry("reference_step", (), reference_step.table),
    "few_channels_cpu": Entry("few_channels", (), few_channels.table),
    "generation_cpu": Entry("generation", (), generation.table),
    "rivals_cpu": Entry("rivals", (), rivals.table),
    "exchange_cpu": Entry("exchange", (), exchange.table),
    "components_cpu": Suite("components_bench", (), components_table),
    "step_cuda": Entry(
        "reference_step",
        ("--device", "cuda", "--batch", "32"),
        reference_step.table,
        needs_gpu=True,
    ),
    "codes_cuda": Suite("generator_bench", (), suite_table, needs_gpu=True),
    "components_cuda": Suite("components_bench", (), components_table, needs_gpu=True),
    "generation_cuda": Entry(
        "generation",
        ("--device", "cuda", "--batch", "1", "8", "32", "128", "512"),
        generation.table,
        needs_gpu=True,
    ),
}


def shown(name: str, entry: Entry) -> str:
    """A table with what it needs to be believed, or that there is none yet."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return f"Not yet measured. `{entry.command()}`"
    result = json.loads(path.read_text(encoding="utf-8"))
    where = (
        f"`{entry.command()}`; {result['hardware']}, {result['threads']} threads, "
        f"torch {result['torch']}, {result['date']}."
    )
    return f"{where}\n\n{entry.table(result)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", nargs="*", metavar="TABLE")
    args = parser.parse_args()
    chosen = set() if args.measure is None else set(args.measure) or set(TABLES)
    if unknown := chosen - set(TABLES):
        raise SystemExit(f"no table {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    page = PAGE.read_text(encoding="utf-8")
    for name, entry in TABLES.items():
        if name in chosen and (torch.cuda.is_available() or not entry.needs_gpu):
            entry.measure(RESULTS / f"{name}.json")
        block = f"<!-- {name} -->\n\n{shown(name, entry)}\n\n<!-- end -->"
        page, found = re.subn(
            rf"<!-- {name} -->.*?<!-- end -->", lambda _, b=block: b, page, flags=re.DOTALL
        )
        if found != 1:
            raise SystemExit(f"{PAGE} has {found} places for the table {name!r}; it needs one")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
