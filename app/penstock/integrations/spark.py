"""A topology on Apache Spark: DataFrames are scored as tables of Arrow, and streams from Kafka to Kafka as a worker scores them.

    scored = spark.score(flights, "topologies/flights.yaml")       # a DataFrame: the fields of the sink, and `failure`
    query = spark.stream(session, "topologies/flights.yaml", brokers="localhost:9092", checkpoint="/data/flights")

The driver pins the topology (`pinned`). A Python process of an executor opens it once, and keeps it for its next tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from penstock.integrations.pinned import ANYWHERE, Live, Pinned, opened, pin
from penstock.record import Record

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming import StreamingQuery

__all__ = ["answers", "score", "stream"]

# What Spark's Kafka sink takes. Where the partition is null, Kafka's client chooses it by the key.
WRITTEN: Final = "topic string, partition int, key binary, value binary, headers array<struct<key: string, value: binary>>"

Run = Callable[[Iterable["pa.RecordBatch"]], Iterator["pa.RecordBatch"]]


def score(
    frame: DataFrame, topology: str | Path | Pinned, *, source: str | None = None, keep: Iterable[str] = (), **where: Any
) -> DataFrame:
    """Returns the answers to the rows of a DataFrame, a row for each: the fields of the sink, and `failure`, the reason why it failed.

    Columns are fields by name, as in `Scorer.score_table`. The columns `keep` of the frame precede the answer. `where` are the arguments of
    `pin`, which this call calls: the models are those of now, also for a streaming DataFrame. Raises what it raises, and ValueError for
    a kept column with the name of a field of the sink.
    """
    import pyarrow as pa
    from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

    packed = (topology if isinstance(topology, Pinned) else pin(topology, **where)).pack()
    run = _scoring(packed, source, [*keep])
    (empty,) = run([pa.RecordBatch.from_pylist([], schema=to_arrow_schema(frame.schema))])
    return frame.mapInArrow(run, from_arrow_schema(empty.schema))


def answers(records: DataFrame, topology: Pinned) -> DataFrame:
    """Returns what a worker would write for records of the sources' topics, as rows of Spark's Kafka sink: outputs, and dead letters.

    `records` has the columns of Spark's Kafka source; without `headers` (its option includeHeaders), records have none. Outputs have the
    partition of their record, or, where the sink sets the key, that of the key.
    """
    return records.mapInArrow(_answering(topology.pack()), WRITTEN)


def stream(
    session: SparkSession,
    topology: str | Path,
    *,
    brokers: str,
    checkpoint: str | Path,
    options: Mapping[str, str] | None = None,
    trigger: Mapping[str, Any] | None = None,
    **where: Any,
) -> StreamingQuery:
    """Starts a query that reads the topics of the sources, and writes those of the sinks and of the dead letters. At least once.

    `checkpoint` is where Spark keeps its offsets. `options` are further ones of its Kafka source and, those named `kafka.`, of the sink.
    `trigger` are the arguments of DataStreamWriter.trigger: {"availableNow": True} ends at the present end of the topics. `where` are the
    arguments of `pin`: with `follow`, this process follows the control log, and all tasks of a micro-batch score with the generation that
    was live here when it began. Raises what `pin` and `Live` raise.
    """
    packed = pin(topology, **where).pack()
    topics, live = [one.topic for one in opened(packed).topology.sources], Live(packed)
    kafka = {"kafka.bootstrap.servers": brokers, **(options or {})}
    written = {name: value for name, value in kafka.items() if name.startswith("kafka.")}

    def batch(frame: DataFrame, _number: int) -> None:
        answers(frame, live.now).write.format("kafka").options(**written).save()

    read = {"subscribe": ",".join(topics), "includeHeaders": "true", "startingOffsets": "earliest", **kafka}
    records = session.readStream.format("kafka").options(**read).load()
    writer = records.writeStream.foreachBatch(batch).option("checkpointLocation", str(checkpoint))
    return (writer.trigger(**trigger) if trigger else writer).start()


def _scoring(packed: bytes, source: str | None, keep: list[str]) -> Run:
    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        scorer = opened(packed).scorer
        for batch in batches:
            made = scorer.score_table(batch, source=source)
            if twice := {*keep} & {*made.schema.names}:
                raise ValueError(
                    f"the answer has a column {', '.join(sorted(twice))} itself: keep a copy of another name, or do not keep it"
                )
            yield pa.RecordBatch.from_arrays([*map(batch.column, keep), *made.columns], names=[*keep, *made.schema.names])

    return run


def _answering(packed: bytes) -> Run:
    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        here = opened(packed)
        for batch in batches:
            yield _rows(here.answers(_records(batch)))

    return run


def _records(batch: pa.RecordBatch) -> list[Record]:
    """Returns the rows of Spark's Kafka source as records."""
    import pyarrow as pa

    stamps = batch.column("timestamp").cast(pa.timestamp("ms", batch.schema.field("timestamp").type.tz), safe=False).cast(pa.int64())
    names = ("topic", "value", "key", "partition", "offset")
    topics, values, keys, partitions, offsets = (batch.column(name).to_pylist() for name in names)
    found = batch.column("headers") if "headers" in batch.schema.names else None
    if found is None or found.null_count == len(found):
        headers: list[Any] = [()] * len(topics)
    else:
        headers = [[(one["key"], one["value"]) for one in of or ()] for of in found.to_pylist()]
    return [*map(Record, topics, values, keys, headers, stamps.to_pylist(), partitions, offsets)]


def _rows(records: list[Record]) -> pa.RecordBatch:
    """Returns records as rows of Spark's Kafka sink."""
    import pyarrow as pa

    header = pa.struct([("key", pa.string()), ("value", pa.binary())])
    columns = {
        "topic": pa.array([one.topic for one in records], pa.string()),
        "partition": pa.array([None if one.partition == ANYWHERE else one.partition for one in records], pa.int32()),
        "key": pa.array([one.key for one in records], pa.binary()),
        "value": pa.array([one.value for one in records], pa.binary()),
        "headers": pa.array([[{"key": name, "value": value} for name, value in one.headers] for one in records], pa.list_(header)),
    }
    return pa.RecordBatch.from_pydict(columns)
