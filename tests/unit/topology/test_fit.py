"""The type rules, one table each."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.schema import Field, Kind
from penstock.signature import DTYPES
from penstock.topology.fit import Axes, converts, fills, fit, joined

FLOATS = {"float32", "float64"}
UNDECLARED = {"int8", "int16", "uint8", "uint16", "uint32", "uint64"}


@pytest.mark.parametrize(
    ("kind", "dtypes"),
    [
        ("boolean", {"bool", "int32", "int64"} | FLOATS | UNDECLARED),
        ("int", {"int32", "int64"} | FLOATS | UNDECLARED),
        ("long", {"int64"} | FLOATS | UNDECLARED),
        ("timestamp", {"int64"} | FLOATS),
        ("float", FLOATS),
        ("double", FLOATS),
        ("string", {"string"}),
        ("enum", {"string"}),
        ("bytes", set()),
        ("record", set()),
        ("map", set()),
    ],
)
def test_what_each_kind_of_field_feeds(kind: Kind, dtypes: set[str]) -> None:
    assert {dtype for dtype in DTYPES if converts(Field("f", kind), dtype)} == dtypes
    listed = Field("f", "array", items=Field("items", kind), size=2)
    assert {dtype for dtype in DTYPES if converts(listed, dtype)} == dtypes


@pytest.mark.parametrize(
    ("given", "wanted", "axes"),
    [
        ((), (), ()),
        ((), (1,), (1,)),
        ((), (None,), (1,)),
        ((1,), (), ()),
        ((), (2,), None),
        ((2,), (), None),
        ((2,), (2,), (2,)),
        ((2,), (None,), (2,)),
        ((None,), (2,), (2,)),
        ((None,), (None,), (None,)),
        ((3,), (2,), None),
        ((2, 3), (2, None), (2, 3)),
        ((2, 3), (6,), None),
        ((1, 1), (1,), (1,)),
        ((None,), (), None),
    ],
)
def test_axes(given: Axes, wanted: Axes, axes: Axes | None) -> None:
    assert fit(given, wanted) == axes


@pytest.mark.parametrize(
    ("parts", "axes"),
    [
        ([(), (), ()], (3,)),
        ([(2,), (3,)], (5,)),
        ([(2,), (None,)], (None,)),
        ([(4, 2), (4, 1)], (4, 3)),
        ([(4, 2), (3, 2)], None),
        ([(), (2,)], None),
    ],
)
def test_parts_joined_along_the_last_axis(parts: list[Axes], axes: Axes | None) -> None:
    assert joined(parts) == axes


@pytest.mark.parametrize(
    ("value", "kind", "dtype", "fine"),
    [
        (0, "double", "float32", True),
        (float("nan"), "double", "float64", True),
        (float("inf"), "double", "float64", False),
        (1e39, "double", "float32", False),
        (10**400, "double", "float64", False),
        (0, "int", "int64", True),
        (0.5, "int", "int64", False),
        (0.5, "int", "float32", True),
        (256, "int", "uint8", False),
        (-1, "int", "uint8", False),
        (-128, "int", "int8", True),
        (True, "boolean", "bool", True),
        (0, "boolean", "bool", False),
        (True, "boolean", "float32", True),
        (True, "double", "float32", False),
        ("", "string", "string", True),
        (0, "string", "string", False),
        ("x", "double", "float32", False),
    ],
)
def test_values_that_stand_for_null(value: Any, kind: Kind, dtype: str, fine: bool) -> None:
    assert fills(value, Field("f", kind), dtype) is fine
