"""Envelopes: what wraps the events of a source, and where a change of a database names its operation.

Debezium writes a change as `before`, `after` and `op`, alone or under `payload`. Of a deletion and of a truncated table there is no row to
score. See https://debezium.io/documentation/reference/stable/connectors/postgresql.html (change events).
"""

from __future__ import annotations

from typing import Final

from penstock.schema import RAW, Schema
from penstock.topology.spec import Source

__all__ = ["GONE", "operation", "read_by"]

GONE: Final = frozenset({"d", "t"})  # operations that leave no row: delete, truncate
CERTAIN: Final = frozenset({"after", "payload", "payload.after"})  # not null in all others


def read_by(source: Source, schema: Schema | None, key: Schema | None) -> Schema | None:
    """Returns the schema of what the source's records hold, whose value and key have these; None without one."""
    found = RAW if source.format == "bytes" else schema
    certain = CERTAIN if source.envelope == "debezium" else frozenset()
    return None if found is None else found.in_records(key, certain, events=source.envelope == "cloudevents")


def operation(schema: Schema) -> str | None:
    """Returns the path of the field with a change's operation, None when the schema has no such field."""
    return next((path for path in ("op", "payload.op") if (field := schema.field(path)) is not None and field.dtype == "string"), None)
