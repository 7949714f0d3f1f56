"""The plan by which the native part reads plain JSON events: the allowed values of each field, and the place of its columns.

A plain event is a flat object with every field of the schema once, ASCII without escapes, and numbers whose value is
unambiguous. The native part returns the numbers of the other rows and does not reject them: `JsonDecoder` decodes them in
Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack
from typing import Any, Final

import numpy as np

from penstock.batch import Array
from penstock.codecs.columns import FLOATS, Assembler, Make, bounds
from penstock.native import Native, NativeField, NativeTarget, native
from penstock.schema import Schema

__all__ = ["PlainColumns", "plain_columns"]

_KINDS: Final = {
    "boolean": "b", "int": "i", "long": "i", "timestamp": "i", "float": "f", "double": "f", "string": "s", "bytes": "s", "enum": "e",
}  # fmt: skip


class PlainColumns:
    """Columns of one dtype share a block, so that a batch has few arrays."""

    def __init__(self, part: Native, schema: Schema, assembler: Assembler, max_bytes: int) -> None:
        alike: dict[np.dtype[Any], list[Make]] = {}
        for make in assembler.makes:
            alike.setdefault(make.dtype, []).append(make)
        self._blocks = [(dtype, [make.name for make in makes]) for dtype, makes in alike.items()]
        targets: list[list[NativeTarget]] = [[] for _ in schema.fields]
        for block, makes in enumerate(alike.values()):
            for row, make in enumerate(makes):
                # A null that is kept as null is not a plain value: Python decodes its row.
                fill = None if make.passes or make.fill is None else pack(f"={make.code}", make.fill) if make.code else make.fill
                targets[make.field].append((block, row, make.code or "O", fill))
        fields: list[NativeField] = []
        for field, fed in zip(schema.fields, targets, strict=True):
            low, high, top = 0, 0, 0.0
            if field.kind in FLOATS:
                _, top = bounds(field.kind, assembler.dtypes(field.name))
            elif _KINDS[field.kind] == "i":
                low, high = map(int, bounds(field.kind, assembler.dtypes(field.name)))
            nullable = field.optional and not assembler.rejects_null(field.name)
            fields.append((field.name, _KINDS[field.kind], nullable, low, high, top, field.symbols, tuple(fed)))
        self._native = part.JsonColumns(tuple(fields), max_bytes)

    def decode(self, values: Sequence[bytes | None]) -> tuple[dict[str, Array], list[int]]:
        """Returns the columns, and the rows that are not plain: the columns' values in those rows are undefined."""
        size = len(values)
        blocks = tuple([np.empty((len(names), size), dtype) for dtype, names in self._blocks])
        left = self._native.decode(values, blocks)
        columns: dict[str, Array] = {}
        for (_, names), block in zip(self._blocks, blocks, strict=True):
            columns.update(zip(names, block, strict=True))
        return columns, left


def plain_columns(schema: Schema, assembler: Assembler, max_bytes: int) -> PlainColumns | None:
    """Returns None without the native part, or when no event of the schema can be plain (nested values, aliases, names that are not ASCII),
    or when a numeric column keeps null, because its array then depends on the rows.
    """
    nested = any(field.kind not in _KINDS or field.aliases or field.fallback for field in schema.fields)
    passing = any(make.passes and make.code for make in assembler.makes)
    if native is None or nested or passing or not schema.fields:
        return None
    try:
        return PlainColumns(native, schema, assembler, max_bytes)
    except ValueError:
        return None
