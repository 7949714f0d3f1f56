"""Every topology of the repository does what the examples beside it say."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.testing.case_file import SUFFIX, CaseFile, read_cases
from penstock.testing.cases import run_case

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "topologies").rglob(f"*{SUFFIX}"))


def test_every_topology_has_examples() -> None:
    topologies = [path for path in (ROOT / "topologies").rglob("*.yaml") if not path.name.endswith(SUFFIX)]
    assert topologies
    assert [path.name for path in topologies if path.with_name(path.stem + SUFFIX) not in FILES] == []


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.name)
def file(request: pytest.FixtureRequest) -> CaseFile:
    return read_cases(request.param, models=ROOT / "models", schemas=ROOT / "schemas")


def test_examples_hold(file: CaseFile) -> None:
    wrong = [
        f"{file.file}:{one.mark.line}: {one.where}: expected {one.expected}, got {one.got}"
        for case in file.cases
        for one in run_case(file.driver, case)
    ]
    assert wrong == []
