"""Each operator of onnxruntime's own domain that a model may use passes the quarantine and computes what it should."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import erf
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from penstock.batch import Array
from penstock.errors import ModelCorrupt
from penstock.model.contents import CONTRIB, check_contents
from penstock.model.intake import take_in
from penstock.model.quarantine import Findings, quarantine
from penstock.model.session import Session

CASES: Final = Path(__file__).parent.parent.parent / "cases"
X: Final = np.array([[0.5, -1.0, 2.0, 0.25], [3.0, 0.0, -2.0, 1.0]], np.float32)
WHOLE: Final = np.array([[10, 200, 128, 0], [255, 3, 90, 140]], np.uint8)
MATRIX: Final = np.array([[1.0, 2.0, 0.0], [0.5, -1.0, 1.0], [0.0, 3.0, 2.0], [1.5, 0.0, -0.5]], np.float32)
SQUARES: Final = np.array([[[2.0, 1.0], [1.0, 3.0]], [[4.0, 0.0], [2.0, 1.0]]], np.float32)
SCALE: Final = np.float32(0.02)
ZERO: Final = np.uint8(128)


class Case(NamedTuple):
    """One operator: its first input, what else it takes, and the output for the rows."""

    rows: Array
    expected: Array
    more: Sequence[Array] = ()
    attributes: Mapping[str, Any] = {}


def gelu(x: Array) -> Array:
    return np.asarray(np.vectorize(lambda one: 0.5 * one * (1 + erf(one / np.sqrt(2))))(x), np.float32)


def real(x: Array) -> Array:
    return (x.astype(np.float32) - float(ZERO)) * SCALE


def whole(x: Array) -> Array:
    return np.clip(np.rint(x / SCALE) + float(ZERO), 0, 255).astype(np.uint8)


def four_bits(values: Array) -> Array:
    """Packs the columns of `[K, N]` into `[N, 1, 16]`: one block of 32 values per column, the low half of a byte first."""
    padded = np.zeros((values.shape[1], 32), np.uint8)
    padded[:, : len(values)] = values.T
    return (padded[:, 0::2] | padded[:, 1::2] << 4)[:, np.newaxis, :]


NIBBLES: Final = np.array([[9, 7], [8, 12], [3, 8], [15, 0]], np.uint8)
OTHER: Final = np.array([[40, 128, 129, 255]], np.uint8)
TEXT: Final = np.array(["late again", "on time"], dtype=object)
Q: Final = (np.array(SCALE), np.array(ZERO))
TABLE: Final = {
    "Tokenizer": Case(
        TEXT,
        np.array([["late", "again"], ["on", "time"]], dtype=object),
        attributes={"tokenexp": "[a-z]+", "mark": 0, "mincharnum": 1, "pad_value": "#"},
    ),
    # murmurhash3_32(text, seed=0, positive=True) of scikit-learn
    "MurmurHash3": Case(
        np.array([["a"], ["hello"]], dtype=object), np.array([[1009084850], [613153351]], np.uint32), attributes={"seed": 0}
    ),
    "CDist": Case(X, np.square(X[:, None] - MATRIX.T).sum(axis=2), [MATRIX.T], {"metric": "sqeuclidean"}),
    "Gelu": Case(X, gelu(X)),
    "FastGelu": Case(X, 0.5 * X * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (X + 0.044715 * X**3)))),
    "BiasGelu": Case(X, gelu(X + X[0]), [X[0]]),
    "QuickGelu": Case(X, X / (1 + np.exp(-1.5 * X)), attributes={"alpha": 1.5}),
    "FusedMatMul": Case(X, 0.5 * X @ MATRIX, [MATRIX.T.copy()], {"alpha": 0.5, "transB": 1}),
    "FusedGemm": Case(X, np.maximum(X @ MATRIX + MATRIX[0], 0), [MATRIX, MATRIX[0]], {"activation": "Relu"}),
    "QuantizeLinear": Case(X, whole(X), Q),
    "DequantizeLinear": Case(WHOLE, real(WHOLE), Q),
    "QGemm": Case(
        WHOLE, real(WHOLE) @ (MATRIX * 2).astype(np.int8) * np.float32(0.5),
        [*Q, (MATRIX * 2).astype(np.int8), np.array(0.5, np.float32), np.array(0, np.int8)],
    ),
    "QLinearAdd": Case(WHOLE, whole(real(WHOLE) + real(OTHER)), [*Q, OTHER, *Q, *Q]),
    "QLinearMul": Case(WHOLE, whole(real(WHOLE) * real(OTHER)), [*Q, OTHER, *Q, *Q]),
    "QLinearSigmoid": Case(WHOLE, whole(1 / (1 + np.exp(-real(WHOLE)))), [*Q, *Q]),
    "QLinearLeakyRelu": Case(WHOLE, whole(np.where(real(WHOLE) < 0, 0.5 * real(WHOLE), real(WHOLE))), [*Q, *Q], {"alpha": 0.5}),
    "MatMulNBits": Case(
        X, X @ ((NIBBLES.astype(np.float32) - 8) * np.float32(0.1)), [four_bits(NIBBLES), np.full((2, 1), 0.1, np.float32)],
        {"K": 4, "N": 2, "bits": 4, "block_size": 32},
    ),
    "Trilu": Case(SQUARES, np.triu(SQUARES), attributes={"upper": 1}),
}  # fmt: skip


def _declared(name: str, array: Array, *, open_axes: bool = False) -> onnx.ValueInfoProto:
    kind = TensorProto.STRING if array.dtype == object else helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, ["N", *([f"{name}{i}" if open_axes else n for i, n in enumerate(array.shape[1:])])])


def model_of(*operators: str) -> bytes:
    """A model with an input and an output for each of the operators."""
    nodes, inputs, outputs, weights = [], [], [], []
    for operator in operators:
        case = TABLE[operator]
        names = [f"{operator}_x", *(f"{operator}_{i}" for i in range(len(case.more)))]
        weights += [numpy_helper.from_array(array, name) for name, array in zip(names[1:], case.more, strict=True)]
        nodes.append(helper.make_node(operator, names, [f"{operator}_y"], domain="com.microsoft", **case.attributes))
        inputs.append(_declared(f"{operator}_x", case.rows))
        outputs.append(_declared(f"{operator}_y", case.expected, open_axes=operator == "Tokenizer"))
    graph = helper.make_graph(nodes, "contrib", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


@pytest.mark.parametrize("operator", sorted(CONTRIB))
def test_listed_operator_computes_what_it_should(operator: str) -> None:
    """The expected values are computed with numpy, or by the library whose converter writes the operator."""
    case = TABLE[operator]
    (got,) = Session.load(model_of(operator)).run([f"{operator}_y"], {f"{operator}_x": case.rows})
    if case.expected.dtype.kind == "f":
        assert np.allclose(got, case.expected, atol=1e-4)
    elif case.expected.dtype == np.uint8:  # halves may be rounded either way
        assert np.abs(got.astype(int) - case.expected.astype(int)).max() <= 1
    else:
        assert got.tolist() == case.expected.tolist()


def test_listed_operators_pass_the_quarantine() -> None:
    """Except Tokenizer: its tokens are as many as the longest row has, so it needs what follows it in a pipeline."""
    assert quarantine(model_of(*sorted(CONTRIB - {"Tokenizer"}))) == Findings(())


@pytest.mark.parametrize(("operator", "at"), [(name, at) for name in sorted(CONTRIB) for at in range(len(TABLE[name].more))])
def test_listed_operator_refuses_an_input_that_is_too_short(operator: str, at: int) -> None:
    """An operator that does not look would read beyond its end. Here no shape is declared, so the operator itself has to."""
    case = TABLE[operator]
    arrays = [case.rows, *case.more]
    names = [f"x{i}" for i in range(len(arrays))]
    kinds = [helper.np_dtype_to_tensor_dtype(array.dtype) for array in arrays]
    inputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(names, kinds, strict=True)]
    output = helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(case.expected.dtype), None)
    node = helper.make_node(operator, names, ["y"], domain="com.microsoft", **case.attributes)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "short", inputs, [output]), opset_imports=opsets, ir_version=9)
    inference = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = dict(zip(names, arrays, strict=True))
    assert np.allclose(inference.run(["y"], feeds)[0], case.expected, atol=1 if case.expected.dtype == np.uint8 else 1e-4)
    given = np.atleast_1d(arrays[at + 1])
    axis = 0 if operator == "QGemm" else -1  # with fewer columns it has fewer answers
    for length in {0, given.shape[axis] - 1}:
        with pytest.raises(Exception, match=r"INVALID_ARGUMENT|RUNTIME_EXCEPTION|FAIL"):
            inference.run(["y"], {**feeds, names[at + 1]: np.ascontiguousarray(np.take(given, range(length), axis=axis))})


@pytest.mark.parametrize(
    "operator",
    ["EPContext", "PythonOp", "Sampling", "BeamSearch", "Inverse", "QLinearConcat", "QLinearSoftmax", "SkipLayerNormalization", "Unknown"],
)
def test_other_operators_of_the_domain_are_refused_with_the_list(operator: str) -> None:
    foreign = onnx.ModelProto.FromString(model_of("Gelu"))
    foreign.graph.node[0].op_type = operator
    with pytest.raises(ModelCorrupt, match=rf"uses the operator com\.microsoft\.{operator} .* of com\.microsoft: BiasGelu, CDist"):
        check_contents(foreign.SerializeToString())


def test_text_pipeline_of_skl2onnx_scores() -> None:
    """With Tokenizer, and lower case in words of other languages, on a host without the locale en_US."""
    data = take_in((CASES / "text-tokenizer.onnx").read_bytes()).data
    assert quarantine(data) == Findings(())
    session = Session.load(data)
    label, probabilities = session.run(["label", "probabilities"], {"text": np.array([["Late AGAIN"], ["a quiet day"]], dtype=object)})
    assert label.shape == (2,)
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert label[0] != label[1]
