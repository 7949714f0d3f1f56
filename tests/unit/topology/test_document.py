"""YAML is read as data with bounds, and every value knows its place."""

from __future__ import annotations

import math

import pytest

from penstock.topology.document import Listed, Mapped, Scalar, Value, read


def plain(value: Value | None) -> object:
    match value:
        case Mapped(items=items):
            return {key.text: plain(item) for key, item in items}
        case Listed(items=items):
            return [plain(item) for item in items]
        case Scalar(value=found):
            return found
        case _:
            return None


def only_problem(text: str) -> str:
    root, problems = read(text, "f")
    assert root is None
    assert len(problems) == 1
    return str(problems[0])


def test_scalars_follow_the_core_schema_of_yaml_1_2() -> None:
    """`no` is the code of Norway, `12:30` a time of day, and neither becomes something else behind the author's back."""
    root, problems = read("[no, on, 12:30, 0123, 1e3, true, ~, -1, '1', \"true\", 1_000]", "f")
    assert not problems
    assert plain(root) == ["no", "on", "12:30", 123, 1000.0, True, None, -1, "1", "true", "1_000"]


def test_infinities_and_nan_are_floats() -> None:
    root, _ = read("[.inf, -.inf, .nan]", "f")
    values = plain(root)
    assert isinstance(values, list)
    assert values[:2] == [math.inf, -math.inf]
    assert math.isnan(values[2])


def test_places_count_from_one() -> None:
    root, _ = read("a:\n  - b\n", "f")
    assert isinstance(root, Mapped)
    listed = root.items[0][1]
    assert isinstance(listed, Listed)
    assert (listed.items[0].mark.line, listed.items[0].mark.column) == (2, 5)


def test_alias_repeats_its_anchor() -> None:
    root, problems = read("a: &x [1]\nb: *x", "f")
    assert not problems
    assert plain(root) == {"a": [1], "b": [1]}


def test_duplicate_keys_tags_and_merge_keys_are_reported_together() -> None:
    _, problems = read("a: 1\na: 2\nb: !!python/object:os.system x\nc:\n  <<: {}\n? [x]\n: 1", "f")
    assert [(problem.line, problem.message.split(":")[0]) for problem in problems] == [
        (3, "the tag 'tag"),
        (5, "merge keys (<<) are not supported"),
        (2, "duplicate key 'a', first on line 1"),
        (6, "a list or mapping cannot be a key"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "f:1:1: the file is empty"),
        ("# only a comment\n", "f:1:1: the file is empty"),
        ("a: [", "f:1:5: not YAML: while parsing a flow node did not find expected node content"),
        ("a:\n\tb: 1", "f:2:1: not YAML: while scanning for the next token found character that cannot start any token (replace the tab"),
        ("a: \x00", "f:1:1: not YAML: control characters are not allowed"),
        (
            "a:\n  b: {score: vote.probabilities[12], c: d}",
            "f:2:32: not YAML: while parsing a flow mapping did not find expected ',' or '}' (put quotes around vote.probabilities[12], "
            'as "vote.probabilities[12]": within { } and [ ], YAML begins a list at a [)',
        ),
        (
            "a: [x, dense/BiasAdd:0[1]]",
            "f:1:23: not YAML: while parsing a flow sequence did not find expected ',' or ']' (put quotes around",
        ),
        (
            "a: {x: [1],\n  y: 2\nb: 3\n",
            "f:3:2: not YAML: while parsing a flow mapping did not find expected ',' or '}' (close the { of line 1)",
        ),
        ("a: {x: [1], y: z w[}", "f:1:19: not YAML: while parsing a flow mapping did not find expected ',' or '}' (check indentation"),
        ("a\n\ud800", "f:2:1: half a surrogate pair is not a character"),
        ("a: 1\n---\nb: 2", "f:2:1: a second document begins here"),
        ("a: &x [*x]", "f:1:8: the alias *x has no anchor that ends before it"),
        ("a: *x", "f:1:4: the alias *x has no anchor that ends before it"),
        ("[" * 1000, "f:1:33: nested more than 32 levels deep"),
        ("- " * 1000, "f:1:65: nested more than 32 levels deep"),
        ("x" * 1_048_577, "f:1:1: the file has 1,048,577 bytes, the limit is 1,048,576"),
        ("[" + "1," * 20_001 + "]", "f:1:40002: more than 20,000 values"),
        ("a: &x 1\nb: [" + "*x," * 101 + "]", "f:2:305: more than 100 aliases"),
    ],
)
def test_what_cannot_be_read_is_one_problem(text: str, expected: str) -> None:
    assert only_problem(text).startswith(expected)


def test_billion_laughs_are_counted_before_they_are_told() -> None:
    """Nine lists of nine references each are 9⁹ values; reading stops at the bound."""
    bomb = "\n".join(
        ["a: &a [x,x,x,x,x,x,x,x,x]"] + [f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    )
    assert "more than 20,000 values once the aliases are expanded" in only_problem(bomb)
