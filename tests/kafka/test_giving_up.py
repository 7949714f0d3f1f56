"""A worker whose brokers go away for good: it ends at the stated time, and says why in one line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from penstock.testing import Broker, wait_for
from tests.kafka.running import make_job

pytestmark = pytest.mark.broker("restart")

BOUND = 4.0  # seconds


@pytest.mark.parametrize("flags", [(), ("--workers", "2")], ids=["one", "two"])
def test_brokers_that_go_away_for_good_end_the_worker_at_its_bound(broker: Broker, tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Although its drain would wait longer: what is in flight can neither be acknowledged nor committed."""
    job = make_job(broker, tmp_path)
    job.send(range(20_000))
    with job.run(*flags, broker_timeout=str(BOUND), drain_timeout="60") as worker:
        wait_for(lambda: worker.log.count("assigned ") >= max(len(flags), 1), lambda: f"the partitions\n{worker.log}", 60)
        job.wait_for_answers(1)
        broker.kill()
        gone = time.monotonic()
        try:
            code = worker.wait()
            took = time.monotonic() - gone
        finally:
            broker.restart()
    assert code == 4, worker.log
    assert took <= BOUND + (4.0 if flags else 2.0), worker.log  # a fleet: then the others are told to stop, and have no brokers, either
    (said,) = worker.errors
    assert all(part in said for part in (broker.bootstrap, " have not answered for ", "reachable from here", "--broker-timeout"))
    assert worker.log.count("reachable from here") == 1, worker.log
    assert not any(sign in worker.log for sign in ("Traceback", "Thread 0x", "was never retrieved", "bug", "longer than")), worker.log


@pytest.mark.parametrize("bound", [BOUND, 60.0])
def test_sigterm_without_brokers_ends_with_0_soon(broker: Broker, tmp_path: Path, bound: float) -> None:
    """At the bound; or, where that is later, soon after the session has ended, because nothing can be committed any more."""
    job = make_job(broker, tmp_path)
    job.send(range(20_000))
    with job.run(broker_timeout=str(bound), drain_timeout="60") as worker:
        worker.wait_until_assigned()
        job.wait_for_answers(1)
        broker.kill()
        try:
            assert worker.stop(BOUND + 10) == 0, worker.log
        finally:
            broker.restart()
    assert not worker.errors
    assert not any(sign in worker.log for sign in (": None", "TimeoutError()", "took longer than")), worker.log
    assert worker.log.count("stopping all the same: the brokers at") <= 1, worker.log
    assert "Traceback" not in worker.log


def test_sigterm_while_the_broker_is_paused_names_no_false_cause(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path)
    job.send(range(100))
    with job.run(broker_timeout="30", drain_timeout="3") as worker:
        worker.wait_until_assigned()
        job.wait_for_answers(100)
        broker.pause()
        try:
            assert worker.stop(60) == 0, worker.log
        finally:
            broker.resume()
    assert not worker.errors
    assert not any(sign in worker.log for sign in (": None", "stopping because", "Traceback")), worker.log
