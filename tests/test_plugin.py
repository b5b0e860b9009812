"""A package that others make adds components by entry point, without a line in mtzoo."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

MODULE = '''\
"""A content encoder of somebody else's."""

from torch import Tensor, nn

from mtzoo import Card
from mtzoo.errors import MtzooError
from mtzoo.interfaces import ContentEncoder


class MeanColour(ContentEncoder):
    """Content is the mean colour, passed through a linear layer."""

    card = Card(
        summary="The mean colour of a picture.",
        source="a third party",
        faithful="all of it",
        inputs="image (N, C, H, W)",
        outputs="content codes (N, content_dim)",
    )

    def __init__(self, channels: int, *, content_dim: int = 4, bias: bool = True) -> None:
        super().__init__()
        if content_dim < 1:
            raise MtzooError(f"mean_colour: content_dim {content_dim} must be at least 1")
        self.content_dim = content_dim
        self.linear = nn.Linear(channels, content_dim, bias=bias)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(image.mean((2, 3)))
'''

ALIAS = '''\
"""An encoder that does not say how large its codes are."""

from torch import Tensor

from mtzoo import Card
from mtzoo.interfaces import ContentEncoder
from mtzoo.registries import content_encoders


@content_encoders.register("sizeless", Card("s", "s", "s", inputs="i", outputs="o"))
class Sizeless(ContentEncoder):
    """No content_dim."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1)
'''

RECIPE = """\
data: {name: shapes, resolution: 32, frames: 6}
model:
  name: dual_mtgan
  content_encoder: {name: mean_colour, content_dim: 6}
  motion_encoder: {name: c3d, width: 4}
  motion_generator: {name: lstm, hidden: 4}
  image_generator: {name: dcgan, width: 4}
objective: {name: dual_mtgan}
engine: {steps: 2, batch_size: 2}
"""


def install(folder: Path, name: str, modules: dict[str, str], entry_points: str) -> None:
    """Build a wheel by hand and let pip install it, offline, into ``folder``."""
    wheel = folder.parent / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    files = {
        **{f"{module}.py": text for module, text in modules.items()},
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": entry_points,
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, text)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    subprocess.run([*pip, *options], check=True, capture_output=True)


def python(folder: Path, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        cwd=folder.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed package: one good component, one that cannot be imported."""
    folder = tmp_path_factory.mktemp("plugin") / "site"
    install(
        folder,
        "mtzoo_thirdparty",
        {
            "thirdparty_colour": MODULE,
            "thirdparty_broken": "raise RuntimeError('imported although nobody asked')\n",
            "thirdparty_untold": "class Untold:\n    pass\n",
            "thirdparty_alias": ALIAS,
        },
        "[mtzoo_content_encoders]\n"
        "mean_colour = thirdparty_colour:MeanColour\n"
        "broken = thirdparty_broken:Nothing\n"
        "untold = thirdparty_untold:Untold\n"
        "misnamed = thirdparty_alias:Sizeless\n"
        "sizeless = thirdparty_alias:Sizeless\n",
    )
    (folder.parent / "r.yaml").write_text(RECIPE)
    return folder


def test_a_recipe_uses_it_by_name(site: Path) -> None:
    code = (
        "import sys, torch\n"
        "from mtzoo.recipe import build_model, load_recipe\n"
        "assert 'thirdparty_colour' not in sys.modules\n"
        "recipe = load_recipe('r.yaml')\n"
        "assert recipe.model['content_encoder'] == "
        "{'name': 'mean_colour', 'content_dim': 6, 'bias': True}\n"
        "model = build_model(recipe.model, resolution=32, channels=3).eval()\n"
        "video = model.transfer(torch.zeros(1, 3, 32, 32), torch.zeros(1, 6, 3, 32, 32))\n"
        "assert video.shape == (1, 6, 3, 32, 32)\n"
        "loaded = sorted(m for m in sys.modules if m.startswith('thirdparty'))\n"
        "assert loaded == ['thirdparty_colour'], loaded\n"
    )
    python(site, "-c", code)


def test_the_command_line_knows_it(site: Path) -> None:
    # One process for all: each would spend seconds on importing torch.
    code = (
        "from mtzoo.cli import main\n"
        "assert main(['ls', 'content_encoders']) == 0\n"
        "assert main(['validate', 'r.yaml']) == 0\n"
        "for option in ('bais=true', 'content_dim=0', 'channels=3', 'name=broken'):\n"
        "    option = '--model.content_encoder.' + option\n"
        "    assert main(['fit', '--recipe', 'r.yaml', '--print_recipe', option]) == 2\n"
        "text = open('r.yaml').read().replace('mean_colour, content_dim: 6', 'sizeless')\n"
        "open('s.yaml', 'w').write(text)\n"
        "assert main(['validate', 's.yaml', 'r.yaml']) == 2\n"
    )
    done = python(site, "-c", code)
    out = " ".join(done.stdout.split())
    assert "mean_colour The mean colour of a picture." in out
    # What cannot be used says so, and hides nothing else.
    assert "broken cannot be used: the content encoder 'broken'" in out
    assert "(RuntimeError: imported although nobody asked)" in out
    assert "neither registered with a Card" in out
    assert "content_encoders broken" in out
    assert " dcgan " in out
    said = "is registered as 'sizeless' and offered as 'misnamed'; give its entry point the name"
    assert said in out
    assert "ok r.yaml 1 checked, 0 wrong" in out
    assert "'sizeless' promises content_dim in gives and has no such attribute; set self.c" in out
    assert out.endswith("2 checked, 1 wrong")
    faults = done.stderr.splitlines()
    typed = "mtzoo: error: --model.content_encoder"
    assert len(faults) == 4
    assert faults[0].startswith(f"{typed}.bais: unknown option of content encoder 'mean_colour'.")
    assert "Did you mean 'bias'?" in faults[0]
    assert faults[1] == f"{typed}.content_dim: mean_colour: content_dim 0 must be at least 1"
    assert faults[2].startswith(f"{typed}.channels: handed on by the assembly; set data.channels")
    assert faults[3].startswith(f"{typed}.name: the content encoder 'broken' of the installed")


def test_a_built_in_cannot_be_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    install(
        folder,
        "mtzoo_usurper",
        {"usurper": "raise RuntimeError('imported although it must not be')\n"},
        "[mtzoo_content_encoders]\ndcgan = usurper:Usurper\n",
    )
    (tmp_path / "r.yaml").write_text(RECIPE.replace("mean_colour", "dcgan"))
    done = python(folder, "-m", "mtzoo", "validate", "r.yaml", status=2)
    assert (
        "the installed package 'mtzoo_usurper' names its content encoder 'dcgan', which is built "
        "in and cannot be replaced; uninstall it or rename its entry"
    ) in done.stdout
    done = python(folder, "-m", "mtzoo", "ls", "--names")
    assert "content_encoders dcgan" in done.stdout
    listed = " ".join(python(folder, "-m", "mtzoo", "ls", "content_encoders").stdout.split())
    assert "dcgan cannot be used: the installed package 'mtzoo_usurper' names its" in listed
    assert "timm" in listed
    (tmp_path / "r.yaml").write_text(RECIPE.replace("mean_colour, content_dim: 6", "resnet"))
    done = python(folder, "-m", "mtzoo", "validate", "r.yaml")
    assert "imported although" not in done.stdout + done.stderr


def test_a_run_and_what_leaves_it_say_which_package_they_need(site: Path) -> None:
    code = (
        "import json\n"
        "from pathlib import Path\n"
        "import mtzoo.recipe\n"
        "from mtzoo.engine import fit\n"
        "from mtzoo.export import export\n"
        "changed = ['--engine.steps=1', '--engine.workers=0', '--engine.accelerator=cpu']\n"
        "fit(mtzoo.recipe.load_recipe('r.yaml', changed), 'run')\n"
        "export('run', 'small')\n"
        "needed = {\"content encoder 'mean_colour'\": 'mtzoo_thirdparty 1.0'}\n"
        "versions = json.loads(Path('run/versions.json').read_text())\n"
        "assert versions['plugins'] == needed, versions\n"
        "config = json.loads(Path('small/config.json').read_text())\n"
        "assert config['versions']['plugins'] == needed, config\n"
        "said = \"Beside mtzoo: mtzoo_thirdparty 1.0 (content encoder 'mean_colour').\"\n"
        "assert said in Path('small/README.md').read_text()\n"
    )
    python(site, "-c", code)
