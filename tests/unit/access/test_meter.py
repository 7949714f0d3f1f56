"""The two buckets of a caller: what is admitted, and when it can be tried again."""

from __future__ import annotations

import pytest

from penstock.access.meter import Limits, Meter
from penstock.errors import RateLimited, TooLarge


def test_caller_without_limits_is_never_refused() -> None:
    meter = Meter("shop", Limits(), 0.0)
    for _ in range(1000):
        meter.spend(10**9, 0.0)


def test_requests_are_limited_by_the_second() -> None:
    meter = Meter("shop", Limits(requests=2), 0.0)
    meter.spend(1, 0.0)
    meter.spend(1, 0.0)
    with pytest.raises(RateLimited, match=r"shop has sent too much; again in 0\.5 s") as refused:
        meter.spend(1, 0.0)
    assert refused.value.retry_after == 0.5
    meter.spend(1, 0.5)


def test_slow_rate_admits_one_request_at_once() -> None:
    meter = Meter("shop", Limits(requests=0.1), 0.0)
    meter.spend(1, 0.0)
    with pytest.raises(RateLimited) as refused:
        meter.spend(1, 0.0)
    assert refused.value.retry_after == pytest.approx(10)


def test_rows_are_limited_and_a_refused_request_takes_nothing() -> None:
    """Neither its rows nor its request: what is refused can be tried in smaller pieces at once."""
    meter = Meter("shop", Limits(requests=2, rows=100), 0.0)
    meter.spend(60, 0.0)
    with pytest.raises(RateLimited) as refused:
        meter.spend(50, 0.0)
    assert refused.value.retry_after == pytest.approx(0.1)
    meter.spend(40, 0.0)


def test_request_that_can_never_succeed_is_too_large() -> None:
    meter = Meter("shop", Limits(rows=100), 0.0)
    with pytest.raises(TooLarge, match="101 rows in one request; shop may send 100: split it"):
        meter.spend(101, 0.0)
    with pytest.raises(TooLarge, match="11 rows in one request; shop may send 10"):
        Meter("shop", Limits(rows=100, request_rows=10), 0.0).spend(11, 0.0)


def test_bucket_holds_one_request_of_the_largest_size() -> None:
    """Otherwise a caller with 10 rows per second could never send the 50 rows that one request may hold."""
    meter = Meter("shop", Limits(rows=10, request_rows=50), 0.0)
    meter.spend(50, 0.0)
    with pytest.raises(RateLimited) as refused:
        meter.spend(10, 0.0)
    assert refused.value.retry_after == pytest.approx(1)


def test_clock_that_goes_back_fills_nothing() -> None:
    meter = Meter("shop", Limits(requests=1), 100.0)
    meter.spend(1, 100.0)
    for now in (50.0, 50.5):
        with pytest.raises(RateLimited):
            meter.spend(1, now)
    meter.spend(1, 51.0)


def test_changed_limits_forgive_nothing() -> None:
    """Whoever has spent the old allowance does not get the new one on top of it."""
    meter = Meter("shop", Limits(requests=10), 0.0)
    for _ in range(10):
        meter.spend(1, 0.0)
    meter.limited_to(Limits(requests=5))
    with pytest.raises(RateLimited) as refused:
        meter.spend(1, 0.0)
    assert refused.value.retry_after == pytest.approx(0.2)
    meter.limited_to(Limits())
    meter.spend(1, 0.0)
