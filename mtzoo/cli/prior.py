"""``mtzoo prior``: teach a trained model which motions a picture is likely to move by."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    from mtzoo.cli import _use

    about = (
        "Learn a prior of motion codes, given the picture, from a trained model's codes of its "
        "training clips, and write the model with it into a new folder. Transfers stay as they "
        "are; samples are drawn from the prior instead of N(0, I)."
    )
    parser = subparsers.add_parser(
        "prior", help="learn what samples are drawn from", description=about
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="DIR|NAME",
        help="run folder of fit, weights folder, or the name of a model that comes with mtzoo",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder to make for the model"
    )
    parser.add_argument(
        "--prior", default="flow", metavar="NAME", help="see `mtzoo ls motion_priors` (flow)"
    )
    _use.add_data(parser)
    parser.add_argument(
        "--clips",
        type=int,
        default=4096,
        metavar="N",
        help="training clips whose codes are learned (4096)",
    )
    parser.add_argument(
        "--steps", type=int, default=1000, metavar="N", help="training steps of 16 codes (1000)"
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that load the videos (0)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="SEED", help="of the prior's training (0)"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run (auto)"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Encode, learn, write, and say how likely held-out codes have become."""
    from mtzoo.cli import _use
    from mtzoo.errors import MtzooError
    from mtzoo.files import check_new_folder

    _use.check_count("--clips", args.clips, most=1_000_000)
    _use.check_count("--steps", args.steps, most=1_000_000)
    _use.check_seed(args.seed)
    if not 0 <= args.workers <= 64:
        raise MtzooError(f"--workers must lie between 0 and 64, not {args.workers}")
    output = check_new_folder(args.output)

    import torch

    from mtzoo.engine import prior as engine
    from mtzoo.evaluation.scores import check_fit
    from mtzoo.models.dual_mtgan import DualMTGAN
    from mtzoo.recipe import build_model, resolve_model
    from mtzoo.weights import without_judges

    device = _use.pick_device(args.device)
    model, config = _use.load(args.model, device)
    if not isinstance(model, DualMTGAN):
        raise MtzooError(f"--model: {args.model} is a {type(model).__name__}, and no dual_mtgan")
    test, data, data_seed = _use.pairs(args, config, args.model)
    check_fit(model, test)
    train = _use.pairs(args, config, args.model, "train").pairs

    # Built by the recipe's rules, and with it the configuration that builds it again.
    section = resolve_model(
        {**without_judges(config["model"]), "motion_prior": {"name": args.prior}}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        built = build_model(
            section, resolution=config["resolution"], channels=config["channels"], download=False
        )
    assert isinstance(built, DualMTGAN)
    prior = built.motion_prior
    assert prior is not None
    prior.to(device)
    with _use.computing(device, "--clips"), _use.progress() as bar:
        task = bar.add_task("clips", total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        known = engine.encode(model, train, args.clips, device, workers=args.workers, progress=tell)
        held_out = engine.encode(model, test, min(len(test), 256), device)
        task = bar.add_task("prior", total=None)
        engine.learn(prior, known, steps=args.steps, seed=args.seed, progress=tell)
        before, after = (engine.surprise(one, held_out) for one in (None, prior))
    if not math.isfinite(after):
        raise MtzooError(
            "the prior's likelihood of test clips is not finite: it went wrong; take fewer --steps"
        )
    model.networks["motion_prior"] = prior
    learned = {"clips": len(known.first), "steps": args.steps, "seed": args.seed}
    learned["data_seed"] = data_seed
    if any(given is not None for given in (args.data, args.split_by, args.stride)):
        learned["data"] = data
    kept = {key: value for key, value in config.items() if key != "dtype"}  # it is fp32 now
    _write(output, model, {**kept, "model": section, "prior": learned}, args.model)
    print(
        f"codes of {len(held_out.first)} test clips: {after:.3f} nats a number of surprise, "
        f"{before:.3f} to N(0, I)"
    )
    if after > before:
        print(
            "warning: test clips surprise the prior more than N(0, I): it knows its clips by "
            "heart; take fewer --steps or more --clips",
            file=sys.stderr,
        )
    print(f"weights: {output}")
    return 0


def _write(output: Path, model: Any, config: dict[str, Any], given: str) -> None:
    """The weights with the prior, and the recipe of the model before it."""
    import shutil

    from mtzoo.files import making_folder
    from mtzoo.weights import recipe_file, save_model

    recipe = recipe_file(given)
    with making_folder(output) as folder:
        save_model(folder, model, config)
        if recipe is not None:
            shutil.copyfile(recipe, folder / "recipe.yaml")
