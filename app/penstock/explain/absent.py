"""A prediction that a join has made without some of its members: the topology in one process, as if these had not answered.

A missing member's outputs have the value of `join.missing`, and are null in the sinks of the stage that joins (docs/stages.md).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from penstock.batch import Batch
from penstock.joins import present
from penstock.nodes import WHOLE, Context, Node
from penstock.pipeline import Program
from penstock.runtime import Loaded
from penstock.schema import Column
from penstock.topology.spec import Constant
from penstock.topology.stages import cut
from penstock.topology.wiring import Emit, Joined, Stage

__all__ = ["replaced", "without"]


def without(loaded: Loaded, missing: Collection[str]) -> Loaded:
    """Returns the topology with the gaps of its sinks where a member is missing. Its program is to be given to `replaced`."""
    gapped = {emit.sink.name: emit for stage in _joined(loaded) for emit in stage.emits}
    gaps = {present(member) for member in missing}

    def emitted(emit: Emit) -> Emit:
        pairs = zip(emit.fields, gapped.get(emit.sink.name, emit).fields, strict=True)
        return replace(emit, fields=tuple(new if new.part.gap and new.part.gap.when in gaps else old for old, new in pairs))

    def changed(stage: Stage) -> Stage:
        steps = (replace(one, node=replace(one.node, when=None)) if one.node.name in missing else one for one in stage.steps)
        return replace(stage, steps=tuple(steps), emits=tuple(map(emitted, stage.emits)))

    return replace(loaded, wiring=replace(loaded.wiring, stages=tuple(map(changed, loaded.wiring.stages))))


def replaced(program: Program, loaded: Loaded, missing: Collection[str]) -> Program:
    """Returns the program in which these nodes are not run: their outputs have the values of `join.missing`."""
    absent: dict[str, list[tuple[Column, Constant]]] = {name: [] for name in missing}
    for stage in _joined(loaded):
        assert isinstance(stage.gather, Joined), "one of those that join"
        for one in stage.inputs:
            if one.behind in absent and one.behind in stage.gather.fills:
                own = [column for column in one.columns if column.name not in stage.gather.shared]
                absent[one.behind] += [(column, stage.gather.fills[one.behind]) for column in own]
    stages = {
        name: replace(stage, nodes=tuple(_Absent(one, absent[one.name]) if one.name in absent else one for one in stage.nodes))
        for name, stage in program.plan.stages.items()
    }
    return replace(program, plan=replace(program.plan, stages=stages))


def _joined(loaded: Loaded) -> list[Stage]:
    return [stage for stage in cut(loaded.wiring, loaded.topology.name).wiring.stages if isinstance(stage.gather, Joined)]


@dataclass(frozen=True, slots=True)
class _Absent:
    """A node that is not run: its outputs, and what its stage alone passes on, have these values."""

    node: Node
    values: Sequence[tuple[Column, Constant]]

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def version(self) -> str:
        return self.node.version

    @property
    def stateful(self) -> bool:
        return False

    def run(self, batch: Batch, context: Context = WHOLE) -> Batch:
        """Returns the batch with the values, and with the column that is false because the node is missing."""
        made = {present(self.name): np.zeros(batch.size, bool)}
        for column, value in self.values:
            dtype = object if column.dtype == "string" or column.missing.action == "fill" else column.dtype
            made[column.name] = np.full((batch.size, *(axis or 0 for axis in column.shape)), value, dtype)
        return batch.with_columns(made)
