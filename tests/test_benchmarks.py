"""The pytest-benchmark suite in ``benchmarks/``: it runs, and what it keeps can be believed."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mtzoo.engine.launch import has_bf16
from mtzoo.errors import MtzooError
from mtzoo.evaluation import classifiers

ROOT = Path(__file__).resolve().parent.parent


def suite(*words: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        "benchmarks/pytest.ini",
        "-p",
        "no:cacheprovider",
    ]
    # Within a worker of pytest-xdist pytest-benchmark would measure nothing.
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.run(
        [*command, *words],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_an_entry_has_its_ratio_its_parity_and_its_cost(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    done = suite(
        "benchmarks/components_bench.py",
        "-k",
        "image_discriminators-pair-forward and (bf16 or channels_last)",
        f"--benchmark-json={file}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    entries = {e["name"]: e for e in json.loads(file.read_text())["benchmarks"]}
    assert len(entries) == 1 + has_bf16("cpu")
    for name, entry in entries.items():
        info = entry["extra_info"]
        assert entry["group"] == "image_discriminators: pair, forward"
        assert info["speed"] > 0
        assert info["flops"] > 1e6
        assert info["above_floor"] > 0.5
        assert (info["error"] > 1e-4) == ("bf16" in name)
        assert info["error"] < 0.1


class Untimed:
    """Stands for pytest-benchmark's fixture."""

    group = ""

    def __init__(self) -> None:
        self.extra_info: dict[str, object] = {}

    def pedantic(self, run: Callable[[], object], **_: object) -> None:
        run()


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    kit = importlib.import_module("bench_kit")
    monkeypatch.setattr(kit, "ROUNDS", 1)
    monkeypatch.setattr(kit, "limits", lambda *_: (1e9, 1e9))
    return kit


def test_gradients_that_differ_are_noticed(kit: Any) -> None:
    bench = importlib.import_module("components_bench")
    slot, name = "image_discriminators", "pair"
    bench.bench_component(Untimed(), slot, name, "backward", "channels_last")
    built = bench.build

    def wrong(*of: str) -> Any:
        made = built(*of)
        if made_before:
            for parameter in made.parameters():
                parameter.register_hook(torch.zeros_like)
        made_before.append(1)
        return made

    made_before: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "build", wrong)
        with pytest.raises(AssertionError, match=r"pair, backward: \S+ from the reference, over"):
            bench.bench_component(Untimed(), slot, name, "backward", "channels_last")


def test_the_reference_of_a_generator_lies_in_nchw(kit: Any) -> None:
    bench = importlib.import_module("components_bench")
    generator = bench.build("image_generators", "dcgan")
    given = bench.inputs("image_generators", generator)
    seen: list[bool] = []
    bench.nchw_(generator)
    for part in generator.modules():
        if isinstance(part, nn.ConvTranspose2d):
            part.register_forward_hook(lambda _, __, made: seen.append(made.is_contiguous()))
    with torch.no_grad():
        generator(*given)
    assert len(seen) > 3
    assert all(seen)


def test_weights_that_stay_are_noticed(kit: Any) -> None:
    bench = importlib.import_module("step_bench")

    class Narrow:
        losses = (torch.ones(()),)

        def __init__(self, way: float) -> None:
            self.way = way

        def __call__(self) -> list[torch.Tensor]:
            return list(self.losses)

        def checked(self) -> list[torch.Tensor]:
            return [*self.losses, torch.full((3,), self.way)]

    def compare(way: float) -> None:
        steps = Narrow(1.0), Narrow(way)
        kit.compare(
            Untimed(),
            *steps,
            group="step",
            beyond=bench.WAYS,
            checks=tuple(step.checked for step in steps),
        )

    compare(0.9)
    with pytest.raises(AssertionError, match=r"step: 1.0e\+00 from the reference, over 2e-01"):
        compare(0.0)


def test_every_built_in_component_is_measured() -> None:
    done = suite("benchmarks/components_bench.py", "--collect-only")
    assert done.returncode == 0, done.stdout + done.stderr
    from mtzoo.registries import REGISTRIES

    for slot in ("image_generators", "motion_encoders", "video_discriminators"):
        for name in REGISTRIES[slot].builtins():
            assert f"[{slot}-{name}-backward-compiled]" in done.stdout


def test_rivals_cost_what_their_published_code_does_and_ours_takes_fewer_operations(
    tmp_path: Path,
) -> None:
    file = tmp_path / "rivals.json"
    command = [sys.executable, "benchmarks/rivals.py", "--threads", "1", "--repeats", "1"]
    subprocess.run([*command, "--output", file], cwd=ROOT, check=True, capture_output=True)
    ours, mocogan, svg = json.loads(file.read_text())["results"].values()
    # Counted on the code of sergeytulyakov/mocogan and edenton/svg: 3.3 M, 3.34 GF; 9.3 GF.
    assert mocogan["parameters"] / 1e6 == pytest.approx(3.3, abs=0.1)
    assert mocogan["flops"] / 1e9 == pytest.approx(3.34, rel=0.02)
    assert svg["flops"] / 1e9 == pytest.approx(9.3, rel=0.03)
    assert ours["operations"] < min(mocogan["operations"], svg["operations"]) / 2


def test_a_video_costs_what_later_ones_do_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    rivals = importlib.import_module("rivals")
    run, count = rivals.runs()["Dual-MTGAN, by mtzoo"]
    monkeypatch.setattr(rivals, "runs", lambda: {"ours": (run, count)})
    found = rivals.compare(1)["results"]["ours"]  # weights are packed in the first of all calls
    with torch.inference_mode():
        later = rivals.cost(run)
    assert (found["operations"], found["moved"]) == (later.operations, later.moved)


def test_scripts_that_look_at_a_model_say_in_one_line_what_is_wrong_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    kit = importlib.import_module("trained")
    with pytest.raises(SystemExit, match=r"^--model: no such folder: \S*nope\. Give .*$"):
        kit.trained(str(tmp_path / "nope"))
    model = kit.trained("faces-demo")
    assert not model.training
    assert kit.layers_of(model) is model.image_generator
    model.networks["image_generator"] = nn.Identity()
    with pytest.raises(SystemExit, match=r"^--model: its image generator is a Identity, .*$"):
        kit.layers_of(model)


def test_the_wall_probe_says_in_one_line_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    probe = importlib.import_module("wall_probe")
    with pytest.raises(MtzooError, match="nope holds no classifiers that can be read"):
        probe.look(tmp_path / "nope", tmp_path / "nope")
    kept = tmp_path / "judges"
    of_shapes = classifiers.Classifiers({"kind": ["a", "b"]}, {"family": ["c"]}, 64, 3)
    classifiers.save(kept, of_shapes, {})
    with pytest.raises(MtzooError, match=r"those in \S*judges know no actions of Weizmann's"):
        probe.look(tmp_path / "nope", kept)
    monkeypatch.setattr("sys.argv", ["wall_probe", "--source", "x", "--classifiers", "nope"])
    with pytest.raises(SystemExit, match=r"^nope holds no classifiers [^\n]*$"):
        probe.main()


def test_trials_that_diverged_are_counted_and_not_averaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    trials = importlib.import_module("trials")
    for seed, (training, value) in enumerate([("ok", 9.0), ("diverged", 99.0), ("", 5.0)]):
        folder = tmp_path / f"base-{seed}"
        folder.mkdir()
        (folder / "log.csv").write_text(f"step,evaluation/transfer_psnr\n600,{value}\n")
        if training:
            (folder / "result.json").write_text(json.dumps({"training": training}))
    assert [row[:3] for row in trials.rows(tmp_path)["base"]] == [["base", "1 of 3", "9.00"]]


def test_tables_of_a_gpu_have_its_milliseconds_and_memory(kit: Any) -> None:
    tables = importlib.import_module("tables")
    page = tables.PAGE.read_text(encoding="utf-8")
    for name in tables.TABLES:
        assert page.count(f"<!-- {name} -->") == 1
    counts = {"operations": 3, "flops": 2e9, "moved": 2**30, "peak": 2**20}
    entry = {"speed": 2.0, "error": 1e-3, "above_floor": 1.5, "time": 1.0, "difference": 0.0}
    entry |= {"ms": 1.25, "allocated": 3 * 2**20}
    step = tables.reference_step.table({"results": {"mtzoo": {**entry, **counts}}})
    assert step.splitlines()[0].endswith("| ms |")
    assert step.splitlines()[2].endswith("| 3 | 0e+00 | 1.2 |")
    codes = tables.suite_table({"results": {"batch 1, folded": entry}})
    assert codes.splitlines()[0].endswith("| ms | allocator's peak, MiB |")
    assert codes.splitlines()[2].endswith("| 1.0e-03 | 1.25 | 3 |")
    assert "| the same again: speed |" in tables.components_table(
        {"results": {"a, forward, nchw": {**entry, **counts}}}
    )
    parts = {"a, forward, nchw": {**entry, **counts}, "a, forward, bf16": entry}
    components = tables.components_table({"results": parts}).splitlines()
    assert "| nchw: ms | nchw: allocator's peak, MiB |" in components[0]
    assert components[2].endswith("| 1.25 | 3 | 2.00 (1e-03) |")
    assert tables.TABLES["components_cpu"].surroundings()["CUDA_VISIBLE_DEVICES"] == ""


def test_a_link_is_modelled_no_further_than_it_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    exchange = importlib.import_module("exchange")
    entry = {"bytes": 10**8, "times adding alone": 2.0}
    rows = exchange.table({"results": {"generators": entry}}).splitlines()
    nvlink = [row for row in rows if "NVLink" in row]
    assert all(row.endswith("% | - |") for row in nvlink)
    assert all(row.endswith("% |") for row in rows if "Gbit/s" in row)


def test_few_channels_are_held_to_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    few_channels = importlib.import_module("few_channels")
    found = few_channels.measure(1, 2, 1)
    assert len(found["results"]) == 2 * len(few_channels.CASES)
    for name, entry in found["results"].items():
        assert entry["speed"] > 0
        assert entry["error"] < (1e-5 if "float32" in name else 2e-2)
    assert len(few_channels.table(found).splitlines()) == 2 + len(found["results"])


def test_each_precision_has_its_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    kit = importlib.import_module("bench_kit")
    asked: list[tuple[torch.dtype, bool]] = []

    def ceilings(_: torch.device, dtype: torch.dtype = torch.float32) -> tuple[float, float]:
        asked.append((dtype, torch.backends.cudnn.allow_tf32))
        return 1.0, 1.0

    monkeypatch.setattr(kit, "ceilings", ceilings)
    kit.limits.cache_clear()
    for variant in ("folded", "folded, tf32", "folded, bf16", "folded, bf16, compiled"):
        kit.limits(torch.device("cpu"), kit.kind_of(variant))
    kit.limits.cache_clear()
    assert asked == [(torch.float32, False), (torch.float32, True), (torch.bfloat16, False)]
