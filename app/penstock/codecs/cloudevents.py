"""CloudEvents 1.0 over Kafka: a structured event (attributes and `data` in one JSON object) is read as the binary one that it means
(attributes in headers `ce_*`, the data as the value). So everything behind this module knows one form.

See https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from penstock.errors import DecodeError
from penstock.record import Header, RecordLike

__all__ = ["CONTENT_TYPE", "MARK", "Bare", "CloudEvents"]

MARK: Final = "ce_"  # what the name of an attribute's header begins with
CONTENT_TYPE: Final = "content-type"
REQUIRED: Final = ("specversion", "id", "source", "type")
_STRUCTURED: Final = b"application/cloudevents"
_BATCHED: Final = "it is a batch of CloudEvents, and a record has one event: let the producer send them structured or binary"
_NEITHER: Final = "no CloudEvent: it has no header ce_specversion, and is no JSON object with specversion"


class Bare(NamedTuple):
    """A record without its envelope: the data as `value`, and the attributes that are read among the headers."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]


class CloudEvents:
    """Opens the records of a source. `attributes` are those that are read beside the required ones, `types` the types that are (all: none).

    `json` is whether the data is read as JSON, and not as bytes.
    """

    def __init__(self, attributes: Iterable[str], types: Collection[str], *, json: bool, max_bytes: int) -> None:
        names = list(dict.fromkeys([*REQUIRED, *attributes]))
        slots: list[tuple[str, Any, Any]] = [(f"f{i}", str | int | bool | None, None) for i in range(len(names))]
        slots += [("data", msgspec.Raw | msgspec.UnsetType, msgspec.UNSET), ("data_base64", bytes | msgspec.UnsetType, msgspec.UNSET)]
        rename = {f"f{i}": name for i, name in enumerate(names)}
        event = msgspec.defstruct("CloudEvent", slots, rename=rename, gc=False)
        self._parse = msgspec.json.Decoder(event).decode
        self._names = [(f"f{i}", MARK + name) for i, name in enumerate(names)]
        self._types = frozenset(one.encode() for one in types)
        self._json, self._max_bytes = json, max_bytes

    def open(self, records: Sequence[RecordLike]) -> tuple[list[Bare], list[int], dict[int, DecodeError]]:
        """Returns the records of the types that are read, without envelope; their rows; and the error of each that is no CloudEvent."""
        found: list[Bare] = []
        rows: list[int] = []
        errors: dict[int, DecodeError] = {}
        for row, record in enumerate(records):
            try:
                bare = self._open(record)
                if not self._types or _required(bare.headers)["type"] in self._types:
                    found.append(bare)
                    rows.append(row)
            except DecodeError as error:
                errors[row] = error
            except (ValueError, RecursionError) as error:
                errors[row] = DecodeError(f"no CloudEvent: {error}")
        return found, rows, errors

    def _open(self, record: RecordLike) -> Bare:
        value, headers = record.value, record.headers
        media = next((one or b"" for name, one in headers if name.lower() == CONTENT_TYPE), b"").lower()
        if media.startswith(_STRUCTURED):
            if media.startswith(_STRUCTURED + b"-batch"):
                raise DecodeError(_BATCHED)
            if not media.startswith(_STRUCTURED + b"+json"):
                raise DecodeError(
                    f"a structured CloudEvent in {media[:80].decode(errors='replace')}: only application/cloudevents+json is read"
                )
        elif any(name == "ce_specversion" for name, _ in headers):
            _check(_required(headers))
            return Bare(record.offset, record.timestamp, record.key, value, headers)
        return self._structured(record, value)

    def _structured(self, record: RecordLike, value: bytes | None) -> Bare:
        if value is None:
            raise DecodeError("the value is null (a tombstone), not an event")
        if len(value) > self._max_bytes:
            raise DecodeError(f"{len(value)} bytes, more than the {self._max_bytes} allowed (max_bytes of the source)")
        if value.lstrip()[:1] == b"[":
            raise DecodeError(_BATCHED)
        if value.lstrip()[:1] != b"{":
            raise DecodeError(_NEITHER)
        if not value.isascii():
            value.decode()
        event = self._parse(value)
        attributes = [(name, _text(one)) for slot, name in self._names if (one := getattr(event, slot)) is not None]
        if not attributes:
            raise DecodeError(_NEITHER)
        _check(_required(attributes))
        others = [header for header in record.headers if not header[0].startswith(MARK)]
        return Bare(record.offset, record.timestamp, record.key, self._data(event), [*others, *attributes])

    def _data(self, event: Any) -> bytes:
        if event.data_base64 is not msgspec.UNSET:
            return bytes(event.data_base64)
        if event.data is msgspec.UNSET:
            raise DecodeError("the CloudEvent has no data")
        if not self._json:
            raise DecodeError("the CloudEvent has its data as JSON, and the source reads another format: that is in data_base64")
        return bytes(event.data)


def _required(headers: Iterable[Header]) -> dict[str, bytes]:
    """Returns the required attributes that are there."""
    found = {name.removeprefix(MARK): value for name, value in headers if name.startswith(MARK) and value}
    return {name: found[name] for name in REQUIRED if name in found}


def _check(found: dict[str, bytes]) -> None:
    """Raises DecodeError when these are not the attributes that every CloudEvent has."""
    if lacking := [name for name in REQUIRED if name not in found]:
        raise DecodeError(f"the CloudEvent has no {' and no '.join(lacking)}")
    if found["specversion"] != b"1.0":
        raise DecodeError(f"a CloudEvent of version {found['specversion'][:20].decode(errors='replace')!r}: 1.0 is read")


def _text(value: str | int | bool) -> bytes:
    return (str(value).lower() if isinstance(value, bool) else str(value)).encode()
