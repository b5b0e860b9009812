"""Trained models for the scripts that look at them."""

from __future__ import annotations

import mtzoo
from mtzoo.components.image_generators.layered import LayeredImageGenerator
from mtzoo.errors import MtzooError
from mtzoo.models.dual_mtgan import DualMTGAN


def trained(model: str) -> DualMTGAN:
    """The model of that name or in that folder, for use.

    Raises:
        SystemExit: There is none, or it is another; says so in one line.
    """
    try:
        found = mtzoo.load(model)
    except MtzooError as error:
        raise SystemExit(f"--model: {error}") from None
    if not isinstance(found, DualMTGAN):
        raise SystemExit(f"--model: {model} is a {type(found).__name__}, and no dual_mtgan")
    return found.eval()


def layers_of(model: DualMTGAN) -> LayeredImageGenerator:
    """Its image generator.

    Raises:
        SystemExit: That is not ``layered``.
    """
    generator = model.image_generator
    if not isinstance(generator, LayeredImageGenerator):
        raise SystemExit(
            f"--model: its image generator is a {type(generator).__name__}, which has "
            "no layers; take one with layered"
        )
    return generator
