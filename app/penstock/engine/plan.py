"""Plan: a topology bound to loaded models, as immutable values that every runner shares. Columns in, columns out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from penstock.batch import Array
from penstock.nodes import Node
from penstock.topology import wiring

__all__ = ["Output", "Pick", "Plan", "Stage"]

Pick = Callable[[Mapping[str, Array]], Array]


@dataclass(frozen=True, slots=True)
class Output:
    """The output of a stage to one sink: how each field, and the key if the sink sets one, is picked from the columns."""

    emit: wiring.Emit
    picks: tuple[Pick, ...]
    key: Pick | None

    def columns(self, columns: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the fields of the output event by name, each `[N, ...]`."""
        return {field.name: pick(columns) for field, pick in zip(self.emit.fields, self.picks, strict=True)}


@dataclass(frozen=True, slots=True)
class Stage:
    """The steps of one stage: the nodes in order, then the outputs. `nodes` are those of `wired.steps`."""

    wired: wiring.Stage
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """`stages` by name. `versions` names the exact model version of every node, in the order of the file."""

    topology: str
    stages: Mapping[str, Stage]
    versions: Mapping[str, str]
