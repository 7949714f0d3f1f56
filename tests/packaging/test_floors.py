"""Versions are promises: floors that were tested, and exact pins only where private parts of a library are touched."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TRIED = ("signing", "extensions", "jwt", "redis", "postgres", "cassandra", "sketches")  # the extras whose floors are
DIRECT = [*PROJECT["dependencies"], *(each for extra in TRIED for each in PROJECT["optional-dependencies"][extra])]
# Why each of them: docs/decisions/0014-wheels.md
EXACT = {"faust-streaming", "mode-streaming", "aiokafka", "model-signing", "datasketches"}


def required(requirement: str) -> tuple[str, str, str]:
    """Name, `==` or `>=`, and version."""
    found = re.fullmatch(r"([a-z0-9-]+)(?:\[[a-z0-9,]+\])?(==|>=)([0-9.]+)", requirement)
    assert found is not None, f"{requirement}: write NAME>=FLOOR, or NAME==VERSION where private parts are touched"
    name, operator, version = found.groups()
    return name, operator, version


def pinned(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name.lower().replace("_", "-"): version for name, version in pins}


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without zeros at the end: 13.9 and 13.9.0 are one."""
    numbers = [int(part) for part in re.findall(r"\d+", version)]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


@pytest.mark.parametrize("requirement", DIRECT)
def test_floor_is_the_version_that_is_tested(requirement: str) -> None:
    """`make floors` installs floors.txt; a floor that is lowered here alone was never tried."""
    name, _, version = required(requirement)
    assert release(pinned("floors.txt")[name]) == release(version)


@pytest.mark.parametrize("requirement", DIRECT)
def test_newest_version_that_is_tested_is_no_older_than_the_floor(requirement: str) -> None:
    name, _, version = required(requirement)
    assert release(pinned("constraints.txt")[name]) >= release(version)


def test_exact_pins_are_those_whose_private_parts_are_touched() -> None:
    assert {name for name, operator, _ in map(required, DIRECT) if operator == "=="} == EXACT


def test_versions_compare_by_number() -> None:
    """Otherwise the tests above could not fail where they should."""
    assert release("13.9.0") == release("13.9")
    assert release("1.10") > release("1.9")
    assert release("2.0") != release("2.0.1")
    with pytest.raises(AssertionError, match="where private parts are touched"):
        required("numpy~=2.0")
