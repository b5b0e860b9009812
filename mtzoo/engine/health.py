"""Whether a run is alive, in words: the ways that this kind of model is known to die.

Thresholds are rules of thumb, chosen so that a healthy run of the zoo's recipes stays silent.
"""

from __future__ import annotations

from collections.abc import Mapping

DEAD_SPREAD = 0.05
"""Spread of the motion code's mean over videos below which it says nothing; alive is near 1."""

ALIKE_CONTENT = 0.01
"""Spread of content codes between videos below which all pictures look the same to it."""

ALIKE_SAMPLES = 0.004
"""Mean pixel difference of two samples, in [0, 2]: half a grey level of 255."""

SURE = 0.98
"""What a discriminator that has won says of real, and one minus it of generated, videos."""


def diagnose(figures: Mapping[str, float]) -> list[str]:
    """Say what is wrong, one sentence a finding; nothing where all is well.

    Args:
        figures: The objective's health figures and the discriminators' mean beliefs
            (``real_image``, ``fake_image``, ``real_video``, ``fake_video``, in [0, 1]) by name;
            those missing are not judged. A name may have a prefix ending in ``/``.

    Returns:
        Sentences that open with their subject and a colon.
    """
    known = {name.rpartition("/")[2]: value for name, value in figures.items()}
    found = []

    spread, sigma = known.get("motion_spread"), known.get("motion_sigma")
    active = known.get("active_motion_dims")
    if spread is not None and (spread < DEAD_SPREAD or (sigma is not None and spread < sigma / 10)):
        beside = f" beside its own width of {sigma:.2g}" if sigma is not None else ""
        found.append(
            f"motion code: dead, all videos get nearly the same one (spread {spread:.2g}{beside}); "
            "lower the weight of L_KL or of L_M"
        )
    elif active is not None and active < 2:
        found.append(
            f"motion code: nearly dead, {active:.0f} of its dimensions differ between videos; "
            "lower the weight of L_KL or of L_M"
        )

    between, within = known.get("content_between"), known.get("content_within")
    if between is not None and (between < ALIKE_CONTENT or (within or 0.0) > between):
        beside = f", {within:.2g} within one" if within is not None else ""
        found.append(
            f"content codes: alike, they do not tell videos apart (spread {between:.2g} between "
            f"videos{beside}); lower the weight of L_C"
        )

    for judge in ("image", "video"):
        real, fake = known.get(f"real_{judge}"), known.get(f"fake_{judge}")
        if real is not None and fake is not None and real > SURE and fake < 1 - SURE:
            found.append(
                f"{judge} discriminator: has won, its loss is near zero and teaches nothing "
                f"(says {real:.3f} of real, {fake:.3f} of generated); slow it down or use "
                "spectral norm"
            )

    samples = known.get("sample_spread")
    if samples is not None and samples < ALIKE_SAMPLES:
        found.append(
            f"samples: alike, two motions drawn for one picture differ by {samples:.2g} on "
            "average; the image generator ignores the motion"
        )
    return found


def subject(finding: str) -> str:
    """What a finding is about: the same from one step to the next while figures change."""
    return finding.partition(":")[0]
