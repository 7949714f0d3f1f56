"""A topology with its models, as `penstock export edge` wrote it. Scores offline: neither brokers nor registries are asked.

The first call opens the topology, after it has compared every file with its digest. Calls of several threads wait for one another.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import penstock

__all__ = ["plan", "score", "score_columns", "score_table"]


@functools.cache
def plan() -> penstock.Scorer:
    """Returns the open topology. Raises ConfigError for a file that differs from the exported one, and ModelError."""
    return penstock.open(Path(__file__).parent)


def score(events: Any, **beside: Any) -> Any:
    """Returns the answers to events, in kind and in order. See `penstock.Scorer.score`."""
    return plan().score(events, **beside)


def score_columns(columns: Any, **beside: Any) -> Any:
    """Returns the answers to arrays, as arrays. See `penstock.Scorer.score_columns`."""
    return plan().score_columns(columns, **beside)


def score_table(table: Any, **beside: Any) -> Any:
    """Returns the answers to a table of pyarrow, as a table. See `penstock.Scorer.score_table`."""
    return plan().score_table(table, **beside)
