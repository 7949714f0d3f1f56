"""Chunks are the records in their order, cut and put together; a parcel is what a worker would send."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import runtime
from penstock.engine import Plan
from penstock.errors import InferenceError
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.runners.pipeline import Chunk, Pipeline, Slice
from penstock.telemetry import Metrics
from penstock.testing import models

TOPOLOGY = """\
topology: table
sources: {items: {topic: items, schema: item.avsc}}
nodes: {price: {kind: model, model: table@1, inputs: {x: item}}}
sinks:
  prices: {topic: prices, fields: {item: item, price: price}}
  keyed: {topic: keyed, key: item, fields: {price: price}}
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("table")
    (folder / "item.avsc").write_text(json.dumps({"type": "record", "name": "Item", "fields": [{"name": "item", "type": "long"}]}))
    (folder / "table.yaml").write_text(TOPOLOGY)
    DirectoryRegistry(folder / "models").publish("table", models.gather([1, 2, 3]))
    return runtime.prepare(runtime.load(folder / "table.yaml", models=folder / "models", schemas=Path(folder)))


@pytest.fixture(scope="module")
def pipeline(plan: Plan) -> Callable[[int], Pipeline]:
    """A pipeline with so many rows a chunk, whose keyed sink has two partitions, by the key's parity."""
    return lambda rows: Pipeline(plan, "items", chunk_rows=rows, partition_for=lambda topic, key: int(key or b"0") % 2)


def slices(sizes: list[int]) -> list[Slice]:
    """One slice a partition; a record's offset is its number in its partition, its timestamp its number overall."""
    made, number = [], 0
    for partition, size in enumerate(sizes):
        records = [Record("items", b'{"item":%d}' % (n % 3), b"k%d" % n, (), number + n, partition, n) for n in range(size)]
        made.append(Slice("items", partition, records))
        number += size
    return made


@given(st.lists(st.integers(0, 20), max_size=8), st.integers(1, 9))
@settings(deadline=None)
def test_chunks_are_the_records_in_their_order_and_no_larger_than_allowed(
    pipeline: Callable[[int], Pipeline], sizes: list[int], limit: int
) -> None:
    chunks = list(pipeline(limit).chunks(slices(sizes)))
    assert [record.timestamp for chunk in chunks for one in chunk.slices for record in one.records] == list(range(sum(sizes)))
    for chunk in chunks:
        assert chunk.rows == sum(len(one.records) for one in chunk.slices) <= limit
        assert all(record.partition == one.partition for one in chunk.slices for record in one.records if isinstance(record, Record))
    # Only as many chunks as needed: two that stand side by side never fit into one.
    pieces = [[len(one.records) for one in chunk.slices] for chunk in chunks]
    assert all(sum(left) + right[0] > limit for left, right in pairwise(pieces) if right[0])


def outputs(made: Pipeline, given: list[Slice]) -> dict[tuple[str, int], list[tuple[int, bytes | None, bytes | None]]]:
    """Everything the pipeline sends: timestamp, key and value of each record, by topic and partition."""
    sent: dict[tuple[str, int], list[tuple[int, bytes | None, bytes | None]]] = {}
    for chunk in made.chunks(given):
        for parcel in made.process(chunk):
            sent.setdefault((parcel.topic, parcel.partition), []).extend(
                (timestamp, key, value) for timestamp, key, value, _ in parcel.records
            )
    return sent


@given(st.lists(st.integers(0, 12), max_size=5), st.integers(1, 9))
@settings(deadline=None)
def test_how_records_are_cut_shows_in_no_output(pipeline: Callable[[int], Pipeline], sizes: list[int], limit: int) -> None:
    assert outputs(pipeline(limit), slices(sizes)) == outputs(pipeline(10_000), slices(sizes))


def test_outputs_keep_partition_key_and_timestamp(pipeline: Callable[[int], Pipeline]) -> None:
    sent = outputs(pipeline(100), slices([2, 1]))
    assert sent["prices", 0] == [(0, b"k0", b'{"item":0,"price":1.0}'), (1, b"k1", b'{"item":1,"price":2.0}')]
    assert sent["prices", 1] == [(2, b"k0", b'{"item":0,"price":1.0}')]


def test_sink_with_a_key_has_its_own_partitions(pipeline: Callable[[int], Pipeline]) -> None:
    sent = outputs(pipeline(100), slices([3, 3]))
    assert [key for _, key, _ in sent["keyed", 0]] == [b"0", b"2", b"0", b"2"]
    assert [(at, key) for at, key, _ in sent["keyed", 1]] == [(1, b"1"), (4, b"1")]


def test_bad_record_goes_to_the_dead_letters_of_its_own_partition(pipeline: Callable[[int], Pipeline]) -> None:
    given = slices([2, 2])
    given[1].records[0:1] = [Record("items", b'{"item":9}', b"bad", (), 7, 1, 0)]  # type: ignore[index]  # a list, made above
    sent = outputs(pipeline(100), given)
    assert sent["items.dead-letter", 1] == [(7, b"bad", b'{"item":9}')]
    assert ("items.dead-letter", 0) not in sent
    assert [at for at, _, _ in sent["prices", 1]] == [3]


def test_without_isolation_nothing_is_done(pipeline: Callable[[int], Pipeline]) -> None:
    """The caller tries again elsewhere, so there must be no half of it already."""
    chunk = Chunk((Slice("items", 0, [Record("items", b'{"item":0}'), Record("items", b'{"item":9}')]),), 2)
    with pytest.raises(InferenceError):
        pipeline(100).process(chunk, isolate=False)


def test_time_of_each_step_is_counted(plan: Plan) -> None:
    metrics = Metrics()
    made = Pipeline(plan, "items", partition_for=lambda topic, key: 0, metrics=metrics)
    outputs(made, slices([5]))
    assert min(metrics.decode_seconds.value, metrics.execute_seconds.value, metrics.encode_seconds.value) > 0
