"""A tree becomes operators: every name gets its type, every operator its rule; what a row cannot compute is known for that row.

Types are bool, int64, float32, float64 and string, each as a scalar or as a vector per row. Numbers in the text take the type of what
they stand beside, as in NumPy 2; whole numbers and float32 together are float64.

A row without a value: an operator that has no finite answer (`1 / 0`, `log(-1)`) or no answer at all (`map` without the key) makes a
boolean `ok` beside its value. `where`, `and` and `or` pass on only the `ok` of the part that they choose, as Python evaluates
only that part. Numbers of models may be NaN: they are tested where an operator would hide that, and at the output.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Final

from penstock.expressions.error import ExpressionError, Unresolved
from penstock.expressions.functions import FUNCTIONS
from penstock.expressions.parse import FLAGS, Expression, reference
from penstock.expressions.tape import Given, Graph, Read, Scope, Tape, Value
from penstock.expressions.typed import NUMBERS, Typed
from penstock.signature import Tensor

__all__ = ["Compiler"]

INT: Final = (-(2**63), 2**63 - 1)
FLOAT32_MAX: Final = 3.4028234663852886e38
MAX_EXPONENT: Final = 64  # of a power of two numbers in the text
_LOCAL: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:\[([0-9]{1,6})\])?")
_FILLS: Final[Mapping[str, tuple[Any, Any]]] = {
    "bool": (False, True), "string": ("", "?"), "float32": (0.0, 1.0), "float64": (0.0, 1.0),
}  # fmt: skip
_SIGNS: Final[Mapping[type[ast.AST], str]] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip
_FOLD: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "//": operator.floordiv, "%": operator.mod,
    "**": operator.pow,
}  # fmt: skip
_PLAIN: Final = {"+": "Add", "-": "Sub", "*": "Mul"}
_COMPARE: Final = {"==": "Equal", "!=": "Equal", "<": "Less", "<=": "LessOrEqual", ">": "Greater", ">=": "GreaterOrEqual"}


@dataclass(frozen=True, slots=True)
class _Part:
    """An expression, and the name of its output."""

    expression: Expression
    name: str


class Compiler:
    """Compiles named expressions into one graph. Later ones may name earlier ones, and the names in `known`."""

    def __init__(self, scope: Scope, outputs: Iterable[str] = (), known: Mapping[str, Given] | None = None) -> None:
        """`outputs` are the names that will be compiled. `known` are inputs of the graph by names that `scope` does not have."""
        self.tape = Tape(outputs)
        self._scope = scope
        self._known = dict(known or {})
        self._made: dict[str, Typed] = {}
        self._broken: set[str] = set()
        self._now = _Part(Expression("", ast.Constant(0), "", 0), "")

    def add(self, name: str, expression: Expression) -> Typed:
        """Compiles one output. Raises ExpressionError; Unresolved when the scope has reported the reason."""
        self._now = _Part(expression, name)
        try:
            self._made[name] = self.finished(self.lowered(expression.body))
        except ExpressionError:
            self._broken.add(name)
            raise
        return self._made[name]

    def graph(self) -> Graph:
        """Returns the graph of all outputs so far. Raises ExpressionError when none of them reads anything."""
        if not self.tape.reads:
            message = "every event would get the same answer: no field and no output of a node is named"
            raise ExpressionError(message, 0, "name one, or write the constant where it is needed")
        outputs = {}
        for name, made in self._made.items():
            checked = self.checked(made, "a number that is not finite")
            outputs[name] = (self.value(checked), checked.ok, checked.why)
        return self.tape.finish(outputs)

    # -- what functions use --------------------------------------------------------------------------------------------

    def fault(self, node: ast.AST, message: str, fix: str = "") -> ExpressionError:
        return ExpressionError(message, self._now.expression.at(node), fix)

    def cause(self, what: str, node: ast.AST) -> str:
        """Returns why a row has no value, with the part of the text that has none."""
        return f"{what} in `{self._now.expression.part(node)}`" if isinstance(node, ast.expr) else what

    def lowered(self, node: ast.expr) -> Typed:
        """Returns the typed value of a part of the tree."""
        if (name := reference(node)) is not None:
            return self._read(name, node)
        return _FORMS[type(node)](self, node)

    def number(self, node: ast.expr, where: str) -> Typed:
        """Returns a part that must be a number."""
        made = self.lowered(node)
        if made.dtype not in NUMBERS:
            fix = "int(...) makes it 0 or 1" if made.dtype == "bool" else ""
            raise self.fault(node, f"{where} takes numbers, this is {made.described}", fix)
        return made

    def boolean(self, node: ast.expr, where: str) -> Typed:
        """Returns a part that must be true or false."""
        made = self.lowered(node)
        if made.dtype != "bool":
            fix = "compare it with something" if made.dtype in NUMBERS else ""
            raise self.fault(node, f"{where} takes true or false, this is {made.described}", fix)
        return made

    def value(self, made: Typed, dtype: str | None = None) -> Value:
        """Returns the tensor of a typed value, as `dtype`."""
        if made.value is None:
            return self.tape.constant(made.literal, dtype or made.dtype)
        return self.tape.cast(made.value, dtype or made.dtype)

    def finished(self, made: Typed) -> Typed:
        """Returns a literal as a constant; it keeps its dtype from here on."""
        return made if made.value is not None else replace(made, value=self.value(made), literal=None)

    def common(self, parts: Sequence[Typed], node: ast.AST) -> str:
        """Returns the dtype in which these meet. Raises ExpressionError when they do not go together."""
        kinds = {part.kind for part in parts}
        if len(kinds) > 1:
            raise self.fault(node, f"{' and '.join(part.described for part in parts[:3])} do not go together")
        if kinds != {"number"}:
            return parts[0].dtype
        strong = {part.dtype for part in parts if part.literal is None}
        floats = any(part.dtype.startswith("float") for part in parts)
        if not floats:
            return "int64"
        if strong == {"float32"}:
            if all(abs(part.literal) <= FLOAT32_MAX for part in parts if part.literal is not None):
                return "float32"
            raise self.fault(node, "a number here is too large for a float32", "write float(...) around the other side")
        return "float64"

    def joined(self, parts: Iterable[Typed]) -> Typed:
        """Returns a Typed with what these may lack, together, and no value."""
        ok: Value | None = None
        why: dict[str, Value] = {}
        suspect = False
        for part in parts:
            ok = self.both(ok, part.ok)
            why = self.causes(why, part.why)
            suspect = suspect or part.suspect
        return Typed(ok=ok, why=(*why.items(),), suspect=suspect)

    def causes(self, why: Mapping[str, Value], more: Iterable[tuple[str, Value]]) -> dict[str, Value]:
        """Returns the causes together; one that both have holds for the rows of both."""
        found = dict(why)
        for cause, ok in more:
            found[cause] = ok if cause not in found or found[cause] == ok else self.tape.binary("And", found[cause], ok)
        return found

    def both(self, one: Value | None, other: Value | None) -> Value | None:
        if one is None or other is None:
            return other if one is None else one
        return self.tape.binary("And", one, other)

    def checked(self, made: Typed, why: str) -> Typed:
        """Returns the value with its rows that are not finite marked as without a value, if there may be any."""
        if not made.suspect or made.value is None:
            return made
        return replace(self.failing(made, self.tape.finite(made.value), why), suspect=False)

    def failing(self, made: Typed, ok: Value, why: str) -> Typed:
        """Returns the value with further rows that have none: those where a scalar or an element of `ok` is false."""
        ok = self.tape.every(ok)
        return replace(made, ok=self.both(made.ok, ok), why=(*self.causes(dict(made.why), [(why, ok)]).items(),))

    def same_size(self, parts: Sequence[Typed], node: ast.AST) -> None:
        """Raises ExpressionError when vectors among these differ in size, or one is open beside another."""
        sizes = {part.shape for part in parts if part.shape}
        if len(sizes) > 1 or (len([part for part in parts if part.shape == (None,)]) > 1):
            shown = " and ".join(part.described for part in parts if part.shape)
            raise self.fault(node, f"arrays of different or unknown size do not go together: {shown}", "pick elements: NAME[0]")

    def float_of(self, made: Typed) -> str:
        return made.dtype if made.dtype.startswith("float") else "float64"

    # -- forms of the tree ---------------------------------------------------------------------------------------------

    def _flag(self, node: ast.Name) -> Typed:
        if node.id not in FLAGS:
            raise self.fault(node, f"{node.id!r} is not a name", f"write {node.id.lower()}")
        return Typed(literal=FLAGS[node.id])

    def _literal(self, node: ast.Constant) -> Typed:
        return self._constant(node, node.value)

    def _unary(self, node: ast.UnaryOp) -> Typed:
        if isinstance(node.op, ast.Not):
            made = self.boolean(node.operand, "not")
            return replace(made, value=self.tape.negated(self.value(made)), literal=None)
        return self._negative(node.operand) if isinstance(node.op, ast.USub) else self.number(node.operand, "+")

    def _operator(self, node: ast.BinOp) -> Typed:
        sign = _SIGNS[type(node.op)]
        return self.arithmetic(sign, self.number(node.left, sign), self.number(node.right, sign), node)

    def _conditional(self, node: ast.IfExp) -> Typed:
        return self.choice(self.boolean(node.test, "if"), self.lowered(node.body), self.lowered(node.orelse), node)

    def _attribute(self, node: ast.Attribute) -> Typed:
        raise self.fault(node, "a dot picks a field of a source or an output of a node, not a part of a computed value")

    def _table(self, node: ast.Dict) -> Typed:
        raise self.fault(node, "a table belongs into map(X, {KEY: VALUE, ...})")

    # -- operators -----------------------------------------------------------------------------------------------------

    def arithmetic(self, sign: str, left: Typed, right: Typed, node: ast.AST) -> Typed:
        """Returns the result of an operator over numbers."""
        if left.value is None and right.value is None:
            return self._folded(sign, left.literal, right.literal, node)
        if sign in ("/", "//", "%") and right.literal == 0:
            raise self.fault(node, "a division by the constant 0 has no value")
        self.same_size([left, right], node)
        dtype = self.common([left, right], node)
        if sign in ("/", "**") and dtype == "int64":
            dtype = "float64"
        if sign in ("//", "%") and dtype == "int64":
            return self._whole_division(sign, left, right, node)
        if sign in ("/", "//", "%", "**"):  # an infinite divisor or base would be hidden
            left, right = (self.checked(one, "a number that is not finite") for one in (left, right))
        found = self.joined([left, right])
        a, b = self.value(left, dtype), self.value(right, dtype)
        if sign in _PLAIN:
            # Sums of what is finite may still leave the range of floats.
            return replace(found, value=self.tape.binary(_PLAIN[sign], a, b), suspect=dtype != "int64")
        if sign == "**":
            power = replace(found, value=self.tape.binary("Pow", a, b), suspect=True)
            return self.checked(power, self.cause("a power without a finite value", node))
        value = self.tape.binary("Div", a, b) if sign == "/" else self._remainder(a, b)
        if sign == "//":  # so that (a // b) * b + a % b is a, as in Python
            value = self.tape.op("Round", self.tape.binary("Div", self.tape.binary("Sub", a, value), b), dtype=dtype)
        made = replace(found, value=value, suspect=True)
        if right.literal:  # neither null nor zero: only an overflow is left, which shows later
            return made
        return self.checked(made, self.cause("a division by zero", node))

    def _folded(self, sign: str, left: Any, right: Any, node: ast.AST) -> Typed:
        if sign == "**" and (abs(right) > MAX_EXPONENT or (isinstance(left, int) and abs(left) > 10**6)):
            raise self.fault(node, f"a power of constants has an exponent of at most {MAX_EXPONENT} and a base of at most 1,000,000")
        try:
            value = _FOLD[sign](left, right)
        except (ZeroDivisionError, OverflowError) as error:
            raise self.fault(node, f"this constant has no value: {error}") from None
        return self._constant(node, value)

    def _constant(self, node: ast.AST, value: Any) -> Typed:
        match value:
            case None:
                raise self.fault(node, "None has no meaning here", "missing(FIELD) tests for null, coalesce(FIELD, VALUE) replaces it")
            case bool():
                return Typed(literal=value)
            case int() if not INT[0] <= value <= INT[1]:
                raise self.fault(node, "a whole number has at most 64 bits", "write it with a point, as a float")
            case int() | str():
                return Typed(literal=value)
            case float() if math.isfinite(value):
                return Typed(literal=value)
            case _:
                raise self.fault(node, f"{value} is not a finite number")

    def _negative(self, inner: ast.expr) -> Typed:
        if isinstance(inner, ast.Constant) and inner.value == 2**63:
            return Typed(literal=INT[0])
        made = self.number(inner, "-")
        if made.value is None:
            return self._constant(inner, -made.literal)
        return replace(made, value=self.tape.op("Neg", made.value, dtype=made.dtype))

    def _whole_division(self, sign: str, left: Typed, right: Typed, node: ast.AST) -> Typed:
        """Floor and remainder as in Python. The processor ends a program that divides by 0, or the least number by -1: neither happens."""
        tape, a, b = self.tape, self.value(left, "int64"), self.value(right, "int64")
        made = self.joined([left, right])
        if right.literal not in (None, -1):
            return replace(made, value=self._floored(sign, a, b))
        is_zero = tape.binary("Equal", b, tape.constant(0, "int64"), "bool")
        is_minus = tape.binary("Equal", b, tape.constant(-1, "int64"), "bool")
        value = self._floored(sign, a, tape.where(tape.binary("Or", is_zero, is_minus), tape.constant(1, "int64"), b))
        if sign == "//":
            value = tape.where(is_minus, tape.op("Neg", a, dtype="int64"), value)
        made = replace(made, value=value)
        return made if right.literal else self.failing(made, tape.negated(is_zero), self.cause("a division by zero", node))

    def _floored(self, sign: str, a: Value, b: Value) -> Value:
        tape, zero = self.tape, self.tape.constant(0, "int64")
        left_over = tape.binary("Mod", a, b, fmod=0)
        if sign == "%":
            return left_over
        # The operator rounds towards zero.
        apart = tape.binary("Xor", tape.binary("Less", a, zero, "bool"), tape.binary("Less", b, zero, "bool"))
        uneven = tape.negated(tape.binary("Equal", left_over, zero, "bool"))
        below = tape.cast(tape.binary("And", apart, uneven), "int64")
        return tape.binary("Sub", tape.binary("Div", a, b), below)

    def _remainder(self, a: Value, b: Value) -> Value:
        """The remainder with the sign of the divisor, as in Python; the operator gives it that of the dividend."""
        tape = self.tape
        found = tape.binary("Mod", a, b, fmod=1)
        zero = tape.constant(0, a.dtype)
        apart = tape.binary("Xor", tape.binary("Less", found, zero, "bool"), tape.binary("Less", b, zero, "bool"))
        uneven = tape.negated(tape.binary("Equal", found, zero, "bool"))
        return tape.where(tape.binary("And", apart, uneven), tape.binary("Add", found, b), found)

    def _logic(self, whole: ast.BoolOp) -> Typed:
        both = isinstance(whole.op, ast.And)
        word = "and" if both else "or"
        made = self.boolean(whole.values[0], word)
        for node in whole.values[1:]:
            other = self.boolean(node, word)
            made = self._decided(both, made, other, node)
        return made

    def _decided(self, both: bool, left: Typed, right: Typed, node: ast.AST) -> Typed:
        """Returns `left and right`, or `left or right`: where the left side decides, the right one does not count."""
        self.same_size([left, right], node)
        one, two = self.value(left), self.value(right)
        value = self.tape.binary("And" if both else "Or", one, two)
        ok, why = left.ok, dict(left.why)
        if right.ok is not None:
            decided = self.tape.every(self.tape.negated(one) if both else one)
            ok = self.both(ok, self.tape.binary("Or", right.ok, decided))
            why = self.causes(why, [(cause, self.tape.binary("Or", sure, decided)) for cause, sure in right.why])
        return Typed(value=value, ok=ok, why=(*why.items(),))

    def _comparison(self, node: ast.Compare) -> Typed:
        made: Typed | None = None
        left_node = node.left
        left = None if isinstance(left_node, ast.List | ast.Tuple) else self.lowered(left_node)
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                if len(node.ops) > 1:
                    raise self.fault(node, "in is not part of a chain of comparisons", "write and between two comparisons")
                return self._membership(left_node, right_node, negated=isinstance(op, ast.NotIn))
            left = self.lowered(left_node) if left is None else left
            right = self.lowered(right_node)
            found = self.compared(_SIGNS[type(op)], left, right, node)
            made = found if made is None else self._decided(True, made, found, node)
            left, left_node = right, right_node
        assert made is not None
        return made

    def compared(self, sign: str, left: Typed, right: Typed, node: ast.AST) -> Typed:
        """Returns a comparison; texts and booleans can only be equal or not."""
        self.same_size([left, right], node)
        dtype = self.common([left, right], node)
        if dtype not in NUMBERS and sign not in ("==", "!="):
            raise self.fault(node, f"{sign} compares numbers, this is {left.described}", "== and != compare texts and booleans")
        left, right = (self.checked(one, "a number that is not finite") for one in (left, right))
        value = self.tape.binary(_COMPARE[sign], self.value(left, dtype), self.value(right, dtype), "bool")
        return replace(self.joined([left, right]), value=self.tape.negated(value) if sign == "!=" else value)

    def _membership(self, left: ast.expr, right: ast.expr, *, negated: bool) -> Typed:
        if not isinstance(right, ast.List | ast.Tuple) or not right.elts:
            raise self.fault(right, "in takes a list of constants: X in ['A', 'B']")
        made = self.checked(self.lowered(left), "a number that is not finite")
        items = [self.literal(item) for item in right.elts]
        if made.kind == "number" and made.dtype != "int64":
            parts = [self.compared("==", made, item, right) for item in items]
            value = self.value(parts[0])
            for part in parts[1:]:
                value = self.tape.binary("Or", value, self.value(part))
        else:
            index = self.looked_up(made, items, right)
            value = self.tape.op("Less", index, self.tape.constant(len(items), "int64"), dtype="bool")
        return replace(made, value=self.tape.negated(value) if negated else value, literal=None)

    def literal(self, node: ast.expr) -> Typed:
        """Returns a constant of the text. Raises ExpressionError for anything else."""
        made = self.lowered(node) if isinstance(node, ast.Constant | ast.UnaryOp | ast.BinOp) or reference(node) is None else None
        if made is None or made.value is not None:
            raise self.fault(node, "only a number, a text or true/false can be here")
        return made

    def looked_up(self, made: Typed, keys: Sequence[Typed], node: ast.AST) -> Value:
        """Returns the number of the key that each value equals, or how many keys there are: int64. Texts, whole numbers and booleans."""
        dtype = self.common([made, *keys], node)
        if dtype not in ("string", "int64", "bool"):
            raise self.fault(node, "keys are texts, whole numbers or booleans")
        text = dtype == "string"
        given = [key.literal if text else int(key.literal) for key in keys]
        if len(set(given)) < len(given):
            raise self.fault(node, "two keys are equal", "keep one of them")
        value = self.value(made) if text else self.tape.cast(self.value(made), "int64")
        attributes: dict[str, Any] = {"keys_strings" if text else "keys_int64s": given, "values_int64s": list(range(len(given)))}
        return self.tape.op("LabelEncoder", value, dtype="int64", default_int64=len(given), **attributes)

    def choice(self, condition: Typed, yes: Typed, no: Typed, node: ast.AST) -> Typed:
        """Returns `yes` where the condition is true, else `no`: of a row only the chosen side counts."""
        self.same_size([condition, yes, no], node)
        dtype = self.common([yes, no], node)
        if condition.shape:
            yes, no = (self.checked(one, "a number that is not finite") for one in (yes, no))
        made = self.tape.where(self.value(condition), self.value(yes, dtype), self.value(no, dtype))
        found = self.joined([condition, yes, no])
        if not condition.shape and (yes.ok, no.ok) != (None, None):
            sure, picks = self.tape.constant(True, "bool"), self.value(condition)
            ok = self.both(condition.ok, self.tape.where(picks, yes.ok or sure, no.ok or sure))
            why = self.causes(dict(condition.why), [(cause, self.tape.where(picks, one, sure)) for cause, one in yes.why])
            why = self.causes(why, [(cause, self.tape.where(picks, sure, one)) for cause, one in no.why])
            found = replace(found, ok=ok, why=(*why.items(),))
        return replace(found, value=made, suspect=yes.suspect or no.suspect)

    # -- names, calls, lists -------------------------------------------------------------------------------------------

    def _read(self, name: str, node: ast.AST) -> Typed:
        local = _LOCAL.fullmatch(name)
        if local and local[1] in self._broken:
            raise Unresolved(name, self._now.expression.at(node))
        if local and local[1] in self._made:
            self._scope.local(local[1], self._now.expression.at(node))
        if local and local[1] in self._known and self._known[local[1]].nullable and local[1] not in self._made:
            raise self._null(name, self._known[local[1]], node)
        if local and (local[1] in self._made or local[1] in self._known):
            made = self._made.get(local[1]) or self._given(local[1], self._known[local[1]], node)
            return made if local[2] is None else self._element(node, made, int(local[2]))
        given = self.given(name, node)
        if given.nullable:
            raise self._null(name, given, node)
        return self._given(name, given, node)

    def _null(self, name: str, given: Given, node: ast.AST) -> ExpressionError:
        ways = [*self.ways(name, given), *([given.otherwise] if given.otherwise else [])]
        return self.fault(node, f"{name!r} may be null, and null has no value", ", ".join(ways))

    def ways(self, name: str, given: Given) -> list[str]:
        """Returns what can be written in place of a name that may be null."""
        if given.replaceable:
            return [f"coalesce({name}, VALUE) replaces it", f"missing({name}) tests for it"]
        own = name.partition("[")[0]  # an array: it is replaced element by element, or where it gets the name
        if own in self._known:
            return [f"`inputs: {{{own}: {{..., missing: VALUE}}}}` replaces it"]
        return [f"coalesce({name}[0], VALUE) replaces it"]

    def given(self, name: str, node: ast.AST) -> Given:
        """Returns what a reference of the scope, or a named input, gives. Raises Unresolved."""
        if name in self._known and name not in self._made:
            return self._known[name]
        own = name.partition("[")[0]
        if own in self._known and own not in self._made and _LOCAL.fullmatch(name):
            raise self.fault(node, f"{name!r} is an element of an input that may be null", ", ".join(self.ways(name, self._known[own])))
        at = self._now.expression.at(node)
        found = self._scope.given(name, at)
        if found is None:
            raise Unresolved(name, at)
        return found

    def is_local(self, name: str) -> bool:
        """Whether the name is an output, or an input that is never null, or an element of one."""
        name = name.partition("[")[0] if _LOCAL.fullmatch(name) else name
        return name in self._made or (name in self._known and not self._known[name].nullable)

    def _given(self, name: str, given: Given, node: ast.AST, tensor: str = "", fill: Any = None) -> Typed:
        if len(given.shape) > 1:
            raise self.fault(node, f"{name!r} has {len(given.shape)} axes per event, an expression takes one", f"pick elements: {name}[0]")
        if given.dtype == "uint64":
            raise self.fault(node, f"{name!r} is of type uint64, whose numbers need not fit 64 bits with a sign")
        shape = () if given.shape == (1,) else given.shape  # [N] and [N, 1] are the same column
        read = Read(Tensor(tensor or name, given.dtype, shape), name, fill, self._now.expression.at(node), self._now.name)
        return Typed(value=self.tape.read(read), suspect=given.dtype.startswith("float") and not given.finite)

    def filled(self, name: str, given: Given, fill: Any, node: ast.AST) -> Typed:
        """Returns a field with its nulls replaced by a constant."""
        return self._given(name, given, node, f"{name} or {fill!r}", fill)

    def null(self, name: str, given: Given, node: ast.AST) -> tuple[Typed, Value]:
        """Returns a field with its nulls replaced by anything, and where they were: the field is read with two replacements that differ."""
        one, other = _FILLS.get(given.dtype, (0, 1))
        values = [self.filled(name, given, fill, node) for fill in (one, other)]
        first = self.value(values[0])
        same = self.tape.binary("Equal", first, self.value(values[1]), "bool")
        if values[0].suspect:  # NaN equals nothing, and is not null
            same = self.tape.binary("Or", same, self.tape.op("IsNaN", first, dtype="bool"))
        return values[0], self.tape.negated(same)

    def _call(self, node: ast.Call) -> Typed:
        name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        function = FUNCTIONS.get(name)
        if function is None:
            close = get_close_matches(name, FUNCTIONS, n=1)
            fix = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(FUNCTIONS)}"
            raise self.fault(node, f"there is no function {name[:40]!r}", fix)
        least, most = function.arguments
        if not least <= len(node.args) <= (most or len(node.args)):
            raise self.fault(node, f"{name} has {len(node.args)} arguments here", f"write {function.usage}")
        return function.lower(self, node)

    def _list(self, node: ast.List | ast.Tuple) -> Typed:
        if not node.elts:
            raise self.fault(node, "the list is empty")
        parts = [self.lowered(item) for item in node.elts]
        if any(part.shape for part in parts):
            raise self.fault(node, "a list holds scalars", "pick elements: NAME[0]")
        dtype = self.common(parts, node)
        return replace(self.joined(parts), value=self.tape.stacked([self.value(part, dtype) for part in parts]))

    def _picked(self, node: ast.Subscript) -> Typed:
        index = node.slice
        if not isinstance(index, ast.Constant) or type(index.value) is not int:
            raise self.fault(index, "an index is a whole number in the text, from 0", "where(...) chooses by a condition")
        return self._element(node, self.lowered(node.value), index.value)

    def _element(self, node: ast.AST, made: Typed, index: int) -> Typed:
        if not made.shape:
            raise self.fault(node, "only an array has elements, this is a scalar")
        size = made.shape[-1]
        if size is not None and index >= size:
            raise self.fault(node, f"the index {index} is out of range, the array has {size}", f"from 0 to {size - 1}")
        return replace(made, value=self.tape.element(self.value(made), index))


_FORMS: Final[Mapping[type[ast.expr], Callable[[Compiler, Any], Typed]]] = {
    ast.Name: Compiler._flag, ast.Constant: Compiler._literal, ast.UnaryOp: Compiler._unary, ast.BinOp: Compiler._operator,
    ast.BoolOp: Compiler._logic, ast.Compare: Compiler._comparison, ast.IfExp: Compiler._conditional, ast.Call: Compiler._call,
    ast.List: Compiler._list, ast.Tuple: Compiler._list, ast.Subscript: Compiler._picked, ast.Attribute: Compiler._attribute,
    ast.Dict: Compiler._table,
}  # fmt: skip
