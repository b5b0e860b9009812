"""Synthetic worlds: exact truths, factors that matter, items that follow from positions alone."""

from __future__ import annotations

import itertools
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from mtzoo.data.worlds import faces, shapes
from mtzoo.data.worlds.base import World, WorldPairs, backdrop, hsv, join, pixel_axis, take
from mtzoo.errors import MtzooError
from mtzoo.interfaces import PairDataset
from mtzoo.registries import datasets

NAMES = ("faces", "shapes")
WORLDS: dict[str, World] = {"faces": faces.Faces(), "shapes": shapes.Shapes()}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def world(name: str) -> World:
    return WORLDS[name]


def pairs(name: str, split: str = "test", seed: int = 0, **options: object) -> WorldPairs:
    return datasets.get(name)(split, seed, **{"resolution": 32, "frames": 8, **options})


def draw(world: World, n: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return world.draw_content(n, generator), world.draw_motion(n, generator)


def psnr(a: Tensor, b: Tensor) -> float:
    error = ((a.float() - b.float()) / 255).square().mean()
    return (-10 * error.clamp_min(1e-9).log10()).item()


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# The datasets' contract.


def test_the_same_identity_in_another_motion_is_for_training_alone(name: str) -> None:
    other, same = (pairs(name, "train", target_identity=which) for which in ("other", "same"))
    (content, motion), (content_y, motion_y) = same.factors(3).values()
    assert all(torch.equal(a, b) for a, b in zip(content, content_y, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(motion, motion_y, strict=True))
    assert torch.equal(same[3]["video"], other[3]["video"])
    assert not torch.equal(same[3]["target_video"], other[3]["target_video"])
    tests = [pairs(name, "test", target_identity=which)[3] for which in ("other", "same")]
    assert equal(*tests)
    with pytest.raises(MtzooError, match="target_identity"):
        pairs(name, target_identity="none")


def test_items_are_what_the_contract_says(name: str) -> None:
    for split in ("train", "test"):
        dataset = pairs(name, split, frames=5)
        assert isinstance(dataset, PairDataset)
        assert (dataset.resolution, dataset.channels, dataset.frames) == (32, 3, 5)
        item = dataset[3]
        clips = {"video", "target_video"} | ({"truth"} if split == "test" else set())
        assert set(item) == clips | {"target_index"}
        for clip in clips:
            assert item[clip].dtype == torch.uint8
            assert item[clip].shape == (5, 32, 32, 3)
            assert item[clip].is_contiguous()
        assert item["target_index"].dtype == torch.int64
        assert item["target_index"].shape == ()
        assert 0 <= item["target_index"] < 5
    assert dataset.has_truth


def test_item_follows_from_its_position_alone(name: str) -> None:
    dataset = pairs(name)
    batch = dataset.__getitems__([9, 2, 300, 2])
    torch.manual_seed(7)
    again = pairs(name)
    for position, item in zip([9, 2, 300, 2], batch, strict=True):
        assert equal(item, again[position])
    assert equal(batch[1], batch[3])
    assert not torch.equal(batch[0]["video"], batch[1]["video"])
    assert dataset.__getitems__([]) == []


def test_many_batched_clips_equal_single_ones_to_the_bit(world: World) -> None:
    content, motion = draw(world, 40)
    together = world.render(content, motion, frames=3, resolution=32, speed=1.7)
    for i in range(40):
        alone = world.render(take(content, i), take(motion, i), frames=3, resolution=32, speed=1.7)
        assert torch.equal(together[i], alone[0])


def test_number_of_threads_changes_no_bit(world: World) -> None:
    content, motion = draw(world, 6)
    threads = torch.get_num_threads()
    clips = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            clips.append(world.render(content, motion, frames=5, resolution=64))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*clips)


def test_loader_takes_batches(name: str) -> None:
    dataset = pairs(name, frames=2)
    calls = []
    fetch = dataset.__getitems__
    dataset.__getitems__ = lambda positions: calls.append(positions) or fetch(positions)  # type: ignore[method-assign]
    batch = next(iter(DataLoader(dataset, batch_size=4)))
    assert calls == [[0, 1, 2, 3]]
    assert batch["truth"].shape == (4, 2, 32, 32, 3)
    assert torch.equal(batch["video"][2], fetch([2])[0]["video"])


def test_dataset_survives_pickling_for_worker_processes(name: str) -> None:
    dataset = pairs(name, frames=2)
    assert equal(pickle.loads(pickle.dumps(dataset))[5], dataset[5])


def test_splits_and_seeds_have_no_factors_in_common(name: str) -> None:
    seen: dict[bytes, tuple] = {}
    for split, seed, position in itertools.product(("train", "test"), (0, 1, 10), range(30)):
        factors = pairs(name, split, seed).factors(position)
        for clip, (content, motion) in factors.items():
            for what, parts in (("content", content), ("motion", motion)):
                bits = b"".join(field.numpy().tobytes() for field in parts)
                where = (split, seed, position, clip, what)
                assert bits not in seen, f"{where} repeats {seen[bits]}"
                seen[bits] = where
    assert len(seen) == 2 * 3 * 30 * 2 * 2


def test_train_and_test_draw_from_the_same_ranges(name: str) -> None:
    kinds = {}
    for split in ("train", "test"):
        contents = [pairs(name, split).factors(i)["video"][0] for i in range(120)]
        field = 0 if name == "shapes" else type(contents[0])._fields.index("hair")
        kinds[split] = {int(content[field]) for content in contents}
    assert kinds["train"] == kinds["test"] == set(range(8))


def test_truth_renders_from_the_factors(name: str) -> None:
    dataset, world = pairs(name, speed=1.5), WORLDS[name]
    for position in range(4):
        item, factors = dataset[position], dataset.factors(position)
        (content, motion), (content_y, motion_y) = factors["video"], factors["target_video"]
        for clip, c, m in (
            ("video", content, motion),
            ("target_video", content_y, motion_y),
            ("truth", content_y, motion),
        ):
            made = world.render(c, m, frames=8, resolution=32, speed=1.5)[0]
            assert torch.equal(item[clip], made), clip


def test_position_fixes_factors_whatever_the_size(name: str) -> None:
    small, large = pairs(name), pairs(name, resolution=64, frames=16, target_frame="first")
    for clip in ("video", "target_video"):
        for a, b in zip(small.factors(4)[clip], large.factors(4)[clip], strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert large[4]["target_index"] == 0
    # The same scene, so that halving the large picture nearly gives the small one.
    halved = large[4]["video"][:8].float().view(8, 32, 2, 32, 2, 3).mean((2, 4))
    assert psnr(halved, small[4]["video"]) > 26


def test_longer_clip_is_the_same_motion_continued(name: str) -> None:
    short, long = pairs(name)[6], pairs(name, frames=20)[6]
    for clip in ("video", "target_video", "truth"):
        assert torch.equal(short[clip], long[clip][:8])
    world, (content, motion) = WORLDS[name], pairs(name).factors(6)["video"]
    rest = world.render(content, motion, frames=12, resolution=32, start=8)[0]
    assert torch.equal(rest, long["video"][8:])
    assert psnr(long["video"][:8], long["video"][8:16]) < 30


def test_speed_skips_frames(name: str) -> None:
    assert torch.equal(
        pairs(name, frames=9)[1]["video"][::2], pairs(name, frames=5, speed=2.0)[1]["video"]
    )


def test_target_frames_are_spread(name: str) -> None:
    dataset = pairs(name, "train")
    counts = torch.zeros(8)
    for position in range(400):
        counts[dataset._target_index(position)] += 1
    assert counts.min() > 25
    assert counts.max() < 80
    first = pairs(name, target_frame="first")
    assert [first._target_index(i) for i in range(20)] == [0] * 20


def test_length_is_nominal(name: str) -> None:
    assert len(pairs(name, "train")) == 10_000
    assert len(pairs(name)) == 256
    assert len(pairs(name, size=3)) == 3
    assert len(list(pairs(name, size=3))) == 3
    assert pairs(name)[10**12]["video"].shape == (8, 32, 32, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 48}, "resolution 48 is not supported; use one of 32, 64, 128"),
        ({"frames": 1}, "a clip of 1 frames is too short; it needs at least 2"),
        ({"split": "tset"}, "split 'tset' is not supported. Did you mean 'test'?"),
        ({"target_frame": "last"}, "target_frame 'last' is not supported"),
        ({"speed": 0.0}, "speed 0.0 is not supported; use more than 0, up to 4"),
        ({"speed": float("nan")}, "speed nan is not supported"),
        ({"size": 0}, "size 0 is not supported; use at least 1"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(MtzooError) as caught:
        pairs(name, **options)
    assert str(caught.value).startswith(f"dataset {name}: {message}")
    assert "\n" not in str(caught.value)


def test_negative_position_is_refused(name: str) -> None:
    with pytest.raises(IndexError, match="position -1 is negative"):
        pairs(name)[-1]


def test_card_is_buildable(name: str) -> None:
    entry = datasets.entry(name)
    assert entry.target("test", 0, **entry.card.tiny)[0]["truth"].shape == (8, 32, 32, 3)


# What the worlds promise for training.


def test_copying_the_picture_is_a_poor_answer(name: str) -> None:
    items = pairs(name).__getitems__(range(48))
    copied = [
        psnr(i["truth"], i["target_video"][i["target_index"]].expand(8, -1, -1, -1)) for i in items
    ]
    assert 12 < sum(copied) / 48 < 17
    # Nor does the motion stand still, nor a frame without the moving thing do.
    still = [psnr(i["video"], i["video"][:1].expand(8, -1, -1, -1)) for i in items]
    assert sum(still) / 48 < 19
    median = [
        psnr(i["video"], i["video"].float().median(0).values.expand(8, -1, -1, -1)) for i in items
    ]
    assert sum(median) / 48 < 21


def test_contents_differ(world: World) -> None:
    content, motion = draw(world, 24)
    clips = world.render(content, take(motion, [0] * 24), frames=2, resolution=32)
    likeness = [psnr(a, b) for a, b in itertools.combinations(clips, 2)]
    assert max(likeness) < 28
    assert sum(likeness) / len(likeness) < 13


def test_truth_with_own_content_is_the_video(world: World) -> None:
    content, motion = draw(world, 3)
    swapped = world.render(take(content, [1, 2, 0]), motion, frames=4, resolution=32)
    back = world.render(content, take(motion, [1, 2, 0]), frames=4, resolution=32)
    own = world.render(content, motion, frames=4, resolution=32)
    assert not (swapped == own).flatten(1).all(1).any()
    assert not (back == own).flatten(1).all(1).any()
    one = world.render(take(content, 1), take(motion, 1), frames=4, resolution=32)
    assert torch.equal(one[0], own[1])


@given(seed=st.integers(0, 2**62), frames=st.integers(1, 4), resolution=st.sampled_from([32, 64]))
@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("world", list(WORLDS.values()), ids=list(WORLDS))
def test_any_seed_renders(world: World, seed: int, frames: int, resolution: int) -> None:
    content, motion = draw(world, 2, seed)
    for field in (*content, *motion):
        assert len(field) == 2
        assert torch.isfinite(field).all()
    for field, values in zip(content._fields, content, strict=True):
        if field in (
            "fill",
            "mark_colour",
            "ground",
            "skin",
            "hair_colour",
            "iris",
            "lips",
            "shirt",
        ):
            assert values.min() >= 0
            assert values.max() <= 1
    at = {"frames": frames, "resolution": resolution}
    clips = world.render(content, motion, **at, start=seed % 1000)
    assert clips.dtype == torch.uint8
    assert clips.shape == (2, frames, resolution, resolution, 3)
    assert clips.float().std(dim=(2, 3)).min() > 2


@pytest.mark.parametrize("extreme", [0.0, 1.0 - 2**-24])
def test_extreme_draws_render(world: World, extreme: float) -> None:
    content = world.content(torch.full((1, world.content_numbers), extreme))
    motion = world.motion(torch.full((1, world.motion_numbers), extreme))
    clip = world.render(content, motion, frames=3, resolution=32)
    assert clip.float().std(dim=(2, 3)).min() > 2


def test_every_number_is_used(world: World) -> None:
    generator = torch.Generator().manual_seed(3)
    for make, count in (
        (world.content, world.content_numbers),
        (world.motion, world.motion_numbers),
    ):
        base = torch.rand(64, count, generator=generator)
        fresh = torch.rand(64, count, generator=generator)
        before = make(base)
        for i in range(count):
            changed = base.clone()
            changed[:, i] = fresh[:, i]
            after = make(changed)
            assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), i


@pytest.mark.parametrize("side", ["content", "motion"])
def test_every_factor_can_be_seen(world: World, side: str) -> None:
    content, motion = draw(world, 24, seed=5)
    other_content, other_motion = draw(world, 24, seed=6)
    mine, others = (content, other_content) if side == "content" else (motion, other_motion)
    render = {"frames": 4, "resolution": 32, "speed": 3.0}
    before = world.render(content, motion, **render)
    for field in mine._fields:
        if (world is WORLDS["faces"]) and field == "family":
            continue  # says which family the strengths came from; the strengths are what is seen
        changed = mine._replace(**{field: getattr(others, field)})
        swapped = (changed, motion) if side == "content" else (content, changed)
        after = world.render(*swapped, **render)
        seen = (before != after).flatten(1).any(1).float().mean()
        assert seen > 0.08, f"{field} changes {seen:.0%} of clips"


def test_render_asks_for_as_many_contents_as_motions(world: World) -> None:
    content, motion = draw(world, 3)
    with pytest.raises(MtzooError, match="3 contents and 2 motions"):
        world.render(content, take(motion, slice(2)), frames=2, resolution=32)


# Shapes, from first principles.


def plain_shape(**motion_fields: float) -> tuple[shapes.ShapesContent, shapes.ShapesMotion]:
    """A white disc with a black cap on a black ground, resting unless told otherwise."""
    world = WORLDS["shapes"]
    content, motion = draw(world, 1)
    content = content._replace(
        kind=torch.tensor([0]),
        radius=torch.tensor([0.5]),
        fill=torch.ones(1, 3),
        mark=torch.tensor([1]),
        mark_colour=torch.zeros(1, 3),
        ground=torch.zeros(1, 2, 3),
    )
    rest = {field: torch.zeros_like(values) for field, values in motion._asdict().items()}
    for field, value in motion_fields.items():
        rest[field] = torch.as_tensor(value, dtype=rest[field].dtype).expand_as(rest[field])
    return content, shapes.ShapesMotion(**rest)


def bright(clip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Area and centre (x, y up) of what is bright, by frame, in units of the frame's half-side."""
    weight = clip.double().mean(-1) / 255
    axis = pixel_axis(clip.shape[-2]).double()
    area = weight.sum((-1, -2))
    x = (weight * axis).sum((-1, -2)) / area
    y = (weight * axis.flip(0)[:, None]).sum((-1, -2)) / area
    return area * 4 / clip.shape[-2] ** 2, x, y


def shape_clip(frames: int = 5, **motion_fields: object) -> Tensor:
    content, motion = plain_shape(**motion_fields)
    # Without its mark the disc is symmetric, so its centre of brightness is its centre.
    content = content._replace(mark_colour=torch.ones(1, 3))
    return WORLDS["shapes"].render(content, motion, frames=frames, resolution=64)[0]


def test_disc_has_its_area() -> None:
    area, x, y = bright(shape_clip())
    # White to 0.9 of the radius, then a border of 0.45 of the brightness.
    expected = torch.pi * 0.25 * (0.81 + 0.19 * 0.45)
    assert area.tolist() == pytest.approx([expected] * 5, rel=0.01)
    assert x.abs().max() < 3e-3
    assert y.abs().max() < 3e-3


def test_home_and_wave_place_the_shape() -> None:
    clip = shape_clip(
        home=torch.tensor([0.1, -0.2]),
        reach=torch.tensor([0.3, 0.2]),
        rate=torch.tensor([0.25, 0.25]),
        phase=torch.tensor([0.0, 0.25]),
    )
    _, x, y = bright(clip)
    assert x.tolist() == pytest.approx([0.1, 0.4, 0.1, -0.2, 0.1], abs=2e-3)
    assert y.tolist() == pytest.approx([0.0, -0.2, -0.4, -0.2, 0.0], abs=2e-3)


def test_hop_stays_above_its_ground_and_bounce_moves_evenly() -> None:
    wave = {"reach": torch.tensor([0.4, 0.4]), "rate": 0.125}
    hop = shapes.FAMILIES.index("hop")
    _, _, y = bright(shape_clip(9, family=hop, **wave))
    assert y.tolist() == pytest.approx(
        [0.4 * abs(torch.tensor(i * 22.5).deg2rad().sin().item()) for i in range(9)], abs=2e-3
    )
    bounce = shapes.FAMILIES.index("bounce")
    _, x, _ = bright(shape_clip(9, family=bounce, **wave))
    assert x.tolist() == pytest.approx([0, 0.2, 0.4, 0.2, 0, -0.2, -0.4, -0.2, 0], abs=2e-3)


def test_zoom_scales_the_area() -> None:
    area, _, _ = bright(shape_clip(zoom=0.4, zoom_rate=0.25))
    assert (area / area[0]).tolist() == pytest.approx([1, 1.96, 1, 0.36, 1], rel=0.02)


def test_spin_turns_counter_clockwise_on_a_disc_too() -> None:
    content, motion = plain_shape(spin=0.25)
    clip = WORLDS["shapes"].render(content, motion, frames=5, resolution=64)[0]
    _, x, y = bright(clip)
    # The black cap is up, then left, down, right: what is bright lies opposite.
    low = -y[0].item()
    assert low > 0.05
    assert x.tolist() == pytest.approx([0, low, 0, -low, 0], abs=2e-3)
    assert y.tolist() == pytest.approx([-low, 0, low, 0, -low], abs=2e-3)


def test_every_shape_is_upright_alike_and_equally_large() -> None:
    areas = []
    for kind in range(len(shapes.KINDS)):
        for mark in range(len(shapes.MARKS)):
            content, motion = plain_shape()
            content = content._replace(kind=torch.tensor([kind]), mark=torch.tensor([mark]))
            marked = WORLDS["shapes"].render(content, motion, frames=1, resolution=64)[0]
            bare = content._replace(mark_colour=torch.ones(1, 3))
            whole = WORLDS["shapes"].render(bare, motion, frames=1, resolution=64)[0]
            area, x, y = bright(whole)
            _, mark_x, mark_y = bright(whole - marked)
            assert abs(x) < 2e-3
            assert abs(mark_x) < 5e-3
            assert mark_y > y + 0.04, (shapes.KINDS[kind], shapes.MARKS[mark])
        areas.append(area.item())
    assert min(areas) > 0.5 * max(areas)


# Faces, from first principles.


def face(world: faces.Faces, **fields: float) -> Tensor:
    """One frame of one face at rest but for what is named in the pose."""
    content, motion = draw(world, 1, seed=2)
    content = content._replace(
        hair=torch.tensor([1]), beard=torch.tensor([0]), glasses=torch.tensor([0])
    )
    rest = {name: torch.zeros(1, 1) for name in faces.Pose._fields} | {
        "cosine": torch.ones(1, 1),
        "size": torch.ones(1, 1),
    }
    rest |= {name: torch.full((1, 1), value) for name, value in fields.items()}

    class Posed(faces.Faces):
        def pose(self, motion: faces.FacesMotion, at: Tensor) -> faces.Pose:
            return faces.Pose(**rest)

    return Posed().render(content, motion, frames=1, resolution=64)[0, 0].int()


@pytest.mark.parametrize(
    ("field", "value", "rows"),
    [
        ("lids", 1.0, (16, 38)),
        ("brows", 1.0, (14, 38)),
        ("smile", 1.0, (22, 50)),  # eyes squint, cheeks glow
        ("opening", 1.0, (36, 52)),
    ],
)
def test_expression_changes_its_part_of_the_face_alone(
    field: str, value: float, rows: tuple[int, int]
) -> None:
    world = faces.Faces()
    changed = (face(world) - face(world, **{field: value})).abs().sum(-1) > 30
    assert changed.sum() > 25
    assert changed[: rows[0]].sum() == 0
    assert changed[rows[1] :].sum() == 0
    assert changed[:, :14].sum() == changed[:, 50:].sum() == 0


def test_head_moves_as_a_whole() -> None:
    world = faces.Faces()
    rest, moved = face(world), face(world, x=0.25, y=0.125)
    # A quarter of the half-side is 8 pixels; hair and face move, not the ground.
    assert torch.equal(rest[20:42, 22:42], moved[16:38, 30:50])


def test_smile_rises_holds_and_fades() -> None:
    world = faces.Faces()
    _, motion = draw(world, 1)
    strength = torch.zeros(1, 8)
    strength[0, 0] = 1.0
    motion = motion._replace(
        mood=torch.zeros(1),
        strength=strength,
        apex=torch.tensor([0.3]),
        rate=torch.full((1, 5), 0.05),
        phase=torch.zeros(1, 5),
    )
    smile = world.pose(motion, torch.arange(40, dtype=torch.float64)).smile[0]
    assert torch.equal(smile[:20], smile[20:])
    assert smile[0] == 0
    assert smile[2] == pytest.approx(0.5)  # half way up its onset of 4
    assert (smile[4:11] == 1).all()  # apex of 6
    assert (smile[11:15].diff() < 0).all()  # offset of 5
    assert (smile[15:20] == 0).all()


def test_blinks_last_about_four_frames() -> None:
    world = faces.Faces()
    _, motion = draw(world, 1)
    motion = motion._replace(blink=torch.tensor([[0.1, 0.5]]))
    lids = world.pose(motion, torch.arange(10, dtype=torch.float64)).lids[0]
    assert lids.tolist() == pytest.approx([1, 0.8, 0, 0, 0, 0, 0, 0, 0, 0.8], abs=1e-4)


def test_windows_cut_nothing_off(monkeypatch: pytest.MonkeyPatch) -> None:
    world = faces.Faces()
    generator = torch.Generator().manual_seed(1)

    def corners(count: int) -> Tensor:
        # The ends of all ranges: what reaches farthest.
        return torch.randint(2, (128, count), generator=generator) * (1 - 2**-24)

    numbers = corners(world.motion_numbers)
    numbers[:, 0] = torch.rand(128, generator=generator)  # the family
    numbers[:, 14:19] = torch.rand(128, 5, generator=generator)  # the phases
    content, motion = world.content(corners(world.content_numbers)), world.motion(numbers)
    render = {"frames": 2, "resolution": 32, "speed": 4.0}
    windowed = world.render(content, motion, **render)
    names = ("_MOUTH_WINDOW", "_EYES_WINDOW")
    for name in names:
        monkeypatch.setattr(faces, name, (2.0, 2.0))
    whole = world.render(content, motion, **render)
    assert torch.equal(windowed, whole)
    for name in names:  # neither passes because nothing is painted in it
        with monkeypatch.context() as patch:
            patch.setattr(faces, name, (0.25, 0.2))
            assert not torch.equal(whole, world.render(content, motion, **render))


# Helpers.


def test_take_and_join() -> None:
    content, _ = draw(WORLDS["shapes"], 5)
    back = join([take(content, 0), take(content, slice(1, 3)), take(content, [3, 4])])
    assert type(back) is shapes.ShapesContent
    assert all(torch.equal(a, b) for a, b in zip(content, back, strict=True))


def test_hsv_against_known_colours() -> None:
    hue = torch.tensor([0.0, 1 / 3, 2 / 3, 1 / 6, -1 / 3, 0.25])
    saturation = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    value = torch.tensor([1.0, 1.0, 0.5, 1.0, 1.0, 0.7])
    known = [[1, 0, 0], [0, 1, 0], [0, 0, 0.5], [1, 1, 0], [0, 0, 1], [0.7, 0.7, 0.7]]
    assert torch.allclose(hsv(hue, saturation, value), torch.tensor(known), atol=1e-6)


def test_backdrops_have_their_two_colours_and_stand_still() -> None:
    colours = torch.tensor([[[0.0, 0.2, 0.4], [1.0, 0.8, 0.6]]]).expand(4, 2, 3)
    canvas = backdrop(
        torch.arange(4),
        colours,
        torch.tensor([[1.0, 0.0]]).expand(4, 2),
        torch.full((4,), 1.0),
        pixel_axis(64),
        2,
    )
    assert canvas.shape == (4, 2, 3, 64, 64)
    assert torch.equal(canvas[:, 0], canvas[:, 1])
    red = canvas[:, 0, 0]
    assert (red[0].diff(dim=1) > 0).all()  # linear, along the direction
    assert (red[0].diff(dim=0) == 0).all()
    assert red[1, 32, 32] < 5  # radial, from the middle
    for kind in (2, 3):
        assert red[kind].min() < 3
        assert red[kind].max() > 252
    assert (red[2].diff(dim=0) == 0).all()
    assert (red[3].diff(dim=0) != 0).any()
