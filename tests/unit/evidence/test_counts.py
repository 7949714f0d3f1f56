"""Failures of a candidate, and shares of arms: published values, additive, and begun again with each stage."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.evidence.counts import Failures, Shares

STAGES = st.lists(st.tuples(st.sampled_from([0.01, 0.05, 0.5]), st.integers(0, 30), st.integers(0, 300)), max_size=8)


@given(STAGES, st.integers(0, 8))
def test_failures_are_additive(stages: list[tuple[float, int, int]], cut: int) -> None:
    def of(some: list[tuple[float, int, int]]) -> Failures:
        found = Failures()
        for propensity, candidate, live in some:
            found = found.add(propensity, candidate, live)
        return found

    whole = of(stages)
    assert (of(stages[:cut]) + of(stages[cut:])).log_evidence() == pytest.approx(whole.log_evidence(), abs=1e-9)
    assert (whole.candidate, whole.live) == (sum(one[1] for one in stages), sum(one[2] for one in stages))


def test_failures_as_tolerated_are_no_evidence_and_more_of_them_are() -> None:
    """At 1 % of the traffic, for 99 failures of the live model the candidate may have 1.25; with 5 times as many, some 9 are enough."""
    assert Failures().add(0.01, 5, 400).log_evidence() < 0
    assert Failures().add(0.01, 9, 178).log_evidence() > math.log(20)
    assert Failures().add(1.0, 100, 0).log_evidence() == Failures().add(0.0, 0, 100).log_evidence() == 0
    with pytest.raises(ValueError, match="two tolerated ratios"):
        Failures(1.0) + Failures(1.25)


def test_shares_are_those_of_the_publication() -> None:
    """Against the Beta integral by hand, for two arms of one half and a strength of 2: B(1 + a, 1 + b) 2^(a + b)."""
    found = Shares((0.5, 0.5), strength=2.0).add((7, 3)).log_evidence()
    assert found == pytest.approx(math.lgamma(8) + math.lgamma(4) - math.lgamma(12) + 10 * math.log(2))


def test_a_stage_keeps_the_evidence_of_those_before() -> None:
    first = Shares((0.5, 0.5)).add((600, 400)).add((0, 0))
    assert first.counts == (600, 400)
    second = first.changed((0.25, 0.75))
    assert second.log_evidence() == pytest.approx(first.log_evidence())
    assert second.add((250, 750)).log_evidence() < first.log_evidence()
    assert Shares((1.0, 0.0)).add((5, 1)).log_evidence() == math.inf
