"""Measures the cost of the three models alone: the lower bound of every figure.

The sessions are those of a worker (same options, one thread). The rows come in chunks and are never repeated within a pass:
a repeated batch is faster, because branch predictor and cache have seen it. Time is the CPU time of the thread.
"""

from __future__ import annotations

import itertools
import statistics
import time
from pathlib import Path

from benchmarks.workload import Flights, Scorer


def pure_onnx(models: Path, flights: Flights, *, rows: int = 100_000, chunk: int = 256, passes: int = 3) -> float:
    """CPU µs per event: the median of `passes` over at most `rows` different flights."""
    scorer = Scorer(models)
    fresh = list(itertools.islice(flights.rows, rows))
    feeds = [scorer.feeds(fresh[at : at + chunk]) for at in range(0, len(fresh), chunk)]
    scorer.run(feeds[0])

    def once() -> float:
        began = time.thread_time()
        for feed in feeds:
            scorer.run(feed)
        return (time.thread_time() - began) / len(fresh) * 1e6

    return statistics.median(once() for _ in range(passes))
