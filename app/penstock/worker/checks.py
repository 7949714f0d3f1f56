"""Is what scores now still what it was when it was made ready? Asked by a timer: every live model must still meet its golden records.

A model that was right at its start and is wrong now points at the machine (memory, a library replaced under the process), not at
the data; drift of the data is another question. The records are read once, when a plan goes live: the check must not
fail because a registry is away. What fails can be taken back, by a release like any other.
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
        for stage in plan.stages.values():
            for node in stage.nodes:
                artifact = artifacts[node.name]
                if isinstance(node, ModelNode) and isinstance(node.model, Session) and id(node.model) not in found:
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


class Validity:
    """Checks whatever is in force. `models` is held while a model is run."""

    def __init__(self, models: asyncio.Lock) -> None:
        self._models = models
        self._probes: tuple[Plan, list[Probe]] | None = None

    async def failures(self, plan: Plan, artifacts: Mapping[str, Artifact]) -> list[str]:
        """What is wrong with the models of the plan; the first time with their golden records, as read then."""
        try:
            if self._probes is None or self._probes[0] is not plan:
                self._probes = plan, await asyncio.to_thread(Probe.all, plan, artifacts)
        except ModelError as error:
            return [f"the live models cannot be checked: {error}"]
        return [found for probe in self._probes[1] if (found := await probe.failure(self._models))]


async def take_back(settings: Settings, topology: Topology, generation: int, why: str) -> None:
    """Brings back what was in force before `generation`, if that is still the newest: its release is followed by ours or by nobody's.

    A rollback is not taken back in its turn: two generations that fail would follow one another for ever.
    """
    if not generation:
        logger.error("generation 0 is invalid, and there is none before it to go back to")
        return
    try:
        async with Operator(settings, topology) as operator:
            if operator.log.generation == generation and operator.log.generations[-1].release.restores is not None:
                logger.error("generation %d is invalid, and a rollback itself: a person must look", generation)
                return
            proposal = await operator.propose_rollback(generation - 1)
            if proposal.base == generation:  # else somebody was first
                await operator.carry_out(proposal, reason=why[:1000])
    except PenstockError as error:  # another worker was first, or the operator; else it is tried at the next check
        logger.warning("not rolled back by this worker: %s", error)
