"""What a step of a plan computes: a file per kind of node."""

from penstock.nodes.base import HASTY, WHOLE, Context, Feed, Node
from penstock.nodes.model import ModelNode, Runs

__all__ = ["HASTY", "WHOLE", "Context", "Feed", "ModelNode", "Node", "Runs"]
