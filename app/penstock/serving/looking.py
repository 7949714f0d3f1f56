"""Events that are looked up before they are scored: what is not in the store goes to the models, and the answers are in order again.

The answers of one call are of one generation: where a release became active while the call waited, all its events are scored.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from penstock.batch import Failure
from penstock.binding import Binding
from penstock.record import RecordLike
from penstock.runtime import Loaded
from penstock.serving.targets import Events, Live, Outcome
from penstock.stores.lookup import Answer, Lookup
from penstock.stores.programs import about
from penstock.topology.precomputed import OUTCOME

__all__ = ["Looking"]

_ENCODE: Final = msgspec.json.Encoder().encode
_DECODE: Final = msgspec.json.Decoder().decode
Submit = Callable[[Events, list[RecordLike]], Awaitable[tuple[Live, Outcome]]]


class Looking:
    """The lookups of a service. `bindings` returns those of the models that score now, None before there are any."""

    def __init__(self, loaded: Loaded, lookup: Lookup, bindings: Callable[[], Mapping[str, Binding] | None]) -> None:
        self._loaded, self._lookup, self._bindings = loaded, lookup, bindings
        self._known: tuple[Mapping[str, Binding] | None, str] = None, ""

    def close(self) -> None:
        """Waits for what is to be written back, and ends the store's connections."""
        self._lookup.close()

    def _about(self) -> str:
        bindings = self._bindings()
        if bindings is not None and bindings is not self._known[0]:
            self._known = bindings, about(self._loaded, bindings)
        return self._known[1]

    async def score(self, events: Events, records: list[RecordLike], live_now: Callable[[], Live], submit: Submit) -> tuple[Live, Outcome]:
        """Returns the answer of each event, with the field `precomputed`. `submit` scores some of them. Raises CallRefused."""
        digest = self._about()
        found = await self._lookup.search(records, digest)
        live, outcome = await submit(events, [records[row] for row in found.rows]) if found.rows else (live_now(), [])
        if isinstance(outcome, Exception):
            return live, outcome
        assert isinstance(outcome, list), "events are answered by a list"
        if digest != self._about() and found.answers:
            live, outcome = await submit(events, records)
            return live, [_marked(one, "fallback") for one in outcome] if isinstance(outcome, list) else outcome
        sinks = [*events.outputs]
        scored = dict(zip(found.rows, outcome, strict=True))
        self._lookup.learn(found, {row: _fields(one, sinks) for row, one in scored.items() if not isinstance(one, Failure)})
        return live, [
            _stored(found.answers[row], sinks) if row in found.answers else _marked(scored[row], what)
            for row, what in enumerate(found.outcomes)
        ]


def _stored(answer: Answer, sinks: Sequence[str]) -> bytes:
    if len(sinks) == 1:
        return _ENCODE({**(answer.sinks.get(sinks[0]) or {}), OUTCOME: answer.outcome})
    return _ENCODE({**{name: fields for name, fields in answer.sinks.items() if fields is not None}, OUTCOME: answer.outcome})


def _fields(value: bytes, sinks: Sequence[str]) -> dict[str, Any]:
    fields = _DECODE(value)
    if len(sinks) > 1:
        return fields  # type: ignore[no-any-return]  # an object per sink
    return {sinks[0]: fields} if fields else {}


def _marked(value: bytes | Failure, outcome: str) -> bytes | Failure:
    if isinstance(value, Failure):
        return value
    return b'%b%b"%b":"%b"}' % (value[:-1], b"" if value == b"{}" else b",", OUTCOME.encode(), outcome.encode())
