"""Controlled trials of what the paper leaves open: one choice changed at a time, several seeds.

    python benchmarks/trials.py run [--recipe FILE] [--only NAME ...] [--seeds 0 1] [--output DIR]
    python benchmarks/trials.py table [--output DIR] [--markdown FILE]

Every trial is `mtzoo fit` on benchmarks/recipes/small_paper.yaml with the overrides below, which
`run` prints. A finished trial is not run again. `table` prints what came of each: PSNR of transfer
against the rendered truth and of reconstruction, and whether the codes live, as mean and, for
several seeds, half the range. `--markdown FILE` writes the tables between the marks in FILE.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

BASE = Path(__file__).parent / "recipes" / "small_paper.yaml"

AT_ONCE = (
    "objective.content_ramp=0",
    "objective.kl_ramp=0",
    "objective.motion_start=0",
    "objective.motion_ramp=0",
    "objective.adversarial_start=0",
    "objective.adversarial_ramp=0",
)
BOUNDED = "model.motion_encoder.log_variance_bound=6"
Z_C = "model.content_encoder.output=batch_norm"
Z_M = "model.motion_encoder.mean_spread=0.9"

# Group -> trial -> overrides. "base" is the recipe as it is.
TRIALS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "base": {"base": ()},
    "terms": {
        "all from step 0": AT_ONCE,
        "L_C at once": ("objective.content_ramp=0",),
        "L_KL at once": ("objective.kl_ramp=0",),
        "L_M at once": ("objective.motion_start=0", "objective.motion_ramp=0"),
        "no L_M": ("objective.motion_weight=0",),
        "no L_C": ("objective.content_weight=0",),
        "no L_KL": ("objective.lambda_kl=0",),
        "no L_KL, log-variance bounded": (BOUNDED, "objective.lambda_kl=0"),
        "no GAN": ("objective.lambda_i=0", "objective.lambda_v=0"),
        "L_rec and L_KL alone": (
            "objective.lambda_i=0",
            "objective.lambda_v=0",
            "objective.motion_weight=0",
            "objective.content_weight=0",
        ),
    },
    "motion": {
        "L_M: gradient everywhere": ("objective.motion_gradient=all",),
        "L_M: target detached": ("objective.motion_gradient=detach_target",),
        "L_M: target is the mean": ("objective.motion_target=mean",),
        "KL: mean over the code": ("objective.kl_reduction=mean",),
        "code of 64": ("model.motion_encoder.motion_dim=64",),
        "code of 8": ("model.motion_encoder.motion_dim=8",),
        "log-variance bounded": (BOUNDED,),
        "posterior starts at sigma 1": ("model.motion_encoder.initial_sigma=1.0",),
        "E_M sees differences": ("model.motion_encoder.view=differences",),
    },
    "standard codes": {
        "z_c standardised": (Z_C,),
        "z_M standardised": (Z_M,),
        "both": (Z_C, Z_M),
        "both, all from step 0": (Z_C, Z_M, *AT_ONCE),
        "both, L_M everywhere": (Z_C, Z_M, "objective.motion_gradient=all"),
        "both, differences": (Z_C, Z_M, "model.motion_encoder.view=differences"),
    },
    "generator": {
        "z_M at the first step": ("model.motion_generator.entry=first_step",),
        "z_M as initial state": ("model.motion_generator.entry=initial_state",),
        "no time input": ("model.motion_generator.time_input=false",),
        "z_m without norm": ("model.motion_generator.output_norm=none",),
        "E_C: layer norm on the code": ("model.content_encoder.output=layer_norm",),
        "E_C: tanh on the code": ("model.content_encoder.output=tanh",),
        "content of one frame": ("model.content_frames=one",),
        "G_I: no norm": ("model.image_generator.norm=none",),
    },
    "judges": {
        "D: batch norm": (
            "model.image_discriminator.norm=batch",
            "model.image_discriminator.spectral_norm=false",
            "model.video_discriminator.norm=batch",
            "model.video_discriminator.spectral_norm=false",
        ),
        "D: as fast as G": ("engine.discriminator_learning_rate=0.001",),
        "minimax as written": ("objective.adversarial=minimax",),
        "hinge": ("objective.adversarial=hinge",),
        "least squares": ("objective.adversarial=lsgan",),
        "one V~_y a step": ("objective.target_videos=random",),
        "lambda_V 0.1": ("objective.lambda_v=0.1",),
    },
}

# Heading -> columns of log.csv and digits.
COLUMNS: Mapping[str, tuple[str, int]] = {
    "transfer, dB": ("evaluation/transfer_psnr", 2),
    "reconstruction, dB": ("evaluation/reconstruction_psnr", 2),
    "spread of z_M": ("health/motion_spread", 2),
    "its sigma": ("health/motion_sigma", 2),
    "spread of z_c": ("health/content_between", 3),
    "within a clip": ("health/content_within", 3),
    "samples differ": ("health/sample_spread", 3),
    "D_V real": ("discriminator/real_video", 2),
    "D_V generated": ("discriminator/fake_video", 2),
}


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def every() -> dict[str, Sequence[str]]:
    return {name: overrides for group in TRIALS.values() for name, overrides in group.items()}


def run(args: argparse.Namespace) -> int:
    chosen = {n: o for n, o in every().items() if not args.only or n in args.only}
    if missing := set(args.only or ()) - set(chosen):
        print(f"no trial {sorted(missing)[0]!r}; there are: {', '.join(every())}", file=sys.stderr)
        return 2
    failed = 0
    for seed in args.seeds:
        for name, overrides in chosen.items():
            folder = args.output / f"{slug(name)}-{seed}"
            if (folder / "result.json").exists():
                continue
            given = [f"--seed={seed}", *(f"--{o}" for o in (*overrides, *args.override))]
            if folder.exists():
                given = ["--resume", str(folder)]
            else:
                given = ["--recipe", str(args.recipe), "--output", str(folder), *given]
            command = [sys.executable, "-m", "mtzoo", "fit", *given]
            print(f"[{name}, seed {seed}] mtzoo fit {shlex.join(given)}", flush=True)
            log = args.output / f"{folder.name}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("w") as file:
                status = subprocess.run(command, stdout=file, stderr=file, check=False).returncode
            if status:
                failed += 1
                print(f"  ended with status {status}, see {log}", flush=True)
    return 1 if failed else 0


def latest(folder: Path) -> dict[str, float]:
    """The newest value of every column of a run's log."""
    found: dict[str, float] = {}
    with (folder / "log.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found |= {
                name: float(value)
                for name, value in row.items()
                if value and (name == "step" or "/" in name)
            }
    return found


def came_to_an_end(folder: Path) -> bool:
    """Whether a run was trained to its last step."""
    result = folder / "result.json"
    return result.exists() and json.loads(result.read_text("utf-8"))["training"] != "diverged"


def cell(values: Sequence[float], digits: int) -> str:
    if not values:
        return "–"
    middle = f"{statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ± {(max(values) - min(values)) / 2:.{digits}f}"


def rows(output: Path) -> Mapping[str, list[list[str]]]:
    """Group -> rows of cells, for the trials that have been run; the base first in each."""
    found: dict[str, list[list[str]]] = {}
    for group, trials in TRIALS.items():
        for name in dict.fromkeys(("base", *trials)):
            folders = sorted(output.glob(f"{slug(name)}-[0-9]*"))
            ended = [latest(f) for f in folders if came_to_an_end(f)]
            died = sum((f / "log.csv").exists() and not came_to_an_end(f) for f in folders)
            if not ended and not died:
                continue
            row = [name, str(len(ended)) + (f" of {len(ended) + died}" if died else "")]
            for column, digits in COLUMNS.values():
                row.append(cell([e[column] for e in ended if column in e], digits))
            found.setdefault(group, []).append(row)
    return {group: lines for group, lines in found.items() if group == "base" or len(lines) > 1}


def table(args: argparse.Namespace) -> int:
    head = ["trial", "seeds", *COLUMNS]
    texts = {}
    for group, lines in rows(args.output).items():
        table = [head, ["---"] * len(head), *lines]
        texts[group] = "\n".join("| " + " | ".join(line) + " |" for line in table)
    if not texts:
        print(f"no finished trial in {args.output}; run them first", file=sys.stderr)
        return 2
    for group, text in texts.items():
        print(f"\n{group}\n\n{text}")
    if args.markdown:
        page = args.markdown.read_text()
        for group, text in texts.items():
            page = re.sub(
                rf"(<!-- trials:{group} -->\n).*?(<!-- end -->)",
                lambda m, text=text: f"{m[1]}\n{text}\n\n{m[2]}",
                page,
                flags=re.DOTALL,
            )
        args.markdown.write_text(page)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    start = verbs.add_parser("run")
    start.add_argument("--recipe", type=Path, default=BASE)
    start.add_argument("--only", nargs="+", metavar="NAME")
    start.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    start.add_argument("--override", nargs="+", default=[], metavar="KEY=VALUE")
    show = verbs.add_parser("table")
    show.add_argument("--markdown", type=Path, metavar="FILE")
    for verb in (start, show):
        verb.add_argument("--output", type=Path, default=Path("runs/trials"), metavar="DIR")
    args = parser.parse_args()
    return run(args) if args.verb == "run" else table(args)


if __name__ == "__main__":
    raise SystemExit(main())
