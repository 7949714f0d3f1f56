"""What feeds a node that reads references as they are, each for one purpose: keys, times, values, filters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, NamedTuple

from penstock.schema import Field, Missing
from penstock.signature import Tensor
from penstock.topology.names import ref
from penstock.topology.resolve import FromField, Names, Target, Wire
from penstock.topology.spec import Input, LookupNode, Ref, WindowNode

__all__ = ["KEY", "KEYS", "TIME", "TIME_US", "Read", "Reads", "not_a_key", "not_a_time"]

# What the tensors of such a node are for, before a dot and a number: a field of the key, the time (in us with _US).
KEY: Final = "by"
TIME: Final = "time"
TIME_US: Final = "time_us"
KEYS: Final = ("string", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


class Read(NamedTuple):
    """How a reference is read: in which dtype, what replaces null, and why it cannot be what it is for, with what to do."""

    dtype: str
    missing: Missing | None = None
    problem: tuple[str, str] | None = None


class Reads(ABC):
    """The wires of a node. A reference that cannot be what it is for goes to the report of `names`."""

    def __init__(self, node: WindowNode | LookupNode, names: Names) -> None:
        self.node, self.names = node, names
        self.wires: list[Wire] = []

    @abstractmethod
    def read(self, what: str, found: Ref, target: Target, dtype: str, fields: list[Field]) -> Read:
        """Returns how a reference is read; `fields` are what it means in the schemas of the sources, for the field of an event."""

    def add(self, tensor: str, found: Ref, key: str) -> None:
        """Adds what a reference means; `key` is its place in the node."""
        where = f"nodes.{self.node.name}.{key}"
        target = self.names.target(found, where)
        if target is None:
            return
        fields = self.fields(target)
        dtypes = {one.dtype for one in fields} if isinstance(target, FromField) else {target.tensor.dtype} if target.tensor else set()
        if not dtypes:
            return  # a schema or a signature is not known, which has been reported
        read = self.read(tensor.partition(".")[0], found, target, next(iter(dtypes)), fields)
        if read.problem is not None:
            self.names.report.add(found.mark, f"{where}: {read.problem[0]}", read.problem[1])
            return
        entry = Input(tensor, (found,), missing=read.missing, mark=found.mark)
        self.wires.append(Wire(Tensor(tensor, read.dtype), entry, (target,), place=key))

    def time(self) -> None:
        """Adds the event time: that of the node, or of its sources, if they have one."""
        node, names = self.node, self.names
        if node.time is not None:
            return self._time(node.time)
        times = {
            source.name: source.time if names.topology.match(source.name) is None else f"{source.name}.{source.time}"
            for source in names.topology.sources
            if source.time is not None and self._feeds(source.name)
        }
        if len({*times.values()}) > 1:
            which = " and ".join(f"{time} of {source}" for source, time in times.items())
            names.report.add(node.mark, f"nodes.{node.name}: its event time is {which}", "name one: time: FIELD")
        elif times and (found := ref(next(iter(times.values())), node.at("time"))) is not None:
            self._time(found)
        return None

    def _time(self, found: Ref) -> None:
        target = self.names.target(found, f"nodes.{self.node.name}.time")
        units = {one.unit for one in self.fields(target)} if isinstance(target, FromField) else {""}
        if len(units) > 1:
            message = f"nodes.{self.node.name}.time: {found.text!r} is in ms in one source, and in us in another"
            self.names.report.add(found.mark, message, "write SOURCE.FIELD")
            return
        self.add(TIME_US if units == {"us"} else TIME, found, "time")

    def _feeds(self, source: str) -> bool:
        """Whether the source has all fields that the node reads."""
        schema = self.names.schemas.get(source)
        named = [one for wire in self.wires for one in wire.targets if isinstance(one, FromField)]
        return schema is not None and all(one.source in (None, source) and schema.field(one.name) is not None for one in named)

    def fields(self, target: Target | None) -> list[Field]:
        """Returns the field in each schema of a source that has it."""
        if not isinstance(target, FromField):
            return []
        schemas = self.names.schemas if target.source is None else {target.source: self.names.schemas.get(target.source)}
        found = [schema.field(target.name) for schema in schemas.values() if schema is not None]
        return [one for one in found if one is not None]


def not_a_time(found: Ref, dtype: str, fields: list[Field]) -> tuple[str, str] | None:
    """Returns why a reference is no event time."""
    if dtype == "int64" and (not fields or {one.kind for one in fields} <= {"timestamp", "long"}):
        return None
    return f"{found.text!r} is no time", "an event time is a timestamp, or a long in ms"


def not_a_key(found: Ref, dtype: str) -> tuple[str, str] | None:
    """Returns why a reference is no key."""
    if dtype in KEYS:
        return None
    return f"{found.text!r} is {dtype or 'of no type that a key has'}", "a key is text, a whole number or true and false"
