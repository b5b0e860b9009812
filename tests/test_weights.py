"""Weights out and in: bit-equal, whole or absent, and nothing of a stranger's is run."""

from __future__ import annotations

import json
import os
import pickle
import resource
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

import mtzoo
from mtzoo.errors import MtzooError
from mtzoo.interfaces import Model
from mtzoo.recipe import build_model
from mtzoo.weights import load_model, read_config, save_model

SECTION = {
    "name": "dual_mtgan",
    "content_encoder": {"name": "dcgan", "width": 8, "content_dim": 8},
    "motion_encoder": {"name": "c3d", "width": 4, "motion_dim": 4},
    "motion_generator": {"name": "lstm", "frame_motion_dim": 4},
    "image_generator": {"name": "dcgan", "width": 8},
    "image_discriminator": {"name": "pair", "width": 8},
    "video_discriminator": {"name": "c3d", "width": 4},
}
CONFIG = {
    "model": SECTION,
    "resolution": 32,
    "channels": 3,
    "frames": 8,
    "step": 7,
    "licence": "none",
    "data": "noise",
    "recipe": "test",
    "versions": {"mtzoo": mtzoo.__version__},
}


@pytest.fixture(scope="module")
def model() -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = build_model(SECTION, resolution=32, channels=3)
        built(torch.rand(2, 8, 3, 32, 32), torch.rand(2, 3, 32, 32), torch.randn(2, 4))
    return built.eval()  # one pass in training mode, so that batch statistics are not the initial


@pytest.fixture
def folder(model: Model, tmp_path: Path) -> Path:
    save_model(tmp_path / "w", model, CONFIG)
    return tmp_path / "w"


def refused(path: Path) -> str:
    with pytest.raises(MtzooError) as error:
        load_model(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def change(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_outputs_are_equal_to_the_bit(model: Model, folder: Path) -> None:
    image, video = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 8, 3, 32, 32) * 2 - 1
    loaded = mtzoo.load(folder)
    assert not loaded.training
    with torch.inference_mode():
        assert torch.equal(loaded.transfer(image, video), model.transfer(image, video))
        draws = [m.sample(image, 2, 5, torch.Generator().manual_seed(3)) for m in (loaded, model)]
        assert torch.equal(*draws)
        assert torch.equal(loaded.reconstruct(video), model.reconstruct(video))
    assert not list(loaded.discriminators().parameters()), "judges are no part of weights"


def test_the_files_say_what_they_are(model: Model, folder: Path) -> None:
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    assert read_config(folder) == {**CONFIG, "format": 1}
    names = set(safetensors.torch.load_file(folder / "model.safetensors"))
    assert names == set(model.generators().state_dict())


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_others_may_read_what_the_folder_lets_them(model: Model, tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)
    save_model(folder, model, CONFIG)
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == mode & 0o666


def test_a_run_folder_will_do(model: Model, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    save_model(run / "model", model, CONFIG)
    assert isinstance(load_model(run), Model)
    assert read_config(run)["step"] == 7


def test_loading_leaves_the_random_state(folder: Path) -> None:
    before = torch.get_rng_state()
    load_model(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_compiled_in_place_keeps_its_names(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder)
    model.generators().compile(backend="eager")
    save_model(tmp_path / "compiled", model, CONFIG)
    assert isinstance(load_model(tmp_path / "compiled"), Model)

    class Wrapped(type(model)):
        def generators(self):
            return torch.compile(super().generators(), backend="eager")

    model.__class__ = Wrapped
    with pytest.raises(ValueError, match="_orig_mod"):
        save_model(tmp_path / "wrapped", model, CONFIG)
    assert not (tmp_path / "wrapped").exists()


def test_tied_weights_can_be_saved(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder)
    parameters = dict(model.generators().named_parameters())
    shape = next(iter(parameters.values())).shape
    module = model.generators()
    module.register_parameter("extra", torch.nn.Parameter(torch.zeros(shape)))
    module.extra = next(iter(parameters.values()))
    save_model(tmp_path / "tied", model, CONFIG)
    assert "unexpected 'extra'" in refused(tmp_path / "tied")


def test_a_full_disk_leaves_no_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left")

    model = load_model(folder)
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(MtzooError, match=r"cannot write .*model.safetensors: .* No space left"):
        save_model(tmp_path / "full", model, CONFIG)
    assert not list((tmp_path / "full").rglob("*"))


def test_paths_that_hold_no_weights(folder: Path, tmp_path: Path) -> None:
    assert "Did you mean 'w'" in refused(tmp_path / "ww")
    assert "Did you mean" not in refused(folder / "model"), "a file is no folder"
    assert "is a file" in refused(folder / "config.json")
    (tmp_path / "empty").mkdir()
    assert "holds no weights" in refused(tmp_path / "empty")
    for name in ("config.json", "model.safetensors"):
        moved = (folder / name).rename(tmp_path / name)
        assert f"lacks {name}" in refused(folder)
        moved.rename(folder / name)
    load_model(folder)


def test_damaged_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for content in (b"", whole[:100], whole[:-100], b"\xff" * 500, b"text\n" * 200):
        file.write_bytes(content)
        assert "model.safetensors is damaged" in refused(folder)


def test_a_pickle_is_not_opened(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    refused(folder)
    torch.save({"state": Bomb()}, folder / "model.safetensors")
    refused(folder)
    assert not (tmp_path / "exploded").exists()


def test_keys_and_shapes_that_do_not_fit_are_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    state = safetensors.torch.load_file(file)
    first = next(name for name, value in state.items() if value.ndim == 4)
    renamed = {("other.name" if name == first else name): v for name, v in state.items()}
    safetensors.torch.save_file(renamed, file)
    message = refused(folder)
    assert f"missing '{first}'" in message
    assert "unexpected 'other.name'" in message
    safetensors.torch.save_file({first: state[first]}, file)
    assert f"and {len(state) - 4} more" in refused(folder)
    safetensors.torch.save_file({**state, first: state[first][:1].contiguous()}, file)
    assert f"'{first}' is (1, " in refused(folder)
    safetensors.torch.save_file({**state, first: state[first].to(torch.int32)}, file)
    assert "int32" in refused(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "[" * 100_000, "\x00\xff"])
def test_damaged_configuration(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    message = refused(folder)
    assert "config.json" in message


def test_a_part_that_is_not_installed_is_named_with_its_package(folder: Path) -> None:
    change(
        folder,
        model={**SECTION, "content_encoder": {"name": "average"}},
        versions={"plugins": {"content encoder 'average'": "mtzoo-average 0.1"}},
    )
    message = refused(folder)
    assert "parts of mtzoo-average 0.1 (content encoder 'average')" in message


def test_a_configuration_of_a_size_no_one_writes(folder: Path) -> None:
    (folder / "config.json").write_text(" " * (2 << 20))
    assert "larger than" in refused(folder)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"format": 2}, "newer mtzoo"),
        ({"format": None}, "no format"),
        ({"format": True}, "no format"),
        ({"format": "1"}, "no format"),
        ({"resolution": "32"}, "resolution"),
        ({"resolution": 48}, "resolution 48"),
        ({"channels": 0}, "channels"),
        ({"frames": 1.5}, "frames"),
        ({"model": None}, "'model'"),
        ({"model": {}}, "name"),
        ({"model": {**SECTION, "name": "dual_mtgun"}}, "dual_mtgan"),
        ({"model": {**SECTION, "name": ["dual_mtgan"]}}, "name"),
        ({"model": {**SECTION, "motion_generator": {"name": "lstn"}}}, "lstm"),
        ({"model": {**SECTION, "motion_generator": {"name": "os.system"}}}, "os.system"),
        ({"model": {**SECTION, "class_path": "os.system"}}, "class_path"),
        ({"model": {**SECTION, "content_encoder": {"name": "dcgan", "widht": 8}}}, "width"),
        ({"model": {**SECTION, "content_encoder": {"name": "dcgan", "width": 9}}}, "does not fit"),
    ],
)
def test_a_strangers_configuration(folder: Path, values: dict[str, object], says: str) -> None:
    change(folder, **values)
    assert says in refused(folder)


@pytest.mark.parametrize("width", [2000, 10**5, 10**9])
def test_made_up_widths_fill_no_memory(folder: Path, width: int) -> None:
    section = {**SECTION, "content_encoder": {"name": "dcgan", "width": width, "content_dim": 8}}
    change(folder, model=section)  # from gigabytes to more than there is anywhere
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refused(folder)
    assert "far larger than" in message or "cannot be built" in message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000  # KiB


def test_a_failure_leaves_the_old_files_and_no_others(
    model: Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file: file.read_bytes() for file in folder.iterdir()}

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    for place in (folder, tmp_path / "new"):
        with pytest.raises(MtzooError, match="No space left"):
            save_model(place, model, {**CONFIG, "step": 8})
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_saving_over_an_older_state(model: Model, folder: Path) -> None:
    save_model(folder, model, {**CONFIG, "step": 8})
    assert read_config(folder)["step"] == 8
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]


def test_a_configuration_that_would_not_load_is_not_written(model: Model, tmp_path: Path) -> None:
    for config in ({}, {**CONFIG, "frames": 0}, {**CONFIG, "data": Path("x")}):
        with pytest.raises(ValueError, match="would not load"):
            save_model(tmp_path / "w", model, config)
    assert not list(tmp_path.iterdir())
    with pytest.raises(MtzooError, match="does not exist"):
        save_model(tmp_path / "a" / "b", model, CONFIG)


@pytest.mark.gpu
def test_loading_to_a_gpu(folder: Path) -> None:
    loaded = load_model(folder, device="cuda")
    assert all(p.is_cuda for p in loaded.generators().parameters())
