"""Units and their arms: the same everywhere, in the stated shares, independent between layers, and moved by a ramp in one direction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.assign import arms_of, numbers_of
from penstock.evidence.bandit import Arms, best, with_floor

EXPECTED = [0.6111966787240571, 0.5002634292526592, 0.07143464517978482]
UNITS = [b"%d" % number for number in range(50_000)]


def test_the_number_of_a_unit_never_changes() -> None:
    """A change of it would move units between the arms of experiments that run."""
    found = numbers_of("main", "trees", "1", [b"", b"N14228", "\u00e9".encode()])
    assert found.tolist() == pytest.approx(EXPECTED, abs=0)
    assert numbers_of("main", "x" * 100, "1", [b"a"]) != numbers_of("main", "x" * 99, "1", [b"a"])


def test_arms_have_their_shares_and_layers_are_independent() -> None:
    first, second = (arms_of(numbers_of(layer, "e", "s", UNITS), (0.2, 0.3, 0.5)) for layer in ("a", "b"))
    together = np.bincount(first * 3 + second, minlength=9).reshape(3, 3) / len(UNITS)
    assert together.sum(axis=1) == pytest.approx([0.2, 0.3, 0.5], abs=0.01)
    assert together == pytest.approx(np.outer([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]), abs=0.01)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6).map(sorted))
def test_a_ramp_moves_units_to_the_candidate_only(shares: list[float]) -> None:
    numbers = numbers_of("a", "e", "s", UNITS[:500])
    before = np.zeros(500, bool)
    for share in shares:
        after = arms_of(numbers, (share, 1 - share)) == 0
        assert not (before & ~after).any()
        before = after


def test_arms_of_all_and_of_nothing() -> None:
    numbers = np.array([0.0, 0.5, np.nextafter(1, 0)])
    assert arms_of(numbers, (0.0, 1.0)).tolist() == [1, 1, 1]
    assert arms_of(numbers, (1.0, 0.0)).tolist() == [0, 0, 0]


def test_the_best_arm() -> None:
    """Of two arms by hand: P(X > Y) of Beta(2, 1) and Beta(1, 1) is 2/3; arms that are alike have equal chances."""
    assert best(np.array([2.0, 1.0]), np.array([1.0, 1.0])) == pytest.approx([2 / 3, 1 / 3], abs=1e-4)
    assert best(np.full(4, 50.0), np.full(4, 950.0)) == pytest.approx([0.25] * 4)
    sure = Arms(np.array([500.0, 900.0]), np.array([500.0, 100.0])).propensities(0.05)
    assert sure == pytest.approx([0.05, 0.95])
    with pytest.raises(ValueError, match=r"a floor of 0.3 for 2 arms: at most 0.25"):
        with_floor(np.array([0.5, 0.5]), 0.3)


def test_a_discount_forgets() -> None:
    arms = Arms.of(2).add((10, 0), (0, 10)).add((0, 10), (10, 0), keep=0.1)
    assert arms.successes == pytest.approx([1, 10])
    assert arms.propensities(0.0)[1] > 0.99
