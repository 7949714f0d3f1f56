"""The live plan is checked again and again: its last real rows give what they gave, and all of it is of one release."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest

from penstock import runtime
from penstock.engine import Plan
from penstock.pipeline import Program
from penstock.runtime import Loaded
from penstock.testing import models
from penstock.worker.checks import Validity, strangers
from penstock.worker.recent import Kept
from tests.unit.control.making import release
from tests.unit.worker.conftest import HEAVY, Make, crowded, small_pool
from tests.unit.worker.test_proof import kept

SHARE = 0.01


@dataclass(frozen=True)
class Live:
    """A plan that scores, as a worker holds it."""

    generation: int
    program: Program
    bindings: Any
    artifacts: Any

    @property
    def plan(self) -> Plan:
        return self.program.plan


def live(made: tuple[Loaded, Program]) -> Live:
    loaded, program = made
    return Live(1, program, runtime.bindings(loaded), loaded.artifacts)


def failures(it: Live, rows: Mapping[str, Sequence[Kept]], bound: Any = None) -> list[str]:
    return asyncio.run(Validity(SHARE).failures(it, bound, rows, None))


def test_rows_that_score_as_they_did_are_no_failure(make: Make) -> None:
    it = live(make(models.up_to(100.0)))
    assert failures(it, kept(it.program, [1.0, None, 500.0, 2.0] * 50)) == []


@pytest.mark.parametrize(("model", "what"), [(models.up_to(100.0, 2.001), "y differs"), (models.up_to(2.0), "fails now")])
def test_rows_that_score_otherwise_are_a_failure_that_names_one(make: Make, model: bytes, what: str) -> None:
    """As on a machine whose memory fails: the model that scored the rows is not the one that scores now."""
    it = live(make(models.up_to(100.0)))
    rows = kept(it.program, [1.0, 3.0] * 50)
    (failure,) = failures(live(make(model)), rows)
    assert failure.startswith("generation 1 no longer scores its last rows as it did: ")
    assert what in failure
    assert "readings:0:" in failure


def test_rare_differences_are_no_failure(make: Make) -> None:
    """One row in a hundred is what the setting allows: a label may be a matter of rounding."""
    rows = kept(live(make(models.up_to(100.0))).program, [50.0] + [1.0] * 99)
    assert failures(live(make(models.up_to(40.0))), rows) == []


@small_pool
def test_row_without_memory_beside_a_live_run_is_no_failure(make: Make) -> None:
    it = live(make(models.growing()))
    rows = kept(it.program, [HEAVY])
    with crowded():
        assert failures(it, rows) == []


def test_parts_of_another_release_are_strangers(make: Make) -> None:
    first, second = live(make(models.linear([2.0]))), live(make(models.linear([3.0])))
    said = release(1, bindings=first.bindings, topology="doubles")
    assert strangers(first, said) == []
    assert strangers(first, None) == []
    (other,) = strangers(second, said)
    assert other == f"release {said.id} binds other files or parameters to nodes.double"
    assert strangers(replace(first, program=second.program), said) == ["nodes.double runs double@2, bound is double@1"]
    assert "with other files than the bound double@1" in strangers(replace(first, artifacts=second.artifacts), said)[0]
    changed = {"double": msgspec.structs.replace(first.bindings["double"], parameters={"a": 1})}
    assert "binds other files or parameters" in strangers(replace(first, bindings=changed), said)[0]
    assert failures(replace(first, program=second.program), {})[0].startswith("generation 1 is not one release: ")
