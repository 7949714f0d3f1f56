"""What a request of HTTP holds: the events of a body, packed or not, and what its headers say. Pure."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from penstock.errors import Malformed, TooLarge
from penstock.record import Header, Record, RecordLike

__all__ = ["Headers", "coding", "no_json", "number", "records", "seconds", "split", "unpacked"]

Headers = dict[bytes, bytes]

_WRAPPED: Final = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"events"[ \t\r\n]*:')
_LIST: Final = re.compile(rb"[ \t\r\n]*\[")
_TIMEOUT: Final = b"x-request-timeout"
_KEY: Final = b"penstock-key"
_HEADER: Final = b"penstock-header-"
_DIGITS: Final = 15
_MANY: Final = 65_536  # commas in a list of events, up to which its memory needs no care


class _Wrapped(msgspec.Struct):
    events: list[msgspec.Raw]


class _Object(msgspec.Struct, gc=False):
    """An object; nothing of it is kept."""


class _WrappedObjects(msgspec.Struct):
    events: list[_Object]


_any: Final = msgspec.json.Decoder().decode
_listed: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_wrapped: Final = msgspec.json.Decoder(_Wrapped).decode
_listed_objects: Final = msgspec.json.Decoder(list[_Object]).decode
_wrapped_objects: Final = msgspec.json.Decoder(_WrappedObjects).decode


def split(body: bytes, most: int, *, wraps: bool) -> tuple[bool, Sequence[bytes]]:
    """Returns whether the body is one event, and its events, each as it is: what is inside of them is the decoder's to judge.

    Raises Malformed, and TooLarge for more than `most` events.
    """
    wrapped = wraps and _WRAPPED.match(body)
    if not wrapped and not _LIST.match(body):
        return True, (body,)
    try:
        found: Sequence[Any] = ()
        if body.count(b",") > max(_MANY, most):  # in so long a list all events are objects: numbers would take fifty times its bytes
            found = _wrapped_objects(body).events if wrapped else _listed_objects(body)
        if len(found) <= most:
            found = _wrapped(body).events if wrapped else _listed(body)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the list of events cannot be read: {error}{_hint(error)}") from error
    if len(found) > most:
        raise TooLarge(f"{len(found)} events in one list; at most {most}: send them as a stream of lines")
    return False, [bytes(one) for one in found]


def no_json(body: bytes) -> str:
    """Returns why a body is no JSON; "" where it is."""
    try:
        _any(body)
    except (ValueError, RecursionError) as error:
        return f"the body is no JSON: {error}{_hint(error)}"
    return ""


def _hint(error: Exception) -> str:
    """Returns what to do about lines of JSON that are not said to be lines, and about `events` that is no list."""
    if isinstance(error, msgspec.ValidationError):
        return "; `events` is a list of objects"
    return "; for one event per line send Content-Type: application/x-ndjson" if "trailing" in str(error) else ""


def records(topic: str, values: Sequence[bytes], headers: Headers) -> list[RecordLike]:
    """Returns the events as records. The headers penstock-key and penstock-header-NAME are what each of them has beside its value."""
    key = headers.get(_KEY)
    beside: Sequence[Header] = [
        (name[len(_HEADER) :].decode("latin-1"), value) for name, value in headers.items() if name.startswith(_HEADER)
    ]
    return [Record(topic, value, key, beside) for value in values]


def coding(headers: Headers) -> bytes:
    """Returns how a body is packed; b"" for not at all."""
    coding = headers.get(b"content-encoding", b"").strip().lower()
    return b"" if coding == b"identity" else coding


def unpacked(coding: bytes, body: bytes, most: int) -> bytes:
    """Returns the content of a packed body. Raises Malformed, and TooLarge for more than `most` bytes."""
    if coding not in (b"gzip", b"deflate"):
        raise Malformed("the content-encoding has to be gzip or deflate")
    unpacker = zlib.decompressobj(wbits=47)  # 32 + 15: both, by their headers
    try:
        made = unpacker.decompress(body, most + 1)
    except zlib.error as error:
        raise Malformed(f"the body cannot be unpacked: {error}") from error
    if len(made) > most:
        raise TooLarge(f"a body that unpacks to more than {most} bytes (setting max_body_bytes)")
    if not unpacker.eof:
        raise Malformed("the packed body is not complete")
    if unpacker.unused_data:  # would be lost, and can be more events: of files that were packed one by one and then joined
        raise Malformed(f"{len(unpacker.unused_data)} bytes are left behind the packed body")
    return made


def number(headers: Headers, name: bytes) -> int | None:
    """Returns the whole number of a header; None without the header. Raises Malformed."""
    text = headers.get(name)
    if text is None:
        return None
    if not text.isdigit() or len(text) > _DIGITS:
        raise Malformed(f"the header {name.decode()} is no number")
    return int(text)


def seconds(headers: Headers) -> float | None:
    """Returns how long the request may take by its header; None without one. Raises Malformed."""
    text = headers.get(_TIMEOUT)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise Malformed("the header X-Request-Timeout is a number of seconds, such as 0.5")
    return seconds
