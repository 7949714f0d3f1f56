"""What the demo counts: its area under the curve is the real one, and no prediction is judged before its flight has landed."""

from __future__ import annotations

import numpy as np
import pytest
from demo.tally import Auc, Prediction, Tally
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli.live import bar

metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")

OUTCOMES = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=200).filter(
    lambda rows: len({late for _, late in rows}) == 2
)


def area(rows: list[tuple[float, bool]], bins: int, batches: int = 1) -> Auc:
    auc = Auc(bins)
    for part in np.array_split(np.arange(len(rows)), batches):
        auc.add(np.array([rows[i][0] for i in part]), np.array([rows[i][1] for i in part], dtype=bool))
    return auc


def exact(rows: list[tuple[float, bool]]) -> float:
    scores, late = zip(*rows, strict=True)
    return float(metrics.roc_auc_score(late, scores))


@given(OUTCOMES, st.integers(2, 300))
def test_area_is_within_its_resolution_of_the_exact_one(rows: list[tuple[float, bool]], bins: int) -> None:
    auc = area(rows, bins)
    assert auc.value is not None
    assert abs(auc.value - exact(rows)) <= auc.resolution + 1e-12


@given(st.lists(st.tuples(st.integers(0, 63), st.booleans()), min_size=2).filter(lambda rows: len({late for _, late in rows}) == 2))
def test_area_is_exact_when_equal_scores_share_a_bin(rows: list[tuple[int, bool]]) -> None:
    scored = [(place / 64, late) for place, late in rows]
    assert area(scored, 64).value == pytest.approx(exact(scored), abs=1e-12)


@given(OUTCOMES, st.integers(1, 7))
def test_area_does_not_depend_on_how_the_stream_was_cut(rows: list[tuple[float, bool]], batches: int) -> None:
    assert area(rows, 100, batches).value == area(rows, 100).value


def test_area_is_unknown_until_both_outcomes_were_seen() -> None:
    auc = Auc()
    auc.add(np.array([0.2, 0.4]), np.array([False, False]))
    assert auc.value is None
    auc.add(np.array([0.3]), np.array([True]))
    assert auc.value == 0.5


def prediction(flight_id: str, score: float = 0.5, generation: int = 0) -> Prediction:
    return Prediction(flight_id, "UA", "SFO", (score, score, score), generation)


def tally_of(total: int, *generations: int, sent: int = 0) -> Tally:
    tally = Tally(total, sent)
    for generation in generations or (0,):
        tally.began(generation, {"trees": f"flight-trees@{generation + 1}"}, float(generation))
    return tally


def test_prediction_is_judged_when_its_flight_has_landed() -> None:
    tally = tally_of(2, sent=2)
    tally.predicted(prediction("later"), 0.001, (20.0, 3_000))
    tally.predicted(prediction("sooner"), 0.001, (-5.0, 2_000))
    tally.event_time = 2_500
    tally.land()
    assert [(v.prediction.flight_id, v.late) for v in tally.latest] == [("sooner", False)]
    assert tally.in_air == 1

    tally.land_all()
    assert [(v.prediction.flight_id, v.late) for v in tally.latest] == [("sooner", False), ("later", True)]
    assert (tally.in_air, int(tally.judged.sum()), int(tally.late.sum())) == (0, 2, 1)


def test_diverted_flight_is_scored_and_never_judged() -> None:
    tally = tally_of(1, sent=1)
    tally.predicted(prediction("diverted"), 0.001, None)
    tally.land_all()
    assert (tally.received, tally.diverted, int(tally.judged.sum()), tally.outstanding) == (1, 1, 0, 0)


def test_each_generation_is_judged_by_what_it_said_itself() -> None:
    """Generation 0 ranks the two flights wrongly, generation 1 rightly; together they are half right."""
    tally = tally_of(4, 0, 1, sent=4)
    for generation, scores in ((0, (0.9, 0.1)), (1, (0.1, 0.9))):
        for score, delay in zip(scores, (0.0, 60.0), strict=True):
            tally.predicted(prediction(f"{generation}-{delay}", score, generation), 0.001, (delay, 1_000))
    tally.land_all()
    assert {number: (one.outputs, one.auc["trees"].value) for number, one in tally.generations.items()} == {0: (2, 0.0), 1: (2, 1.0)}
    assert tally.auc["trees"].value == 0.5


def test_generation_begins_with_its_first_output() -> None:
    tally = tally_of(2, 0)
    tally.began(0, {"trees": "flight-trees@9"}, 7.0)
    assert (tally.generations[0].models, tally.generations[0].first) == ({"trees": "flight-trees@1"}, 0.0)


def test_first_answer_is_not_a_latency() -> None:
    """It waited for the worker to start."""
    tally = tally_of(3, sent=3)
    tally.predicted(prediction("first"), None, None)
    assert tally.latency(50) == 0.0
    tally.predicted(prediction("second"), 0.002, None)
    tally.predicted(prediction("third"), 0.004, None)
    assert tally.latency(50) == pytest.approx(3.0)
    assert tally.latency(50, last=1) == pytest.approx(4.0)


def test_rate_is_that_of_the_last_seconds() -> None:
    tally = Tally(total=1_000)
    rates = []
    for second, received in enumerate((0, 100, 300, 700)):
        tally.received = received
        rates.append(tally.rate(float(second), window=2.0))
    assert rates == [0.0, 100.0, 150.0, 300.0]


@pytest.mark.parametrize(("share", "shown"), [(0.0, "    "), (0.5, "██  "), (1.0, "████"), (0.03125, "▏   "), (2.0, "████")])
def test_bar_fills_by_eighths_of_a_cell(share: float, shown: str) -> None:
    assert bar(share, 4) == shown
