"""The monitoring pages of real workers: they say what is so, also while workers are killed, and a worker that stalls ends."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock.record import Record
from penstock.telemetry.metrics import FAMILIES, SUPERVISOR
from penstock.testing import Broker, produce, wait_for
from tests.kafka.running import Job, Running, ask, get, make_job

pytestmark = [pytest.mark.broker, pytest.mark.measured]

Series = dict[str, float]


@pytest.fixture
def job(broker: Broker, tmp_path: Path) -> Job:
    return make_job(broker, tmp_path)


def scrape(worker: Running) -> Series:
    """Value by series of ours, written `name{label=value,...}` with the labels in order. Every family is a declared one."""
    status, body = get(worker, "/metrics")
    assert status == 200, worker.log
    families = [one for one in text_string_to_metric_families(body.decode()) if not one.name.startswith("process_")]
    declared = {one.exported.removesuffix("_total"): one for one in (*FAMILIES.values(), *SUPERVISOR)}
    for family in families:
        for sample in family.samples:
            labels = set(sample.labels) - {"worker", "le"}
            assert labels == set(declared[family.name].labels) - {"worker"}, sample
    samples = [one for family in families for one in family.samples]
    return {f"{one.name}{{{','.join(f'{k}={v}' for k, v in sorted(one.labels.items()))}}}": one.value for one in samples}


def with_labels(found: Series, name: str) -> dict[str, float]:
    return {series: value for series, value in found.items() if series.startswith(f"{name}{{")}


def wait_until_ready(worker: Running) -> None:
    wait_for(lambda: worker.process.poll() is not None or ask(worker, "/readyz")[0] == 200, lambda: f"readiness\n{worker.log}", 60, 0.2)
    assert worker.process.poll() is None, worker.log


def test_pages_of_one_worker(job: Job) -> None:
    """Alive while it starts, ready when it has its partitions; counters move, and the backlog of each partition is known."""
    with job.run(http="127.0.0.1:0") as worker:
        wait_for(lambda: ask(worker, "/healthz")[0] == 200, lambda: f"the first answer\n{worker.log}", 30, 0.02)
        status, body = ask(worker, "/readyz")
        assert (status, body["ready"]) == (503, False)
        assert "running: starting" in body["missing"]
        wait_until_ready(worker)
        assert ask(worker, "/readyz")[1]["conditions"] == {
            "running": "running",
            "partitions": "4 assigned",
            "control": "folded",
            "models": "warm",
            "state": "restored",
            "schemas": "known",
            "outputs": "writable",
        }
        job.send(range(400))
        produce(job.broker, [Record(job.source, b"{not json", b"bad", partition=0)])
        job.wait_for_answers(400)
        wait_for(lambda: scrape(worker)["penstock_records_in_total{}"] == 401, "all counted")
        found = scrape(worker)
        assert found["penstock_records_out_total{}"] == 400
        assert found["penstock_dead_letters_total{reason=DecodeError,step=decode}"] == 1
        assert found["penstock_node_rows_total{model=double,node=double,version=1}"] == 400
        assert found["penstock_node_seconds_count{model=double,node=double,version=1}"] > 0
        assert found["penstock_ready{condition=partitions}"] == 1
        partitions = {f"{{partition={number},topic={job.source}}}" for number in range(4)}
        assert {name.removeprefix("penstock_backlog_records") for name in with_labels(found, "penstock_backlog_records")} == partitions
        assert set(with_labels(found, "penstock_backlog_records").values()) == {0}
        assert set(with_labels(found, "penstock_seconds_behind").values()) == {0}
        assert sum(with_labels(found, "penstock_next_offset").values()) == 401
        status, body = ask(worker, "/healthz")
        assert (status, body["sources"]) == (200, {"readings": "idle: caught up"})
        assert worker.stop() == 0, worker.log


def test_an_idle_worker_is_no_stall(job: Job) -> None:
    """With a bound of two seconds, the watchdog looks on for several bounds, and the worker still reads what comes then."""
    with job.run(http="127.0.0.1:0", stall_timeout="2") as worker:
        wait_until_ready(worker)
        looks = scrape(worker)["penstock_watchdog_looks_total{}"]
        wait_for(lambda: worker.process.poll() is not None or scrape(worker)["penstock_watchdog_looks_total{}"] > looks + 40, "looks", 60)
        assert worker.process.poll() is None, worker.log
        assert ask(worker, "/healthz")[1]["sources"] == {"readings": "idle: caught up"}
        job.send(range(8))
        job.wait_for_answers(8)
        assert worker.stop() == 0, worker.log


@pytest.mark.broker("pause")
def test_brokers_that_are_silent_for_longer_than_the_bound_are_no_stall(job: Job) -> None:
    """Whether brokers answer is asked more often than the watchdog's bound is long; `broker_timeout` decides how long to wait for them."""
    with job.run(http="127.0.0.1:0", stall_timeout="4", broker_timeout="60") as worker:
        wait_until_ready(worker)
        looks = scrape(worker)["penstock_watchdog_looks_total{}"]
        job.broker.pause()
        try:
            wait_for(
                lambda: worker.process.poll() is not None or scrape(worker)["penstock_watchdog_looks_total{}"] > looks + 30, "looks", 60
            )
            assert worker.process.poll() is None, worker.log
            assert ask(worker, "/readyz")[0] == 503
        finally:
            job.broker.resume()
        wait_until_ready(worker)
        job.send(range(8))
        job.wait_for_answers(8)
        assert worker.stop() == 0, worker.log


def test_a_port_in_use_ends_the_command_before_it_starts_anything(job: Job) -> None:
    with job.run(http="127.0.0.1:0") as first:
        wait_for(lambda: "serving /healthz" in first.log, first.log, 30)
        found = re.search(r"on http://(127\.0\.0\.1:\d+)", first.log)
        assert found is not None
        with job.run(http=found[1]) as second:
            assert second.wait() == 2
            assert second.log.startswith(f"error: http: cannot listen on {found[1]}: Address already in use"), second.log


def values(names: set[str], label: str) -> set[str]:
    """Every value that a label had in these series."""
    return {found for name in names for found in re.findall(rf"[{{,]{label}=([^,}}]+)", name)}


def children(worker: Running) -> dict[str, int]:
    """Process id by worker number, as the supervisor logged it last."""
    return {number: int(process) for number, process in re.findall(r"worker (\d+) is process (\d+)", worker.log)}


def test_pages_of_several_workers_while_one_is_killed(job: Job) -> None:
    """The real parser reads every scrape; counters move; no series but those of the workers, partitions and nodes; the killed is named."""
    names: set[str] = set()

    def look() -> Series:
        found = scrape(supervisor)
        names.update(found)
        return found

    def counted() -> float:
        """All records counted by the workers that live."""
        return sum(with_labels(look(), "penstock_records_in_total").values())

    def load(upto: int) -> None:
        job.send(range(upto - 200, upto))
        job.wait_for_answers(upto)

    def kill(victim: str) -> None:
        os.kill(children(supervisor)[victim], signal.SIGKILL)
        wait_for(lambda: look()[f"penstock_up{{worker={victim}}}"] == 0, "a page that shows it down", 20, 0.05)
        its_own = {series.partition("{")[0] for series in look() if f"worker={victim}" in series}
        assert its_own == {"penstock_up", "penstock_worker_restarts_total"}
        status, body = ask(supervisor, "/readyz")
        assert (status, [one.partition(":")[0] for one in body["missing"]]) == (503, [f"worker {victim}"])
        assert ask(supervisor, "/healthz")[0] == 200, "it is being started again"

    with job.run("--workers", "2", http="127.0.0.1:0") as supervisor:
        wait_until_ready(supervisor)
        assert with_labels(look(), "penstock_up") == {"penstock_up{worker=1}": 1, "penstock_up{worker=2}": 1}
        for upto in (200, 400):  # an answer can be read before it is counted, and a page is shown again for a moment
            load(upto)
            wait_for(lambda upto=upto: counted() == upto, f"{upto} records in the counters", 20, 0.05)  # type: ignore[misc]  # bound now
        for victim, upto in (("1", 600), ("2", 800), ("1", 1000)):
            kill(victim)
            wait_until_ready(supervisor)
            load(upto)
        last = look()
        restarts = with_labels(last, "penstock_worker_restarts_total")
        assert restarts == {"penstock_worker_restarts_total{worker=1}": 2, "penstock_worker_restarts_total{worker=2}": 1}
        assert values(names, "worker") == {"1", "2"}
        assert values(names, "partition") == {*"0123"}
        assert values(names, "node") == {"double"}
        assert len(with_labels(last, "penstock_next_offset")) == 4, "each partition has one owner"
        assert supervisor.stop() == 0, supervisor.log
        assert "Traceback" not in supervisor.log
