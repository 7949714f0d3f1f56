"""What a worker answers when it is asked how it is: named conditions, as values. `runners/health.py` computes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

__all__ = ["Condition", "Health", "Pages", "Verdict"]


class Condition(NamedTuple):
    """Something that holds or does not, and why."""

    name: str
    holds: bool
    detail: str


class Verdict(NamedTuple):
    """The answer of a page: good or not, and what it shows."""

    good: bool
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Health:
    """`sources` has a condition per source: it makes progress, or is idle for the stated reason. `conditions` are those of readiness."""

    sources: tuple[Condition, ...]
    conditions: tuple[Condition, ...]

    @property
    def alive(self) -> bool:
        return all(one.holds for one in self.sources)

    @property
    def ready(self) -> bool:
        return all(one.holds for one in self.conditions)

    def liveness(self) -> Verdict:
        """What `/healthz` answers."""
        body = {"alive": self.alive, "stalled": _failing(self.sources), "sources": {one.name: one.detail for one in self.sources}}
        return Verdict(self.alive, body)

    def readiness(self) -> Verdict:
        """What `/readyz` answers."""
        body = {"ready": self.ready, "missing": _failing(self.conditions), "conditions": {one.name: one.detail for one in self.conditions}}
        return Verdict(self.ready, body)


def _failing(conditions: tuple[Condition, ...]) -> list[str]:
    return [f"{one.name}: {one.detail}" for one in conditions if not one.holds]


class Pages(Protocol):
    """What stands behind the three pages, in a worker or in a supervisor."""

    async def alive(self) -> Verdict: ...

    async def ready(self) -> Verdict: ...

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """The page of metrics in the format that the `Accept` header asks for, and its content type."""
