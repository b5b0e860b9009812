"""A fault for a spawned process of the engine's tests; light to import there."""

from __future__ import annotations

from mtzoo.errors import MtzooError


def raise_fault(rank: int) -> None:
    raise MtzooError("clip 7 is damaged; copy it again")
