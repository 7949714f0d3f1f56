"""The table of events and formats is what comes of scoring such events today."""

from __future__ import annotations

from docs import formats


def test_table_of_formats_is_in_step() -> None:
    page = formats.PAGE.read_text(encoding="utf-8")
    assert page == formats.render(), "python docs/formats.py writes it anew"
    assert "| no |" not in page, "a shape of events that does not work: mend it, or name it below the table"
