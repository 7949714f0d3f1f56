"""The computation of a plan's step: one file per kind of node, and its row in `MAKERS`."""

from collections.abc import Callable, Mapping
from typing import Final

from penstock.nodes import lookup, model, rule, window
from penstock.nodes.base import HASTY, WHOLE, Context, Feed, Feeds, Node
from penstock.nodes.lookup import LookupNode
from penstock.nodes.model import ModelNode, Runs
from penstock.nodes.rule import RuleNode
from penstock.nodes.window import WindowNode
from penstock.topology import spec
from penstock.topology.wiring import Step

__all__ = [
    "HASTY",
    "MAKERS",
    "WHOLE",
    "Context",
    "Feed",
    "Feeds",
    "LookupNode",
    "Maker",
    "ModelNode",
    "Node",
    "RuleNode",
    "Runs",
    "WindowNode",
    "around_model",
]


def around_model(node: Node, change: Callable[[ModelNode], ModelNode]) -> Node:
    """Returns the node with its model changed, for the kinds that run one."""
    if isinstance(node, RuleNode):
        return node.with_model(change)
    return change(node) if isinstance(node, ModelNode) else node


Maker = Callable[[Step, Feeds, Runs | None, str], Node]  # the step, the feeds of its tensors, its model if it has one, the model's version

MAKERS: Final[Mapping[type[spec.Node], Maker]] = {
    spec.ModelNode: model.make,
    spec.RuleNode: rule.make,
    spec.WindowNode: window.make,
    spec.LookupNode: lookup.make,
}
