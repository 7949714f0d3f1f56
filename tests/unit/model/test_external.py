"""Models that would carry a file, or a place in memory, into their outputs: our check refuses each before a runtime sees it.

So builds of onnxruntime that do not look at the path themselves are as safe. The floor of pyproject.toml does look; see
docs/decisions/0019-a-model-is-confined.md for what the releases read.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from penstock.errors import ModelCorrupt
from penstock.model.quarantine import quarantine
from penstock.model.session import Session

SECRET: Final = b"SECRET-012345678"
MEMORY: Final = ctypes.create_string_buffer(SECRET)
OPSETS: Final = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
OUTSIDE: Final = ("../secret", "/proc/self/cwd/../secret", "{folder}/secret", "link", "*/_ORT_MEM_ADDR_/*")
INSIDE: Final = "inside"

Place = Callable[[TensorProto], bytes]


def external(location: str) -> TensorProto:
    tensor = TensorProto(name="v", data_type=TensorProto.UINT8, dims=[len(SECRET)], data_location=TensorProto.EXTERNAL)
    offset = ctypes.addressof(MEMORY) if "MEM_ADDR" in location else 0
    for key, value in {"location": location, "offset": offset, "length": len(SECRET)}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def model(nodes: Sequence[onnx.NodeProto], *initializers: TensorProto, function: onnx.FunctionProto | None = None) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1])
    y = helper.make_tensor_value_info("y", TensorProto.UINT8, [None])
    graph = helper.make_graph(list(nodes), "leak", [x], [y], list(initializers))
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=9, functions=[function] if function else [])


def same(a: str, b: str) -> onnx.NodeProto:
    return helper.make_node("Identity", [a], [b])


def sparse(values: TensorProto) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=values, indices=numpy_helper.from_array(np.arange(len(SECRET))), dims=[len(SECRET)])


def initializer(tensor: TensorProto) -> bytes:
    return bytes(model([same("v", "y")], tensor).SerializeToString())


def constant(tensor: TensorProto) -> bytes:
    return bytes(model([helper.make_node("Constant", [], ["c"], value=tensor), same("c", "y")]).SerializeToString())


def branch(tensor: TensorProto) -> bytes:
    z = helper.make_tensor_value_info("z", TensorProto.UINT8, [None])
    inner = helper.make_graph([same("v", "z")], "inner", [], [z], [tensor])
    node = helper.make_node("If", ["true"], ["y"], then_branch=inner, else_branch=inner)
    return bytes(model([node], numpy_helper.from_array(np.array(True), "true")).SerializeToString())


def branch_constant(tensor: TensorProto) -> bytes:
    z = helper.make_tensor_value_info("z", TensorProto.UINT8, [None])
    inner = helper.make_graph([helper.make_node("Constant", [], ["z"], value=tensor)], "inner", [], [z])
    node = helper.make_node("If", ["true"], ["y"], then_branch=inner, else_branch=inner)
    return bytes(model([node], numpy_helper.from_array(np.array(True), "true")).SerializeToString())


def in_function(tensor: TensorProto) -> bytes:
    body = helper.make_node("Constant", [], ["b"], value=tensor)
    leak = helper.make_function("own", "Leak", ["a"], ["b"], [body], OPSETS)
    return bytes(model([helper.make_node("Leak", ["x"], ["y"], domain="own")], function=leak).SerializeToString())


def default_of_function(tensor: TensorProto) -> bytes:
    body = helper.make_node("Constant", [], ["b"])
    body.attribute.add(name="value", ref_attr_name="v", type=onnx.AttributeProto.TENSOR)
    leak = helper.make_function("own", "Leak", ["a"], ["b"], [body], OPSETS)
    leak.attribute_proto.add(name="v", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    return bytes(model([helper.make_node("Leak", ["x"], ["y"], domain="own")], function=leak).SerializeToString())


def sparse_initializer(tensor: TensorProto) -> bytes:
    made = model([same("v", "y")])
    made.graph.sparse_initializer.append(sparse(tensor))
    return bytes(made.SerializeToString())


def sparse_attribute(tensor: TensorProto) -> bytes:
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.CopyFrom(sparse(tensor))
    return bytes(model([node, same("c", "y")]).SerializeToString())


PLACES: Final = (initializer, constant, branch, branch_constant, in_function, default_of_function, sparse_initializer, sparse_attribute)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "work" / INSIDE).write_bytes(SECRET)
    (tmp_path / "work" / "link").symlink_to(tmp_path / "secret")
    monkeypatch.chdir(tmp_path / "work")


def read_by_the_runtime(data: bytes) -> bool:
    """Whether the runtime alone, without our check, gives the secret away."""
    try:
        inference = ort.InferenceSession(data, providers=["CPUExecutionProvider"], enable_fallback=0)
        (found,) = inference.run(["y"], {"x": np.zeros((1, 1), np.float32)})
    except Exception:  # noqa: BLE001  each release has its own
        return False
    return bool(found.tobytes() == SECRET)


@pytest.mark.parametrize("place", PLACES)
def test_our_check_refuses_it_before_the_runtime_sees_it(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_by_the_runtime(place(external(INSIDE))), "otherwise this model shows nothing"
    monkeypatch.setattr(ort, "InferenceSession", lambda *_, **__: pytest.fail("the runtime has seen it"))
    for location in (*OUTSIDE, INSIDE):
        with pytest.raises(ModelCorrupt, match="keeps the tensor 'v' in another file"):
            Session.load(place(external(location.format(folder=tmp_path))))


@pytest.mark.parametrize("place", PLACES)
def test_releases_from_the_floor_on_read_nothing_outside_the_models_folder(place: Place, tmp_path: Path) -> None:
    """A second line behind our check. 1.26 fails here."""
    assert [at for at in OUTSIDE if read_by_the_runtime(place(external(at.format(folder=tmp_path))))] == []


def test_quarantine_refuses_it() -> None:
    with pytest.raises(ModelCorrupt, match="keeps the tensor 'v' in another file"):
        quarantine(initializer(external(INSIDE)))
