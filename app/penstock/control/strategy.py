"""How a release replaces the live plan. A strategy is a value with a `kind`; each kind is one class, in the table `STRATEGIES`.

| kind | what an activation does |
|---|---|
| `single` | the release's models score every row from then on |
| `split` | the release is a candidate: it answers one share of the units |
| `canary` | the release is a candidate: it answers the first of several shares, and each promotion leads to the next |

A release with one of the last two is on **trial**: what is live stays live, until a promotion puts the release in its place, or an
abort ends the trial. A unit is a value of the field `unit` of the event, or of the record's key without a name; all events of a unit are
answered by the same plan.

A reader refuses a kind, or a field of a kind, that it does not know (`unknown-strategy`): if the strategy were ignored, the release
would score every row at once. So data that no reader may ignore is a field of a strategy, never a field beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Final

import msgspec

from penstock.binding import LINE
from penstock.errors import ControlError

__all__ = ["SINGLE", "STRATEGIES", "Canary", "Single", "Split", "Strategy", "check_known", "kind_of", "shares_of"]

STEPS: Final = 20  # of a canary, at most
LEAST: Final = 1e-6  # share of the units of either plan: the headers have six digits

Unit = Annotated[
    str, msgspec.Meta(max_length=200, pattern=LINE, description="The field whose value is the unit of assignment; empty: the record's key.")
]


class Single(msgspec.Struct, frozen=True, tag_field="kind", tag="single", forbid_unknown_fields=True):
    """The models of the release score every row, from its activation on."""


class Split(msgspec.Struct, frozen=True, tag_field="kind", tag="split", forbid_unknown_fields=True):
    """The candidate answers this share of the units, until it is promoted or aborted. Raises ValueError for one that is no share."""

    share: Annotated[float, msgspec.Meta(ge=LEAST, le=1 - LEAST)]
    unit: Unit = ""

    def __post_init__(self) -> None:
        _check_share(self.share)


class Canary(msgspec.Struct, frozen=True, tag_field="kind", tag="canary", forbid_unknown_fields=True):
    """The candidate answers the first share of the units, and after each promotion the next one; after the last one it is live.

    A last share of 1 means that, too: the promotion to it makes the candidate live. Raises ValueError for other steps.
    """

    steps: Annotated[tuple[Annotated[float, msgspec.Meta(ge=LEAST, le=1)], ...], msgspec.Meta(min_length=1, max_length=STEPS)]
    unit: Unit = ""

    def __post_init__(self) -> None:
        steps: object = self.steps  # a program may give anything
        if not isinstance(steps, tuple) or not 0 < len(steps) <= STEPS:
            raise ValueError(f"the steps of a canary are a tuple of shares, at least one and at most {STEPS}, such as (0.05, 0.25)")
        if any(after <= before for before, after in pairwise(self.steps)):
            raise ValueError("the steps of a canary grow: each is a larger share than the one before")
        if self.steps[0] == 1:
            raise ValueError("the first step of a canary is less than all units")
        for share in self.steps:
            if share != 1:
                _check_share(share)


def _check_share(share: float) -> None:
    if not LEAST <= share <= 1 - LEAST:
        raise ValueError(f"{share:g} is no share of the units: it is at least {LEAST:g} and less than 1, such as 0.05 for 5 %")


Strategy = Single | Split | Canary
SINGLE: Final = Single()
STRATEGIES: Final[Mapping[str, type[msgspec.Struct]]] = {"single": Single, "split": Split, "canary": Canary}
_UNKNOWN: Final = "unknown-strategy"


def kind_of(strategy: Strategy) -> str:
    """Returns the strategy's name, as people write it."""
    return str(type(strategy).__struct_config__.tag)


def shares_of(strategy: Strategy) -> tuple[float, ...]:
    """Returns the share of the units that the candidate answers in each step of its trial; none for a release without a trial."""
    match strategy:
        case Single():
            return ()
        case Split():
            return (strategy.share,)
        case Canary():
            return tuple(share for share in strategy.steps if share < 1)


def check_known(given: Any) -> None:
    """Raises ControlError (`unknown-strategy`) for a strategy as JSON that has a kind or a field that this Penstock does not know.

    Raises ValueError for one without a kind. The decoder would refuse both as malformed.
    """
    if not isinstance(given, dict) or not isinstance(kind := given.get("kind"), str):
        raise ValueError("a strategy is an object with a `kind`")
    known = STRATEGIES.get(kind)
    if known is None:
        raise ControlError(f"a release with the strategy {kind!r}; this Penstock knows {', '.join(STRATEGIES)}: upgrade it", code=_UNKNOWN)
    if more := given.keys() - {"kind", *known.__struct_fields__}:
        listed = ", ".join(sorted(more))
        raise ControlError(f"a release whose strategy {kind!r} has {listed}, which this Penstock does not know: upgrade it", code=_UNKNOWN)
