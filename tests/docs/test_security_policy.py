"""SECURITY.md promises what tests show: each row of its table names them, and they are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
POLICY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", POLICY)


def test_every_row_names_its_tests() -> None:
    rows = [line for line in POLICY.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 10
    assert [row for row in rows if "::test_" not in row.rpartition(" | ")[2]] == []


def test_named_tests_are_there() -> None:
    lacking = [f"{file}::{name}" for file, name in NAMED if f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8")]
    assert len(NAMED) >= 20
    assert lacking == []


def test_links_lead_to_files_and_headings() -> None:
    for target in re.findall(r"\]\((?!https://)([^)]+)\)", POLICY):
        path, _, heading = target.partition("#")
        text = (ROOT / path).read_text(encoding="utf-8")
        slugs = {re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in text.splitlines() if line.startswith("#")}
        assert not heading or heading in slugs, target
