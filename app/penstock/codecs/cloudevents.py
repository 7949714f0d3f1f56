"""CloudEvents 1.0 over Kafka: a structured event (attributes and `data` in one JSON object) is read as the binary one that it means
(attributes in headers `ce_*`, the data as the value). So everything behind this module knows one form.

See https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

import msgspec

from penstock.errors import DecodeError
from penstock.record import Header, RecordLike

__all__ = ["CONTENT_TYPE", "MARK", "Bare", "CloudEvents"]

MARK: Final = "ce_"  # what the name of an attribute's header begins with
CONTENT_TYPE: Final = "content-type"
REQUIRED: Final = ("specversion", "id", "source", "type")
_VERSION: Final = "ce_specversion"
_STRUCTURED: Final = b"application/cloudevents"
_BATCHED: Final = "it is a batch of CloudEvents, and a record has one event: let the producer send them structured or binary"
_NEITHER: Final = "no CloudEvent: it has no header ce_specversion, and is no JSON object with specversion"


class Bare(msgspec.Struct, frozen=True, gc=False):
    """A record without its envelope: the data as `value`, and the attributes that are read among the headers."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]
    type: bytes = b""


class CloudEvents:
    """Opens the records of a source. `attributes` are those that are read beside the required ones, `types` the types that are (none: all).

    `json` is whether the data is read as JSON, and not as bytes.
    """

    def __init__(self, attributes: Iterable[str], types: Collection[str], *, json: bool, max_bytes: int) -> None:
        read = {name for one in attributes for name in ((one,) if one != "ce" else ("source", "id"))}  # `ce` is both
        names = [*REQUIRED, *sorted(read - {*REQUIRED})]
        slots: list[tuple[str, Any, Any]] = [(f"f{i}", str | int | bool | None, None) for i in range(len(names))]
        slots += [("data", msgspec.Raw | msgspec.UnsetType, msgspec.UNSET), ("data_base64", bytes | msgspec.UnsetType, msgspec.UNSET)]
        rename = {f"f{i}": name for i, name in enumerate(names)}
        event = msgspec.defstruct("CloudEvent", slots, rename=rename, gc=False)
        self._parse = msgspec.json.Decoder(event).decode
        self._read = [(at, MARK + name) for at, name in enumerate(names) if name in read]
        self._types = frozenset(one.encode() for one in types)
        self._json, self._max_bytes = json, max_bytes

    def open(self, records: Sequence[RecordLike]) -> tuple[list[RecordLike], list[int], dict[int, DecodeError]]:
        """Returns the records of the types that are read, without envelope; their rows; and the error of each that is no CloudEvent."""
        found: list[RecordLike] = []
        rows: list[int] = []
        errors: dict[int, DecodeError] = {}
        for row, record in enumerate(records):
            try:
                headers = dict(record.headers)  # of several headers of one name, the last one
                opened: RecordLike = record
                if _is_structured(headers):
                    opened = bare = self._structured(record)
                    kind = bare.type
                elif (
                    headers.get("ce_id") and headers.get("ce_source") and headers[_VERSION] == b"1.0" and (named := headers.get("ce_type"))
                ):
                    kind = named
                else:
                    kind = _checked([(headers.get(MARK + name) or b"").decode() for name in REQUIRED]).encode()
                if not self._types or kind in self._types:
                    found.append(opened)
                    rows.append(row)
            except DecodeError as error:
                errors[row] = error
            except (ValueError, RecursionError) as error:
                errors[row] = DecodeError(f"no CloudEvent: {error}")
        return found, rows, errors

    def _structured(self, record: RecordLike) -> Bare:
        value = record.value
        if value is None:
            raise DecodeError("the value is null (a tombstone), not an event")
        if len(value) > self._max_bytes:
            raise DecodeError(f"{len(value)} bytes, more than the {self._max_bytes} allowed (max_bytes of the source)")
        try:
            if not value.isascii():
                value.decode()
            *attributes, data, coded = msgspec.structs.astuple(self._parse(value))
        except ValueError as error:
            begin = value.lstrip()[:1]
            raise DecodeError(_BATCHED if begin == b"[" else f"no CloudEvent: {error}" if begin == b"{" else _NEITHER) from None
        if attributes[0] is None:
            raise DecodeError(_NEITHER)
        kind = _checked(attributes[: len(REQUIRED)]).encode()
        if self._types and kind not in self._types:
            return Bare(record.offset, record.timestamp, record.key, None, (), kind)  # to be skipped, whatever its data is
        if coded is msgspec.UNSET:
            if data is msgspec.UNSET:
                raise DecodeError("the CloudEvent has no data")
            if not self._json:
                raise DecodeError("the CloudEvent has its data as JSON, and the source reads another format: that is in data_base64")
            coded = bytes(data)
        elif data is not msgspec.UNSET:
            raise DecodeError("the CloudEvent has data and data_base64, and may have one of them")
        headers = [header for header in record.headers if not header[0].startswith(MARK)]
        headers += [(name, _text(attributes[at])) for at, name in self._read if attributes[at] is not None]
        return Bare(record.offset, record.timestamp, record.key, coded, headers, kind)


def _is_structured(headers: dict[str, bytes | None]) -> bool:
    """Whether the attributes are in the value. Raises DecodeError for what is neither JSON nor one event."""
    media = headers.get(CONTENT_TYPE) or headers.get("Content-Type") or b""
    if not media.startswith(_STRUCTURED):
        return _VERSION not in headers
    if media.startswith(_STRUCTURED + b"-batch"):
        raise DecodeError(_BATCHED)
    if not media.startswith(_STRUCTURED + b"+json"):
        raise DecodeError(f"a structured CloudEvent in {media[:80].decode(errors='replace')}: only application/cloudevents+json is read")
    return True


def _checked(required: Sequence[Any]) -> str:
    """Returns the type of an event with these values of REQUIRED. Raises DecodeError when they are not those of a CloudEvent."""
    if required[0] == "1.0" and all(required):
        return str(required[-1])
    if lacking := [name for name, value in zip(REQUIRED, required, strict=True) if not value]:
        raise DecodeError(f"the CloudEvent has no {' and no '.join(lacking)}")
    raise DecodeError(f"a CloudEvent of version {str(required[0])[:20]!r}: 1.0 is read")


def _text(value: str | int | bool) -> bytes:
    return value.encode() if type(value) is str else (str(value).lower() if isinstance(value, bool) else str(value)).encode()
