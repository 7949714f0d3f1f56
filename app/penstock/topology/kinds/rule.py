"""The kind rule: named outputs as expressions over fields and outputs of nodes, compiled to a graph that runs like a model's.

Its types follow from what it reads. A field that several sources have is read with one type that holds all of them, so that the rule is
the same graph for each. Null reaches an expression only in `coalesce` and `missing`; an entry of `inputs` replaces it before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from penstock.expressions import MAX_LENGTH, Compiler, ExpressionError, Given, Graph, Unresolved, parse
from penstock.schema import REQUIRED, Field, Missing, innermost
from penstock.signature import Signature, Tensor
from penstock.topology.document import Scalar, Value
from penstock.topology.fit import joined
from penstock.topology.kinds.base import Kind
from penstock.topology.names import ref
from penstock.topology.resolve import Finding, FromField, FromNode, Names, Target, Wire
from penstock.topology.shapes import FIELD_NAME, INPUT, Key, Keys, Literal, Named
from penstock.topology.spec import CONDITION, Input, Mark, Output, Ref, RuleNode, condition_of
from penstock.topology.values import inputs, items, keys, marks
from penstock.topology.written import described, shown

__all__ = ["RuleKind", "condition"]

MAX_OUTPUTS: Final = 100

_KEYS: Final = Keys(
    {
        "outputs": Key(
            Named("output", FIELD_NAME, Literal()),
            "Expressions over fields, outputs of nodes and earlier outputs of the rule (docs/expressions.md), by the names of the outputs.",
            required=True,
        ),
        "inputs": Key(Named("input", FIELD_NAME, INPUT, empty=True), "Names for the expressions, written as the inputs of a model."),
    }
)
_ONE: Final = Tensor("", "float32")  # in place of the unknown tensor of a wire that only shows what reads what


def condition(name: str, where: str, text: Scalar) -> RuleNode:
    """Returns the rule that is the `when` of the node or sink `name`; `where` names its place in messages."""
    return RuleNode(condition_of(name), "rule", (_output(CONDITION, text, text.mark),), condition=where, mark=text.mark)


class RuleKind(Kind[RuleNode]):
    """A node that the topology itself computes."""

    keys = _KEYS

    @property
    def outline(self) -> tuple[str, str]:
        return "{", "}"

    def parse(self, name: Scalar, kind: str, value: Value) -> RuleNode:
        given = keys(value)
        outputs = tuple(_output(key.text, item, key.mark) for key, item in items(given["outputs"]) if isinstance(item, Scalar))
        return RuleNode(name.text, kind, outputs, inputs(given.get("inputs")), mark=name.mark, marks=marks(value))

    def clashes(self, node: RuleNode) -> Iterator[Finding]:
        where = f"nodes.{node.name}.outputs"
        if len(node.outputs) > MAX_OUTPUTS:
            yield node.at("outputs"), f"{where}: {len(node.outputs)} outputs, a rule has at most {MAX_OUTPUTS}", "make two rules of it"
        named = {entry.tensor: entry for entry in node.inputs}
        for output in node.outputs:
            if output.name in named:
                message = f"{where}: {output.name!r} is an output here and an input on line {named[output.name].mark.line}"
                yield output.mark, message, "rename one, so that a name means one thing"
            try:
                parse(output.text)
            except ExpressionError as error:
                yield output.at(error.at), f"{node.where(output.name)}: {error.message}", error.fix

    def signature(self, node: RuleNode, model: Signature | None) -> Signature | None:
        return None

    def derive(self, node: RuleNode, names: Names) -> Graph | None:
        return _Rule(node, names).graph

    def wires(self, node: RuleNode, names: Names) -> list[Wire]:
        rule = _Rule(node, names, report=True)
        given = {entry.tensor: entry for entry in node.inputs}
        if rule.graph is None:
            # Nothing can be compared, but a cycle through a node without a signature is found by these.
            names.dangling = True
            waits = [(ref, target) for ref, target in rule.met if isinstance(target, FromNode) and target.tensor is None]
            return [Wire(_ONE, Input(ref.text, (ref,), mark=ref.mark), (target,)) for ref, target in waits]
        unread = [name for name in given if all(read.name != name for read in rule.graph.reads)]
        for name in unread:
            names.report.add(
                given[name].mark, f"nodes.{node.name}.inputs: no output reads {name!r}", "name it in an expression, or remove it"
            )
        wires = []
        for read in rule.graph.reads:
            entry = given.get(read.name)
            if entry is None:
                found = rule.ref(read.name, rule.outputs[read.first].at(read.at))
                missing = None if read.fill is None else Missing("fill", read.fill)
                entry = Input(read.tensor.name, (found,), missing=missing, mark=found.mark)
            elif read.fill is not None:
                entry = replace(entry, tensor=read.tensor.name, missing=Missing("fill", read.fill))
            wires.append(Wire(read.tensor, entry, names.targets(entry.refs, f"nodes.{node.name}.inputs.{entry.tensor}")))
        return wires

    def refs(self, node: RuleNode) -> tuple[Ref, ...]:
        found: dict[str, Ref] = {}
        local = {entry.tensor for entry in node.inputs}
        for output in node.outputs:
            for name, at in _names(output):
                made = ref(name, output.at(at))
                if made is not None and not (made.tail is None and made.head in local):
                    found.setdefault(name, made)
            local.add(output.name)
        entries = [one for entry in node.inputs for one in entry.refs]
        return (*entries, *found.values())

    def detail(self, node: RuleNode) -> str:
        texts = [(output.name, " ".join(output.text.split())) for output in node.outputs]
        text = "; ".join(one if node.condition else f"{name}: {one}" for name, one in texts)
        return text if len(text) <= 120 else f"{text[:120]}..."


class _Rule:
    """A rule's expressions, compiled with what its names mean. It is the scope of its expressions."""

    def __init__(self, node: RuleNode, names: Names, *, report: bool = False) -> None:
        self.node = node
        self.names = names
        self.outputs = {output.name: output for output in node.outputs}
        self.met: list[tuple[Ref, Target | None]] = []
        self._report = report
        self._now = node.outputs[0]
        self.graph = self._compiled()

    def given(self, name: str, at: int) -> Given | None:
        """See `Scope`."""
        found = self.ref(name, self._now.at(at))
        if found.tail is None:
            self._not_yet(found.head, at)
        target = self.names.target(found, self.node.where(self._now.name))
        self.met.append((found, target))
        return None if target is None else self._meant(found, target, at)

    def ref(self, name: str, mark: Mark) -> Ref:
        made = ref(name, mark)
        if made is None:
            at = next((at for one, at in _names(self._now) if one == name), 0)
            raise ExpressionError(
                f"{name!r} is not a reference", at, "write FIELD, SOURCE.FIELD, NODE or NODE.OUTPUT, each with an optional [INDEX]"
            )
        return made

    def _not_yet(self, name: str, at: int) -> None:
        """Raises ExpressionError for a name that is nothing but a later output of the rule, or the one that is compiled."""
        if name in self.outputs and not self.names.has_field(name) and self.names.topology.node(name) is None:
            itself = "this output itself" if self.node.condition is None else "no name"
            which = itself if name == self._now.name else "a later output of this rule"
            raise ExpressionError(f"{name!r} is {which}", at, "name earlier outputs, fields and nodes")

    def _compiled(self) -> Graph | None:
        node = self.node
        known: dict[str, Given] = {}
        broken = False
        for entry in node.inputs:
            made = self._entry(entry)
            broken = broken or made is None
            if made is not None:
                known[entry.tensor] = made
        named = self.names.topology.node(self._now.text) if node.condition is not None else None
        if named is not None and named.when is not None:
            self._fault(ExpressionError(f"the `when` of {named.name!r} leads back here", 0, "write a condition for one of them"))
            return None
        compiler = Compiler(self, self.outputs, known)
        for output in () if broken else node.outputs:
            self._now = output
            try:
                compiler.add(output.name, parse(output.text))
            except ExpressionError as error:
                broken = True
                if not isinstance(error, Unresolved):
                    self._fault(error)
        if broken:
            return None
        self._now = node.outputs[0]
        try:
            graph = compiler.graph()
        except ExpressionError as error:
            fix = error.fix if node.condition is None else "name one, or leave out the condition"
            self._fault(ExpressionError(error.message, error.at, fix))
            return None
        (first, *_) = graph.outputs
        if node.condition is not None and (first.dtype != "bool" or first.shape):
            what = f"gives {shown(first.dtype, first.shape)}"
            fix = "pick an element" if first.shape else "compare it with something"
            self._fault(ExpressionError(f"a condition is true or false for each event, this {what}", 0, fix))
            return None
        return graph

    def local(self, name: str, at: int) -> None:
        """See `Scope`."""
        owner = next((source for source, schema in self.names.schemas.items() if schema.has(name)), None)
        if owner is not None:
            fix = f"write {owner}.{name} for the field, or rename the output"
            raise ExpressionError(f"{name!r} is an earlier output of this rule and a field", at, fix)

    def _fault(self, error: ExpressionError) -> None:
        output = self._now
        self._add(output.at(error.at), f"{self.node.where(output.name)}: {error.message}", error.fix)

    def _entry(self, entry: Input) -> Given | None:
        """Returns what an entry of `inputs` gives; None when a reference leads nowhere, or its parts do not go together."""
        where = f"nodes.{self.node.name}.inputs.{entry.tensor}"
        if entry.how:
            self._add(entry.mark, f"{where}: {entry.how} is for tensors of models", "name the array itself: {field: NAME}")
            return None
        parts = []
        for found in entry.refs:
            target = self.names.target(found, where)
            self.met.append((found, target))
            try:
                part = None if target is None else self._meant(found, target, 0)
            except ExpressionError as error:
                self._add(found.mark, f"{where}: {error.message}", error.fix)
                part = None
            if part is None:
                return None
            parts.append(part)
        if not entry.stacked and entry.missing is None:
            return parts[0]  # null stays null, for `coalesce` and `missing`
        dtype = _together([part.dtype for part in parts])
        shape = joined([() if part.shape == (1,) else part.shape for part in parts]) if entry.stacked else parts[0].shape
        if dtype is None or shape is None:
            message = f"{where}: {', '.join(one.text for one in entry.refs)} do not go together"
            self._add(entry.mark, message, "stack scalars of one type")
            return None
        nan = entry.missing is not None and isinstance(entry.missing.value, float)
        return Given(dtype, shape, finite=all(part.finite for part in parts) and not nan)

    def _meant(self, found: Ref, target: Target, at: int) -> Given | None:
        if isinstance(target, FromNode):
            if target.tensor is None:
                return None
            shape = _picked(found, found.index, target.tensor.shape, at)
            absent = self.names.topology.absent(target.node, target.tensor.name, self.node)
            if absent is not None and None in shape:
                message = f"{found.text!r} may be null, and it is an array of no fixed size"
                raise ExpressionError(message, at, f"give the rule when: {target.node}, or pick an element")
            if self.node.condition is not None and self._is_own(target.node):
                message = f"{found.text!r} is there when this condition holds, so it cannot decide that"
                raise ExpressionError(message, at, "name what is known before it")
            # A condition is for all events, so it cannot leave out any itself.
            otherwise = f"when: {target.node} leaves out the event" if absent and absent.fix and self.node.condition is None else ""
            nullable = self.names.topology.may_be_null(target.node, target.tensor.name, self.node)
            scalar = shape in ((), (1,))
            return Given(
                target.tensor.dtype, shape, nullable, replaceable=nullable and scalar, branch=absent is not None, otherwise=otherwise
            )
        fields = self._fields(target)
        if not fields:
            return None
        dtypes = [_dtype(field) for field in fields.values()]
        dtype, shapes = _together(dtypes), {field.shape for field in fields.values()}
        if dtype is None or len(shapes) > 1:
            if len(fields) == 1:
                (field,) = fields.values()
                raise ExpressionError(f"the field {field.name!r} is {described(field)}, which no expression can read", at)
            kinds = " and ".join(f"{described(field)} in {source}" for source, field in fields.items())
            owner = next(iter(fields))
            raise ExpressionError(f"the field {found.text!r} is {kinds}", at, f"write {owner}.{found.text} for one of them")
        scalar = all(field.items is None for field in fields.values())
        nullable = any(field.optional and (field.default is REQUIRED or field.default is None) for field in fields.values())
        return Given(dtype, _picked(found, target.index, next(iter(shapes)), at), nullable and scalar, finite=True, replaceable=scalar)

    def _is_own(self, name: str) -> bool:
        """Whether the rule is the condition that the file gives to this node."""
        node = self.names.topology.node(name)
        return node is not None and node.when is not None and node.when.like is None and node.when.condition == self.node.name

    def _fields(self, target: FromField) -> Mapping[str, Field]:
        """Returns the field in each source that has it, by the name of the source."""
        schemas = self.names.schemas
        sources = [target.source] if target.source is not None else list(schemas)
        found = {source: schemas[source].field(target.name) for source in sources if source in schemas}
        return {source: field for source, field in found.items() if field is not None}

    def _add(self, mark: Mark, message: str, fix: str) -> None:
        if self._report:
            self.names.report.add(mark, message, fix)


def _output(name: str, item: Scalar, mark: Mark) -> Output:
    return Output(name, item.text, mark, item.places() if len(item.text) <= MAX_LENGTH else ())


def _names(output: Output) -> list[tuple[str, int]]:
    try:
        return list(parse(output.text).names())
    except ExpressionError:
        return []  # reported by `clashes`


def _dtype(field: Field) -> str | None:
    """Returns the dtype that a field is read with."""
    dtype = field.dtype
    if innermost(field).kind in ("int", "long", "timestamp"):
        return "int64" if dtype else None
    return dtype or None


def _together(dtypes: Sequence[str | None]) -> str | None:
    """Returns the dtype that holds all of these, or None: int64 beside any float is float64."""
    kinds = set(dtypes)
    if len(kinds) == 1:
        return dtypes[0]
    return "float64" if kinds <= {"int64", "float32", "float64"} else None


def _picked(found: Ref, index: int | None, shape: tuple[int | None, ...], at: int) -> tuple[int | None, ...]:
    """Returns the axes of the reference, without the last one when it picks an element."""
    if index is None:
        return shape
    if not shape:
        raise ExpressionError(f"{found.text!r} picks an element of a scalar", at, f"write {found.text.rpartition('[')[0]}")
    if shape[-1] is not None and index >= shape[-1]:
        raise ExpressionError(f"{found.text!r} is out of range, the last axis has {shape[-1]}", at, f"from 0 to {shape[-1] - 1}")
    return shape[:-1]
