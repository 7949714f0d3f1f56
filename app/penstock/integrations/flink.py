"""A topology on Apache Flink: tables are scored in batches of Arrow, and streams from Kafka to Kafka as a worker scores them.

    scored = flink.score(flights, "topologies/flights.yaml")     # a Table: the fields of the sink, and `failure`
    result = flink.stream(tables, "topologies/flights.yaml", brokers="localhost:9092")

The program that submits a job pins the topology (`pinned`). A Python process of a task manager opens it once for all its functions. Flink
gives it the rows of a bundle together, and ends the bundle before each checkpoint: nothing is held here, so there is no state.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pyflink.table import DataTypes
from pyflink.table.types import from_arrow_type, to_arrow_type
from pyflink.table.udf import ScalarFunction, udf

from penstock.integrations.pinned import Live, Pinned, opened, pin
from penstock.record import Record

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from pyflink.table import StreamTableEnvironment, Table, TableResult

__all__ = ["RECORDS", "answers", "score", "stream"]

# What `answers` reads: the columns of Flink's Kafka table, in this order. The time is in ms since the epoch; the headers
# are two arrays, since no map with keys that can be null passes between Flink and Python.
RECORDS: Final = ("topic", "partition", "offset", "stamp", "key", "value", "names", "texts")
WRITTEN: Final = "topic STRING, stamp BIGINT, key BYTES, value BYTES, headers MAP<STRING, BYTES>"

_live: dict[bytes, Live] = {}  # by the packed topology: one for all functions of a process, which are called by several threads
_lock = threading.Lock()


def score(table: Table, topology: str | Path | Pinned, *, source: str | None = None, keep: Iterable[str] = (), **where: Any) -> Table:
    """Returns the answers to the rows of a Table, a row for each: the fields of the sink, and `failure`, the reason why it failed.

    Columns are fields by name, as in `Scorer.score_table`. The columns `keep` of the table precede the answer. `where` are the arguments of
    `pin`. A batch is scored with one generation. Raises what `pin` raises, and ValueError for a kept column with the name of a field of the
    sink.
    """
    import pyarrow as pa

    pinned = topology if isinstance(topology, Pinned) else pin(topology, **where)
    schema = table.get_resolved_schema()
    given = [*zip(schema.get_column_names(), map(to_arrow_type, schema.get_column_data_types()), strict=True)]
    function = _Score(pinned.pack(), given, [*keep], source)
    made = function.answered(opened(pinned.pack()).scorer, pa.RecordBatch.from_pylist([], schema=pa.schema(given)))
    fields = [DataTypes.FIELD(one.name, from_arrow_type(one.type)) for one in made.schema]
    return table.map(udf(function, result_type=DataTypes.ROW(fields), func_type="pandas"))


def answers(tables: StreamTableEnvironment, records: Table, topology: Pinned) -> Table:
    """Returns what a worker would write for records of the sources' topics: outputs and dead letters, with the columns `WRITTEN`.

    `records` has the columns RECORDS.
    """
    many = [
        DataTypes.FIELD("places", DataTypes.ARRAY(DataTypes.INT())),
        DataTypes.FIELD("topics", DataTypes.ARRAY(DataTypes.STRING())),
        DataTypes.FIELD("stamps", DataTypes.ARRAY(DataTypes.BIGINT())),
        DataTypes.FIELD("keys", DataTypes.ARRAY(DataTypes.BYTES())),
        DataTypes.FIELD("values", DataTypes.ARRAY(DataTypes.BYTES())),
        DataTypes.FIELD("names", DataTypes.ARRAY(DataTypes.ARRAY(DataTypes.STRING()))),
        DataTypes.FIELD("texts", DataTypes.ARRAY(DataTypes.ARRAY(DataTypes.BYTES()))),
    ]
    made = records.map(udf(_Answer(topology.pack()), result_type=DataTypes.ROW(many), func_type="pandas"))
    tables.create_temporary_view("penstock_answers", made)
    return tables.sql_query(
        "SELECT topics[i] AS topic, stamps[i] AS stamp, `keys`[i] AS `key`, `values`[i] AS `value`, "
        "MAP_FROM_ARRAYS(names[i], texts[i]) AS headers "
        "FROM penstock_answers CROSS JOIN UNNEST(places) AS place(i)"
    )


def stream(
    tables: StreamTableEnvironment,
    topology: str | Path,
    *,
    brokers: str,
    group: str,
    options: Mapping[str, str] | None = None,
    sink_options: Mapping[str, str] | None = None,
    **where: Any,
) -> TableResult:
    """Submits a job that reads the topics of the sources, and writes those of the sinks and of the dead letters. At least once.

    `group` is the consumer group whose offsets Flink commits. `options` are further ones of its Kafka table that reads, `sink_options` of
    the one that writes: {"sink.delivery-guarantee": "exactly-once", "sink.transactional-id-prefix": ...}. `where` are the arguments of
    `pin`: with `follow`, each process of a task manager follows the control log, and a batch of records is scored with one generation.
    Raises what `pin` raises.
    """
    pinned = pin(topology, **where)
    of = opened(pinned.pack()).topology
    written = dict.fromkeys([*(one.topic for one in of.sinks), *(one.dead_letter for one in of.sources)])
    kafka = {"connector": "kafka", "properties.bootstrap.servers": brokers, "key.format": "raw", "value.format": "raw"}
    kafka |= {"key.fields": "key", "value.fields-include": "EXCEPT_KEY"}
    read = {"properties.group.id": group, "scan.startup.mode": "group-offsets", "properties.auto.offset.reset": "earliest"}
    metadata = "`topic` STRING METADATA, `headers` MAP<STRING, BYTES> METADATA, `timestamp` TIMESTAMP_LTZ(3) METADATA"
    place = "`partition` INT METADATA VIRTUAL, `offset` BIGINT METADATA VIRTUAL"
    _create(
        tables,
        "penstock_in",
        f"{metadata}, {place}",
        {**kafka, "topic": ";".join(one.topic for one in of.sources), **read, **(options or {})},
    )
    _create(tables, "penstock_out", metadata, {**kafka, "topic": ";".join(written), **(sink_options or {})})
    records = tables.sql_query(
        "SELECT topic, `partition`, `offset`, "
        "EXTRACT(EPOCH FROM `timestamp`) * 1000 + MOD(EXTRACT(MILLISECOND FROM `timestamp`), 1000) AS stamp, "
        "`key`, `value`, MAP_KEYS(headers) AS names, MAP_VALUES(headers) AS texts FROM penstock_in"
    )
    tables.create_temporary_view("penstock_written", answers(tables, records, pinned))
    return tables.execute_sql(
        "INSERT INTO penstock_out SELECT `key`, `value`, topic, headers, TO_TIMESTAMP_LTZ(stamp, 3) FROM penstock_written"
    )


def _create(tables: StreamTableEnvironment, name: str, columns: str, options: Mapping[str, str]) -> None:
    listed = ", ".join(f"'{one}' = '{value.replace(chr(39), chr(39) * 2)}'" for one, value in options.items())
    tables.execute_sql(f"CREATE TEMPORARY TABLE {name} (`key` BYTES, `value` BYTES, {columns}) WITH ({listed})")


class _Function(ScalarFunction):  # type: ignore[misc]  # PyFlink ships no types
    """A function of a job, which Flink sends to its processes with the packed topology."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed

    def open(self, _context: Any) -> None:
        """Opens the topology, where no other function of this process has."""
        with _lock:
            if self._packed not in _live:
                _live[self._packed] = Live(self._packed)


class _Score(_Function):
    def __init__(self, packed: bytes, given: list[tuple[str, pa.DataType]], keep: list[str], source: str | None) -> None:
        super().__init__(packed)
        self._given, self._keep, self._source = given, keep, source

    def eval(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Returns the answers to the rows."""
        import pyarrow as pa

        columns = [pa.Array.from_pandas(frame.iloc[:, at], type=kind) for at, (_, kind) in enumerate(self._given)]
        batch = pa.RecordBatch.from_arrays(columns, names=[name for name, _ in self._given])
        return _frame(self.answered(_live[self._packed].scorer, batch))

    def answered(self, scorer: Any, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Returns the kept columns and the answers."""
        made = scorer.score_table(batch, source=self._source)
        if twice := {*self._keep} & {*made.schema.names}:
            raise ValueError(f"the answer has a column {', '.join(sorted(twice))} itself: keep a copy of another name, or do not keep it")
        return type(made).from_arrays([*map(batch.column, self._keep), *made.columns], names=[*self._keep, *made.schema.names])


def _frame(batch: pa.RecordBatch) -> pd.DataFrame:
    """Returns the batch in the types of pandas that PyFlink reads: text as objects, which pandas 3 has another type for."""
    import pandas as pd
    import pyarrow as pa

    made = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        plain = pa.types.is_floating(column.type) or (pa.types.is_primitive(column.type) and not column.null_count)
        made[name] = pd.Series(column.to_numpy(zero_copy_only=False)) if plain else pd.Series(column.to_pylist(), dtype=object)
    return pd.DataFrame(made)


class _Answer(_Function):
    def eval(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Returns what is written for the records: all of it in the first row, since a function has as many rows as it is given."""
        import pandas as pd

        columns = [frame.iloc[:, at].tolist() for at in range(len(RECORDS))]
        records = [
            Record(topic, value, key, () if names is None else [*zip(names, texts, strict=True)], stamp, partition, offset)
            for topic, partition, offset, stamp, key, value, names, texts in zip(*columns, strict=True)
        ]
        made = _live[self._packed].answers(records)
        first = {
            "places": [*range(1, len(made) + 1)],
            "topics": [one.topic for one in made],
            "stamps": [one.timestamp for one in made],
            "keys": [one.key for one in made],
            "values": [one.value for one in made],
            "names": [[*dict(one.headers)] for one in made],
            "texts": [[*dict(one.headers).values()] for one in made],
        }
        return pd.DataFrame({name: pd.Series([values, *([[]] * (len(records) - 1))], dtype=object) for name, values in first.items()})
