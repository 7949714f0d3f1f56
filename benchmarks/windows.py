"""Measures keyed windows on one core: updates per second, memory, and how long a restart takes. Kafka is left out, unless it is asked for.

The job: count, sum, mean, min and max of one field over 5 minutes, 1 hour and 24 hours, 12 hops each. `uniform`: every key has a value in
every hop of all three look-backs, so the state cannot be larger; then rows of random keys, at 200,000 per second of event time. `zipf`:
25 hours of event time, in which every key comes once, and ten times as many rows follow Zipf's law (exponent 1). `sketches`: the same
with a distinct count (of 1,000 shops) and a quantile over the same look-backs, for a twentieth of the keys and a tenth of the rows.

Keys are new bytes in every batch, as decoded events have them. Time is CPU time of the process, memory its peak; each measurement has a
process of its own. A restart reads changelog records from a file, or the local snapshot.

On Kafka, the records are those of a changelog that was just compacted, in one partition: a record per key. What a worker runs before its
first fetch is measured then (`Changelogs.restore`): with no snapshot, and with the one that it has left. Client and broker share the cores.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from confluent_kafka import Producer

from benchmarks.measure import Progress
from benchmarks.report import Sheet
from benchmarks.suite import KINDS as BROKERS
from penstock import state
from penstock.batch import Array
from penstock.errors import TransportUnavailable
from penstock.settings import Settings
from penstock.state import Checkpoint, Entry
from penstock.testing.broker import Broker, open_broker
from penstock.testing.topics import create_topics, unique
from penstock.transports.kafka.changelog import CHANGELOG_CONFIG, Changelog, Changelogs
from penstock.windows import Aggregate, Definition, LookBack, Partition, open_partition
from penstock.windows.definition import Sketch
from penstock.windows.sketches import CELL, NOTHING, Kept, added, estimate

BEGIN: Final = 1_700_000_000_000 // 86_400_000 * 86_400_000  # ms
BATCH: Final = 4096
CHUNK: Final = 256  # rows of a pass through the models, by default
MEASURED: Final = 1_000_000
JOB: Final = Definition(
    ("customer",),
    tuple(Aggregate(kind, kind, "amount") for kind in ("count", "sum", "mean", "min", "max")),
    (LookBack("5m", 300_000), LookBack("1h", 3_600_000), LookBack("24h", 86_400_000)),
)
SKETCHED: Final = replace(JOB, aggregates=(Aggregate("shops", "distinct", "shop"), Aggregate("high", "quantile", "amount", q=0.95)))
QS: Final = (0.5, 0.9, 0.95, 0.99)
TRIALS: Final = 30


class Case(NamedTuple):
    """A column of the table: how keys are drawn, what is computed of them, one key in how many, and how many rows are measured."""

    keys: str
    job: Definition = JOB
    share: int = 1
    rows: int = MEASURED


CASES: Final = {"uniform": Case("uniform"), "zipf": Case("zipf"), "sketches": Case("zipf", SKETCHED, 20, MEASURED // 10)}


def measure(keys: int, progress: Progress, *, kafka: bool = False, bootstrap: str | None = None) -> Sheet:
    """A table of what was measured, for each case."""
    found: dict[str, dict[str, float]] = {}
    for at, (kind, case) in enumerate(CASES.items()):
        progress(f"{keys // case.share:,} {kind} keys", at, len(CASES))
        with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:

            def run(step: str, *more: str, kind: str = kind, folder: str = folder, share: int = case.share) -> dict[str, float]:
                command = [sys.executable, "-m", "benchmarks.windows", step, kind, str(keys // share), folder, *more]
                done: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                return done

            found[kind] = run("update") | run("changelog") | run("snapshot")
            if kafka:  # a broker for each kind: its disk has one changelog at a time
                with open_broker(bootstrap, kinds=BROKERS) as broker:
                    progress(f"{keys // case.share:,} {kind} keys, on Kafka", at, len(CASES))
                    topic = write(broker, Path(folder) / "changelog")
                    found[kind] |= run("kafka", broker.bootstrap, topic) | run("kafka-snapshot", broker.bootstrap, topic)
    names = found[next(iter(CASES))]
    rows = tuple(
        (name, *(f"{found[kind][name]:,.1f}" if found[kind][name] < 1000 else f"{found[kind][name]:,.0f}" for kind in CASES))
        for name in names
    )
    return Sheet(f"Windows of {keys:,} keys, 5 aggregates, 3 look-backs, on one core", ("", *CASES), rows)


def errors() -> Sheet:
    """How far the answers of sketches are off: the count as a part of the different values, and a quantile by its rank among the values.

    Windows of 13 hops with as many values each, all of them different; normal, log-normal and Pareto values in turn.
    """
    random, rows = np.random.default_rng(1), []
    for number in (1000, 10_000, 100_000):
        counts, ranks = [], []
        for trial in range(TRIALS):
            (count,) = _estimates("distinct", random.integers(-(2**62), 2**62, number).view(np.float64), [0])
            counts.append(abs(count / number - 1))
            values = (random.normal(size=number), random.lognormal(size=number), random.pareto(1.5, size=number))[trial % 3]
            ranks.append([abs(np.mean(values < found) - q) for q, found in zip(QS, _estimates("quantile", values, QS), strict=True)])
        shown = [counts, *np.transpose(ranks).tolist()]
        rows.append((f"{number:,}", *(f"{np.mean(one):.2%}, {max(one):.2%}" for one in shown)))
    names = ("values", "different", *(f"quantile {q:g}" for q in QS))
    return Sheet(f"Errors of sketches: mean and greatest of {TRIALS} windows", names, tuple(rows))


def _estimates(kind: Sketch, values: Array, qs: Sequence[float]) -> list[float]:
    hops: list[Kept] = []
    for part in np.array_split(values, 13):
        kept, cells = NOTHING, part.tobytes()
        for at in range(0, len(cells), CELL):
            kept = added(kind, kept, cells[at : at + CELL])
        hops.append(kept)
    return estimate(kind, hops[:-1], hops[-1], qs)


class Stream:
    """Batches into one partition, and the CPU seconds that they took."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.offset = 0
        self._random = np.random.default_rng(1)

    def run(self, ids: Array, times: Array) -> float:
        """Runs the rows of these keys as one batch; returns the CPU seconds."""
        keys = [b"customer-%09d" % one for one in ids.tolist()]
        offsets = np.arange(self.offset, self.offset + len(ids))
        values: dict[str, Array] = {"amount": self._random.normal(size=len(ids))}
        if self.partition.definition is SKETCHED:
            values["shop"] = self._random.integers(0, 1000, len(ids))
        self.offset += len(ids)
        begin = time.process_time()
        self.partition.run(keys, times, offsets, values, int(times[-1]))
        return time.process_time() - begin

    def rows(self, kind: str, keys: int, size: int, begin: int, count: int) -> Iterator[tuple[Array, Array]]:
        """Yields batches of random keys at the measured rate, from the event time `begin` (ms) on."""
        for at in range(0, count, size):
            number = min(size, count - at)
            yield self.keys(kind, keys, number), begin + (at + np.arange(number)) // 200

    def keys(self, kind: str, keys: int, number: int) -> Array:
        if kind == "uniform":
            return self._random.integers(0, keys, number)
        return np.asarray(
            np.minimum(np.exp(self._random.random(number) * np.log(keys + 1)).astype(np.int64), keys) - 1
        )  # P(rank) ~ 1 / rank

    def fill(self, kind: str, keys: int) -> int:
        """Brings the partition into the state that is measured; returns the event time that it has reached, ms."""
        if kind == "uniform":
            day, hour = BEGIN + 12 * 7_200_000, BEGIN + 12 * 7_200_000 + 3_600_000
            hops = [BEGIN + 7_200_000 * at for at in range(12)]
            hops += [day + 300_000 * at for at in range(12)] + [hour + 25_000 * at for at in range(13)]
            for hop in hops:  # each of them is a hop of the finest ring that it is for, and the keys share its time
                order = self._random.permutation(keys)
                for at in range(0, keys, BATCH):
                    self.run(order[at : at + BATCH], hop + np.arange(at, min(at + BATCH, keys)) * 20_000 // keys)
                _take(self.partition)
            return hops[-1] + 20_000
        total = 11 * keys
        ids = np.concatenate([np.arange(keys), self.keys(kind, keys, total - keys)])
        self._random.shuffle(ids)
        for at in range(0, total, BATCH):
            some = ids[at : at + BATCH]
            self.run(some, BEGIN + (at + np.arange(len(some))) * 90_000_000 // total)
            _take(self.partition)
        return BEGIN + 90_000_000


def update(kind: str, keys: int, folder: Path) -> dict[str, float]:
    """Fills a partition, measures updates, and leaves its changelog and its snapshot in the folder."""
    case = CASES[kind]
    partition = open_partition(case.job)
    stream = Stream(partition)
    now = stream.fill(case.keys, keys)
    found: dict[str, float] = {}
    for size in (BATCH, CHUNK):
        spent = written = records = 0.0
        for ids, times in stream.rows(case.keys, keys, size, now, case.rows):
            spent += stream.run(ids, times)
            begin = time.process_time()
            entries = [*partition.checkpoint()]
            written += time.process_time() - begin
            records += sum(len(key) + len(value or b"") for key, value in entries)
        now += case.rows // 200
        found[f"updates/s, batches of {size:,}"] = case.rows / spent
        found[f"with changelog records, batches of {size:,}"] = case.rows / (spent + written)
        if size == BATCH:
            found["bytes of changelog per update"] = records / case.rows
    found["keys"] = len(partition)
    found["peak RSS MB"] = _peak()
    with (folder / "changelog").open("wb") as file:
        for key, value in partition.checkpoint(whole=True):
            file.write(len(key).to_bytes(4, "little") + len(value or b"").to_bytes(4, "little") + key + (value or b""))
    found["changelog MB"] = (folder / "changelog").stat().st_size / 1e6
    begin = time.perf_counter()
    file_of = state.save(folder, partition, 0, 0)
    found["snapshot written s"] = time.perf_counter() - begin
    found["snapshot MB"] = file_of.stat().st_size / 1e6
    return found


def changelog(kind: str, keys: int, folder: Path) -> dict[str, float]:
    """Restores a partition from the records of its changelog."""
    partition = open_partition(CASES[kind].job)
    begin = time.perf_counter()
    partition.restore(_records(folder / "changelog"))
    return {"restore from the changelog s": time.perf_counter() - begin, "peak RSS MB of that": _peak()}


def snapshot(kind: str, keys: int, folder: Path) -> dict[str, float]:
    """Restores a partition from its snapshot."""
    partition = open_partition(CASES[kind].job)
    begin = time.perf_counter()
    loaded = state.load(folder, partition, 0)
    if isinstance(loaded, state.Refused):
        sys.exit(loaded.reason)
    return {"restore from the snapshot s": time.perf_counter() - begin, "peak RSS MB of it": _peak()}


def write(broker: Broker, file: Path) -> str:
    """Writes the records of the file to a new changelog of one partition, and returns its topic."""
    topic = unique("bench-changelog")
    create_topics(broker, {topic: 1}, CHANGELOG_CONFIG)
    producer = Producer(
        {"bootstrap.servers": broker.bootstrap, "linger.ms": 20, "enable.idempotence": True, "queue.buffering.max.kbytes": 65536}
    )
    for key, value in _records(file):
        while True:
            try:
                producer.produce(topic, value, key, 0)
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(60):
        raise TransportUnavailable(f"{topic}: its records were not acknowledged within 60 s")
    return topic


def kafka(kind: str, keys: int, folder: Path, bootstrap: str, topic: str) -> dict[str, float]:
    """Restores a partition from its changelog on Kafka, and leaves its snapshot in the folder."""
    seconds, logs = _restart(folder, bootstrap, topic)
    found = {"restart from the changelog on Kafka s": seconds, "peak RSS MB of this": _peak()}
    logs.save()
    return found


def kafka_snapshot(kind: str, keys: int, folder: Path, bootstrap: str, topic: str) -> dict[str, float]:
    """Restores a partition from the snapshot that its last owner has left, and what the changelog on Kafka has beyond: nothing."""
    seconds, _ = _restart(folder, bootstrap, topic)
    return {"restart with the snapshot on Kafka s": seconds, "peak RSS MB of it on Kafka": _peak()}


def _restart(folder: Path, bootstrap: str, topic: str) -> tuple[float, Changelogs]:
    async def nothing(checkpoint: Checkpoint, now_ms: int) -> None:
        raise AssertionError("the source was not created again")

    def same(topic: str) -> str:
        return "id"

    log = Changelog(topic, "source", lambda: open_partition(JOB))
    logs = Changelogs(Settings(brokers=bootstrap), {"window": log}, folder / "state", id_of=same, write=nothing)
    begin = time.perf_counter()
    asyncio.run(logs.restore({("source", 0): 1 << 62}, (), lambda: True))
    seconds = time.perf_counter() - begin
    if not len(logs.states):
        sys.exit("the state was not restored")
    return seconds, logs


def _records(file: Path) -> Iterator[Entry]:
    with file.open("rb") as opened:
        while head := opened.read(8):
            key, value = int.from_bytes(head[:4], "little"), int.from_bytes(head[4:], "little")
            yield opened.read(key), opened.read(value) or None


def _take(partition: Partition) -> None:
    for _ in partition.checkpoint():
        pass


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


STEPS: Final[dict[str, Callable[..., dict[str, float]]]] = {
    "update": update,
    "changelog": changelog,
    "snapshot": snapshot,
    "kafka": kafka,
    "kafka-snapshot": kafka_snapshot,
}

if __name__ == "__main__":
    gc.disable()  # as in a worker
    print(json.dumps(STEPS[sys.argv[1]](sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), *sys.argv[5:])))
