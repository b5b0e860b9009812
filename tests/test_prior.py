"""The prior that samples are drawn from: the flow, learning it, and ``mtzoo prior``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from engine_kit import tiny
from torch import Tensor

from mtzoo import MtzooError
from mtzoo.components.motion_priors.flow import FlowMotionPrior
from mtzoo.data.datasets.shapes import Shapes
from mtzoo.engine import fit
from mtzoo.engine import prior as engine
from mtzoo.interfaces import Gaussian, as_video
from mtzoo.models.dual_mtgan import DualMTGAN
from mtzoo.recipe import load_recipe
from mtzoo.recipe.build import check_recipe
from mtzoo.weights import load_model, read_config

DIM = 5


def flow(**options: int | float) -> FlowMotionPrior:
    torch.manual_seed(0)
    sizes = {"width": 4, "layers": 3, "hidden": 16, "picture_dim": 8, **options}
    return FlowMotionPrior(32, 3, DIM, **sizes)  # type: ignore[arg-type]


def stirred(**options: int | float) -> FlowMotionPrior:
    """A flow that does more than permute."""
    built = flow(**options).double().eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if not parameter.any():
                parameter.normal_(std=0.5)
    return built


def pictures(count: int, seed: int = 1) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 32, 32, generator=source, dtype=torch.float64) * 2 - 1


# The flow


def test_a_new_flow_permutes_noise_and_has_the_density_of_the_normal_distribution():
    noise = torch.randn(4, DIM, dtype=torch.float64)
    new = flow().double().eval()
    drawn = new(noise, pictures(4))
    torch.testing.assert_close(drawn.sort(1).values, noise.sort(1).values)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum(1)
    torch.testing.assert_close(new.log_likelihood(noise, pictures(4)), normal)


def test_likelihood_is_that_of_the_change_of_variables():
    built, picture = stirred(), pictures(1)
    noise = torch.randn(1, DIM, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda one: built(one[None], picture)[0])(noise[0])
    slope = torch.linalg.slogdet(jacobian).logabsdet
    wanted = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum() - slope
    assert abs(slope) > 0.1
    torch.testing.assert_close(built.log_likelihood(built(noise, picture), picture)[0], wanted)


def test_pictures_matter_each_to_its_own_code():
    built = stirred()
    noise = torch.randn(1, DIM, dtype=torch.float64).expand(3, -1)
    drawn = built(noise, pictures(3))
    assert (drawn[0] - drawn[1]).abs().max() > 0.01
    torch.testing.assert_close(drawn[1:2], built(noise[:1], pictures(3)[1:2]))


def test_several_codes_of_a_picture_are_those_of_copies_of_it():
    built, two = stirred(), pictures(2)
    noise = torch.randn(6, DIM, dtype=torch.float64)
    looks: list[int] = []
    built.picture.register_forward_hook(lambda *given: looks.append(len(given[1][0])))
    copies = two.repeat_interleave(3, 0)
    torch.testing.assert_close(built(noise, two), built(noise, copies))
    torch.testing.assert_close(
        built.log_likelihood(noise, two), built.log_likelihood(noise, copies)
    )
    assert looks == [2, 6, 2, 6]
    assert built(noise[:0], two[:0]).shape == (0, DIM)


def test_what_a_flow_cannot_be_built_for_or_given_is_said():
    with pytest.raises(MtzooError, match="'flow': motion_dim must be at least 2, not 1"):
        FlowMotionPrior(32, 3, 1)
    with pytest.raises(MtzooError, match=r"'flow': dropout must lie in \[0, 1\), not 1"):
        flow(dropout=1.0)
    with pytest.raises(MtzooError, match=r"'flow': built for codes \(N, 5\).*given \(2, 4\)"):
        flow()(torch.zeros(2, 4), torch.zeros(2, 3, 32, 32))
    with pytest.raises(MtzooError, match=r"'flow': built for codes \(N, 5\).*2, given \(3, 5\)"):
        flow().log_likelihood(torch.zeros(3, 5), torch.zeros(2, 3, 32, 32))


# Learning


def known(count: int, sign: float = 1.0) -> engine.Known:
    """Bright pictures move one way, dark ones the other."""
    source = torch.Generator().manual_seed(3)
    bright = torch.arange(count) % 2
    first = (bright * 200 + 20).view(-1, 1, 1, 1, 1).expand(-1, 1, 32, 32, 3).to(torch.uint8)
    centre = sign * (bright * 4.0 - 2.0)[:, None]
    mean = centre + 0.1 * torch.randn(count, DIM, generator=source)
    return engine.Known(Gaussian(mean, torch.full_like(mean, math.log(0.01))), first)


def test_a_learned_prior_draws_what_the_picture_says():
    prior, clips = flow(dropout=0.0), known(64)
    engine.learn(prior, clips, steps=500, learning_rate=3e-3)
    assert not prior.training
    with torch.no_grad():
        drawn = prior(torch.randn(64, DIM), clips.picture())
    off = (drawn - clips.codes.mean).mean(1).abs().mean()
    assert off < 0.5, "the two ways lie four apart"
    told = engine.surprise(prior, clips)
    assert told < engine.surprise(None, clips) - 1.0
    assert told < engine.surprise(prior, known(64, sign=-1.0)) - 1.0


def test_learning_follows_from_its_seed_and_leaves_the_global_one():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    results = []
    for seed in (0, 0, 1):
        prior = flow()
        torch.manual_seed(5)
        engine.learn(prior, known(32), steps=3, seed=seed)
        assert torch.equal(torch.rand(3), wanted)
        results.append(torch.cat([p.detach().flatten() for p in prior.parameters()]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_codes_that_are_not_finite_are_said():
    clips = known(32)
    clips.codes.mean[:] = math.inf
    with pytest.raises(MtzooError, match="gradients are not finite at step 1"):
        engine.learn(flow(), clips, steps=2)


def test_clips_are_encoded_in_order_with_their_own_first_frames(run: Path):
    model, world = loaded(run), Shapes("train", 0, resolution=32, frames=8)
    clips = engine.encode(model, world, 18, torch.device("cpu"))
    assert clips.first.shape == (18, 1, 32, 32, 3)
    for position in (0, 17):
        video = world[position]["video"]
        assert torch.equal(clips.first[position], video[:1])
        with torch.no_grad():
            wanted = model.motion_encoder(as_video(video[None]))
        torch.testing.assert_close(clips.codes.mean[position], wanted.mean[0])
        torch.testing.assert_close(clips.codes.log_variance[position], wanted.log_variance[0])


# The verb

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    fit(tiny(folder, steps=1), folder / "run")
    return folder / "run"


def loaded(folder: Path) -> DualMTGAN:
    model = load_model(folder)
    assert isinstance(model, DualMTGAN)
    return model


def test_the_verb_writes_a_model_that_draws_from_its_prior_and_moves_as_before(
    run: Path, tmp_path: Path, cli: Cli
):
    output = tmp_path / "with"
    options = ("--clips", 20, "--steps", 30, "--seed", 2)
    code, out, err = cli("prior", "--model", run, "--output", output, *options)
    assert code == 0, err
    assert "nats a number of surprise" in out
    assert f"weights: {output}" in out
    config = read_config(output)
    assert config["model"]["motion_prior"]["name"] == "flow"
    assert config["model"]["motion_prior"]["layers"] == 8, "defaults may change, this may not"
    assert config["prior"] == {"clips": 20, "steps": 30, "seed": 2, "data_seed": 3}
    assert (output / "recipe.yaml").read_text() == (run / "recipe.yaml").read_text()

    before, after = loaded(run), loaded(output)
    assert before.motion_prior is None
    assert after.motion_prior is not None
    side = before.resolution
    picture, video = torch.rand(2, 3, side, side) * 2 - 1, torch.rand(2, 8, 3, side, side) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(after.transfer(picture, video), before.transfer(picture, video))
        noise = torch.randn(6, before.motion_dim, generator=torch.Generator().manual_seed(1))
        drawn = after.motion_prior(noise, picture.repeat_interleave(3, 0))
        assert (drawn - noise).abs().max() > 0.01, "nothing was learned"
        frames = after.motion_generator(drawn, 8)
        content = after.content_encoder(picture).repeat_interleave(3, 0)
        wanted = after.paint(content, frames, picture.repeat_interleave(3, 0))
        made = after.sample(picture, 3, 8, torch.Generator().manual_seed(1))
    torch.testing.assert_close(made.flatten(0, 1), wanted)

    card = tmp_path / "small"
    assert cli("export", "--model", output, "--output", card)[0] == 0
    assert (
        "mtzoo prior --model runs/small --output small --prior flow --clips 20 --steps 30 --seed 2"
        in (card / "README.md").read_text()
    )
    assert loaded(card).motion_prior is not None
    again = tmp_path / "again"
    code, _, err = cli("prior", "--model", card, "--output", again, *options[:4])
    assert code == 0, err
    assert json.loads((again / "config.json").read_text())["prior"]["seed"] == 0


def test_a_prior_from_other_data_is_not_passed_on_under_the_first_licence(
    run: Path, tmp_path: Path, cli: Cli
):
    output = tmp_path / "with"
    options = ("--clips", 4, "--steps", 1, "--data", "faces")
    code, _, err = cli("prior", "--model", run, "--output", output, *options)
    assert code == 0, err
    config = read_config(output)
    assert config["prior"]["data"]["name"] == "faces"
    assert cli("export", "--model", output, "--output", tmp_path / "world")[0] == 0
    card = (tmp_path / "world" / "README.md").read_text()
    assert "--data faces" in card
    assert "**Licence.** Apache-2.0." in card, "synthetic worlds alone"

    # Before there was --data-seed, --seed drew the pairs of --data, too.
    config["prior"] |= {"seed": 7}
    del config["prior"]["data_seed"]
    (output / "config.json").write_text(json.dumps(config))
    assert cli("export", "--model", output, "--output", tmp_path / "older")[0] == 0
    card = (tmp_path / "older" / "README.md").read_text()
    assert "--seed 7 --data faces --data-seed 7\n" in card

    config["prior"]["data"] = {"name": "clips", "root": "store"}
    (output / "config.json").write_text(json.dumps(config))
    code, _, err = cli("export", "--model", output, "--output", tmp_path / "small")
    assert (code, err.count("\n")) == (2, 1)
    assert "the data of the prior of tiny (clips) states no licence; say with --licence" in err
    shared = ("export", "--model", output, "--output", tmp_path / "small", "--licence", "MIT")
    assert cli(*shared)[0] == 0
    assert "--data store" in (tmp_path / "small" / "README.md").read_text()


def test_what_the_verb_cannot_do_is_one_line_and_leaves_nothing(
    run: Path, tmp_path: Path, cli: Cli
):
    output = tmp_path / "new"
    for options, said in (
        (("--prior", "flwo"), "Did you mean 'flow'"),
        (("--clips", 0), "--clips must lie between 1"),
        (("--steps", 0), "--steps must lie between 1"),
        (("--workers", 99), "--workers must lie between 0 and 64"),
    ):
        code, out, err = cli("prior", "--model", run, "--output", output, *options)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert said in err
    assert not output.exists()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    code, _, err = cli("prior", "--model", run, "--output", tmp_path / "there")
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize(("after", "status"), [(2.0, 0), (math.nan, 2)])
def test_a_prior_that_went_wrong_is_said(
    run: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, after: float, status: int
):
    monkeypatch.setattr(engine, "surprise", lambda prior, known: after if prior else 1.0)
    output = tmp_path / "new"
    code, _, err = cli("prior", "--model", run, "--output", output, "--clips", 4, "--steps", 1)
    assert (code, err.count("\n")) == (status, 1)
    assert "take fewer --steps" in err
    assert output.exists() == (status == 0)


def test_fit_sends_recipes_with_a_prior_to_the_verb():
    recipe = load_recipe("quickstart", ["--model.motion_prior.name", "flow"])
    with pytest.raises(MtzooError, match=r"motion prior is learned after the model.*mtzoo prior"):
        check_recipe(recipe)
