"""A trained model for others: weights in half the bytes, the recipe behind them, and a card.

What leaves is what using the model needs: no discriminator, no optimiser state, no averaging.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from mtzoo import weights
from mtzoo.data.store import sha256
from mtzoo.errors import MtzooError
from mtzoo.files import check_new_folder, making_folder
from mtzoo.interfaces import Model
from mtzoo.pretrained import CARD
from mtzoo.recipe import Recipe, load_recipe, tell_plugins
from mtzoo.registries import datasets

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

MAX_BYTES = 10_000_000
"""Most that a model may weigh that is to be kept in a repository."""

LICENCE = "Apache-2.0"
"""Of weights that were trained on nothing but synthetic worlds."""


def export(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    dtype: Literal["fp16", "bf16", "fp32"] = "fp16",
    results: str | os.PathLike[str] | None = None,
    licence: str | None = None,
) -> Path:
    """Write a folder with ``model.safetensors``, ``config.json``, ``recipe.yaml`` and a card.

    The same run gives the same bytes, so results that were measured with an exported folder can
    be put on its card by exporting again. The folder appears whole or not at all.

    Args:
        model: A run folder, or another folder of weights with the recipe beside them.
        output: The folder to make; its name is the model's name on the card.
        dtype: Of the weights in the file; they are computed with in 32 bits.
        results: ``results.json`` of ``mtzoo evaluate``, of the weights before or after rounding.
        licence: Of the weights; left out: Apache-2.0 where the data is a synthetic world.

    Raises:
        MtzooError: Something is missing, does not fit together, or takes more than `MAX_BYTES`.
    """
    output = check_new_folder(output)
    file = weights.recipe_file(model)
    if file is None:
        raise MtzooError(
            f"{model} has no recipe.yaml, so its card could not say how it was trained; give the "
            "folder that mtzoo fit wrote"
        )
    recipe = load_recipe(file)
    config = weights.read_config(model)
    licence = licence or _licence(recipe, config)
    built = weights.load_model(model)
    _round(built, dtype)
    with making_folder(output) as place:
        weights.save_model(place, built, {**config, "licence": licence, "dtype": dtype})
        shutil.copyfile(file, place / "recipe.yaml")
        measured = None
        if results is not None:
            hashes = {
                sha256(place / weights.WEIGHTS): "of these weights",
                sha256(weights.weights_folder(model) / weights.WEIGHTS): "before rounding",
            }
            measured = _measured(Path(results), output.name, hashes, recipe)
        card = _card(output.name, built, recipe, config, dtype, licence, measured)
        (place / CARD).write_text(card, "utf-8")
        size = sum(path.stat().st_size for path in place.iterdir())
        if size > MAX_BYTES:
            raise MtzooError(
                f"{output.name} would take {size / 1e6:.1f} MB in {dtype}, over the "
                f"{MAX_BYTES / 1e6:.0f} MB of a model that is kept in a repository; "
                + ("train narrower networks" if dtype != "fp32" else "export it in fp16")
            )
        weights.load_model(place)  # what would not load must not leave
    return output


def _licence(recipe: Recipe, config: dict[str, Any]) -> str:
    def rendered(data: Mapping[str, Any]) -> bool:
        return not datasets.get(str(data["name"])).on_disk

    other = (config.get("prior") or {}).get("data")  # that its prior was learned from
    if other and rendered(other):
        other = None
    if not other and rendered(recipe.data):
        return LICENCE
    stated = config.get("licence", "not stated")
    if stated == "not stated" or other:
        whose, name = (
            (f"the prior of {recipe.name}", other["name"])
            if other
            else (recipe.name, recipe.data["name"])
        )
        raise MtzooError(
            f"the data of {whose} ({name}) states no licence; say with --licence under which the "
            "weights may be used"
        )
    return str(stated)


def _round(model: Model, dtype: str) -> None:
    """Round the weights; numbers of other kinds, such as counters, stay."""
    if (name := _not_finite(model)) is not None:
        raise MtzooError(
            f"{name} is not finite: the training went wrong; take an earlier checkpoint"
        )
    model.generators().to(DTYPES[dtype])
    if (name := _not_finite(model)) is not None:
        wider = "bf16" if dtype == "fp16" else "fp32"
        raise MtzooError(
            f"{name} does not fit into {dtype}: a weight is too large; use --dtype {wider}"
        )


def _not_finite(model: Model) -> str | None:
    """The first of the weights that holds a number that is none, or is infinite."""
    state = model.generators().state_dict()
    return next((name for name, value in state.items() if not value.isfinite().all()), None)


def _trained_for(steps: Mapping[str, int] | None) -> str:
    """The option that trains classifiers of the same kind, by what `evaluate` wrote of them."""
    return f"--classifier-steps {steps['content']} {steps['motion']} " if steps else ""


def _measured(path: Path, name: str, hashes: dict[str, str], recipe: Recipe) -> str:
    """The card's table of figures with the command that measured them."""
    try:
        found = json.loads(path.read_text("utf-8"))
        whose = hashes.get(found["weights_sha256"])
        command = (
            f"mtzoo evaluate --model {name} {_asked(found, recipe)}--protocol "
            f"{found['protocol']['name']} --videos {found['videos']} --samples "
            f"{found['samples']} --seed {found['seed']} "
            + (f"--lpips {found['lpips']['backbone']} " if found.get("lpips") else "")
            + ("--fvd i3d_torchscript.pt " if found.get("fvd") else "")
            + ("--classifiers classifiers " if found.get("classes") else "")
            + _trained_for(found.get("classifier_steps"))
            + "--output results"
        )
        known = [metric for metric in _COLUMNS if any(metric in row for row in found["methods"])]
        rows = [
            [row["task"], row["method"], *(_cell(row.get(metric), metric) for metric in known)]
            for row in found["methods"]
        ]
    except OSError as error:
        raise MtzooError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MtzooError(
            f"{path} is no results.json of mtzoo evaluate ({type(error).__name__}: {error})"
        ) from error
    if whose is None:
        raise MtzooError(f"{path} was measured with other weights; evaluate this model again")
    head = ["task", "method", *(_COLUMNS[metric][0] for metric in known)]
    table = [head, ["---"] * len(head), *rows]
    lines = (
        f"Measured {whose} on {_counted(found)}; mean and 95 % interval over videos:",
        "",
        *(f"| {' | '.join(row)} |" for row in table),
        "",
        *_apart(found),
        "```",
        command,
        "```",
    )
    return "\n".join(lines)


def _counted(found: Mapping[str, Any]) -> str:
    """How many held-out clips were scored, in words."""
    if not found.get("origins"):
        return f"{found['videos']} held-out videos"
    of = f" of {found['available']:,}" if found["videos"] < found["available"] else ""
    return f"{found['videos']:,}{of} windows of {found['sources']:,} held-out videos"


def _asked(found: Mapping[str, Any], recipe: Recipe) -> str:
    """The options that ask for the data of an evaluation again, each with a space after it."""
    given = _data(found["data"], recipe)
    # Results that do not say it are of a time when one seed drew samples and named data.
    seed = found.get("data_seed", found["seed"] if "data" in given else recipe.seed)
    if seed != (0 if "data" in given else recipe.seed):
        given["data-seed"] = seed
    if found["data"]["frames"] != recipe.data.get("frames"):
        given["frames"] = found["data"]["frames"]
    return "".join(f"--{key} {shlex.quote(str(value))} " for key, value in given.items())


def _data(section: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The options, of evaluating or of learning a prior, that ask for the data of a section."""
    own = json.loads(json.dumps(recipe.data))
    keys = {*section, *own} - {"frames"}
    apart = {key for key in keys if (key, section.get(key)) not in own.items()}
    split = {key.replace("_", "-"): section.get(key) for key in ("split_by", "stride")}
    if apart <= {"split_by", "stride"}:
        return {key: split[key] for key in split if key.replace("-", "_") in apart}
    usual = ("", 1, None)
    return {
        "data": section.get("root", section["name"]),
        **{key: value for key, value in split.items() if value not in usual},
    }


# By metric of an evaluation: its heading on the card, digits, factor.
_COLUMNS = {
    "psnr": ("PSNR in dB", 2, 1),
    "ssim": ("SSIM", 3, 1),
    "lpips": ("LPIPS", 3, 1),
    "content": ("content right, %", 1, 100),
    "motion": ("motion right, %", 1, 100),
    "fvd": ("FVD", 1, 1),
}

# The same of differences between samples, which belong to no row: what stands before and after.
_DIVERSITY = {
    "diversity": ("Samples of one picture differ by", 1, "of 255 a pixel."),
    "diversity_lpips": ("LPIPS between samples of one picture:", 4, ""),
}


def _apart(found: Mapping[str, Any]) -> list[str]:
    """Lines of the card on how far samples differ, where that was measured."""
    lines = []
    for key, (before, digits, after) in _DIVERSITY.items():
        # One sample was once said to differ by 0 from itself.
        if found.get(key) and found["samples"] > 1:
            lines.append(f"{before} {_shown(found[key], digits)} {after}".strip())
    return [*lines, ""] if lines else []


def _cell(figure: dict[str, float] | float | None, metric: str) -> str:
    """A figure and its interval; a dash where there is none."""
    if figure is None:
        return "–"
    _, digits, factor = _COLUMNS[metric]
    if not isinstance(figure, dict):
        return f"{figure:.{digits}f}"
    return _shown(figure, digits, factor)


def _shown(figure: Mapping[str, float | None], digits: int, factor: int = 1) -> str:
    """The mean and, where there is one, its interval."""
    numbers = [figure[key] for key in ("mean", "low", "high")]
    mean, *ends = [f"{factor * number:.{digits}f}" for number in numbers if number is not None]
    return f"{mean} [{', '.join(ends)}]" if ends else mean


def _prior(name: str, config: dict[str, Any], recipe: Recipe) -> str:
    """The command that taught it what samples are drawn from, where one did."""
    learned = config.get("prior")
    if not isinstance(learned, dict):
        return ""
    given = {"prior": config["model"]["motion_prior"]["name"]}
    given |= {key: learned[key] for key in ("clips", "steps", "seed") if key in learned}
    data = _data(learned["data"], recipe) if learned.get("data") else {}
    usual = 0 if "data" in data else recipe.seed
    # One that does not say it is of a time when one seed drew the prior and named data.
    seed = learned.get("data_seed", learned.get("seed", 0) if "data" in data else usual)
    given |= data | ({"data-seed": seed} if seed != usual else {})
    options = "".join(f" --{key} {shlex.quote(str(value))}" for key, value in given.items())
    return f"\nmtzoo prior --model runs/{name} --output {name}{options}"


def _card(
    name: str,
    model: Model,
    recipe: Recipe,
    config: dict[str, Any],
    dtype: str,
    licence: str,
    measured: str | None,
) -> str:
    size, frames = config["resolution"], config["frames"]
    numbers = sum(value.numel() for value in model.generators().state_dict().values())
    data = recipe.data["name"]
    parts = ", ".join(
        f"{slot} `{part['name']}`"
        for slot, part in config["model"].items()
        if isinstance(part, dict) and not slot.endswith("discriminator")
    )
    kind = recipe.model["name"]
    needed = tell_plugins(config.get("versions"))
    needs = f"\n**Needs.** Beside mtzoo: {needed}.\n" if needed else ""
    steps = f"{config['step']:,} steps" if "step" in config else "An unknown number of steps"
    return f"""# {name}

{kind} for {size}x{size} pixels, trained on {data}: moves a picture with a video's motion.

```
mtzoo transfer --model {name} --image picture.png --video clip.mp4 --output moved.gif
```

**What.** Model `{kind}`: {parts}.
{numbers:,} numbers in {dtype}. No discriminators, no optimiser: for use, not for training on.
{needs}
**Trained.** {steps} on `{data}`, clips of {frames} frames, seed {recipe.seed},
by the recipe beside this file:

```
mtzoo fit --recipe recipe.yaml --output runs/{name}{_prior(name, config, recipe)}
```

**Figures.** {measured or "None yet: `mtzoo evaluate`, then export again with `--results`."}

**Licence.** {licence}.

**Limits.** It knows pictures and motions of the kind it was trained on, `{data}` at
{size}x{size}, and no others: whatever else it is shown comes out as a picture of that kind, or
as mush. Clips longer than {frames} frames are possible and untested.
"""
