"""Plan: a topology bound to loaded models, as immutable values that every runner shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from penstock.batch import Array
from penstock.codecs.base import Decoder, Encoder
from penstock.nodes import Node
from penstock.topology.wiring import Emit
from penstock.topology.wiring import Stage as Wired

__all__ = ["Emission", "Plan", "Stage"]

Pick = Callable[[Mapping[str, Array]], Array]


@dataclass(frozen=True, slots=True)
class Emission:
    """What a stage writes to one sink: how each output field is picked from the columns, and the encoder of the whole."""

    emit: Emit
    picks: tuple[Pick, ...]
    key: Pick | None
    encoder: Encoder


@dataclass(frozen=True, slots=True)
class Stage:
    """The way of the events of one source: decoded, through the nodes in order, to the emissions."""

    wired: Wired
    decoder: Decoder
    nodes: tuple[Node, ...]
    emissions: tuple[Emission, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """`stages` by name. `versions` names the exact model version of every node, in the order of the file."""

    topology: str
    stages: Mapping[str, Stage]
    versions: Mapping[str, str]
