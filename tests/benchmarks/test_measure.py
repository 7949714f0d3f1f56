"""The arithmetic of the figures, on inputs small enough to check by hand. Nothing here is timed."""

from __future__ import annotations

import numpy as np

from benchmarks.measure import Look, cpu_of, latency_of, rate_of


def test_rate_counts_from_the_first_append_to_the_nth() -> None:
    """Of six outputs five are asked for: two came in the first millisecond, three in the half second after it."""
    assert rate_of(np.array([1500, 1000, 1000, 1200, 1300, 9000]), 5) == {"ev_s": 6.0}


def test_rate_is_unknown_when_all_came_at_once() -> None:
    assert rate_of(np.array([1000, 1000]), 2) == {}


def test_cpu_is_what_was_used_between_the_looks() -> None:
    """Half a second of CPU for 100,000 outputs within one second; others used 0.7 of a core meanwhile."""
    looks = [Look(10.0, 100, 2.0, 50.0), Look(10.4, 50_000, 2.2, 50.4), Look(11.0, 100_100, 2.5, 51.2)]
    found = cpu_of(looks)
    assert {name: round(value, 6) for name, value in found.items()} == {"cpu_us_ev": 5.0, "cores": 0.5, "other_cores": 0.7}


def test_cpu_is_unknown_from_a_single_look() -> None:
    assert cpu_of([Look(10.0, 100, 2.0, 50.0)]) == {}


def test_latency_leaves_missing_outputs_out_and_counts_them() -> None:
    sent, got = np.arange(1000, 1101), np.arange(1000, 1101) + np.arange(101)
    got[7] = 0
    found = latency_of(sent, got)
    assert found["missing"] == 1
    assert found["max_ms"] == 100
    assert found["p50_ms"] == 50.5


def test_latency_of_nothing_is_only_missing() -> None:
    assert latency_of(np.array([1, 2]), np.array([0, 0])) == {"missing": 2.0}
