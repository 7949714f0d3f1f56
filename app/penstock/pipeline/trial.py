"""A candidate on trial beside the live program: what it is, and what its rows' headers say.

An output of a stage with a candidate has these headers, where its row has a unit:

| header | |
|---|---|
| `penstock-experiment` | the release on trial |
| `penstock-variant` | which plan made it: `live` or `candidate` |
| `penstock-propensity` | the probability with which its unit was assigned as it was |
| `penstock-fell-back` | `candidate`, where that could not answer and the live plan has |
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from penstock.batch import Batch, Failure
from penstock.engine import Plan, Router
from penstock.engine.split import ANSWERED, FELL_BACK, LIVE, NO_UNIT, Divided, Split, divide
from penstock.pipeline.letters import CANDIDATE, EXPERIMENT, FELL, PROPENSITY, VARIANT
from penstock.pipeline.letters import LIVE as LIVE_VARIANT
from penstock.pipeline.ports import Program
from penstock.record import Header, Position

__all__ = ["CHECKED", "Candidate", "Tally", "arm_headers", "check_beside"]

logger = logging.getLogger(__name__)

OUTCOMES: Final = ("no unit", "live", "candidate", "fell back")  # of a row, in the order of its arms
CHECKED: Final = 16  # rows of a chunk that the live plan has failed on, and that the candidate is tried on
HOPELESS: Final = 1000  # rows
MOST: Final = 10_000  # units that are remembered


@dataclass(slots=True)
class Tally:
    """What became of the rows of a trial since its generation began here; rows without a unit count nowhere.

    The candidate has answered `answered` rows. On `failed` units it failed where the live plan did not: a row that both fail on says
    nothing about them. On `live_failed` units of the live plan it was the other way round. A unit counts once, since its rows are not
    independent: `seen` has those that were counted, also in earlier generations of the trial. `lost` are all rows that the candidate could
    not answer, and `example` is the first one, with the reason.
    """

    answered: int = 0
    failed: int = 0
    live_failed: int = 0
    lost: int = 0
    example: str = ""
    seen: set[object] = field(default_factory=set)

    @property
    def hopeless(self) -> bool:
        """Whether the candidate has answered nothing of very many rows: it is not asked any more."""
        return not self.answered and self.lost >= HOPELESS

    def take(
        self, tried: Split, failures: Sequence[Failure], position: Callable[[int], Position], writable: Callable[[Batch], set[int]]
    ) -> dict[str, int]:
        """Counts a chunk whose rows were divided, and returns its answered rows by outcome, as the metric names them.

        `failures` are those that stay, `position` returns the place of a row's record, and `writable` the numbers of the rows of a batch
        that all outputs can be written of.
        """
        arms, rows = tried.arms, tried.numbers
        if failures:
            lost = np.unique([one.row for one in failures])
            rows = np.setdiff1d(rows, lost, assume_unique=True)
            # The first ones stand for all: in a flood of bad rows, the candidate must not take longer than the live plan.
            if some := lost[arms[lost] == LIVE][:CHECKED].tolist():
                self.live_failed += self._new(tried.units_of(writable(tried.by_candidate(some))))
        answered = arms[rows]
        counts = dict(zip(OUTCOMES, np.bincount(answered - NO_UNIT, minlength=len(OUTCOMES)).tolist(), strict=True))
        self.answered += counts["candidate"]
        if counts["fell back"]:
            self.lost += counts["fell back"]
            self.failed += self._new(tried.units_of({*rows[answered == FELL_BACK].tolist()}))
        if tried.errors and not self.example:
            row, error = next(iter(tried.errors.items()))
            self.example = f"{position(row)}: {error.where}: {error}"
            logger.warning("a row was answered by the live plan, because the candidate could not: %s", self.example)
        return {outcome: count for outcome, count in counts.items() if count}

    def _new(self, units: Iterable[object]) -> int:
        """Returns how many of the units were not counted before. Of very many, the evidence is clear, and no more are counted."""
        new = set(units) - self.seen if len(self.seen) < MOST else set()
        self.seen |= new
        return len(new)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A program on trial, the nodes whose versions or parameters differ from the live ones, and which rows it answers."""

    program: Program
    changed: frozenset[str]
    router: Router
    tally: Tally = field(default_factory=Tally, compare=False)

    def beside(self, live: Plan, stage: str) -> Divided | None:
        """Returns a stage of both plans; None where both are the same. Raises ModelMismatch."""
        return divide(live.stages[stage], self.program.plan.stages[stage], self.changed, self.router)


def check_beside(live: Program, candidate: Candidate) -> None:
    """Raises ModelMismatch where the candidate cannot run beside the live program."""
    for stage in live.plan.stages:
        candidate.beside(live.plan, stage)


def arm_headers(candidate: Candidate, abouts: Sequence[tuple[Header, ...]]) -> tuple[tuple[Header, ...], ...]:
    """Returns the headers of a row by its arm, as `engine.split` numbers them. `abouts` name the live and the candidate's versions."""
    live, its = abouts
    share = candidate.router.share
    experiment = EXPERIMENT, candidate.router.experiment.encode()
    stays, goes = (PROPENSITY, f"{1 - share:.6g}".encode()), (PROPENSITY, f"{share:.6g}".encode())
    by_live, by_candidate = (VARIANT, LIVE_VARIANT.encode()), (VARIANT, CANDIDATE.encode())
    found = {
        LIVE: (*live, experiment, by_live, stays),
        ANSWERED: (*its, experiment, by_candidate, goes),
        FELL_BACK: (*live, experiment, by_live, goes, (FELL, CANDIDATE.encode())),
    }
    return (*(found[arm] for arm in range(len(found))), live)  # the last one by NO_UNIT
