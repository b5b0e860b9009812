"""Planners of crops: on pictures drawn here, whose faces and persons are known, and on footage."""

import subprocess
import sys
import types
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

from mtzoo import media
from mtzoo.data.prepare import crops
from mtzoo.data.prepare.crops import Planner, plan_crops, planner
from mtzoo.data.prepare.weizmann import load_masks
from mtzoo.errors import MtzooError
from mtzoo.media import Box, Frame

WIDTH, HEIGHT = 640, 480


def head(canvas: Image.Image, left: float, top: float, side: float) -> None:
    """Draw a head whose hair, skin and chin lie in a box of ``side`` by 1.35 ``side``."""
    draw = ImageDraw.Draw(canvas)

    def ellipse(x: float, y: float, width: float, height: float, grey: int) -> None:
        x, y = left + x * side, top + (y + 0.225) * side
        w, h = width * side / 2, height * side / 2
        draw.ellipse([x - w, y - h, x + w, y + h], fill=(grey, grey, grey))

    ellipse(0.5, 0.45, 1.0, 1.35, 60)  # hair
    ellipse(0.5, 0.5, 0.8, 1.1, 190)  # skin
    for x in (0.32, 0.68):
        ellipse(x, 0.36, 0.24, 0.12, 110)
        ellipse(x, 0.37, 0.16, 0.09, 40)
        ellipse(x, 0.29, 0.26, 0.04, 70)
    ellipse(0.5, 0.52, 0.08, 0.3, 215)
    ellipse(0.5, 0.63, 0.16, 0.05, 130)
    ellipse(0.5, 0.78, 0.3, 0.07, 90)


def heads(*places: tuple[float, float, float]) -> Frame:
    """A picture of heads, each ``(left, top, side)``."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT), (128, 128, 128))
    for place in places:
        head(canvas, *place)
    return Frame(canvas.filter(ImageFilter.GaussianBlur(1.5)))


def shown(plan: Planner, frames: Iterable[Frame], fps: float = 25.0) -> list[Box]:
    """Show all frames to a planner and ask where to cut."""
    count = 0
    for frame in frames:
        plan.look(count, frame, fps)
        count += 1
    boxes = plan.plan(frame.width, frame.height, count)
    assert len(boxes) == count
    assert None not in boxes
    return [box for box in boxes if box is not None]


def holds(box: Box, left: float, top: float, side: float) -> bool:
    """Whether a square holds all of a head that `head` drew."""
    return (
        box.left <= left
        and box.top <= top
        and left + side <= box.left + box.width
        and top + 1.35 * side <= box.top + box.height
    )


def test_centre_and_none_need_no_look() -> None:
    centre, none = planner("centre"), planner("none")
    assert not centre.needs_look
    assert not none.needs_look
    assert centre.plan(641, 480, 3) == [Box(80, 0, 480, 480)] * 3
    assert centre.plan(100, 301, 1) == [Box(0, 100, 100, 100)]
    assert none.plan(641, 480, 2) == [None, None]


@pytest.mark.parametrize(
    ("crop", "margin", "message"),
    [
        ("face", 0.9, "margin must lie between 1 and 4, not 0.9"),
        ("person", float("nan"), "margin must lie between 1 and 4, not nan"),
        ("person", 4.1, "not 4.1"),
        ("centre", 1.5, "margin has no meaning with crop 'centre'"),
    ],
)
def test_margins_that_cannot_be(crop: crops.Kind, margin: float, message: str) -> None:
    with pytest.raises(MtzooError) as caught:
        planner(crop, margin)
    assert message in str(caught.value)


# Faces


def test_a_face_is_held_by_one_square_of_whole_pixels() -> None:
    place = (250.0, 130.0, 140.0)
    plan = planner("face")
    assert plan.needs_look
    boxes = shown(plan, [heads(place)] * 20)
    assert len(set(boxes)) == 1
    box = boxes[0]
    assert all(edge == int(edge) for edge in box)
    assert box.width == box.height
    assert holds(box, *place)
    # Not much more than the head, which is in the middle.
    assert box.width < 1.8 * 140
    assert abs(box.left + box.width / 2 - 320) < 10
    assert abs(box.top + box.height / 2 - (130 + 1.35 * 70)) < 20
    assert plan.about.keys() == {"faces", "face_side", "face_tracks", "crop_side"}
    assert (plan.about["faces"], plan.about["face_tracks"]) == (1.0, 1)
    assert plan.about["crop_side"] == box.width
    assert box.width == pytest.approx(1.6 * float(str(plan.about["face_side"])), abs=2)


def test_margin_scales_the_square() -> None:
    frames = [heads((250, 130, 140))] * 5
    sides = [shown(planner("face", m), frames)[0].width for m in (1.0, 2.0, 3.0)]
    assert sides[1] == pytest.approx(2 * sides[0], abs=2)
    assert sides[2] == pytest.approx(3 * sides[0], abs=3)


def test_at_the_border_the_square_is_shifted_inside_and_reaches_over_only_if_it_must() -> None:
    frames = [heads((10, 10, 140))] * 5
    box = shown(planner("face"), frames)[0]
    assert (box.left, box.top) == (0, 0)
    box = shown(planner("face", 4.0), frames)[0]
    assert box.height > HEIGHT
    assert box.top == (HEIGHT - box.height) // 2
    assert 0 <= box.left <= WIDTH - box.width


def test_a_moving_head_is_held_in_all_frames_and_widens_the_square_by_its_way_only() -> None:
    places = [(200 + 90 * np.sin(t / 12), 150 + 20 * np.cos(t / 9), 120.0) for t in range(90)]
    still = shown(planner("face"), [heads((200, 150, 120))] * 5)[0]
    boxes = shown(planner("face"), [heads(p) for p in places])
    assert len(set(boxes)) == 1
    assert all(holds(boxes[0], *place) for place in places)
    assert boxes[0].width < still.width + 180


def test_a_second_face_does_not_widen_the_square() -> None:
    main, other = (60.0, 120.0, 150.0), (400.0, 150.0, 110.0)
    alone = shown(planner("face"), [heads(main)] * 20)[0]
    plan = planner("face")
    both = shown(plan, [heads(main, other)] * 20)[0]
    assert both == alone
    assert plan.about["face_tracks"] == 2
    # One that comes for a while, however large.
    frames = [heads(main, (360, 60, 200)) if 8 <= t < 16 else heads(main) for t in range(60)]
    assert shown(planner("face"), frames)[0] == alone


def test_a_passer_by_who_was_first_is_not_taken_for_the_one_who_stays() -> None:
    """The search narrows to the size of who is in view, and must widen once they are gone."""
    frames = [heads((30, 30, 250))] * 16 + [heads((420, 200, 90))] * 184
    plan = planner("face")
    box = shown(plan, frames)[0]
    assert holds(box, 420, 200, 90)
    assert box.width < 180
    # In 20 of 25 looks: not in four at the other, nor in the one that was still for such as them.
    assert plan.about["faces"] == 0.8


def test_no_face_is_a_reason() -> None:
    with pytest.raises(MtzooError, match=r"^no face was found in 5 frames looked at$"):
        shown(planner("face"), [heads()] * 20)
    with pytest.raises(MtzooError, match=r"found in 1 of 9 frames looked at only"):
        shown(planner("face"), [heads((250, 130, 140))] + [heads()] * 33)


def scripted(
    monkeypatch: pytest.MonkeyPatch, finds: Sequence[Sequence[tuple[float, float, float]]]
) -> tuple[Planner, Box, list[float]]:
    """Plan from finds written down, one list of ``(x, y, side)`` of centres in pixels a look."""
    least: list[float] = []
    found = iter(finds)

    def find_faces(grey: np.ndarray, smallest: float) -> list[crops._Square]:
        least.append(smallest)
        return [
            crops._Square((x - side / 2) / WIDTH, (y - side / 2) / WIDTH, side / WIDTH)
            for x, y, side in next(found)
        ]

    monkeypatch.setattr(crops, "find_faces", find_faces)
    plan = planner("face", 1.0)
    # Looks at every fourth frame, and from the 32nd on at every tenth.
    frames = 4 * len(finds) if len(finds) <= 9 else 33 + 10 * (len(finds) - 9)
    box = shown(plan, [heads()] * frames)[0]
    assert next(found, None) is None
    return plan, box, least


def test_finds_out_of_place_do_not_move_the_square(monkeypatch: pytest.MonkeyPatch) -> None:
    steady = [(320.0, 240.0, 100.0)]
    _, expected, _ = scripted(monkeypatch, [steady] * 12)
    assert expected == Box(270, 180, 100, 100)  # a tenth up, for the hair
    finds = [steady] * 12
    finds[3] = [(390.0, 240.0, 100.0)]  # near enough to be taken for the face
    finds[7] = [(320.0, 260.0, 150.0)]
    finds[9] = [(100.0, 100.0, 140.0), *steady]  # a chance find beside it
    finds[5] = []
    plan, box, _ = scripted(monkeypatch, finds)
    assert box == expected
    assert plan.about["faces"] == round(11 / 12, 2)
    assert plan.about["face_tracks"] == 2


def test_finds_of_another_size_are_another_face(monkeypatch: pytest.MonkeyPatch) -> None:
    finds = [[(320.0, 240.0, 100.0)]] * 8 + [[(320.0, 240.0, 170.0)]] * 4
    plan, box, _ = scripted(monkeypatch, finds)
    assert box == Box(270, 180, 100, 100)
    assert (plan.about["face_tracks"], plan.about["faces"]) == (2, 0.67)


def test_two_faces_keep_their_tracks_in_whatever_order_they_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = (200.0, 240.0, 100.0), (275.0, 240.0, 95.0)
    finds = [[one, other] if t % 2 else [other, one] for t in range(12)]
    plan, box, _ = scripted(monkeypatch, finds)
    assert box == Box(150, 180, 100, 100)
    assert plan.about["face_tracks"] == 2


def test_while_a_face_is_in_view_much_smaller_ones_are_not_searched_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    face = [(320.0, 240.0, 128.0)]
    finds = [face, face, face, face, [], face, face]
    _, _, least = scripted(monkeypatch, finds)
    narrow, wide = 128 / WIDTH / 1.6, 0.06
    # From three finds on; after a miss, everything is searched again.
    assert least == pytest.approx([wide, wide, wide, narrow, narrow, wide, narrow])


def test_the_search_is_made_in_few_and_small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def find_faces(grey: np.ndarray, least: float) -> list[crops._Square]:
        seen.append(grey.shape)
        return [crops._Square(0.4, 0.3, 0.2)]

    monkeypatch.setattr(crops, "find_faces", find_faces)
    shown(planner("face"), [heads()] * 200)
    assert set(seen) == {(240, 320)}
    assert len(seen) <= 200 / 6


def test_opencv_is_needed_for_faces_only_and_its_absence_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    for crop in ("centre", "none", "person"):
        planner(crop)
    with pytest.raises(MtzooError, match=r"not installed.*pip install 'mtzoo\[faces\]'"):
        planner("face")


@pytest.mark.parametrize("data", [None, types.SimpleNamespace(haarcascades="/nowhere/")])
def test_an_opencv_without_cascades_is_one_line(
    monkeypatch: pytest.MonkeyPatch, data: object
) -> None:
    other = types.ModuleType("cv2")
    other.__version__ = "5.0.0"
    if data is not None:
        other.data = data
    monkeypatch.setitem(sys.modules, "cv2", other)
    with pytest.raises(MtzooError) as caught:
        planner("face")
    assert "(5.0.0) comes without its face cascades" in str(caught.value)
    assert "pip install 'mtzoo[faces]'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_opencv_is_imported_when_faces_are_found_and_only_then_set_to_one_thread() -> None:
    script = """
import sys
import numpy as np
from mtzoo.data.prepare import crops
assert "cv2" not in sys.modules
crops.planner("person")
assert "cv2" not in sys.modules
import cv2
cv2.setNumThreads(2)
crops.planner("face")
assert cv2.getNumThreads() == 2
crops.find_faces(np.zeros((90, 120), np.uint8))
assert cv2.getNumThreads() == 1
"""
    subprocess.run([sys.executable, "-c", script], check=True)


# Persons


def filmed(masks: np.ndarray, *, noise: float = 2.0, sway: float = 0.0) -> list[Frame]:
    """Dark persons before a pattern, with a camera's noise; ``sway`` moves them a little."""
    generator = np.random.default_rng(0)
    height, width = masks.shape[1:]
    wall = 150 + 40 * ndimage.gaussian_filter(generator.normal(size=(height, width)), 2)
    frames = []
    for t, mask in enumerate(masks):
        soft = ndimage.gaussian_filter(mask.astype(float), 0.7)
        soft = ndimage.shift(soft, (0, sway * np.sin(t / 5)), order=1)
        picture = wall + soft * (40 - wall) + generator.normal(0, noise, wall.shape)
        grey = picture.clip(0, 255).astype(np.uint8)
        frames.append(Frame(Image.fromarray(np.stack([grey] * 3, axis=2))))
    return frames


def walker(count: int, width: int = 160, height: int = 120, speed: float = 2.0) -> np.ndarray:
    masks = np.zeros((count, height, width), np.uint8)
    for t in range(count):
        x = 10 + round(speed * t)
        masks[t, 40:100, x : x + 20] = 1
    return masks


def waver(count: int) -> np.ndarray:
    """Stands still, but for an arm that goes up and down."""
    masks = np.zeros((count, 120, 160), np.uint8)
    masks[:, 40:110, 70:90] = 1
    for t in range(count):
        y = round(50 + 15 * np.sin(t / 4))
        masks[t, y : y + 6, 50:70] = 1
    return masks


@pytest.mark.parametrize("scale", [1, 3])
def test_a_walker_is_followed_by_squares_of_one_size(scale: int) -> None:
    masks = walker(60).repeat(scale, 1).repeat(scale, 2)
    plan = planner("person")
    assert plan.needs_look
    boxes = shown(plan, filmed(masks))
    truth = plan_crops(masks, margin=1.1, smoothing=4.0)
    centres = np.array([(b.left + b.width / 2, b.top + b.height / 2) for b in boxes])
    assert np.abs(centres - truth.centres).max() < 2 * scale
    assert {b.width for b in boxes} == {b.height for b in boxes} == {boxes[0].width}
    assert boxes[0].width == pytest.approx(truth.side, abs=3 * scale)
    assert plan.about["moving"] == 1.0
    assert plan.about["crop_side"] == round(boxes[0].width, 1)


def test_who_stands_and_waves_is_seen_whole_by_a_square_that_stays() -> None:
    masks = waver(60)
    boxes = shown(planner("person"), filmed(masks, sway=0.4))
    assert len(set(boxes)) == 1
    assert all(edge % 2 == 0 for edge in boxes[0])  # cut by the faster way, colours in their place
    left, top, width, height = boxes[0]
    y, x = np.nonzero(masks.any(axis=0))
    assert left <= x.min()
    assert x.max() < left + width
    assert top <= y.min()
    assert y.max() < top + height
    assert width < 1.3 * 70


def test_nothing_that_moves_is_a_reason() -> None:
    still = np.zeros((30, 120, 160), np.uint8)
    pattern = 128 + np.random.default_rng(1).normal(0, 40, (120, 400, 3)).clip(-100, 100)
    panned = [
        Frame(Image.fromarray(pattern[:, 4 * t : 4 * t + 160].astype(np.uint8))) for t in range(30)
    ]
    for frames in (filmed(still), filmed(still, noise=8.0), panned, filmed(walker(1))):
        with pytest.raises(MtzooError, match=r"nothing moves.*take the centre crop"):
            shown(planner("person"), frames)


def test_long_videos_are_watched_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops, "_MOTION_FRAMES", 40)
    masks = walker(150, speed=0.8)
    plan = planner("person")
    kept: list[int] = []
    frames = filmed(masks)
    for index, frame in enumerate(frames):
        plan.look(index, frame, 12.5)
        kept.append(len(plan.greys))
    assert max(kept) <= 40
    boxes = plan.plan(160, 120, 150)
    truth = plan_crops(masks, margin=1.1, smoothing=4.0)
    centres = np.array([(b.left + b.width / 2, b.top + b.height / 2) for b in boxes])
    # The square goes straight on after the last picture kept, which here is the last frame but one.
    assert np.abs(centres - truth.centres).max() < 4
    assert np.abs(np.diff(centres[:, 0], n=2)).max() < 0.5


def test_motion_is_followed_alike_at_any_rate_from_some_of_the_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[int] = []
    grey = Frame.grey

    def noted(frame: Frame, longest: int) -> np.ndarray:
        looks.append(longest)
        return grey(frame, longest)

    monkeypatch.setattr(Frame, "grey", noted)
    masks = np.zeros((300, 120, 200), np.uint8)
    for t, mask in enumerate(masks):
        x = round(90 + 60 * np.sin(np.pi * t / 50))  # to and fro in two seconds
        mask[40:100, x : x + 20] = 1
    frames = filmed(masks)
    found = []
    for every, most in ((1, 64 + 32 + 172 // 4 + 1), (2, 64 + 86 // 2 + 1), (4, 75)):
        looks.clear()
        boxes = shown(planner("person"), frames[::every], 50 / every)
        assert len(looks) <= most
        centres = [b.left + b.width / 2 for b in boxes]
        found.append(np.interp(np.arange(297), np.arange(0, 300, every), centres))
    assert np.ptp(found[0]) > 100
    assert np.abs(found[1] - found[0]).max() < 1.5
    assert np.abs(found[2] - found[0]).max() < 3  # straight lines between frames far apart


def test_squares_that_are_cut_have_the_size_asked_for_also_over_the_border() -> None:
    frames = filmed(walker(60))
    boxes = shown(planner("person"), frames)
    assert boxes[0].left < 0
    assert {f.cut(b, 32).shape for f, b in zip(frames, boxes, strict=True)} == {(32, 32, 3)}


# Genuine footage


@pytest.mark.footage
def test_genuine_faces(footage: Path) -> None:
    """Another cascade, at full size and in every frame, finds one face in the square's middle."""
    judge = cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_frontalface_default.xml")
    files = sorted((footage / "grid_faces").glob("*.mpg"))
    assert len(files) == 7
    for file in files:
        with media.decode(file) as decoded:
            frames = list(decoded)
        plan = planner("face")
        boxes = shown(plan, frames)
        assert len(set(boxes)) == 1
        assert plan.about["faces"] == 1.0
        box = boxes[0]
        assert min(box.left, box.top) >= 0
        assert box.left + box.width <= 360
        assert box.top + box.height <= 288
        middles = []
        for frame in frames[::3]:
            grey = frame.cut(box, 192)[..., 1].copy()
            found = judge.detectMultiScale(grey, 1.05, 8, minSize=(80, 80))
            middles += [(x + w / 2, y + w / 2, w) for x, y, w, _ in found]
        assert len(middles) >= 0.9 * len(frames[::3]), file.name
        x, y, side = np.median(middles, axis=0) / 192
        assert abs(x - 0.5) < 0.05, file.name
        # A little under the middle, because hair reaches far up.
        assert 0.5 < y < 0.62, file.name
        assert 0.5 < side < 0.72, file.name


@pytest.mark.footage
def test_genuine_faces_upside_down_are_none(footage: Path) -> None:
    with media.decode(footage / "grid_faces" / "lrwp9a.mpg") as decoded:
        turned = [
            Frame(frame.image().transpose(Image.Transpose.FLIP_TOP_BOTTOM)) for frame in decoded
        ]
    with pytest.raises(MtzooError, match="no face was found in 13 frames looked at"):
        shown(planner("face"), turned)


@pytest.mark.footage
def test_genuine_persons(footage: Path) -> None:
    """What motion finds, against the silhouettes of the set, over all its videos."""
    masks = load_masks(footage / "weizmann" / "original_masks.mat")
    followed, stayed = [], []
    for file in sorted((footage / "weizmann" / "video").rglob("*.avi")):
        mask = masks[file.stem if file.stem in masks else f"{file.stem}1"]
        with media.decode(file) as decoded:
            frames = [frame for frame, _ in zip(decoded, mask, strict=False)]
        mask = mask[: len(frames)]
        boxes = shown(planner("person"), frames)
        stays = len(set(boxes)) == 1
        truth = plan_crops(
            mask.any(axis=0)[None].astype(np.uint8) if stays else mask, margin=1.1, smoothing=4.0
        )
        left, top, side, _ = np.array(boxes).T
        time, y, x = np.nonzero(mask)
        outside = (
            (x < left[time])
            | (x + 1 > (left + side)[time])
            | (y < top[time])
            | (y + 1 > (top + side)[time])
        )
        centres = np.stack([left + side / 2, top + side / 2], axis=1)
        away = np.linalg.norm(centres - truth.centres, axis=1)
        figures = (outside.mean(), np.median(away), np.percentile(away, 95), side[0] / truth.side)
        (stayed if stays else followed).append((file.parent.name, *figures))
    # Who goes through the picture is followed, who acts in place is not.
    assert {name for name, *_ in followed} == {"jump", "run", "side", "skip", "walk"}
    assert {name for name, *_ in stayed} == {"bend", "jack", "pjump", "wave1", "wave2"}
    assert len(followed) == len(stayed) == 35
    outside, median, most, ratio = np.array([figures for _, *figures in followed]).T
    assert outside.max() < 0.001
    assert median.max() < 2
    assert np.median(most) < 2
    assert most.max() < 8
    assert ratio.min() > 0.97
    assert ratio.max() < 1.05
    outside, median, _, ratio = np.array([figures for _, *figures in stayed]).T
    assert np.median(outside) == 0
    assert outside.max() < 0.1
    assert np.median(median) < 6
    assert median.max() < 17
    assert ratio.min() > 0.8
    assert np.median(ratio) < 1.1
    assert ratio.max() < 1.6


@pytest.mark.footage
def test_a_genuine_crop_does_not_jitter(footage: Path) -> None:
    file = footage / "weizmann" / "video" / "walk" / "ira_walk.avi"
    with media.decode(file) as decoded:
        boxes = shown(planner("person"), decoded)
    left = np.array([box.left for box in boxes])
    steps = [abs(b - a) for a, b in pairwise(np.diff(left))]
    assert max(steps) * 64 / boxes[0].width < 0.5


def test_specks_go_as_scipy_would_take_them() -> None:
    masks = np.random.default_rng(0).random((19, 12, 17)) < 0.4
    masks[3] = masks[4, :, :9] = True  # up to the border, which counts as background
    expected = [
        ndimage.binary_closing(ndimage.binary_opening(mask), iterations=2) for mask in masks
    ]
    assert np.stack(expected).any()
    assert np.array_equal(crops._without_specks(masks), np.stack(expected))
