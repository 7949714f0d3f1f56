"""Columns to messages, row by row, by the library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.message_factory import GetMessageClass

from penstock.batch import Array
from penstock.codecs.outputs import Outputs
from penstock.codecs.protobuf.indexes import indexes_of, own_indexes
from penstock.codecs.protobuf.kinds import leaf
from penstock.errors import EncodeError, Problem, RecordError, SchemaError
from penstock.schema import Schema
from penstock.signature import Tensor

__all__ = ["ProtobufEncoder"]

Errors = dict[int, RecordError]


class ProtobufEncoder:
    """Encodes rows as messages of `schema`. Behind a frame, `prefix`, each has its place in the schema's file before it.

    Raises SchemaError when the fields do not fit the schema.
    """

    def __init__(self, fields: Sequence[Tensor], schema: Schema, *, prefix: bytes = b"") -> None:
        self._outputs = Outputs(fields, schema)
        self._prefix = prefix + indexes_of(own_indexes(schema.protobuf)) if prefix else b""
        message, paths = schema.protobuf.descriptor(), [field.name.split(".") for field in fields]
        _check_oneofs(message, paths, schema)
        self._make = GetMessageClass(message)
        self._rows = _nest(message, [(path, at) for at, path in enumerate(paths)])

    def encode(self, columns: Sequence[Array]) -> tuple[list[bytes], Mapping[int, RecordError]]:
        """Returns one message per row. A row with a non-finite number or a value that no field holds has b"" and an EncodeError."""
        errors = self._outputs.check(columns)
        make, prefix = self._make, self._prefix
        written: list[bytes] = []
        for row, values in enumerate(self._rows(columns, errors)):
            if row in errors:
                written.append(b"")
                continue
            try:
                written.append(prefix + make(**values).SerializeToString())
            except (ValueError, TypeError, UnicodeError) as error:
                errors[row] = EncodeError(str(error))
                written.append(b"")
        return written, errors


Rows = Callable[[Sequence[Array], Errors], Iterable[Any]]


def _nest(message: Any, paths: Sequence[tuple[Sequence[str], int]]) -> Rows:
    """Returns what makes the arguments of a message of columns; each path leads to the column of its number."""
    parts: dict[str, list[tuple[Sequence[str], int]]] = {}
    for (name, *rest), number in paths:
        parts.setdefault(name, []).append((rest, number))
    names, makes = [*parts], []
    for name, inside in parts.items():
        field = message.fields_by_name[name]
        makes.append(_column(field, inside[0][1]) if not inside[0][0] else _nest(field.message_type, inside))

    def rows(columns: Sequence[Array], errors: Errors) -> Iterable[dict[str, Any]]:
        return (dict(zip(names, row, strict=True)) for row in zip(*[make(columns, errors) for make in makes], strict=True))

    return rows


def _column(field: Any, number: int) -> Rows:
    found = leaf(field)
    write = None if found is None else found.write
    if write is None:
        return lambda columns, errors: columns[number].tolist()
    each = (lambda value: [write(item) for item in value]) if field.is_repeated else write

    def values(columns: Sequence[Array], errors: Errors) -> Iterable[Any]:
        made = []
        for row, value in enumerate(columns[number].tolist()):
            try:
                made.append(None if value is None else each(value))
            except ValueError as error:
                errors.setdefault(row, EncodeError(f"field {field.name!r} {error}", field=field.name))
                made.append(None)
        return made

    return values


def _check_oneofs(message: Any, paths: Sequence[Sequence[str]], schema: Schema) -> None:
    """Raises SchemaError where two of the paths are members of one oneof: the second would clear the first."""
    taken: dict[str, str] = {}
    for path in paths:
        inside = message
        for at, name in enumerate(path):
            field = inside.fields_by_name[name]
            if field.containing_oneof is not None:
                where, own = ".".join([*path[:at], field.containing_oneof.name]), ".".join(path[: at + 1])
                if (first := taken.setdefault(where, own)) != own:
                    text = f"the sink writes {first!r} and {own!r}, and the oneof {where!r} holds one of them"
                    raise SchemaError(Problem(schema.path, 0, 0, text, "write one of them, or take them out of the oneof"))
            inside = field.message_type
