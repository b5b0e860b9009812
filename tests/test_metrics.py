"""PSNR and SSIM against scikit-image with the matching settings; best samples and intervals."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mtzoo.engine.evaluate import psnr as video_psnr
from mtzoo.errors import MtzooError
from mtzoo.evaluation.metrics import (
    PROTOCOLS,
    SsimSettings,
    best_sample,
    figure,
    protocol,
    psnr,
    ssim,
)


def videos(seed: int, side: int = 32, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Soft pictures and a disturbed copy, uint8 ``(2, 3, side, side, channels)``."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(6, channels, 5, 5, generator=generator)
    soft = torch.nn.functional.interpolate(coarse, size=side, mode="bicubic").clamp(0, 1)
    noise = torch.randn(soft.shape, generator=generator) * 0.08
    pair = [(255 * v.clamp(0, 1)).round().byte() for v in (soft + noise, soft)]
    made, truth = (v.permute(0, 2, 3, 1).reshape(2, 3, side, side, channels) for v in pair)
    return made.contiguous(), truth.contiguous()


# What the published evaluation code calls, with its settings spelt out.
REFERENCES = {
    "svg2018": {"data_range": 2.0},
    "savp2018": {
        "data_range": 1.0,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    },
}
REFERENCES["srvp2020"] = REFERENCES["mtzoo"] = REFERENCES["savp2018"]


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_scikit_images(name: str, channels: int) -> None:
    made, truth = videos(1, channels=channels)
    found = ssim(made, truth, PROTOCOLS[name].ssim)
    for b in range(2):
        for t in range(3):
            expected = np.mean(
                [
                    structural_similarity(
                        made[b, t, ..., c].numpy() / 255.0,
                        truth[b, t, ..., c].numpy() / 255.0,
                        **REFERENCES[name],
                    )
                    for c in range(channels)
                ]
            )
            assert float(found[b, t]) == pytest.approx(expected, abs=2e-5)


def test_the_settings_matter() -> None:
    """The spread between published ways of computing it is larger than between models."""
    made, truth = videos(2, side=64)
    values = {name: float(ssim(made, truth, p.ssim).mean()) for name, p in PROTOCOLS.items()}
    assert values["svg2018"] - values["savp2018"] > 0.05
    assert values["srvp2020"] == values["savp2018"]


def test_flat_and_dark_pictures_are_scored_without_losing_digits() -> None:
    """Small variances beside large squares: the case that single precision is bad at."""
    for level in (0, 3, 128, 255):
        truth = torch.full((1, 1, 32, 32, 1), level, dtype=torch.uint8)
        made = truth.clone()
        made[0, 0, ::2, ::3] = abs(level - 1)
        expected = structural_similarity(
            made[0, 0, ..., 0].numpy() / 255.0,
            truth[0, 0, ..., 0].numpy() / 255.0,
            **REFERENCES["mtzoo"],
        )
        assert float(ssim(made, truth)) == pytest.approx(expected, abs=2e-4)
        assert float(ssim(truth, truth)) == pytest.approx(1, abs=1e-6)


# Whether the published evaluation code takes PSNR of each channel and averages.
BY_CHANNEL = {"svg2018": True, "savp2018": False, "srvp2020": True, "mtzoo": False}


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("channels", [1, 3])
def test_psnr_is_scikit_images(name: str, channels: int) -> None:
    made, truth = videos(3, channels=channels)
    if channels == 3:  # blue is far better than the rest
        made[..., 2] = (made[..., 2].float() * 0.1 + truth[..., 2].float() * 0.9).byte()
    found = psnr(made, truth, PROTOCOLS[name].psnr)
    for b in range(2):
        for t in range(3):
            one, two = (clip[b, t].numpy() / 255.0 for clip in (truth, made))
            parts = [(one, two)]
            if BY_CHANNEL[name]:
                parts = [(one[..., c], two[..., c]) for c in range(channels)]
            expected = np.mean([peak_signal_noise_ratio(*part, data_range=1) for part in parts])
            assert float(found[b, t]) == pytest.approx(expected)
    if channels == 3:
        apart = psnr(made, truth, "channels") - psnr(made, truth, "pooled")
        assert apart.min() > 1


def test_psnr_caps_at_equality() -> None:
    made, truth = videos(3)
    for colours in ("pooled", "channels"):
        assert psnr(truth, truth, colours).unique().tolist() == [100.0]
    half = made.clone()
    half[..., 0] = truth[..., 0]
    others = [psnr(made[..., c : c + 1], truth[..., c : c + 1]) for c in (1, 2)]
    expected = (100 + others[0] + others[1]) / 3
    assert torch.allclose(psnr(half, truth, "channels"), expected)
    one = psnr(made[:, :1], truth[:, :1])[:, 0]
    assert torch.equal(one, video_psnr(made[:, :1], truth[:, :1]))


def test_one_truth_serves_all_samples() -> None:
    made, truth = videos(4)
    for settings in {p.ssim for p in PROTOCOLS.values()}:
        shared = ssim(made, truth[:1], settings)
        assert torch.allclose(shared, ssim(made, truth[:1].expand_as(made), settings), atol=1e-6)
        assert not torch.allclose(shared[1], ssim(made, truth, settings)[1], atol=1e-3)
    assert torch.equal(psnr(made, truth[:1]), psnr(made, truth[:1].expand_as(made)))


@given(st.integers(1, 6), st.integers(0, 9))
def test_batches_change_nothing(size: int, seed: int) -> None:
    made, truth = videos(seed, side=16)
    made, truth = made.flatten(0, 1)[:, None], truth.flatten(0, 1)[:, None]
    for metric in (ssim, psnr, functools.partial(psnr, colours="channels")):
        whole = metric(made, truth)
        parts = [metric(a, b) for a, b in zip(made.split(size), truth.split(size), strict=True)]
        assert torch.allclose(torch.cat(parts), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"size": 4}, "odd"),
        ({"size": 1}, "odd"),
        ({"sigma": 0.0}, "sigma"),
        ({"data_range": -1.0}, "data_range"),
    ],
)
def test_settings_out_of_range(options: dict, part: str) -> None:
    with pytest.raises(MtzooError, match=part):
        SsimSettings(**options)


def test_what_cannot_be_scored() -> None:
    made, truth = videos(0, side=8)
    with pytest.raises(MtzooError, match="8x8 are smaller than SSIM's window of 11x11"):
        ssim(made, truth)
    with pytest.raises(ValueError, match="against"):
        psnr(made[:1], truth)
    for wrong in (made.float() / 255, made[0]):
        with pytest.raises(ValueError, match="uint8"):
            ssim(wrong, wrong)
    with pytest.raises(MtzooError, match="Did you mean 'svg2018'"):
        protocol("svg")


def test_best_samples() -> None:
    scores = torch.tensor([[1.0, 5.0, 1.0], [4.0, 1.0, 3.0], [9.0, 0.0, 0.0]])
    assert best_sample(scores) == 2
    assert best_sample(scores, first=1) == 0
    assert best_sample(scores, first=2) == 1
    assert best_sample(scores, first=1, lower=True) == 2
    assert best_sample(scores[:, 0]) == 2
    assert best_sample(scores[:, 0], lower=True) == 0


def test_intervals_cover_as_often_as_they_say() -> None:
    generator = torch.Generator().manual_seed(0)
    samples = 3 + 2 * torch.randn(300, 40, generator=generator, dtype=torch.float64)
    found = [figure(sample, draws=400, seed=i) for i, sample in enumerate(samples)]
    covered = sum(f.low <= 3 <= f.high for f in found) / len(found)
    assert 0.90 < covered < 0.98
    assert found[0].mean == pytest.approx(float(samples[0].mean()))
    assert found[0] == figure(samples[0], draws=400, seed=0)
    width = np.mean([f.high - f.low for f in found])
    assert width == pytest.approx(2 * 1.96 * 2 / 40**0.5, rel=0.1)


def test_clips_of_one_video_count_as_one_in_an_interval() -> None:
    generator = torch.Generator().manual_seed(0)

    def alike(clips: int) -> tuple[torch.Tensor, list[str]]:
        values = 2 * torch.randn(30, generator=generator, dtype=torch.float64)
        values = values.repeat_interleave(clips)
        noise = 0.1 * torch.randn(len(values), generator=generator, dtype=torch.float64)
        return 3 + values + noise, [f"video {i // clips}" for i in range(len(values))]

    covered = []
    for seed in range(200):
        values, names = alike(5)
        found = figure(values, names, draws=400, seed=seed)
        assert (found.count, found.sources) == (150, 30)
        assert found.mean == pytest.approx(float(values.mean()))
        assert found.low is not None
        assert found.high is not None
        covered.append(found.low <= 3 <= found.high)
    assert 0.88 < np.mean(covered) < 0.98
    blind = figure(values, draws=400)
    assert blind.low is not None
    assert blind.high is not None
    assert found.high - found.low > 2 * (blind.high - blind.low)
    # Which order they are in and what they are called is nothing to it.
    assert figure(values, list(range(150))) == figure(values)
    order = torch.arange(150).view(30, 5).T.flatten()
    mixed = figure(values[order], [names[i] for i in order], draws=400, seed=seed)
    assert (mixed.low, mixed.high) == pytest.approx((found.low, found.high))


def test_videos_of_many_clips_weigh_more() -> None:
    """By hand: of two videos both, or either twice, are drawn; means are over clips."""
    found = figure(torch.tensor([1.0, 1.0, 1.0, 5.0]), ["a", "a", "a", "b"], draws=4000)
    assert found.mean == 2
    assert (found.low, found.high) == (1, 5)
    middle = figure(torch.tensor([1.0, 1.0, 1.0, 5.0]), ["a", "a", "a", "b"], level=0.4)
    assert (middle.low, middle.high) == (2, 2)


def test_one_video_has_no_interval() -> None:
    for values, groups in ((torch.ones(1), []), (torch.arange(3.0), ["a"] * 3)):
        found = figure(values, groups)
        assert (found.low, found.high, found.sources) == (None, None, 1)
        assert str(found) == "1"
    with pytest.raises(ValueError, match="3 values of 2 clips"):
        figure(torch.ones(3), ["a", "b"])


def test_resamples_are_drawn_in_parts_and_stay_what_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = torch.randn(70, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chosen = torch.randint(70, (2000, 70), generator=torch.Generator().manual_seed(0))
    ends = torch.quantile(values[chosen].mean(1), torch.tensor([0.025, 0.975]).double()).tolist()
    whole = figure(values)
    assert [whole.low, whole.high] == pytest.approx(ends)
    monkeypatch.setattr("mtzoo.evaluation.metrics._VALUES_AT_ONCE", 500)
    largest = []
    drawn = torch.randint
    monkeypatch.setattr(torch, "randint", lambda *a, **k: largest.append(a[1]) or drawn(*a, **k))
    assert figure(values) == whole
    assert largest[0] == (7, 70)


def test_an_interval_of_nothing() -> None:
    for values in (torch.tensor([]), torch.tensor([1.0, float("nan")])):
        with pytest.raises(MtzooError, match="not finite"):
            figure(values)
