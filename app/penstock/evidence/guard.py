"""Whether a new generation fails where the previous one does not: counts of rows by kind, a threshold, and the decision.

A row is one of three kinds, by what two plans make of the same record:

| kind | the new plan | the previous plan | counts |
|---|---|---|---|
| `ok` | scores it | not asked | for the new plan |
| `new` | fails | scores it | against the new plan |
| `both` | fails | fails | not at all: the record is bad, or both models are |

Only rows that fail are given to the previous plan. So a flood of bad records moves no decision, in neither direction. Rows that failed and
could not be checked (`unchecked`: there were too many, or live runs left no memory) are taken to be like those that were. This holds
within one kind of failure: records that are no events say nothing about rows that a model fails on. `resolved` is for each kind, before
they are added. Rows that stay unchecked count neither way, and a generation is not good while they could make it bad.

Counts are additive: those of partitions, workers or intervals are merged with `+`, in any order. Proofs before a release is ready and the
guard after its activation use the same counts. The decision is a fixed threshold, looked at again and again, so it has no stated error
rate. A sequential test that has one (a conditional binomial over the same counts) replaces `Rule.verdict` and `exceeds`, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

__all__ = ["Counts", "Rule", "Verdict", "exceeds"]


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows by kind, see the table above. None is negative. `unchecked` ones count as soon as they are `resolved`."""

    ok: int = 0
    new: int = 0
    both: int = 0
    unchecked: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.ok + other.ok, self.new + other.new, self.both + other.both, self.unchecked + other.unchecked)

    def resolved(self) -> Counts:
        """Returns the counts with the unchecked rows divided like the checked ones; the same counts while nothing is checked."""
        checked = self.new + self.both
        if not checked:
            return self
        new = round(self.unchecked * self.new / checked)
        return Counts(self.ok, self.new + new, self.both + self.unchecked - new)

    @property
    def judged(self) -> int:
        """The rows that count: those that at least one of the two plans scores."""
        return self.ok + self.new

    @property
    def share(self) -> float:
        """The share of the judged rows that counts against the new plan, from 0 to 1."""
        return self.new / self.judged if self.new else 0.0


class Verdict(Enum):
    """The decision about a new generation."""

    WAIT = auto()
    GOOD = auto()
    BAD = auto()


@dataclass(frozen=True, slots=True)
class Rule:
    """When a generation is bad, and when its guard ends.

    `share` is the share of failing rows that is allowed. The guard ends after at least `rows` judged rows and at least `seconds`. Fewer
    rows than `rows` are treated as if the missing ones were good. So a few rows decide nothing, however bad, and a generation that fails
    on every row is found after `share * rows` of them.
    """

    share: float
    rows: int
    seconds: float

    def verdict(self, counts: Counts, elapsed: float) -> Verdict:
        """Returns the decision after `elapsed` seconds of the generation."""
        if exceeds(counts, self.share, least=self.rows):
            return Verdict.BAD
        if counts.judged < self.rows or elapsed < self.seconds or exceeds(counts + Counts(new=counts.unchecked), self.share):
            return Verdict.WAIT
        return Verdict.GOOD


def exceeds(counts: Counts, share: float, *, least: int = 0) -> bool:
    """Returns whether more than `share` of the judged rows, or of `least` rows if they are fewer, count against the new plan."""
    return counts.new > share * max(counts.judged, least)
