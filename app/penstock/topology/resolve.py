"""What every name on a right-hand side means: a field of the event or the output of a node; and the inputs that the file leaves out.

A tensor without an entry is fed by what has its name: the field T, the node T (by its only output), or the output T of
another node. Exactly one of them must exist; when there are several, the file must name one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from penstock.errors import Problem
from penstock.schema import Field, Schema, Step, steps
from penstock.signature import Signature, Tensor
from penstock.topology.names import any_of, did_you_mean
from penstock.topology.spec import Constant, Input, Mark, Node, Ref, Topology

__all__ = ["Finding", "FromField", "FromNode", "Names", "Report", "Target", "Wire", "closest"]

SHOWN: Final = 6  # tensors that a message prints with their types
Finding = tuple[Mark, str, str]  # where it is, what is wrong, what to do


class Report:
    """Collects problems as they are found, each once."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._found: dict[Problem, None] = {}

    def add(self, mark: Mark, message: str, fix: str = "") -> None:
        self._found[Problem(self._file, mark.line, mark.column, message, fix)] = None

    def problems(self) -> list[Problem]:
        """Returns all problems in the file's order."""
        return sorted(self._found, key=lambda problem: (problem.line, problem.column))


@dataclass(frozen=True, slots=True)
class FromField:
    """A field of the event, by name or path: of `source` only, or of any source that has it (None). `index` picks an element of it."""

    name: str
    source: str | None = None
    index: int | None = None


@dataclass(frozen=True, slots=True)
class FromNode:
    """An output of a node. `tensor` is None while the node's signature is not known."""

    node: str
    tensor: Tensor | None


Target = FromField | FromNode


@dataclass(frozen=True, slots=True)
class Wire:
    """An input tensor of a node and what its refs mean; None is a ref that leads nowhere and has been reported.

    A parameter has a `constant` and no refs. `place` is the key of the file that it comes from, where that is not an entry of `inputs`.
    """

    tensor: Tensor
    input: Input
    targets: tuple[Target | None, ...]
    constant: Constant | None = None
    place: str = ""


class Names:
    """The names of a topology. What depends on an unknown schema or signature is not reported."""

    def __init__(self, topology: Topology, schemas: Mapping[str, Schema], signatures: Mapping[str, Signature], report: Report) -> None:
        self.topology = topology
        self.schemas = schemas
        self.signatures = signatures
        self.report = report
        self._bare_schemas = {name: one for name, one in schemas.items() if topology.match(name) is None}  # names alone mean no pair
        # While something is broken, "no sink reads it" would only report the same mistake again.
        self.dangling = len(schemas) < len(topology.sources) or len(signatures) < len(topology.nodes)

    def target(self, ref: Ref, where: str) -> Target | None:
        """Returns what the ref means, or None and reports a problem when it means nothing or two things."""
        if ref.tail is None:
            return self._bare(ref, where)
        if self.topology.source(ref.head):
            schema = self.schemas.get(ref.head)
            if schema is not None and schema.field(ref.tail) is None:
                self.nowhere(ref.mark, f"{where}: the source {ref.head!r} has no field {ref.tail!r}", closest(ref.tail, [schema]))
                return None
            return self._field(ref.tail, ref.index, ref.head)
        if self.topology.node(ref.head):
            return self._output(ref, where)
        if self.has_field(ref.path):
            return self._field(ref.path, ref.index)
        if self.has_field(ref.head):
            self.nowhere(ref.mark, f"{where}: there is no field {ref.path!r}", closest(ref.path, self.schemas.values()))
            return None
        fix = did_you_mean(ref.head, self._heads())
        if len(self.schemas) < len(self.topology.sources) and not fix.startswith("did you mean"):
            self.dangling = True  # it may be a field of a schema that could not be read, which has been reported
            return None
        self.nowhere(ref.mark, f"{where}: {ref.text!r}: there is no source or node {ref.head!r}", fix)
        return None

    def targets(self, refs: Iterable[Ref], where: str) -> tuple[Target | None, ...]:
        return tuple(self.target(ref, where) for ref in refs)

    def by_name(self, node: Node, tensors: Sequence[Tensor], offer: str = "") -> dict[str, Input]:
        """Returns what feeds the input tensors that the file leaves out, by their names. A tensor that nothing or several things could feed
        is not among them, and a problem: those that nothing feeds are one.

        `offer` is what the kind of the node offers beside entries of `inputs`; a single TENSOR in it gets its name.
        """
        found, unfed = {}, []
        for tensor in tensors:
            candidates = self._named(node, tensor.name)
            if len(candidates) == 1:
                found[tensor.name] = Input(tensor.name, tuple(candidates), mark=node.mark)
                continue
            self.dangling = True
            if candidates:
                texts = ", ".join(candidate.text for candidate in candidates)
                message = f"nodes.{node.name}: several things have the name of the input tensor `{tensor}`: {texts}"
                self.report.add(node.mark, message, f"name one: inputs: {{{tensor.name}: ...}}")
            else:
                unfed.append(tensor)
        if unfed and len(self.schemas) == len(self.topology.sources) and len(self.signatures) == len(self.topology.nodes):
            several = len(unfed) > 1
            listed = ", ".join(f"`{tensor}`" for tensor in unfed[:SHOWN]) + (f" and {len(unfed) - SHOWN} more" if unfed[SHOWN:] else "")
            message = f"nodes.{node.name}: nothing feeds the input tensor{'s' * several} {listed}, and no field or output has "
            also = offer if several else offer.replace("TENSOR", unfed[0].name)
            self.report.add(
                node.mark, message + ("their names" if several else "its name"), self._entries([one.name for one in unfed]) + also
            )
        return found

    def _named(self, node: Node, name: str) -> list[Ref]:
        """Returns what has the name of a tensor of the node: a field, another node with one output, outputs of other nodes."""
        candidates = [Ref(name, name, mark=node.mark)] if self._in_events(name) else []
        for other, signature in self.signatures.items():
            if other == node.name or other in self.topology.conditions:
                continue
            if other == name and len(signature.outputs) == 1:
                candidates.append(Ref(other, other, mark=node.mark))
            elif signature.output(name):
                candidates.append(Ref(f"{other}.{name}", other, name, mark=node.mark))
        return candidates

    def _entries(self, tensors: Sequence[str]) -> str:
        """Returns the entries of `inputs` that these tensors probably need: fields inside records that have their names.

        Where several records have such fields, those of the record with the most of them are named, and the other records.
        """
        found = {name: _paths(name, self._bare_schemas.values()) for name in tensors}
        counted = Counter(path.rpartition(".")[0] for paths in found.values() for path in paths)
        certain = {path for schema in self._bare_schemas.values() for path in schema.certain}
        records = sorted(counted, key=lambda record: (record not in certain, -counted[record]))
        best = {name: next((path for record in records if (path := f"{record}.{name}") in found[name]), "") for name in tensors}
        text = "add inputs: {" + ", ".join(f"{name}: {path or 'FIELD or NODE.OUTPUT'}" for name, path in best.items()) + "}"
        used = {path.rpartition(".")[0] for path in best.values()}
        others = [] if used & certain else [record for record in records if record not in used]
        return text + (f", or the fields of {' or '.join(others[:2])}" if others else "")

    def _field(self, path: str, index: int | None, source: str | None = None) -> FromField:
        """Returns the field, or its item where an index picks one of an array whose size is open."""
        schemas = self._bare_schemas.values() if source is None else [self.schemas[source]] if source in self.schemas else []
        found = [field for schema in schemas if (field := schema.field(path)) is not None]
        if index is not None and found and all(field.items is not None and field.size is None for field in found):
            return FromField(f"{path}[{index}]", source)
        return FromField(path, source, index)

    def nowhere(self, mark: Mark, message: str, fix: str) -> None:
        """Reports a name that means nothing."""
        self.dangling = True
        self.report.add(mark, message, fix)

    def has_field(self, name: str) -> bool:
        """Whether some source has the field."""
        return any(schema.field(name) is not None for schema in self._bare_schemas.values())

    def _in_events(self, name: str) -> bool:
        """Whether the events of some source have a field of this name, not only their records."""
        return any(schema.has(name) for schema in self._bare_schemas.values())

    def _bare(self, ref: Ref, where: str) -> Target | None:
        node, source = self.topology.node(ref.head), self.topology.source(ref.head)
        if node and self._in_events(ref.head):
            owner = next(name for name, schema in self._bare_schemas.items() if schema.has(ref.head))
            signature = self.signatures.get(node.name)
            output = signature.outputs[0].name if signature and signature.outputs else "OUTPUT"
            fix = f"write {owner}.{ref.head} for the field or {ref.head}.{output} for the node, or rename one of them"
            self.nowhere(ref.mark, f"{where}: {ref.text!r} is both a node and a field", fix)
            return None
        if node:
            return self._output(ref, where)
        if self.has_field(ref.head):
            return self._field(ref.head, ref.index)
        if source:
            known = self.schemas.get(source.name)
            fix = f"one of its fields: {', '.join(f'{source.name}.{field.name}' for field in known.fields[:3])}, ..." if known else ""
            self.nowhere(ref.mark, f"{where}: {ref.text!r} is a source, not a field", fix)
        elif len(self.schemas) < len(self.topology.sources):
            self.dangling = True  # it may be a field of a schema that could not be read, which has been reported
        else:
            fix = _inside(ref.head, self._bare_schemas.values()) or did_you_mean(ref.head, self._heads(sources=False))
            self.nowhere(ref.mark, f"{where}: {ref.text!r} is neither a field nor a node", fix)
        return None

    def _output(self, ref: Ref, where: str) -> Target | None:
        signature = self.signatures.get(ref.head)
        if signature is None:
            return FromNode(ref.head, None)
        outputs = [tensor.name for tensor in signature.outputs if not tensor.name.endswith("?")]  # no file can name those
        if ref.tail is None:
            if len(signature.outputs) == 1:
                return FromNode(ref.head, signature.outputs[0])
            fix = f"write {any_of(f'{ref.head}.{output}' for output in outputs[:SHOWN])}" + (", ..." if outputs[SHOWN:] else "")
            self.report.add(ref.mark, f"{where}: the node {ref.head!r} has {len(outputs)} outputs", fix)
            return None
        tensor = signature.output(ref.tail) if ref.tail in outputs else None
        if tensor is None:
            self.nowhere(ref.mark, f"{where}: the node {ref.head!r} has no output {ref.tail!r}", did_you_mean(ref.tail, outputs))
            return None
        return FromNode(ref.head, tensor)

    def _heads(self, *, sources: bool = True) -> Iterable[str]:
        yield from (field.name for schema in self._bare_schemas.values() for field in schema.fields)
        yield from (node.name for node in self.topology.nodes if node.name not in self.topology.conditions)
        yield from (source.name for source in self.topology.sources if sources)


def _paths(name: str, schemas: Iterable[Schema]) -> list[str]:
    """Returns the paths of the fields of this name inside records of the events."""
    found = {path: path.rpartition(".")[0] in schema.certain for schema in schemas for path in _deeper(schema.fields, name, "")}
    return sorted(found, key=lambda path: not found[path])  # first those of records that are never null


def _deeper(fields: Iterable[Field], name: str, at: str) -> Iterator[str]:
    for field in fields:
        if at and field.name == name:
            yield f"{at}{name}"
        yield from _deeper(field.fields, name, f"{at}{field.name}.")


def _inside(name: str, schemas: Iterable[Schema]) -> str:
    """Returns a fix for the name of a field that is only inside records, or ""."""
    paths = _paths(name, schemas)
    return f"did you mean {any_of(paths[:2])}?" if paths else ""


def closest(path: str, schemas: Iterable[Schema]) -> str:
    """Returns a fix for a path that leads nowhere: the longest part that leads to a field, and what is inside that, or a similar name."""
    walked, last = steps(path), ""
    for schema in schemas:
        for end in range(len(walked) - 1, 0, -1):
            known = schema.field(parent := _text(walked[:end]))
            if known is None:
                continue
            if known.why:
                return known.why
            if known.kind == "array":
                return f"{parent!r} is an array: write {parent}[0]"
            if known.kind != "record" or not known.fields:
                return f"{parent!r} is {'inside itself, and read one level deep' if known.kind == 'record' else f'of kind {known.kind}'}"
            return did_you_mean(path, [f"{parent}.{field.name}" for field in known.fields])
        last = last or _inside(path, [schema]) or did_you_mean(path, [field.name for field in schema.fields])
    return last


def _text(walked: Sequence[Step]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in walked).removeprefix(".")
