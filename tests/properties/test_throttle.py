"""A partition keeps to its rate of dead letters, whatever fails when; one without dead letters never waits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.transports.throttle import SHOWN, Throttle
from tests.clock import Clock

BAD, GOOD = ("events", 0), ("events", 1)
STEPS = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 50), st.floats(0, 1)), max_size=60)


@given(st.floats(0.1, 1000), STEPS)
def test_dead_letters_of_a_partition_keep_to_the_rate(rate: float, steps: list[tuple[float, int, float]]) -> None:
    """Up to any moment: the rate, the burst of a second, and the group that was under way. The debt of a large group is paid off, too."""
    clock = Clock()
    throttle, letters, largest, began = Throttle(rate, clock), 0, 0, clock.now
    for pause, most, share in steps:
        clock.now += pause
        if throttle.delay(BAD) == 0:
            rows = min(most, throttle.rows(BAD) or most)
            failed = round(rows * share)
            throttle.count(BAD, failed, rows)
            letters, largest = letters + failed, max(largest, failed)
        assert letters <= rate * (clock.now - began) + max(rate, 1) + largest + 1e-6
        assert throttle.delay(GOOD) == 0
        assert throttle.rows(GOOD) is None


@given(st.floats(0.1, 1000), st.integers(1, 10_000))
def test_partition_goes_on_after_the_delay_it_was_given(rate: float, letters: int) -> None:
    clock = Clock()
    throttle = Throttle(rate, clock)
    throttle.count(BAD, letters, letters)
    if delay := throttle.delay(BAD):
        clock.now += delay * 0.99
        assert throttle.delay(BAD) > 0
        assert throttle.slowed(BAD)
        clock.now += delay * 0.02
    assert throttle.delay(BAD) == 0
    assert throttle.rows(BAD) in range(1, max(2, int(rate) + 1))


def test_partition_that_has_recovered_is_taken_as_before() -> None:
    clock = Clock()
    throttle = Throttle(10, clock)
    throttle.count(BAD, 30, 60)
    assert throttle.slowed(BAD)
    clock.now += (20 + 10) / 10 + 0.1
    assert throttle.delay(BAD) == 0
    assert throttle.rows(BAD) == 20, "ten dead letters are left, and half of the records failed"
    clock.now += SHOWN
    assert not throttle.slowed(BAD)
    throttle.count(BAD, 0, 1000)
    assert throttle.rows(BAD) is None


def test_without_a_rate_nothing_is_slowed() -> None:
    throttle = Throttle()
    throttle.count(BAD, 10**9, 10**9)
    assert (throttle.delay(BAD), throttle.rows(BAD), throttle.slowed(BAD)) == (0, None, False)
