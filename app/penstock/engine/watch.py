"""A stage that reports each run of its models: the same steps, run by the same `execute`, with a recorder around each model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from penstock.batch import Array
from penstock.engine.plan import Stage
from penstock.errors import InferenceError
from penstock.nodes import ModelNode, around_model

__all__ = ["Run", "watched"]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a node's model: its inputs and outputs, by tensor; `error` is why it returned no outputs."""

    node: str
    version: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    error: InferenceError | None = None


def watched(stage: Stage, tell: Callable[[Run], None]) -> Stage:
    """Returns the stage, which reports each run of a model when it ends. A batch in which a row fails is several runs: see `nodes`."""

    def witnessed(node: ModelNode) -> ModelNode:
        return replace(node, model=_Witness(node, tell))

    return replace(stage, nodes=tuple(around_model(node, witnessed) for node in stage.nodes))


class _Witness:
    """Runs a node's model, and reports each run."""

    def __init__(self, node: ModelNode, tell: Callable[[Run], None]) -> None:
        self._name, self._version, self._model, self._tell = node.name, node.version, node.model, tell

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        try:
            arrays = self._model.run(outputs, feeds)
        except InferenceError as error:
            self._tell(Run(self._name, self._version, feeds, {}, error))
            raise
        self._tell(Run(self._name, self._version, feeds, dict(zip(outputs, arrays, strict=True))))
        return arrays
