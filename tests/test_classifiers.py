"""Classifiers of content and motion: what they learn from, what they see, how they are kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_evaluate import FRAMES, Known, model, pairs, scored  # noqa: F401
from torch import Tensor

from mtzoo.cli import _use, main
from mtzoo.data.datasets.clips import ClipsDataset
from mtzoo.data.datasets.faces import Faces
from mtzoo.data.datasets.shapes import Shapes
from mtzoo.data.store import ClipStore, Entry, sha256
from mtzoo.data.writer import StoreWriter
from mtzoo.errors import MtzooError
from mtzoo.evaluation import classifiers
from mtzoo.evaluation.classifiers import Classifiers, shared, train
from mtzoo.evaluation.scores import Judges
from mtzoo.interfaces import as_video

CPU = torch.device("cpu")
FEW = {"content": 2, "motion": 2}


class Easy(Shapes):
    """Brighter to the right or to the bottom, still or flickering: learned in no time."""

    def __init__(self, split: str = "train") -> None:
        super().__init__(split, 0, resolution=32, frames=4)  # type: ignore[arg-type]
        self.asked: list[int] = []
        self.content_classes = {"slope": ("right", "down")}
        self.motion_classes = {"pace": ("still", "flicker")}

    def labels(self, position: int) -> dict[str, dict[str, str]]:
        self.asked.append(position)
        bits = [(position * 7919 + clip * 104729) // 16 for clip in range(2)]
        return {
            name: {
                "slope": ("right", "down")[bit % 2],
                "pace": ("still", "flicker")[bit // 2 % 2],
            }
            for name, bit in zip(("video", "target_video"), bits, strict=True)
        }

    def __getitems__(self, positions: list[int]) -> list[dict[str, Tensor]]:  # type: ignore[override]
        items = []
        for position in positions:
            item = {"target_index": torch.tensor(0)}
            for name, told in self.labels(position).items():
                ramp = torch.linspace(40, 200, 32).expand(32, 32)
                picture = ramp if told["slope"] == "right" else ramp.T
                clip = picture[None, ..., None].repeat(4, 1, 1, 3)
                if told["pace"] == "flicker":
                    clip[::2, 8:24, 8:24] += 30
                item[name] = clip.to(torch.uint8)
            items.append(item)
        return items


def learn(steps: int, seed: int = 0) -> Classifiers:
    easy = Easy()
    content, motion = easy.content_classes, easy.motion_classes
    return train(
        easy,
        easy,
        content=content,
        motion=motion,
        device=CPU,
        steps={"content": steps, "motion": steps},
        seed=seed,
    )


@pytest.fixture(scope="module")
def networks() -> Classifiers:
    return learn(40)


def test_training_follows_from_its_seed_and_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, two, other = learn(2), learn(2), learn(2, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert not one.training
    states = [
        torch.cat([v.flatten().float() for v in n.state_dict().values()]) for n in (one, two, other)
    ]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_they_learn_what_is_seen_and_how_it_moves(networks: Classifiers) -> None:
    easy = Easy()
    items = [easy[i] for i in range(200, 232)]
    clips = torch.stack([item["video"] for item in items])
    seen = networks.see(clips)
    labels = [easy.labels(i)["video"] for i in range(200, 232)]
    for side, label in (("content", "slope"), ("motion", "pace")):
        right = [a == b[label] for a, b in zip(seen[side][label], labels, strict=True)]
        assert sum(right) >= 30
        assert len(set(seen[side][label])) == 2
    # However many are looked at together.
    assert networks.see(clips[:1])["motion"]["pace"][0] == seen["motion"]["pace"][0]
    one = networks.motion(as_video(clips[:1]))[0]
    assert torch.allclose(one, networks.motion(as_video(clips))[0][:1], atol=1e-4)


def test_what_moves_alike_is_one_to_the_motion_network() -> None:
    """It sees differences of frames, so a still video tells it nothing of its content."""
    networks = Classifiers({}, {"pace": ("still", "flicker")}, 32, 3).eval()
    videos = torch.rand(2, 1, 3, 32, 32).expand(-1, 4, -1, -1, -1) * 2 - 1
    one, two = networks.motion(videos)[0]
    assert torch.equal(one, two)


@pytest.mark.parametrize("world", [Shapes, Faces])
def test_worlds_say_what_their_factors_are(world: type[Shapes] | type[Faces]) -> None:
    data = world("test", 0, resolution=32, frames=4)
    for position in range(4):
        told = data.labels(position)
        for clip, (content, motion) in data.factors(position).items():
            for factors, known in ((content, data.content_classes), (motion, data.motion_classes)):
                for label, names in known.items():
                    assert told[clip][label] == names[int(getattr(factors, label)[0])]
    assert len({data.labels(i)["video"]["family"] for i in range(40)}) >= 5
    # All fields that choose are named, but for what stands behind a face.
    chosen = {
        name
        for factors in data.factors(0)["video"]
        for name in factors._fields  # type: ignore[attr-defined]
        if getattr(factors, name).dtype == torch.int64
    }
    unnamed = {"background"} if world is Faces else set()
    assert chosen - unnamed == {*data.content_classes, *data.motion_classes}


def store(root: Path) -> Path:
    """Ten videos of five persons who do two things; by person, the last two are held out."""
    with StoreWriter(
        root, source="made", resolution=32, fps=25.0, split_by=("time", "person")
    ) as writer:
        for i, person in enumerate("abcde"):
            for action in ("run", "wave"):
                name = f"{person}_{action}"
                frames = torch.full((20, 32, 32, 3), 50 * i, dtype=torch.uint8)
                frames[:: 1 + (action == "run"), :8] = 255
                part = "test" if person in "de" else "train"
                writer.add(
                    name,
                    frames,
                    labels={"person": person, "action": action},
                    splits={
                        "time": [("train", 0, 12), ("test", 12, 20)],
                        "person": [(part, 0, 20)],
                    },
                    source=name,
                    source_range=(0, 20),
                )
        writer.finish()
    return root


def test_stores_say_what_their_labels_are(tmp_path: Path) -> None:
    data = ClipsDataset("test", 0, root=str(store(tmp_path / "store")), frames=8)
    assert data.content_classes == {"person": tuple("abcde")}
    assert data.motion_classes == {"action": ("run", "wave")}
    for position in range(len(data)):
        item, told = data[position], data.labels(position)
        for clip in ("video", "target_video"):
            assert item[clip][0, -1, 0, 0].item() == 50 * "abcde".index(told[clip]["person"])


def test_clips_too_short_for_motion_are_refused_before_anything_is_learned() -> None:
    still = Shapes("train", 0, resolution=32, frames=2)
    with pytest.raises(MtzooError, match="a clip of 2 frames is too short"):
        train(still, still, content={"kind": ("a",)}, motion={}, device=CPU, progress=pytest.fail)


def test_labels_whose_names_training_never_shows_are_left_out() -> None:
    seen = {"person": ("a", "b"), "action": ("run",)}
    assert shared(seen, {"person": ("a", "c"), "action": ("run",)}) == {"action": ("run",)}
    with pytest.raises(MtzooError, match="nothing to classify"):
        Classifiers({}, {}, 32, 3)


class Oracle(Classifiers):
    """Sees the first pixel: red is the content, green's change the motion."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.classes = {"content": {"kind": ("0", "1")}, "motion": {"family": ("0", "1")}}

    def see(self, clips: Tensor) -> dict[str, dict[str, list[str]]]:
        assert clips.shape[1] == FRAMES
        red = [str(int(v)) for v in clips[:, 0, 0, 0, 0] > 127]
        moves = [str(int(v)) for v in (clips[:, 0, 0, 0, 1] != clips[:, 1, 0, 0, 1])]
        return {"content": {"kind": red}, "motion": {"family": moves}}


class Marked(Shapes):
    """V is red and moves, V_y is not red and stands still."""

    def __init__(self) -> None:
        super().__init__("test", 0, resolution=32, frames=FRAMES)

    def labels(self, position: int) -> dict[str, dict[str, str]]:
        return {
            "video": {"kind": "1", "family": "1"},
            "target_video": {"kind": "0", "family": "0"},
        }

    def __getitems__(self, positions: list[int]) -> list[dict[str, Tensor]]:  # type: ignore[override]
        video = torch.zeros(FRAMES, 32, 32, 3, dtype=torch.uint8)
        video[..., 0] = 255
        video[::2, ..., 1] = 255
        other = torch.zeros_like(video)
        truth = other.clone()
        truth[::2, ..., 1] = 255
        item = {"video": video, "target_video": other, "truth": truth}
        return [{**item, "target_index": torch.tensor(1)} for _ in positions]


@pytest.mark.parametrize("has_truth", [True, False])
def test_who_is_taken_for_what(has_truth: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_evaluate.pairs", Marked)
    if not has_truth:
        whole = Marked.__getitems__

        def without(self: Marked, positions: list[int]) -> list[dict[str, Tensor]]:
            return [{k: v for k, v in i.items() if k != "truth"} for i in whole(self, positions)]

        monkeypatch.setattr(Marked, "__getitems__", without)
    scores = scored(Known(noise=0.5), videos=3, judges=Judges(classifiers=Oracle()))

    def right(task: str, name: str) -> tuple[float, float | None]:
        values = scores.method(task, name).values
        motion = values["motion"].mean().item() if "motion" in values else None
        return values["content"].mean().item(), motion

    assert right("real", "test videos") == (1, 1)
    assert right("reconstruction", "model") == (1, 1)
    assert right("reconstruction", "repeating the first frame") == (1, 0)
    assert right("transfer", "copying the target") == (1, 0)
    assert right("transfer", "copying the source") == (0, 1)
    assert right("transfer", "model") == (1, 0)
    content, motion = right("prediction", "mean of samples")
    assert 0.5 < content <= 1
    assert motion is None
    assert "content" not in scores.method("prediction", "best of 4").values
    told = scores.method("transfer", "copying the source").as_json()
    assert told["content"]["mean"] == 0  # type: ignore[index]
    assert ("psnr" in told) == has_truth
    assert told["taken_for"] == {
        "content": {"kind": {"0": {"1": 3}}},
        "motion": {"family": {"1": {"1": 3}}},
    }
    samples = scores.method("prediction", "mean of samples").as_json()["taken_for"]
    assert list(samples) == ["content"]  # type: ignore[call-overload]
    assert sum(samples["content"]["kind"]["1"].values()) == 3 * 4  # type: ignore[index]


def test_kept_and_read_again(networks: Classifiers, tmp_path: Path) -> None:
    easy = Easy()
    classifiers.save(tmp_path / "kept", networks, {"data": {"name": "easy"}, "steps": 50})
    again, config = classifiers.load(tmp_path / "kept", CPU)
    assert config["data"] == {"name": "easy"}
    clips = torch.stack([easy[i]["video"] for i in range(8)])
    assert again.see(clips) == networks.see(clips)
    (tmp_path / "kept" / classifiers.WEIGHTS).write_bytes(b"half")
    with pytest.raises(MtzooError, match="no classifiers that can be read"):
        classifiers.load(tmp_path / "kept", CPU)


def test_the_verb_trains_once_and_asks_for_the_same_data(
    model: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    last: list[int] = []
    read = ClipStore.read_windows

    def quick(*data: ClipsDataset, **options: object) -> Classifiers:
        def spy(
            self: ClipStore, windows: list[tuple[Entry, int]], count: int, stride: int
        ) -> Tensor:
            last.extend(entry.start + start + (count - 1) * stride for entry, start in windows)
            return read(self, windows, count, stride)

        with monkeypatch.context() as patch:
            patch.setattr(ClipStore, "read_windows", spy)
            return train(*data, **{**options, "steps": FEW})  # type: ignore[arg-type]

    monkeypatch.setattr(classifiers, "train", quick)
    root = store(tmp_path / "store")

    def run(output: str, *words: str) -> int:
        given = ["--model", str(model), "--data", str(root), "--samples", "2", "--videos", "2"]
        given += ["--classifiers", str(tmp_path / "judges"), "--output", str(tmp_path / output)]
        return main(["evaluate", *given, *words])

    assert run("one") == 0
    out = capsys.readouterr().out
    assert "content right, %" in out
    assert f"to be kept in {tmp_path / 'judges'}" in out
    assert "test videos" in out
    told = json.loads((tmp_path / "one" / "results.json").read_text())
    assert told["classes"]["content"] == {"person": list("abcde")}
    assert told["classifiers_sha256"] == sha256(tmp_path / "judges" / classifiers.WEIGHTS)
    steps = json.loads((tmp_path / "judges" / classifiers.CONFIG).read_text())["steps"]
    assert told["classifier_steps"] == steps
    rows = {(m["task"], m["method"]): m for m in told["methods"]}
    assert {"content", "motion"} <= rows["real", "test videos"].keys()
    assert "psnr" not in rows["transfer", "model"]
    assert max(last) == 11, "training reads frames 0 to 11, testing the others"

    monkeypatch.setattr(classifiers, "train", None)
    assert run("two") == 0
    again = json.loads((tmp_path / "two" / "results.json").read_text())
    assert again["methods"] == told["methods"]
    assert again["classifier_steps"] == steps
    # How videos are paired is nothing to them: another recipe of the same data has its own way.
    kept = tmp_path / "judges" / classifiers.CONFIG
    about = json.loads(kept.read_text())
    about["data"] |= {"target_frame": "first", "target_identity": "same"}
    # Nor whether somebody who asks for a store of some source learned from it.
    about["data"]["source"] = "videos"
    kept.write_text(json.dumps(about))
    assert run("paired") == 0
    kept.write_text(json.dumps(about | {"steps": {"content": 5, "motion": 4}}))
    assert run("paired, asked", "--classifier-steps", "5", "4") == 0
    capsys.readouterr()
    assert run("other steps", "--classifier-steps", "5", "3") == 2
    said = capsys.readouterr().err
    assert "were trained for {'content': 5, 'motion': 4} steps, not {'content': 5, 'm" in said
    assert run("three", "--stride", "2", "--frames", "4") == 2
    assert "were trained on other data" in capsys.readouterr().err


def test_persons_held_out_are_said_and_left_out(
    model: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = store(tmp_path / "store")
    words = ["--model", str(model), "--data", str(root), "--split-by", "person"]
    words += ["--classifiers", str(tmp_path / "judges"), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(classifiers, "STEPS", FEW)
    assert main(["evaluate", *words, "--samples", "0", "--videos", "2"]) == 0
    out = capsys.readouterr().out
    assert "no content accuracy: the test split shows a person that the training split" in out
    assert "motion right, %" in out
    assert "content right, %" not in out


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_place_that_takes_no_folder_is_refused_before_anything_is_learned(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Permissions let root write to /proc, which yet takes nothing."""
    monkeypatch.setattr(classifiers, "train", lambda *_, **__: pytest.fail("it was trained"))
    root = store(tmp_path / "store")
    words = ["--baselines", "--data", str(root), "--frames", "8", "--output", str(tmp_path / "out")]
    assert main(["evaluate", *words, "--classifiers", "/proc/judges"]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("mtzoo: error: cannot write /proc/judges: ")
    assert "training classifiers" not in told.out


def test_half_of_the_clips_are_mirrored_each_as_a_whole() -> None:
    torch.manual_seed(0)
    clips = torch.zeros(64, 3, 32, 32, 1, dtype=torch.uint8)
    clips[:, :, :, 16:] = 200  # bright on the right, whatever is shifted
    shown = classifiers._disturbed(clips, blur=False)
    right = shown[..., 16:].mean((2, 3, 4)) > shown[..., :16].mean((2, 3, 4))
    assert (right == right[:, :1]).all()
    assert 16 < int(right[:, 0].sum()) < 48


def test_classifiers_of_a_world_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["evaluate", "--baselines", "--data", "shapes", "--samples", "0", "--videos", "1"]
    words += ["--frames", "4", "--classifiers", str(tmp_path / "judges")]
    monkeypatch.setattr(classifiers, "STEPS", FEW)
    learned: list[object] = []

    def spy(*data: Shapes, **options: object) -> Classifiers:
        learned.extend(some.target_identity for some in data)
        return train(*data, **options)  # type: ignore[arg-type]

    def of_one_identity(*given: Any) -> _use.Asked:
        found = pairs_of(*given)
        return found._replace(data={**found.data, "target_identity": "same"})

    pairs_of = _use.pairs
    with monkeypatch.context() as patch:
        patch.setattr(classifiers, "train", spy)
        patch.setattr(_use, "pairs", of_one_identity)
        assert main([*words, "--output", str(tmp_path / "one")]) == 0
    # Pairs of one identity, as a recipe has them, would show them half as many at once.
    assert learned == ["other", "other"]
    monkeypatch.setattr(classifiers, "train", None)
    assert main([*words, "--output", str(tmp_path / "two")]) == 0


def test_classifiers_are_trained_as_long_as_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["evaluate", "--baselines", "--data", "shapes", "--samples", "0", "--videos", "1"]
    words += ["--frames", "4", "--output", str(tmp_path / "out")]
    judges = ["--classifiers", str(tmp_path / "judges")]
    asked: list[object] = []

    def spy(*data: Shapes, **options: Any) -> Classifiers:
        asked.append(options["steps"])
        return train(*data, **options)

    monkeypatch.setattr(classifiers, "train", spy)
    assert main([*words, "--classifier-steps", "1", "2"]) == 2
    assert "--classifier-steps is for classifiers; name their folder" in capsys.readouterr().err
    assert main([*words, *judges, "--classifier-steps", "0", "2"]) == 2
    assert "--classifier-steps" in capsys.readouterr().err
    assert not asked
    assert main([*words, *judges, "--classifier-steps", "1", "2"]) == 0
    assert "training classifiers for 3 steps" in capsys.readouterr().out
    assert asked == [{"content": 1, "motion": 2}]
    config = json.loads((tmp_path / "judges" / classifiers.CONFIG).read_text())
    assert config["steps"] == {"content": 1, "motion": 2}
