"""Evidence about a mean: published values, additive in any order, and rarely wrong however often it is looked at."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.evidence.losses import Units, losses, paired, scored
from penstock.evidence.mean import Bets, Sums, growth, log_evidence, radius

EVENTS = st.lists(st.tuples(st.integers(0, 5), st.floats(-1, 1)), min_size=1, max_size=60)


def test_the_evidence_is_that_of_the_formula() -> None:
    """Against the half-normal mixture, integrated by hand: the mean over a > 0 of exp(a S - a^2 V / 2)."""
    rho = growth(100, 0.05)
    a = np.linspace(0, 60 * math.sqrt(rho), 400_001)
    weight = 2 * np.exp(-a * a / (2 * rho)) / math.sqrt(2 * math.pi * rho)
    for s, v in ((0.0, 10.0), (10.0, 100.0), (-10.0, 100.0), (40.0, 120.0)):
        by_hand = math.log(np.trapezoid(weight * np.exp(a * s - a * a * v / 2), a))
        assert float(log_evidence(s, v, rho)) == pytest.approx(by_hand, abs=1e-6)


def test_the_parameter_is_that_of_the_publication() -> None:
    """Equation 161 of Waudby-Smith and others (2024)."""
    assert growth(1.0, 0.05) == pytest.approx(-2 * math.log(0.05) + math.log(-2 * math.log(0.05) + 1))


def test_far_away_nothing_overflows() -> None:
    rho = growth(1.0, 0.05)
    found = log_evidence([-1e6, -1e3, -50.0, 0.0, 50.0, 1e3, 1e6], 1.0, rho)
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()


def test_an_interval_and_the_evidence_agree() -> None:
    """Half an interval is where a two-sided mixture comes to 1/alpha; without events nothing is known."""
    sums, rho = Sums(1000, 250.0, 12.0, 18.0), growth(20, 0.05)
    found = sums.interval(20, 0.05)
    assert found.estimate == pytest.approx(12 / 250)
    wide = (found.high - found.low) / 2 * 250
    two_sided = rho * wide**2 / (2 * (1 + 18 * rho)) - 0.5 * math.log(1 + 18 * rho)
    assert two_sided == pytest.approx(math.log(1 / 0.05))
    assert wide == pytest.approx(radius(18.0, rho, 0.05))
    assert Sums().interval(20, 0.05).low == -math.inf


@given(EVENTS, st.permutations(range(4)), st.integers(1, 4))
def test_sums_are_the_same_in_any_order_and_any_partitions(events: list[tuple[int, float]], order: list[int], partitions: int) -> None:
    """A unit is in one partition; its events come in their order."""
    whole = Units()
    whole.add([unit for unit, _ in events], np.array([z for _, z in events]))
    parts = [Units() for _ in range(partitions)]
    for unit, z in events:
        parts[unit % partitions].add([unit], np.array([z]))
    total = Sums()
    for at in order:
        if at < partitions:
            total = total + parts[at].sums
    assert total.count == whole.sums.count
    assert (total.total, total.square) == pytest.approx((whole.sums.total, whole.sums.square), rel=1e-9, abs=1e-12)
    by_unit: dict[int, float] = {}
    for unit, z in events:
        by_unit[unit] = by_unit.get(unit, 0.0) + z
    assert whole.sums.square == pytest.approx(sum(one * one for one in by_unit.values()), abs=1e-9)
    assert sum(map(len, parts)) == len(whole) == len(by_unit)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=50), st.integers(0, 50))
def test_bets_are_additive(z: list[float], cut: int) -> None:
    whole, first, second = (Bets(1.0).add(np.array(one)) for one in (z, z[:cut], z[cut:]))
    assert (first + second).log_evidence() == pytest.approx(whole.log_evidence(), abs=1e-9)
    assert (first + second).count == len(z)


def test_bets_of_another_scale_and_losses_that_are_too_large_are_refused() -> None:
    with pytest.raises(ValueError, match="two scales"):
        Bets(1.0) + Bets(2.0)
    with pytest.raises(ValueError, match=r"a loss of 1.5 is larger than 1"):
        Bets(1.0).add(np.array([-1.5]))


def test_bets_and_sums_are_rarely_wrong() -> None:
    """Equal models, looked at after each of 100 batches: at most 5 % of the runs, and three standard errors."""
    random, runs = np.random.default_rng(1), 400
    wrong = np.zeros(2)
    for _ in range(runs):
        arm, failed = random.random(2000) < 0.5, random.random(2000) < 0.1
        z, _ = scored(arm.astype(float), np.full(2000, 0.5), failed.astype(float), 0.1)
        evidence = log_evidence(np.cumsum(z), np.cumsum(z * z), growth(10.0, 0.05))[19::20]
        bets, reached = Bets(1.0), False
        for at in range(0, 2000, 20):
            bets = bets.add(z[at : at + 20])
            reached = reached or bets.log_evidence() >= math.log(20)
        wrong += (evidence.max() >= math.log(20), reached)
    assert (wrong / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)).all(), wrong / runs


@given(st.floats(0.01, 0.99), st.floats(0, 0.2), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_the_score_estimates_the_effect_whatever_the_centre(p: float, margin: float, live: float, candidate: float, centre: float) -> None:
    """Its mean over the two arms is p (1 - p) times what the candidate saves, plus the margin."""
    z, weight = scored(np.array([1.0, 0.0]), np.array([p, p]), np.array([candidate, live]), centre, margin)
    assert p * z[0] + (1 - p) * z[1] == pytest.approx(p * (1 - p) * (live - candidate + margin), abs=1e-12)
    assert weight.tolist() == [p * (1 - p)] * 2


def test_losses() -> None:
    score, outcome = np.array([0.9, 0.2, 0.5, 1.0]), np.array([1.0, 1.0, 0.0, 0.0])
    assert losses("error_rate", score, outcome).tolist() == [0, 1, 1, 1]
    assert losses("error_rate", score, outcome, 0.95).tolist() == [1, 1, 0, 1]
    assert losses("brier", score, outcome) == pytest.approx([0.01, 0.64, 0.25, 1.0])
    assert losses("absolute_error", score, outcome) == pytest.approx([0.1, 0.8, 0.5, 1.0])
    log = losses("log_loss", score, outcome)
    assert log == pytest.approx(np.array([-math.log(0.9), -math.log(0.2), -math.log(0.5), -math.log(0.01)]) / -math.log(0.01))
    assert paired(log, log[::-1], 0.5).sum() == pytest.approx(2.0)
