"""Releases as text and as JSON: times, ids, authors and changes, the same in every command."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from rich.markup import escape

from penstock.binding import Binding
from penstock.control.log import Known, Log
from penstock.control.messages import Release
from penstock.control.proposal import Difference
from penstock.control.rollout import Stand
from penstock.operate.comparing import Compared
from penstock.operate.state import described, duration, past, short

__all__ = [
    "COLOURS", "author_of", "binding_json", "coloured", "compared_json", "compared_lines", "difference_json", "duration", "known_json",
    "moment", "release_json", "short", "stand_json", "trial_of", "without_effect",
]  # fmt: skip

COLOURS: Final = {
    "pending": "yellow", "candidate": "yellow", "active": "green", "superseded": "", "aborted": "red", "rejected": "red",
    "ready": "green", "live": "green", "failed": "red", "stale": "red",
}  # fmt: skip


def moment(ms: int) -> str:
    """Returns a broker's stamp, Unix time in ms, as UTC to the second."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%SZ}"


def without_effect(log: Log) -> str:
    """Returns how many control messages had no effect, and why; "" when all had one."""
    vain = log.refused + log.ignored
    counted = ", ".join(f"{count} {code}" for code, count in vain.items())
    last = f"; the last refused, at offset {log.last_refused[-1].offset}: {log.last_refused[-1].why}" if log.last_refused else ""
    return f"control messages without effect: {counted}{last}" if vain else ""


def binding_json(binding: Binding | None) -> Any:
    return None if binding is None else {"model": str(binding), **msgspec.to_builtins(binding)}


def difference_json(found: Iterable[Difference]) -> list[dict[str, Any]]:
    return [{"node": one.node, "before": binding_json(one.before), "after": binding_json(one.after)} for one in found]


def compared_json(found: Iterable[Compared]) -> list[dict[str, Any]]:
    """Returns the differences with their metrics. `judgement` is better, worse, same or unknown."""
    return [
        {**change, "metrics": [one._asdict() for one in compared.metrics], "note": compared.note}
        for compared in found
        for change in difference_json([compared.difference])
    ]


def compared_lines(found: Iterable[Compared]) -> Iterator[tuple[str, str]]:
    """Yields each difference and its metrics as lines of text, each with its style."""
    for compared in found:
        yield f"  {compared.difference}", ""
        for one in compared.metrics:
            yield f"    {one}", {"worse": "red", "better": "green"}.get(one.judgement, "")
        if compared.note:
            yield f"    {compared.note}", "yellow"


def release_json(release: Release) -> dict[str, Any]:
    """Returns the whole content of a release."""
    return {
        "id": release.id, "topology": release.topology, "base": release.base, "author": release.author,
        "requested_by": release.requested_by or None, "time": release.time,
        "reason": release.reason, "restores": release.restores, "aliases": release.aliases,
        "strategy": msgspec.to_builtins(release.strategy), "version": release.version, "control_topic": release.control_topic or None,
        "bindings": {node: binding_json(binding) for node, binding in release.bindings.items()},
    }  # fmt: skip


def known_json(log: Log, known: Known) -> dict[str, Any]:
    """Returns a release, its result so far, and its changes."""
    found = past(log, known)
    return {
        **release_json(found.release),
        "standing": found.standing.value, "why": found.why, "announced": found.announced, "offset": found.offset,
        "generation": found.generation, "activated": found.activated, "activated_by": found.activated_by,
        "trial": None if found.trial is None else dataclasses.asdict(found.trial),
        "changes": difference_json(found.changes),
    }  # fmt: skip


def stand_json(stand: Stand, generation: int | None, seconds: float | None = None) -> dict[str, Any]:
    """Returns the state of a release on a worker, the worker's generation, and the seconds that the switch took."""
    told = {"worker": stand.worker, "live": stand.live, "state": stand.state, "detail": stand.detail}
    return {**told, "generation": generation, "seconds": seconds}


def trial_of(log: Log) -> str:
    """Returns the release on trial, its share and step, and by whom and why it is paused; "" without one."""
    if not (release := log.candidate):
        return ""
    text = f"release {short(release.id)} by {author_of(release)}: {described(release.strategy, log.generations[-1].share)}"
    return text + (f"; {log.releases[release.id].why}" if log.paused else "") + (f"; {release.reason}" if release.reason else "")


def coloured(state: str) -> str:
    """Returns a standing or a state in its colour, as markup."""
    colour = COLOURS.get(state, "")
    return f"[{colour}]{state}[/]" if colour else escape(state)


def author_of(release: Release) -> str:
    """Returns who signed the release, and for whom."""
    return f"{release.author} for {release.requested_by}" if release.requested_by else release.author
