"""Batch: rows as named columns, the number each row had when it came in, and the Failure of each row that fell out.

A failed row is data. It leaves the columns at once, so that no later step sees it, and rides along in
`failures` until the pipeline writes its dead letter; the rows beside it never notice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.errors import RecordError

__all__ = ["Array", "Batch", "Failure"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """Row `row` of the incoming records cannot go on, because of `error`."""

    row: int
    error: RecordError


@dataclass(frozen=True, slots=True)
class Batch:
    """`size` live rows as named columns, each an array whose first axis is the rows.

    `rows` gives the incoming row number of each live row, ascending; None means that none has failed and
    row i came in as row i. `failures` holds the others. Together they are exactly the rows that came in.
    """

    size: int
    columns: Mapping[str, Array] = field(default_factory=dict)
    rows: Array | None = None
    failures: tuple[Failure, ...] = ()

    def with_columns(self, columns: Mapping[str, Array]) -> Batch:
        """The same rows with more columns."""
        return Batch(self.size, {**self.columns, **columns}, self.rows, self.failures)

    def take(self, keep: Array) -> Batch:
        """Only the live rows at the positions `keep` (ascending integers). Failures ride along."""
        rows = np.arange(self.size) if self.rows is None else self.rows
        return Batch(
            size=len(keep),
            columns={name: column[keep] for name, column in self.columns.items()},
            rows=rows[keep],
            failures=self.failures,
        )

    def fail(self, errors: Mapping[int, RecordError]) -> Batch:
        """Without the live rows at the positions in `errors`; each becomes a Failure."""
        if not errors:
            return self
        numbers: Iterable[int] = range(self.size) if self.rows is None else self.rows.tolist()
        number = list(numbers)
        keep = np.array([i for i in range(self.size) if i not in errors], dtype=np.intp)
        failed = tuple(Failure(number[i], errors[i]) for i in sorted(errors))
        return replace(self.take(keep), failures=self.failures + failed)
