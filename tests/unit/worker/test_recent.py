"""What a worker keeps of the rows that it scores is real and bounded, and a fast stream pays little for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.engine.observe import Observers
from penstock.pipeline import Chunk, Pipeline, Program
from penstock.testing import models
from penstock.transports.memory import Memory, MemorySink
from penstock.worker.recent import PART, PAUSE, QUEUE, ROOM, Recent, Watched
from tests.unit.worker.conftest import STAGE, Make, chunk, reading

Process = Callable[[Chunk], object]


@pytest.fixture
def program(make: Make) -> Program:
    return make(models.up_to(100.0))[1]


def processing(program: Program, recent: Recent, generation: int = 0) -> Process:
    sink = MemorySink(Memory(1))
    return Pipeline(program, STAGE, sink=sink, generation=generation, observers=Observers([recent])).process


def offsets(recent: Recent) -> list[int]:
    return [record.offset for part in recent.kept().get(STAGE, []) for record in part.chunk.records]


def test_rows_that_were_scored_are_kept_with_their_outputs(program: Program) -> None:
    recent = Recent(10)
    xs = [
        reading(at, x, partition)
        for at, x, partition in [(7, 1.0, 0), (8, None, 0), (9, 3.0, 0), (70, 500.0, 1), (71, 4.0, 1), (5, 5.0, 2)]
    ]
    processing(program, recent, generation=3)(Chunk(xs, (("readings", 0, 3), ("readings", 1, 2), ("readings", 2, 1))))
    (part,) = recent.kept()[STAGE]
    assert [str(part.chunk.position(row)) for row in range(4)] == ["readings:0:7", "readings:0:9", "readings:1:71", "readings:2:5"]
    assert part.generation == 3
    assert part.outputs["y"].ravel().tolist() == [2.0, 6.0, 8.0, 10.0]
    assert recent.kept(3) == recent.kept()
    assert recent.kept(4) == {}


def test_every_row_is_kept_until_it_is_full_and_then_parts_by_the_clock(program: Program) -> None:
    now = 0.0
    recent = Recent(300, clock=lambda: now)
    process = processing(program, recent)
    process(chunk([1.0] * 250))
    process(chunk([1.0] * 250, start=250))
    assert len(offsets(recent)) == 300
    process(chunk([1.0] * 250, start=1000))
    full = offsets(recent)
    assert sum(offset >= 1000 for offset in full) == PART
    process(chunk([1.0] * 250, start=2000))
    assert offsets(recent) == full, "within the pause nothing is taken"
    now += PAUSE
    process(chunk([1.0] * 250, start=2000))
    assert sum(offset >= 2000 for offset in offsets(recent)) == PART
    assert len(offsets(recent)) <= 300


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(chunks=st.lists(st.lists(st.sampled_from([1.0, 500.0, None]), min_size=1, max_size=80), max_size=20), most=st.integers(1, 100))
def test_rows_and_bytes_are_bounded_and_only_scored_rows_are_there(program: Program, chunks: list[list[float | None]], most: int) -> None:
    """With a clock that never makes it wait."""
    recent = Recent(most, room=20_000, clock=iter(range(10**6)).__next__)
    process = processing(program, recent)
    start = 0
    for xs in chunks:
        process(chunk(xs, start))
        start += len(xs)
    parts = recent.kept().get(STAGE, [])
    assert sum(part.chunk.rows for part in parts) <= most
    assert sum(part.nbytes for part in parts) <= 20_000
    scored = [at for at, x in enumerate(x for xs in chunks for x in xs) if x == 1.0]
    assert set(offsets(recent)) <= set(scored)
    assert bool(offsets(recent)) == bool(scored)


@pytest.mark.parametrize("bad", [None, 500.0])
def test_flood_of_records_that_fail_displaces_no_row_that_was_scored(program: Program, bad: float | None) -> None:
    """Neither of records that are no events, nor of those that the model fails on; what is scored among them is kept."""
    recent = Recent(100, clock=iter(range(10**6)).__next__)
    process = processing(program, recent)
    process(chunk([1.0] * 100))
    for start in range(1000, 9000, 250):
        process(chunk([bad] * 250, start))
    assert offsets(recent) == [*range(100)]
    process(chunk([bad] * 200 + [2.0] + [bad] * 49, start=9000))
    assert offsets(recent)[-1] == 9200
    assert len(offsets(recent)) > 30


def test_large_records_are_few_and_larger_ones_none(program: Program) -> None:
    """Headers count too."""
    recent = Recent(1000, room=80_000)
    process = processing(program, recent)
    large = [reading(at, 1.0)._replace(key=b"k" * 4_000) for at in range(64)]
    process(Chunk(large, (("readings", 0, 64),)))
    assert 1 <= len(offsets(recent)) <= 3
    process(Chunk([reading(100, 1.0)._replace(key=b"k" * 50_000)], (("readings", 0, 1),)))
    process(Chunk([reading(100, 1.0)._replace(headers=[("h", b"h" * 50_000)])], (("readings", 0, 1),)))
    assert 100 not in offsets(recent)


def test_nothing_is_kept_without_rows(program: Program) -> None:
    recent = Recent(0)
    processing(program, recent)(chunk([1.0]))
    assert recent.kept() == {}


def test_kept_records_and_outputs_do_not_hold_the_chunk(program: Program) -> None:
    """A part of a large chunk must not keep the arrays and the records of all of it alive."""
    recent = Recent(10)
    processing(program, recent)(chunk([1.0] * 200))
    (part,) = recent.kept()[STAGE]
    assert part.outputs["y"].base is None
    assert len(part.chunk.records) == 10


def test_a_watched_generation_has_its_rows_counted_and_its_failures_kept(program: Program) -> None:
    recent = Recent(0)
    recent.watched = watched = Watched(1)
    processing(program, recent, generation=0)(chunk([1.0, 500.0]))
    process = processing(program, recent, generation=1)
    process(chunk([1.0, 500.0, 2.0]))
    process(chunk([3.0, None], start=3))
    assert (watched.ok, watched.unchecked(True), watched.unchecked(False)) == (3, 0, 0)
    failing = watched.take(10)
    assert [(one.stage, one.row.position(0).offset, one.error.where) for one in failing] == [(STAGE, 1, "double"), (STAGE, 4, "decode")]
    assert watched.take(10) == []


def test_a_flood_of_failures_is_counted_and_not_kept(program: Program) -> None:
    recent = Recent(0)
    recent.watched = watched = Watched(0)
    process = processing(program, recent)
    for at in range(0, 2 * QUEUE, 256):
        process(chunk([500.0] * 256, start=at))
    assert watched.unchecked(True) == QUEUE
    assert len(watched.take(10 * QUEUE)) == QUEUE


def test_large_records_that_fail_wait_in_bounded_memory(program: Program) -> None:
    recent = Recent(0)
    recent.watched = watched = Watched(0)
    process = processing(program, recent)
    large = Chunk([reading(at, 500.0)._replace(key=b"k" * (ROOM // 4)) for at in range(8)], (("readings", 0, 8),))
    process(large)
    assert watched.unchecked(True) == 5
    assert len(watched.take(QUEUE)) == 3
    process(large)
    assert len(watched.take(QUEUE)) == 3
