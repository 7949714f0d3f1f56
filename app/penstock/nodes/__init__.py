"""What a step of a plan computes: a file per kind of node, and its row in `MAKERS`."""

from collections.abc import Callable, Mapping
from typing import Final

from penstock.nodes import model
from penstock.nodes.base import HASTY, WHOLE, Context, Feed, Feeds, Node
from penstock.nodes.model import ModelNode, Runs
from penstock.topology import spec
from penstock.topology.wiring import Step

__all__ = ["HASTY", "MAKERS", "WHOLE", "Context", "Feed", "Feeds", "Maker", "ModelNode", "Node", "Runs"]

Maker = Callable[[Step, Feeds, Runs | None, str], Node]  # the step, what feeds its tensors, its model and that one's version, if it has one

MAKERS: Final[Mapping[type[spec.Node], Maker]] = {spec.ModelNode: model.make}
