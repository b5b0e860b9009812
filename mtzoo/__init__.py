"""mtzoo: a zoo of motion-transfer components.

`create`, `list`, `describe` and `load` are the public face; everything else is imported from
where it lives. Importing this package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtzoo.errors import MtzooError
from mtzoo.registries import create, describe, registry
from mtzoo.registry import Card, Entry

if TYPE_CHECKING:
    import builtins
    from os import PathLike

    from mtzoo.interfaces import Model

__version__ = "0.1.0"

__all__ = ["Card", "Entry", "MtzooError", "__version__", "create", "describe", "list", "load"]


def list(kind: str) -> builtins.list[str]:
    """Return the sorted names of all components of ``kind``; imports none of them."""
    return registry(kind).names()


def load(path: str | PathLike[str]) -> Model:
    """Load a trained model from a weights folder or a run folder, in evaluation mode.

    Args:
        path: A folder with ``model.safetensors`` and ``config.json``; a run folder, whose
            ``model/`` is taken; or the name of a model that comes with mtzoo, see
            ``mtzoo ls pretrained``.

    Raises:
        MtzooError: The folder or a file in it is missing, damaged or from a newer version.
    """
    from mtzoo.weights import load_model

    return load_model(path)
