"""Weights for others: ``model.safetensors`` and ``config.json`` in one folder.

What leaves a run leaves in this form, and it is the only form in which weights come in: no pickle
is read or written. The configuration is treated as a stranger's recipe, so a folder from
anywhere builds registered components or nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook

from mtzoo.errors import MtzooError, did_you_mean
from mtzoo.files import check_place, open_as_folder, replacing
from mtzoo.interfaces import Model
from mtzoo.pretrained import known_pretrained
from mtzoo.registries import models

FORMAT = 1
"""Version of the layout that is written; older ones are read, newer ones refused."""

MAX_FRAMES = 4096
"""Longest clip that a configuration may ask for by default."""

WEIGHTS = "model.safetensors"
CONFIG = "config.json"

# A configuration is a few kilobytes; one far larger is not ours.
_MAX_CONFIG_BYTES = 1 << 20

# Models may register more numbers than they save (re-registered ones, judges that they insist on);
# up to this many, a gigabyte, are no one's attack.
_LEAST_BOUND = 1 << 28

# Kinds that no one who uses weights needs, so folders do not hold them.
_JUDGES = ("image_discriminators", "video_discriminators")

# torch.compile(module) puts this into names; module.compile() does not.
_COMPILED = "_orig_mod."


def save_model(folder: str | os.PathLike[str], model: Model, config: Mapping[str, Any]) -> None:
    """Write the generators' weights and the configuration that builds the model again.

    A new folder appears whole or not at all. In a folder that exists each of the two files is
    replaced by a whole one.

    Args:
        folder: Where to write; made if missing, its parent must exist.
        model: Its `Model.generators` are saved: parameters and buffers.
        config: ``model`` (resolved model section), ``resolution``, ``channels``, ``frames`` and
            whatever else is to be kept (``step``, ``licence``, ``data``, ``recipe``,
            ``versions``). ``format`` is added. JSON values only.

    Raises:
        MtzooError: The folder cannot be written to.
        ValueError: The configuration lacks something `load_model` needs or is not JSON.
    """
    folder = Path(folder)
    state = _state(model)
    document = {**config, "format": FORMAT}
    try:
        _check_config(document, folder)
        text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    except (MtzooError, TypeError) as error:
        raise ValueError(f"this configuration would not load again: {error}") from error
    if folder.is_dir():
        _write(folder, state, text)
        return
    # A folder of its own until both files are whole.
    check_place(folder)
    temporary = folder.parent / f".{folder.name[:40]}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        temporary.mkdir()
        _write(temporary, state, text)
        os.replace(temporary, folder)
    except OSError as error:
        raise MtzooError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_model(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Model:
    """Build the model of a weights folder and load its weights, in evaluation mode.

    The same weights on the same device give the same outputs to the bit. torch's random state is
    left as it was. Discriminators are not part of such folders; where the model can do without
    them it is built without.

    Args:
        path: A weights folder, a run folder, whose ``model/`` is taken, or the name of a model
            that comes with mtzoo.
        device: Where the model goes.

    Raises:
        MtzooError: A file is missing, damaged, from a newer version, describes a model that is
            not registered here, or the weights do not fit the configuration.
    """
    folder = weights_folder(path)
    config = read_config(folder)
    file = folder / WEIGHTS
    try:
        state = safetensors.torch.load_file(file, device="cpu")
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise MtzooError(
            f"{file} is damaged or not a safetensors file ({_line(error)}); "
            "copy or download it again"
        ) from error
    model = _build(config, state, folder)
    model.generators().load_state_dict(state)
    return model.to(device).eval()


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the checked ``config.json`` of a weights folder or a run folder.

    The sizes are whole numbers of at least 1; the section ``model`` is a mapping that only
    building checks further.

    Raises:
        MtzooError: A file is missing, damaged or from a newer version.
    """
    folder = weights_folder(path)
    file = folder / CONFIG
    try:
        if file.stat().st_size > _MAX_CONFIG_BYTES:
            raise MtzooError(f"{file} is larger than {_MAX_CONFIG_BYTES} bytes: not mtzoo's")
        config = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise MtzooError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise MtzooError(f"{file} is damaged, it is not JSON: {_line(error)}") from error
    _check_config(config, file)
    return config


def weights_folder(path: str | os.PathLike[str]) -> Path:
    """Return the folder that holds the weights: ``path`` itself or the ``model/`` in it.

    Where there is no such folder, the name of a model that comes with mtzoo means that model's.

    Raises:
        MtzooError: There is no such folder or model, or a file is missing in it.
    """
    path = Path(path)
    if not path.exists():
        known = known_pretrained()
        if str(path) in known:
            return known[str(path)]
        beside = path.parent.iterdir() if path.parent.is_dir() else ()
        siblings = [p.name for p in beside if p.is_dir()]
        hint = did_you_mean(path.name, [*siblings, *known])
        raise MtzooError(
            f"no such folder: {path}.{hint} Give a run folder, a weights folder or the name of a "
            f"model that comes with mtzoo ({', '.join(known) or 'none here'})"
        )
    if not path.is_dir():
        raise MtzooError(
            f"{path} is a file; give the folder that holds {WEIGHTS} and {CONFIG}, or a run folder"
        )
    inner = path / "model"
    folder = inner if inner.is_dir() and not (path / CONFIG).exists() else path
    missing = [name for name in (WEIGHTS, CONFIG) if not (folder / name).is_file()]
    if len(missing) == 2:
        raise MtzooError(
            f"{path} holds no weights; give a run folder (with model/ in it) or a folder with "
            f"{WEIGHTS} and {CONFIG}"
        )
    if missing:
        raise MtzooError(f"{folder} lacks {missing[0]}; both {WEIGHTS} and {CONFIG} are needed")
    return folder


def recipe_file(path: str | os.PathLike[str]) -> Path | None:
    """Return the recipe that the weights were trained by, where it was kept with them.

    Raises:
        MtzooError: There are no weights; see `weights_folder`.
    """
    folder = weights_folder(path)
    places = (folder, folder.parent) if folder.name == "model" else (folder,)
    return next((p / "recipe.yaml" for p in places if (p / "recipe.yaml").is_file()), None)


def _state(model: Model) -> dict[str, Tensor]:
    state = model.generators().state_dict()
    wrapped = [name for name in state if _COMPILED in name]
    if wrapped:
        raise ValueError(
            f"{wrapped[0]!r} is the name of a wrapped module; compile in place, with m.compile()"
        )
    # Copies: safetensors refuses tensors that share memory, as tied weights do.
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def write_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, which those may read whom its folder lets.

    Raises:
        OSError: The disk refused.
    """
    try:
        safetensors.torch.save_file(dict(state), path, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:
        raise OSError(_line(error)) from error
    open_as_folder(path)


def _write(folder: Path, state: dict[str, Tensor], text: str) -> None:
    with replacing(folder / WEIGHTS) as temporary:
        write_tensors(temporary, state)
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(text, "utf-8")


def _check_config(config: object, where: Path) -> None:
    if not isinstance(config, dict):
        raise MtzooError(f"{where} is damaged: it holds no mapping")
    version = config.get("format")
    if not _whole(version):
        raise MtzooError(f"{where} names no format, so mtzoo did not write it")
    if version > FORMAT:
        raise MtzooError(
            f"{where} was written by a newer mtzoo (format {version}, this one reads up to "
            f"{FORMAT}); update mtzoo"
        )
    for key in ("resolution", "channels", "frames"):
        if not _whole(config.get(key)):
            raise MtzooError(
                f"{where}: {key!r} must be a whole number of at least 1, not {config.get(key)!r}"
            )
    if config["frames"] > MAX_FRAMES:
        raise MtzooError(
            f"{where}: 'frames' must lie between 1 and {MAX_FRAMES}, not {config['frames']}"
        )
    if not isinstance(config.get("model"), dict):
        raise MtzooError(f"{where}: the section 'model' is missing or not a mapping")


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _build(config: dict[str, Any], state: Mapping[str, Tensor], folder: Path) -> Model:
    """Build the model that ``config`` describes, if ``state`` fits it."""
    # Imported here: saving needs no recipes.
    from mtzoo.recipe import build_model, tell_plugins

    total = sum(value.numel() for value in state.values())
    # Initial weights are drawn only to be overwritten; the caller's random numbers stay.
    with torch.random.fork_rng(devices=[]), _bounded(max(4 * total, _LEAST_BOUND)):
        try:
            model = build_model(
                without_judges(config["model"]),
                resolution=config["resolution"],
                channels=config["channels"],
                download=False,
            )
        except MtzooError as error:
            needed = tell_plugins(config.get("versions"))
            with_parts = f"; the model has parts of {needed}" if needed else ""
            raise MtzooError(f"{folder / CONFIG}: {error}{with_parts}") from error
    _check_state(model.generators().state_dict(), state, folder)
    return model


@contextlib.contextmanager
def _bounded(most: int) -> Iterator[None]:
    """Stop building once modules hold more than ``most`` numbers.

    Otherwise widths made up by a stranger fill the memory before they are compared with the file.
    A parameter is registered before it is initialised, so nothing of it is in memory yet.
    """
    held = 0

    def count(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        nonlocal held
        held += parameter.numel() if parameter is not None else 0
        if held > most:
            raise MtzooError(f"the model described is far larger than its {WEIGHTS}")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def without_judges(section: Mapping[str, Any]) -> dict[str, Any]:
    """The model section with the discriminators' slots empty where they may be.

    Args:
        section: A recipe's ``model`` section, resolved.

    Returns:
        A copy.

    Raises:
        MtzooError: The section has no name, or no model has that name.
    """
    from mtzoo.recipe.options import signature

    name = section.get("name")
    if not isinstance(name, str):
        raise MtzooError("model: the name of the model is missing")
    slots = signature(models.get(name)).slots
    return {
        key: None if key in slots and slots[key].optional and slots[key].kind in _JUDGES else value
        for key, value in section.items()
    }


def _check_state(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], folder: Path) -> None:
    complaint = f"{folder / WEIGHTS} does not fit {CONFIG}: "
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    if missing or unexpected:
        parts = [
            f"{what} {_some(names)}"
            for what, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise MtzooError(complaint + "; ".join(parts))
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            raise MtzooError(
                f"{complaint}{name!r} is {tuple(state[name].shape)} in the file and "
                f"{tuple(tensor.shape)} in the model"
            )
        if state[name].is_floating_point() != tensor.is_floating_point():
            raise MtzooError(
                f"{complaint}{name!r} is {state[name].dtype} in the file and {tensor.dtype} in "
                "the model"
            )


def _some(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
