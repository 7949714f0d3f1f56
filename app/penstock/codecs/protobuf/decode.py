"""Messages to columns: the library decodes the part of each message that is read, and each column is taken from all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, Final

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError as Malformed

from penstock.batch import Batch, Failure
from penstock.codecs.columns import Assembler
from penstock.codecs.framing import frame_in, shown
from penstock.codecs.narrow import Narrowing, check_value
from penstock.codecs.protobuf.indexes import indexes_in, indexes_of, name_at
from penstock.codecs.protobuf.kinds import is_map, leaf
from penstock.codecs.protobuf.match import mismatch
from penstock.codecs.protobuf.paths import Hop, hops, part, reads
from penstock.codecs.writers import Writers
from penstock.errors import DecodeError, SchemaError, SchemaWanted
from penstock.schema import Column, Field, Schema, innermost

__all__ = ["ProtobufDecoder"]

_TOGETHER: Final = 2**22  # bytes

Values = Sequence[Any]
Errors = dict[int, DecodeError]  # by the place of the message


class ProtobufDecoder:
    """Decodes messages of `schema`. With `writers`, each has a frame and the place of its message in the writer's file before it.

    `decode` raises SchemaWanted when the schema of a value has to be fetched first.
    """

    spread = 1

    def __init__(self, schema: Schema, columns: Sequence[Column], *, max_bytes: int, writers: Writers | None = None) -> None:
        Assembler(schema, columns)  # raises clearer errors than the columns of 64 bits below would
        self._narrowing = Narrowing(_asked(schema, columns), [_long(schema, column) for column in columns])
        message = schema.protobuf.descriptor()
        paths = list(dict.fromkeys(column.field for column in columns))
        ways = {path: hops(message, path) for path in paths}
        self._reads = reads(message, [*ways.values()])
        verified = all(file.syntax == "proto3" for file in FileDescriptorSet.FromString(schema.protobuf.files).file)
        by_path = {path: [column for column in columns if column.field == path] for path in ways}
        self._columns = [(path, _reader(way, verified=verified), by_path[path]) for path, way in ways.items()]
        made = part(schema.protobuf, self._reads)
        self._parse: Callable[[bytes], Any] = made.FromString
        self._complete = _complete if any(field.is_required for field in _fields(made.DESCRIPTOR)) else None
        self._schema, self._message = schema, message
        self._max_bytes = max_bytes
        self._found = writers
        self._prefixes: set[bytes] = set()
        self._sizes: tuple[int, ...] = ()  # of the prefixes
        self._mismatches: dict[bytes, str] = {}  # by frame

    def decode(self, values: Sequence[bytes | None]) -> Batch:
        """Returns the values as columns, and a Failure per value that is not an event of the schema. Never raises for a value's content."""
        errors: Errors = {}
        bodies = self._bodies(values, errors)
        rows: list[int] = []
        read: list[list[Any]] = [[] for _ in self._columns]
        for begin, end in _portions(bodies):
            numbers, messages = self._messages(range(begin, end), bodies[begin:end], errors)
            found, bad = self._read(messages)
            if bad:
                errors |= {numbers[at]: error for at, error in bad.items()}
                found = [[value for at, value in enumerate(column) if at not in bad] for column in found]
                numbers = [row for at, row in enumerate(numbers) if at not in bad]
            rows += numbers
            for column, taken in zip(read, found, strict=True):
                column += taken
        failures = tuple(Failure(row, errors[row]) for row in sorted(errors))
        arrays = self._narrowing.wide.arrays(read, len(rows))
        return self._narrowing.narrow(Batch(len(rows), arrays, np.array(rows, np.intp) if errors else None, failures))

    def _bodies(self, values: Sequence[bytes | None], errors: Errors) -> Sequence[bytes | None]:
        """Returns the values without what is before their messages; None for one that is no event, whose error is noted."""
        bodies: list[bytes | None] = []
        try:
            if max(map(len, values), default=0) <= self._max_bytes:  # type: ignore[arg-type]  # the except handles a None
                if self._found is None:
                    return values
                if len(self._sizes) == 1 and {value[: self._sizes[0]] for value in values} <= self._prefixes:  # type: ignore[index]
                    return [value[self._sizes[0] :] for value in values]  # type: ignore[index]
        except TypeError:
            pass  # at least one value is null
        wanted: dict[str, SchemaWanted] = {}
        for row, value in enumerate(values):
            try:
                bodies.append(self._body(value))
            except DecodeError as error:
                errors[row] = error
                bodies.append(None)
            except SchemaWanted as one:
                wanted[str(one)] = one
        if wanted:
            raise SchemaWanted.together(wanted.values())
        return bodies

    def _body(self, value: bytes | None) -> bytes:
        if value is None:
            raise DecodeError("the value is null (a tombstone), not an event")
        if len(value) > self._max_bytes:
            raise DecodeError(f"{len(value)} bytes, more than the {self._max_bytes} allowed (max_bytes of the source)")
        if self._found is None:
            return value
        for size in self._sizes:  # no prefix begins with another one
            if value[:size] in self._prefixes:
                return value[size:]
        return self._admitted(value, self._found)

    def _admitted(self, value: bytes, writers: Writers) -> bytes:
        """Returns the message of a value whose frame comes for the first time. Raises DecodeError, SchemaWanted."""
        frame = frame_in(value)
        indexes, at = indexes_in(value, len(frame))
        try:
            written = writers.find(frame).protobuf
        except SchemaError as error:
            raise DecodeError(str(error)) from None
        if (name := name_at(written, indexes)) != self._schema.name:
            what = name or f"message number {list(indexes)}, which {shown(frame)} does not have"
            raise DecodeError(f"it is a {what}, the source reads {self._schema.name}")
        if frame not in self._mismatches:
            self._mismatches[frame] = mismatch(written.descriptor(), self._message, self._reads)
        if reason := self._mismatches[frame]:
            raise DecodeError(f"{shown(frame)} wrote it, which the source's schema cannot read: {reason}")
        prefix = frame + indexes_of(indexes)
        if value[:at] == prefix:  # other forms of the same numbers, which no serializer writes, are not remembered
            self._prefixes.add(prefix)
            self._sizes = tuple(sorted({*self._sizes, at}))
        return value[at:]

    def _messages(self, numbers: Sequence[int], bodies: Sequence[bytes | None], errors: Errors) -> tuple[list[int], list[Any]]:
        """Returns the messages and their rows."""
        if self._complete is None:
            try:
                return [*numbers], [*map(self._parse, bodies)]  # type: ignore[arg-type]  # the except handles a None
            except (Malformed, TypeError):
                pass  # at least one value is no message: the loop below finds it and notes its error
        rows: list[int] = []
        messages: list[Any] = []
        for row, body in zip(numbers, bodies, strict=True):
            if body is None:
                continue
            try:
                message = self._parse(body)
                if self._complete is not None:
                    self._complete(message)
            except Malformed as error:
                errors[row] = DecodeError(str(error).removeprefix("Error parsing message with type "))
            except DecodeError as error:
                errors[row] = error
            else:
                rows.append(row)
                messages.append(message)
        return rows, messages

    def _read(self, messages: Sequence[Any]) -> tuple[list[Values], Errors]:
        """Returns the values of each field, and the messages that have a value which a column does not take."""
        bad: Errors = {}
        read: list[Values] = []
        for path, reader, columns in self._columns:
            values = reader(messages, path, bad)
            for column in columns:
                if column.shape or (column.missing.action == "reject" and None in values):
                    _check(values, column, bad)
            read.append(values)
        return read, bad


def _portions(bodies: Sequence[bytes | None]) -> Iterator[tuple[int, int]]:
    """Yields the values, from and to, whose messages are in memory together: they may take far more of it than their bytes do."""
    begin = size = 0
    for row, body in enumerate(bodies):
        size += 0 if body is None else len(body)
        if size > _TOGETHER:
            yield begin, row + 1
            begin, size = row + 1, 0
    yield begin, len(bodies)


def _complete(message: Any) -> None:
    if not message.IsInitialized():
        raise DecodeError(f"it lacks required fields: {', '.join(message.FindInitializationErrors()[:10])}")


def _check(values: Values, column: Column, bad: Errors) -> None:
    for at, value in enumerate(values):
        try:
            check_value(value, column)
        except DecodeError as error:
            bad.setdefault(at, error)


def _fields(message: Any) -> list[Any]:
    """Returns the fields of a message and of those inside it."""
    seen: dict[str, Any] = {}
    pending = [message]
    while pending:
        if (one := pending.pop()).full_name not in seen:
            seen[one.full_name] = one
            pending += [field.message_type for field in one.fields if field.message_type is not None]
    return [field for one in seen.values() for field in one.fields]


def _asked(schema: Schema, columns: Sequence[Column]) -> Schema:
    """Returns a schema with the fields that are read, under their paths, and with whole numbers of 64 bits."""
    found = [schema.field(path) for path in dict.fromkeys(column.field for column in columns)]
    return replace(schema, fields=tuple(_longer(field) for field in found if field is not None))


def _longer(field: Field) -> Field:
    if field.items is not None:
        return replace(field, items=_longer(field.items))
    return replace(field, kind="long") if field.kind == "int" else field


def _long(schema: Schema, column: Column) -> Column:
    """Returns the column that keeps the nulls of such a field; others are narrowed from 64 bits."""
    field = schema.field(column.field)
    keeps = column.missing.action == "fill" and column.missing.value is None
    return replace(column, dtype="int64") if keeps and field is not None and innermost(field).kind == "int" else column


def _reader(way: Sequence[Hop], *, verified: bool) -> Callable[[Sequence[Any], str, Errors], Values]:
    """Returns what takes the values at the end of the way from messages: None for what is not set, or inside what is not set.

    `verified` is whether the library has found all strings to be UTF-8.
    """
    ways = [_step(hop) for hop in way]
    last = way[-1]
    value = last.field.message_type.fields_by_name["value"] if is_map(last.field) else last.field
    found = leaf(value)
    assert found is not None, "no column reads a record"
    convert = None if verified and value.type == FieldDescriptor.TYPE_STRING else found.read
    many = last.field.is_repeated and last.item is None and not is_map(last.field)

    def read(messages: Sequence[Any], path: str, bad: Errors) -> Values:
        values: Values = messages
        for step in ways:
            values = step(values)
        return values if convert is None else _converted(values, convert, path, bad, many=many)

    return read


def _step(hop: Hop) -> Callable[[Values], Values]:
    """Returns what takes the field from messages; a message may be None."""
    field, place, key = hop
    name = field.name
    get = attrgetter(name)
    if is_map(field) and key is None:
        return lambda messages: [None] * len(messages)  # no key of its type
    if is_map(field):
        return lambda messages: [None if one is None else get(one).get(key) for one in messages]
    if place is not None:
        return lambda messages: [None if one is None or len(items := get(one)) <= place else items[place] for one in messages]
    if field.is_repeated:
        return lambda messages: [None if one is None else [*get(one)] for one in messages]
    if field.has_presence and not field.has_default_value:
        return lambda messages: [get(one) if one is not None and one.HasField(name) else None for one in messages]
    return lambda messages: [*map(get, messages)] if None not in messages else [None if one is None else get(one) for one in messages]


def _converted(values: Values, convert: Callable[[Any], Any], path: str, bad: Errors, *, many: bool) -> Values:
    each = (lambda value: [convert(item) for item in value]) if many else convert
    try:
        return [None if value is None else each(value) for value in values]
    except ValueError:
        pass
    made: list[Any] = []
    for at, value in enumerate(values):
        try:
            made.append(None if value is None else each(value))
        except ValueError as error:
            bad.setdefault(at, DecodeError(f"field {path!r} {error}"))
            made.append(None)
    return made
