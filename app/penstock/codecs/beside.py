"""Columns from what a record has beside its value: its key, as text or by the key's schema, its headers, and a CloudEvent's attributes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from penstock.batch import Array
from penstock.codecs.base import Decoder
from penstock.codecs.cloudevents import MARK
from penstock.codecs.coerce import Coerce, coercion
from penstock.codecs.columns import Assembler
from penstock.errors import DecodeError
from penstock.record import RecordLike
from penstock.schema import Column, Missing, Schema

__all__ = ["BesideDecoder"]


class BesideDecoder:
    """Makes the columns whose fields are beside the value; `key` decodes keys that have a schema.

    `make_key` returns the decoder of keys for the columns that it is given. Raises SchemaError for columns that their fields cannot feed.
    """

    def __init__(self, schema: Schema, columns: Sequence[Column], make_key: Callable[[Schema, Sequence[Column]], Decoder]) -> None:
        keyed = schema.beside.key if schema.beside is not None else None
        self._of_key = [one for one in columns if keyed is not None and one.field.startswith("key.")]
        self._texts = [one for one in columns if one not in self._of_key]
        self._key = None
        if keyed is not None and self._of_key:
            self._key = make_key(keyed, [replace(one, field=one.field.removeprefix("key.")) for one in self._of_key])
        fields = [field for one in self._texts if (field := schema.field(one.field)) is not None]
        self._assembler = Assembler(Schema(schema.name, tuple(dict.fromkeys(fields)), path=schema.path), self._texts)
        self._read = read = [(field.name, self._assembler.dtypes(field.name)) for field in self._assembler.fields]
        self._makes = [coercion(field, dtypes, ()) for field, (_, dtypes) in zip(self._assembler.fields, read, strict=True)]

    def decode(self, records: Sequence[RecordLike]) -> tuple[dict[str, Array], dict[int, DecodeError]]:
        """Returns the columns of all the records, and an error per row whose key or headers do not fit them, where they have any value."""
        errors: dict[int, DecodeError] = {}
        columns = self._keys([record.key for record in records], errors) if self._key is not None else {}
        texts: list[list[Any]] = [
            [_text(one, field.name, row, errors) for row, one in enumerate(records)] for field in self._assembler.fields
        ]
        for field, make, values in zip(self._assembler.fields, self._makes, texts, strict=True):
            if make is not None:
                _make(field.name, make, values, errors)
            if self._assembler.rejects_null(field.name):
                for row, value in enumerate(values):
                    if value is None:
                        errors.setdefault(row, _null(field.name))
                        values[row] = "" if make is None else 0
        return columns | self._assembler.arrays(texts, len(records)), errors

    def _keys(self, keys: Sequence[bytes | None], errors: dict[int, DecodeError]) -> dict[str, Array]:
        assert self._key is not None, "called for keys with a schema"
        rows = np.array([row for row, key in enumerate(keys) if key is not None], np.intp)
        batch = self._key.decode([keys[row] for row in rows])
        for failure in batch.failures:
            errors[int(rows[failure.row])] = DecodeError(f"the key is not an event of its schema: {failure.error}")
        good = rows if batch.rows is None else rows[batch.rows]
        columns = {}
        for column in self._of_key:
            found = batch.columns[column.name]
            if column.missing.action == "reject":
                for row, key in enumerate(keys):
                    if key is None:
                        errors.setdefault(row, _null(column.field))
            fill = column.missing.value if column.missing.action == "fill" else "" if column.dtype == "string" else 0
            dtype = object if column.missing == Missing("fill", None) else found.dtype
            made = np.full((len(keys), *found.shape[1:]), fill, dtype)
            made[good] = found
            columns[column.name] = made
        return columns


def _make(field: str, make: Coerce, values: list[Any], errors: dict[int, DecodeError]) -> None:
    """Makes the texts values of the field."""
    for row, value in enumerate(values):
        if value is not None:
            try:
                values[row] = make(value)
            except (ValueError, ArithmeticError) as error:
                errors.setdefault(row, DecodeError(f"{error} in {field!r}"))
                values[row] = 0


def _text(record: RecordLike, field: str, row: int, errors: dict[int, DecodeError]) -> str | None:
    """Returns the key, the last header of the field's name, or an attribute, as text."""
    if field == "ce":
        return f"{_text(record, 'ce.source', row, errors)} {_text(record, 'ce.id', row, errors)}"
    name = MARK + field.removeprefix("ce.") if field.startswith("ce.") else field.removeprefix("header.")
    raw = record.key if field == "key" else next((value for key, value in reversed(record.headers) if key == name), None)
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError as error:
        errors.setdefault(row, DecodeError(f"{field!r} is not UTF-8: {error.reason} (byte {error.start})"))
        return ""


def _null(field: str) -> DecodeError:
    return DecodeError(f"field {field!r} is null, and the topology gives no value for nulls (add it under `missing:`)")
