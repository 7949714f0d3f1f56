"""Checks the live plan by a timer: every live model must still meet its golden records.

When a model was right at its start and is wrong now, the cause is the machine (memory, a library replaced under the process), not the
data; data drift is a different check. The records are read once, when a plan becomes live: the check must not fail because a
registry is unreachable. A generation that fails can be rolled back, by an ordinary release.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from penstock.engine import Plan
from penstock.errors import InferenceError, ModelError, PenstockError
from penstock.model.artifact import Artifact
from penstock.model.golden import GoldenRecord
from penstock.model.session import Session
from penstock.model.verify import check_golden
from penstock.nodes import ModelNode
from penstock.operate.operator import Operator
from penstock.settings import Settings
from penstock.topology.spec import Topology

__all__ = ["Probe", "Validity", "take_back"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Probe:
    """A model version of a plan, with the golden records and tolerances that it must meet."""

    version: str
    session: Session
    records: tuple[GoldenRecord, ...]
    atol: float
    rtol: float

    @classmethod
    def all(cls, plan: Plan, artifacts: Mapping[str, Artifact]) -> list[Self]:
        """Returns a probe per session of the plan; `artifacts` are by node name. Raises ModelError when records cannot be read."""
        found: dict[int, Self] = {}
        for stage in plan.stages.values():
            for node in stage.nodes:
                artifact = artifacts[node.name]
                if isinstance(node, ModelNode) and isinstance(node.model, Session) and id(node.model) not in found:
                    golden = artifact.manifest.golden
                    found[id(node.model)] = cls(str(artifact), node.model, artifact.golden_records(), golden.atol, golden.rtol)
        return [*found.values()]

    async def failure(self, models: asyncio.Lock) -> str:
        """Returns the failure of the model, "" without one. Holds `models` while the model runs, as every run of a live session does."""
        async with models:
            try:
                await asyncio.to_thread(check_golden, self.session, self.records, atol=self.atol, rtol=self.rtol)
            except (InferenceError, ModelError) as error:
                return f"{self.version} no longer meets its golden records: {error}"
        return ""


class Validity:
    """Checks the live plan. Holds `models` while a model runs."""

    def __init__(self, models: asyncio.Lock) -> None:
        self._models = models
        self._probes: tuple[Plan, list[Probe]] | None = None

    async def failures(self, plan: Plan, artifacts: Mapping[str, Artifact]) -> list[str]:
        """Returns the failures of the plan's models, one text per model. The first call for a plan reads the golden records."""
        try:
            if self._probes is None or self._probes[0] is not plan:
                self._probes = plan, await asyncio.to_thread(Probe.all, plan, artifacts)
        except ModelError as error:
            return [f"the live models cannot be checked: {error}"]
        return [found for probe in self._probes[1] if (found := await probe.failure(self._models))]


async def take_back(settings: Settings, topology: Topology, generation: int, why: str) -> None:
    """Rolls back to the generation before `generation`, if `generation` is still the newest.

    A rollback is never rolled back here: two generations that both fail would alternate without end.
    """
    if not generation:
        logger.error("generation 0 is invalid, and no generation is before it")
        return
    try:
        async with Operator(settings, topology) as operator:
            if operator.log.generation == generation and operator.log.generations[-1].release.restores is not None:
                logger.error("generation %d is invalid, and it is a rollback: a person must decide", generation)
                return
            proposal = await operator.propose_rollback(generation - 1)
            if proposal.base == generation:  # else another release was first
                await operator.carry_out(proposal, reason=why[:1000])
    except PenstockError as error:  # another worker or the operator was first; else the next check tries again
        logger.warning("this worker did not roll back: %s", error)
