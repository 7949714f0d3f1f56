"""Dead letters as a person sees them: a line of the log per minute, and rates over the last minute."""

from __future__ import annotations

import pytest

from penstock.control.status import Cause, DeadLetters
from penstock.errors import DecodeError, InferenceError, RecordError
from penstock.parcel import Parcel
from penstock.pipeline.letters import Address, dead_letters
from penstock.record import Record
from penstock.runners.letters import EVERY, WINDOW, Letters
from penstock.telemetry import Metrics

MALFORMED = DecodeError("not valid JSON")


class Worker:
    """The counting of a worker, without its loop: every letter is counted, then reported."""

    def __init__(self) -> None:
        self.now = 100.0
        self.metrics = Metrics()
        self.letters = Letters(self.metrics, lambda: self.now)

    def bury(self, *errors: RecordError, offset: int = 0) -> None:
        letters = parcel(*errors, offset=offset)
        self.metrics.records_in.inc(len(errors))
        for step, reason, count in letters.causes:
            self.metrics.dead_letters.labels(step, reason).inc(count)
        self.letters(letters)


def parcel(*errors: RecordError, offset: int = 0) -> Parcel:
    record = Record("orders", b"{", offset=offset)
    return dead_letters(Address("orders.dead-letter", ()), ("orders", 3), [(record, error) for error in errors])


def test_first_letter_is_reported_at_once_and_a_flood_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker()
    for offset in range(1000):
        worker.bury(MALFORMED, offset=offset)
    worker.now += EVERY
    worker.bury(InferenceError("no", where="trees"), offset=1000)
    assert [record.getMessage() for record in caplog.records] == [
        "dead letters: 1 (1 decode DecodeError), the last one in orders.dead-letter for orders:3:0: not valid JSON",
        "dead letters: 1000 (999 decode DecodeError, 1 trees InferenceError), the last one in orders.dead-letter for orders:3:1000: no",
    ]


def test_rates_are_those_of_the_last_minute_and_totals_those_since_the_start() -> None:
    worker = Worker()
    assert worker.letters.recent() == DeadLetters(seconds=0, records=0, causes=[])
    worker.bury(MALFORMED, MALFORMED)
    worker.metrics.records_in.inc(18)
    worker.now += 10
    found = worker.letters.recent()
    assert found == DeadLetters(seconds=10, records=20, causes=[Cause(step="decode", reason="DecodeError", total=2, recent=2)])
    assert (found.share, found.per_second(2)) == (0.1, 0.2)
    worker.now += WINDOW
    worker.bury(InferenceError("no", where="trees"))
    assert worker.letters.recent() == DeadLetters(
        seconds=60,
        records=1,
        causes=[
            Cause(step="decode", reason="DecodeError", total=2, recent=0),
            Cause(step="trees", reason="InferenceError", total=1, recent=1),
        ],
    )
    for _ in range(10_000):  # a report for each change
        worker.now += 0.02
        worker.letters.recent()
    assert WINDOW <= worker.letters.recent().seconds < WINDOW + 2
