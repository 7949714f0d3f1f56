"""Releases as text and as JSON: times, ids, authors and changes, the same in every command."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from rich.markup import escape

from penstock.binding import Binding
from penstock.control.log import Known, Log
from penstock.control.messages import Release, timestamp
from penstock.control.proposal import Difference, changes_of
from penstock.control.rollout import Stand
from penstock.operate.comparing import Compared

__all__ = [
    "COLOURS", "binding_json", "coloured", "compared_json", "compared_lines", "difference_json", "duration", "known_json", "moment",
    "release_json", "short", "stand_json",
]  # fmt: skip

COLOURS: Final = {
    "pending": "yellow", "active": "green", "superseded": "", "aborted": "red", "rejected": "red",
    "ready": "green", "live": "green", "failed": "red", "stale": "red",
}  # fmt: skip


def short(id: str) -> str:
    """Returns the beginning of an id: its time, to the millisecond. Every command accepts it."""
    return id[:13]


def moment(ms: int) -> str:
    """Returns a broker's stamp, Unix time in ms, as UTC to the second."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%SZ}"


def duration(seconds: float) -> str:
    """Returns a duration as text: `34 ms`, `12 s`, `3 min`, `2 h`, `5 d`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


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
        "id": release.id, "topology": release.topology, "base": release.base, "author": release.author, "time": release.time,
        "reason": release.reason, "restores": release.restores, "aliases": release.aliases,
        "strategy": msgspec.to_builtins(release.strategy), "version": release.version, "control_topic": release.control_topic or None,
        "bindings": {node: binding_json(binding) for node, binding in release.bindings.items()},
    }  # fmt: skip


def known_json(log: Log, known: Known) -> dict[str, Any]:
    """Returns a release, its result so far, and its changes."""
    generation = next((one for one in log.generations if one.release.id == known.release.id), None)
    return {
        **release_json(known.release),
        "standing": known.standing.value, "why": known.why, "announced": timestamp(known.at_ms / 1000), "offset": known.offset,
        "generation": generation and generation.number, "activated": generation and timestamp(generation.at_ms / 1000),
        "activated_by": generation and generation.activated_by,
        "changes": difference_json(changes_of(log, known.release)),
    }  # fmt: skip


def stand_json(stand: Stand, generation: int | None, seconds: float | None = None) -> dict[str, Any]:
    """Returns the state of a release on a worker, the worker's generation, and the seconds that the switch took."""
    told = {"worker": stand.worker, "live": stand.live, "state": stand.state, "detail": stand.detail}
    return {**told, "generation": generation, "seconds": seconds}


def coloured(state: str) -> str:
    """Returns a standing or a state in its colour, as markup."""
    colour = COLOURS.get(state, "")
    return f"[{colour}]{state}[/]" if colour else escape(state)
