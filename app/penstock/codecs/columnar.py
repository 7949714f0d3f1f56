"""Outputs that stay columns, for sinks that write columns: the same checks as of every format, and no bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from penstock.batch import Array
from penstock.codecs.outputs import Outputs
from penstock.errors import EncodeError, RecordError
from penstock.parcel import Columns
from penstock.schema import Schema
from penstock.signature import Tensor

__all__ = ["ColumnEncoder"]


class ColumnEncoder:
    """Passes rows on as columns, by the names of the fields. A row that other formats refuse is refused here too."""

    def __init__(self, fields: Sequence[Tensor], schema: Schema | None = None) -> None:
        self._outputs = Outputs(fields, schema)
        self._names = [field.name for field in fields]
        self._texts = [at for at, field in enumerate(fields) if field.dtype == "string"]

    def encode(self, columns: Sequence[Array]) -> tuple[Columns, Mapping[int, RecordError]]:
        """Returns the rows as `Columns`. A row with a non-finite number or a bad string has an EncodeError."""
        errors = self._outputs.check(columns)
        for at in self._texts:
            try:
                "".join([one or "" for one in columns[at].ravel().tolist()]).encode()
            except (UnicodeEncodeError, TypeError):  # TypeError: rows with texts of different numbers
                _note(columns[at], errors)
        return Columns(len(columns[0]), dict(zip(self._names, columns, strict=True))), errors


def _note(column: Array, errors: dict[int, RecordError]) -> None:
    for row, texts in enumerate(column):
        try:
            for text in np.asarray(texts, object).ravel().tolist():
                (text or "").encode()
        except UnicodeEncodeError as error:
            errors.setdefault(row, EncodeError(f"a string is not valid Unicode: {error.reason}"))
