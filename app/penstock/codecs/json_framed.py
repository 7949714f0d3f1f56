"""JSON behind a frame that names its JSON Schema (`json-confluent`), as Confluent's and Apicurio's serializers write it.

The frame is checked and passed over: what the events hold is described by the source's own schema, as in plain JSON.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock.batch import Batch
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
        return batch.placed(rows, errors) if errors else batch
