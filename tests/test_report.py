"""``mtzoo report`` on tiny models that are trained here: what is in the pictures and tables."""

from __future__ import annotations

import base64
import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engine_kit import tiny
from PIL import Image
from torch import Tensor

from mtzoo import media
from mtzoo.cli import main
from mtzoo.data.datasets.shapes import Shapes
from mtzoo.data.writer import StoreWriter
from mtzoo.engine import fit
from mtzoo.engine.folder import versions
from mtzoo.evaluation import figures, metrics
from mtzoo.evaluation.metrics import PROTOCOLS
from mtzoo.evaluation.scores import score
from mtzoo.interfaces import as_video
from mtzoo.weights import load_model

CPU = torch.device("cpu")
SCORING = ["--videos", "3", "--samples", "4"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders ``one`` and ``two``: the tiny recipe, trained differently long."""
    folder = tmp_path_factory.mktemp("runs")
    for name, steps in (("one", 4), ("two", 1)):
        fit(tiny(folder, steps=steps), folder / name)
    return folder


def report(*words: object) -> None:
    assert main(["report", *map(str, words)]) == 0


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main(["report", *map(str, words)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read(path: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB")))


def tiles(
    sheet: Tensor, blocks: list[int], columns: int
) -> tuple[Tensor, list[list[tuple[int, ...]]]]:
    """The pictures of a sheet of 32x32 frames, and the colours of the borders around them.

    Each is enlarged four times within a border of 5 pixels, 2 pixels apart, to the right and at
    the bottom of the sheet; between blocks of rows there are 18 more.

    Returns:
        uint8 ``(rows, columns, 32, 32, 3)`` and, for each row, its borders' colours in order.
    """
    cell = 4 * 32 + 2 * 5 + 2
    rows, colours = [], []
    bottom = len(sheet)
    for block in reversed(blocks):
        for _ in range(block):
            strip = sheet[bottom - cell : bottom, -columns * cell :]
            row = strip.view(cell, columns, cell, 3).transpose(0, 1)
            inside = row[:, 5 : 5 + 128, 5 : 5 + 128]
            small = inside[:, ::4, ::4]
            assert torch.equal(small.repeat_interleave(4, 1).repeat_interleave(4, 2), inside)
            rows.append(small)
            colours.append([tuple(picture[1, 1].tolist()) for picture in row])
            bottom -= cell
        bottom -= 18
    return torch.stack(rows[::-1]), colours[::-1]


def loaded(runs: Path) -> SimpleNamespace:
    return SimpleNamespace(
        model=load_model(runs / "one"), pairs=Shapes("test", 3, resolution=32, frames=8)
    )


# Table II and Fig. 6


def test_table2_and_fig6_say_what_evaluate_says(runs: Path, tmp_path: Path) -> None:
    models = ["--model", f"full={runs / 'one'}", "--model", f"no D_I={runs / 'two'}"]
    report("table2", *models, *SCORING, "--output", tmp_path / "table2")
    report("fig6", *models, *SCORING, "--output", tmp_path / "fig6")
    table = {row["method"]: row for row in rows_of(tmp_path / "table2" / "table2.csv")}
    curves = rows_of(tmp_path / "fig6" / "fig6.csv")
    kept = {
        use: json.loads((tmp_path / use / f"{use}.json").read_text()) for use in ("table2", "fig6")
    }
    both = ["full: reconstruction", "no D_I: reconstruction"]
    assert list(table) == ["full", "no D_I", *both, "repeating the picture"]
    assert len(curves) == 4 * 7  # the first of 8 frames is the input
    assert {row["method"] for row in curves} == {"full", "no D_I", both[0], "repeating the picture"}
    for name, run in (("full", "one"), ("no D_I", "two")):
        output = tmp_path / run
        words = ["evaluate", "--model", runs / run, *SCORING, "--output", output]
        assert main(list(map(str, words))) == 0
        told = json.loads((output / "results.json").read_text())
        found = {(m["task"], m["method"]): m for m in told["methods"]}
        for metric in ("ssim", "psnr"):
            best = found["prediction", "best of 4"][metric]
            assert float(table[name][metric]) == pytest.approx(best["mean"])
            assert float(table[name][f"{metric}_low"]) == pytest.approx(best["low"])
            values = found["prediction", "best of 4"]["by_video"][metric]
            assert kept["table2"]["table"][name]["by_video"][metric] == pytest.approx(values)
            over_time = found["prediction", "best of 4 at each frame"]["by_time"][metric]
            curve = kept["fig6"]["curves"][name]
            assert curve["time_steps"] == list(range(2, 9))
            steps = torch.tensor(curve["by_video"][metric])
            assert steps.shape == (3, 7)
            assert steps.mean(0).tolist() == pytest.approx(over_time[1:])
            assert [one["mean"] for one in curve[metric]] == pytest.approx(over_time[1:])
            at = [row for row in curves if row["method"] == name]
            assert [int(row["time_step"]) for row in at] == list(range(2, 9))
            assert [float(row[metric]) for row in at] == pytest.approx(over_time[1:])
            again = found["prediction", "reconstruction"][metric]
            assert float(table[f"{name}: reconstruction"][metric]) == pytest.approx(again["mean"])
            beside = {"repeating the picture": "repeating the picture"}
            if name == "full":  # of others the curve would be one too many
                beside |= {both[0]: "reconstruction"}
            for line, method in beside.items():
                at = [row for row in curves if row["method"] == line]
                over_time = found["prediction", method]["by_time"][metric]
                assert [float(row[metric]) for row in at] == pytest.approx(over_time[1:])
                for row in at:
                    assert float(row[f"{metric}_low"]) <= float(row[metric])
                    assert float(row[metric]) <= float(row[f"{metric}_high"])
    # What has one answer cannot differ from itself.
    assert float(table["full"]["pixel_diversity"]) > 0
    for name in (*both, "repeating the picture"):
        assert table[name]["pixel_diversity"] == ""


def test_table2_as_markdown_and_json(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    words = ["table2", "--model", f"a|b={runs / 'one'}", *SCORING]
    report(*words, "--output", tmp_path / "out")
    text = (tmp_path / "out" / "table2.md").read_text()
    lines = text.splitlines()
    assert lines[0].startswith("| method | SSIM ↑ | PSNR in dB ↑ |")
    assert lines[2].startswith("| a\\|b | 0.")
    assert re.match(r"\| reconstruction \| .* \| n/a \|$", lines[3])
    assert re.match(r"\| repeating the picture \| .* \| n/a \|$", lines[4])
    assert "95 %" in text
    assert (
        "SSIM under a gaussian window of sigma 1.5, 11x11 pixels, wholly inside the picture, with "
        "population covariance and range 1; PSNR of all channels together." in text
    )
    assert "LPIPS was not measured: LPIPS needs the weights" in text
    told = json.loads((tmp_path / "out" / "table2.json").read_text())
    assert (told["videos"], told["samples"], told["seed"]) == (3, 4, 0)
    assert told["protocol"]["ssim"]["size"] == 11
    assert len(told["models"]["a|b"]["weights"]) == 64
    assert told["versions"]["torchvision"] == metadata.version("torchvision")
    figure = told["table"]["a|b"]["ssim"]
    assert figure["low"] <= figure["mean"] <= figure["high"]
    # The command in it makes it again.
    command = shlex.split(told["command"])
    assert command[0] == "mtzoo"
    assert str(tmp_path / "out") == command[-1]
    assert main([*command[1:-1], str(tmp_path / "again")]) == 0
    again = json.loads((tmp_path / "again" / "table2.json").read_text())
    assert again["table"] == told["table"]


def test_table2_measures_lpips_where_its_weights_are(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Brightness:
        """Stands in for LPIPS, whose weights are not here: differences of mean brightness."""

        def __init__(self, backbone: str, device: object) -> None:
            self.backbone, self.weights_sha256 = backbone, "0" * 64

        def compare(
            self, clips: dict[str, Tensor], pairs: list[tuple[str, str]], spread: list[str]
        ) -> tuple[dict[tuple[str, str], Tensor], dict[str, Tensor]]:
            means = {name: clip.double().mean((2, 3, 4)) for name, clip in clips.items()}
            apart = {(a, b): (means[a] - means[b]).abs() for a, b in pairs}
            return apart, {name: means[name].mean(1).var() for name in spread}

    monkeypatch.setattr("mtzoo.evaluation.perceptual.Lpips", Brightness)
    words = ["--model", runs / "one", *SCORING, "--lpips", "vgg"]
    report("table2", *words, "--output", tmp_path / "out")
    found = loaded(runs)
    expected = [
        samples.double().mean((1, 2, 3, 4)).var()
        for _, samples in figures.draws(
            found.model, found.pairs, positions=range(3), samples=4, device=CPU
        )
    ]
    row = rows_of(tmp_path / "out" / "table2.csv")[0]
    assert float(row["lpips_diversity"]) == pytest.approx(float(torch.stack(expected).mean()))
    assert "LPIPS version 0.1 on vgg" in (tmp_path / "out" / "table2.md").read_text()


def test_fig6_shows_every_line_in_its_colour_and_names_it(runs: Path) -> None:
    found = loaded(runs)
    scored = score(
        found.model,
        found.pairs,
        protocol=PROTOCOLS["mtzoo"],
        videos=2,
        samples=2,
        device=CPU,
    )
    names = ["full", "no D_I", "no D_V", "no L_C", "no L_M"]
    lines = figures.curves(dict.fromkeys(names, scored))
    assert [(line.name, line.baseline) for line in lines] == [
        *((name, False) for name in names),
        ("full: reconstruction", True),
        ("repeating the picture", True),
    ]
    figure = figures.chart(lines)
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == [line.name for line in lines]
    styles = {
        (line.get_color(), str(line.get_linestyle()), str(line.get_marker()))
        for line in figure.axes[0].lines
    }
    assert len(styles) == len(lines)
    for axis, metric in zip(figure.axes, ("ssim", "psnr"), strict=True):
        for line, curve in zip(axis.lines, lines, strict=True):
            assert line.get_ydata() == pytest.approx([f.mean for f in curve.figures[metric]])


# Fig. 3


def test_fig3_begins_with_the_targets_and_moves_them(runs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = ["--sources", 2, "--targets", 2, "--columns", 4]
    report("fig3", "--model", runs / "one", *words, "--output", output)
    told = json.loads((output / "fig3.json").read_text())
    assert told["sources"] == told["targets"] == [0, 128]
    sheet = read(output / "fig3.png")
    # A block a source: the source, two targets, and the truth below the target of its own pair.
    pictures, colours = tiles(sheet, [4, 4], 5)
    found = loaded(runs)
    items = [found.pairs[position] for position in told["sources"]]
    targets = [item["target_video"][item["target_index"]] for item in items]
    at = [0, 2, 5, 7]
    for s, block in enumerate((0, 4)):
        assert pictures[block, 0].min() == 255  # nothing is given beside a source
        assert torch.equal(pictures[block, 1:], items[s]["video"][at])
        rows = [block + 1, block + 3] if s == 0 else [block + 1, block + 2]
        for target, row in zip(targets, rows, strict=True):
            assert torch.equal(pictures[row, 0], target)
            assert colours[row] == [(214, 39, 40)] + 4 * [(255, 255, 255)]
            with torch.inference_mode():
                moved = found.model.transfer(
                    as_video(target[None, None])[:, 0], as_video(items[s]["video"][None])
                )
            expected = ((moved[0].permute(0, 2, 3, 1) + 1) * 127.5).round()[at]
            assert (pictures[row, 1:].float() - expected).abs().max() <= 1
        truth = block + 2 + s
        assert torch.equal(pictures[truth, 1:], items[s]["truth"][at])


# Fig. 4


def test_fig4_ends_with_the_sample_of_best_ssim(runs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = ["--samples", 6, "--shown", 2, "--pictures", 2, "--columns", 3]
    report("fig4", "--model", runs / "one", *words, "--output", output)
    told = json.loads((output / "fig4.json").read_text())
    sheet = read(output / "fig4.png")
    pictures, colours = tiles(sheet, [4, 4], 3)
    found = loaded(runs)
    clips = figures.draws(found.model, found.pairs, positions=[0, 128], samples=6, device=CPU)
    at = [0, 4, 7]
    for block, (one, (video, samples)) in enumerate(zip(told["videos"], clips, strict=True)):
        rows = pictures[4 * block : 4 * block + 4]
        ssim = torch.stack([metrics.ssim(s[None, 1:], video[None, 1:]).mean() for s in samples])
        assert one["ssim"] == pytest.approx(ssim.tolist())
        assert one["best"] == int(ssim.argmax()) + 1
        assert ssim.max() > ssim.min()
        assert torch.equal(rows[0], video[at])
        assert torch.equal(rows[1], samples[0][at])
        assert torch.equal(rows[2], samples[1][at])
        assert torch.equal(rows[3], samples[int(ssim.argmax())][at])
        assert colours[4 * block][0] == (214, 39, 40)
        assert {c for row in colours[4 * block + 1 : 4 * block + 4] for c in row} == {(255,) * 3}
    moving = media.read_video(output / "fig4.gif")
    assert len(moving.frames) == 8
    assert moving.fps == pytest.approx(8, rel=0.05)
    # Two videos side by side, four rows: the truth above, the first frame first.
    shown, _ = tiles(moving.frames[0], [4], 2)
    truth = torch.stack([found.pairs[position]["video"][0] for position in (0, 128)])
    assert (shown[0].float() - truth.float()).abs().mean() < 8  # a GIF has 256 colours


def test_the_samples_are_those_that_are_scored(runs: Path) -> None:
    found = loaded(runs)
    drawn = figures.drawn(
        found.model,
        found.pairs,
        positions=[1],
        samples=5,
        settings=PROTOCOLS["mtzoo"].ssim,
        device=CPU,
    )
    scored = score(
        found.model, found.pairs, protocol=PROTOCOLS["mtzoo"], videos=2, samples=5, device=CPU
    )
    best = scored.method("prediction", "best of 5").values["ssim"][1, 1:].mean()
    assert float(drawn[0].ssim.max()) == pytest.approx(float(best))


# The page


def test_the_page_gathers_all_and_needs_no_other_file(runs: Path, tmp_path: Path) -> None:
    output = tmp_path / "page"
    models = ["--model", f"full={runs / 'one'}", "--model", f"<b>={runs / 'two'}"]
    report("page", *models, *SCORING, "--output", output)
    page = (output / "index.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    images = re.findall(r'src="data:image/(?:png|gif);base64,([^"]+)"', page)
    files = ["fig3/fig3.png", "fig4/fig4.png", "fig4/fig4.gif", "fig6/fig6.png"]
    assert [base64.b64decode(i) for i in images] == [(output / f).read_bytes() for f in files]
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    weights = json.loads((output / "fig6" / "fig6.json").read_text())["models"]["full"]["weights"]
    assert weights[:12] in page
    for use in ("table2", "fig3", "fig4", "fig6"):
        told = json.loads((output / use / f"{use}.json").read_text())
        words = shlex.split(told["command"])
        assert words[:3] == ["mtzoo", "report", use]
        assert words[-1] == f"{output}/{use}"
        assert words.count("--model") == (2 if use in ("table2", "fig6") else 1)
        assert f"mtzoo report {use} " in page
    # A part of the page is what its command makes.
    assert main([*words[1:-1], str(tmp_path / "alone")]) == 0
    assert (tmp_path / "alone" / "fig6.csv").read_bytes() == (
        output / "fig6" / "fig6.csv"
    ).read_bytes()


# A store, and what cannot work


def store(folder: Path, resolution: int, frames: int = 12) -> Path:
    """A clip store of three videos without any label."""
    generator = torch.Generator().manual_seed(0)
    with StoreWriter(
        folder, source="videos", resolution=resolution, fps=25.0, split_by=("video",)
    ) as writer:
        for i in range(4):
            shape = (frames, resolution, resolution, 3)
            clip = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
            part = "train" if i < 1 else "test"
            writer.add(
                f"v{i}",
                clip,
                labels={},
                splits={"video": [(part, 0, frames)]},
                source=f"v{i}.mp4",
                source_range=(0, frames),
            )
        writer.finish()
    return folder


def test_a_store_without_labels_or_truth(runs: Path, tmp_path: Path) -> None:
    data = store(tmp_path / "store", 32)
    words = ["--model", runs / "one", "--data", data]
    report("fig3", *words, "--sources", 9, "--targets", 1, "--output", tmp_path / "fig3")
    told = json.loads((tmp_path / "fig3" / "fig3.json").read_text())
    assert told["sources"] == [0, 1, 2]  # as many as there are
    assert len(read(tmp_path / "fig3" / "fig3.png")) < 3 * 3 * 140  # no row of truths
    report("fig4", *words, "--samples", 4, "--output", tmp_path / "fig4")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["fig7"], "invalid choice: 'fig7'"),
        (["fig3", "--data", "shapes"], "required: --model"),
        (["fig3", "--model", "{one}", "--model", "{two}"], "fig3 shows one model"),
        (["fig6", "--model", "{one}", "--model", "one={two}"], "two models are called 'one'"),
        (["fig6", "--model", "full="], "give NAME=DIR"),
        (["fig6", "--model", "full=nowhere"], "no such folder: nowhere"),
        (["fig4", "--model", "{one}", "--samples", "2"], "--samples must be at least 3"),
        (["table2", "--model", "{one}", "--samples", "1"], "--samples must be at least 2"),
        (["table2", "--model", "{one}", "--videos", "0"], "--videos must lie between 1"),
        (["table2", "--model", "{one}", "--protocol", "svg"], "svg2018"),
        (["table2", "--model", "{one}", "--lpips", "alx"], "invalid choice: 'alx'"),
        (["fig4", "--model", "{one}", "--fps", "0"], "--fps must lie above 0"),
        (["fig3", "--model", "{one}", "--sources", "0"], "--sources must lie between 1"),
        (["fig3", "--model", "{one}", "--data", "shaps"], "no such folder, nor a synthetic world"),
        (["fig3", "--model", "{one}", "--data", "{large}"], "the data have 64x64"),
        (["fig3", "--model", "{one}", "--data", "{short}"], "has the 8 frames"),
        (["fig3", "--model", "{bare}"], "name the data with --data"),
        (["fig3", "--model", "{one}", "--output", "{one}"], "is there already"),
        (["fig3", "--model", "{one}", "--samples", "5"], "no option --samples"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    runs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    part: str,
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    places = {"one": runs / "one", "two": runs / "two"}
    if "{large}" in words:
        places["large"] = store(tmp_path / "large", 64)
    if "{short}" in words:
        places["short"] = store(tmp_path / "short", 32, frames=5)
    if "{bare}" in words:
        places["bare"] = shutil.copytree(runs / "one" / "model", tmp_path / "bare")
    given = [word.format(**places) for word in words]
    if "--output" not in given:
        given += ["--output", "out"]
    assert part in refused(capsys, *given)
    assert not list(Path.cwd().iterdir())


def test_without_matplotlib_curves_are_refused_before_the_work(
    runs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("mtzoo.evaluation.scores.score", None)
    words = ["--model", runs / "one", "--output", tmp_path / "out"]
    for use in ("fig6", "page"):
        assert "pip install 'mtzoo[evaluation]'" in refused(capsys, use, *words)
    assert not (tmp_path / "out").exists()
    report("fig3", *words)


def test_an_interrupted_report_leaves_nothing(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mtzoo.evaluation.figures.plot", interrupted)
    words = ["page", "--model", runs / "one", *SCORING, "--output", tmp_path / "out"]
    assert main(["report", *map(str, words)]) == 130
    assert not list(tmp_path.iterdir())


def test_versions_say_whether_the_checkout_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mtzoo

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    file = tmp_path / "mtzoo" / "__init__.py"
    file.parent.mkdir()
    file.write_text("")
    git("init")
    git("add", "mtzoo")
    git("commit", "-m", "first")
    monkeypatch.setattr(mtzoo, "__file__", str(file))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "log.csv").write_text("nothing to the package")
    assert versions(CPU)["commit"] == git("rev-parse", "HEAD")
    for name in ("__init__.py", "new.py"):
        changed = file.with_name(name)
        changed.write_text("x = 1")
        assert versions(CPU)["commit"] == f"{git('rev-parse', 'HEAD')}, changed"
        git("add", "mtzoo")
        git("commit", "-m", "next")
    monkeypatch.setattr(metadata, "version", lambda package: absent(package))

    def absent(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    assert "lpips" not in versions(CPU)
