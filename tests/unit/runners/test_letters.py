"""A flood of dead letters is one line of the log per minute, with their number and the reason of the last one."""

from __future__ import annotations

import pytest

from penstock.errors import DecodeError
from penstock.parcel import Parcel
from penstock.pipeline.letters import Address, dead_letters
from penstock.record import Record
from penstock.runners.letters import EVERY, Letters


def letter(offset: int) -> Parcel:
    record = Record("orders", b"{", offset=offset)
    return dead_letters(Address("orders.dead-letter", ()), ("orders", 3), [(record, DecodeError("not valid JSON"))])


def test_first_letter_is_reported_at_once_and_a_flood_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    letters = Letters(lambda: now)
    for offset in range(1000):
        letters(letter(offset))
    now += EVERY
    letters(letter(1000))
    assert [record.getMessage() for record in caplog.records] == [
        "dead letters in orders.dead-letter: 1, the last one for orders:3:0: not valid JSON",
        "dead letters in orders.dead-letter: 1000, the last one for orders:3:1000: not valid JSON",
    ]
