"""The signature of every node: `run(batch, context) -> batch`, for models and for nodes that wrap them or have state.

1. A node adds columns. It keeps the columns that it receives unchanged, and never writes into them.
2. A row that it cannot compute becomes a failure of that row; the other rows are not affected.
3. With `context.isolate` false, a node whose model raises over the whole batch raises InferenceError and has done nothing:
   the caller runs the same node on the same batch again, where it may take longer to find the guilty rows.
4. Running the same chunk a second time gives the same answers and leaves the same state as running it once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from penstock.batch import Array, Batch
from penstock.errors import InferenceError
from penstock.state import States

__all__ = ["HASTY", "WHOLE", "Context", "Feed", "Feeds", "Node"]

Feed = Callable[[Mapping[str, Array]], Array]
Feeds = tuple[tuple[str, Feed], ...]  # input tensor -> how its array is made of the batch's columns


@dataclass(frozen=True, slots=True)
class Context:
    """The context of a run of a chunk, besides its rows: whether guilty rows are looked for, or the first error is raised.

    `raised` is what this node has raised over the same batch before: a node that looks for the guilty rows need not run over all
    of them once more. `states` are what nodes remember of the rows before; None where nothing is remembered.
    """

    isolate: bool = True
    raised: InferenceError | None = None
    states: States | None = None


WHOLE: Final = Context()
HASTY: Final = Context(isolate=False)


class Node(Protocol):
    """One step of a plan. `stateful` nodes keep state from chunk to chunk."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str:
        """`name@version` of its model, "" where it has none."""

    @property
    def stateful(self) -> bool: ...

    def run(self, batch: Batch, context: Context = WHOLE) -> Batch:
        """Returns the batch with this node's columns. Raises InferenceError only where `context` asks for it."""
