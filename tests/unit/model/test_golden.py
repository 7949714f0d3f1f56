"""Golden records are read as people write them, and a miss says which record and output."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from penstock.errors import ConfigError
from penstock.model.golden import GoldenRecord, compare, dump, feeds_of, parse, rows_of
from penstock.signature import DTYPES, Signature, Tensor

XY = Signature((Tensor("x", "float32", (2,)),), (Tensor("y", "float64"), Tensor("label", "string")))
ONE = GoldenRecord({"x": [0.5, None]}, {"y": 1.5, "label": "late"})


def test_records_survive_their_file() -> None:
    assert parse(dump([ONE, ONE]), XY) == (ONE, ONE)


def test_a_file_has_one_line_a_record_so_that_people_can_read_a_diff() -> None:
    assert dump([ONE, ONE]).count("\n") == 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_of_every_dtype_survive_exactly(dtype: str) -> None:
    random = np.random.default_rng(3)
    shape = (50, 2)
    drawn = random.standard_normal(shape) * 1e3 if dtype.startswith("float") else random.integers(2, size=shape)
    array = np.array([["ä", ""]] * 50, object) if dtype == "string" else drawn.astype(dtype)
    tensor = Tensor("x", dtype, (2,))
    written = dump(GoldenRecord(row, {"x": row["x"]}) for row in rows_of({"x": array}))
    signature = Signature((tensor,), (tensor,))
    (feeds,) = feeds_of(parse(written, signature), signature)
    assert feeds["x"].dtype == array.dtype
    assert feeds["x"].tolist() == array.tolist()
    assert feeds["x"].flags.c_contiguous


def test_floats_are_written_in_the_fewest_digits() -> None:
    assert rows_of({"y": np.array([0.1], np.float32)}) == [{"y": 0.1}]


def test_many_records_are_run_in_chunks_so_that_no_run_is_long() -> None:
    assert [len(feeds["x"]) for feeds in feeds_of([ONE] * 600, XY)] == [256, 256, 88]


def test_null_is_nan() -> None:
    (feeds,) = feeds_of([ONE], XY)
    assert math.isnan(feeds["x"][0, 1])


def test_rows_of_different_length_become_batches_of_one() -> None:
    signature = Signature((Tensor("x", "int64", (None,)),), ())
    batches = feeds_of([GoldenRecord({"x": [1]}, {}), GoldenRecord({"x": [1, 2]}, {})], signature)
    assert [feeds["x"].shape for feeds in batches] == [(1, 1), (1, 2)]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"outputs": {"y": 1.0}}, 'record 1: must have "inputs" and "outputs"'),
        ({"inputs": {}, "outputs": {"y": 1.0}}, "record 1: the input 'x' is missing"),
        ({"inputs": {"x": [1, 2]}, "outputs": {}}, "record 1: give at least one output"),
        ({"inputs": {"x": [1, 2], "z": 1}, "outputs": {"y": 1.0}}, "record 1: the model has no input 'z'; it has x"),
        ({"inputs": {"x": [1, 2]}, "outputs": {"q": 1.0}}, "record 1: the model has no output 'q'; it has label, y"),
        ({"inputs": {"x": [1, 2, 3]}, "outputs": {"y": 1.0}}, "record 1: 'x' does not fit x: float32[N, 2]: one row has the shape [3]"),
        ({"inputs": {"x": 1}, "outputs": {"y": 1.0}}, "'x' does not fit x: float32[N, 2]: 1 is not a list"),
        ({"inputs": {"x": [[1], 2]}, "outputs": {"y": 1.0}}, "[1] is not a value of float32"),
        ({"inputs": {"x": [1, True]}, "outputs": {"y": 1.0}}, "True is not a value of float32"),
        ({"inputs": {"x": [1, 2]}, "outputs": {"y": "1"}}, "'1' is not a value of float64"),
        ({"inputs": {"x": [1, 2]}, "outputs": {"label": 1}}, "1 is not a value of string"),
        (7, 'record 1: must have "inputs" and "outputs"'),
    ],
)
def test_what_does_not_fit_is_named(record: object, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(json.dumps({"records": [record]}), XY, file="g.json")
    assert "g.json: " in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"records": []}', '{"records": 1}', "[" * 100_000])
def test_what_holds_no_records_is_a_config_error(content: str) -> None:
    with pytest.raises(ConfigError, match=r"^g\.json"):
        parse(content, XY, file="g.json")


def test_integers_out_of_range_do_not_fit() -> None:
    signature = Signature((Tensor("x", "int8"),), (Tensor("x", "int8"),))
    with pytest.raises(ConfigError, match="'x' does not fit x: int8"):
        parse('{"records": [{"inputs": {"x": 300}, "outputs": {"x": 1}}]}', signature)


def test_floats_are_met_within_tolerance_and_the_rest_exactly() -> None:
    near, far = {"y": 1.5 + 1e-6, "label": "late"}, {"y": 1.6, "label": "Late"}
    assert compare([ONE], [near], XY, atol=1e-5, rtol=0) == []
    misses = compare([ONE, ONE], [near, far], XY, atol=1e-5, rtol=0)
    assert [str(miss) for miss in misses] == [
        "golden record 2, output 'y': expected 1.5, got 1.6",
        "golden record 2, output 'label': expected late, got Late",
    ]
