"""Is what scores now still what it was when it was made ready? Asked by a timer: every live model must still meet its golden records.

A model that was right at its start and is wrong now points at the machine (memory, a library replaced under the process), not at
the data; drift of the data is another question. The records are read once, when a plan goes live: the check must not
fail because a registry is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from penstock.engine import Plan
from penstock.errors import InferenceError, ModelError
from penstock.model.artifact import Artifact
from penstock.model.golden import GoldenRecord
from penstock.model.session import Session
from penstock.model.verify import check_golden

__all__ = ["Probe"]


@dataclass(frozen=True, slots=True)
class Probe:
    """One model version of a plan, with the records that it must meet."""

    version: str
    session: Session
    records: tuple[GoldenRecord, ...]
    atol: float
    rtol: float

    @classmethod
    def all(cls, plan: Plan, artifacts: Mapping[str, Artifact]) -> list[Self]:
        """A probe for each session of the plan; `artifacts` are by node name. Raises ModelError when records cannot be read."""
        found: dict[int, Self] = {}
        for flow in plan.flows.values():
            for node in flow.nodes:
                artifact = artifacts[node.name]
                if id(node.model) not in found and isinstance(node.model, Session):
                    golden = artifact.manifest.golden
                    found[id(node.model)] = cls(str(artifact), node.model, artifact.golden_records(), golden.atol, golden.rtol)
        return [*found.values()]

    async def failure(self, models: asyncio.Lock) -> str:
        """What is wrong with the model, "" when nothing is. `models` is held while it runs, as for every run of a live session."""
        async with models:
            try:
                await asyncio.to_thread(check_golden, self.session, self.records, atol=self.atol, rtol=self.rtol)
            except (InferenceError, ModelError) as error:
                return f"{self.version} does not meet its golden records any more: {error}"
        return ""
