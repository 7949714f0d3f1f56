"""The demo's counts: events in and out, their latency, and the quality of each node's predictions.

A prediction is judged when its flight has landed in event time; until then it counts as in the air. Everything is counted
for the whole run, and for each generation of models with outputs.
"""

from __future__ import annotations

import heapq
from array import array
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from penstock.batch import Array

__all__ = ["LATE", "NODES", "Auc", "Generation", "Prediction", "Tally", "Verdict"]

LATE = 15.0  # minutes
NODES = ("logistic", "trees", "stack")
HISTOGRAM_BINS = 10
LATEST = 8


@dataclass(frozen=True, slots=True)
class Prediction:
    """The probability of a late arrival by each of NODES, 0 to 1, NaN where a join did without it; `generation` is that of the models."""

    flight_id: str
    carrier: str
    dest: str
    scores: tuple[float, ...]
    generation: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Verdict:
    """A prediction and the truth: the delay in minutes at `arrived_at`, ms since the epoch, UTC."""

    arrived_at: int
    prediction: Prediction = field(compare=False)
    arr_delay: float = field(compare=False)

    @property
    def late(self) -> bool:
        return self.arr_delay > LATE


class Auc:
    """The area under the ROC curve of a stream of scores in 0..1, in constant memory.

    Scores are counted in `bins` equal bins; two scores in one bin count as equal, so as half right. The result differs
    from the exact one by at most `resolution`: half the share of pairs (one late, one not) that meet in a bin.
    """

    def __init__(self, bins: int = 1 << 14) -> None:
        self._late = np.zeros(bins, np.int64)
        self._not = np.zeros(bins, np.int64)

    def add(self, scores: Array, late: Array) -> None:
        """Counts `[N]` scores and their outcomes, `[N]` bool."""
        bins = len(self._late)
        place = np.minimum((scores * bins).astype(np.int64), bins - 1)
        self._late += np.bincount(place[late], minlength=bins)
        self._not += np.bincount(place[~late], minlength=bins)

    @property
    def value(self) -> float | None:
        """None until both outcomes have been seen."""
        pairs = int(self._late.sum()) * int(self._not.sum())
        if not pairs:
            return None
        below = np.cumsum(self._not) - self._not
        # Not `@`: for a vector of this length, BLAS starts threads, which then spin on the cores that the worker needs.
        return float((self._late * (below + self._not / 2)).sum() / pairs)

    def __str__(self) -> str:
        return "  -  " if self.value is None else f"{self.value:.4f}"

    @property
    def resolution(self) -> float:
        """The largest possible distance of `value` from the exact area."""
        pairs = int(self._late.sum()) * int(self._not.sum())
        return float((self._late * self._not).sum() / 2 / pairs) if pairs else 0.0


def _areas() -> dict[str, Auc]:
    return {node: Auc() for node in NODES}


@dataclass
class Generation:
    """The results of one generation: `models` by node from its first output, `first` the time of that output (the caller's clock)."""

    models: dict[str, str]
    first: float
    outputs: int = 0
    auc: dict[str, Auc] = field(default_factory=_areas)


@dataclass
class Tally:
    """Everything the demo has seen so far. `event_time` is in ms since the epoch, other times in seconds of the caller's clock.

    `doubled` counts outputs of events that already had one.
    """

    total: int
    sent: int = 0
    received: int = 0
    doubled: int = 0
    dead_letters: int = 0
    first_dead_letter: str = ""
    diverted: int = 0
    event_time: int = 0
    started: float = 0.0
    ended: float = 0.0
    latencies: array[float] = field(default_factory=lambda: array("f"))
    auc: dict[str, Auc] = field(default_factory=_areas)
    generations: dict[int, Generation] = field(default_factory=dict)
    latest: deque[Verdict] = field(default_factory=lambda: deque(maxlen=LATEST))
    scores: Array = field(default_factory=lambda: np.zeros(HISTOGRAM_BINS, np.int64))
    late: Array = field(default_factory=lambda: np.zeros(HISTOGRAM_BINS, np.int64))
    judged: Array = field(default_factory=lambda: np.zeros(HISTOGRAM_BINS, np.int64))
    _air: list[Verdict] = field(default_factory=list)
    _recent: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def outstanding(self) -> int:
        """Events sent that came back neither as a prediction nor as a dead letter."""
        return self.sent - self.answered

    @property
    def answered(self) -> int:
        """Events that came back, as a prediction or as a dead letter."""
        return self.received + self.dead_letters

    @property
    def in_air(self) -> int:
        """Predictions whose flight has not landed yet."""
        return len(self._air)

    def began(self, generation: int, models: dict[str, str], now: float) -> None:
        """Counts an output of `generation`; the first one names its models."""
        self.generations.setdefault(generation, Generation(models, now))

    def predicted(self, prediction: Prediction, latency: float | None, arrival: tuple[float, int] | None) -> None:
        """Counts a prediction, received `latency` seconds after its event was sent (None: do not count the latency).

        `arrival` is (arr_delay, arrived_at), None when the flight was diverted.
        """
        self.received += 1
        self.generations[prediction.generation].outputs += 1
        if latency is not None:
            self.latencies.append(latency)
        self.scores[_bin(prediction.scores[-1])] += 1
        if arrival is None:
            self.diverted += 1
        else:
            heapq.heappush(self._air, Verdict(arrival[1], prediction, arrival[0]))

    def land(self) -> None:
        """Judges the predictions whose flights have landed by `event_time`, the time of the latest event sent."""
        landed = []
        while self._air and self._air[0].arrived_at <= self.event_time:
            landed.append(heapq.heappop(self._air))
        self._judge(landed)

    def land_all(self) -> None:
        """Judges those still in the air: the replay is over."""
        landed, self._air = sorted(self._air), []
        self._judge(landed)

    def rate(self, now: float, window: float = 2.0) -> float:
        """Predictions per second over the last `window` seconds; call it regularly."""
        self._recent.append((now, self.received))
        while len(self._recent) > 2 and now - self._recent[1][0] >= window:
            self._recent.popleft()
        then, before = self._recent[0]
        return (self.received - before) / (now - then) if now > then else 0.0

    def latency(self, percentile: float, last: int | None = None) -> float:
        """A percentile of the latencies (of the `last` ones), in ms; 0 before the first."""
        seen = np.frombuffer(self.latencies[-last:] if last else self.latencies, np.float32)
        return float(np.percentile(seen, percentile)) * 1000 if len(seen) else 0.0

    def _judge(self, landed: list[Verdict]) -> None:
        if not landed:
            return
        late = np.array([verdict.late for verdict in landed])
        scores = np.array([verdict.prediction.scores for verdict in landed])
        _add(self.auc, scores, late)
        made_by = np.array([verdict.prediction.generation for verdict in landed])
        for number in np.unique(made_by).tolist():
            mine = made_by == number
            _add(self.generations[number].auc, scores[mine], late[mine])
        bins = np.minimum((scores[:, -1] * HISTOGRAM_BINS).astype(int), HISTOGRAM_BINS - 1)
        self.judged += np.bincount(bins, minlength=HISTOGRAM_BINS)
        self.late += np.bincount(bins[late], minlength=HISTOGRAM_BINS)
        self.latest.extend(landed[-LATEST:])


def _add(areas: dict[str, Auc], scores: Array, late: Array) -> None:
    for column, node in enumerate(NODES):
        there = np.isfinite(scores[:, column])
        areas[node].add(scores[there, column], late[there])


def _bin(score: float) -> int:
    return min(int(score * HISTOGRAM_BINS), HISTOGRAM_BINS - 1)
