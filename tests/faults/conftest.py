"""Clusters for the whole run, and the table of what they came to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.errors import TransportUnavailable
from penstock.testing.jvm_kafka import require_java
from tests.faults.cluster import Cluster
from tests.faults.rounds import Account

_played: list[Account] = []


@pytest.fixture(scope="session")
def clusters() -> Iterator[Callable[[int], Cluster]]:
    """A cluster of so many brokers, made at its first use. Brokers that run already are of no use here: these fail."""
    made: dict[int, Cluster] = {}

    def of(size: int) -> Cluster:
        try:
            require_java()
        except TransportUnavailable as reason:
            pytest.skip(str(reason))
        if size not in made:
            made[size] = Cluster(size)
        return made[size]

    yield of
    for cluster in made.values():
        cluster.stop()


@pytest.fixture
def played() -> list[Account]:
    """The accounts of this run's rounds, for the table at its end."""
    return _played


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Rounds take minutes: they are played where they are asked for (`make test-faults`)."""
    return True if collection_path.name == "test_rounds.py" and not config.getoption("--rounds") else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows: dict[str, list[Account]] = defaultdict(list)
    for account in _played:
        rows[account.scenario].append(account)
    for scenario, accounts in rows.items():
        lost, events = (sum(counts) for counts in zip(*((len(one.verdict.lost), one.sent) for one in accounts), strict=True))
        worst = max(accounts, key=lambda one: len(one.verdict.doubled) / max(one.bound, 1))
        terminalreporter.write_line(
            f"{scenario:22} {len(accounts):3} rounds, {sum(bool(one.problems) for one in accounts)} with a problem, {events} events, "
            f"{lost} lost, doubled at worst {len(worst.verdict.doubled)} of at most {worst.bound}"
        )
