"""The kind lookup: the row of a table that has the event's key. Its outputs are the table's fields, null where there is no such row."""

from __future__ import annotations

from typing import Final

from penstock.schema import Field, Missing
from penstock.signature import Signature, Tensor
from penstock.topology.document import Scalar, Value
from penstock.topology.kinds.base import Kind
from penstock.topology.kinds.reads import KEY, Read, Reads, not_a_key, not_a_time
from penstock.topology.resolve import FromNode, Names, Target, Wire
from penstock.topology.shapes import ENTRY_NAME, REFERENCE, Forms, Key, Keys, Listing
from penstock.topology.spec import FOUND, LookupNode, Ref, there
from penstock.topology.values import keys, marks, refs, word

__all__ = ["LookupKind"]

_KEYS: Final = Keys(
    {
        "table": Key(ENTRY_NAME, "The table: a name under `tables`.", required=True),
        "by": Key(
            Forms(text=REFERENCE, listing=Listing(REFERENCE)),
            "What has the table's key: one field or output, or as many as the key has, in its order.",
            required=True,
        ),
        "time": Key(
            REFERENCE,
            "The event time, for a table with a history; that of the source when omitted, and the record's timestamp without one.",
        ),
    }
)


class LookupKind(Kind[LookupNode]):
    """A node that reads a table."""

    keys = _KEYS

    @property
    def outline(self) -> tuple[str, str]:
        return "[\\", "\\]"

    def parse(self, name: Scalar, kind: str, value: Value) -> LookupNode:
        given = keys(value)
        time = refs(given["time"])[0] if "time" in given else None
        return LookupNode(name.text, kind, word(given["table"]), refs(given["by"]), time, mark=name.mark, marks=marks(value))

    def signature(self, node: LookupNode, model: Signature | None) -> Signature | None:
        if node.columns is None:
            return None
        fields = (made for one in node.columns for made in (one, Tensor(there(one.name), "bool")))
        return Signature((), (*fields, Tensor(FOUND, "bool")))

    def wires(self, node: LookupNode, names: Names) -> list[Wire]:
        made = _Reads(node, names)
        for number, one in enumerate(node.by):
            made.add(f"{KEY}.{number}", one, "by")
        if node.historical:
            made.time()
        return made.wires

    def refs(self, node: LookupNode) -> tuple[Ref, ...]:
        return (*node.by, *([] if node.time is None else [node.time]))

    def detail(self, node: LookupNode) -> str:
        return f"{node.table} by {', '.join(one.text for one in node.by)}"


class _Reads(Reads):
    """What feeds a lookup: an event without a key is one that the table lacks."""

    node: LookupNode

    def read(self, what: str, found: Ref, target: Target, dtype: str, fields: list[Field]) -> Read:
        if what != KEY:
            return Read(dtype, Missing("reject") if any(one.optional for one in fields) else None, not_a_time(found, dtype, fields))
        null = any(one.optional for one in fields)
        if isinstance(target, FromNode) and target.tensor is not None:
            null = self.names.topology.may_be_null(target.node, target.tensor.name, self.node)
        problem, at = not_a_key(found, dtype), len(self.wires)
        if problem is None and at < len(self.node.keyed) and _alike(dtype) != _alike(self.node.keyed[at]):
            problem = (
                f"{found.text!r} is {dtype}, the key of the table {self.node.table} is {self.node.keyed[at]}",
                "compare text with text",
            )
        return Read(dtype, Missing("fill", None) if null else None, problem)


def _alike(dtype: str) -> str:
    """Returns what a key is beside its width."""
    return dtype if dtype in ("string", "bool") else "int"
