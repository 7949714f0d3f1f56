"""Chunks are the records in their order, cut and put together; a parcel is what a worker would send."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import runtime
from penstock.batch import Table
from penstock.errors import DecodeError, InferenceError
from penstock.pipeline import Chunk, Pipeline, Program
from penstock.pipeline.letters import Address, dead_letters
from penstock.record import Record, RecordLike
from penstock.registry.directory import DirectoryRegistry
from penstock.telemetry import Metrics
from penstock.testing import models
from penstock.transports.kafka.sink import pack
from penstock.transports.memory import Memory, MemorySink
from penstock.transports.tracker import Partition

TOPOLOGY = """\
topology: table
sources: {items: {topic: items, schema: item.avsc}}
nodes: {price: {kind: model, model: table@1, inputs: {x: item}}}
sinks:
  prices: {topic: prices, fields: {item: item, price: price}}
  keyed: {topic: keyed, key: item, fields: {price: price}}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = tmp_path_factory.mktemp("table")
    (folder / "item.avsc").write_text(json.dumps({"type": "record", "name": "Item", "fields": [{"name": "item", "type": "long"}]}))
    (folder / "table.yaml").write_text(TOPOLOGY)
    DirectoryRegistry(folder / "models").publish("table", models.gather([1, 2, 3]))
    return runtime.prepare(runtime.load(folder / "table.yaml", models=folder / "models", schemas=Path(folder)))


class ByParity(MemorySink):
    """A key's partition is its parity."""

    def partition_for(self, topic: str, key: bytes | None) -> int:
        return int(key or b"0") % 2


Given = list[tuple[Partition, Sequence[RecordLike]]]


@pytest.fixture(scope="module")
def pipeline(program: Program) -> Callable[[int], Pipeline]:
    """A pipeline with so many rows a chunk, whose keyed sink has two partitions, by the key's parity."""
    return lambda rows: Pipeline(program, "items", chunk_rows=rows, sink=ByParity(Memory(64)))


def spans(sizes: list[int]) -> Given:
    """The records of one span per partition; a record's offset is its number in its partition, its timestamp its number overall."""
    made: Given = []
    number = 0
    for partition, size in enumerate(sizes):
        records = [Record("items", b'{"item":%d}' % (n % 3), b"k%d" % n, (), number + n, partition, n) for n in range(size)]
        made.append((("items", partition), records))
        number += size
    return made


@given(st.lists(st.integers(0, 20), max_size=8), st.integers(1, 9))
def test_chunks_are_the_records_in_their_order_and_no_larger_than_allowed(
    pipeline: Callable[[int], Pipeline], sizes: list[int], limit: int
) -> None:
    chunks = list(pipeline(limit).chunks(spans(sizes)))
    assert [record.timestamp for chunk in chunks for record in chunk.records] == list(range(sum(sizes)))
    for chunk in chunks:
        assert chunk.rows == sum(count for _, _, count in chunk.places) <= limit
        partitions = [partition for _, partition, count in chunk.places for _ in range(count)]
        assert partitions == [record.partition for record in chunk.records if isinstance(record, Record)]
    # Only as many chunks as needed: two that stand side by side never fit into one.
    pieces = [[count for _, _, count in chunk.places] for chunk in chunks]
    assert all(sum(left) + right[0] > limit for left, right in pairwise(pieces) if right[0])


def outputs(made: Pipeline, given: Given) -> dict[tuple[str, int], list[tuple[int, bytes | None, bytes | None]]]:
    """Everything the pipeline sends: timestamp, key and value of each record, by topic and partition."""
    sent: dict[tuple[str, int], list[tuple[int, bytes | None, bytes | None]]] = {}
    for chunk in made.chunks(given):
        for parcel in made.process(chunk):
            sent.setdefault((parcel.topic, parcel.partition), []).extend(
                (timestamp, key, value) for timestamp, key, value, _ in parcel.records
            )
    return sent


@given(st.lists(st.integers(0, 12), max_size=5), st.integers(1, 9))
def test_how_records_are_cut_shows_in_no_output(pipeline: Callable[[int], Pipeline], sizes: list[int], limit: int) -> None:
    assert outputs(pipeline(limit), spans(sizes)) == outputs(pipeline(10_000), spans(sizes))


def test_outputs_keep_partition_key_and_timestamp(pipeline: Callable[[int], Pipeline]) -> None:
    sent = outputs(pipeline(100), spans([2, 1]))
    assert sent["prices", 0] == [(0, b"k0", b'{"item":0,"price":1.0}'), (1, b"k1", b'{"item":1,"price":2.0}')]
    assert sent["prices", 1] == [(2, b"k0", b'{"item":0,"price":1.0}')]


def test_sink_with_a_key_has_its_own_partitions(pipeline: Callable[[int], Pipeline]) -> None:
    sent = outputs(pipeline(100), spans([3, 3]))
    assert [key for _, key, _ in sent["keyed", 0]] == [b"0", b"2", b"0", b"2"]
    assert [(at, key) for at, key, _ in sent["keyed", 1]] == [(1, b"1"), (4, b"1")]


def test_bad_record_goes_to_the_dead_letters_of_its_own_partition(pipeline: Callable[[int], Pipeline]) -> None:
    given = spans([2, 2])
    given[1] = (("items", 1), [Record("items", b'{"item":9}', b"bad", (), 7, 1, 0), given[1][1][1]])
    sent = outputs(pipeline(100), given)
    assert sent["items.dead-letter", 1] == [(7, b"bad", b'{"item":9}')]
    assert ("items.dead-letter", 0) not in sent
    assert [at for at, _, _ in sent["prices", 1]] == [3]


CHAIN = """\
topology: chain
sources: {items: {topic: items, schema: item.avsc}}
nodes:
  first: {kind: model, model: first@1, inputs: {x: item}}
  last: {kind: model, model: last@1, inputs: {x: first}}
sinks: {answers: {topic: answers, fields: {one: first, two: last}}, more: {topic: more, fields: {item: item, two: last}}}
"""


def test_number_that_is_not_finite_is_a_failure_of_the_node_that_computed_it(tmp_path: Path) -> None:
    """Once per row, in the dead letter and in the count; a row that more nodes fail names them."""
    (tmp_path / "item.avsc").write_text(json.dumps({"type": "record", "name": "Item", "fields": [{"name": "item", "type": "double"}]}))
    (tmp_path / "chain.yaml").write_text(CHAIN)
    registry = DirectoryRegistry(tmp_path / "models")
    registry.publish("first", models.up_to(100.0, 1.0))
    registry.publish("last", models.up_to(10.0, 1.0))
    chain = runtime.prepare(runtime.load(tmp_path / "chain.yaml", models=tmp_path / "models", schemas=tmp_path))
    metrics = Metrics()
    records = [Record("items", json.dumps({"item": x}).encode(), offset=at) for at, x in enumerate([1.0, 50.0, 500.0, 5.0])]
    parcels = Pipeline(chain, "items", sink=MemorySink(Memory(1)), metrics=metrics).process(Chunk(records, (("items", 0, 4),)))
    (letters,) = [one for one in parcels if one.dead]
    found = [dict(headers) for headers in letters.extra or ()]
    assert [one["penstock-node"] for one in found] == [one["penstock-stage"] for one in found] == [b"last", b"first"]
    assert [one["__streams.errors.message"] for one in found] == [
        b"field 'two' is not a finite number",
        b"field 'one' is not a finite number; nor is an output of last",
    ]
    assert {name: metrics.node(name, f"{name}@1").failures.value for name in ("first", "last")} == {"first": 1, "last": 1}


def test_second_try_goes_on_where_the_first_has_raised(pipeline: Callable[[int], Pipeline]) -> None:
    """The caller tries again where it may take longer: nothing is half done, and nothing is decoded twice."""
    made = pipeline(100)
    chunk = Chunk([Record("items", b'{"item":0}'), Record("items", b'{"item":9}', offset=1)], (("items", 0, 2),))
    passing = made.begin(chunk)
    decoded = passing.execution.batch
    with pytest.raises(InferenceError):
        made.complete(passing, isolate=False)
    assert passing.execution.batch is decoded
    parcels = {parcel.topic: list(parcel.values) for parcel in made.complete(passing)}
    assert parcels["prices"] == [b'{"item":0,"price":1.0}']
    assert parcels["items.dead-letter"] == [b'{"item":9}']


def test_output_that_is_too_large_for_its_topic_is_a_dead_letter_and_its_neighbours_are_sent(program: Program) -> None:
    small = MemorySink(Memory(), limits={"prices": 600})
    made = Pipeline(program, "items", sink=small)
    records = [Record("items", b'{"item":%d}' % n, b"k" * (400 if n == 1 else 1), offset=n) for n in range(3)]
    parcels = made.process(Chunk(records, (("items", 0, 3),)))
    sent = {parcel.topic: list(parcel.records) for parcel in parcels}
    assert [key for _, key, _, _ in sent["prices"]] == [b"k", b"k"]
    assert len(sent["keyed"]) == 3
    ((_, _, value, headers),) = sent["items.dead-letter"]
    assert value == b'{"item":1}'
    assert b"the output is larger than prices takes (600 bytes" in (dict(headers)["__streams.errors.message"] or b"")


@pytest.mark.parametrize("size", range(1240, 1400, 20))
def test_what_passes_as_small_enough_fits_into_a_batch_also_with_the_longest_topic_name(program: Program, size: int) -> None:
    """The input topic's name stands twice in an output's headers; a sink ends the worker for an output that no batch takes."""
    limit = 2000
    made = Pipeline(program, "items", sink=MemorySink(Memory(), limits=dict.fromkeys(("prices", "keyed"), limit)))
    records = [Record("", b'{"item":1}', b"k" * size, (), 0, 3, 10**18)]
    for parcel in made.process(Chunk(records, (("t" * 249, 3, 1),))):
        assert parcel.dead or len(pack(parcel.topic, [parcel], limit, "none")) == 1


def test_rows_that_are_columns_already_do_not_become_bytes_on_the_way(program: Program) -> None:
    """The last column cannot be written as JSON, and nothing tries to, since no row fails."""
    table = Table("items", {"item": np.arange(3), "other": np.array([object()] * 3, object)}, offset=40)
    made = Pipeline(program, "items", sink=ByParity(Memory(64)))
    (chunk,) = made.chunks([(("items", 0), table)])
    sent = {parcel.topic: parcel.records for parcel in made.process(chunk) if parcel.topic == "prices"}
    assert [(stamp, key, dict(headers)["penstock-id"]) for stamp, key, _, headers in sent["prices"]] == [
        (0, None, b"items:0:%d" % offset) for offset in (40, 41, 42)
    ]


def test_row_that_is_columns_already_has_a_dead_letter_in_json(program: Program) -> None:
    table = Table("items", {"item": np.array([9, 1])}, {"item": np.array([False, False])}, timestamps=np.array([5, 6]))
    parcels = Pipeline(program, "items", sink=ByParity(Memory(64))).process(Chunk(table, (("items", 0, 2),)))
    ((stamp, _, value, _),) = next(parcel.records for parcel in parcels if parcel.dead)
    assert (stamp, value) == (5, b'{"item":9}')


def test_dead_letter_does_not_repeat_an_id_that_is_half_of_its_record(program: Program) -> None:
    """Else a record that its own topic takes has a dead letter that no topic takes, and that ends the worker."""
    record = Record("items", b"[]", None, (), 0, 2, 7)
    letters = dead_letters(Address("dead", ()), ("items", 2), [(record, DecodeError("no"))] * 2, ["i" * 1024, "i" * 1025])
    assert [dict(headers)["penstock-id"] for _, _, _, headers in letters.records] == [b"i" * 1024, b"items:2:7"]


def test_event_without_an_id_field_is_known_by_its_position(pipeline: Callable[[int], Pipeline]) -> None:
    made = pipeline(100)
    parcels = [parcel for chunk in made.chunks(spans([1, 2])) for parcel in made.process(chunk) if parcel.topic == "prices"]
    ids = [dict(headers)["penstock-id"] for parcel in parcels for _, _, _, headers in parcel.records]
    assert ids == [b"items:0:0", b"items:1:0", b"items:1:1"]


def test_time_of_each_step_is_counted(program: Program) -> None:
    metrics = Metrics()
    made = Pipeline(program, "items", sink=MemorySink(Memory()), metrics=metrics)
    outputs(made, spans([5]))
    assert min(metrics.decode_seconds.value, metrics.execute_seconds.value, metrics.encode_seconds.value) > 0
