"""A case: records for sources and tables, and the expected content of every sink and dead-letter topic after the plan has processed them.

This module has values and one function; `case_file` reads them from a file.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.record import Record
from penstock.testing.driver import TopologyDriver
from penstock.testing.expect import Rule, show
from penstock.topology.spec import Mark

__all__ = ["Case", "Expected", "Mismatch", "run_case"]


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected content of a topic after a case: `count` records that each match their rules. Without rows, it checks only the count."""

    where: str
    topic: str
    count: int
    rows: tuple[Mapping[str, Rule], ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Case:
    """One example: records by source, in the file's order, and the expected content of each topic afterwards."""

    name: str
    given: tuple[tuple[str, tuple[Record, ...]], ...]
    expected: tuple[Expected, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A difference from an expectation, in words, with the expectation's place in the file."""

    where: str
    expected: str
    got: str
    mark: Mark


def run_case(driver: TopologyDriver, case: Case) -> tuple[Mismatch, ...]:
    """Clears the driver and runs a case on it. Returns every mismatch; none means that the case passed."""
    driver.clear()
    for source, records in case.given:
        try:
            driver.send_records(source, records)
        except ValueError as error:  # what is no row of a table
            return (Mismatch(f"given.{source}", "rows", str(error), case.mark),)
    named = {expected.topic: expected for expected in case.expected}
    found: list[Mismatch] = []
    for where, topic, rows in _outcome(driver):
        found += _compare(named.get(topic) or Expected(where, topic, 0, (), case.mark), rows)
    return tuple(found)


def _outcome(driver: TopologyDriver) -> Iterable[tuple[str, str, list[dict[str, Any]]]]:
    """Yields every output topic once: its label, its name, and its content."""
    for topic, sink in {sink.topic: sink for sink in driver.topology.sinks}.items():
        yield sink.name, topic, driver.events(sink.name)
    for topic, source in {source.dead_letter: source for source in driver.topology.sources}.items():
        letters = [dict(record.headers) for record in driver.records(topic)]
        rows = [{"message": _text(one, "__streams.errors.message"), "stage": _text(one, "penstock-stage")} for one in letters]
        yield f"dead_letters.{source.name}", topic, rows


def _text(headers: Mapping[str, bytes | None], name: str) -> str:
    return (headers.get(name) or b"").decode(errors="replace")


def _compare(expected: Expected, rows: list[dict[str, Any]]) -> Iterable[Mismatch]:
    if len(rows) != expected.count:
        got = "nothing" if not rows else f"{len(rows)}: {', '.join(show(row) for row in rows[:3])}{', ...' if len(rows) > 3 else ''}"
        yield Mismatch(expected.where, f"{expected.count or 'nothing'}{_records(expected.count)}", got, expected.mark)
        return
    for number, (rules, row) in enumerate(zip(expected.rows, rows, strict=bool(expected.rows))):
        for name, one in rules.items():
            try:
                value = functools.reduce(operator.getitem, name.split("."), row)
            except (KeyError, TypeError):
                yield Mismatch(f"{expected.where}[{number}].{name}", one.words, "no such field", one.mark)
                continue
            if not one.holds(value):
                yield Mismatch(f"{expected.where}[{number}].{name}", one.words, show(value), one.mark)


def _records(count: int) -> str:
    return "" if not count else " record" if count == 1 else " records"
