"""What verbs that use a model share: checks of arguments, the model, the data, and writing."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mtzoo.errors import MtzooError

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress
    from torch import Tensor

    from mtzoo.evaluation.perceptual import Lpips
    from mtzoo.interfaces import Model, PairDataset

MAX_FRAMES = 4096
"""A longer clip in one piece is a slip of the keyboard."""

MAX_BYTES = 2**30
"""Written pictures larger than this in memory are a slip of the keyboard, too."""

SHOWN = 256
"""Least side in pixels at which a clip is written unless a scale is given."""


def check_count(option: str, value: int | None, most: int = MAX_FRAMES) -> None:
    """Refuse a count that is given and not in 1 to ``most``."""
    if value is not None and not 1 <= value <= most:
        raise MtzooError(f"{option} must lie between 1 and {most}, not {value}")


def check_rate(value: float | None) -> None:
    """Refuse a rate that is given and not above 0 and up to 1000 frames a second."""
    if value is not None and not (math.isfinite(value) and 0 < value <= 1000):
        raise MtzooError(f"--fps must lie above 0 and be at most 1000, not {value}")


def check_seed(value: int | None, option: str = "--seed") -> None:
    """Refuse a seed that is given and that torch's generators cannot hold."""
    if value is not None and not 0 <= value < 2**63:
        raise MtzooError(f"{option} must lie between 0 and 2**63 - 1, not {value}")


def check_output(path: str, scale: int | None, *inputs: str) -> Path:
    """Return the output's path when it can be written, is no input and the scale is possible."""
    from mtzoo import media

    check_count("--scale", scale, most=32)
    output = media.check_output(path)
    for given in inputs:
        if Path(given).resolve() == output.resolve():
            raise MtzooError(
                f"--output {path} is an input too and would be lost; name another file"
            )
        if Path(given).is_dir() and output.resolve().is_relative_to(Path(given).resolve()):
            raise MtzooError(
                f"--output {path} lies among the frames in {given}; name a file in another folder"
            )
    return output


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which test videos."""
    parser.add_argument(
        "--data",
        metavar="DIR|WORLD",
        help="clip store, its address, or a synthetic world (shapes, faces); left out: the data "
        "of the run's recipe",
    )
    parser.add_argument(
        "--data-seed",
        type=int,
        metavar="SEED",
        help="of the pairs that are drawn from the data (the run's where --data is left out, 0 "
        "elsewhere)",
    )
    parser.add_argument("--split-by", metavar="WAY", help="a store's way to split (its first)")
    parser.add_argument(
        "--stride", type=int, metavar="N", help="frames of a store's video a step (1)"
    )


class Asked(NamedTuple):
    """What the options of `add_data` ask for.

    Attributes:
        pairs: The split.
        data: The section of a recipe that describes it.
        seed: That drew it.
    """

    pairs: PairDataset
    data: dict[str, Any]
    seed: int


def pairs(
    args: argparse.Namespace,
    config: Mapping[str, Any],
    model: str | None,
    split: Literal["train", "test"] = "test",
) -> Asked:
    """The split of what ``--data`` and its like ask for.

    Args:
        args: With the options of `add_data`.
        config: ``resolution`` and ``frames`` of the videos.
        model: Folder or name of a model, whose recipe is asked where ``--data`` is left out.
        split: Which part of the data.

    Raises:
        MtzooError: There are no such data, or an option is given that they have not.
    """
    from mtzoo.data.remote import is_remote
    from mtzoo.data.store import MANIFEST
    from mtzoo.recipe import build_dataset, load_recipe
    from mtzoo.registries import datasets
    from mtzoo.weights import recipe_file

    check_seed(args.data_seed, "--data-seed")
    sizes = {"resolution": config["resolution"], "frames": config["frames"]}
    seed = 0
    if args.data is None:
        recipe = recipe_file(model) if model is not None else None
        if recipe is None:
            raise MtzooError(
                "there is no model with a recipe beside it, so name the data with --data: a clip "
                "store or a synthetic world (shapes, faces)"
            )
        found = load_recipe(recipe)
        section = {**found.data, "frames": config["frames"]}
        seed = found.seed
    elif args.data in datasets.names() and args.data != "clips":
        section = {"name": args.data, **sizes}
    elif is_remote(args.data) or Path(args.data).exists():
        if not (is_remote(args.data) or (Path(args.data) / MANIFEST).exists()):
            raise MtzooError(
                f"--data {args.data}: there is no clip store in it (looked for {MANIFEST}); make "
                "one with `mtzoo prepare`"
            )
        section = {
            "name": "clips",
            "root": args.data,
            "frames": config["frames"],
            "stride": 1,
            "split_by": "",
        }
    else:
        worlds = ", ".join(name for name in datasets.names() if name != "clips")
        raise MtzooError(
            f"--data {args.data}: there is no such folder, nor a synthetic world of that name "
            f"({worlds})"
        )
    for option, value in (("stride", args.stride), ("split_by", args.split_by)):
        if value is None:
            continue
        if option not in section:
            raise MtzooError(
                f"--{option.replace('_', '-')} is for clip stores, and the data are "
                f"{section['name']}; leave it out"
            )
        section[option] = value
    seed = seed if args.data_seed is None else args.data_seed
    return Asked(build_dataset(section, split=split, seed=seed), section, seed)


def short_of(pairs: PairDataset) -> str:
    """What to say of test videos that are too short for a clip; nothing where there are none."""
    if not pairs.left_out:
        return ""
    videos = f"video{'s are' if pairs.left_out > 1 else ' is'}"
    return (
        f"{pairs.left_out:,} test {videos} too short for a clip of {pairs.frames} frames and left "
        "out"
    )


def add_protocol(parser: argparse.ArgumentParser) -> None:
    """Add ``--protocol``."""
    parser.add_argument(
        "--protocol",
        default="mtzoo",
        metavar="NAME",
        help="how SSIM and PSNR are computed and how many samples are drawn: mtzoo, svg2018, "
        "savp2018, srvp2020 (mtzoo)",
    )


def add_lpips(parser: argparse.ArgumentParser) -> None:
    """Add the option that says on which network LPIPS stands."""
    parser.add_argument(
        "--lpips",
        choices=("alex", "vgg", "squeeze", "none"),
        help="backbone of LPIPS and of diversity (alex where its weights are there)",
    )


def find_lpips(asked: str | None, device: torch.device) -> tuple[Lpips | None, str]:
    """LPIPS as ``--lpips`` asks for it, or why there is none where nobody insists."""
    from mtzoo.evaluation.perceptual import Lpips

    if asked == "none":
        return None, ""
    try:
        return Lpips(asked or "alex", device=device), ""
    except MtzooError as error:
        if asked is not None:
            raise
        return None, str(error)


def check_size(output: Path, pictures: int, side: int, scale: int | None) -> None:
    """Refuse an output of ``pictures`` squares of ``side`` pixels that memory would not hold."""
    enlarged = side * (scale or (1 if output.suffix.lower() == ".png" else shown_scale(side)))
    size = 3 * pictures * enlarged**2
    if size > MAX_BYTES:
        raise MtzooError(
            f"{output} would take {size / 2**30:.1f} GiB of pixels ({pictures} pictures of "
            f"{enlarged}x{enlarged}); take a smaller --scale or fewer --frames or --samples"
        )


def shown_scale(side: int) -> int:
    """How often a clip of ``side`` pixels is enlarged where no scale is given."""
    return max(1, math.ceil(SHOWN / side))


def check_clip(model: Model, frames: int, video: str) -> None:
    """Refuse a source clip that is shorter than the model's parts can take."""
    least = max(int(getattr(part, "min_frames", 1)) for part in model.generators().modules())
    if frames < least:
        raise MtzooError(
            f"{video} gives {frames} frame{'s' * (frames != 1)} here and the model needs at least "
            f"{least}; raise --frames or --fps, or take a longer video"
        )


def pick_device(name: str) -> torch.device:
    """Return the device for ``auto``, ``cpu`` or ``cuda``."""
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise MtzooError("--device cuda: torch finds no NVIDIA GPU; use --device cpu")
    return torch.device("cuda" if name != "cpu" and available else "cpu")


def progress() -> Progress:
    """A bar for long work, where somebody looks."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def load(path: str, device: torch.device) -> tuple[Model, dict[str, Any]]:
    """Return the model of a run or weights folder and its configuration."""
    from mtzoo.weights import load_model, read_config

    return load_model(path, device=device), read_config(path)


def load_folded(path: str, device: torch.device) -> tuple[Model, dict[str, Any]]:
    """Return the same, rearranged for inference (`mtzoo.nn.fold`): equal up to rounding."""
    from mtzoo.nn.fold import fold

    model, config = load(path, device)
    return fold(model), config


def world(name: str) -> PairDataset:
    """Return the test pairs of a synthetic world, or of the one that a model was trained on."""
    from mtzoo.recipe import build_dataset, load_recipe
    from mtzoo.registries import datasets
    from mtzoo.weights import recipe_file

    worlds = [known for known in datasets.names() if not datasets.get(known).on_disk]
    if name in worlds:
        return build_dataset({"name": name}, split="test", seed=0)
    try:
        file = recipe_file(name)
    except MtzooError as error:
        raise MtzooError(
            f"{name} is neither a synthetic world ({', '.join(worlds)}) nor a model: {error}"
        ) from error
    if file is None:
        raise MtzooError(
            f"{name} has no recipe beside its weights; name a world instead: {', '.join(worlds)}"
        )
    recipe = load_recipe(file)
    if recipe.data["name"] not in worlds:
        raise MtzooError(
            f"{name} was trained on {recipe.data['name']}, where no true transfer can be "
            f"rendered; name a world instead: {', '.join(worlds)}"
        )
    return build_dataset(recipe.data, split="test", seed=recipe.seed, where=recipe.where)


@contextlib.contextmanager
def computing(device: torch.device, fewer: str = "--frames") -> Iterator[None]:
    """Turn running out of memory into one line with the way out, less of option ``fewer``."""
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise MtzooError(
            f"the GPU's memory is too small for this; take fewer {fewer} or --device cpu"
        ) from error
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):
            raise
        raise MtzooError(f"memory is too small for this; take fewer {fewer}") from error


def to_video(frames: Tensor, channels: int) -> Tensor:
    """Turn uint8 ``(T, H, W, 3)`` into a batch of one, ``(1, T, C, H, W)`` in [-1, 1].

    Grey models (one channel) see the luma of ITU-R BT.601.
    """
    import torch

    from mtzoo.interfaces import as_video

    if channels == 1:
        luma = frames.float() @ torch.tensor([0.299, 0.587, 0.114])
        frames = luma.round().to(torch.uint8)[..., None]
    elif channels != 3:
        raise MtzooError(f"the model takes {channels} channels; pictures have 3, or 1 in grey")
    return as_video(frames[None])


def finite(video: Tensor, model: str) -> Tensor:
    """Return ``video`` unless the model answered with something that is no number."""
    if not video.isfinite().all():
        raise MtzooError(
            f"the model in {model} gives values that are not finite; its training went wrong, "
            "take an earlier checkpoint"
        )
    return video


def write_clip(path: Path, frames: Tensor, fps: float, scale: int | None, side: int) -> None:
    """Write a clip whose single pictures are ``side`` pixels wide, large enough to look at."""
    from mtzoo import media

    media.write(path, frames, fps=fps, scale=scale or shown_scale(side))
