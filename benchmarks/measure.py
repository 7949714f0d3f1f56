"""How each figure is measured. The contender is a black box: only Kafka's clock and the process tree are read.

throughput  a full input topic, a new output topic stamped by the broker. `ev_s`: outputs per second, from the first output's
            append to the N-th's, without those of the first millisecond. `cpu_us_ev`: user and system time of the process
            tree per output, between the first check that found outputs and the one that found N. `cores` is the use of the
            contender, `other_cores` that of everything else (broker, harness, other processes: above 0.5 a figure is
            doubtful, unless the broker is that busy). `rss_mb`: peak of the tree's resident memory (pages that are shared count for each).
            `start_s`: from process start to the first output. `duplicates`: outputs per key after the first.
paced       new topics, `rate` events per second sent evenly, each stamped when it is produced. After the contender has caught up
            and `warmup` seconds, `seconds` are measured: the append time of an event's output minus its stamp, joined by key.
Both compare about 2,000 outputs with the models run directly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from confluent_kafka import Producer

from benchmarks.contender import Contender, Running, busy, running
from benchmarks.kafka import PARTITIONS, Cluster
from benchmarks.results import Figures, Result
from benchmarks.workload import Flights, Scorer, check, key, number
from penstock.batch import Array
from penstock.errors import TransportUnavailable

SAMPLE = 2000
LOOK_EVERY = 0.2  # seconds between two checks of topic and processes

Progress = Callable[[str, int, int], None]  # the activity, its progress, its total


@dataclass(frozen=True, slots=True)
class Bench:
    """The shared state of the runs of one session. `work` is a scratch folder, `timeout` (seconds) ends a run that does not finish,
    `groups` are the consumer groups of the runs so far.
    """

    cluster: Cluster
    flights: Flights
    models: Path
    work: Path
    timeout: float
    progress: Progress
    groups: list[str] = field(default_factory=list)

    def command(self, contender: Contender, input: str, output: str) -> list[str]:
        """Returns its command line, with a new consumer group and a new scratch folder (both are named after the output topic)."""
        state = self.work / output
        state.mkdir()
        self.groups.append(output)
        return contender.command(
            bootstrap=self.cluster.broker.bootstrap, input=input, output=output, models=self.models, group=output, state=state
        )


class Look(NamedTuple):
    """One check of a running contender: the time, outputs so far, CPU seconds of its tree and of the machine."""

    at: float
    outputs: int
    cpu: float
    machine: float


def throughput(bench: Bench, contender: Contender, input: str, n: int) -> Result:
    """`n` outputs from a topic that holds at least as many events. Raises WorkerFailed; TransportUnavailable on a timeout."""
    output = bench.cluster.topic(contender.name, append_time=True)
    with running(bench.command(contender, input, output), bench.work / f"{output}.log") as started:
        looks = list(_watch(bench, contender, started, output, n))
    stamps, counts, sample = _read(bench, output)
    figures = rate_of(stamps, n) | cpu_of(looks) | {
        "start_s": float(stamps.min()) / 1e3 - started.began,
        "rss_mb": started.rss_peak / 1e6,
        "duplicates": float((counts - 1).clip(0).sum()),
    }  # fmt: skip
    return Result("throughput", contender.name, n, figures, check(Scorer(bench.models), bench.flights, sample))


def _watch(bench: Bench, contender: Contender, started: Running, output: str, n: int) -> list[Look]:
    looks: list[Look] = []
    while not looks or looks[-1].outputs < n:
        time.sleep(LOOK_EVERY)
        started.check()
        look = Look(time.time(), bench.cluster.ends(output), started.cpu(), busy())
        if look.outputs:
            looks.append(look)
        if look.at - started.began > bench.timeout and look.outputs < n:
            raise TransportUnavailable(f"{contender.title}: {look.outputs:,} of {n:,} outputs after {bench.timeout:g} s (--timeout)")
        bench.progress(contender.title, min(look.outputs, n), n)
    return looks


def rate_of(stamps: Array, n: int) -> Figures:
    """Events per second over the first `n` of the append times (ms)."""
    first = np.sort(stamps)[:n]
    counted = int((first > first[0]).sum())
    return {"ev_s": counted / (float(first[-1] - first[0]) / 1e3)} if counted else {}


def cpu_of(looks: Sequence[Look]) -> Figures:
    """Returns CPU µs per output and cores used, between the first and the last check; nothing when there was only one."""
    first, last = looks[0], looks[-1]
    if last.outputs == first.outputs:
        return {}
    cpu, seconds = last.cpu - first.cpu, last.at - first.at
    return {
        "cpu_us_ev": cpu / (last.outputs - first.outputs) * 1e6,
        "cores": cpu / seconds,
        "other_cores": (last.machine - first.machine - cpu) / seconds,
    }


def _read(bench: Bench, output: str) -> tuple[Array, Array, list[tuple[bytes, bytes]]]:
    """Append times in order of reading, outputs of each event number, and an even sample of (key, value)."""
    total = bench.cluster.ends(output)
    stamps, numbers, sample = np.zeros(total, np.int64), np.zeros(total, np.int64), []
    step = max(1, total // SAMPLE)
    for at, seen in enumerate(bench.cluster.read(output)):
        stamps[at], numbers[at] = seen.at, number(seen.key)
        if at % step == 0:
            sample.append((seen.key, seen.value))
        if at % 20_000 == 0:
            bench.progress("comparing outputs", at, total)
    return stamps, np.bincount(numbers), sample


def paced(bench: Bench, contender: Contender, *, rate: int, seconds: int, warmup: int) -> Result:
    """Measures latency at `rate` events per second. Raises WorkerFailed; TransportUnavailable when it never catches up."""
    input, output = bench.cluster.topic("paced"), bench.cluster.topic(contender.name, append_time=True)
    most = rate * (int(bench.timeout) + warmup + seconds + 10)
    feed = _Feed(bench.cluster.producer(0), input, bench.flights.values(most, contender.format, bench.work), rate)
    with running(bench.command(contender, input, output), bench.work / f"{output}.log") as started:
        while bench.cluster.ends(output) <= max(1, feed.sent - rate / 2):
            started.check()
            if feed.sent > rate * bench.timeout:
                raise TransportUnavailable(
                    f"{contender.title} did not catch up with {rate} events/s within {bench.timeout:g} s (--timeout)"
                )
            bench.progress(f"{contender.title}: catching up", 0, 1)
            feed.go(0.5)
        for second in range(warmup):
            bench.progress(f"{contender.title}: warming up", second, warmup)
            feed.go(1)
        low, looks = feed.sent, [Look(time.time(), feed.sent, started.cpu(), busy())]
        for second in range(seconds):
            bench.progress(f"{contender.title}: {rate:,} events/s", second, seconds)
            feed.go(1)
            started.cpu()
        looks.append(Look(time.time(), feed.sent, started.cpu(), busy()))
        feed.finish()
        _arrive(bench, started, output, feed.sent)
    sent = _stamps(bench, input, feed.sent)
    got = _stamps(bench, output, feed.sent)
    _, counts, sample = _read(bench, output)
    figures = latency_of(sent[low : looks[1].outputs], got[low : looks[1].outputs]) | cpu_of(looks) | {
        "rate": float(rate),
        "rss_mb": started.rss_peak / 1e6,
        "duplicates": float((counts - 1).clip(0).sum()),
    }  # fmt: skip
    return Result("paced", contender.name, looks[1].outputs - low, figures, check(Scorer(bench.models), bench.flights, sample))


def latency_of(sent: Array, got: Array) -> Figures:
    """Percentiles of the time between two stamps (ms) of the same events; 0 is a missing output."""
    there = got > 0
    if not there.any():
        return {"missing": float(len(got))}
    late = (got - sent)[there]
    p50, p90, p99 = (float(value) for value in np.percentile(late, [50, 90, 99]))
    return {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "max_ms": float(late.max()), "missing": float((~there).sum())}


class _Feed:
    """Sends events evenly, each stamped when it is passed to the client."""

    def __init__(self, producer: Producer, topic: str, values: Iterator[bytes], rate: int) -> None:
        self._producer, self._topic, self._values, self._rate = producer, topic, values, rate
        self.sent = 0

    def go(self, seconds: float) -> None:
        began, base = time.time(), self.sent
        while (now := time.time()) - began < seconds:
            for at in range(self.sent, base + int((now - began) * self._rate)):
                self._producer.produce(self._topic, next(self._values), key(at), at % PARTITIONS, timestamp=int(time.time() * 1e3))
                self.sent += 1
            self._producer.poll(0)
            time.sleep(0.0005)

    def finish(self) -> None:
        self._producer.flush(30)


def _arrive(bench: Bench, started: Running, output: str, wanted: int) -> None:
    """Waits until all outputs are there, or for 30 s: outputs that are still missing are counted as missing."""
    deadline = time.monotonic() + 30
    while bench.cluster.ends(output) < wanted and time.monotonic() < deadline:
        started.check()
        time.sleep(LOOK_EVERY)


def _stamps(bench: Bench, topic: str, count: int) -> Array:
    """The timestamp of each event number; the first one of duplicates."""
    stamps = np.zeros(count, np.int64)
    for seen in bench.cluster.read(topic):
        at = number(seen.key)
        stamps[at] = stamps[at] or seen.at
    return stamps
