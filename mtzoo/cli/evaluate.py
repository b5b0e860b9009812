"""``mtzoo evaluate``: score a model beside its baselines, with intervals, by a named protocol."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from mtzoo.evaluation.classifiers import Classifiers
    from mtzoo.evaluation.scores import Method, Scores
    from mtzoo.interfaces import PairDataset


# Of the networks that judge and of their training clips, whatever the seed of what they judge.
_LEARNERS_SEED = 0

# Of sheet.png.
_SHOWN_PAIRS, _SHOWN_FRAMES = 4, 8


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    from mtzoo.cli import _use

    about = (
        "Score a model on test videos: transfer against the truth where a synthetic world knows "
        "it, the best of sampled motions, reconstruction; each beside copying."
    )
    parser = subparsers.add_parser("evaluate", help=about, description=about)
    parser.add_argument(
        "--model",
        metavar="DIR|NAME",
        help="run folder of fit, weights folder, or the name of a model that comes with mtzoo",
    )
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="score the baselines alone where no --model is given (beside a model they always are)",
    )
    _use.add_data(parser)
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder to make for the results"
    )
    _use.add_protocol(parser)
    parser.add_argument(
        "--samples", type=int, metavar="N", help="samples a video (the protocol's); 0 for none"
    )
    parser.add_argument(
        "--videos",
        type=int,
        default=256,
        metavar="N",
        help="test videos at most, of stores windows from all over the split (256)",
    )
    parser.add_argument(
        "--frames", type=int, metavar="N", help="frames a video (the model's; 16 without one)"
    )
    _use.add_lpips(parser)
    parser.add_argument(
        "--fvd", metavar="FILE", help="detector of FVD, i3d_torchscript.pt (no FVD without it)"
    )
    parser.add_argument(
        "--classifiers",
        type=Path,
        metavar="DIR",
        help="folder of classifiers of content and motion; where there is none, they are trained "
        "on the training split, which takes minutes, and kept there",
    )
    parser.add_argument(
        "--classifier-steps",
        type=int,
        nargs=2,
        metavar=("CONTENT", "MOTION"),
        help="steps in which classifiers are trained, where they are (3600 1600)",
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that load the videos (0)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="SEED", help="of the samples (0)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run (auto)"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Score, write ``results.json`` and figures, print tables; returns the exit status."""
    from mtzoo.cli import _use
    from mtzoo.errors import MtzooError
    from mtzoo.evaluation.metrics import protocol
    from mtzoo.files import check_new_folder, making_folder

    asked = protocol(args.protocol)
    if args.model is None and not args.baselines:
        raise MtzooError("name a model with --model, or ask for --baselines alone")
    if not 0 <= args.workers <= 64:
        raise MtzooError(f"--workers must lie between 0 and 64, not {args.workers}")
    _use.check_count("--frames", args.frames)
    _use.check_count("--videos", args.videos, most=1_000_000)
    if args.samples:
        _use.check_count("--samples", args.samples, most=1000)
    elif args.samples is not None and args.samples < 0:
        raise MtzooError(f"--samples must be 0 or more, not {args.samples}")
    _use.check_seed(args.seed)
    for steps in args.classifier_steps or ():
        _use.check_count("--classifier-steps", steps, most=1_000_000)
    if args.classifier_steps and args.classifiers is None:
        raise MtzooError("--classifier-steps is for classifiers; name their folder: --classifiers")
    output = check_new_folder(args.output)
    if args.classifiers is not None:
        inner = args.classifiers.resolve()
        if output.resolve() in (inner, *inner.parents):
            raise MtzooError(
                f"--classifiers {args.classifiers} lies in --output {output}, which has to be new; "
                "name a folder beside it"
            )

    import torch

    from mtzoo.data.store import sha256
    from mtzoo.engine.folder import versions, write_json
    from mtzoo.engine.samples import paint, spread
    from mtzoo.evaluation.figures import Row, lay_out, times
    from mtzoo.evaluation.frechet import Detector, check_enough
    from mtzoo.evaluation.scores import Judges, check_fit, chosen, score
    from mtzoo.media import write_image
    from mtzoo.weights import WEIGHTS, weights_folder

    device = _use.pick_device(args.device)
    lpips, reason = _use.find_lpips(args.lpips, device)
    missing = {"lpips": reason} if reason else {}
    judges = Judges(lpips, None if args.fvd is None else Detector(args.fvd, device))
    model, config = None, {"resolution": 64, "frames": 16}
    if args.model is not None:
        model, config = _use.load(args.model, device)
    if args.frames is not None:
        config["frames"] = args.frames
    pairs, data, data_seed = _use.pairs(args, config, args.model)
    if model is not None:
        check_fit(model, pairs)
    if judges.detector is not None:
        check_enough(len(chosen(pairs, args.videos)), pairs.frames)
    if not pairs.has_truth and args.classifiers is None:
        missing["transfer"] = _unjudged(pairs)
    trained_for = None
    if args.classifiers is not None:
        networks, trained_for, lacking = _classifiers(args, pairs, data, device)
        judges = dataclasses.replace(judges, classifiers=networks)
        missing |= lacking
    with _use.computing(device), _use.progress() as bar:
        task = bar.add_task("videos", total=None)
        scores = score(
            model,
            pairs,
            protocol=asked,
            videos=args.videos,
            samples=args.samples,
            device=device,
            seed=args.seed,
            judges=judges,
            workers=args.workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        painted = None
        if model is not None:
            shown = spread(_SHOWN_PAIRS, len(pairs))
            painted = paint(model, pairs, shown, device=device, seed=args.seed)
    if scores.samples == 1 and model is not None:
        missing["diversity"] = "no diversity: there is one sample a picture; raise --samples"
    results = {
        **scores.as_json(),
        **judges.as_json(scores.videos),
        "not_measured": missing,
        "model": args.model and str(Path(args.model)),
        "weights_sha256": args.model and sha256(weights_folder(args.model) / WEIGHTS),
        "classifiers_sha256": args.classifiers and sha256(args.classifiers / WEIGHTS),
        "classifier_steps": trained_for,
        "data": data,
        "data_seed": data_seed,
        "seed": args.seed,
        "versions": versions(torch.device(device)),
    }
    with making_folder(output) as folder:
        if painted is not None:
            names, clips = painted
            at = times(pairs.frames, _SHOWN_FRAMES)
            blocks = [
                [Row(name, list(clip[at])) for name, clip in zip(names, pair, strict=True)]
                for pair in clips
            ]
            write_image(folder / "sheet.png", lay_out(blocks, [str(t + 1) for t in at]))
        missing |= _draw(scores, folder)
        write_json(folder / "results.json", results)
    _print(scores)
    short = _use.short_of(pairs)
    for note in [*missing.values(), *([short] if short else []), *judges.notes(scores.videos)]:
        print(f"note: {note}")
    print(f"results: {output}")
    return 0


def _unjudged(pairs: PairDataset) -> str:
    """Why transfers have no score where there is no truth and nobody else who judges."""
    told = "no transfer score: nobody knows the true answer"
    if pairs.content_classes or pairs.motion_classes:
        return f"{told}; classifiers say what is seen: --classifiers DIR"
    return f"{told}, and the data have no label person or action that classifiers could learn"


def _draw(scores: Scores, folder: Path) -> dict[str, str]:
    """Write SSIM and PSNR over time, a figure a task; says what that lacks."""
    from mtzoo.errors import MtzooError
    from mtzoo.evaluation.figures import over_time, plot

    try:
        for task in dict.fromkeys(method.task for method in scores.methods):
            if lines := over_time(scores, task):
                (folder / f"{task}.png").write_bytes(plot(lines))
    except MtzooError as error:
        return {"figures over time": str(error)}
    return {}


def _classifiers(
    args: argparse.Namespace, pairs: PairDataset, data: dict[str, Any], device: torch.device
) -> tuple[Classifiers, Mapping[str, int] | None, dict[str, str]]:
    """The classifiers of a folder, trained now where there is none; for how long; what they lack.

    Steps are of content and motion, ``None`` where the folder does not say.
    """
    from mtzoo.cli import _use
    from mtzoo.engine.folder import versions
    from mtzoo.errors import MtzooError
    from mtzoo.evaluation import classifiers
    from mtzoo.files import check_new_folder
    from mtzoo.recipe import build_dataset, resolve_data

    # As it is kept: lists, no tuples.
    trained_on = _of_classifiers(json.loads(json.dumps(resolve_data(data))), pairs)
    steps = _steps(args)
    folder: Path = args.classifiers
    if "target_identity" in data:  # as many identities a batch as there can be
        data = {**data, "target_identity": "other"}
    stills = build_dataset(
        {**data, "frames": classifiers.STILL_FRAMES}, split="train", seed=_LEARNERS_SEED
    )
    clips = build_dataset(data, split="train", seed=_LEARNERS_SEED)
    classes, missing = {}, {}
    for side, seen, asked, known in (
        ("content", stills.content_classes, pairs.content_classes, "person"),
        ("motion", clips.motion_classes, pairs.motion_classes, "action"),
    ):
        classes[side] = classifiers.shared(seen, asked)
        if not classes[side]:
            why = (
                f"the test split shows a {' or '.join(seen)} that the training split does not"
                if seen
                else f"the data have no label {known}"
            )
            missing[side] = f"no {side} accuracy: {why}"
    if not any(classes.values()):
        raise MtzooError(f"--classifiers: {'; '.join(missing.values())}")
    if (folder / classifiers.CONFIG).exists():
        networks, config = classifiers.load(folder, device)
        kept = _of_classifiers(config.get("data") or {}, pairs)
        sizes = [(one.resolution, one.channels) for one in (networks, pairs)]
        if sizes[0] != sizes[1]:
            told = [f"{side}x{side} pixels of {channels} channels" for side, channels in sizes]
            raise MtzooError(
                f"the classifiers in {folder} were trained on {told[0]}, the data have {told[1]}; "
                "name another folder"
            )
        if not (kept.get("source") and trained_on.get("source")):  # left out, it may be any
            for one in (kept, trained_on):
                one.pop("source", None)
        if (kept, networks.classes) != (trained_on, classes):
            raise MtzooError(
                f"the classifiers in {folder} were trained on other data ({kept}) "
                f"than these ({trained_on}); name another folder"
            )
        if args.classifier_steps and dict(config.get("steps") or {}) != dict(steps):
            raise MtzooError(
                f"the classifiers in {folder} were trained for {config.get('steps')} steps, not "
                f"{dict(steps)}; name another folder, or leave --classifier-steps out"
            )
        return networks, config.get("steps"), missing
    check_new_folder(folder)
    total = sum(steps[side] for side, labels in classes.items() if labels)
    print(f"training classifiers for {total} steps, to be kept in {folder}", flush=True)
    with _use.computing(device), _use.progress() as bar:
        task = bar.add_task("classifiers", total=None)
        networks = classifiers.train(
            stills,
            clips,
            **classes,
            device=device,
            steps=steps,
            seed=_LEARNERS_SEED,
            workers=args.workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    about = {
        "data": trained_on,
        "steps": steps,
        "seed": _LEARNERS_SEED,
        "versions": versions(device),
    }
    classifiers.save(folder, networks, about)
    return networks, steps, missing


def _steps(args: argparse.Namespace) -> Mapping[str, int]:
    """Steps of content and motion, as asked for."""
    from mtzoo.evaluation import classifiers

    if args.classifier_steps is None:
        return classifiers.STEPS
    return dict(zip(("content", "motion"), args.classifier_steps, strict=True))


def _of_classifiers(data: Mapping[str, Any], pairs: PairDataset) -> dict[str, Any]:
    """What matters to them: not where videos lie, how many there are, nor how they are paired.

    A store's first way to split is named, whether it was left out or not.
    """
    from mtzoo.data.datasets.clips import ClipsDataset

    others = ("root", "size", "identity", "target_identity", "target_frame")
    told = {key: value for key, value in data.items() if key not in others}
    if told.get("split_by") == "" and isinstance(pairs, ClipsDataset):
        told["split_by"] = pairs.store.split_by[0]
    return told


# What a table shows of a metric: heading and digits.
_SHOWN = {
    "psnr": ("PSNR in dB", 2),
    "psnr_video": ("PSNR of videos", 2),
    "ssim": ("SSIM", 3),
    "lpips": ("LPIPS", 3),
    "content": ("content right, %", 1),
    "motion": ("motion right, %", 1),
}


def _print(scores: Scores) -> None:
    """A table a task: a row a method, mean and 95 % interval over videos."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = Console()
    if not out.is_terminal:
        out.width = 200  # a file has room for rows in one piece
    out.print(
        Text(
            f"{scores.counted()}, protocol {scores.protocol.name}; mean and 95 % interval over "
            "videos"
        )
    )
    for task in dict.fromkeys(method.task for method in scores.methods):
        methods = [method for method in scores.methods if method.task == task]
        metrics = [m for m in _SHOWN if any(m in method.values for method in methods)]
        fvd = any(method.fvd is not None for method in methods)
        table = Table(box=box.SIMPLE)
        table.add_column(task, no_wrap=True)
        for metric in metrics:
            table.add_column(_SHOWN[metric][0])
        if fvd:
            table.add_column("FVD")
        for method in methods:
            cells = [_cell(method, metric) for metric in metrics]
            if fvd:
                cells.append("" if method.fvd is None else f"{method.fvd:.1f}")
            table.add_row(method.name, *(Text(cell) for cell in cells))
        out.print(table)
    for line in _lines(scores):
        out.print(Text(line))


def _lines(scores: Scores) -> list[str]:
    """What stands below the tables: single labels of classifiers, and diversity."""
    lines = []
    real = [method for method in scores.methods if method.task == "real"]
    labels = [(m, v) for method in real for m, v in method.values.items() if m not in _SHOWN]
    if labels:
        told = ", ".join(f"{metric} {100 * values.mean():.1f}" for metric, values in labels)
        lines.append(f"single labels of real test videos right, %: {told}")
    if len(scores.diversity):
        apart = scores.figure(scores.diversity)
        lines.append(f"samples of one picture differ by {apart} of 255 a pixel")
    elif scores.samples == 1:
        lines.append("differences between samples: n/a, there is one a picture")
    if len(scores.diversity_lpips):
        apart = scores.figure(scores.diversity_lpips)
        lines.append(f"diversity (LPIPS between samples): {apart}")
    return lines


def _cell(method: Method, metric: str) -> str:
    if metric not in method.values:
        return ""
    factor = 100 if metric in ("content", "motion") else 1
    told = method.figure(metric).text(f".{_SHOWN[metric][1]}f", factor)
    return told.replace(", ", ",\N{NO-BREAK SPACE}")
