"""Observers: what looks at executed batches and changes nothing. Drift, experiments and shadows are observers.

1. An observer receives a random sample of the chunks, with its own seed: the same chunks in the same order give the same sample.
2. It receives a chunk once, after the outputs were made, so that its changes to the columns cannot reach an output.
3. An observer that raises is counted, logged and switched off. The stream continues without it.

An observer runs where the chunk runs, between two slices of the event loop or in the thread of a slow model: it must be quick.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from penstock.batch import Batch, Failure
from penstock.engine.plan import Stage
from penstock.telemetry import Metrics

__all__ = ["Observer", "Observers", "Sampled"]

logger = logging.getLogger(__name__)


class Observer(Protocol):
    """`name` is its label in the metrics: one of few, known before the stream runs."""

    @property
    def name(self) -> str: ...

    def saw(self, stage: Stage, batch: Batch, failures: Sequence[Failure], *, generation: int) -> None:
        """Observes a chunk after its outputs were made: the columns are in `batch`, the rows that failed in `failures`.

        They are those of `batch.failures`, and then those whose output could not be written. One row may fail at several sinks.
        """


class Sampled:
    """An observer with the share of chunks that it receives, from 0 to 1, and the seed of the sample."""

    def __init__(self, observer: Observer, share: float = 1.0, *, seed: int = 0) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"the share of chunks that {observer.name} receives is {share}; it must be between 0 and 1")
        self.observer = observer
        self.share = share
        self._chance = random.Random(seed)

    def chosen(self) -> bool:
        """Draws for the next chunk. Every chunk is one draw, so that the choice depends on the chunks' order alone."""
        return self._chance.random() < self.share


class Observers:
    """The observers of one worker. `saw` is called once per chunk and raises nothing. False without observers, which costs one check."""

    def __init__(self, sampled: Iterable[Sampled | Observer] = (), metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self._on = tuple(_Shown(one if isinstance(one, Sampled) else Sampled(one), self._metrics) for one in sampled)

    def __bool__(self) -> bool:
        return bool(self._on)

    def saw(self, stage: Stage, batch: Batch, failures: Sequence[Failure], *, generation: int) -> None:
        for one in self._on:
            if one.always or one.chosen():
                began = time.perf_counter()
                try:
                    one.saw(stage, batch, failures, generation=generation)
                except Exception:
                    self._on = tuple(other for other in self._on if other is not one)
                    self._metrics.observer_failures.labels(one.name).inc()
                    logger.exception("the observer %s failed and is switched off; the stream continues without it", one.name)
                one.chunks.value += 1
                one.seconds.value += time.perf_counter() - began


class _Shown:
    """An observer with everything that its call needs, bound once: at one row per chunk, each lookup shows."""

    __slots__ = ("always", "chosen", "chunks", "name", "saw", "seconds")

    def __init__(self, sampled: Sampled, metrics: Metrics) -> None:
        observer = sampled.observer
        self.name, self.saw = observer.name, observer.saw
        self.always, self.chosen = sampled.share == 1, sampled.chosen
        self.chunks, self.seconds = metrics.observed.labels(self.name), metrics.observer_seconds.labels(self.name)
