"""The deployment: which plans score now, which rows each of them scores, and which plan would score again after a rollback.

1. A deployment never changes. A swap makes the next one and assigns it once, between two deliveries, so a reader that takes the
   deployment once per delivery scores all of it with one generation.
2. Every plan of a deployment has the deployment's generation. Whatever changes which plan answers which row makes the next
   generation, so the generation in an output's headers names one set of models and one router.
3. The primary answers. The router sends rows to candidates; `single` sends none, so it has no candidate.
4. The previous plan stays loaded, so that a rollback loads nothing. It scores no rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from penstock.engine.plan import Plan
from penstock.engine.router import SINGLE, Router

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
    """The plans that score: see the rules at the top of this module. Raises ValueError for plans that are not of one deployment."""

    primary: S
    candidates: tuple[S, ...] = ()
    router: Router = SINGLE
    previous: S | None = None

    def __post_init__(self) -> None:
        if len(self.candidates) != self.router.candidates:
            raise ValueError(f"{len(self.candidates)} candidates, but the router {self.router.name} has {self.router.candidates}")
        if any(one.generation != self.generation for one in self.candidates):
            raise ValueError(f"a candidate is not of generation {self.generation}")

    @property
    def generation(self) -> int:
        """The deployment's number: the generation that the control log gave it."""
        return self.primary.generation

    @property
    def loaded(self) -> tuple[S, ...]:
        """Every plan that stays in memory."""
        return (self.primary, *self.candidates) if self.previous is None else (self.primary, *self.candidates, self.previous)

    def followed_by(self, primary: S) -> Deployment[S]:
        """Returns the next deployment, in which `primary` scores every row; the current primary stays loaded."""
        return Deployment(primary, previous=self.primary)
