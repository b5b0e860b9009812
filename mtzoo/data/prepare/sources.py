"""What lies below a source folder: video files, folders of frames, strips; and what does not."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mtzoo.data.prepare.pipeline import LeftOut
from mtzoo.errors import MtzooError
from mtzoo.media import PICTURE_ENDINGS, is_animation

VIDEO_ENDINGS = (
    ".mp4",
    ".m4v",
    ".mov",
    ".avi",
    ".mkv",
    ".webm",
    ".mpg",
    ".mpeg",
    ".ts",
    ".mts",
    ".m2ts",
    ".wmv",
    ".flv",
    ".3gp",
    ".ogv",
    ".mxf",
    ".dv",
    ".gif",
)
"""Endings of files that count as a video."""

_OTHER_ARCHIVES = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "RAR",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip, not whole",
    b"\x1f\x8b": "gzip",
}
_ARCHIVE_ENDINGS = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")


@dataclass(frozen=True)
class Found:
    """A video to be read; a `mtzoo.data.prepare.pipeline.Task` as it is.

    Attributes:
        path: The file or folder.
        source: The same, relative to the source folder, with ``/``.
        kind: ``"file"``, ``"folder"`` (one picture a frame) or ``"strip"`` (one picture in all).
    """

    path: Path
    source: str
    kind: str = "file"
    videos: int = 1


@dataclass
class Sources:
    """What was found below a folder, in a repeatable order.

    Attributes:
        root: The folder.
        videos: What is to be read.
        left_out: Videos that cannot even be tried, folders that cannot be read, and links to
            folders that are not followed.
        other: How many other files there are, by ending.
    """

    root: Path
    videos: list[Found] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)

    def files(self) -> list[Path]:
        """Every file that is read, to tell whether the source changed."""
        files: list[Path] = []
        for video in self.videos:
            if video.kind == "folder":
                files += sorted(path for path in video.path.iterdir() if _is_picture(path.name))
            else:
                files.append(video.path)
        return files

    def note(self) -> list[str]:
        """What was passed over, as a note of none or one line."""
        if not self.other:
            return []
        kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(self.other.items()))
        return [f"other files in the source were not read: {kinds}"]


def find_videos(
    source: str | Path,
    *,
    strips: bool = False,
    wanted: Callable[[str], bool] | None = None,
    what: str = "videos (mp4, avi, mov, mkv, webm, mpg, gif, ...) or folders of frames",
) -> Sources:
    """List the videos below a folder.

    A folder that holds two pictures or more and no video is a video itself, one picture a frame.
    Links are followed, each folder once. Hidden files are passed over.

    Args:
        source: The folder.
        strips: Every picture (and GIF) is a strip of frames; videos and folders are not read.
        wanted: Which endings of files count, instead of those of videos and pictures.
        what: What is looked for, for the message if there is nothing.

    Raises:
        MtzooError: It is no folder (an archive, say), may not be read, or holds nothing of use.
    """
    root = check_source(source)
    found = Sources(root)
    seen = {_identity(root)}
    queue = [root]
    while queue:
        folder = queue.pop()
        files: list[Path] = []
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            if folder == root:
                raise MtzooError(
                    f"the folder {folder} cannot be read: {error.strerror or error}"
                ) from error
            reason = f"the folder cannot be read: {error.strerror or error}"
            found.left_out.append(LeftOut(_shown(folder, root), reason))
            continue
        for name in names:
            path = folder / name
            if name.startswith("."):
                continue
            try:
                identity = _identity(path) if path.is_dir() else None
            except OSError as error:
                reason = f"it cannot be looked at: {error.strerror or error}"
                found.left_out.append(LeftOut(_shown(path, root), reason))
                continue
            if identity is not None:
                if identity in seen:
                    found.left_out.append(
                        LeftOut(_shown(path, root), "a link to a folder that is read already")
                    )
                else:
                    seen.add(identity)
                    queue.append(path)
            else:
                files.append(path)
        _sort_out(found, folder, files, strips, wanted)
    found.videos.sort(key=lambda video: video.source)
    found.left_out.sort(key=lambda item: item.source)
    if not found.videos:
        if found.left_out:
            first = found.left_out[0]
            raise MtzooError(f"nothing in {root} can be used; {first.source}: {first.reason}")
        there = ", ".join(found.other) or "nothing"
        if any(ending in _ARCHIVE_ENDINGS for ending in found.other):
            there += "; archives have to be unpacked first"
        raise MtzooError(
            f"no {'frame strips' if strips else what} in {root} or below; there is {there}"
        )
    return found


def check_source(source: str | Path) -> Path:
    """Return the source folder as an absolute path.

    Raises:
        MtzooError: It is missing or no folder; of an archive the message says so.
    """
    root = Path(source)
    try:
        root = root.expanduser()
        if root.is_dir():
            return root.resolve()
        if not root.exists():
            raise MtzooError(f"the source {root} does not exist; name the folder of the videos")
        raise MtzooError(_why_no_folder(root))
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MtzooError(f"the source {root} cannot be read: {reason}") from error


def check_apart(source: Path, output: Path) -> None:
    """Refuse to write the store among what is read.

    Raises:
        MtzooError: One of the folders lies in the other.
    """
    output = output.resolve()
    if output == source or source in output.parents or output in source.parents:
        raise MtzooError(
            f"the output {output} and the source {source} lie in one another; a later run would "
            "read its own output, so name another output folder"
        )


def _why_no_folder(path: Path) -> str:
    if not path.is_file():
        return f"the source {path} is not a folder; name the folder of the videos"
    kind, names = _archive(path)
    if kind is None:
        return f"the source {path} is a file; name the folder of the videos"
    outside = next((name for name in names if _leads_out(name)), None)
    warning = (
        f"; beware: it holds {outside!r}, which would be written outside of that folder"
        if outside is not None
        else ""
    )
    return f"the source {path} is an archive ({kind}); unpack it and name the folder{warning}"


def _archive(path: Path) -> tuple[str | None, list[str]]:
    """What kind of archive a file is, if any, and the names in it; nothing is unpacked."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return "zip", archive.namelist()
        if tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                # The first thousand: a list of all would mean to decompress all.
                members = [member for member, _ in zip(archive, range(1000), strict=False)]
                links = [m.linkname for m in members if m.issym() or m.islnk()]
                return "tar", [*(member.name for member in members), *links]
    except (OSError, zipfile.BadZipFile, tarfile.TarError, EOFError, ValueError, RuntimeError):
        # NotImplementedError, of a later kind of zip, is a RuntimeError.
        return "one that cannot be listed", []
    with path.open("rb") as file:
        start = file.read(8)
    return next((k for s, k in _OTHER_ARCHIVES.items() if start.startswith(s)), None), []


def _leads_out(name: str) -> bool:
    parts = PurePosixPath(name.replace("\\", "/"))
    return parts.is_absolute() or ".." in parts.parts or name[1:2] == ":"


def _sort_out(
    found: Sources,
    folder: Path,
    files: list[Path],
    strips: bool,
    wanted: Callable[[str], bool] | None,
) -> None:
    """Say of each file of a folder what it is."""
    pictures = [path for path in files if _is_picture(path.name) and not _is_video(path.name)]
    if wanted is not None:
        taken, kind = [path for path in files if wanted(path.suffix.lower())], "file"
    elif strips:
        taken, kind = [path for path in files if _is_picture(path.name)], "strip"
    else:
        taken, kind = [path for path in files if _is_video(path.name)], "file"
        if pictures and is_animation(pictures[0]):
            taken = sorted([*taken, *pictures])
        elif len(pictures) > 1 and not taken:
            _take(found, folder, "folder")
            seen = set(pictures)
            files = [path for path in files if path not in seen]
    for path in taken:
        _take(found, path, kind)
    seen = set(taken)
    found.other.update(_ending(path) for path in files if path not in seen)


def _ending(path: Path) -> str:
    ending = path.suffix.lower() or "without an ending"
    return ending.encode("utf-8", "backslashreplace").decode()


def _take(found: Sources, path: Path, kind: str) -> None:
    source = _relative(path, found.root)
    try:
        source.encode()
        there = path.exists()
    except UnicodeEncodeError:
        reason = "its name is no valid UTF-8; rename it"
        found.left_out.append(LeftOut(_shown(path, found.root), reason))
    except OSError as error:
        reason = f"it cannot be looked at: {error.strerror or error}"
        found.left_out.append(LeftOut(source, reason))
    else:
        if there:
            found.videos.append(Found(path, source, kind))
        else:
            found.left_out.append(LeftOut(source, "a link to nothing"))


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _shown(path: Path, root: Path) -> str:
    """A name that may be no valid UTF-8, as text that is."""
    return _relative(path, root).encode("utf-8", "backslashreplace").decode()


def _is_video(name: str) -> bool:
    return name.lower().endswith(VIDEO_ENDINGS)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURE_ENDINGS) and not name.startswith(".")
