"""A candidate is tried beside the live plan on real rows: which rows it alone fails on, how far its outputs are, how long it takes."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from penstock.engine.observe import Observers
from penstock.errors import Stopped
from penstock.evidence.guard import Counts
from penstock.model.parity import Pair
from penstock.model.session import Session
from penstock.pipeline import Pipeline, Program
from penstock.provider import Provider
from penstock.runtime import beside, sessions
from penstock.testing import models
from penstock.transports.memory import Memory, MemorySink
from penstock.worker.proof import GOLDEN_ONLY, Proof, prove, run_pairs, slices
from penstock.worker.recent import Kept, Recent
from tests.clock import Clock
from tests.unit.worker.conftest import HEAVY, STAGE, Make, chunk, crowded, small_pool


def kept(program: Program, xs: Sequence[float | None]) -> dict[str, list[Kept]]:
    """These events as the program has scored them."""
    recent = Recent(10_000)
    Pipeline(program, STAGE, sink=MemorySink(Memory(1)), observers=Observers([recent])).process(chunk(xs))
    return recent.kept()


@pytest.fixture
def live(make: Make) -> Program:
    return make(models.up_to(1000.0, 2.0))[1]


@pytest.fixture
def candidate(make: Make) -> Program:
    """Three times the number; fails on some rows that the live one scores, and on all that it does not."""
    return make(models.up_to(100.0, 3.0))[1]


@pytest.fixture
def earlier(make: Make) -> Program:
    return make(models.up_to(1e9))[1]


def test_candidate_that_fails_on_every_real_row_is_refused_with_the_row_and_the_reason(live: Program, candidate: Program) -> None:
    proof = prove(candidate, live, kept(live, [200.0] * 150))
    assert (proof.counts, proof.rows) == (Counts(new=150), 150)
    why = proof.refusal(0.01, 4, candidate.plan.versions, ["nodes.double: double@2"])
    assert why.startswith("nodes.double: double@2: 150 of 150 real rows fail in it and not in generation 4 (100.00%, more than the 1.00%")
    assert "the first: readings:0:" in why
    assert "double: field 'y' is not a finite number" in why
    assert proof.refusal(1.0, 4, candidate.plan.versions, []) == ""


def test_node_that_raises_is_named(make: Make, live: Program) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["at"], to=TensorProto.INT64), helper.make_node("Gather", ["values", "at"], ["y"])]
    table = models.model(nodes, [models.tensor("x")], [models.tensor("y")], {"values": np.arange(3, dtype=np.float32)})
    picky = make(table)[1]
    proof = prove(picky, live, kept(live, [1.0, 7.0]))
    assert proof.refusal(0.0, 0, picky.plan.versions, []).startswith("nodes.double: double@2: 1 of 2 real rows")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(xs=st.lists(st.sampled_from([1.0, 50.0, 200.0, 2000.0]), min_size=1, max_size=150))
def test_rows_are_counted_by_what_both_make_of_them(live: Program, candidate: Program, earlier: Program, xs: list[float]) -> None:
    """Whatever they are, in whatever slices they run: nothing depends on the rows beside them. An earlier generation scored them all."""
    proof = prove(candidate, live, kept(earlier, xs))
    ok, new = sum(x in (1.0, 50.0) for x in xs), xs.count(200.0)
    assert proof.counts == Counts(ok=ok, new=new, both=len(xs) - ok - new)
    if ok:
        drift = proof.drift["y"]
        assert drift.values == ok
        assert drift.distance == pytest.approx(sum(x for x in xs if x in (1.0, 50.0)))


def test_drift_and_latency_are_numbers_that_a_person_can_read(live: Program, candidate: Program) -> None:
    said = str(prove(candidate, live, kept(live, [10.0, 20.0, 30.0] * 30)))
    assert "proven on 90 real rows: 0 of 90 fail only in it (0.00%); y differs by 20 on average (mean 40 → 60); " in said
    assert said.endswith("times the live latency")


def test_same_model_does_not_drift(live: Program) -> None:
    proof = prove(live, live, kept(live, [1.0, None, 2000.0]))
    assert (proof.counts, proof.drift["y"].distance) == (Counts(ok=1), 0.0)


def test_bad_records_do_not_disarm_the_proof(live: Program, candidate: Program) -> None:
    """As many as a worker has seen lately, and more."""
    recent = Recent(1000)
    pipeline = Pipeline(live, STAGE, sink=MemorySink(Memory(1)), observers=Observers([recent]))
    pipeline.process(chunk([200.0] * 150))
    for start in range(1000, 9000, 250):
        pipeline.process(chunk([None] * 250, start))
    proof = prove(candidate, live, recent.kept())
    assert "150 of 150 real rows fail in it" in proof.refusal(0.01, 0, candidate.plan.versions, ["nodes.double: double@2"])


def test_rows_that_neither_scores_prove_nothing(live: Program, candidate: Program, earlier: Program) -> None:
    said = str(prove(candidate, live, kept(earlier, [5000.0] * 10)))
    assert said == "proven on its golden records only: neither it nor the live models score any of the last 10 real rows"


def test_pairs_compare_the_rows_that_their_node_gets(make: Make, live: Program) -> None:
    """Those that fail on the processor are not compared, and in the place of its session there runs another model."""
    loaded, program = make(models.up_to(1000.0, 2.0))
    session = Session.load(models.up_to(20.0, 2.0))
    pair = Pair(loaded.artifacts["double"], session, sessions(program)["double"].twin(), (Provider("OtherExecutionProvider"),))
    run_pairs(program, {"double": pair}, kept(live, [*map(float, range(40)), None]))
    assert (pair.rows, pair.differ) == (40, 20)
    assert "double@2 does not compute on OtherExecutionProvider what it computes on the processor: 20 of 40 real rows" in pair.refusal(0.4)
    assert pair.refusal(0.5) == ""


def test_without_real_rows_it_says_so(live: Program, candidate: Program) -> None:
    assert str(prove(candidate, live, {})) == str(Proof()) == GOLDEN_ONLY


@small_pool
def test_row_without_memory_beside_a_live_run_is_not_a_failure_of_the_candidate(make: Make, live: Program) -> None:
    """It is not one of the rows that the release is proven on either. Alone, the candidate scores it."""
    program = make(models.growing())[1]
    rows = kept(make(models.identity("float32", (1,)))[1], [1.0, 2.0, HEAVY])
    assert prove(program, program, rows).counts == Counts(ok=3)
    with crowded():
        proof = prove(program, program, rows)
    assert proof.counts == Counts(ok=proof.rows)
    assert 1 <= proof.unchecked == 3 - proof.rows
    assert proof.refusal(0.0, 0, program.plan.versions, []) == ""
    said = str(proof)
    assert f"{proof.unchecked} real rows were not checked: live runs left no memory for them (setting model_memory)" in said
    assert "proven on 3 real rows" not in said


def test_proof_stops_when_it_must(live: Program, candidate: Program) -> None:
    with pytest.raises(Stopped):
        prove(candidate, live, kept(live, [1.0]), stopped=lambda: True)


def test_proof_of_a_slow_model_ends_with_the_rows_that_it_has_tried() -> None:
    """The first slice is one row, and a second per row is far beyond what a slice may take."""
    clock, tried = Clock(), []
    for _, at, piece in slices([chunk([1.0] * 100)], 5.0, clock=clock):
        tried.append((at, piece.rows))
        clock.now += piece.rows
    assert tried == [(at, 1) for at in range(5)]


@given(sizes=st.lists(st.integers(0, 100), max_size=5), seconds=st.floats(0, 0.002))
def test_slices_are_every_row_once_in_order(sizes: list[int], seconds: float) -> None:
    clock = Clock()
    chunks = [chunk([1.0] * size, start=1000 * number) for number, size in enumerate(sizes)]
    found = []
    for number, at, piece in slices(chunks, 10.0, clock=clock):
        found += [1000 * number + at + row for row in range(piece.rows)]
        assert [record.offset for record in piece.records] == found[len(found) - piece.rows :]
        clock.now += seconds * piece.rows
    assert found == [record.offset for one in chunks for record in one.records]


def test_program_beside_runs_the_same_models_at_the_same_time(live: Program) -> None:
    """Two threads, one loaded model: each gets the answers to its own rows."""
    mine, other = sessions(live)["double"], sessions(beside(live))["double"]
    assert mine is not other
    wrong = []

    def run(number: float) -> None:
        session = mine if number == 1 else other
        rows = np.full((64, 1), number, np.float32)
        for _ in range(2000):
            wrong.extend(session.run(["y"], {"x": rows})[0][:, 0] != 2 * number)

    threads = [threading.Thread(target=run, args=(number,)) for number in (1.0, 2.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 2 * 2000 * 64
    assert not any(wrong)
