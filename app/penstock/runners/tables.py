"""The tables of a run over an input that has an end: read whole before it, from files, or from their topics to the end that these have."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from penstock.errors import ConfigError, Problem, SettingsError
from penstock.pipeline.tables import TableReader
from penstock.record import RecordLike
from penstock.runners.files import inputs_of, tables_of
from penstock.runtime import Loaded, readers
from penstock.settings import Settings
from penstock.state import Rows
from penstock.telemetry import Metrics
from penstock.topology.names import did_you_mean
from penstock.topology.tables import columns_of
from penstock.topology.wiring import Input, Stage
from penstock.transports.files import FileSource
from penstock.transports.files import Input as File
from penstock.transports.files.places import place

__all__ = ["read_tables"]

TOGETHER = 65_536  # rows


def read_tables(loaded: Loaded, files: Mapping[str, str], settings: Settings) -> dict[str, Rows]:
    """Returns the rows of each table that lookups read, by name: of its `files`, else of its topic. Blocks.

    Raises ConfigError for files that are no table's, or cannot be read, and for a row that the schema does not allow; SettingsError
    without brokers, TransportError.
    """
    found = readers(loaded)
    for name in files:
        if name not in found:
            raise ConfigError(
                Problem(loaded.topology.file, 0, 0, f"--table {name}: no lookup reads such a table", did_you_mean(name, found))
            )
    for table in (found[name].table for name in files):
        what = fix = ""
        if not table.key or all(loaded.tables[table.name].is_beside(name) for name in table.key):
            what, fix = "its key is that of its records, which files do not have", "name the fields of its key: key: FIELD"
        elif table.history_ms and table.time is None:
            what, fix = "it has a history by the times of its records, which files do not have", "name the field of its time: time: FIELD"
        if what:
            mark = table.mark
            message = f"tables.{table.name}: {what}"
            raise ConfigError(Problem(loaded.topology.file, mark.line, mark.column, message, f"{fix}; or leave out --table {table.name}"))
    for name, path in files.items():
        asyncio.run(_of_files(loaded, found[name], path))
    if rest := {name: one for name, one in found.items() if name not in files}:
        if not settings.brokers:
            name = next(iter(rest))
            raise SettingsError(f"the table {name} is not here: give --table {name}=FILES, or --brokers to read {rest[name].table.topic}")
        asyncio.run(_of_topics(rest, settings))
    return {name: one.rows for name, one in found.items()}


async def _of_files(loaded: Loaded, reader: TableReader, path: str) -> None:
    table = reader.table
    stage = Stage(table.name, (Input(table, columns_of(table, loaded.tables[table.name])),), (), ())
    format, files = inputs_of(path, place(path))
    described = replace(loaded, schemas={**loaded.schemas, **loaded.tables})
    columns = tables_of(described, stage, format, {number: str(one) for number, (one, _) in enumerate(files)})
    inputs = [File(number, one, size) for number, (one, size) in enumerate(files)]
    source = FileSource(inputs, table.topic, format, tables=columns)
    try:
        while spans := await source.take(TOGETHER):
            for span in spans:
                _apply(reader, span.records, str(files[span.partition[1]][0]))
    finally:
        source.close()


def _apply(reader: TableReader, records: Sequence[RecordLike], name: str) -> None:
    for strange in reader.apply(records):
        what = f"row {strange.record.offset} is no row of the table {reader.table.name}: {strange.reason}"
        raise ConfigError(Problem(name, 0, 0, what, "correct it, or leave it out"))


async def _of_topics(found: Mapping[str, TableReader], settings: Settings) -> None:
    from penstock.transports.kafka.connection import Admin
    from penstock.transports.kafka.tables import Tables

    topics = {name: one.table.topic for name, one in found.items()}
    counts = Admin(settings).require(topics.values())
    tables = Tables(settings, found, topics, lock=asyncio.Lock(), partitions=counts.__getitem__, metrics=Metrics())
    following = asyncio.ensure_future(tables.follow())
    try:
        await tables.caught_up(lambda: not following.done())
    finally:
        following.cancel()
        await asyncio.wait({following})
    if not following.cancelled():
        following.result()
