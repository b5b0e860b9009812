"""Freed host memory that is kept: fewer page faults where large tensors come and go."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# In a process of its own: the setting is for good. Prints the page faults of ten rounds.
PROGRAM = """
import resource, sys
import torch
from mtzoo.engine.memory import keep_freed
if sys.argv[1] == "keep":
    assert keep_freed()
def work():
    for _ in range(10):
        torch.ones(16_000_000)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_kept_memory_is_not_mapped_anew() -> None:
    # 64 MB ten times are 160,000 pages of 4 KiB, or 320 of 2 MiB.
    assert faults("keep") < 0.2 * faults("leave")
