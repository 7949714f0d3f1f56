"""A compiled expression gives each row what Python gives for that row alone, and a value to exactly the rows for which Python has one.

The plain reading is Python's own `eval` over NumPy's scalars, where a number that is not finite raises. Only `where` and `coalesce` are
rewritten, since Python evaluates the arguments of functions first.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from penstock.expressions import ExpressionError, parse
from tests.unit.expressions.rows import GIVEN, compiled, run

FLOATS = st.integers(-40, 40).map(lambda number: number / 4)
WHOLE = st.integers(-9, 9)
WORDS = st.sampled_from(["x", "y", "é", ""])
ROW = st.fixed_dictionaries(
    {
        "f": FLOATS,
        "g": FLOATS,
        "i": WHOLE,
        "j": WHOLE,
        "b": st.booleans(),
        "s": WORDS,
        "n": st.none() | FLOATS,
        "m": st.none() | WHOLE,
        "t": st.none() | WORDS,
        "o": st.none() | st.booleans(),
        "raw": FLOATS,
        "p": st.lists(FLOATS, min_size=3, max_size=3),
        "q": FLOATS.map(lambda number: [number]),
        "open": st.just([0.0]),
    }
)


def _join(left: st.SearchStrategy[str], signs: str, right: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds("({} {} {})".format, left, st.sampled_from(signs.split()), right)


def _number(depth: int) -> st.SearchStrategy[str]:
    """A number that is no constant, so that NumPy's rules for scalars hold for it as they do for columns."""
    leaves = ["f", "g", "i", "j", "q", "p[1]", "coalesce(n, 0.5)", "coalesce(m, 3)", "map(s, {'x': 2, 'y': 0.5})", "int(b)", "mean(f, g)"]
    leaf = st.sampled_from(leaves)
    if not depth:
        return leaf
    inner, constant = _number(depth - 1), st.sampled_from(["0", "2", "-3", "0.25", "1.5"])
    return st.one_of(
        leaf,
        _join(inner, "+ - * / // %", inner | constant),
        inner.map("-({})".format),
        st.builds("{}({}, {})".format, st.sampled_from(["max", "min", "mean", "sum"]), inner, inner),
        st.builds("{}({})".format, st.sampled_from(["abs", "sqrt", "round", "floor", "ceil", "int", "float"]), inner),
        st.builds("clip({}, -2, 5)".format, inner),
        # Python's choice has the type of the chosen side; the type of both is tested in the examples of tests/unit/expressions.
        st.builds("where({}, float({}), float({}))".format, _truth(depth - 1), inner, inner),
        st.builds("(float({1}) if {0} else float({2}))".format, _truth(depth - 1), inner, inner),
    )


def _truth(depth: int) -> st.SearchStrategy[str]:
    leaf = st.sampled_from(
        ["b", "missing(n)", "missing(t)", "coalesce(o, true)", "(s == 'x')", "(coalesce(t, '?') in ['x', '?'])", "(i in [0, 3])"]
    )
    if not depth:
        return leaf
    inner, number = _truth(depth - 1), _number(depth - 1)
    return st.one_of(
        leaf,
        _join(number, "== != < <= > >=", number | st.sampled_from(["0", "0.5"])),
        st.builds("(0 < {} <= {})".format, number, number),
        _join(inner, "and or == !=", inner),
        inner.map("(not {})".format),
    )


class _Lazy(ast.NodeTransformer):
    """`where` as Python's choice, which evaluates one side only."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "where":
            test, yes, no = node.args
            return ast.copy_location(ast.IfExp(test, yes, no), node)
        return node


def _whole(rounds: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda number: np.int64(rounds(number))


def _coalesce(value: Any, other: Any) -> Any:
    if value is not None or isinstance(other, str | bool):
        return other if value is None else value
    return np.asarray(other)[()]  # a constant in the text has the type of the field


FUNCTIONS: dict[str, Any] = {
    "missing": lambda value: value is None,
    "coalesce": _coalesce,
    "map": lambda key, table: np.float64(table[key]),
    "mean": lambda one, other: (one + other) / 2,
    "sum": lambda one, other: one + other,
    "max": np.maximum,
    "min": np.minimum,
    "clip": lambda value, low, high: np.minimum(np.maximum(value, low), high),
    "sqrt": np.sqrt,
    "round": _whole(np.round),
    "floor": _whole(np.floor),
    "ceil": _whole(np.ceil),
    "int": _whole(np.trunc),
    "float": np.float64,
    "abs": abs,
    "true": True,
}
TYPES = {"float64": np.float64, "float32": np.float32, "int64": np.int64, "int32": np.int64, "string": str, "bool": bool}


ZEROS: dict[str, Any] = {
    **dict.fromkeys(("f", "g", "i", "j", "n", "m", "raw"), 0), "b": True, "o": True, "s": "", "t": "",
    "p": [0.0] * 3, "q": [0.0], "open": [0.0],
}  # fmt: skip


def _plain(text: str, row: dict[str, Any]) -> Any:
    """Returns Python's answer for one row, None where it has none."""
    names = {name: row[name] if row[name] is None or name in ("p", "q", "open") else TYPES[GIVEN[name].dtype](row[name]) for name in row}
    names |= {"p": [np.float32(one) for one in row["p"]], "q": np.float32(row["q"][0])}
    code = compile(ast.fix_missing_locations(_Lazy().visit(ast.parse(text, mode="eval"))), "row", "eval")
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        try:
            return eval(code, {"__builtins__": {}}, {**FUNCTIONS, **names})
        except (FloatingPointError, ZeroDivisionError, KeyError):
            return None


@given(st.one_of(_number(3), _truth(3)), st.lists(ROW, min_size=1, max_size=6))
@example("where((i % j) == 0, float(f), float(i // j))", [ZEROS])
def test_compiled_is_what_python_gives_row_by_row(text: str, rows: list[dict[str, Any]]) -> None:
    error = _error(text)
    # Constants that have no value are refused when they are compiled: a division by 0, a number that does not fit.
    assume(error is None or not any(part in error.message for part in ("has no value", "64 bits", "not a finite number")))
    graph = compiled(y=text)
    found = run(graph, {name: [row[name] for row in rows] for name in rows[0]})["y"]
    wanted = [_plain(text, row) for row in rows]
    assert [one is None for one in found] == [one is None for one in wanted], (found, wanted)
    for one, other in zip(found, wanted, strict=True):
        if one is not None:
            assert isinstance(one, bool) is isinstance(other, bool | np.bool_)
            assert math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-6), (found, wanted)


@given(st.text(max_size=60) | st.text("fgis01.[](){},+-*/%<>=' \nnotandrwhe#:@\\", max_size=60))
def test_any_text_is_an_expression_or_an_error_with_a_place(text: str) -> None:
    error = _error(text)
    assert error is None or (error.message and 0 <= error.at <= max(len(text) - 1, 0))


def _error(text: str) -> ExpressionError | None:
    try:
        compiled(y=text)
    except ExpressionError as error:
        return error
    return None


@pytest.mark.parametrize("text", ["9" * 3000, "f" + ".a" * 1900, "(" * 1000, "not " * 900 + "b", "f if b else " * 300 + "f", "[" * 2000])
def test_long_and_deep_texts_end_with_an_answer(text: str) -> None:
    with pytest.raises(ExpressionError):
        compiled(y=text)
    with pytest.raises(ExpressionError):
        compiled(y=parse("f").text + text)
