"""The deployment: which plans score now, and which plan would score again after a rollback.

1. A deployment never changes. A swap makes the next one and assigns it once, between two deliveries, so a reader that takes the
   deployment once per delivery scores all of it with one generation.
2. Every plan of a deployment that scores has the deployment's generation. Whatever changes which plan answers which row makes the next
   generation, so the generation in an output's headers names one set of models and one router.
3. The primary answers. While a release is on trial, its plan answers what its router gives it (`router`, `split`).
4. The previous plan stays loaded, so that a rollback loads nothing. It scores no rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from penstock.engine.plan import Plan

__all__ = ["Deployment", "Serving"]


@dataclass(frozen=True, slots=True)
class Serving:
    """A plan that scores: its generation, and the release that brought it ("" for generation 0, the topology file's own)."""

    generation: int
    plan: Plan
    release: str = ""


S = TypeVar("S", bound=Serving)


@dataclass(frozen=True, slots=True)
class Deployment(Generic[S]):
    """The plans that score: see the rules at the top of this module. Raises ValueError for a trial of another generation."""

    primary: S
    trial: S | None = None
    previous: S | None = None

    def __post_init__(self) -> None:
        if self.trial is not None and self.trial.generation != self.generation:
            raise ValueError(f"what is on trial is not of generation {self.generation}")

    @property
    def generation(self) -> int:
        """The deployment's number: the generation that the control log gave it."""
        return self.primary.generation

    @property
    def loaded(self) -> tuple[S, ...]:
        """Every plan that stays in memory."""
        return tuple(one for one in (self.primary, self.trial, self.previous) if one is not None)

    def followed_by(self, primary: S, trial: S | None = None) -> Deployment[S]:
        """Returns the next deployment. Where another release answers in it, the current primary stays loaded."""
        return Deployment(primary, trial, self.previous if primary.release == self.primary.release else self.primary)
