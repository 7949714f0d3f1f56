"""Where a record stands, as text and back."""

from __future__ import annotations

import pytest

from penstock.record import Position, Record


def test_position_is_written_and_read() -> None:
    position = Record("flights.scores", None, partition=3, offset=1045).position
    assert str(position) == "flights.scores:3:1045"
    assert Position.parse("flights.scores:3:1045") == Position.parse("flights.scores/3/1045", "/") == position


@pytest.mark.parametrize(
    "text", ["", "scores", "scores:1", "scores:1:x", ":1:2", "scores:-1:2", "scores:1:2:3", "scores:1:²", "s:1:" + "9" * 20]
)
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write TOPIC:PARTITION:OFFSET"):
        Position.parse(text)
