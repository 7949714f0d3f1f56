"""What an output may write into a field, by dtype."""

from __future__ import annotations

import pytest

from penstock.schema import Field, Kind, writes
from penstock.signature import DTYPES

FLOATS = {"float32", "float64"}


@pytest.mark.parametrize(
    ("kind", "dtypes"),
    [
        ("boolean", {"bool"}),
        ("int", {"int8", "int16", "int32", "uint8", "uint16"}),
        ("long", {"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"}),
        ("timestamp", {"int32", "int64", "uint32"}),
        ("float", {"float32"}),
        ("double", FLOATS),
        ("string", {"string"}),
        ("enum", {"string"}),
        ("bytes", set()),
    ],
)
def test_what_each_kind_of_sink_field_holds(kind: Kind, dtypes: set[str]) -> None:
    assert {dtype for dtype in DTYPES if writes(dtype, Field("f", kind))} == dtypes
    listed = Field("f", "array", items=Field("items", kind), size=2)
    assert {dtype for dtype in DTYPES if writes(dtype, listed)} == dtypes
