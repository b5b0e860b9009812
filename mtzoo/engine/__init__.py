"""Training on Lightning Fabric; `fit` is the whole public face.

Importing this package, or its ``options``, imports no torch: recipes are checked without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtzoo.engine.loop import fit

__all__ = ["fit"]


def __getattr__(name: str) -> object:
    if name == "fit":
        from mtzoo.engine.loop import fit

        return fit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
