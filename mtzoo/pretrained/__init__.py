"""The small trained models that come with mtzoo: a weights folder each, known by its name."""

from __future__ import annotations

from pathlib import Path

CARD = "README.md"


def known_pretrained() -> dict[str, Path]:
    """The folders of the models that come with mtzoo, by name."""
    here = Path(__file__).resolve().parent
    return {path.parent.name: path.parent for path in sorted(here.glob("*/config.json"))}


def about(folder: Path) -> str:
    """What a model is, in a sentence: the first line of its card's text; empty without one."""
    card = folder / CARD
    lines = card.read_text("utf-8").splitlines() if card.is_file() else []
    return next((line for line in lines if line.strip() and not line.startswith("#")), "")
