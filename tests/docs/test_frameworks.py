"""The table of frameworks is what comes of pushing and scoring the exports that are kept.

`make frameworks` makes the exports anew, with the frameworks themselves.
"""

from __future__ import annotations

from docs import frameworks
from tests.frameworks.exports import MAKERS


def test_table_of_frameworks_is_in_step() -> None:
    page = frameworks.PAGE.read_text(encoding="utf-8")
    assert page == frameworks.render(), "python docs/frameworks.py writes it anew"
    assert "| no |" not in page, "an export that does not work: mend it, or name it below the table"


def test_each_export_has_what_makes_it() -> None:
    assert {case.name for case in frameworks.CASES} == {*MAKERS}
    assert {file.name.partition(".")[0] for file in frameworks.EXPORTS.iterdir()} == {*MAKERS}
