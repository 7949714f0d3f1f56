"""JSON behind a frame that names its JSON Schema (`json-confluent`), as Confluent's and Apicurio's serializers write it.

The frame is checked and passed over: what the events hold is described by the source's own schema, as in plain JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import numpy as np
from msgspec import structs

from penstock.batch import Batch, Failure
from penstock.codecs.framing import frame_in
from penstock.codecs.json import JsonDecoder
from penstock.errors import DecodeError, RecordError

__all__ = ["FramedJsonDecoder"]


class FramedJsonDecoder:
    """Decodes values by `inner` without their frames."""

    def __init__(self, inner: JsonDecoder) -> None:
        self._inner = inner
        self.spread = inner.spread

    def decode(self, values: Sequence[bytes | None]) -> Batch:
        """Returns the values as columns, and a Failure per value without frame or event. Never raises for what is in a value."""
        bodies: list[bytes | None] = []
        rows: list[int] = []
        errors: dict[int, RecordError] = {}
        for row, value in enumerate(values):
            try:
                bodies.append(None if value is None else value[len(frame_in(value)) :])
                rows.append(row)
            except DecodeError as error:
                errors[row] = error
        batch = self._inner.decode(bodies)
        if not errors:
            return batch
        number = np.array(rows, np.int64)
        failures = [Failure(rows[one.row], one.error) for one in batch.failures] + [Failure(row, error) for row, error in errors.items()]
        good = number if batch.rows is None else number[batch.rows]
        return structs.replace(batch, rows=good, failures=tuple(sorted(failures, key=attrgetter("row"))))
