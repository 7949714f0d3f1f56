"""What a key or a caller may do: the one list of rights, and which of them a control message needs. A pure function of the log.

| right | calls of the service (`penstock.access`) |
|---|---|
| `score` | rows in, answers out |
| `label` | what was true, for rows that were scored |
| `read` | names, versions, signatures, statistics, releases |

The other three are about releases. The trust file knows only these, since its keys sign control messages; in the access file of the
service they allow a caller what they allow a key:

| right | messages |
|---|---|
| `deploy` | a release of any versions, and activating, promoting, pausing or aborting one's own |
| `promote` | activating, promoting, pausing or aborting what another author has announced |
| `rollback` | a release that binds exactly what an earlier generation bound, activating such a release, and aborting any |

One's own release needs no further right to be activated, promoted or aborted: it was admitted. A message about a release that is
neither pending nor on trial changes nothing, so it needs none. A release of version 2 that claims to restore a generation and binds
something else is refused for every key (`not-restored`): rollbacks are treated differently by people and by workers, so the claim
must be true.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from penstock.binding import same
from penstock.control.messages import Abort, Activate, Message, Release
from penstock.control.strategy import SINGLE
from penstock.errors import ControlError

if TYPE_CHECKING:
    from penstock.control.log import Log

__all__ = [
    "ALL", "CALLS", "DEPLOY", "LABEL", "PROMOTE", "READ", "RELEASES", "RIGHTS", "ROLLBACK", "SCORE", "Admitted", "check_right",
    "check_share", "listed", "needed",
]  # fmt: skip

DEPLOY: Final = "deploy"
PROMOTE: Final = "promote"
ROLLBACK: Final = "rollback"
SCORE: Final = "score"
LABEL: Final = "label"
READ: Final = "read"
RELEASES: Final = (DEPLOY, PROMOTE, ROLLBACK)  # what the keys of the trust file may do, in their usual order
CALLS: Final = (SCORE, LABEL, READ)
RIGHTS: Final = (*RELEASES, *CALLS)
ALL: Final = frozenset(RELEASES)


class Admitted(NamedTuple):
    """A message that the judge has admitted, and what its key may do: its rights, and the share that it may let a release answer."""

    message: Message
    may: frozenset[str] = ALL
    max_share: float = 1.0


def needed(log: Log, message: Message) -> frozenset[str]:
    """Returns the rights that allow the message, at this place of the log: one of them is enough.

    Raises ControlError (`not-restored`) for a release of version 2 that does not restore what it claims.
    """
    if isinstance(message, Release):
        if message.restores is None:
            return frozenset({DEPLOY})
        if _restores(log, message):
            return frozenset({DEPLOY, ROLLBACK})
        if message.version > 1:
            raise ControlError(f"it claims to restore generation {message.restores}, and binds something else", code="not-restored")
        return frozenset({DEPLOY})
    known = log.releases.get(message.id)
    if known is None or not (log.awaits(message.id) or log.tries(message.id)) or known.release.author == message.author:
        return ALL
    if isinstance(message, Abort) or (isinstance(message, Activate) and _restores(log, known.release)):
        return frozenset({PROMOTE, ROLLBACK})
    return frozenset({PROMOTE})


def check_right(log: Log, admitted: Admitted) -> None:
    """Raises ControlError when the key may not do what the message asks for (`not-allowed`), or as `needed`."""
    wanted = needed(log, admitted.message)
    if wanted.isdisjoint(admitted.may):
        message = admitted.message
        what = "this release" if isinstance(message, Release) else f"to {type(message).__name__.lower()} another one's release"
        raise ControlError(
            f"{message.author} may {listed(admitted.may) or 'do nothing'}, and {what} needs the right to {listed(wanted, 'or')}",
            code="not-allowed",
        )
    known = log.releases.get(admitted.message.id)
    if not (isinstance(admitted.message, Activate) and known is not None and _restores(log, known.release)):  # back is no risk
        check_share(admitted.message.author, log.leads_to(admitted.message), admitted.max_share)


def check_share(author: str, share: float, most: float) -> None:
    """Raises ControlError (`not-allowed`) when the share of the units is more than the key may let a release answer."""
    if share > most:
        raise ControlError(
            f"{author} may let a release answer {100 * most:.6g} % of the units, and this leads to {100 * share:.6g} %", code="not-allowed"
        )


def _restores(log: Log, release: Release) -> bool:
    """Returns whether the release binds exactly what an earlier generation bound, and names that generation."""
    at = release.restores
    if at is None or at >= log.generation or release.strategy != SINGLE or release.aliases:
        return False
    bound = log.bound(at)
    if bound is None or not same(release.bindings, bound):
        return False
    return all(release.bindings[node].uri == binding.uri for node, binding in bound.items())


def listed(rights: Iterable[str], join: str = "and") -> str:
    """Returns the rights as text for people, in their usual order: `deploy, promote and roll back`."""
    given = set(rights)
    *first, last = ["roll back" if one == ROLLBACK else one for one in RIGHTS if one in given] or [""]
    return f"{', '.join(first)} {join} {last}" if first else last
