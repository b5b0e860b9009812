"""The command line through its entry point: answers, statuses, one line for a fault."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mtzoo import __version__
from mtzoo.cli import VERBS, build_parser, main
from mtzoo.errors import MtzooError

TINY = """\
# mtzoo fit --recipe tiny.yaml
data: {name: shapes, resolution: 32, frames: 6}
model:
  name: dual_mtgan
  content_encoder: {name: dcgan, width: 4, content_dim: 4}
  motion_encoder: {name: c3d, width: 4}
  motion_generator: {name: lstm, hidden: 4}
  image_generator: {name: dcgan, width: 4}
objective: {name: dual_mtgan}
engine: {steps: 2, batch_size: 2}
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """What ``fit`` was asked to train; nothing is trained."""
    asked: list[SimpleNamespace] = []

    def fit(recipe: object, output: Path, *, resume: bool = False) -> dict:
        asked.append(SimpleNamespace(recipe=recipe, output=output, resume=resume))
        return {}

    monkeypatch.setattr("mtzoo.engine.fit", fit, raising=False)
    return asked


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mtzoo: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("mtzoo: error: ").rstrip("\n")


def succeeds(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(arguments) == 0
    return capsys.readouterr().out


# ---- the frame ----------------------------------------------------------------------------------


def test_help_and_import_are_quick_and_without_torch() -> None:
    code = (
        "import sys\nimport mtzoo\nfrom mtzoo.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'numpy', 'lightning', 'timm', 'jsonargparse', 'av'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - began < 10  # under a second alone; tests share the machine
    for verb in VERBS:
        assert f"    {verb} " in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_each_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: mtzoo {verb}")


def test_the_module_runs() -> None:
    command = [sys.executable, "-m", "mtzoo", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"mtzoo {__version__}\n"


def test_the_script_is_installed() -> None:
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="mtzoo")
    assert script.load() is main


def test_without_arguments_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert succeeds(capsys) == build_parser().format_help()


@pytest.mark.parametrize(
    ("arguments", "begins", "says"),
    [
        ("fitt", "unknown command 'fitt'.", "Did you mean 'fit'?"),
        ("--verson", "unknown command '--verson'.", "Commands: fit"),
        ("ls --nmes", "mtzoo ls has no option --nmes.", "Did you mean --names?"),
        ("ls models extra", "'extra' was not expected", "mtzoo ls --help"),
        ("ls modells", "unknown kind 'modells'.", "Did you mean 'models'?"),
        ("ls recipe", "unknown kind 'recipe'.", "Did you mean 'recipes'?"),
        ("ls foo", "unknown kind 'foo'. Kinds: content_encoders, ", ", recipes, pretrained"),
        ("show content_encoder dcgn", "unknown content encoder 'dcgn'.", "Did you mean 'dcgan'?"),
        ("show content_encoder", "the following arguments are required: NAME", "show --help"),
        ("fit", "mtzoo fit needs --recipe", "--resume"),
        ("fit --recipee x", "mtzoo fit has no option --recipee.", "Did you mean --recipe"),
        ("fit --bach_size 3", "mtzoo fit has no option --bach_size.", "--engine.batch_size"),
        ("fit --recipe", "argument --recipe: expected one argument", "fit --help"),
        ("fit --recipe no.yaml", "there is no recipe 'no.yaml'.", ""),
        ("fit --resume", "--resume needs the folder of the run", ""),
        ("fit --resume nowhere", "nothing to resume: nowhere holds no run", ""),
        ("transfer --modl x", "mtzoo transfer has no option --modl.", "Did you mean --model?"),
        ("prepare weizman", "argument SET: invalid choice: 'weizman'", "Did you mean 'weizmann'?"),
        ("prepare weizmann --sorce x", "mtzoo prepare has no option --sorce.", "--source?"),
        ("validate", "the following arguments are required: R.yaml", ""),
    ],
)
def test_faults_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: str, begins: str, says: str
) -> None:
    message = fails(capsys, *arguments.split())
    assert message.startswith(begins)
    assert says in message


def test_a_misspelt_set_is_named_before_its_options(capsys: pytest.CaptureFixture[str]):
    line = fails(capsys, "prepare", "weizman", "--source", "x", "--output", "y")
    assert "Did you mean 'weizmann'?" in line


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    assert fails(capsys, "ls", "--name").startswith("mtzoo ls has no option --name.")


def test_a_message_of_several_lines_becomes_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(args: object) -> int:
        raise MtzooError("first\n  second")

    monkeypatch.setattr("mtzoo.cli.ls.run", broken)
    assert fails(capsys, "ls") == "first second"


def test_interruption_and_defects(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("mtzoo.cli.ls.run", interrupted)
    assert main(["ls"]) == 130

    def defect(args: object) -> int:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("mtzoo.cli.ls.run", defect)
    with pytest.raises(ZeroDivisionError):
        main(["ls"])
    capsys.readouterr()


def test_a_reader_that_leaves_is_no_fault() -> None:
    # Enough output that the pipe is closed while we still write.
    code = (
        "import sys\nfrom mtzoo.cli import main, ls\n"
        "def run(args):\n    for _ in range(100_000): print('x' * 80)\n    return 0\n"
        "ls.run = run\nsys.exit(main(['ls']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        complaints = process.stderr.read()
        assert process.wait() == 141
    assert complaints == b""


# ---- ls, show -----------------------------------------------------------------------------------


def test_ls_lists_every_component(capsys: pytest.CaptureFixture[str]) -> None:
    from mtzoo.registries import REGISTRIES

    out = succeeds(capsys, "ls", "--names").split("\n")
    expected = [f"{r.kind} {name}" for r in REGISTRIES.values() for name in r.names()]
    assert out == [*expected, ""]
    assert len(expected) >= 20


def test_ls_of_a_kind_says_what_and_from_where(capsys: pytest.CaptureFixture[str]) -> None:
    from mtzoo.registries import describe

    out = succeeds(capsys, "ls", "motion-generator")
    assert out.split()[:4] == ["kind", "name", "summary", "source"]
    card = describe("motion_generators", "lstm").card
    assert card.summary[:40] in out
    assert card.source[:30] in out
    assert "content_encoders" not in out


def test_ls_recipes_lists_what_comes_along(capsys: pytest.CaptureFixture[str]) -> None:
    names = succeeds(capsys, "ls", "recipes", "--names").split("\n")[:-1]
    assert "recipes quickstart" in names
    assert "recipes dual_mtgan_weizmann_no_di" in names
    out = succeeds(capsys, "ls", "recipes")
    assert len(names) == len(out.splitlines()) - 1
    assert "without the image discriminator D_I" in out


def test_ls_survives_a_component_that_cannot_be_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mtzoo.registry import Registry

    entry = Registry.entry

    def broken(self: Registry, name: str) -> object:
        if name == "gru":
            raise ImportError("no such thing [/bold]")
        return entry(self, name)

    monkeypatch.setattr(Registry, "entry", broken)
    out = succeeds(capsys, "ls", "motion_generators")
    assert "cannot be used: ImportError: no such thing [/bold]" in out
    assert "transformer" in out


def test_show_gives_card_options_and_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    out = succeeds(capsys, "show", "content_encoder", "dcgan")
    for said in (
        "content encoder dcgan",
        "mtzoo.components.content_encoders.dcgan.DCGANContentEncoder",
        "handed on to it",
        "resolution, channels",
        "one of 'batch', 'instance', 'group', 'none'",
        "Args:",
    ):
        assert said in out
    out = succeeds(capsys, "show", "model", "dual_mtgan")
    assert "section: image discriminator or null" in out


# ---- validate -----------------------------------------------------------------------------------


def test_validate_gives_a_line_each(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tiny.with_name("wrong.yaml")
    wrong.write_text(TINY.replace("hidden", "hiden"))
    assert main(["validate", str(wrong), str(tiny), "absent"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"wrong  {wrong}:7: model.motion_generator.hiden: unknown option")
    assert lines[1] == f"ok     {tiny}"
    assert lines[2].startswith("wrong  there is no recipe 'absent'")
    assert lines[3:] == ["3 checked, 2 wrong"]
    assert succeeds(capsys, "validate", str(tiny)).endswith("1 checked, 0 wrong\n")


def test_validate_builds_so_that_sizes_count(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_text(TINY.replace("resolution: 32", "resolution: 33"))
    assert main(["validate", str(tiny)]) == 2
    assert f"wrong  {tiny}:2: data.resolution: " in capsys.readouterr().out


def test_validate_names_the_recipe_where_its_base_does_not_fit_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child = tmp_path / "swapped.yaml"
    child.write_text("base: quickstart\nmodel:\n  motion_encoder: {name: c3d}\n")
    assert main(["validate", str(child)]) == 2
    told = capsys.readouterr().out
    assert told.startswith(f"wrong  {child} (by its base, ")
    assert "quickstart.yaml:" in told


# ---- fit ----------------------------------------------------------------------------------------


def test_fit_hands_the_recipe_with_overrides_to_the_engine(
    tiny: Path, trained: list[SimpleNamespace]
) -> None:
    assert main(["fit", "--seed", "5", "--recipe", "tiny.yaml", "--engine.steps=7"]) == 0
    (asked,) = trained
    assert (asked.recipe.seed, asked.recipe.engine.steps) == (5, 7)
    assert (asked.output, asked.resume) == (Path("runs/tiny"), False)
    assert main(["fit", "--recipe", "tiny.yaml", "--output", "here"]) == 0
    assert trained[1].output == Path("here")
    assert not Path("runs").exists()  # folders are the engine's to make


def test_fit_prints_the_resolved_recipe(
    tiny: Path, trained: list[SimpleNamespace], capsys: pytest.CaptureFixture[str]
) -> None:
    from mtzoo.recipe import load_recipe

    out = succeeds(
        capsys, "fit", "--recipe", "tiny.yaml", "--print_recipe", "--model.motion_encoder.width=8"
    )
    Path("printed.yaml").write_text(out)
    assert load_recipe("printed.yaml") == load_recipe(tiny, ["--model.motion_encoder.width=8"])
    assert trained == []


def test_fit_says_what_a_changed_name_drops(
    tiny: Path, trained: list[SimpleNamespace], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["fit", "--recipe", "tiny.yaml", "--model.motion_generator.name", "transformer"]) == 0
    )
    err = capsys.readouterr().err
    assert err.startswith("mtzoo: note: model.motion_generator.hidden: 4 was meant for 'lstm'")
    assert trained[0].recipe.model["motion_generator"]["name"] == "transformer"


def test_fit_refuses_what_cannot_work_before_it_begins(
    tiny: Path, trained: list[SimpleNamespace], capsys: pytest.CaptureFixture[str]
) -> None:
    message = fails(capsys, "fit", "--recipe", "tiny.yaml", "--data.resolution", "33")
    assert message.startswith("--data.resolution: ")
    assert fails(capsys, "fit", "--recipe", "tiny.yaml", "stray").startswith("'stray' was not")
    assert trained == []


@pytest.fixture
def held(tiny: Path) -> Path:
    """A folder that holds a run of the tiny recipe."""
    from mtzoo.recipe import load_recipe

    folder = Path("runs/tiny")
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(load_recipe(tiny).to_yaml())
    return folder


def test_fit_resumes_by_the_run_s_own_recipe(held: Path, trained: list[SimpleNamespace]) -> None:
    for arguments in (
        ["--resume", "runs/tiny"],
        ["--resume", "--output", "runs/tiny"],
        ["--resume", "--recipe", "tiny.yaml"],
        ["--recipe", "tiny.yaml", "--resume"],
        ["--recipe", "tiny.yaml", "--resume", "runs/tiny", "--output", "runs/tiny"],
    ):
        assert main(["fit", *arguments, "--engine.steps", "9"]) == 0
        asked = trained.pop()
        assert (asked.output, asked.resume) == (held, True)
        assert (asked.recipe.name, asked.recipe.engine.steps) == ("tiny", 9)


def test_a_run_goes_on_as_it_began(
    held: Path, trained: list[SimpleNamespace], capsys: pytest.CaptureFixture[str]
) -> None:
    message = fails(capsys, "fit", "--resume", "runs/tiny", "--model.motion_encoder.width=8")
    assert message.startswith("--resume: model.motion_encoder.width is 4 in the run and 8 now")
    message = fails(capsys, "fit", "--resume", "runs/tiny", "--seed=8")
    assert message.startswith("--resume: seed is 0 in the run and 8 now")
    Path("tiny.yaml").write_text(TINY.replace("hidden: 4", "hidden: 5"))
    message = fails(capsys, "fit", "--resume", "--recipe", "tiny.yaml")
    assert message.startswith("--resume: model.motion_generator.hidden is 4 in the run and 5 now")
    message = fails(capsys, "fit", "--resume", "runs/tiny", "--output", "elsewhere")
    assert "leave out --output" in message
    assert trained == []


def test_a_folder_that_holds_a_run_is_refused(
    held: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (held / "recipe.yaml").read_bytes()
    message = fails(capsys, "fit", "--recipe", "tiny.yaml")
    assert "holds a run already" in message
    assert "--resume" in message
    assert (held / "recipe.yaml").read_bytes() == before
    assert [path.name for path in held.iterdir()] == ["recipe.yaml"]
