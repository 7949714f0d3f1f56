"""The plan in force and the one before it. A swap is one assignment, made between two deliveries, so whoever reads
`current` once for a batch scores all of it with one generation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from penstock.engine.plan import Plan

__all__ = ["Live", "Serving"]


@dataclass(frozen=True, slots=True)
class Serving:
    """A plan in force: its generation, and the release that brought it ("" for generation 0, the topology file's own)."""

    generation: int
    plan: Plan
    release: str = ""


S = TypeVar("S", bound=Serving)


class Live(Generic[S]):
    """What scores now, and what would score again after a rollback; both stay loaded, and what was before them is given back."""

    def __init__(self, serving: S) -> None:
        self.current = serving
        self.previous: S | None = None

    @property
    def loaded(self) -> tuple[S, ...]:
        return (self.current,) if self.previous is None else (self.current, self.previous)

    def swap(self, following: S) -> None:
        """Puts `following` in force."""
        self.previous, self.current = self.current, following
