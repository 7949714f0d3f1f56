"""What expressions mean, and what is no expression, with its place."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import onnx
import pytest

from penstock.errors import InferenceError
from penstock.expressions import FUNCTIONS, ExpressionError, parse
from tests.unit.expressions.rows import ROWS, answers, compiled, run

PAGE = Path(__file__).parents[3] / "docs/expressions.md"
BIG = 2**62


@pytest.mark.parametrize(
    ("text", "dtype", "values"),
    [
        # numbers in the text take the type of what they are beside
        ("f + 1", "float64[N]", [2.5, -1.25, 1.0]),
        ("g * 2", "float32[N]", [0.5, 6.0, -2.0]),
        ("i * 2", "int64[N]", [14, -14, 0]),
        ("i + 0.5", "float64[N]", [7.5, -6.5, 0.5]),
        ("j - 1", "int64[N]", [1, -1, -2]),
        ("g + i", "float64[N]", [7.25, -4.0, -1.0]),
        ("-f", "float64[N]", [-1.5, 2.25, -0.0]),
        ("60 * 60 * 24 + i", "int64[N]", [86407, 86393, 86400]),
        ("g > 0.1", "bool[N]", [True, True, False]),
        # division as in Python; without an answer the row fails
        ("i / 2", "float64[N]", [3.5, -3.5, 0.0]),
        ("i // 2", "int64[N]", [3, -4, 0]),
        ("i % 3", "int64[N]", [1, 2, 0]),
        ("i // j", "int64[N]", [3, None, 0]),
        ("i % j", "int64[N]", [1, None, 0]),
        ("f / j", "float64[N]", [0.75, None, -0.0]),
        ("f // 0.5", "float64[N]", [3.0, -5.0, 0.0]),
        ("i // -1", "int64[N]", [-7, 7, 0]),
        ("i % -1", "int64[N]", [0, 0, 0]),
        ("-9223372036854775808 // (0 * i - 1)", "int64[N]", [-(2**63)] * 3),
        ("f % 1", "float64[N]", [0.5, 0.75, 0.0]),
        ("f % -1", "float64[N]", [-0.5, -0.25, 0.0]),
        ("-9223372036854775808 // j", "int64[N]", [-(2**62), None, -(2**63)]),
        ("-9223372036854775808 % j", "int64[N]", [0, None, 0]),
        ("f ** 2", "float64[N]", [2.25, 5.0625, 0.0]),
        ("f ** 0.5", "float64[N]", [math.sqrt(1.5), None, 0.0]),
        # of a row only what is chosen counts
        ("where(j == 0, 0, i // j)", "int64[N]", [3, 0, 0]),
        ("i // j if j != 0 else -1", "int64[N]", [3, -1, 0]),
        ("j != 0 and i / j > 1", "bool[N]", [True, False, False]),
        ("j == 0 or i / j > 1", "bool[N]", [True, True, False]),
        ("i / j > 1 and j != 0", "bool[N]", [True, None, False]),
        ("1 / j > 0 or true", "bool[N]", [True, None, True]),
        # comparisons
        ("0 < f < 2", "bool[N]", [True, False, False]),
        ("0 < i / j < 9", "bool[N]", [True, None, False]),
        ("s == 'x'", "bool[N]", [True, False, False]),
        ("s != 'é'", "bool[N]", [True, True, False]),
        ("b == false", "bool[N]", [False, True, False]),
        ("s in ['x', 'é']", "bool[N]", [True, False, True]),
        ("i not in (7, 0)", "bool[N]", [False, True, False]),
        ("f in [1.5, 0]", "bool[N]", [True, False, True]),
        ("b in [true]", "bool[N]", [True, False, True]),
        ("not b", "bool[N]", [False, True, False]),
        # null
        ("coalesce(n, 0)", "float64[N]", [1.0, 0.0, 3.0]),
        ("coalesce(n, i)", "float64[N]", [1.0, -7.0, 3.0]),
        ("coalesce(m, 0.5)", "float64[N]", [4.0, 0.5, 0.0]),
        ("coalesce(m, n, -1)", "float64[N]", [4.0, -1.0, 0.0]),
        ("coalesce(t, s)", "string[N]", ["x", "y", ""]),
        ("coalesce(o, b)", "bool[N]", [True, False, False]),
        ("coalesce(n, 1 / j)", "float64[N]", [1.0, None, 3.0]),
        ("missing(n)", "bool[N]", [False, True, False]),
        ("missing(t) or missing(m) or missing(o)", "bool[N]", [False, True, False]),
        ("missing(f)", "bool[N]", [False, False, False]),
        # tables and choices
        ("map(s, {'x': 1, 'é': 2}, 0)", "int64[N]", [1, 0, 2]),
        ("map(s, {'x': 1, 'é': 2.5})", "float64[N]", [1.0, None, 2.5]),
        ("map(i, {7: 'up', -7: 'down'}, s)", "string[N]", ["up", "down", "é"]),
        ("map(b, {true: 'yes', false: 'no'})", "string[N]", ["yes", "no", "yes"]),
        ("map(s, {'x': true}, b)", "bool[N]", [True, False, True]),
        ("where(b, s, 'none')", "string[N]", ["x", "none", "é"]),
        ("where(b, true, i > 0)", "bool[N]", [True, False, True]),
        ("where(b, 1, g)", "float32[N]", [1.0, 3.0, 1.0]),
        ("where(b, p, 0)", "float32[N, 3]", [[0.125, 0.25, 0.625], [0.0, 0.0, 0.0], [0.0, 0.75, 0.25]]),
        ("where(p > 0.3, 1, 0)", "int64[N, 3]", [[0, 0, 1], [1, 0, 0], [0, 1, 0]]),
        # arrays
        ("p[1]", "float32[N]", [0.25, 0.25, 0.75]),
        ("q + 1", "float32[N]", [2.0, 3.0, 5.0]),
        ("1 - p", "float32[N, 3]", [[0.875, 0.75, 0.375], [0.5, 0.75, 0.75], [1.0, 0.25, 0.75]]),
        ("p * i", "float64[N, 3]", [[0.875, 1.75, 4.375], [-3.5, -1.75, -1.75], [0.0, 0.0, 0.0]]),
        ("[f, i, 1]", "float64[N, 3]", [[1.5, 7.0, 1.0], [-2.25, -7.0, 1.0], [0.0, 0.0, 1.0]]),
        ("(p * 2)[2]", "float32[N]", [1.25, 0.5, 0.5]),
        ("mean(p)", "float32[N]", [1 / 3, 1 / 3, 1 / 3]),
        ("mean(f, i)", "float64[N]", [4.25, -4.625, 0.0]),
        ("mean(i, j)", "float64[N]", [4.5, -3.5, -0.5]),
        ("sum(p)", "float32[N]", [1.0, 1.0, 1.0]),
        ("sum(i, j, 1)", "int64[N]", [10, -6, 0]),
        ("min(p)", "float32[N]", [0.125, 0.25, 0.0]),
        ("max(f, i, 1)", "float64[N]", [7.0, 1.0, 1.0]),
        ("argmax(p)", "int64[N]", [2, 0, 1]),
        ("argmin(f, i, j)", "int64[N]", [0, 1, 2]),
        ("any(p > 0.7)", "bool[N]", [False, False, True]),
        ("all(b, i >= 0)", "bool[N]", [True, False, True]),
        ("weighted(p, [1, 2, 1])", "float32[N]", [0.3125, 0.3125, 0.4375]),
        ("weighted([f, i], [i, j])", "float64[N]", [24.5 / 9, -2.25, -0.0]),
        ("weighted([f, g], [j, 0])", "float64[N]", [1.5, None, 0.0]),
        ("vote(i, j, 2)", "int64[N]", [2, -7, 0]),
        ("vote(s, 'y', 'y')", "string[N]", ["y", "y", "y"]),
        ("vote(b, true, false)", "bool[N]", [True, False, True]),
        ("vote(argmax(p), 0, 2)", "int64[N]", [2, 0, 1]),
        # arrays whose size the model leaves open
        ("sum(open)", "float32[N]", [3.0, 2.0, 0.5]),
        ("mean(open) > 1", "bool[N]", [True, False, False]),
        ("max(open)", "float32[N]", [2.0, 3.0, 0.5]),
        ("argmin(open)", "int64[N]", [0, 1, 0]),
        ("any(open > 2.5)", "bool[N]", [False, True, False]),
        ("1 - open", "float32[N, ?]", [[0.0, -1.0], [-2.0, 2.0], [1.0, 0.5]]),
        ("(open * 2)[1]", "float32[N]", [4.0, -2.0, 1.0]),
        # one number
        ("clip(f, 0, 1)", "float64[N]", [1.0, 0.0, 0.0]),
        ("abs(i)", "int64[N]", [7, 7, 0]),
        ("round(f)", "int64[N]", [2, -2, 0]),
        ("round(f, 1)", "float64[N]", [1.5, -2.2, 0.0]),
        ("floor(f)", "int64[N]", [1, -3, 0]),
        ("ceil(f)", "int64[N]", [2, -2, 0]),
        ("int(f)", "int64[N]", [1, -2, 0]),
        ("int(b) + 1", "int64[N]", [2, 1, 2]),
        ("int(f * 1e300)", "int64[N]", [None, None, 0]),
        ("float(i)", "float64[N]", [7.0, -7.0, 0.0]),
        ("float32(f)", "float32[N]", [1.5, -2.25, 0.0]),
        ("float32(f * 1e300)", "float32[N]", [None, None, 0.0]),
        ("sqrt(f)", "float64[N]", [math.sqrt(1.5), None, 0.0]),
        ("log(f)", "float64[N]", [math.log(1.5), None, None]),
        ("exp(i)", "float64[N]", [math.exp(7), math.exp(-7), 1.0]),
        ("exp(i * 1000)", "float64[N]", [None, 0.0, 1.0]),
        ("sigmoid(f)", "float64[N]", [1 / (1 + math.exp(-1.5)), 1 / (1 + math.exp(2.25)), 0.5]),
        ("calibrate(f, [-1, 0, 2], [0.1, 0.5, 0.9])", "float64[N]", [0.8, 0.1, 0.5]),
        # what models give may be no number
        ("raw + 1", "float32[N]", [2.0, None, None]),
        ("raw > 0", "bool[N]", [True, None, None]),
        ("isnan(raw)", "bool[N]", [False, True, False]),
        ("isfinite(raw)", "bool[N]", [True, False, False]),
        ("where(isfinite(raw), raw, -1) > 0", "bool[N]", [True, False, False]),
        ("max(raw, 0)", "float32[N]", [1.0, None, None]),
        ("argmax(raw, 0)", "int64[N]", [0, None, None]),
        ("1 / raw", "float32[N]", [1.0, None, None]),
        ("sigmoid(raw)", "float32[N]", [1 / (1 + math.exp(-1)), None, None]),
    ],
)  # fmt: skip
def test_meaning(text: str, dtype: str, values: list[Any]) -> None:
    found, got = answers(text)
    assert found == dtype
    assert [type(one) for one in got] == [type(one) for one in values]
    for one, wanted in zip(got, values, strict=True):
        assert one == (pytest.approx(wanted, rel=1e-6) if isinstance(wanted, float) else wanted), got


@pytest.mark.parametrize("text", ["sum(open)", "max(open)", "mean(open) > 1", "argmax(open)", "all(open > 0)", "(open + 1)[2]"])
def test_array_without_the_elements_is_an_error_of_its_rows(text: str) -> None:
    """A model that gives no elements, or too few: the runtime would give another shape for some of these."""
    with pytest.raises(InferenceError):
        run(compiled(y=text), {**ROWS, "open": [[], [], []]})


def test_later_outputs_name_earlier_ones_and_inherit_their_failures() -> None:
    found = run(compiled(ratio="i / j", high="ratio > 3", safe="where(j == 0, 0.0, ratio)", both="[ratio, 1][0]"))
    assert found == {"ratio": [3.5, None, 0.0], "high": [True, None, False], "safe": [3.5, 0.0, 0.0], "both": [3.5, None, 0.0]}


def test_output_may_have_the_name_of_the_field_that_it_reads() -> None:
    assert run(compiled(f="clip(f, 0, 1)", s="where(b, s, '')")) == {"f": [1.0, 0.0, 0.0], "s": ["x", "", "é"]}


def test_constant_beside_others_gets_their_rows() -> None:
    assert run(compiled(y="f", one="1", word="'a'", pair="[1, 0.5]")) == {
        "y": [1.5, -2.25, 0.0],
        "one": [1, 1, 1],
        "word": ["a", "a", "a"],
        "pair": [[1.0, 0.5]] * 3,
    }


def test_reason_of_a_failure_is_known() -> None:
    assert compiled(y="i // j", z="map(s, {'x': 1}) + i // 2", w="i + 1").doubts == {
        "y": ("a division by zero in `i // j`",),
        "z": ("a key that map does not have in `map(s, {'x': 1})`",),
    }
    assert compiled(y="i // j + i // j", z="i // j + i //  j").doubts == {
        "y": ("a division by zero in `i // j`",),
        "z": ("a division by zero in `i // j`", "a division by zero in `i //  j`"),
    }


def test_graph_is_plain_onnx_and_follows_the_meaning() -> None:
    """Blanks, line breaks and brackets do not change what is computed; another constant does."""
    graph = compiled(y="f  *\n2 > (1)")
    onnx.checker.check_model(onnx.load_model_from_string(graph.model), full_check=True)
    assert graph.digest == compiled(y="f * 2 > 1").digest
    assert graph.label == f"rule:{graph.digest[:12]}"
    assert graph.digest != compiled(y="f * 3 > 1").digest


def test_what_is_computed_twice_is_written_once() -> None:
    once, twice = (onnx.load_model_from_string(compiled(y=text).model).graph.node for text in ("f / i", "f / i + f / i"))
    assert len(twice) == len(once) + 1 + 4 + 1, "one Add, the check that its result is finite, and which of the two causes it is"


@pytest.mark.parametrize(
    ("text", "at", "message"),
    [
        ("", 0, "the expression is empty"),
        ("f +", None, "not an expression: invalid syntax"),
        ("f = 1", 2, "not an expression: invalid syntax|write == to compare"),
        ("f && b", 3, "not an expression: invalid syntax|write and, or"),
        ("(f", 0, "not an expression: '(' was never closed"),
        ("f > 1) or (b", 5, "not an expression: unmatched ')'"),
        ("é ++ 'é' +* 1", 10, "not an expression: invalid syntax"),
        ("s == 'a\\n'", 7, "a backslash has no meaning here"),
        ("f ^ i", 0, "^ has no meaning here|write ** for a power"),
        ("lambda: f", 0, "an expression defines no function"),
        ("(y := f)", 1, "an expression assigns nothing"),
        ("f.__class__.__bases__", 0, "'f.__class__.__bases__' is unknown"),
        ("[x for x in p]", 0, "ListComp has no meaning here"),
        ("f'{f}'", 0, "texts cannot be formatted"),
        ("max(f, key=i)", 7, "arguments have no names here"),
        ("max(*p)", 4, "* has no meaning here"),
        ("1j + f", 0, "1j is not a number, a text or true/false"),
        ("None", 0, "None has no meaning here|missing(FIELD) tests for null, coalesce(FIELD, VALUE) replaces it"),
        ("p[1:2]", 2, "a part of an array cannot be cut out"),
        ("p[i]", 2, "an index is a whole number in the text, from 0"),
        ("(p + 1)[7]", 0, "the index 7 is out of range, the array has 3|from 0 to 2"),
        ("(f + 1)[0]", 0, "only an array has elements, this is a scalar"),
        ("b + 1", 0, "+ takes numbers, this is true or false|int(...) makes it 0 or 1"),
        ("'a' + s", 0, "+ takes numbers, this is a text"),
        ("b and f", 6, "and takes true or false, this is a float64|compare it with something"),
        ("s > 'x'", 0, "> compares numbers, this is a text"),
        ("s == 1", 0, "a text and a whole number do not go together"),
        ("where(b, 1, 'a')", 0, "a whole number and a text do not go together"),
        ("p + [1, 2]", 0, "arrays of different or unknown size do not go together: an array of 3 float32 and an array of 2 int64"),
        ("open + p", 0, "arrays of different or unknown size do not go together: an array of unknown size float32 and an array of 3"),
        ("vote(open)", 0, "vote takes at most 16 values, of a number that is known"),
        ("n + 1", 0, "'n' may be null, and null has no value|coalesce(n, VALUE) replaces it, missing(n) tests for it"),
        ("f > 0 and coalesce(i + 1, 0) > 0", 19, "coalesce takes the name of a field, or of an output of a node with `when`: a computed"),
        ("missing(p)", 8, "'p' is never null here: only scalar fields, and scalar outpu"),
        ("meann(f, i)", 0, "there is no function 'meann'|did you mean 'mean'?"),
        ("open('/etc/passwd')", 0, "there is no function 'open'"),
        ("clip(f)", 0, "clip has 1 arguments here|write clip(X, LOW, HIGH)"),
        ("clip(f, 2, 1)", 8, "the lower bound is above the upper one"),
        ("map(s, {'a': 1, 'a': 2})", 7, "two keys are equal|keep one of them"),
        ("map(f, {1.5: 1})", 7, "keys are texts, whole numbers or booleans"),
        ("map(s, {t: 1})", 8, "only a number, a text or true/false can be here"),
        ("s in f", 5, "in takes a list of constants: X in ['A', 'B']"),
        ("{'a': 1}", 0, "a table belongs into map(X, {KEY: VALUE, ...})"),
        ("calibrate(f, [1, 0], [0, 1])", 13, "the first list is not rising"),
        ("weighted(p, [1, 2])", 0, "arrays of different or unknown size do not go together"),
        ("weighted(p, [1, -2, 1])", 12, "weights are not negative, and one of them is above 0"),
        ("f + 10 ** 100", 4, "a power of constants has an exponent of at most 64 and a base of at most 1,000,000"),
        ("f + 9223372036854775808", 4, "a whole number has at most 64 bits"),
        ("f + 1e999", 4, "inf is not a finite number"),
        ("f % 0", 0, "a division by the constant 0 has no value"),
        ("i // (2 - 2)", 0, "a division by the constant 0 has no value"),
        ("f + 1 / 0", 4, "this constant has no value: division by zero"),
        ("g + 1e300", 0, "a number here is too large for a float32"),
        ("1 + 2", 0, "every event would get the same answer"),
        ("f + " * 1000 + "f", 0, "the expression has 4,001 characters, the limit is 4,000|divide it into outputs"),
        ("f+" * 80 + "f", None, "nested more than 64 levels deep"),
        ("-" * 3000 + "f", None, "nested more than 64 levels deep"),
        ("(" * 150 + "f" + ")" * 150 + " +", None, "not an expression"),
        ("+".join(f"vote([{'f, i, j, ' * 4}{at}])" for at in range(48)), 0, "the rule needs more than 10,000 operators"),
        ("[" + "f," * 1500 + "f]", 0, "the expression has more than 1,000 parts"),
    ],
)  # fmt: skip
def test_what_is_refused(text: str, at: int | None, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compiled(y=text)
    wanted, _, fix = message.partition("|")
    assert caught.value.message.startswith(wanted)
    assert fix in caught.value.fix
    assert at is None or caught.value.at == at, text[caught.value.at :]


def test_names_are_found_with_their_place() -> None:
    names = list(parse("where(é.x[1] > 0.5, max(f, orders.price), true)").names())
    assert names == [("é.x[1]", 6), ("f", 24), ("orders.price", 27)]


def test_every_function_is_on_the_page_as_the_table_has_it() -> None:
    rows = dict(re.findall(r"^\| `(.+?)` \| (.+?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert {one.usage: rows.get(one.usage) for one in FUNCTIONS.values()} == {one.usage: one.doc for one in FUNCTIONS.values()}
