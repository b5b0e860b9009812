"""Adversarial losses on logits, by name; each is a loss to minimise.

Discriminators of the zoo return logits ``l`` without a sigmoid, so D = sigmoid(l) and every
logarithm is computed as softplus, which neither overflows nor returns infinities.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from mtzoo.interfaces import check_choice

AdversarialForm = Literal["minimax", "non_saturating", "hinge", "lsgan"]
"""What the game is; `real_loss`, `fake_loss` and `generator_loss` say what each form computes."""


def real_loss(logits: Tensor, form: AdversarialForm) -> Tensor:
    """The discriminator's loss on what it should call real, mean over all elements.

    - ``minimax`` and ``non_saturating`` (Goodfellow et al. 2014): -log D;
    - ``hinge`` (Lim & Ye 2017): max(0, 1 - l);
    - ``lsgan`` (Mao et al. 2017, targets 1 and 0): (l - 1)^2 / 2.

    Args:
        logits: Of any shape, without a sigmoid.
        form: Adversarial form.

    Returns:
        Scalar; 0 or more.

    Raises:
        MtzooError: There is no such form.
    """
    check_choice("real_loss", "form", form, AdversarialForm)
    if form == "hinge":
        return F.relu(1.0 - logits).mean()
    if form == "lsgan":
        return 0.5 * (logits - 1.0).square().mean()
    return F.softplus(-logits).mean()


def fake_loss(logits: Tensor, form: AdversarialForm) -> Tensor:
    """The discriminator's loss on what it should call fake, mean over all elements.

    - ``minimax`` and ``non_saturating``: -log(1 - D);
    - ``hinge``: max(0, 1 + l);
    - ``lsgan``: l^2 / 2.

    Args:
        logits: Of any shape, without a sigmoid.
        form: Adversarial form.

    Returns:
        Scalar; 0 or more.

    Raises:
        MtzooError: There is no such form.
    """
    check_choice("fake_loss", "form", form, AdversarialForm)
    if form == "hinge":
        return F.relu(1.0 + logits).mean()
    if form == "lsgan":
        return 0.5 * logits.square().mean()
    return F.softplus(logits).mean()


def generator_loss(logits: Tensor, form: AdversarialForm) -> Tensor:
    """The generator's loss on its own products, mean over all elements.

    - ``minimax``: log(1 - D), as Goodfellow et al. 2014 and Eq. 5 and 6 of Dual-MTGAN write it;
      negative, and flat where the discriminator is sure;
    - ``non_saturating``: -log D, the same fixed point with a gradient where it is needed;
    - ``hinge``: -l;
    - ``lsgan``: (l - 1)^2 / 2.

    Args:
        logits: Of any shape, without a sigmoid.
        form: Adversarial form.

    Returns:
        Scalar; ``minimax`` is 0 or less, ``hinge`` any number, the others 0 or more.

    Raises:
        MtzooError: There is no such form.
    """
    check_choice("generator_loss", "form", form, AdversarialForm)
    if form == "minimax":
        return -F.softplus(logits).mean()
    if form == "hinge":
        return -logits.mean()
    if form == "lsgan":
        return 0.5 * (logits - 1.0).square().mean()
    return F.softplus(-logits).mean()
