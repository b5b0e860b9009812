"""LPIPS against the package's own forward pass, and FVD against SciPy and by hand."""

import warnings
from pathlib import Path

import lpips
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from mtzoo.cli._use import computing
from mtzoo.errors import MtzooError
from mtzoo.evaluation import perceptual
from mtzoo.evaluation.frechet import Detector, frechet_distance
from mtzoo.evaluation.perceptual import Lpips, weights_place

pytestmark = pytest.mark.filterwarnings("ignore")  # lpips asks torchvision in an older way


def noise(*size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


def reference(backbone: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return lpips.LPIPS(net=backbone, pnet_rand=True, verbose=False)


def save(folder: Path, backbone: str) -> tuple[Path, nn.Module]:
    """A file in torchvision's form with the weights of a random backbone."""
    network = reference(backbone)
    state = {
        "features." + name.partition(".")[2]: value
        for name, value in network.net.state_dict().items()
    }
    state["classifier.6.bias"] = torch.zeros(1)
    torch.save(state, folder / "backbone.pth")
    return folder / "backbone.pth", network


@pytest.mark.parametrize("backbone", ["alex", "squeeze"])
def test_distances_are_the_packages(backbone: str, tmp_path: Path) -> None:
    path, network = save(tmp_path, backbone)
    mine = Lpips(backbone, path)
    made, truth = noise(2, 3, 64, 64, 3), noise(2, 3, 64, 64, 3, seed=1)

    def ask(x: Tensor, y: Tensor) -> Tensor:
        a, b = (v.flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1 for v in (x, y))
        with torch.no_grad():
            return network(a, b).view(x.shape[:2]).double()

    expected = ask(made, truth)
    assert expected.min() > 0.01
    assert torch.allclose(mine.distance(made, truth), expected, rtol=1e-4)
    assert mine.distance(made, made).abs().max() == 0
    shared = mine.distance(made, truth[:1])
    assert torch.allclose(shared[1:], ask(made[1:], truth[:1]), rtol=1e-4)

    samples = noise(3, 2, 64, 64, 3, seed=2)
    pairs = [ask(samples[i : i + 1], samples[j : j + 1]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert mine.diversity(samples).item() == pytest.approx(
        torch.stack(pairs).mean().item(), rel=1e-4
    )
    assert mine.diversity(samples[:1]) == 0


def test_the_network_sees_each_picture_once_not_once_a_pair(tmp_path: Path) -> None:
    mine = Lpips("alex", save(tmp_path, "alex")[0])
    seen = []
    mine._network.net.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    mine.diversity(noise(5, 3, 64, 64, 3))
    assert sum(seen) == 5 * 3  # ten pairs of three frames would take 60
    seen.clear()
    mine.distance(noise(5, 3, 64, 64, 3), noise(1, 3, 64, 64, 3))
    assert sum(seen) == 6 * 3  # five pairs of three frames would take 30


def test_grey_is_three_equal_channels(tmp_path: Path) -> None:
    mine = Lpips("alex", save(tmp_path, "alex")[0])
    grey = noise(2, 64, 64, 1)
    assert torch.equal(mine.embed(grey), mine.embed(grey.expand(-1, -1, -1, 3)))
    with pytest.raises(ValueError, match="uint8"):
        mine.embed(grey.float())


def test_missing_weights_are_named_with_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = weights_place("alex")
    assert place == tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    with pytest.raises(MtzooError, match=r"get https://\S+/alexnet-owt-7be5be79.pth and put it"):
        Lpips("alex")
    place.parent.mkdir(parents=True)
    place.write_bytes(b"half a downloa")
    with pytest.raises(MtzooError, match="its name says 7be5be79"):
        Lpips("alex")
    with pytest.raises(MtzooError, match="does not hold torchvision's weights"):
        Lpips("alex", place)
    torch.save({"features.0.weight": torch.zeros(1)}, place)
    with pytest.raises(MtzooError, match=r"lacks features\.0\.bias"):
        Lpips("alex", place)
    with pytest.raises(MtzooError, match="Did you mean 'alex'"):
        weights_place("alxe")


def test_the_reference_pictures(footage: Path) -> None:
    """With the official weights the authors give 0.722 and 0.138."""
    if not weights_place("alex").is_file():
        pytest.skip(f"the official weights are not at {weights_place('alex')}")
    from mtzoo.media import read_image

    folder = footage / "lpips_reference" / "imgs"
    found = [
        read_image(str(folder / f"{name}.png"), resolution=64)[None, None]
        for name in ("ex_ref", "ex_p0", "ex_p1")
    ]
    mine = Lpips("alex")
    assert mine.distance(found[1], found[0]).item() == pytest.approx(0.722, abs=5e-4)
    assert mine.distance(found[2], found[0]).item() == pytest.approx(0.138, abs=5e-4)


# FVD


class Moments(nn.Module):
    """Called like FVD's detector; gives the mean of each channel and of its square."""

    def forward(
        self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> Tensor:
        if not (rescale and resize and return_features):
            raise RuntimeError("called in another way")
        x = x / 255
        return torch.cat([x.mean((2, 3, 4)), x.square().mean((2, 3, 4))], 1)


def test_frechet_distance_is_scipys() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    two = 2 * torch.randn(50, 6, generator=generator, dtype=torch.float64) + 1
    root = scipy.linalg.sqrtm((torch.cov(one.T) @ torch.cov(two.T)).numpy()).real
    expected = (one.mean(0) - two.mean(0)).square().sum().item() + (
        torch.cov(one.T) + torch.cov(two.T)
    ).trace().item()
    assert frechet_distance(one, two) == pytest.approx(expected - 2 * root.trace(), rel=1e-6)
    assert abs(frechet_distance(one, one)) < 1e-9
    # Fewer videos than features, as is usual: a shift alone costs its squared length.
    wide = torch.randn(5, 30, generator=generator, dtype=torch.float64)
    assert frechet_distance(wide, wide + 2) == pytest.approx(4 * 30)
    with pytest.raises(MtzooError, match="two videos"):
        frechet_distance(one[:1], two)


def test_the_detector(tmp_path: Path) -> None:
    torch.jit.script(Moments()).save(str(tmp_path / "detector.pt"))
    detector = Detector(tmp_path / "detector.pt")
    videos = noise(3, 10, 32, 32, 3)
    features = detector.features(videos)
    assert torch.allclose(features[:, :3], videos.double().mean((1, 2, 3)) / 255)
    with pytest.raises(MtzooError, match="at least 10 frames"):
        detector.features(videos[:, :9])
    (tmp_path / "broken.pt").write_bytes(b"PK")
    for name, part in (("none.pt", "there is no file"), ("broken.pt", "no TorchScript module")):
        with pytest.raises(MtzooError, match=part):
            Detector(tmp_path / name)
    torch.jit.script(nn.Flatten()).save(str(tmp_path / "other.pt"))
    with pytest.raises(MtzooError, match="cannot be used as FVD's detector"):
        Detector(tmp_path / "other.pt").features(videos)


def test_every_backbone_has_a_file() -> None:
    assert all("-" in backbone.file for backbone in perceptual.BACKBONES.values())


@pytest.mark.parametrize("words", ["CUDA out of memory. Tried", "can't allocate memory: you tried"])
def test_memory_that_runs_out_is_no_fault_of_the_detectors_file(words: str, tmp_path: Path) -> None:
    torch.jit.script(Moments()).save(str(tmp_path / "detector.pt"))
    detector = Detector(tmp_path / "detector.pt")

    def full(*_: object, **__: object) -> Tensor:
        # What TorchScript makes of an exception within.
        raise RuntimeError(f"The following operation failed in the interpreter.\n{words} to")

    detector._module = full  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match=words.split("'")[0][:4]) as raised:
        detector.features(noise(1, 10, 32, 32, 3))
    assert isinstance(raised.value, torch.cuda.OutOfMemoryError) == words.startswith("CUDA")
    with pytest.raises(MtzooError, match="memory is too small"), computing(torch.device("cpu")):
        detector.features(noise(1, 10, 32, 32, 3))


def test_loading_a_detector_says_nothing_of_torchs_plans(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Moments()).save(str(tmp_path / "detector.pt"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        detector = Detector(tmp_path / "detector.pt")
        detector.features(noise(1, 10, 32, 32, 3))
    assert [str(one.message) for one in told] == []
