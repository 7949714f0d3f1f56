"""One broker for the whole run, the job of most tests, and the mark `broker`: its arguments are the abilities that a test needs beyond
creating topics.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.testing.broker import Broker, open_broker
from tests.kafka.operating import must_be_signed
from tests.kafka.running import Job, make_job

_opened: list[Broker] = []


@pytest.fixture(scope="session")
def shared_broker() -> Iterator[Broker]:
    """Whatever broker this machine can give; `PENSTOCK_BROKERS` names one that runs already."""
    with open_broker(os.environ.get("PENSTOCK_BROKERS")) as broker:
        _opened.append(broker)
        yield broker


@pytest.fixture
def broker(shared_broker: Broker, request: pytest.FixtureRequest) -> Broker:
    """The broker, if it can do what the test's mark asks for; else the test is skipped with the broker's reason."""
    mark = request.node.get_closest_marker("broker")
    for ability in ("create_topics", *mark.args) if mark else ():
        if ability in shared_broker.lacks:
            pytest.skip(f"{shared_broker.kind} broker: {shared_broker.lacks[ability]}")
    return shared_broker


@pytest.fixture
def job(broker: Broker, tmp_path: Path) -> Job:
    """A job whose releases alice signs; most tests of releases have one."""
    made = make_job(broker, tmp_path)
    must_be_signed(made)
    return made


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which broker the tests ran on, and why not on a better one."""
    for broker in _opened:
        terminalreporter.write_line(f"kafka tests ran on: {broker.kind} broker at {broker.bootstrap}")
        for reason in broker.passed_over:
            terminalreporter.write_line(f"  passed over {reason}")
