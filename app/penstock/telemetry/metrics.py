"""Every metric of a worker, declared in one place: the body of `Metrics` is the table from which `docs/reference/metrics.md` is made.

The hot loop touches a metric once per chunk or batch, never once per record. Nothing here is global: each worker has
its own `Metrics`, so a process can hold several. Label values are bounded: partitions assigned now, nodes of the
topology, versions loaded now, registered observers, causes of refusal and of failure.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from penstock.telemetry.families import Counter, Family, Gauge, Histogram, Kind, Labelled, Labels, Scraped

__all__ = ["FAMILIES", "SUPERVISOR", "Metrics", "NodeCells", "NodeMeter", "model_of"]

SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
CHUNK_SECONDS: Final = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)
NODE: Final = ("node", "model", "version")
PARTITION: Final = ("topic", "partition")


class _Declared(NamedTuple):
    """A row of the table, before it has a name."""

    kind: Kind
    help: str
    unit: str
    labels: Labels
    bounds: tuple[float, ...]
    scraped: bool

    def named(self, name: str) -> Family:
        return Family(name, self.kind, self.help, self.unit, self.labels, self.bounds, self.scraped)


def _counter(help: str, *, unit: str, labels: Labels = (), scraped: bool = False) -> Any:
    return _Declared("counter", help, unit, labels, (), scraped)


def _gauge(help: str, *, unit: str = "", labels: Labels = (), scraped: bool = False) -> Any:
    return _Declared("gauge", help, unit, labels, (), scraped)


def _histogram(help: str, bounds: Sequence[float], *, unit: str, labels: Labels = ()) -> Any:
    return _Declared("histogram", help, unit, labels, tuple(bounds), False)


class NodeCells(NamedTuple):
    """The cells of one node with one model version."""

    rows: Counter
    failures: Counter
    seconds: Histogram


class Metrics:
    """Every metric of a worker. Counters only grow; gauges are set; histograms observe one value per batch or chunk."""

    records_in: Counter = _counter("Records taken from the sources, outputs acknowledged.", unit="records")
    records_out: Counter = _counter("Predictions acknowledged by the brokers.", unit="records")
    dead_letters: Labelled[Counter] = _counter(
        "Records acknowledged in a dead-letter topic, by the failed step (read, decode, a node, encode, send) and the error's class.",
        unit="records",
        labels=("step", "reason"),
    )
    skipped: Counter = _counter("Records that the envelope of their source says to skip: deletions and tombstones.", unit="records")
    batches: Counter = _counter("Batches finished: every output acknowledged.", unit="batches")
    offloaded: Counter = _counter("Chunks that ran in a thread beside the event loop because they take long.", unit="chunks")
    splits: Counter = _counter("Chunks that were split to find the row that a model fails on.", unit="chunks")

    join_missing: Labelled[Counter] = _counter(
        "Answers and dead letters of a stage that joins, without this member.", unit="events", labels=("stage", "member")
    )
    join_late: Labelled[Counter] = _counter(
        "Records of a member that came when their event was decided, or came twice: they answer nothing.",
        unit="records",
        labels=("stage", "member"),
    )
    join_waiting: Scraped = _gauge("Records of a member that wait for others.", unit="records", labels=("stage", "member"), scraped=True)

    decode_seconds: Counter = _counter("Time spent turning bytes into columns.", unit="s")
    execute_seconds: Counter = _counter("Time spent in the plan, models included.", unit="s")
    encode_seconds: Counter = _counter("Time spent turning columns into bytes.", unit="s")

    node_rows: Labelled[Counter] = _counter("Rows that entered a node.", unit="rows", labels=NODE)
    node_failures: Labelled[Counter] = _counter("Rows that failed in a node.", unit="rows", labels=NODE)
    node_seconds: Labelled[Histogram] = _histogram("Time of one chunk in a node.", CHUNK_SECONDS, unit="s", labels=NODE)

    window_rows: Scraped = _counter(
        "Rows of a window that are late, were replayed, or came after a later event of their key (disordered): see docs/windows.md.",
        unit="rows",
        labels=("node", "mark"),
        scraped=True,
    )
    table_rows: Scraped = _gauge("Rows of a table that lookups of this worker read.", unit="rows", labels=("table",), scraped=True)
    table_refused: Labelled[Counter] = _counter(
        "Records of a table that are no row: their key keeps the row that it had.", unit="records", labels=("table",)
    )
    match_rows: Labelled[Counter] = _counter(
        "Rows of a match: pairs, and left events that went on without one (unmatched); of the events that came, those that were late or "
        "replayed, and those that max_keys has evicted: see docs/matches.md.",
        unit="rows",
        labels=("match", "mark"),
    )
    state_keys: Gauge = _gauge("Keys that the windows and matches of this worker hold.", unit="keys")

    commits: Counter = _counter("Commits of offsets that the brokers accepted.", unit="commits")
    commit_failures: Counter = _counter("Commits of offsets that the brokers refused.", unit="commits")
    rebalances: Counter = _counter("Assignments of partitions to this worker.", unit="assignments")
    refetches: Counter = _counter("Batches that did not begin at the expected offset and were fetched again.", unit="batches")

    swaps: Counter = _counter("Changes of the generation that this worker scores with.", unit="swaps")
    releases_failed: Counter = _counter("Releases that this worker could not make ready.", unit="releases")
    control_refused: Scraped = _counter(
        "Control messages that were refused or had no effect, by cause.", unit="messages", labels=("cause",), scraped=True
    )
    validity_failures: Counter = _counter(
        "Failed checks of the live plan: golden records, recent rows, or parts of another release.",
        unit="checks",
    )
    trial_rows: Labelled[Counter] = _counter(
        "Rows while a candidate is on trial, by who has answered: live, candidate, live for a candidate that could not (fell back), or "
        "live because the row has no unit (no unit).",
        unit="rows",
        labels=("outcome",),
    )
    guard_failures: Counter = _counter("Rows that failed in a new generation and that the one before it scores.", unit="rows")

    observed: Labelled[Counter] = _counter("Chunks shown to an observer.", unit="chunks", labels=("observer",))
    observer_failures: Labelled[Counter] = _counter(
        "Failures of observers. The first failure disables the observer.", unit="failures", labels=("observer",)
    )
    observer_seconds: Labelled[Counter] = _counter("Time spent in an observer.", unit="s", labels=("observer",))

    lookups: Labelled[Counter] = _counter(
        "Events looked up in the store, by what became of them: hit, stale, miss, nearest, default, unknown, fallback, unkeyed.",
        unit="events",
        labels=("outcome",),
    )
    lookup_seconds: Histogram = _histogram("Time of one lookup: of a batch of events, the store's answer included.", SECONDS, unit="s")
    lookup_failures: Counter = _counter("Requests to the store that failed, or were not answered in time.", unit="requests")
    lookup_written: Counter = _counter("Answers that were scored and written back to the store.", unit="answers")
    requests: Labelled[Counter] = _counter(
        "Requests that the service has answered: by door (http, grpc), by model or source, and by the answer's code.",
        unit="requests",
        labels=("door", "target", "code"),
    )
    request_seconds: Labelled[Histogram] = _histogram("From a request's arrival to its answer.", SECONDS, unit="s", labels=("door",))
    requests_waiting: Gauge = _gauge("Requests to the service that wait for their turn.", unit="requests")

    watchdog_looks: Counter = _counter("Checks of this worker by the watchdog.", unit="looks")

    generation: Gauge = _gauge("The generation that this worker scores with.")
    control_age_seconds: Scraped = _gauge(
        "Time since the brokers last confirmed that the control log is read to its end. Only of a service.", unit="s", scraped=True
    )
    partitions: Gauge = _gauge("Partitions assigned now.", unit="partitions")
    in_flight_batches: Gauge = _gauge("Batches whose outputs are not acknowledged yet.", unit="batches")
    in_flight_bytes: Gauge = _gauge("Bytes of the batches in flight.", unit="bytes")
    ready: Scraped = _gauge("1 for each condition of readiness that holds, else 0.", labels=("condition",), scraped=True)

    next_offset: Scraped = _gauge("The next offset to take.", unit="offset", labels=PARTITION, scraped=True)
    backlog_records: Scraped = _gauge(
        "Offsets between the next one to take and the last stable one: what a read-committed reader has yet to read.",
        unit="records",
        labels=PARTITION,
        scraped=True,
    )
    seconds_behind: Scraped = _gauge(
        "Age of the newest record taken, by its timestamp; 0 without a backlog, absent before the first record.",
        unit="s",
        labels=PARTITION,
        scraped=True,
    )

    batch_rows: Histogram = _histogram("Rows of a batch.", [2**n for n in range(0, 16, 2)], unit="rows")
    batch_seconds: Histogram = _histogram("From taking a batch to its last acknowledgement.", SECONDS, unit="s")

    def __init__(self) -> None:
        for name, family in FAMILIES.items():
            setattr(self, name, _held(family))

    def __getitem__(self, name: str) -> Counter | Gauge | Histogram | Labelled[Any] | Scraped:
        """Returns the object that holds the numbers of the family."""
        found: Counter | Gauge | Histogram | Labelled[Any] | Scraped = getattr(self, name)
        return found

    def snapshot(self) -> dict[str, Any]:
        """Every metric by name: a number, a histogram's snapshot, or these by label values. A copy, safe to keep."""
        return {name: self[name].snapshot() for name in FAMILIES}

    def node(self, node: str, version: str) -> NodeCells:
        """Returns the cells of a node that runs this version (`flight-lr@3`)."""
        labels = (node, *model_of(version))
        return NodeCells(self.node_rows.labels(*labels), self.node_failures.labels(*labels), self.node_seconds.labels(*labels))

    def retain_nodes(self, loaded: Collection[tuple[str, str]]) -> None:
        """Drops the series of each node and version that is not in these pairs, so that an unloaded model has no series."""
        wanted = {(node, *model_of(version)) for node, version in loaded}
        for family in (self.node_rows, self.node_failures, self.node_seconds):
            family.retain(wanted.__contains__)


def _held(family: Family) -> Counter | Gauge | Histogram | Labelled[Any] | Scraped:
    if family.scraped:
        return Scraped(family)
    return Labelled(family) if family.labels else family.cell()


FAMILIES: Final[Mapping[str, Family]] = {name: one.named(name) for name, one in vars(Metrics).items() if isinstance(one, _Declared)}

SUPERVISOR: Final = (  # added by `penstock run --workers N`, where every series of a worker has the label `worker`
    Family("up", "gauge", "1 for a worker that answered the scrape, 0 for one that did not.", "", ("worker",)),
    Family("worker_restarts", "counter", "Times that a worker was killed and started again.", "starts", ("worker",)),
)


def model_of(version: str) -> tuple[str, str]:
    """`flight-lr@3` -> ("flight-lr", "3")."""
    model, _, number = version.rpartition("@")
    return model, number


class NodeMeter:
    """A stopwatch over the nodes of a stage: `start` once per chunk, one call after each node (as `execute` makes it), then `count`.

    A chunk that is abandoned before `count` is not counted: its rows are counted when it runs again. One object serves a
    pipeline, which is safe because a pipeline runs one chunk at a time.
    """

    __slots__ = ("_at", "_cells", "_clock", "_laps")

    def __init__(self, cells: Mapping[str, NodeCells], clock: Callable[[], float] = time.perf_counter) -> None:
        self._cells = cells
        self._clock = clock
        self._at = 0.0
        self._laps: list[tuple[str, int, int, float]] = []

    def start(self, now: float) -> None:
        self._at = now
        self._laps.clear()

    def __call__(self, node: str, rows: int, left: int) -> None:
        """Counts that the node has run over `rows` rows and `left` of them did not fail."""
        self._laps.append((node, rows, left, self._clock()))

    def blame(self, nodes: Iterable[str]) -> None:
        """Counts rows that failed because of what these nodes computed, once per row."""
        for node in nodes:
            self._cells[node].failures.inc()

    def count(self) -> None:
        at = self._at
        for node, rows, left, now in self._laps:
            counter, failures, seconds = self._cells[node]
            counter.value += rows  # neither `inc` nor `observe`: at one row per chunk the calls would be percents of the whole turn
            took = now - at
            seconds.counts[bisect_left(seconds.bounds, took)] += 1
            seconds.count += 1
            seconds.sum += took
            if left != rows:
                failures.inc(rows - left)
            at = now
