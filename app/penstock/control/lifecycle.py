"""A release's states on one worker, as a table of the legal moves.

    announced → fetching → verifying → quarantined → fitting → proving → warming → ready → live → previous → retired
        │          │           │            │           │         │         │        ├→ candidate → live
        └──────────┴───────────┴────────────┴───────────┴─────────┴─────────┴────────┴→ failed | aborted | stale

`announced` may lead to `ready` directly: a rollback binds what is still loaded. A `candidate` is on trial: it scores, and answers
a share of the units. It becomes live, or ends as `aborted`, as `stale`, or as `retired` where this worker learns of its promotion
only with that of its successor. `aborted` (the operator withdrew it), `stale` (another release was activated first) and `retired`
(its plan was released) are ends. So is `failed`, unless the release is activated nevertheless: then this worker continues with its
current plan, and tries again (`announced`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from penstock.errors import ControlError

__all__ = ["ENDS", "MOVES", "PREPARING", "State", "move"]


class State(StrEnum):
    """The state of a release on this worker."""

    ANNOUNCED = "announced"
    FETCHING = "fetching"
    VERIFYING = "verifying"
    QUARANTINED = "quarantined"
    FITTING = "fitting"
    PROVING = "proving"
    WARMING = "warming"
    READY = "ready"
    CANDIDATE = "candidate"
    LIVE = "live"
    PREVIOUS = "previous"
    RETIRED = "retired"
    FAILED = "failed"
    ABORTED = "aborted"
    STALE = "stale"


PREPARING: Final = (
    State.ANNOUNCED, State.FETCHING, State.VERIFYING, State.QUARANTINED, State.FITTING, State.PROVING, State.WARMING
)  # fmt: skip
_GIVEN_UP: Final = frozenset({State.FAILED, State.ABORTED, State.STALE})

MOVES: Final[Mapping[State, frozenset[State]]] = {
    **{here: frozenset({there}) | _GIVEN_UP for here, there in zip(PREPARING, (*PREPARING[1:], State.READY), strict=True)},
    State.ANNOUNCED: frozenset({State.FETCHING, State.READY}) | _GIVEN_UP,
    State.READY: frozenset({State.CANDIDATE, State.LIVE, State.ABORTED, State.STALE, State.FAILED}),
    State.CANDIDATE: frozenset({State.LIVE, State.ABORTED, State.STALE, State.RETIRED}),
    State.LIVE: frozenset({State.PREVIOUS}),
    State.PREVIOUS: frozenset({State.RETIRED}),
    State.RETIRED: frozenset(),
    State.FAILED: frozenset({State.ANNOUNCED}),
    State.ABORTED: frozenset(),
    State.STALE: frozenset(),
}
ENDS: Final = frozenset({State.RETIRED, State.FAILED, State.ABORTED, State.STALE})


def move(here: State, there: State) -> State:
    """Returns `there` when the move is legal. Raises ControlError, which names both states, when it is not."""
    if there not in MOVES[here]:
        raise ControlError(f"a release that is {here} cannot become {there}", code="illegal-move")
    return there
