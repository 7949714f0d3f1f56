"""The functions of the language, as one table: how each is written, what it means, and how it becomes operators.

A function receives its arguments as parts of the tree: some need a name, a list or a table instead of a value. A new function is a
`_lower` function and a row of `FUNCTIONS`; the page of the language lists the same rows.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from penstock.expressions.parse import reference
from penstock.expressions.tape import Value
from penstock.expressions.typed import NUMBERS, Typed

if TYPE_CHECKING:
    from penstock.expressions.lower import Compiler

__all__ = ["FUNCTIONS", "Function"]

_FINITE: Final = "a number that is not finite"
_VOTERS: Final = 16
_WHOLE: Final = float(2**63)  # the first float that is no 64-bit number

Lower = Callable[["Compiler", ast.Call], Typed]


@dataclass(frozen=True, slots=True)
class Function:
    """One function: how it is written, its meaning in one line, the least and the greatest number of arguments (None: no limit)."""

    usage: str
    doc: str
    arguments: tuple[int, int | None]
    lower: Lower


# -- numbers, one by one -----------------------------------------------------------------------------------------------


def _by_operator(kind: str, why: str = "", *, hides: bool = False) -> Lower:
    """A function of one float. `why` names what has no answer; `hides`: an infinite argument has a finite answer."""

    def lower(at: Compiler, call: ast.Call) -> Typed:
        made = at.finished(at.number(call.args[0], _name(call)))
        made = at.checked(made, _FINITE) if hides else made
        dtype = at.float_of(made)
        value = at.tape.op(kind, at.value(made, dtype), dtype=dtype)
        found = replace(made, value=value, suspect=bool(why) or made.suspect)
        return at.checked(found, at.cause(why, call)) if why else found

    return lower


def _abs(at: Compiler, call: ast.Call) -> Typed:
    made = at.finished(at.number(call.args[0], "abs"))
    return replace(made, value=at.tape.op("Abs", at.value(made), dtype=made.dtype))


def _to_whole(kind: str) -> Lower:
    """A function whose answer is a whole number. `kind` is the operator that rounds; "" drops the fraction, as the cast does."""

    def lower(at: Compiler, call: ast.Call) -> Typed:
        made = at.finished(at.lowered(call.args[0]))
        if made.dtype not in NUMBERS and (made.dtype != "bool" or kind):
            raise at.fault(call.args[0], f"{_name(call)} takes a number, this is {made.described}")
        if len(call.args) == 2:
            return _round_to(at, call, made)
        if not made.dtype.startswith("float"):
            return replace(made, value=at.tape.cast(at.value(made), "int64"))
        rounded = at.tape.op(kind, at.value(made), dtype=made.dtype) if kind else at.value(made)
        size = at.tape.op("Abs", rounded, dtype=made.dtype)
        fits = at.tape.binary("Less", size, at.tape.constant(_WHOLE, made.dtype), "bool")
        whole = at.tape.cast(at.tape.where(fits, rounded, at.tape.constant(0, made.dtype)), "int64")
        return at.failing(replace(made, value=whole, suspect=False), fits, at.cause("a number that is no whole number of 64 bits", call))

    return lower


def _round_to(at: Compiler, call: ast.Call, made: Typed) -> Typed:
    digits = at.literal(call.args[1])
    if type(digits.literal) is not int or not 0 <= digits.literal <= 15:
        raise at.fault(call.args[1], "the number of digits is a whole number from 0 to 15")
    dtype = at.float_of(made)
    factor = at.tape.constant(10.0**digits.literal, dtype)
    large = at.tape.binary("Mul", at.value(made, dtype), factor)
    rounded = at.tape.binary("Div", at.tape.op("Round", large, dtype=dtype), factor)
    return replace(made, value=rounded, suspect=True)


def _to_float(dtype: str) -> Lower:
    def lower(at: Compiler, call: ast.Call) -> Typed:
        made = at.finished(at.lowered(call.args[0]))
        if made.dtype == "string":
            raise at.fault(call.args[0], f"{_name(call)} takes a number or a boolean, this is {made.described}")
        narrower = made.dtype == "float64" and dtype == "float32"
        return replace(made, value=at.tape.cast(at.value(made), dtype), suspect=made.suspect or narrower)

    return lower


def _is(kind: str) -> Lower:
    def lower(at: Compiler, call: ast.Call) -> Typed:
        made = at.finished(at.number(call.args[0], _name(call)))
        dtype = at.float_of(made)
        value = at.value(made, dtype)
        if kind == "NaN":
            found = at.tape.op("IsNaN", value, dtype="bool")
        else:
            zero = at.tape.op("Sub", value, value, dtype=dtype)
            found = at.tape.op("Equal", zero, at.tape.constant(0, dtype), dtype="bool")
        return replace(made, value=found, suspect=False)

    return lower


def _clip(at: Compiler, call: ast.Call) -> Typed:
    parts = [at.checked(at.number(one, "clip"), _FINITE) for one in call.args]
    if all(one.value is None for one in parts[1:]) and parts[1].literal > parts[2].literal:
        raise at.fault(call.args[1], "the lower bound is above the upper one")
    at.same_size(parts, call)
    dtype = at.common(parts, call)
    x, low, high = (at.value(one, dtype) for one in parts)
    return replace(at.joined(parts), value=at.tape.binary("Min", at.tape.binary("Max", x, low), high))


# -- several values, or the elements of one array ----------------------------------------------------------------------


def _parts(at: Compiler, call: ast.Call) -> list[Typed]:
    parts = [at.number(one, _name(call)) for one in call.args]
    at.same_size(parts, call)
    return parts


def _over(kind: str, pairwise: str) -> Lower:
    """Over the elements of a single array, or element by element over several arguments."""

    def lower(at: Compiler, call: ast.Call) -> Typed:
        parts = _parts(at, call)
        hides = kind in ("ReduceMax", "ReduceMin")
        if hides:  # whether NaN or a number is the greater one depends on the operator
            parts = [at.checked(one, _FINITE) for one in parts]
        dtype = at.common(parts, call)
        if kind == "ReduceMean" and dtype == "int64":
            dtype = "float64"
        found = replace(at.joined(parts), suspect=not hides and dtype != "int64")
        if len(parts) == 1:
            if not parts[0].shape:
                raise at.fault(
                    call.args[0], f"{_name(call)} of one scalar is the scalar", f"write {_name(call)}(A, B, ...), or name an array"
                )
            return replace(found, value=at.tape.reduced(kind, at.value(parts[0], dtype)))
        values = [at.value(one, dtype) for one in parts]
        result = values[0]
        for value in values[1:]:
            result = at.tape.binary(pairwise, result, value)
        if kind == "ReduceMean":
            result = at.tape.binary("Div", result, at.tape.constant(len(values), dtype))
        return replace(found, value=result)

    return lower


def _array(at: Compiler, call: ast.Call) -> Typed:
    """One array, or several scalars as one."""
    if len(call.args) == 1:
        made = at.finished(at.lowered(call.args[0]))
        if not made.shape:
            raise at.fault(call.args[0], f"{_name(call)} takes an array, or several scalars", f"write {_name(call)}(A, B, ...)")
        return made
    return at.lowered(ast.copy_location(ast.List(elts=call.args, ctx=ast.Load()), call))


def _place(kind: str) -> Lower:
    def lower(at: Compiler, call: ast.Call) -> Typed:
        made = at.checked(_array(at, call), _FINITE)
        if made.dtype not in NUMBERS:
            raise at.fault(call.args[0], f"{_name(call)} takes numbers, this is {made.described}")
        value = at.tape.op(kind, at.value(made), dtype="int64", shape=(), axis=1 if at.value(made).rows else 0, keepdims=0)
        return replace(made, value=value)

    return lower


def _all_or_any(kind: str) -> Lower:
    def lower(at: Compiler, call: ast.Call) -> Typed:
        made = _array(at, call)
        if made.dtype != "bool":
            raise at.fault(call.args[0], f"{_name(call)} takes true or false, this is {made.described}", "compare it with something")
        numbers = at.tape.reduced(kind, at.tape.cast(at.value(made), "int64"))
        return replace(made, value=at.tape.cast(numbers, "bool"))

    return lower


def _weighted(at: Compiler, call: ast.Call) -> Typed:
    """sum(w * x) / sum(w)."""
    made, weights = (at.finished(at.number(one, "weighted")) for one in call.args)
    if not made.shape or not weights.shape:
        raise at.fault(call, "weighted takes two lists or arrays", "write weighted([A, B], [0.7, 0.3])")
    at.same_size([made, weights], call)
    if made.shape != weights.shape:
        raise at.fault(call, f"there are {made.shape[0]} values and {weights.shape[0]} weights")
    constant = isinstance(call.args[1], ast.List | ast.Tuple) and not at.value(weights).rows
    if constant:
        given = [at.literal(one).literal for one in call.args[1].elts]  # type: ignore[attr-defined]  # it is a list
        if min(given) < 0 or sum(given) <= 0:
            raise at.fault(call.args[1], "weights are not negative, and one of them is above 0")
        total = math.fsum(given)
        dtype = at.float_of(made)
        value = at.tape.binary("Mul", at.value(made, dtype), at.tape.constant([one / total for one in given], dtype))
        return replace(made, value=at.tape.reduced("ReduceSum", value), suspect=True)
    dtype = at.common([made, weights], call)
    dtype = dtype if dtype != "int64" else "float64"
    weights = at.checked(weights, _FINITE)
    x, w = at.value(made, dtype), at.value(weights, dtype)
    shares = at.tape.reduced("ReduceSum", at.tape.binary("Mul", x, w))
    found = at.tape.binary("Div", shares, at.tape.reduced("ReduceSum", w))
    return at.checked(replace(at.joined([made, weights]), value=found, suspect=True), at.cause("a division by zero", call))


def _vote(at: Compiler, call: ast.Call) -> Typed:
    """For each candidate the number of equal ones; the first of those with the most wins."""
    made = at.checked(_array(at, call), _FINITE)
    size = made.shape[0]
    if size is None or size > _VOTERS:
        raise at.fault(call, f"vote takes at most {_VOTERS} values, of a number that is known", "pick elements: NAME[0]")
    tape = at.tape
    values = [tape.element(at.value(made), index) for index in range(size)]
    counts = []
    for one in values:
        equal = [tape.cast(tape.binary("Equal", one, other, "bool"), "int64") for other in values]
        total = equal[0]
        for other in equal[1:]:
            total = tape.binary("Add", total, other)
        counts.append(total)
    result, most = values[0], counts[0]
    for one, count in zip(values[1:], counts[1:], strict=True):
        more = tape.binary("Less", most, count, "bool")
        result, most = tape.where(more, one, result), tape.where(more, count, most)
    return replace(made, value=result)


# -- choices -----------------------------------------------------------------------------------------------------------


def _where(at: Compiler, call: ast.Call) -> Typed:
    condition, yes, no = call.args
    return at.choice(at.finished(at.boolean(condition, "where")), at.lowered(yes), at.lowered(no), call)


def _nullable(at: Compiler, node: ast.expr, where: str) -> str:
    name = reference(node)
    if name is None:
        raise at.fault(node, f"{where} takes the name of a field, or of an output of a node with `when`: a computed value is never null")
    if at.is_local(name):
        raise at.fault(node, f"{name!r} is never null", f"use {where} where the field itself is read")
    given = at.given(name, node)
    if given.nullable and not given.replaceable:
        raise at.fault(node, f"{where} takes scalars, {name!r} is an array", ", ".join(at.ways(name, given)))
    if not given.replaceable:
        why = "only scalar fields, and scalar outputs of nodes with another `when`, can be"
        raise at.fault(node, f"{name!r} is never null here: {why}", "write the name alone")
    return name


def _missing(at: Compiler, call: ast.Call) -> Typed:
    name = _nullable(at, call.args[0], "missing")
    return Typed(value=at.null(name, at.given(name, call.args[0]), call.args[0])[1])


def _coalesce(at: Compiler, call: ast.Call) -> Typed:
    """From the last one backwards: each is taken where the field before it is null.

    The last one may be an output of a node that leaves out events: in most, another node has computed what is before it.
    """
    *fields, last = call.args
    name = reference(last)
    if name is not None and not at.is_local(name) and (given := at.given(name, last)).branch and given.replaceable:
        value, null = at.null(name, given, last)
        result = at.failing(value, at.tape.negated(null), "null in all that coalesce names")
    else:
        result = at.lowered(last)
    for node in reversed(fields):
        name = _nullable(at, node, "coalesce")
        given = at.given(name, node)
        if result.value is None and _fits(result, given.dtype):
            result = at.filled(name, given, float(result.literal) if "float" in given.dtype else result.literal, node)
            continue
        value, null = at.null(name, given, node)
        result = at.choice(Typed(value=null), result, value, call)
    return result


def _fits(made: Typed, dtype: str) -> bool:
    """Whether a constant can stand in a column of the dtype without changing the type of the whole."""
    if dtype.startswith("float"):
        return made.kind == "number" and abs(made.literal) < 3e38
    return made.dtype == dtype


def _map(at: Compiler, call: ast.Call) -> Typed:
    """The number of the key picks from the values; the number after the last key means that no key equals it."""
    table = call.args[1]
    if not isinstance(table, ast.Dict) or not table.keys:
        raise at.fault(table, "map takes a table", "write map(X, {'A': 1, 'B': 2}, 0)")
    made = at.checked(at.finished(at.lowered(call.args[0])), _FINITE)
    if any(key is None for key in table.keys):
        raise at.fault(table, "** has no meaning here")
    keys = [at.literal(key) for key in table.keys if key is not None]
    values = [at.literal(value) for value in table.values]
    default = at.lowered(call.args[2]) if len(call.args) > 2 else None
    if default is not None and default.shape:
        raise at.fault(call.args[2], "the last argument of map is a scalar")
    dtype = at.common([*values, *([] if default is None else [default])], table)
    index = at.looked_up(made, keys, table)
    spare = values[0].literal
    items: list[object] = [one.literal for one in values]
    stock = at.tape.constant([*items, spare], dtype)
    value = at.tape.op("Gather", stock, index, dtype=dtype, shape=made.shape, rows=index.rows, axis=0)
    known = at.tape.binary("Less", index, at.tape.constant(len(keys), "int64"), "bool")
    found = replace(made, value=value, literal=None, suspect=False)
    if default is None:
        return at.failing(found, known, at.cause("a key that map does not have", call))
    return at.choice(replace(made, value=known, literal=None), found, default, call)


def _calibrate(at: Compiler, call: ast.Call) -> Typed:
    """Straight lines between points: y0, and for each line the share of it that lies below x, times its height."""
    points = [_points(at, one) for one in call.args[1:]]
    xs, ys = points
    if len(xs) != len(ys) or len(xs) < 2:
        raise at.fault(
            call, "calibrate takes two lists of the same length, of two points at least", "write calibrate(P, [0, 1], [0.1, 0.8])"
        )
    if any(one >= other for one, other in pairwise(xs)):
        raise at.fault(call.args[1], "the first list is not rising")
    made = at.checked(at.finished(at.number(call.args[0], "calibrate")), _FINITE)
    if made.shape:
        raise at.fault(call.args[0], f"calibrate takes a scalar, this is {made.described}", "pick an element: NAME[0]")
    tape, dtype = at.tape, at.float_of(made)
    x = tape.deepen(at.value(made, dtype))
    begun = _each(at, "Sub", x, xs[:-1], dtype)
    share = _each(at, "Div", begun, [high - low for low, high in pairwise(xs)], dtype)
    share = tape.binary("Min", tape.binary("Max", share, tape.constant(0, dtype)), tape.constant(1, dtype))
    risen = tape.reduced("ReduceSum", _each(at, "Mul", share, [high - low for low, high in pairwise(ys)], dtype))
    return replace(made, value=tape.binary("Add", risen, tape.constant(ys[0], dtype)), suspect=True)


def _each(at: Compiler, kind: str, value: Value, numbers: Sequence[float], dtype: str) -> Value:
    return at.tape.binary(kind, value, at.tape.constant(list(numbers), dtype))


def _points(at: Compiler, node: ast.expr) -> list[float]:
    if not isinstance(node, ast.List | ast.Tuple):
        raise at.fault(node, "calibrate takes lists of numbers")
    found = []
    for item in node.elts:
        made = at.literal(item)
        if made.dtype not in NUMBERS:
            raise at.fault(item, f"calibrate takes numbers, this is {made.described}")
        found.append(float(made.literal))
    return found


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


_SOME: Final = (1, None)

FUNCTIONS: Final[Mapping[str, Function]] = {
    "where": Function(
        "where(CONDITION, A, B)", "A where the condition is true, else B. Of a row only the chosen one counts.", (3, 3), _where
    ),
    "coalesce": Function("coalesce(FIELD, ..., B)", "The first that is not null; the last one is any expression.", (2, None), _coalesce),
    "missing": Function("missing(FIELD)", "Whether the field is null.", (1, 1), _missing),
    "map": Function(
        "map(X, {KEY: VALUE, ...}, DEFAULT)",
        "The value of the key that X equals. Without a default, a row with another key fails.",
        (2, 3),
        _map,
    ),
    "calibrate": Function(
        "calibrate(X, [X0, X1, ...], [Y0, Y1, ...])",
        "Straight lines between points, flat before the first and after the last.",
        (3, 3),
        _calibrate,
    ),
    "mean": Function("mean(A, B, ...)", "The mean of the arguments, or of the elements of one array.", _SOME, _over("ReduceMean", "Add")),
    "weighted": Function("weighted([A, B, ...], [W, V, ...])", "The weighted mean. The weights need not add up to 1.", (2, 2), _weighted),
    "vote": Function(
        "vote(A, B, ...)", "The value that most arguments, or elements of one array, have; of several, the first.", _SOME, _vote
    ),
    "sum": Function("sum(A, B, ...)", "The sum of the arguments, or of the elements of one array.", _SOME, _over("ReduceSum", "Add")),
    "min": Function("min(A, B, ...)", "The least argument, or element of one array.", _SOME, _over("ReduceMin", "Min")),
    "max": Function("max(A, B, ...)", "The greatest argument, or element of one array.", _SOME, _over("ReduceMax", "Max")),
    "argmin": Function("argmin(A, B, ...)", "The place of the least one, from 0; of several, the first.", _SOME, _place("ArgMin")),
    "argmax": Function("argmax(A, B, ...)", "The place of the greatest one, from 0; of several, the first.", _SOME, _place("ArgMax")),
    "all": Function("all(A, B, ...)", "Whether all arguments, or elements of one array, are true.", _SOME, _all_or_any("ReduceMin")),
    "any": Function("any(A, B, ...)", "Whether one argument, or element of one array, is true.", _SOME, _all_or_any("ReduceMax")),
    "clip": Function("clip(X, LOW, HIGH)", "X, at least LOW and at most HIGH.", (3, 3), _clip),
    "abs": Function("abs(X)", "X without its sign.", (1, 1), _abs),
    "round": Function(
        "round(X), round(X, DIGITS)", "The nearest whole number, the even one of two; with digits, a float.", (1, 2), _to_whole("Round")
    ),
    "floor": Function("floor(X)", "The whole number that is not above X.", (1, 1), _to_whole("Floor")),
    "ceil": Function("ceil(X)", "The whole number that is not below X.", (1, 1), _to_whole("Ceil")),
    "int": Function("int(X)", "X without its fraction; 1 for true, 0 for false.", (1, 1), _to_whole("")),
    "float": Function("float(X)", "X as float64; 1 for true, 0 for false.", (1, 1), _to_float("float64")),
    "float32": Function("float32(X)", "X as float32, which most models take.", (1, 1), _to_float("float32")),
    "sqrt": Function("sqrt(X)", "The square root.", (1, 1), _by_operator("Sqrt", "the square root of a negative number")),
    "exp": Function("exp(X)", "e to the power of X.", (1, 1), _by_operator("Exp", "a power without a finite value", hides=True)),
    "log": Function("log(X)", "The natural logarithm.", (1, 1), _by_operator("Log", "the logarithm of a number that is not above 0")),
    "sigmoid": Function("sigmoid(X)", "1 / (1 + exp(-X)): from log odds to a probability.", (1, 1), _by_operator("Sigmoid", hides=True)),
    "isnan": Function("isnan(X)", "Whether X is NaN, as an output of a model may be.", (1, 1), _is("NaN")),
    "isfinite": Function("isfinite(X)", "Whether X is neither NaN nor infinite.", (1, 1), _is("finite")),
}
