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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from penstock.engine import Plan, Router
from penstock.engine.split import ANSWERED, FELL_BACK, LIVE, Divided, divide
from penstock.pipeline.letters import CANDIDATE, EXPERIMENT, FELL, PROPENSITY, VARIANT
from penstock.pipeline.letters import LIVE as LIVE_VARIANT
from penstock.pipeline.ports import Program
from penstock.record import Header

__all__ = ["Candidate", "Tally", "arm_headers", "check_beside"]

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

    def count(self, units: Iterable[object]) -> int:
        """Returns how many of the units are new. Of very many, the evidence is clear, and no more are counted."""
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
