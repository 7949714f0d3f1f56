"""Tensors of the Open Inference Protocol: every form gives the same arrays back."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from penstock.batch import Array
from penstock.errors import Malformed
from penstock.serving import oip
from penstock.serving.messages import COMPILED, METHODS, message

SHAPES = arrays.array_shapes(min_dims=1, max_dims=3, max_side=4)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def tensors(draw: st.DrawFn) -> Array:
    dtype = draw(st.sampled_from(sorted(oip.DATATYPES)))
    shape = draw(SHAPES)
    if dtype == "string":
        made = np.empty(shape, object)
        made.reshape(-1)[:] = draw(st.lists(TEXTS, min_size=made.size, max_size=made.size))
        return made
    kind = np.dtype(dtype)
    elements = {"allow_nan": False, "allow_infinity": False} if kind.kind == "f" else {}
    return draw(arrays.arrays(kind, shape, elements=arrays.from_dtype(kind, **elements)))  # type: ignore[arg-type]  # one of both kinds


def datatype(array: Array) -> str:
    return oip.DATATYPES["string" if array.dtype == object else array.dtype.name]


def same(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tolist() == other.tolist()


@given(tensors())
def test_bytes_hold_every_array(array: Array) -> None:
    data = oip.to_bytes(array)
    assert same(oip.from_bytes("x", datatype(array), array.shape, data), array)


@given(tensors(), st.booleans())
def test_json_holds_every_array(array: Array, nested: bool) -> None:
    """Flat, and nested as its shape."""
    data = array.tolist() if nested else array.reshape(-1).tolist()
    one = {"name": "x", "datatype": datatype(array), "shape": array.shape, "data": data}
    found = oip.read(json.dumps({"inputs": [one]}).encode()).inputs["x"]
    assert same(oip.joined([found]), array)


@given(tensors().filter(lambda array: array.dtype != np.float16))
def test_typed_contents_hold_every_array(array: Array) -> None:
    contents = message("InferTensorContents")()
    oip.into_contents(contents, datatype(array), array)
    found = oip.from_contents("x", datatype(array), array.shape, contents)
    assert same(oip.joined([found]), array)


@given(st.lists(tensors(), min_size=1, max_size=4))
def test_rows_of_several_requests_are_joined_in_order(several: list[Array]) -> None:
    """Whether each came as a list or as an array."""
    first = several[0]
    like = [first, *(one for one in several[1:] if one.dtype == first.dtype and one.shape[1:] == first.shape[1:])]
    given = [
        oip.Tensor("x", datatype(one), one.shape, one if at % 2 else one.reshape(-1).tolist()) for at, one in enumerate(like)
    ]  # fmt: skip
    assert same(oip.joined(given), np.concatenate(like))


@given(tensors(), st.booleans())
def test_answers_are_read_back(array: Array, binary: bool) -> None:
    """What is written, with the JSON in front of the bytes."""
    body, head = oip.write({"model_name": "m"}, "7", [(oip.Wanted("y", binary), datatype(array), array)], {})
    described = json.loads(body if head is None else body[:head])
    (output,) = described["outputs"]
    assert (described["id"], output["shape"]) == ("7", list(array.shape))
    if binary:
        assert head is not None
        assert same(oip.from_bytes("y", output["datatype"], array.shape, body[head:]), array)
    else:
        found = oip.read(json.dumps({"inputs": [{**output, "name": "y"}]}).encode()).inputs["y"]
        assert same(oip.joined([found]), array)


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(-1, 250)))
def test_any_bytes_are_read_or_refused(body: bytes, head: int | None) -> None:
    with contextlib.suppress(Malformed):
        oip.read(body, head)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3),
    ),
    st.lists(st.integers(-1, 4), max_size=3),
    st.sampled_from([*oip.DTYPES, "FP8"]),
)
def test_any_data_is_read_or_refused(data: Any, shape: list[int], kind: str) -> None:
    one = {"name": "x", "datatype": kind, "shape": shape, "data": data}
    with contextlib.suppress(Malformed):
        found = oip.read(json.dumps({"inputs": [one]}).encode()).inputs["x"]
        assert oip.joined([found]).shape == tuple(shape)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_json_has_no_such_number(value: float) -> None:
    """Binary data has."""
    array = np.array([value], np.float32)
    with pytest.raises(Malformed, match="binary"):
        oip.write({}, "", [(oip.Wanted("y"), "FP32", array)], {})
    body, head = oip.write({}, "", [(oip.Wanted("y", binary=True), "FP32", array)], {})
    assert body[head:] == array.tobytes()


def test_messages_are_those_of_the_proto_file(tmp_path: Any) -> None:
    """`make proto` was run after the last change."""
    from grpc_tools import protoc

    made = tmp_path / "oip.binpb"
    assert protoc.main(["protoc", f"-I{COMPILED.parent}", f"--descriptor_set_out={made}", "oip.proto"]) == 0
    assert made.read_bytes() == COMPILED.read_bytes()
    assert all(message(f"{name}{kind}") for name in METHODS for kind in ("Request", "Response"))
