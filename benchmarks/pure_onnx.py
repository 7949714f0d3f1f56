"""What the three models cost and nothing else: the floor under every figure.

The sessions are those that a worker has (same options, one thread), the rows come in chunks and are never seen twice
within a pass: a repeated batch flatters, for branch predictor and cache know it. Time is the CPU time of the thread.
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
