"""The contract for packages of one's own: the page's example keeps it, and each breach is named."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mtzoo import MtzooError
from mtzoo.registries import content_encoders
from mtzoo.testing import check_component

PAGE = Path(__file__).parent.parent / "docs" / "components.md"
EXAMPLE = PAGE.read_text("utf-8").partition("```python\n# my_package/average.py\n")[2]
EXAMPLE = EXAMPLE.partition("```\n")[0]
numbers = itertools.count()

Written = Callable[[str], None]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    """Imports a module of this text, which registers ``average``."""
    monkeypatch.syspath_prepend(tmp_path)
    names: list[str] = []

    def imported(text: str) -> None:
        names.append(f"my_package_{next(numbers)}")
        (tmp_path / f"{names[-1]}.py").write_text(text)
        __import__(names[-1])

    yield imported
    for name in names:
        del sys.modules[name]
    content_encoders._entries.pop("average", None)


def test_the_page_s_example_keeps_the_contract(written: Written) -> None:
    written(EXAMPLE)
    before = torch.get_rng_state()
    check_component("content_encoders", "average")
    check_component("content-encoder", "average")
    assert torch.equal(torch.get_rng_state(), before)


BREACHES = [
    ("documentation, 2026", "documentation", "card: the card's source .* has no year"),
    ('tiny={"content_dim": 8}', "tiny={}", "card: the card has no tiny options"),
    ("        channels: Colour channels of the images.\n", "", "does not say what channels is"),
    ('"""A content encoder that', '__author__ = """', "documentation: its module says nothing"),
    (", *, content_dim", ", content_dim", "the option content_dim is not keyword-only"),
    (
        "content_dim: int = 16",
        "content_dim: int = 16.0",
        "the default of content_dim, 16.0, is not",
    ),
    ("image.mean((2, 3))", "image.mean((2, 3)) / 0", "shapes: it gives values that are not finite"),
    (
        "return self.code(image.mean((2, 3)))",
        "return self.code(image.mean((2, 3)))[:, :4]",
        r"it gives \[\(2, 4\)\], not \[\(2, 8\)\]",
    ),
    ("nn.Linear(channels,", "nn.Linear(3,", "channels: RuntimeError: .*mat1 and mat2"),
    ("mean((2, 3)))", "mean((2, 3)).detach())", "gradients: no gradient reaches an input"),
    ("self.code(image", "self.code(0 * image", "gradients: the gradient of code.weight is 0"),
    ("image.mean((2, 3))", "image.mean((2, 3)) - image.mean((0, 2, 3))", "neighbours: a sample"),
    (
        "image.mean((2, 3))",
        "image.mean((2, 3)) + 1e-4 * torch.rand(1)",
        "evaluation: evaluated again it",
    ),
    (
        "        check_resolution(resolution, WHO)\n",
        "",
        "resolutions_refused: resolution 0 is not refused; raise a MtzooError that says so",
    ),
    (
        "channels=channels, content",
        "content",
        "sizes_refused: channels 0 .*(is not refused|ends in)",
    ),
    (
        "        check_image(image, self.channels, self.resolution, WHO)\n",
        "",
        "inputs_refused: pictures of 64x64 where it was built for 32x32 is not refused",
    ),
]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(("said", "instead", "complaint"), BREACHES)
def test_a_breach_is_named(written: Written, said: str, instead: str, complaint: str) -> None:
    assert EXAMPLE.count(said) == 1
    text = EXAMPLE.replace("from torch import", "import torch\nfrom torch import")
    written(text.replace(said, instead))
    with pytest.raises(AssertionError, match=complaint) as error:
        check_component("content_encoders", "average")
    assert str(error.value).startswith("content encoder 'average', ")
    assert "\n" not in str(error.value)


def test_what_is_no_component_has_no_such_contract() -> None:
    with pytest.raises(
        MtzooError, match=r"objectives have no contract .* kinds: content_encoders, "
    ):
        check_component("objectives", "dual_mtgan")
    with pytest.raises(MtzooError, match="unknown content encoder 'dcgn'"):
        check_component("content_encoders", "dcgn")


def test_the_page_shows_how_to_call_it() -> None:
    assert re.search(r'check_component\("content_encoders", "average"\)', PAGE.read_text("utf-8"))
