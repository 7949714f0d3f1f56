"""The two buckets of a caller: what is admitted, and when it can be tried again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from penstock.access.meter import Ledger, Limits, Meter
from penstock.errors import RateLimited, TooLarge


def test_caller_without_limits_is_never_refused() -> None:
    meter = Meter("shop", Limits(), Ledger())
    for _ in range(1000):
        meter.spend(10**9, 0.0)


def test_requests_are_limited_by_the_second() -> None:
    meter = Meter("shop", Limits(requests=2), Ledger())
    meter.spend(1, 0.0)
    meter.spend(1, 0.0)
    with pytest.raises(RateLimited, match=r"shop has sent too much; again in 0\.5 s") as refused:
        meter.spend(1, 0.0)
    assert refused.value.retry_after == 0.5
    meter.spend(1, 0.5)


def test_slow_rate_admits_one_request_at_once() -> None:
    meter = Meter("shop", Limits(requests=0.1), Ledger())
    meter.spend(1, 0.0)
    with pytest.raises(RateLimited) as refused:
        meter.spend(1, 0.0)
    assert refused.value.retry_after == pytest.approx(10)


def test_rows_are_limited_and_a_refused_request_takes_nothing() -> None:
    """Neither its rows nor its request: what is refused can be tried in smaller pieces at once."""
    meter = Meter("shop", Limits(requests=2, rows=100), Ledger())
    meter.spend(60, 0.0)
    with pytest.raises(RateLimited) as refused:
        meter.spend(50, 0.0)
    assert refused.value.retry_after == pytest.approx(0.1)
    meter.spend(40, 0.0)


def test_request_that_can_never_succeed_is_too_large() -> None:
    meter = Meter("shop", Limits(rows=100), Ledger())
    with pytest.raises(TooLarge, match=r"101 rows in one request; shop may send 100 \(its `rows`, per second\): split it"):
        meter.spend(101, 0.0)
    with pytest.raises(TooLarge, match=r"11 rows in one request; shop may send 10 \(its `request_rows`\)"):
        Meter("shop", Limits(rows=100, request_rows=10), Ledger()).spend(11, 0.0)


def test_bucket_holds_one_request_of_the_largest_size() -> None:
    """Otherwise a caller with 10 rows per second could never send the 50 rows that one request may hold."""
    meter = Meter("shop", Limits(rows=10, request_rows=50), Ledger())
    meter.spend(50, 0.0)
    with pytest.raises(RateLimited) as refused:
        meter.spend(10, 0.0)
    assert refused.value.retry_after == pytest.approx(1)


def test_clock_that_goes_back_fills_nothing() -> None:
    meter = Meter("shop", Limits(requests=1), Ledger())
    meter.spend(1, 100.0)
    for now in (50.0, 50.5):
        with pytest.raises(RateLimited):
            meter.spend(1, now)
    meter.spend(1, 51.0)


def test_changed_limits_forgive_nothing() -> None:
    """A caller that has spent the old allowance does not get the new one on top of it."""
    ledger = Ledger()
    meter = Meter("shop", Limits(requests=10), ledger)
    for _ in range(10):
        meter.spend(1, 0.0)
    meter = Meter("shop", Limits(requests=5), ledger)
    with pytest.raises(RateLimited) as refused:
        meter.spend(1, 1.0)
    assert refused.value.retry_after == pytest.approx(0.2)
    Meter("shop", Limits(), ledger).spend(1, 1.0)


def test_owners_have_an_allowance_each() -> None:
    ledger, limits = Ledger(), Limits(requests=1)
    for owner in ((), ("token company", "alice"), ("token company", "bob"), ("token", "company alice"), ("certificate", "\ud800")):
        meter = Meter("shop", limits, ledger, *owner)
        meter.spend(1, 0.0)
        with pytest.raises(RateLimited):
            Meter("shop", limits, ledger, *owner).spend(1, 0.0)


def test_table_is_of_one_size_and_drops_the_oldest() -> None:
    """However many owners of tokens there are."""
    ledger = Ledger()
    ledger.ROWS = 1  # type: ignore[misc]  # so that five names meet in one row
    meters = [Meter("shop", Limits(requests=0.001), ledger, str(number)) for number in range(5)]
    for at, meter in enumerate(meters):
        meter.spend(1, float(at))
    for meter in meters[1:]:
        with pytest.raises(RateLimited):
            meter.spend(1, 5.0)
    meters[0].spend(1, 5.0)


def test_processes_count_together(tmp_path: Path) -> None:
    """Four processes spend what one caller has: together they get it once."""
    path = tmp_path / "spent"
    script = """
import sys
from pathlib import Path
from penstock.access.meter import Ledger, Limits, Meter
from penstock.errors import RateLimited
meter, good = Meter("shop", Limits(requests=20_000), Ledger(Path(sys.argv[1]))), 0
print("ready", flush=True)
sys.stdin.readline()
for _ in range(20_000):
    try:
        meter.spend(1, 100.0)
        good += 1
    except RateLimited:
        pass
print(good)
"""
    command, pipe = [sys.executable, "-c", script, str(path)], subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(4)]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    counts = [int(process.communicate(timeout=60)[0]) for process in running]
    assert sum(counts) == 20_000
    assert path.stat().st_mode & 0o777 == 0o600
