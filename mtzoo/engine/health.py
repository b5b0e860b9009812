"""Whether a run is alive, in words: the ways that this kind of model is known to die.

Thresholds are rules of thumb, chosen so that a healthy run of the zoo's recipes stays silent;
``docs/training.md`` explains them to users.
"""

from __future__ import annotations

from collections.abc import Mapping

DEAD_SPREAD = 0.05
"""Spread of the motion code's mean over videos below which it says nothing; alive is near 1."""

LEAST_BITS = 1.0
"""Divergence of the motion code from its prior, in bits a video, below which it cannot even tell
two motions apart: the divergence is an upper bound of what the code says of its video."""

ALIKE_CONTENT = 0.05
"""Spread of content codes between videos, as a share of their size, below which all pictures look
the same to it."""

NO_CONTENT = 0.01
"""Size of content codes below which they are gone, whatever they look like in proportion."""

ALIKE_SAMPLES = 0.004
"""Mean pixel difference of two samples, in [0, 2]: half a grey level of 255."""

STILL = 0.02
"""Change from frame to frame of a transfer, as a share of the source's, below which it stands."""

SURE = 0.98
"""What a discriminator that has won says of real, and one minus it of generated, videos."""

NO_LOSS = 0.05
"""Loss of a discriminator that has won; one that guesses has at least ten times that in all forms
of the zoo."""


def diagnose(figures: Mapping[str, float]) -> list[str]:
    """Say what is wrong, one sentence a finding; nothing where all is well.

    Args:
        figures: The objective's health figures by name, and the discriminators' figures by
            ``discriminator/`` and their name: mean beliefs (``real_image``, ``fake_image``,
            ``real_video``, ``fake_video``, in [0, 1]) and losses (``image``, ``video``). Those
            missing are not judged.

    Returns:
        Sentences that open with their subject and a colon.
    """
    return [*_codes(figures), *_judges(figures), *_videos(figures)]


def _codes(figures: Mapping[str, float]) -> list[str]:
    found = []
    spread, sigma = figures.get("motion_spread"), figures.get("motion_sigma")
    active, bits = figures.get("active_motion_dims"), figures.get("motion_bits")
    if spread is not None and (spread < DEAD_SPREAD or (sigma is not None and spread < sigma / 10)):
        beside = f" beside its own width of {sigma:.2g}" if sigma is not None else ""
        found.append(
            f"motion code: dead, all videos get nearly the same one (spread {spread:.2g}{beside}); "
            "lower the weight of L_KL or of L_M"
        )
    elif bits is not None and bits < LEAST_BITS:
        found.append(
            f"motion code: dead, it holds {bits:.2g} bits a video; lower the weight of L_KL"
        )
    elif active is not None and active < 2:
        found.append(
            f"motion code: nearly dead, {active:.0f} of its dimensions differ between videos; "
            "lower the weight of L_KL or of L_M"
        )

    between, within = figures.get("content_between"), figures.get("content_within")
    size = figures.get("content_size")
    if size is not None and size < NO_CONTENT:
        found.append(
            f"content codes: alike, they have shrunk to nothing (size {size:.2g}); lower the "
            "weight of L_C or give the encoder output: layer_norm"
        )
    elif between is not None and (
        between < ALIKE_CONTENT * (1.0 if size is None else size) or (within or 0.0) > between
    ):
        beside = f", {within:.2g} within one" if within is not None else ""
        found.append(
            f"content codes: alike, they do not tell videos apart (spread {between:.2g} between "
            f"videos{beside}); lower the weight of L_C"
        )
    return found


def _judges(figures: Mapping[str, float]) -> list[str]:
    found = []
    for judge in ("image", "video"):
        real, fake, loss = (
            figures.get(f"discriminator/{name}")
            for name in (f"real_{judge}", f"fake_{judge}", judge)
        )
        sure = real is not None and fake is not None and real > SURE and fake < 1 - SURE
        if not sure and (loss is None or loss >= NO_LOSS):
            continue
        says = [f"loss {loss:.2g}"] if loss is not None else []
        if real is not None and fake is not None:
            says.append(f"says {real:.3f} of real, {fake:.3f} of generated")
        found.append(
            f"{judge} discriminator: has won, its loss is near zero and teaches nothing "
            f"({'; '.join(says)}); slow it down or use spectral norm"
        )
    return found


def _videos(figures: Mapping[str, float]) -> list[str]:
    found = []
    samples, change = figures.get("sample_spread"), figures.get("frame_change")
    if samples is not None and samples < ALIKE_SAMPLES:
        found.append(
            f"samples: alike, two motions drawn for one picture differ by {samples:.2g} on "
            "average; the image generator ignores the motion"
        )
    if change is not None and change < STILL:
        found.append(
            f"frames: alike, transfers change by {change:.2g} of what their sources do; the image "
            "generator ignores the motion"
        )
    return found


def subject(finding: str) -> str:
    """What a finding is about: the same from one step to the next while figures change."""
    return finding.partition(":")[0]
