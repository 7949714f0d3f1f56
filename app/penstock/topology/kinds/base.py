"""What the topology must know of a kind of node. How a node of the kind computes is for the engine's table to say.

1. `keys`       the keys that the file may have beside `kind`, for the parser, the JSON Schema and editors
2. `parse`      marked values that conform to them become the kind's value, a subclass of `spec.Node`
3. `clashes`    what is wrong in the value alone
4. `signature`  the tensors that the node takes and gives; everything behind it (types, columns, steps) follows from them
5. `wires`      what feeds each tensor that it takes
   `derive`     for kinds whose tensors follow from what they read, in place of `signature`; with the graph that computes them
6. `fit`        what is wrong with the model that a release binds, for the kinds that have one
7. `outline`, `refs` and `detail`  how it is drawn
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from penstock.expressions import Graph
from penstock.signature import Signature
from penstock.topology.document import Scalar, Value
from penstock.topology.resolve import Finding, Names, Wire
from penstock.topology.shapes import Keys
from penstock.topology.spec import Node, Ref

__all__ = ["Bound", "Kind"]

N = TypeVar("N", bound=Node)


@dataclass(frozen=True, slots=True)
class Bound:
    """A version that a node is bound to: its name for messages, its tensors, its metrics, and parameters in place of the file's.

    `parameters` None keeps those of the file, which the check of the topology has compared with the tensors.
    """

    version: str
    signature: Signature
    metrics: Mapping[str, float]
    parameters: Mapping[str, object] | None = None


class Kind(ABC, Generic[N]):
    """A kind of node. `N` is the value that it parses to."""

    @property
    @abstractmethod
    def keys(self) -> Keys:
        """The keys beside `kind`."""

    @property
    def outline(self) -> tuple[str, str]:
        """The brackets that give its shape in Mermaid."""
        return "[", "]"

    @abstractmethod
    def parse(self, name: Scalar, kind: str, value: Value) -> N:
        """The node that `value`, which conforms to `keys`, declares."""

    def clashes(self, node: N) -> Iterator[Finding]:
        """What is wrong in the node's value, without schemas and signatures."""
        return iter(())

    @abstractmethod
    def signature(self, node: N, model: Signature | None) -> Signature | None:
        """The tensors that the node takes and gives; `model` is its model's signature. None when that would decide and is not known."""

    def derive(self, node: N, names: Names) -> Graph | None:
        """The ONNX graph that the file itself declares: its tensors follow from what the names mean. None: another kind, or a problem.

        A problem is reported by `wires`. What the node reads comes before it, so `names` has its signature.
        """
        return None

    @abstractmethod
    def wires(self, node: N, names: Names) -> list[Wire]:
        """What feeds each input tensor, in the signature's order. What cannot be fed goes to the report of `names`."""

    def fit(self, node: N, bound: Bound) -> Iterator[Finding]:
        """What is wrong with the version that the node is bound to, beyond its tensors, which the check of the topology compares."""
        return iter(())

    @abstractmethod
    def refs(self, node: N) -> tuple[Ref, ...]:
        """The references that the file names."""

    @abstractmethod
    def detail(self, node: N) -> str:
        """What a drawing prints beside the name."""
