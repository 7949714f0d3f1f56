"""Dead letters as lines of JSON: what failed, where it was, and why."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Final

import msgspec

from penstock.parcel import Parcel

__all__ = ["first_reason", "lines"]

READ: Final = 1 << 20  # bytes that are read at a time


def lines(parcel: Parcel, place: Callable[[int, int], dict[str, object]] | None = None) -> Iterator[bytes]:
    """Yields a dead letter per line: its `id`, the `message`, `failed_at`, and the `value` as text, or as `base64` when it is not text.

    One that was cut to fit has `truncated`: what there was.
    `place(partition, offset)` returns what names the input: its file and its row.
    """
    for one, (_, _, value, headers) in zip(parcel.inputs, parcel.records, strict=True):
        yield _letter(value, headers, {} if place is None else place(parcel.partition, one.offset))


def first_reason(file: IO[bytes]) -> str:
    """Returns the `message` of the first line, however long it is. The files of stores cannot read a line themselves."""
    pieces: list[bytes] = []
    end = b""
    while not end and (data := file.read(READ)):
        piece, end, _ = data.partition(b"\n")
        pieces.append(piece)
    return str(msgspec.json.decode(b"".join(pieces))["message"])


def _letter(value: bytes | None, headers: Sequence[tuple[str, bytes | None]], place: dict[str, object]) -> bytes:
    said = {name: (text or b"").decode(errors="replace") for name, text in headers}
    event: dict[str, object] = {
        "id": said.get("penstock-id", ""),
        **place,
        "message": said.get("__streams.errors.message", ""),
        "failed_at": said.get("penstock-stage", ""),
    }
    if "penstock-truncated" in said:
        event["truncated"] = said["penstock-truncated"]
    if value is not None:
        try:
            event["value"] = value.decode()
        except UnicodeDecodeError:
            event["base64"] = base64.b64encode(value).decode()
    return msgspec.json.encode(event)
