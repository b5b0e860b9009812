"""Scoring with models whose answers are known, and the verb on a real one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_kit import tiny
from test_cli_media import SECTION
from test_perceptual import Moments
from torch import Tensor, nn

from mtzoo.cli import main
from mtzoo.data.datasets.shapes import Shapes
from mtzoo.data.writer import StoreWriter
from mtzoo.engine.evaluate import evaluate
from mtzoo.errors import MtzooError
from mtzoo.evaluation.figures import draws
from mtzoo.evaluation.frechet import Detector, frechet_distance
from mtzoo.evaluation.metrics import PROTOCOLS, psnr
from mtzoo.evaluation.perceptual import Lpips
from mtzoo.evaluation.scores import Judges, Scores, score
from mtzoo.interfaces import Model
from mtzoo.recipe import build_model
from mtzoo.weights import save_model

FRAMES = 6


class Known(Model):
    """Repeats pictures, gives videos back whole, and adds noise to its samples."""

    resolution, channels = 32, 3

    def __init__(self, noise: float = 0.1, value: float = 0.0) -> None:
        super().__init__()
        self.noise, self.value = noise, value

    def generators(self) -> nn.Module:
        return self

    def discriminators(self) -> nn.Module:
        return nn.Identity()

    def transfer(self, image: Tensor, video: Tensor) -> Tensor:
        return image[:, None].expand_as(video) + self.value

    def sample(
        self,
        image: Tensor,
        samples: int,
        frames: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        still = image[:, None, None].expand(-1, samples, frames, -1, -1, -1)
        noise = torch.randn(still.shape[:3], generator=generator)
        return (still + self.noise * noise[..., None, None, None]).clamp(-1, 1)

    def reconstruct(self, video: Tensor) -> Tensor:
        return video


def pairs() -> Shapes:
    return Shapes("test", 0, resolution=32, frames=FRAMES)


def scored(model: Model, videos: int = 5, **options: object) -> Scores:
    protocol = options.pop("protocol", "mtzoo")
    if isinstance(protocol, str):
        protocol = PROTOCOLS[protocol]
    given = {"videos": videos, "samples": 4, "device": torch.device("cpu"), **options}
    return score(model.eval(), pairs(), protocol=protocol, **given)  # type: ignore[arg-type]


def test_known_answers() -> None:
    scores = scored(Known())
    whole = scores.method("reconstruction", "model")
    assert whole.values["psnr"].shape == (5, FRAMES)
    assert set(whole.values["psnr"].flatten().tolist()) == {100.0}
    assert whole.values["ssim"].min() > 0.9999
    moved = scores.method("transfer", "model")
    copied = scores.method("transfer", "copying the target")
    for metric in ("psnr", "ssim"):
        assert torch.equal(moved.values[metric], copied.values[metric])
    # What the model could do at most, in every table beside what needs no model.
    rebuilt = scores.method("transfer", "reconstructing the truth")
    assert set(rebuilt.values["psnr"].flatten().tolist()) == {100.0}
    again = scores.method("prediction", "reconstruction")
    assert torch.equal(again.values["ssim"], whole.values["ssim"])


def test_a_frame_that_is_given_does_not_count() -> None:
    scores = scored(Known())
    for task, name in (
        ("reconstruction", "repeating the first frame"),
        ("prediction", "repeating the picture"),
    ):
        still = scores.method(task, name)
        assert set(still.values["psnr"][:, 0].tolist()) == {100.0}
        later = still.values["psnr"][:, 1:]
        assert still.figure("psnr").mean == pytest.approx(later.mean().item())
        told = still.as_json()
        assert told["first_frame"] == 1
        assert told["by_video"]["psnr"] == pytest.approx(later.mean(1).tolist())  # type: ignore[index]
        assert len(told["by_time"]["psnr"]) == FRAMES  # type: ignore[index]
    fitted = evaluate(Known(), pairs(), 5, batch_size=2, device=torch.device("cpu"))
    assert still.figure("psnr_video").mean == pytest.approx(fitted["still_psnr"])
    moved = scores.method("transfer", "model")
    assert moved.figure("psnr_video").mean == pytest.approx(fitted["transfer_psnr"])
    assert moved.as_json()["first_frame"] == 0


def test_who_loads_the_videos_changes_nothing() -> None:
    alone, helped = scored(Known(), videos=3), scored(Known(), videos=3, workers=2)
    assert helped.as_json() == alone.as_json()


class Drawing(Known):
    """Draws noise as some motion generators do, from torch's global generator."""

    def transfer(self, image: Tensor, video: Tensor) -> Tensor:
        return video + 0.1 * torch.randn(video.shape)


def test_noise_in_a_transfer_belongs_to_its_video() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    few, many = scored(Drawing(), videos=1), scored(Drawing(), videos=3, samples=0)
    assert torch.equal(torch.get_rng_state(), before)
    one, other = (s.method("transfer", "model").values["psnr"] for s in (few, many))
    assert torch.equal(one, other[:1])


def test_baselines_need_no_model() -> None:
    alone = score(None, pairs(), protocol=PROTOCOLS["mtzoo"], videos=2, device=torch.device("cpu"))
    whole = scored(Known(), videos=2)
    assert [(m.task, m.name) for m in alone.methods] == [
        ("transfer", "copying the target"),
        ("transfer", "copying the source"),
        ("prediction", "repeating the picture"),
        ("reconstruction", "repeating the first frame"),
    ]
    for method in alone.methods:
        assert method.as_json() == whole.method(method.task, method.name).as_json()


class Grey(Lpips):
    """Stands in for LPIPS: its vectors are mean colours. Counts the pictures it sees."""

    def __init__(self) -> None:
        self.seen = 0

    def embed(self, frames: Tensor) -> Tensor:
        self.seen += len(frames)
        return frames.float().mean((1, 2)) / 255


def test_lpips_of_every_method_from_one_look_at_each_picture() -> None:
    grey = Grey()
    scores = scored(Known(), videos=2, samples=4, judges=Judges(lpips=grey))
    # V, truth, transfer, both reconstructions and four samples; the two pictures once.
    assert grey.seen == 2 * (9 * FRAMES + 2)
    for video in range(2):
        item = pairs()[video]
        mean = {
            key: value.float().mean((-3, -2)) / 255 for key, value in item.items() if key[-1] != "x"
        }
        expected = (mean["video"] - mean["truth"]).double().square().sum(1)
        copied = scores.method("transfer", "copying the source").values["lpips"][video]
        assert torch.allclose(copied, expected, atol=1e-6)
        still = (mean["video"][:1] - mean["video"]).double().square().sum(1)
        repeated = scores.method("prediction", "repeating the picture").values["lpips"][video]
        assert torch.allclose(repeated, still, atol=1e-6)
    best, mean, moment = (
        scores.method("prediction", name).figure("lpips").mean
        for name in ("best of 4", "mean of samples", "best of 4 at each frame")
    )
    assert moment < best < mean
    assert scores.diversity_lpips.min() > 0
    assert scored(Known(noise=0.0), judges=Judges(lpips=grey)).diversity_lpips.max() == 0


class Colours(Detector):
    """Stands in for FVD's detector: the mean colour of a video."""

    sha256 = "0"

    def __init__(self) -> None:
        pass

    def features(self, videos: Tensor) -> Tensor:
        return videos.double().mean((1, 2, 3))


def test_fvd_is_that_of_one_made_video_for_each_real_one() -> None:
    judges = Judges(detector=Colours())
    scores = scored(Known(), videos=4, judges=judges)
    found = {(m.task, m.name): m.fvd for m in scores.methods}
    assert found["reconstruction", "model"] == pytest.approx(0, abs=1e-6)
    assert found["prediction", "best of 4"] is None
    assert found["transfer", "copying the source"] is None
    real = torch.stack([pairs()[i]["video"].double().mean((0, 1, 2)) for i in range(4)])
    copied = torch.stack(
        [
            item["target_video"][item["target_index"]].double().mean((0, 1))
            for item in map(pairs().__getitem__, range(4))
        ]
    )
    assert found["transfer", "copying the target"] == pytest.approx(frechet_distance(real, copied))
    assert found["prediction", "mean of samples"] is None
    # Of samples the first is that one, and has a row of its own.
    drawn = torch.stack(
        [
            made[0].double().mean((0, 1, 2))
            for _, made in draws(
                Known().eval(),
                pairs(),
                positions=range(4),
                samples=4,
                device=torch.device("cpu"),
            )
        ]
    )
    assert found["prediction", "first sample"] == pytest.approx(frechet_distance(real, drawn))
    first = scores.method("prediction", "first sample").as_json()
    assert first["by_video"] == {}
    without = scored(Known(), videos=1)
    assert "first sample" not in [method.name for method in without.methods]
    assert "means little" in judges.notes(4)[0]
    assert judges.notes(2048) == []
    assert judges.as_json(4)["fvd"] == {"detector_sha256": "0", "videos": 4, "enough": False}


def test_more_samples_are_no_worse_and_each_frame_may_take_its_own() -> None:
    few, many = scored(Known(), samples=2), scored(Known(), samples=8)
    for metric in ("psnr", "ssim"):
        mean = many.method("prediction", "mean of samples").figure(metric).mean
        best = many.method("prediction", "best of 8").figure(metric).mean
        moment = many.method("prediction", "best of 8 at each frame").figure(metric).mean
        assert mean < best < moment
        assert few.method("prediction", "best of 2").figure(metric).mean < best


def test_svg_takes_the_sample_of_best_ssim_for_both() -> None:
    each, svg = (
        scored(Known(), samples=6, protocol=replace(PROTOCOLS["svg2018"], best=best))
        for best in ("each", "ssim")
    )
    name = "best of 6"
    assert svg.method("prediction", name).figure("psnr").mean <= (
        each.method("prediction", name).figure("psnr").mean
    )
    assert svg.method("prediction", name).figure("ssim").mean == (
        each.method("prediction", name).figure("ssim").mean
    )
    assert PROTOCOLS["svg2018"].best == "ssim"


def test_psnr_is_the_protocols_and_of_whole_videos_that_of_fit() -> None:
    each, svg = scored(Known(), samples=2), scored(Known(), samples=2, protocol="svg2018")
    clip = pairs()[0]
    copied = clip["target_video"][clip["target_index"]].expand_as(clip["truth"])
    for scores, colours in ((each, "pooled"), (svg, "channels")):
        found = scores.method("transfer", "copying the target")
        expected = psnr(copied[None], clip["truth"][None], colours)[0]
        assert torch.equal(found.values["psnr"][0], expected)
        assert scores.as_json()["protocol"]["psnr"] == colours  # type: ignore[index]
        whole = each.method("transfer", "copying the target").values["psnr_video"]
        assert torch.equal(found.values["psnr_video"], whole)


def test_diversity() -> None:
    assert scored(Known(noise=0.0)).diversity.tolist() == [0.0] * 5
    assert scored(Known(noise=0.1)).diversity.min() > 1
    for samples in (0, 1):  # which cannot differ
        alone = scored(Known(), samples=samples, judges=Judges(lpips=Grey()))
        assert (len(alone.diversity), len(alone.diversity_lpips)) == (0, 0)
        assert alone.as_json()["diversity"] is None


def test_a_videos_scores_do_not_depend_on_the_others() -> None:
    few, many = scored(Known(), videos=2), scored(Known(), videos=5)
    assert [m.name for m in few.methods] == [m.name for m in many.methods]
    for a, b in zip(few.methods, many.methods, strict=True):
        for metric, values in a.values.items():
            assert torch.equal(values, b.values[metric][:2])
    other = scored(Known(), seed=1).method("prediction", "best of 4")
    assert not torch.equal(
        other.values["psnr"], many.method("prediction", "best of 4").values["psnr"]
    )


def test_json_holds_everything() -> None:
    told = json.loads(json.dumps(scored(Known()).as_json()))
    assert told["protocol"]["ssim"]["size"] == 11
    assert told["protocol"]["given_frames"] == 1
    assert (told["videos"], told["samples"], told["frames"]) == (5, 4, FRAMES)
    first = told["methods"][0]
    assert (first["task"], first["method"]) == ("transfer", "model")
    assert first["psnr"]["low"] <= first["psnr"]["mean"] <= first["psnr"]["high"]
    assert len(first["by_video"]["ssim"]) == 5
    assert len(first["by_time"]["psnr"]) == FRAMES


def test_models_that_cannot_be_scored() -> None:
    with pytest.raises(MtzooError, match="training mode"):
        score(
            Known().train(),
            pairs(),
            protocol=PROTOCOLS["mtzoo"],
            videos=1,
            device=torch.device("cpu"),
        )
    with pytest.raises(MtzooError, match="not finite"):
        scored(Known(value=float("nan")))
    larger = Known()
    larger.resolution = 64
    with pytest.raises(MtzooError, match="for 64x64 pixels of 3 channels, the data have 32x32"):
        scored(larger)


@pytest.mark.gpu
def test_a_gpu_scores_as_a_cpu_does() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = build_model(SECTION, resolution=32, channels=3)
    here, there = (
        score(
            built.to(device).eval(),
            pairs(),
            protocol=PROTOCOLS["mtzoo"],
            videos=4,
            samples=3,
            device=torch.device(device),
        )
        for device in ("cpu", "cuda")
    )
    for one, other in zip(here.methods, there.methods, strict=True):
        for metric, tolerance in (("psnr", 0.02), ("ssim", 1e-3)):
            assert torch.allclose(one.values[metric], other.values[metric], atol=tolerance)


# The verb


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "weights"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = build_model(SECTION, resolution=32, channels=3)
    config = {"model": SECTION, "resolution": 32, "channels": 3, "frames": 8}
    save_model(folder, built, config)
    return folder


def test_the_verb(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", model, "--data", "shapes", "--videos", 3, "--samples", 2]
    output = tmp_path / "results"
    assert main(["evaluate", *map(str, words), "--output", str(output)]) == 0
    out = capsys.readouterr().out
    assert "3 videos of 8 frames, protocol mtzoo" in out
    assert "copying the target" in out
    told = json.loads((output / "results.json").read_text())
    assert told["data"] == {"name": "shapes", "resolution": 32, "frames": 8}
    assert len(told["weights_sha256"]) == 64
    assert told["versions"]["torch"] == torch.__version__
    assert "lpips" not in told["not_measured"] or "alexnet" in out
    for name in ("sheet", "transfer", "prediction", "reconstruction"):
        assert (output / f"{name}.png").stat().st_size > 1000
    assert main(["evaluate", *map(str, words), "--output", str(tmp_path / "again")]) == 0
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert again["methods"] == told["methods"]


@pytest.mark.filterwarnings("ignore")  # FVD's detectors are TorchScript, which torch retires
def test_the_verb_says_what_fvd_of_few_videos_means_and_which_weights_lpips_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nowhere"))
    torch.jit.script(Moments()).save(str(tmp_path / "detector.pt"))
    words = ["--baselines", "--data", "shapes", "--videos", "3", "--frames", "10"]
    words += ["--fvd", str(tmp_path / "detector.pt"), "--output", str(tmp_path / "out")]
    assert main(["evaluate", *words]) == 0
    out = capsys.readouterr().out
    assert "FVD of 3 videos means little" in out
    place = tmp_path / "nowhere" / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    assert f"there is no file {place}" in out
    told = json.loads((tmp_path / "out" / "results.json").read_text())
    assert told["fvd"]["enough"] is False
    assert str(place) in told["not_measured"]["lpips"]
    rows = {(method["task"], method["method"]): method for method in told["methods"]}
    assert rows["prediction", "repeating the picture"]["fvd"] > 0


def test_one_seed_draws_the_pairs_and_another_the_samples(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "run")
    (tmp_path / "run" / "recipe.yaml").write_text(tiny(tmp_path).to_yaml())  # its seed is 3

    def rows(output: str, *words: str) -> tuple[dict, dict]:
        given = ["--model", str(tmp_path / "run"), "--videos", "2", "--samples", "2", *words]
        assert main(["evaluate", *given, "--output", str(tmp_path / output)]) == 0
        told = json.loads((tmp_path / output / "results.json").read_text())
        return told, {(m["task"], m["method"]): m for m in told["methods"]}

    copying, drawn = ("transfer", "copying the source"), ("prediction", "mean of samples")
    pairs_of = {}
    for name, words, seeds in (
        ("own", [], (3, 0)),
        ("own, samples", ["--seed", "1"], (3, 1)),
        ("own, pairs", ["--data-seed", "0"], (0, 0)),
        ("named", ["--data", "shapes"], (0, 0)),
        ("named, samples", ["--data", "shapes", "--seed", "1"], (0, 1)),
        ("named, pairs", ["--data", "shapes", "--data-seed", "3"], (3, 0)),
    ):
        told, found = rows(name, *words)
        assert (told["data_seed"], told["seed"]) == seeds
        pairs_of.setdefault(seeds[0], []).append(found[copying]["by_video"])
        if name == "own":
            first = found[drawn]["by_video"]
        if name == "own, samples":
            assert found[drawn]["by_video"] != first
    assert all(found == pairs_of[3][0] for found in pairs_of[3])
    assert all(found == pairs_of[0][0] for found in pairs_of[0])
    assert pairs_of[0][0] != pairs_of[3][0]


def test_one_sample_has_no_diversity(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(model), "--data", "shapes", "--videos", "2", "--samples", "1"]
    assert main(["evaluate", *words, "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "differences between samples: n/a" in out
    assert "differ by" not in out
    told = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (told["diversity"], told["diversity_lpips"]) == (None, None)
    assert "one sample" in told["not_measured"]["diversity"]


def test_the_verb_scores_baselines_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "--baselines", "--data", "shapes", "--videos", "2", "--frames", "4"]
    assert main([*words, "--output", str(tmp_path / "results")]) == 0
    assert "2 videos of 4 frames" in capsys.readouterr().out
    told = json.loads((tmp_path / "results" / "results.json").read_text())
    assert told["model"] is None
    assert told["data"]["resolution"] == 64
    assert {method["method"] for method in told["methods"]}.isdisjoint({"model"})
    assert main(["evaluate", "--data", "shapes", "--output", str(tmp_path / "none")]) == 2
    assert "--baselines" in capsys.readouterr().err


def write_store(root: Path) -> None:
    """Two dark videos of 64x64."""
    with StoreWriter(root, source="made", resolution=64, fps=25.0, split_by=("time",)) as writer:
        for name in ("one", "two"):
            writer.add(
                name,
                torch.zeros(24, 64, 64, 3, dtype=torch.uint8),
                labels={"person": name},
                splits={"time": [("train", 0, 12), ("test", 12, 24)]},
                source=name,
                source_range=(0, 24),
            )
        writer.finish()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--data", "shaps"], "no such folder, nor a synthetic world"),
        ([], "name the data with --data"),
        (["--data", "shapes", "--lpips", "vgg"], "vgg16-397923af.pth and put it there"),
        (["--data", "shapes", "--lpips", "vgh"], "Did you mean"),
        (["--data", "shapes", "--fvd", "i3d.pt"], "there is no file i3d.pt"),
        (["--data", "shapes", "--workers", "-1"], "--workers"),
        (["--data", "shapes", "--frames", "0"], "--frames"),
        (["--data", "shapes", "--protocol", "svg"], "svg2018"),
        (["--data", "shapes", "--samples", "-1"], "--samples"),
        (["--data", "shapes", "--videos", "0"], "--videos"),
        (["--data", "shapes", "--seed", "-1"], "--seed"),
        (["--data", "shapes", "--data-seed", "-1"], "--data-seed must lie"),
        (["--data", "shapes", "--stride", "2"], "--stride is for clip stores, and the data are sh"),
        (["--data", "shapes", "--split-by", "time"], "--split-by is for clip stores"),
        (["--data", "shapes", "--model", "nowhere"], "no such folder: nowhere"),
        (["--data", "taken"], "--data taken: there is no clip store in it"),
        (["--data", "taken/precious"], "--data taken/precious: there is no clip store in it"),
        (["--data", "larger"], "for 32x32 pixels of 3 channels, the data have 64x64"),
        (["--data", "shapes", "--output", "taken/precious/out"], "no folder that may be written"),
        (["--data", "shapes", "--classifiers", "taken"], "is there already"),
        (["--data", "shapes", "--classifiers", "out/judges"], "lies in --output out"),
        (["--data", "shapes", "--output", "taken"], "is there already"),
        (["--data", "larger", "--classifiers", "judges"], "for 32x32 pixels of 3 channels, the d"),
        (["--data", "shapes", "--fvd", "{detector}", "--videos", "1"], "needs two videos at least"),
        (["--data", "shapes", "--fvd", "{detector}", "--frames", "9"], "at least 10 frames, these"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # FVD's detectors are TorchScript, which torch retires
def test_bad_input_is_one_line(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    part: str,
) -> None:
    if "{detector}" in words:
        torch.jit.script(Moments()).save(str(model.parent / "detector.pt"))
        words = [word.format(detector=model.parent / "detector.pt") for word in words]
        monkeypatch.setattr("mtzoo.evaluation.scores.score", None)  # it is said before the work
    (tmp_path / "here").mkdir()
    tmp_path /= "here"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mtzoo.evaluation.classifiers.train", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nowhere"))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious").write_text("mine")
    write_store(tmp_path / "larger")
    given = ["evaluate", "--model", str(model), *words]
    if "--output" not in words:
        given += ["--output", "out"]
    assert main(given) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert part in told[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["larger", "taken"]
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["precious"]
