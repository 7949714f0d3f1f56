"""Decodes one Avro datum at a time, from untrusted bytes: each reader takes the bytes and a position, and returns the value and
the next position.

This is not left to a library, because every producer to the topic can send any body. Each count is compared with the bytes
that are left before memory is allocated for it, and a body must end where its last field ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from struct import Struct
from typing import Any, Final

from penstock.errors import DecodeError
from penstock.schema import Step, steps

__all__ = ["DatumReader", "datum_reader"]

Reader = Callable[[bytes, int], tuple[Any, int]]
DatumReader = Callable[[bytes], list[Any]]

_FLOAT: Final = Struct("<f").unpack_from
_DOUBLE: Final = Struct("<d").unpack_from
_MAX_DEPTH: Final = 64

Want = dict[Step, Any] | None  # by step, what is wanted of each part; {} is all of it, None nothing


def datum_reader(avro: Mapping[str, Any], paths: Sequence[str]) -> DatumReader:
    """Returns a reader of single datums of the parsed record schema `avro`: the values that `paths` lead to, in their order.

    What lies in a null, or in an item that an array does not have, is None. The reader raises DecodeError for bytes that are not such a
    datum, or that continue after it.
    """
    named = _Named(avro["__named_schemas"])
    ways = [steps(path) for path in paths]
    wanted = _wanted(ways)
    readers = [(field["name"], _reader(field["type"], named, want=wanted.get(field["name"]))) for field in avro["fields"]]

    def read(body: bytes) -> list[Any]:
        values: dict[Step, Any] = {}
        at, name = 0, ""
        try:
            for name, reader in readers:  # the error messages below read `name`
                values[name], at = reader(body, at)
        except _Malformed as malformed:
            raise DecodeError(f"{malformed} in field {name!r}") from None
        except UnicodeDecodeError as error:
            raise DecodeError(f"invalid UTF-8 in field {name!r}: {error.reason}") from None
        except RecursionError:
            raise DecodeError(f"nested too deeply in field {name!r}") from None
        if at != len(body):
            raise DecodeError(f"{len(body) - at} bytes after the datum")
        return [values[way[0]] if len(way) == 1 else _follow(values, way) for way in ways]

    return read


class _Named:
    """The types with names, and the readers of them that were made: one per depth, and what is wanted of it."""

    def __init__(self, types: Mapping[str, Any]) -> None:
        self.types = dict(types)
        self.readers: dict[tuple[str, int, str], Reader] = {}


def _wanted(ways: Sequence[Sequence[Step]]) -> dict[Step, Any]:
    wanted: dict[Step, Any] = {}
    for way in ways:
        inside = wanted
        for step in way:
            inside = inside.setdefault(step, {})
    return wanted


def _joined(parts: Iterable[dict[Step, Any]]) -> dict[Step, Any]:
    joined: dict[Step, Any] = {}
    for part in parts:
        for step, inside in part.items():
            joined[step] = _joined((joined.get(step, {}), inside))
    return joined


def _follow(value: Any, way: Sequence[Step]) -> Any:
    for step in way:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int):
            value = value[step] if step < len(value) else None
        else:
            return None
    return value


class _Malformed(Exception):
    """What is wrong with the bytes of a field."""


def _reader(avro: Any, named: _Named, *, want: Want, depth: int = 0) -> Reader:
    """Returns the reader of a type. Only wanted strings are decoded to text; named types are resolved when they are read."""

    def inner(avro: Any, want: Want) -> Reader:
        return _reader(avro, named, want=want, depth=depth)

    if isinstance(avro, list):
        return _union([inner(branch, want) for branch in avro])
    kind = avro["type"] if isinstance(avro, dict) else avro
    if isinstance(kind, dict | list):
        return inner(kind, want)
    if isinstance(avro, str) and kind in named.types:
        return _later(kind, named, want, depth)
    match kind:
        case "record" | "error":
            members = [(field["name"], inner(field["type"], want.get(field["name"]) if want else None)) for field in avro["fields"]]
            return _record(members, kept=want is not None)
        case "enum":
            return _enum(avro["symbols"])
        case "array" | "map":
            # All items are read alike, with what is wanted of any of them; a whole array is wanted with whole items.
            inside = want and _joined(want.values())
            return _blocks(inner(avro["items" if kind == "array" else "values"], inside), keyed=kind == "map", kept=want is not None)
        case "fixed":
            return _fixed(avro["size"])
        case _:
            return _PRIMITIVES["bytes" if kind == "string" and want is None else kind]


def _later(name: str, named: _Named, want: Want, depth: int) -> Reader:
    key = name, depth, repr(want)

    def read(body: bytes, at: int) -> tuple[Any, int]:
        if depth == _MAX_DEPTH:
            raise _Malformed("nested too deeply")
        if (reader := named.readers.get(key)) is None:
            reader = named.readers[key] = _reader(named.types[name], named, want=want, depth=depth + 1)
        return reader(body, at)

    return read


def _take(body: bytes, at: int, size: int) -> int:
    """Returns the end of `size` bytes from `at`."""
    if size < 0:
        raise _Malformed(f"negative length {size}")
    if at + size > len(body):
        raise _Malformed("the body ends too soon")
    return at + size


def _null(body: bytes, at: int) -> tuple[None, int]:
    return None, at


def _boolean(body: bytes, at: int) -> tuple[bool, int]:
    end = _take(body, at, 1)
    if body[at] > 1:
        raise _Malformed(f"{body[at]:#04x} is not a boolean")
    return body[at] == 1, end


def _long(body: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while shift < 70:
        end = _take(body, at, 1)
        number |= (body[at] & 127) << shift
        if body[at] < 128:
            if number >= 2**64:
                break
            return number >> 1 ^ -(number & 1), end
        at, shift = end, shift + 7
    raise _Malformed("a whole number of more than 64 bits")


def _int(body: bytes, at: int) -> tuple[int, int]:
    number, at = _long(body, at)
    if not -(2**31) <= number < 2**31:
        raise _Malformed(f"{number} is not a 32-bit number")
    return number, at


def _float(body: bytes, at: int) -> tuple[float, int]:
    end = _take(body, at, 4)
    return _FLOAT(body, at)[0], end


def _double(body: bytes, at: int) -> tuple[float, int]:
    end = _take(body, at, 8)
    return _DOUBLE(body, at)[0], end


def _bytes(body: bytes, at: int) -> tuple[bytes, int]:
    size, at = _long(body, at)
    end = _take(body, at, size)
    return body[at:end], end


def _string(body: bytes, at: int) -> tuple[str, int]:
    raw, at = _bytes(body, at)
    return raw.decode(), at


def _fixed(size: int) -> Reader:
    def read(body: bytes, at: int) -> tuple[bytes, int]:
        end = _take(body, at, size)
        return body[at:end], end

    return read


def _enum(symbols: list[str]) -> Reader:
    def read(body: bytes, at: int) -> tuple[str, int]:
        index, at = _long(body, at)
        if not 0 <= index < len(symbols):
            raise _Malformed(f"enum index {index} of {len(symbols)} symbols")
        return symbols[index], at

    return read


def _union(branches: list[Reader]) -> Reader:
    def read(body: bytes, at: int) -> tuple[Any, int]:
        index, at = _long(body, at)
        if not 0 <= index < len(branches):
            raise _Malformed(f"union index {index} of {len(branches)} branches")
        return branches[index](body, at)

    return read


def _record(readers: list[tuple[str, Reader]], *, kept: bool) -> Reader:
    """Records. What is not kept is read past."""

    def read(body: bytes, at: int) -> tuple[Any, int]:
        values = {}
        for name, reader in readers:
            value, at = reader(body, at)
            if kept:
                values[name] = value
        return values, at

    return read


def _blocks(item: Reader, *, keyed: bool, kept: bool) -> Reader:
    """Arrays and maps. What is not kept is read past."""

    def read(body: bytes, at: int) -> tuple[Any, int]:
        items: list[Any] = []
        keys: list[str] = []
        while True:
            count, at = _long(body, at)
            if count == 0:
                return dict(zip(keys, items, strict=True)) if keyed and kept else items, at
            if count < 0:
                count, (size, at) = -count, _long(body, at)
                _take(body, at, size)
            # An item may have no bytes (null, an empty record), so the count itself is compared with the body's length.
            _take(body, at, count)
            for _ in range(count):
                if keyed:
                    key, at = _bytes(body, at)
                    if kept:
                        keys.append(key.decode())
                value, after = item(body, at)
                if after == at and not keyed:
                    # Items without bytes (null, an empty record) are all alike, and as many as a sender likes to write.
                    if kept:
                        raise _Malformed("items without bytes")
                    break
                at = after
                if kept:
                    items.append(value)

    return read


_PRIMITIVES: Final[Mapping[str, Reader]] = {
    "null": _null, "boolean": _boolean, "int": _int, "long": _long,
    "float": _float, "double": _double, "bytes": _bytes, "string": _string,
}  # fmt: skip
