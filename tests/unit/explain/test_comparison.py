"""Published and again: what is equal, what is nearly so, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.explain.comparison import ABSENT, Compared, Verdict, compare, compare_values, worst

EQUAL, CLOSE, DIFFERENT = Verdict


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        (0.1, 0.1, EQUAL),
        (0.1, 0.10000001, CLOSE),
        (0.036130815744400024, 0.03613075613975525, CLOSE),  # the same flight, in its batch and alone
        (0.1, 0.100002, DIFFERENT),
        (1e6, 1e6 + 0.5, CLOSE),
        (1e6, 1e6 + 2, DIFFERENT),
        (-0.0, 0.0, EQUAL),
        (float("nan"), float("nan"), EQUAL),
        (3, 3, EQUAL),
        (3, 4, DIFFERENT),
        (10**9, 10**9 + 1, DIFFERENT),  # whole numbers are no floats, however near
        (3, 3.0, DIFFERENT),
        (True, 1, DIFFERENT),
        (None, None, EQUAL),
        (None, 0.0, DIFFERENT),
        ("a", "b", DIFFERENT),
        (b"a", "a", DIFFERENT),
        ([1.0, 2.0], [1.0, 2.0000001], CLOSE),
        ([1.0, 2.0], [1.0, 3.0], DIFFERENT),
        ([1.0], [1.0, 2.0], DIFFERENT),
        ({"a": 1.0}, {"a": 1.0000001}, CLOSE),
        ({"a": 1.0}, {"b": 1.0}, DIFFERENT),
    ],
)
def test_values(one: Any, other: Any, verdict: Verdict) -> None:
    assert compare_values(one, other) is compare_values(other, one) is verdict


def test_fields_that_only_one_has_are_different() -> None:
    assert compare({"id": "a", "old": 1}, {"id": "a", "new": 2}) == (
        Compared("id", "a", "a", EQUAL),
        Compared("new", ABSENT, 2, DIFFERENT),
        Compared("old", 1, ABSENT, DIFFERENT),
    )


def test_whole_is_as_its_worst_part() -> None:
    assert worst([EQUAL, DIFFERENT, CLOSE]) is DIFFERENT
    assert worst([EQUAL, CLOSE]) is CLOSE
    assert worst([]) is EQUAL
