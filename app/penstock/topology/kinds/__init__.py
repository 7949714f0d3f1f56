"""The kinds of nodes, one file each. A new kind is a file and a row of `KINDS`, where parser, checks and drawings look it up."""

from __future__ import annotations

from typing import Any, Final

from penstock.topology.kinds.base import Bound, Kind
from penstock.topology.kinds.lookup import LookupKind
from penstock.topology.kinds.model import ModelKind
from penstock.topology.kinds.rule import RuleKind
from penstock.topology.kinds.window import WindowKind
from penstock.topology.spec import Node

__all__ = ["KINDS", "Bound", "Kind", "kind_of"]

KINDS: Final[dict[str, Kind[Any]]] = {
    "feature": ModelKind(),
    "model": ModelKind(),
    "ensemble": ModelKind(outline=("{{", "}}")),
    "rule": RuleKind(),
    "window": WindowKind(),
    "lookup": LookupKind(),
}


def kind_of(node: Node) -> Kind[Any]:
    return KINDS[node.kind]
