"""Plug-ins that break their contract are told so in one line, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtzoo import Card, MtzooError
from mtzoo.engine import fit
from mtzoo.engine.loader import Steps, load
from mtzoo.interfaces import (
    Component,
    ContentEncoder,
    Gaussian,
    ImageDiscriminator,
    ImageGenerator,
    MotionEncoder,
    MotionGenerator,
    PairDataset,
    Phase,
    VideoDiscriminator,
)
from mtzoo.objectives.dual_mtgan import DualMTGANObjective
from mtzoo.recipe import build_model, check_recipe, load_recipe, plugins, tell_plugins
from mtzoo.recipe.probe import try_part
from mtzoo.registries import REGISTRIES

CARD = Card("A thing.", "Nobody 2026", "All of it.", "something", "something")

RECIPE = """\
seed: 0
data: {name: shapes, resolution: 32, frames: 5}
model:
  name: dual_mtgan
  content_frames: one
  content_encoder: {name: dcgan, width: 4, content_dim: 8, norm: none}
  motion_encoder: {name: c3d, width: 4, motion_dim: 6}
  motion_generator: {name: lstm, hidden: 8, frame_motion_dim: 4}
  image_generator: {name: dcgan, width: 4}
  image_discriminator: {name: pair, width: 4}
  video_discriminator: {name: c3d, width: 4}
objective: {name: dual_mtgan}
engine: {steps: 1, batch_size: 2, evaluate_pairs: 2, workers: 0, accelerator: cpu}
"""
LINES = {line.split(":")[0].strip(): n for n, line in enumerate(RECIPE.splitlines(), 1)}

Offer = Callable[[str, str, type], None]


@pytest.fixture
def offer() -> Iterator[Offer]:
    """Registers a class by kind and name for one test, as an installed package would."""
    offered: list[tuple[str, str]] = []

    def register(kind: str, name: str, target: type) -> None:
        REGISTRIES[kind].register(name, CARD)(target)
        offered.append((kind, name))

    yield register
    for kind, name in offered:
        del REGISTRIES[kind]._entries[name]


def recipe(folder: Path, **names: str) -> Path:
    """The recipe with the parts of these slots, or sections, replaced by those of these names."""
    lines = RECIPE.splitlines()
    for slot, name in names.items():
        head = lines[LINES[slot] - 1].partition("{")[0]
        lines[LINES[slot] - 1] = f"{head}{{name: {name}}}"
    path = folder / "r.yaml"
    path.write_text("\n".join(lines))
    return path


class Encoder(ContentEncoder):
    """Keeps its contract; those below do not."""

    def __init__(self, resolution: int, channels: int = 3, *, content_dim: int = 8) -> None:
        super().__init__()
        self.content_dim: Any = content_dim
        self.code = nn.Linear(channels, content_dim)

    def forward(self, image: Tensor) -> Tensor:
        return self.code(image.mean((2, 3)))


def encoder(give: Callable[[Tensor], Any]) -> type:
    """A content encoder that gives something else."""

    class Other(Encoder):
        def forward(self, image: Tensor) -> Any:
            return give(super().forward(image))

    return Other


def leave(_: object) -> None:
    raise SystemExit(0)


class NoForward(ContentEncoder):
    def __init__(self, resolution: int, channels: int = 3) -> None:
        super().__init__()


class NoModule:
    takes = ("resolution", "channels")
    gives = ("content_dim",)

    def __init__(self, resolution: int, channels: int = 3) -> None:
        self.content_dim = 8


class NoSuper(Encoder):
    def __init__(self, resolution: int, channels: int = 3) -> None:
        self.code = nn.Linear(channels, 8)


class NoSuperNorParts(Encoder):
    def __init__(self, resolution: int, channels: int = 3) -> None:
        self.content_dim = 8


class NoSize(Encoder):
    def __init__(self, resolution: int, channels: int = 3) -> None:
        super().__init__(resolution, channels)
        del self.content_dim


class TextSize(Encoder):
    def __init__(self, resolution: int, channels: int = 3) -> None:
        super().__init__(resolution, channels)
        self.content_dim = "8"


class Leaves(Encoder):
    def __init__(self, resolution: int, channels: int = 3) -> None:
        raise SystemExit(0)


class Raises(Encoder):
    def __init__(self, resolution: int, channels: int = 3) -> None:
        raise KeyError("no\nluck")


class Motion(MotionEncoder):
    def __init__(self, resolution: int, channels: int = 3, *, motion_dim: int = 6) -> None:
        super().__init__()
        self.motion_dim = motion_dim
        self.code = nn.Linear(channels, 2 * motion_dim)

    def forward(self, video: Tensor) -> Any:
        return self.code(video.mean((1, 3, 4))).chunk(2, 1)


class Infinite(Motion):
    def forward(self, video: Tensor) -> Gaussian:
        mean, log_variance = super().forward(video)
        return Gaussian(mean, log_variance + 1000)


class Short(MotionGenerator):
    def __init__(self, motion_dim: int) -> None:
        super().__init__()
        self.motion_dim = motion_dim
        self.frame_motion_dim = motion_dim

    def forward(
        self, code: Tensor, frames: int, generator: torch.Generator | None = None
    ) -> Tensor:
        return code[:, None].expand(-1, frames - 1, -1)


class Misled(Short):
    def __init__(self, motion_dim: int) -> None:
        super().__init__(motion_dim + 1)


class Frames(ImageGenerator):
    shrink, gain = 1, 1.0

    def __init__(
        self, resolution: int, channels: int, content_dim: int, frame_motion_dim: int
    ) -> None:
        super().__init__()
        self.resolution, self.channels = resolution, channels
        self.side = resolution // self.shrink
        self.paint = nn.Linear(content_dim + frame_motion_dim, channels * self.side**2)

    def forward(self, content: Tensor, motion: Tensor) -> Tensor:
        if content.dim() == 2:
            content = content[:, None].expand(-1, motion.shape[1], -1)
        painted = self.paint(torch.cat((content, motion), -1))
        painted = painted.tanh() if self.gain == 1 else painted
        return painted.unflatten(-1, (self.channels, self.side, self.side))


class Small(Frames):
    shrink = 2


class Wide(Frames):
    gain = 2.0


class NoResolution(Frames):
    def __init__(
        self, resolution: int, channels: int, content_dim: int, frame_motion_dim: int
    ) -> None:
        super().__init__(resolution, channels, content_dim, frame_motion_dim)
        del self.resolution


class OneLogit(ImageDiscriminator):
    def __init__(self, resolution: int, channels: int = 3) -> None:
        super().__init__()

    def forward(self, condition: Tensor, frame: Tensor) -> Tensor:
        return (condition - frame).mean()


class NoLogit(VideoDiscriminator):
    def __init__(self, resolution: int, channels: int = 3) -> None:
        super().__init__()

    def forward(self, video: Tensor) -> Any:
        return None


BROKEN: list[tuple[str, type, str]] = [
    ("content_encoder", NoForward, r"NoForward\) cannot be built \(TypeError: Can't instantiate"),
    ("content_encoder", NoModule, r"NoModule is no ContentEncoder; derive it from mtzoo\.interf"),
    ("content_encoder", Motion, r"Motion is no ContentEncoder"),
    ("content_encoder", NoSuper, r"NoSuper\) cannot be built \(AttributeError: cannot assign"),
    ("content_encoder", NoSuperNorParts, r"its __init__ does not call super\(\)\.__init__\(\)"),
    ("content_encoder", NoSize, "promises content_dim in gives and has no such attribute; set"),
    ("content_encoder", TextSize, "a whole number of at least 1 as content_dim, not '8'"),
    ("content_encoder", Leaves, r"Leaves\) cannot be built \(SystemExit: 0\)"),
    ("content_encoder", Raises, r"Raises\) cannot be built \(KeyError: 'no\\nluck'\)"),
    ("content_encoder", encoder(lambda c: c[:, :4]), r"promises content codes, .*\(2, 8\), and g"),
    ("content_encoder", encoder(lambda c: c[..., None]), r"and gave torch\.float32 \(2, 8, 1\)"),
    ("content_encoder", encoder(Tensor.double), r"and gave torch\.float64 \(2, 8\)"),
    ("content_encoder", encoder(Tensor.long), r"and gave torch\.int64 \(2, 8\)"),
    ("content_encoder", encoder(lambda c: c / 0), "that are finite and gave (-?inf|nan) among"),
    ("content_encoder", encoder(lambda c: [c, None]), r"gave a list of torch.*, None"),
    ("content_encoder", encoder(lambda c: c @ c), r"fails for images \(2, 3, 32, 32\) \(Runtime"),
    ("content_encoder", encoder(leave), r"fails for images \(2, 3, 32, 32\) \(SystemExit: 0\)"),
    ("motion_encoder", Motion, "promises a mtzoo.interfaces.Gaussian .* gave a tuple of torch"),
    ("motion_encoder", Infinite, "gave some of 100.*, whose deviation is infinite"),
    ("motion_generator", Short, r"frame motion codes, .*\(2, 5, 6\), and gave .*\(2, 4, 6\)"),
    ("motion_generator", Misled, "was built with motion_dim 6 and says that it is 7"),
    ("image_generator", Small, r"\(2, 5, 3, 32, 32\), and gave torch.float32 \(2, 5, 3, 16, 16\)"),
    ("image_generator", Wide, r"videos in \[-1, 1\] and gave values from -.* to .*torch\.tanh"),
    ("image_generator", NoResolution, "promises resolution as every ImageGenerator and has no"),
    ("image_discriminator", OneLogit, r"logits, .*\(2, \.\.\.\), and gave torch\.float32 \(\)"),
    ("video_discriminator", NoLogit, "logits, .* and gave None"),
]


@pytest.mark.parametrize(
    ("slot", "target", "says"), BROKEN, ids=lambda v: getattr(v, "__name__", "")
)
def test_a_part_that_breaks_its_contract_is_refused(
    tmp_path: Path, offer: Offer, slot: str, target: type, says: str
) -> None:
    offer(f"{slot}s", "broken", target)
    path = recipe(tmp_path, **{slot: "broken"})
    with pytest.raises(MtzooError, match=says) as error:
        check_recipe(load_recipe(path))
    assert str(error.value).startswith(f"{path}:{LINES[slot]}: model.{slot}")
    assert f"{REGISTRIES[f'{slot}s'].title} 'broken'" in str(error.value)
    assert "\n" not in str(error.value)


def test_one_bad_recipe_does_not_stop_the_others(
    tmp_path: Path, offer: Offer, cli: Callable[..., tuple[int, str, str]]
) -> None:
    offer("content_encoders", "leaves", Leaves)
    offer("content_encoders", "fine", Encoder)
    bad = recipe(tmp_path, content_encoder="leaves").rename(tmp_path / "bad.yaml")
    good = recipe(tmp_path, content_encoder="fine")
    status, out, _ = cli("validate", bad, good)
    assert status == 2
    assert f"ok     {good}" in out
    assert "2 checked, 1 wrong" in out


def test_training_holds_parts_to_their_contract_too(tmp_path: Path, offer: Offer) -> None:
    offer("image_generators", "wide", Wide)
    with pytest.raises(
        MtzooError, match=r"model\.image_generator: image generator 'wide' promises"
    ):
        fit(load_recipe(recipe(tmp_path, image_generator="wide")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Busy(Encoder):
    """Counts, draws and counts on its mode."""

    def __init__(self, resolution: int, channels: int = 3) -> None:
        super().__init__(resolution, channels)
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(()))
        self.frozen = nn.Dropout().eval()

    def forward(self, image: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen += len(image)
        return super().forward(image) + 0 * torch.rand(1)


def test_trying_a_part_leaves_no_trace() -> None:
    part = Busy(32).train()
    part.frozen.eval()
    before = torch.get_rng_state()
    try_part(part, "content_encoders", {"resolution": 32, "channels": 3}, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert part.seen == 0
    assert (part.training, part.frozen.training) == (True, False)


def test_trying_changes_no_weights(tmp_path: Path, offer: Offer) -> None:
    offer("content_encoders", "fine", Encoder)
    model = load_recipe(recipe(tmp_path, content_encoder="fine")).model

    def weights(frames: int | None) -> Mapping[str, Tensor]:
        torch.manual_seed(0)
        return build_model(model, resolution=32, channels=3, frames=frames).state_dict()

    tried, plain = weights(5), weights(None)
    assert all(torch.equal(tried[name], plain[name]) for name in plain)


def test_mtzoo_s_own_parts_are_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mtzoo.recipe import probe

    monkeypatch.setattr(probe, "try_part", leave)
    check_recipe(load_recipe(recipe(tmp_path)))


@pytest.mark.parametrize(
    "kind", [k for k in REGISTRIES if k.endswith(("coders", "tors", "priors"))]
)
def test_every_part_of_mtzoo_passes_what_others_must(kind: str) -> None:
    sizes = {"resolution": 32, "channels": 3, "content_dim": 8, "motion_dim": 6}
    sizes["frame_motion_dim"] = 4
    for name in REGISTRIES[kind].builtins():
        entry = REGISTRIES[kind].entry(name)
        part: Component = entry.target(
            **{s: sizes[s] for s in entry.target.takes}, **entry.card.tiny
        )
        try_part(part, kind, sizes, 6)


# Data


class Pairs(PairDataset):
    """Keeps its contract; those below do not."""

    resolution, channels, frames = 32, 3, 5

    def __init__(self, split: str, seed: int) -> None:
        self.split = split

    def __len__(self) -> int:
        return 10

    def __getitem__(self, position: int) -> Any:
        clip = torch.zeros(5, 32, 32, 3, dtype=torch.uint8)
        return {"video": clip, "target_video": clip, "target_index": torch.tensor(0)}


def pairs(change: Callable[[dict[str, Any], int], Any], **attributes: object) -> type:
    """A dataset whose items are others."""
    return type(
        "Other",
        (Pairs,),
        {
            "__module__": __name__,
            "__getitem__": lambda self, i: change(Pairs.__getitem__(self, i), i),
            **attributes,
        },
    )


def fail(_: object, __: int) -> None:
    raise KeyError("disk gone")


BAD_PAIRS: list[tuple[type, str]] = [
    (
        pairs(lambda item, _: {k: v for k, v in item.items() if k != "target_video"}),
        "position 0: the pair lacks 'target_video'; it has video, target_index",
    ),
    (
        pairs(lambda item, i: {k: v[: 5 - i % 2] if v.dim() else v for k, v in item.items()}),
        r"position 1: 'video' is torch\.uint8 \(4, 32, 32, 3\), it promises torch\.uint8 \(5, 32",
    ),
    (pairs(lambda item, _: tuple(item.values())), "position 0: the pair is a tuple; it must be a"),
    (pairs(lambda item, _: item | {"video": "clip"}), "'video' is a str, which is no tensor"),
    (pairs(lambda item, _: item | {"target_index": torch.tensor(5)}), r"must be int64 in \[0, 5\)"),
    (
        pairs(lambda item, _: item, has_truth=True),
        "its test split lack 'truth'; add it, or set has",
    ),
    (
        pairs(lambda item, _: item | {"truth": item["video"][:2]}),
        r"'truth' is torch\.uint8 \(2, 32, 32, 3\)",
    ),
    (
        pairs(lambda item, i: item | ({} if i else {"truth": item["video"]})),
        "positions 0 and 1 one",
    ),
    (pairs(fail), r"first pair of its train split cannot be loaded \(KeyError: 'disk gone'\)"),
    (pairs(lambda item, _: item, frames="5"), "a whole number of at least 1 as frames, not '5'"),
]


@pytest.mark.parametrize(("target", "says"), BAD_PAIRS)
def test_data_that_break_their_contract_are_refused(
    tmp_path: Path, offer: Offer, target: type, says: str
) -> None:
    offer("datasets", "broken", target)
    with pytest.raises(MtzooError, match=f"dataset 'broken'.*{says}") as error:
        fit(load_recipe(recipe(tmp_path, data="broken")), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_data_that_keep_their_contract_are_stacked() -> None:
    assert Steps(Pairs("train", 0), 3)[0]["video"].shape == (3, 5, 32, 32, 3)  # type: ignore[index]
    numbers = pairs(lambda item, _: {k: v.numpy() for k, v in item.items()})
    assert Steps(numbers("train", 0), 2)[1]["target_index"].tolist() == [0, 0]
    with pytest.raises(MtzooError, match="dataset 'Other', position 3"):
        load(pairs(lambda item, i: item if i < 3 else None)("train", 0), range(5))


# Objectives


def objective(**changed: Callable[..., Any]) -> type:
    """The paper's objective with other methods."""
    return type("Other", (DualMTGANObjective,), {"__module__": __name__, **changed})


def loss(change: Callable[[Tensor, Any], Any]) -> type:
    """The paper's objective, whose loss and terms are changed."""
    return objective(loss=lambda self, *a: change(*DualMTGANObjective.loss(self, *a)))


PHASES: list[tuple[Callable[..., Any], str]] = [
    (lambda _: (), r"has no phases, so it would train nothing: phases\(\) gave \(\)"),
    (lambda _: None, r"has no phases, .* gave None"),
    (lambda _: ("generator",), "'generator' among its phases, which is no mtzoo.interfaces.Phase"),
    (lambda _: (Phase("x", "all"),), "phase 'x' learns 'all'; it may be 'generators' or"),  # type: ignore[arg-type]
    (lambda _: (Phase("x", "generators", 0),), "phase 'x' has every 0; it must be a whole number"),
    (lambda _: (Phase("x", "generators", 1, -1),), "phase 'x' has start -1; it must be"),
    (lambda _: (Phase("x", "generators"),) * 2, "'x' is no name of a phase, or that of two"),
    (leave, r"fails \(SystemExit: 0\)"),
]


@pytest.mark.parametrize(("phases", "says"), PHASES)
def test_phases_that_no_step_could_run_are_refused(
    tmp_path: Path, offer: Offer, phases: Callable[..., Any], says: str
) -> None:
    offer("objectives", "broken", objective(phases=phases))
    path = recipe(tmp_path, objective="broken")
    with pytest.raises(MtzooError, match=says) as error:
        check_recipe(load_recipe(path))
    assert str(error.value).startswith(f"{path}:{LINES['objective']}: objective: objective 'broke")


LOSSES: list[tuple[type, str]] = [
    (objective(loss=lambda *_: None), "promises a pair of a loss and terms to log and gave None"),
    (loss(lambda value, terms: (value.expand(3), terms)), r"a scalar loss and gave .*\(3,\)"),
    (loss(lambda _, terms: (None, terms)), "a scalar loss and gave None"),
    (loss(lambda value, terms: (value.detach(), terms)), "that something can learn from, and gave"),
    (loss(lambda value, _: (value, {"a": torch.ones(3)})), r"scalar terms .* \(3,\) as a"),
    (loss(lambda value, _: (value, None)), "a mapping of terms to log and gave None"),
    (loss(lambda value, terms: (value[3], terms)), r"fails in phase 'discriminator' \(IndexError"),
]


@pytest.mark.parametrize(("target", "says"), LOSSES)
def test_losses_that_nothing_can_learn_from_are_refused(
    tmp_path: Path, offer: Offer, target: type, says: str
) -> None:
    offer("objectives", "broken", target)
    path = recipe(tmp_path, objective="broken")
    with pytest.raises(MtzooError, match=says) as error:
        fit(load_recipe(path), tmp_path / "run")
    assert str(error.value).startswith(f"{path}:{LINES['objective']}: objective: objective 'broke")
    assert not (tmp_path / "run").exists()


def test_an_objective_of_another_package_trains_as_the_paper_s_does(
    tmp_path: Path, offer: Offer
) -> None:
    def refuse(self: Any, phase: Phase, *others: Any) -> Any:
        assert phase.learns == "generators", "a phase of which nothing learns is never run"
        return DualMTGANObjective.loss(self, phase, *others)

    offer("objectives", "same", objective(loss=refuse))
    judges = ["--model.image_discriminator=null", "--model.video_discriminator=null"]
    weights = ["--objective.lambda_i=0", "--objective.lambda_v=0"]
    runs = [
        fit(load_recipe(recipe(tmp_path, objective=name), judges + weights), tmp_path / name)
        for name in ("same", "dual_mtgan")
    ]
    assert runs[0]["losses"] == runs[1]["losses"]
    assert runs[0]["after"] == runs[1]["after"]


# What it takes to use it


def test_what_comes_from_elsewhere_is_named(tmp_path: Path, offer: Offer) -> None:
    assert plugins(load_recipe(recipe(tmp_path))) == {}
    offer("content_encoders", "fine", Encoder)
    offer("datasets", "pairs", Pairs)
    found = plugins(load_recipe(recipe(tmp_path, content_encoder="fine", data="pairs")))
    module = f"module {__name__}"
    assert found == {"dataset 'pairs'": module, "content encoder 'fine'": module}
    said = f"{module} (dataset 'pairs', content encoder 'fine')"
    assert tell_plugins({"mtzoo": "1", "plugins": found}) == said


@pytest.mark.parametrize("versions", [None, [], "x", {}, {"plugins": None}, {"plugins": ["x"]}])
def test_nothing_is_named_where_nothing_is_needed(versions: object) -> None:
    assert tell_plugins(versions) == ""


def test_a_stranger_s_versions_stay_one_short_line() -> None:
    told = tell_plugins({"plugins": {f"part {i}": f"a\nb {i} " + 99 * "x" for i in range(99)}})
    assert "\n" not in told
    assert len(told) <= 500
