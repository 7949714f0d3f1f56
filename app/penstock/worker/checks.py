"""Checks the live plan by a timer: its golden records, its last real rows, and whether all of it belongs to one release.

1. Every live model must still meet its golden records.
2. The plan must score the last real rows as when they were first scored, within the models' tolerances, and fail on no other rows.
   Single rows may differ, up to the setting `failing_share`: a label may change when a sum is rounded otherwise in another batch.
3. The models and feature nodes that score, and the topology, must be those of the release that the control log has activated.

When a model was right at its start and is wrong now, the cause is the machine (memory, a library replaced under the process), not the
data; data drift is a different check. The golden records are read once, when a plan becomes live: the check must not fail because a
registry is unreachable. Models run as twins of those that score, in a thread, so scoring waits for at most the end of one operator
(`model/session`). What live runs leave no memory for is not checked this time. A generation that fails can be rolled back, by an
ordinary release.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self

from penstock.binding import Binding, same
from penstock.control.messages import Release
from penstock.engine import Plan
from penstock.errors import InferenceError, ModelError, NoRoom, PenstockError
from penstock.model.artifact import Artifact
from penstock.model.golden import GoldenRecord, meets
from penstock.model.session import Session
from penstock.model.verify import check_golden
from penstock.nodes import ModelNode
from penstock.operate.operator import Operator
from penstock.pipeline import Program
from penstock.settings import Settings
from penstock.topology.spec import Topology
from penstock.transports.base import Sink
from penstock.worker.proof import Trial, slices
from penstock.worker.recent import Kept

__all__ = ["Live", "Probe", "Validity", "strangers", "take_back"]

logger = logging.getLogger(__name__)

SECONDS: Final = 2.0  # of one check of the real rows


class Live(Protocol):
    """The plan that scores, and what it was made of."""

    @property
    def generation(self) -> int: ...
    @property
    def plan(self) -> Plan: ...
    @property
    def program(self) -> Program: ...
    @property
    def bindings(self) -> Mapping[str, Binding]: ...
    @property
    def artifacts(self) -> Mapping[str, Artifact]: ...


@dataclass(frozen=True, slots=True)
class Probe:
    """A model version of a plan, with the golden records and tolerances that it must meet. `session` is a twin of the live one."""

    version: str
    session: Session
    records: tuple[GoldenRecord, ...]
    atol: float
    rtol: float

    @classmethod
    def all(cls, plan: Plan, artifacts: Mapping[str, Artifact]) -> list[Self]:
        """Returns a probe per session of the plan; `artifacts` are by node name. Raises ModelError when records cannot be read."""
        found: dict[int, Self] = {}
        for node in _models(plan):
            if id(node.model) not in found and isinstance(node.model, Session):
                artifact = artifacts[node.name]
                golden = artifact.manifest.golden
                found[id(node.model)] = cls(str(artifact), node.model.twin(), artifact.golden_records(), golden.atol, golden.rtol)
        return [*found.values()]

    def failure(self) -> str:
        """Returns the failure of the model, "" without one. Blocks."""
        try:
            check_golden(self.session, self.records, atol=self.atol, rtol=self.rtol)
        except NoRoom as error:
            logger.info("%s was not checked on its golden records: %s", self.version, error)
        except (InferenceError, ModelError) as error:
            return f"{self.version} no longer meets its golden records: {error}"
        return ""


class Validity:
    """Checks the live plan, as the top of this module says. `share` is the part of the real rows that may differ."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._probes: tuple[Plan, list[Probe]] | None = None

    async def failures(self, live: Live, release: Release | None, kept: Mapping[str, Sequence[Kept]], sink: Sink | None) -> list[str]:
        """Returns the failures, one text each. The first call for a plan reads the golden records.

        `release` is what the log has activated as this generation, None when that is not known. `kept` are rows that it has scored.
        """
        return await asyncio.to_thread(lambda: [*self._failures(live, release, kept, sink)])

    def _failures(self, live: Live, release: Release | None, kept: Mapping[str, Sequence[Kept]], sink: Sink | None) -> Iterator[str]:
        if found := strangers(live, release):
            yield f"generation {live.generation} is not one release: {'; '.join(found)}"
        try:
            if self._probes is None or self._probes[0] is not live.plan:
                self._probes = live.plan, Probe.all(live.plan, live.artifacts)
        except ModelError as error:
            yield f"the live models cannot be checked: {error}"
            return
        yield from filter(None, (probe.failure() for probe in self._probes[1]))
        atol = max((probe.atol for probe in self._probes[1]), default=0.0)
        rtol = max((probe.rtol for probe in self._probes[1]), default=0.0)
        for stage, parts in kept.items():
            if odd := self._differs(Trial(live.program, stage, sink), parts, atol, rtol):
                yield f"generation {live.generation} no longer scores its last rows as it did: {odd}"

    def _differs(self, trial: Trial, parts: Sequence[Kept], atol: float, rtol: float) -> str:
        """Returns what is different about the rows now, "" when few of them are."""
        newest = [*reversed(parts)]
        rows = differs = 0
        example = ""
        for number, start, piece in slices([part.chunk for part in newest], SECONDS):
            part, now = newest[number], trial.run(piece)
            if now is None:
                continue
            rows += piece.rows
            scored = {row: at for at, row in enumerate(now.rows.tolist())}
            for row in range(piece.rows):
                if row in now.failures:
                    what = f"fails now ({now.failures[row]})"
                else:
                    pairs = ((name, old[start + row], now.outputs[name][scored[row]]) for name, old in part.outputs.items())
                    what = next((f"{name} differs" for name, old, new in pairs if not meets(old, new, atol, rtol)), "")
                differs += bool(what)
                example = example or (what and f"{piece.position(row)}: {what}")
        return f"{differs} of {rows} rows; the first: {example}" if differs > self._share * rows else ""


def _models(plan: Plan) -> list[ModelNode]:
    return [node for stage in plan.stages.values() for node in stage.nodes if isinstance(node, ModelNode)]


def strangers(live: Live, release: Release | None) -> list[str]:
    """Returns the parts of the live plan that are not of its release, by node: files, versions, parameters, and the topology."""
    found = []
    bound = live.bindings
    if release is not None:
        if release.topology != live.plan.topology:
            found.append(f"the topology is {live.plan.topology}, the release is for {release.topology}")
        if not same(bound, release.bindings):
            other = [node for node in {**bound, **release.bindings} if not _alike(bound.get(node), release.bindings.get(node))]
            found.append(f"release {release.id} binds other files or parameters to {', '.join(f'nodes.{node}' for node in other)}")
    for node in _models(live.plan):
        binding, artifact = bound.get(node.name), live.artifacts.get(node.name)
        if binding is None or artifact is None:
            found.append(f"nodes.{node.name} is not bound")
        elif (artifact.digest, artifact.manifest_digest) != (binding.digest, binding.manifest):
            found.append(f"nodes.{node.name} runs {artifact} with other files than the bound {binding}")
        elif {node.version, live.plan.versions[node.name]} != {str(artifact)}:
            found.append(f"nodes.{node.name} runs {node.version}, bound is {artifact}")
        elif isinstance(node.model, Session) and node.model.label != str(artifact):
            found.append(f"nodes.{node.name} runs the model {node.model.label}, bound is {artifact}")
    return found


def _alike(one: Binding | None, other: Binding | None) -> bool:
    return one is not None and other is not None and same({"": one}, {"": other})


async def take_back(settings: Settings, topology: Topology, generation: int, why: str) -> bool:
    """Rolls back to what was live before `generation`, if that is still the newest, or ends the trial that is under way in it. Returns
    whether a later try may help.

    A rollback is never rolled back here: two generations that both fail would alternate without end.
    """
    if not generation:
        logger.error("generation 0 is invalid, and no generation is before it")
        return False
    try:
        async with Operator(settings, topology) as operator:
            if operator.unchecked:
                logger.warning("%s", operator.unchecked)
            if operator.log.generation != generation:  # another release was first
                return True
            if operator.log.candidate is not None:  # nothing else can be released before
                await operator.abort(operator.log.candidate.id, why[:1000])
                return True
            if operator.log.generations[-1].live.restores is not None:
                logger.error("generation %d is invalid, and it is a rollback: a person must decide", generation)
                return False
            proposal = await operator.propose_rollback()
            if proposal.base == generation:  # else another release was first
                await operator.carry_out(proposal, reason=why[:1000])
    except PenstockError as error:  # another worker or the operator was first; else the next check tries again
        logger.warning("this worker did not roll back: %s", error)
    return True
