"""The plan in force and the one before it. A swap is one assignment, made between two deliveries, so whoever reads
`current` once for a batch scores all of it with one generation.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.engine.plan import Plan

__all__ = ["Live", "Serving"]


@dataclass(frozen=True, slots=True)
class Serving:
    """A plan in force: its generation, and the release that brought it ("" for generation 0, the topology file's own)."""

    generation: int
    plan: Plan
    release: str = ""


class Live:
    """What scores now, and what would score again after a rollback; both stay loaded."""

    def __init__(self, serving: Serving) -> None:
        self.current = serving
        self.previous: Serving | None = None

    def swap(self, following: Serving) -> Serving | None:
        """Puts `following` in force. Returns what is no longer kept: the plan before the one that was in force until now."""
        given_back = self.previous
        self.previous, self.current = self.current, following
        return given_back
