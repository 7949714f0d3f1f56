"""Tables for people: whatever the width, a name is never cut."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from penstock.cli.output import table
from penstock.cli.release.status import _ranges
from penstock.control.status import Place

ROWS = [
    (
        "flights.departures.dead-letter",
        "live",
        "3",
        "9e107d9 preparing: it is tried in a child process with all of its golden records",
    ),
    ("worker-2.example.org", "lost", "12", "-"),
]


def drawn(width: int, *rows: tuple[str, ...], wraps: str | None = None) -> list[str]:
    file = io.StringIO()
    listing = table("workers", "name", "", "generation", "releases", wraps=wraps)
    for row in rows:
        listing.add_row(*row)
    Console(file=file, width=width, color_system=None).print(listing)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_wide_table_has_a_line_per_row() -> None:
    lines = drawn(160, *ROWS)
    assert lines[0] == "workers"
    assert [line.split()[0] for line in lines[1:]] == ["name", *(row[0] for row in ROWS)]


@pytest.mark.parametrize("width", range(34, 160, 3))
def test_names_stay_whole_at_any_width(width: int) -> None:
    """Only sentences go over several lines, between their words."""
    lines = drawn(width, *ROWS)
    assert max(map(len, lines)) <= width
    text = re.sub(r"\s+", " ", " ".join(lines))
    for word in ("flights.departures.dead-letter", "worker-2.example.org", "generation", "live", "lost", *ROWS[0][3].split()):
        assert word in text.split(" "), lines


def test_narrow_table_is_a_block_per_row() -> None:
    """What is empty, or only a dash, has no line there."""
    assert drawn(56, *ROWS) == [
        "workers",
        "flights.departures.dead-letter",
        "              live",
        "  generation  3",
        "  releases    9e107d9 preparing: it is tried in a child",
        "              process with all of its golden records",
        "worker-2.example.org",
        "              lost",
        "  generation  12",
    ]


def test_partitions_are_shown_as_runs() -> None:
    """A report is what a worker wrote: a name that is no partition is shown as it is."""
    places = {f"digits.images/{number}": Place(position=0, slowed=number == 7) for number in (0, 1, 2, 3, 5, 7, 10)}
    places |= {"orders/0": Place(position=0), "forged": Place(position=0), "orders/²": Place(position=0)}
    assert list(_ranges(places)) == ["forged", "orders/²", "digits.images/0-3,5,10", "digits.images/7 (slowed)", "orders/0"]
