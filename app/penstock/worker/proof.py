"""A candidate beside the live plan on the last real rows, before it may say ready: failing rows, score drift and latency.

Both programs run over the same records, from bytes to outputs, with the code that scores them live: so a row fails here exactly when it
would be a dead letter. They run over twins of the loaded models, in the thread of the preparation, and hold no lock that scoring needs.
Rows for which live runs leave no memory are not checked: they count neither way.

Work is cut into slices of about SLICE seconds, with a rest as long as the slice: a worker with one core keeps half of it at least, and the
interpreter is never held for long. The first slice is one row, so a model that takes seconds per row costs a few of them. After
BUDGET seconds the proof ends with the rows that it has tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from penstock.batch import Array, Batch, Failure
from penstock.engine import Stage
from penstock.engine.observe import Observers
from penstock.errors import NoRoom, RecordError, Stopped
from penstock.evidence.guard import Counts, exceeds
from penstock.model.parity import Pair
from penstock.parcel import Parcel
from penstock.pipeline import Chunk, Pipeline, Program
from penstock.record import Position
from penstock.runtime import beside, with_models
from penstock.telemetry import Metrics
from penstock.transports.base import Abilities, Sent, Sink
from penstock.transports.tracker import Span
from penstock.worker.recent import PART, Kept, outputs_of

__all__ = ["BUDGET", "GOLDEN_ONLY", "Drift", "Proof", "Scored", "Trial", "prove", "run_pairs", "slices"]

BUDGET: Final = 10.0  # seconds of one proof
SLICE: Final = 0.005  # seconds of one run, about
REST: Final = 0.1  # seconds, at most, between two slices
GOLDEN_ONLY: Final = "proven on its golden records only: this worker has scored no real rows of its partitions yet"


@dataclass(frozen=True, slots=True)
class Scored:
    """What a program made of a chunk: the rows that failed, and the outputs of the others by field, `[len(rows), ...]`."""

    failures: Mapping[int, RecordError]
    rows: Array
    outputs: Mapping[str, Array]
    seconds: float


class Trial:
    """Runs one stage of a program over chunks, in a thread of the caller, and keeps no output. `sink` has the topics' size limits."""

    def __init__(self, program: Program, stage: str, sink: Sink | None = None) -> None:
        self._metrics = Metrics()
        self._seen: tuple[Batch, Sequence[Failure]] | None = None
        observers = Observers([self])
        self._pipeline = Pipeline(beside(program), stage, sink=_Nowhere(sink), metrics=self._metrics, observers=observers)

    name = "trial"

    def saw(self, stage: Stage, batch: Batch, failures: Sequence[Failure], *, generation: int) -> None:
        self._seen = batch, failures

    def run(self, chunk: Chunk) -> Scored | None:
        """Returns None when live runs leave no memory for it, or a join has put it together from other columns.

        Raises nothing because of a record or a model.
        """
        if not self._pipeline.knows(chunk):
            return None
        before = self._metrics.execute_seconds.value
        try:
            self._pipeline.process(chunk)
        except NoRoom:
            return None
        seconds = self._metrics.execute_seconds.value - before
        assert self._seen is not None
        batch, found = self._seen
        failures = {failure.row: failure.error for failure in reversed(found)}
        rows = np.arange(batch.size) if batch.rows is None else batch.rows
        return Scored(failures, rows, outputs_of(self._pipeline.stage, batch) if batch.size else {}, seconds)


class _Nowhere:
    """A sink that takes nothing: a trial asks it only how large an output may be."""

    abilities: Final = Abilities()

    def __init__(self, sink: Sink | None) -> None:
        self._sink = sink

    def limit(self, topic: str) -> int:
        return 2**31 if self._sink is None else self._sink.limit(topic)

    def fits(self, parcel: Parcel) -> bool:
        return self._sink is None or self._sink.fits(parcel)

    def partition_for(self, topic: str, key: bytes | None) -> int:
        return 0

    async def send(self, parcels: Sequence[Parcel], under: Span | None = None) -> Sent:
        raise NotImplementedError(f"{len(parcels)} parcels of a trial")


@dataclass(slots=True)
class Drift:
    """How far one output column of the candidate is from the live plan's, over the rows that both score.

    For numbers, `distance` is the sum of |candidate - live| over the values that both have, and `was` and `now` their sums. For
    everything else it is the number of values that differ. `lone` counts those that only one of them has: the other has null.
    """

    values: int = 0
    distance: float = 0.0
    was: float = 0.0
    now: float = 0.0
    numeric: bool = True
    lone: int = 0

    def add(self, live: Array, candidate: Array) -> None:
        """Adds the same rows of both, `[N, ...]`. Another shape or kind of values counts as a difference in each."""
        if live.shape == candidate.shape and "O" in (live.dtype.kind, candidate.dtype.kind):
            there = [_there(column) for column in (live, candidate)]
            self.lone += int((there[0] != there[1]).sum())
            both = there[0] & there[1]
            live, candidate = _typed(live[both]), _typed(candidate[both])
            if not live.size:
                return
        self.numeric = self.numeric and live.dtype.kind == "f" and candidate.dtype.kind == "f" and live.shape == candidate.shape
        self.values += live.size
        if self.numeric:
            old, new = live.astype(np.float64), candidate.astype(np.float64)
            self.distance += float(np.abs(new - old).sum())
            self.was += float(old.sum())
            self.now += float(new.sum())
        else:
            self.distance += float((live != candidate).sum()) if live.shape == candidate.shape else live.size

    def __str__(self) -> str:
        lone = f", and is null in one of them for {self.lone} rows" if self.lone else ""
        if not self.values:
            return f"has no values in both{lone}"
        if not self.numeric:
            return f"{self.distance / self.values:.2%} of the values differ{lone}"
        means = f"mean {self.was / self.values:.4g} → {self.now / self.values:.4g}"
        return f"differs by {self.distance / self.values:.3g} on average ({means}){lone}"


def _there(column: Array) -> Array:
    """Returns where the values are not null: bool, of the shape of the column."""
    return np.fromiter((one is not None for one in column.flat), bool, column.size).reshape(column.shape)


def _typed(column: Array) -> Array:
    """Returns values that share their array with nulls in the type that they have without."""
    return column.astype(np.float64) if column.size and isinstance(column.flat[0], float) else column


@dataclass(slots=True)
class Proof:
    """The result of a proof over `rows`, and `unchecked` ones for which there was no memory beside the live runs.

    `example` is the place, stage and reason of the first row that only the candidate failed on.
    """

    counts: Counts = field(default_factory=Counts)
    rows: int = 0
    unchecked: int = 0
    drift: dict[str, Drift] = field(default_factory=dict)
    live_seconds: float = 0.0
    seconds: float = 0.0
    example: tuple[Position, RecordError] | None = None

    def refusal(self, share: float, generation: int, versions: Mapping[str, str], changed: Sequence[str]) -> str:
        """Returns why the candidate is not ready, when more than `share` of the rows fails in it and not in `generation`; else "".

        `versions` are those of its nodes, and `changed` names the nodes that it binds to something else.
        """
        if self.example is None or not exceeds(self.counts, share):
            return ""
        place, error = self.example
        blamed = [f"nodes.{error.where}: {versions[error.where]}"] if error.where in versions else changed
        return (
            f"{', '.join(blamed)}: {self._told()} real rows fail in it and not in generation {generation} ({self.counts.share:.2%}, "
            f"more than the {share:.2%} of the setting failing_share); the first: {place}: {error.where}: {error}"
        )

    def _told(self) -> str:
        return f"{self.counts.new} of {self.counts.judged}"

    def __str__(self) -> str:
        if self.counts.judged:
            said = [f"proven on {self.rows} real rows: {self._told()} fail only in it ({self.counts.share:.2%})"]
            if self.counts.both:
                said[0] += f", {self.counts.both} in the live models too"
        elif self.rows:
            said = [f"proven on its golden records only: neither it nor the live models score any of the last {self.rows} real rows"]
        else:
            said = ["proven on its golden records only"] if self.unchecked else [GOLDEN_ONLY]
        if self.unchecked:
            why = "live runs left no memory for them (setting model_memory), or a join has put them together from other columns"
            said.append(f"{self.unchecked} real rows were not checked: {why}")
        said += [f"{name} {drift}" for name, drift in self.drift.items()]
        if self.counts.judged and self.live_seconds:
            said.append(f"{self.seconds / self.live_seconds:.2f} times the live latency")
        return "; ".join(said)


def prove(
    candidate: Program,
    live: Program,
    kept: Mapping[str, Sequence[Kept]],
    *,
    sink: Sink | None = None,
    stopped: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.perf_counter,
) -> Proof:
    """Runs both programs over what is kept, newest rows first, and returns the comparison. Raises Stopped when `stopped()`.

    Blocks: call it in a thread. Changes neither program.
    """
    proof = Proof()
    trials = {stage: (Trial(live, stage, sink), Trial(candidate, stage, sink)) for stage in kept}
    chunks = [(stage, part.chunk) for stage, parts in kept.items() for part in reversed(parts)]
    first = True
    for number, _, chunk in slices([chunk for _, chunk in chunks], BUDGET, stopped=stopped, clock=clock):
        stage = chunks[number][0]
        now, then = trials[stage]
        was = now.run(chunk)
        made = then.run(chunk) if was is not None else None
        if was is None or made is None:
            proof.unchecked += chunk.rows
            continue
        _compare(proof, stage if len(kept) > 1 else "", chunk, was, made)
        if not first:  # the first run of a model is not like the others
            proof.live_seconds += was.seconds
            proof.seconds += made.seconds
        first = False
    return proof


def run_pairs(
    program: Program,
    pairs: Mapping[str, Pair],
    kept: Mapping[str, Sequence[Kept]],
    *,
    sink: Sink | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Runs the program over what is kept, newest rows first, with the pairs in place of their nodes' models: they compare each run.

    Blocks, as `prove` does, within as many seconds. Raises Stopped when `stopped()`.
    """
    paired = with_models(program, lambda node: pairs.get(node.name, node.model))
    for stage, parts in kept.items():
        trial = Trial(paired, stage, sink)
        for _, _, piece in slices([part.chunk for part in reversed(parts)], BUDGET / len(kept), stopped=stopped):
            trial.run(piece)


def _compare(proof: Proof, stage: str, chunk: Chunk, was: Scored, made: Scored) -> None:
    new = [row for row in sorted(made.failures) if row not in was.failures]
    both = len(made.failures) - len(new)
    proof.rows += chunk.rows
    proof.counts += Counts(ok=chunk.rows - len(made.failures), new=len(new), both=both)
    if new and proof.example is None:
        proof.example = chunk.position(new[0]), made.failures[new[0]]
    fine = [row for row in range(chunk.rows) if row not in was.failures and row not in made.failures]
    if not fine:
        return
    old, young = np.searchsorted(was.rows, fine), np.searchsorted(made.rows, fine)
    for name, column in was.outputs.items():
        if name in made.outputs:
            drift = proof.drift.setdefault(f"{stage}: {name}" if stage else name, Drift())
            drift.add(column[old], made.outputs[name][young])


def slices(
    chunks: Sequence[Chunk],
    budget: float,
    *,
    stopped: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[tuple[int, int, Chunk]]:
    """Yields the chunks in small pieces, for `budget` seconds: the number of the chunk, the piece's first row there, and the piece.

    A piece is yielded when the one before has been worked on and a rest is over. Raises Stopped when `stopped()`.
    """
    ends = clock() + budget
    size = 1
    for number, chunk in enumerate(chunks):
        at = 0
        while at < chunk.rows:
            if stopped():
                raise Stopped
            began = clock()
            if began >= ends:
                return
            piece = chunk.part(at, min(at + size, chunk.rows))
            yield number, at, piece
            at += piece.rows
            took = max(clock() - began, 1e-6)
            size = max(1, min(PART, 4 * size, int(piece.rows * SLICE / took)))
            time.sleep(min(took, REST))
