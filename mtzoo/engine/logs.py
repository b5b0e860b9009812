"""What a run tells: log.csv, TensorBoard, and the terminal."""

from __future__ import annotations

import csv
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from torch import Tensor

from mtzoo.engine.health import subject
from mtzoo.errors import MtzooError
from mtzoo.files import replacing


class CsvLog:
    """A table that grows downwards, and to the right when a new figure turns up.

    Args:
        path: The file.
        keep: Rows up to this step stay, later ones were written by a run that was killed
            after its last checkpoint and go: the file is as if it had never been interrupted.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        self.path = path
        self.columns: list[str] = []
        self.rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file, restkey="")
                for row in reader:
                    if (row.get("step") or "").isdecimal() and int(row["step"]) <= keep:
                        self.rows.append({k: v for k, v in row.items() if k and v})
                self.columns = [
                    name
                    for name in reader.fieldnames or ()
                    if any(name in row for row in self.rows)
                ]
            self._rewrite()

    def write(self, row: Mapping[str, float | str]) -> None:
        """Append a row; ``step`` must be among it."""
        text = {
            name: f"{value:.6g}" if isinstance(value, float) else str(value)
            for name, value in row.items()
        }
        self.rows.append(text)
        new = [name for name in text if name not in self.columns]
        if new:
            self.columns += new
            self._rewrite()
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, restval="").writerow(text)

    def _rewrite(self) -> None:
        with (
            replacing(self.path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)


class Board:
    """TensorBoard's log.

    Args:
        folder: Its event files.
        step: What an interrupted run wrote after this step is hidden.

    Raises:
        MtzooError: The folder cannot be written.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        with warnings.catch_warnings():
            # Of TensorBoard's own imports; nothing that a user could act on.
            warnings.simplefilter("ignore", DeprecationWarning)
            from torch.utils.tensorboard import SummaryWriter

            try:
                self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
            except OSError as error:
                raise MtzooError(f"cannot write {folder}: {error.strerror or error}") from error

    def scalars(self, figures: Mapping[str, float], step: int) -> None:
        """Add figures by name."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, image: Tensor, step: int) -> None:
        """Add a picture, uint8 ``(H, W, C)``."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class Terminal:
    """Progress for people: a bar on a terminal, plain lines elsewhere.

    Args:
        total: Steps of the run.
        start: Steps that are done already.
        quiet: Say nothing at all: for ranks other than 0.
        bar: Show a bar where there is a terminal.
        every: Least seconds between plain lines.
        console: Where to; standard output by default.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        *,
        quiet: bool = False,
        bar: bool = True,
        every: float = 5.0,
        console: Console | None = None,
    ) -> None:
        self.console = console or Console(quiet=quiet, highlight=False, soft_wrap=True)
        self.total = total
        self.every = every
        self._start = start
        self._words: dict[str, str] = {}
        self._text = ""
        self._spoke = float("-inf")
        self._began = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if self.console.is_terminal and bar and not quiet:
            progress = Progress(
                BarColumn(bar_width=10),
                # Where the line is short, the figures give way, not the count.
                TextColumn("{task.completed:.0f}/{task.total:.0f}", table_column=_whole(total)),
                TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=5)),
                TextColumn(
                    "{task.fields[text]}",
                    markup=False,
                    table_column=Column(no_wrap=True, overflow="ellipsis"),
                ),
                console=self.console,
            )
            self._task = progress.add_task("", total=total, completed=start, text="")
            progress.start()
            self._bar = progress

    def say(self, line: str) -> None:
        """Print one line."""
        self.console.print(line, markup=False)

    def step(self, done: int) -> None:
        """Move the bar."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done)

    def figures(self, done: int, figures: Mapping[str, float]) -> None:
        """Show the latest losses; away from a terminal at most one line every few seconds."""
        self._text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        text = "".join(f"! {name}  " for name in self._words) + self._text
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, text=text)
            return
        now = time.monotonic()
        if now - self._spoke >= self.every or done == self.total:
            self._spoke = now
            pace = (now - self._began) / max(done - self._start, 1)
            left = pace * (self.total - done)
            self.say(f"step {done}/{self.total}  {pace:.3g} s/step  {left:.0f} s left  {text}")

    def health(self, done: int, findings: Sequence[str]) -> None:
        """Say what is newly wrong, and what has recovered."""
        now = {subject(finding): finding for finding in findings}
        for name, finding in now.items():
            if name not in self._words:
                self.say(f"step {done}: warning: {finding}")
        for name in self._words:
            if name not in now:
                self.say(f"step {done}: {name}: recovered")
        self._words = now

    @property
    def subjects(self) -> list[str]:
        """What the findings that were shown last are about."""
        return list(self._words)

    @property
    def unwell(self) -> list[str]:
        """The findings that were shown last."""
        return list(self._words.values())

    def remember(self, findings: Sequence[str]) -> None:
        """Take findings as shown already, when a run is resumed."""
        self._words = {subject(finding): finding for finding in findings}

    def table(self, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a small table."""
        table = Table(title=title, title_justify="left")
        for column, name in enumerate(head):
            table.add_column(name, justify="right" if column else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    def close(self) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _whole(total: int) -> Column:
    return Column(no_wrap=True, min_width=2 * len(str(total)) + 1)
