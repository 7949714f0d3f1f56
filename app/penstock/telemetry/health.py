"""The health of a worker: named conditions, as values. `runners/health.py` computes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

__all__ = ["Condition", "Health", "Pages", "Verdict"]


class Condition(NamedTuple):
    """A condition that holds or not, with its reason."""

    name: str
    holds: bool
    detail: str


class Verdict(NamedTuple):
    """The answer of a page: good or not, and its content."""

    good: bool
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Health:
    """`sources` has one condition per source: it makes progress, or is idle for the given reason. `conditions` are those of readiness."""

    sources: tuple[Condition, ...]
    conditions: tuple[Condition, ...]

    @property
    def alive(self) -> bool:
        return all(one.holds for one in self.sources)

    @property
    def ready(self) -> bool:
        return all(one.holds for one in self.conditions)

    def liveness(self) -> Verdict:
        """Returns the answer of `/healthz`."""
        body = {"alive": self.alive, "stalled": _failing(self.sources), "sources": {one.name: one.detail for one in self.sources}}
        return Verdict(self.alive, body)

    def readiness(self) -> Verdict:
        """Returns the answer of `/readyz`."""
        body = {"ready": self.ready, "missing": _failing(self.conditions), "conditions": {one.name: one.detail for one in self.conditions}}
        return Verdict(self.ready, body)


def _failing(conditions: tuple[Condition, ...]) -> list[str]:
    return [f"{one.name}: {one.detail}" for one in conditions if not one.holds]


class Pages(Protocol):
    """The content of the three pages, in a worker or in a supervisor."""

    async def alive(self) -> Verdict: ...

    async def ready(self) -> Verdict: ...

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Returns the metrics page in the format of the `Accept` header, and its content type."""
