"""Which rows each plan of a deployment scores. There is one kind of router per strategy of a release.

| router | the primary answers | candidates |
|---|---|---|
| `single` | every row | none |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["SINGLE", "Router"]


@dataclass(frozen=True, slots=True)
class Router:
    """A row of the table: its name, which is the strategy's, and how many candidates it sends rows to."""

    name: str
    candidates: int


SINGLE: Final = Router("single", 0)
