"""SIGTERM and Ctrl-C as a flag that the loop looks at between steps."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StopFlag:
    """While entered, the first SIGTERM or Ctrl-C is remembered; a second Ctrl-C interrupts.

    Outside the main thread, where Python allows no handlers, it stays unset.

    Args:
        ignore_interrupt: Ignore Ctrl-C altogether: a process whose parent hears it as well and
            passes it on as SIGTERM.

    Attributes:
        code: 0, or the exit status to leave with: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, ignore_interrupt: bool = False) -> None:
        self.code = 0
        self._ignore_interrupt = ignore_interrupt
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            interrupt = signal.SIG_IGN if self._ignore_interrupt else self._hear
            self._before = {
                signal.SIGINT: signal.signal(signal.SIGINT, interrupt),
                signal.SIGTERM: signal.signal(signal.SIGTERM, self._hear),
            }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self.code and number == signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGINT:
            # Not print: this may come in the middle of another one.
            os.write(2, b"\nstopping after this step; Ctrl-C again interrupts at once\n")
        self.code = self.code or _CODES[signal.Signals(number)]
