"""Read TFRecord files of ``tf.train.Example`` without TensorFlow.

A file is a row of records: 8 bytes of length, a checksum of these, the data, a checksum of that
(masked CRC-32C). The packages for it that need no TensorFlow do not check the sums and are no
longer kept, so the framing is read here; Google's own packages do the sums and the messages.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import google_crc32c

from mtzoo.errors import MtzooError

LARGEST = 1 << 30
"""No record is larger than this; a length beyond it is damage."""


@dataclass(frozen=True)
class Index:
    """Where the records of a file begin.

    Attributes:
        offsets: First byte of each whole record.
        missing: What is wrong after the last of them, as a clause; empty if nothing.
    """

    offsets: tuple[int, ...]
    missing: str


def index(path: Path) -> Index:
    """Find the records of a file, by their lengths alone.

    Raises:
        MtzooError: The file cannot be read, is compressed, or is no TFRecord file.
    """
    offsets: list[int] = []
    missing = ""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(2) == b"\x1f\x8b":
                raise MtzooError("it is compressed; unpack it with gunzip")
            offset = 0
            while offset < size:
                file.seek(offset)
                length = _length(file)
                if length is None:
                    missing = f"what follows record {len(offsets)} is damaged"
                    break
                end = offset + 12 + length + 4
                if end > size:
                    missing = f"it is cut off in record {len(offsets)}"
                    break
                offsets.append(offset)
                offset = end
    except OSError as error:
        raise MtzooError(f"it cannot be read: {error.strerror or error}") from error
    if not offsets:
        raise MtzooError("it is empty" if not size else f"it holds no whole TFRecord: {missing}")
    return Index(tuple(offsets), missing)


def read(path: Path, offsets: tuple[int, ...]) -> Iterator[bytes | None]:
    """Read the records that begin at ``offsets``; ``None`` stands for one that is damaged."""
    with path.open("rb") as file:
        for offset in offsets:
            file.seek(offset)
            length = _length(file)
            data = file.read(length) if length is not None else b""
            checksum = file.read(4)
            whole = len(data) == length and len(checksum) == 4
            yield data if whole and _masked(data) == struct.unpack("<I", checksum)[0] else None


def _length(file: IO[bytes]) -> int | None:
    """A record's length, if it is right."""
    header = file.read(12)
    if len(header) < 12:
        return None
    length, checksum = struct.unpack("<QI", header)
    return length if length <= LARGEST and _masked(header[:8]) == checksum else None


def _masked(data: bytes) -> int:
    """TFRecord's checksum: the CRC-32C, rotated and shifted, so that sums of sums differ."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def parse(data: bytes) -> Mapping[str, list[bytes] | list[float] | list[int]]:
    """Read a ``tf.train.Example``.

    Returns:
        The values of each feature, by its name.

    Raises:
        MtzooError: It is none.
    """
    from google.protobuf.message import DecodeError

    example = _example()()
    try:
        example.ParseFromString(data)
    except DecodeError as error:
        raise MtzooError("it is no tf.train.Example") from error
    features = {}
    for entry in example.features.feature:
        kind = entry.value.WhichOneof("kind")
        features[entry.key] = list(getattr(entry.value, kind).value) if kind else []
    return features


@functools.cache
def _example() -> Any:
    """The class of the message, from TensorFlow's documented ``example.proto``.

    Its map of features is written as the list of pairs that it is on the wire. A pool of its own,
    because TensorFlow, where it is installed, has registered the same names.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="example.proto", package="mtzoo", syntax="proto3"
    )

    def message(name: str, **fields: tuple[int, int, bool, str]) -> Any:
        made = file.message_type.add(name=name)
        for field, (number, kind, repeated, of) in fields.items():
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            added = made.field.add(name=field, number=number, type=kind, label=label)  # type: ignore[arg-type]
            if of:
                added.type_name = f".mtzoo.{of}"
        return made

    message("BytesList", value=(1, kinds.TYPE_BYTES, True, ""))
    message("FloatList", value=(1, kinds.TYPE_FLOAT, True, ""))
    message("Int64List", value=(1, kinds.TYPE_INT64, True, ""))
    feature = message(
        "Feature",
        bytes_list=(1, kinds.TYPE_MESSAGE, False, "BytesList"),
        float_list=(2, kinds.TYPE_MESSAGE, False, "FloatList"),
        int64_list=(3, kinds.TYPE_MESSAGE, False, "Int64List"),
    )
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    message(
        "Pair",
        key=(1, kinds.TYPE_STRING, False, ""),
        value=(2, kinds.TYPE_MESSAGE, False, "Feature"),
    )
    message("Features", feature=(1, kinds.TYPE_MESSAGE, True, "Pair"))
    message("Example", features=(1, kinds.TYPE_MESSAGE, False, "Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("mtzoo.Example"))
