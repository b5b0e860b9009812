"""What all tests share: where the real footage lies, how many threads, which hypothesis profile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

# Small tensors on shared cores: one thread a process is faster, and pytest-xdist uses the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch

# Without a GPU Triton's kernels are interpreted, if it is told so before anything imports it.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).resolve().parent.parent

# Deadlines measure the machine, not the code.
hypothesis.settings.register_profile("mtzoo", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("mtzoo")


@pytest.fixture(scope="session")
def footage() -> Path:
    """Folder of the real footage; skips, saying so, where it is absent."""
    default = ROOT.parent / "shared" / "data"
    folder = Path(os.environ.get("MTZOO_TEST_DATA", default)).expanduser()
    if not folder.is_dir():
        pytest.skip(f"no real footage at {folder}; set MTZOO_TEST_DATA to its folder")
    return folder


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; gives status, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        from mtzoo.cli import main

        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip GPU tests, with the reason, where there is no GPU."""
    if "gpu" in item.keywords and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU and torch finds none")
