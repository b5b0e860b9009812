"""What a preparation tells at its end, the same for every source set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mtzoo.errors import printable

Progress = Callable[[str, int, int], None]
"""Called with the name of the file at hand, how many are done, and how many there are."""


def no_progress(name: str, done: int, total: int) -> None:
    """Tell nobody."""


@dataclass
class Report:
    """The outcome of one preparation; `lines` for people, `as_json` for programs.

    Attributes:
        source_set: Short name of the source set.
        output: Folder of the finished store.
        found: Video files found in the source.
        frames: Frames stored.
        bytes: Size of the stored frames.
        seconds: Duration of the preparation, all its parts where it was stopped and gone on with.
        used: One item a stored video, with what was measured on it.
        skipped: ``source`` and ``reason`` of each video left out.
        notes: What a user should know before training on the store.
        unchanged: The store was there already, made of the same source with the same options;
            nothing was done, and this is the report of the run that made it.
    """

    source_set: str
    output: Path
    found: int = 0
    frames: int = 0
    bytes: int = 0
    seconds: float = 0.0
    used: list[dict[str, object]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unchanged: bool = False

    def as_json(self) -> dict[str, object]:
        """Everything, as JSON values."""
        return {**asdict(self), "output": str(self.output), "seconds": round(self.seconds, 2)}

    def lines(self) -> list[str]:
        """A summary, then the notes, then every video left out and why; a line each."""
        return [printable(line) for line in self._lines()]

    def _lines(self) -> list[str]:
        videos = len({item["source"] for item in self.used})
        clips = f" as {len(self.used):,} clips" if len(self.used) > videos else ""
        return [
            f"{self.source_set}: {self.found:,} videos found, {videos:,} used{clips}, "
            f"{len(self.skipped):,} skipped; {self.frames:,} frames, {self.bytes / 1e6:.1f} MB, "
            f"{self.seconds:.1f} s",
            *(f"note: {note}" for note in self.notes),
            *(f"skipped: {item['source']}: {item['reason']}" for item in self.skipped),
            f"store: {self.output}"
            + (" (was there already; nothing to do)" if self.unchanged else ""),
        ]
