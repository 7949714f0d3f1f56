"""Model files that would read what they should not, or that hide an operator: our own check refuses each, anywhere in the file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import onnx
import pytest
from onnx import helper

from penstock.errors import ModelCorrupt
from penstock.model.contents import check_contents
from penstock.testing import models


def external(name: str = "stolen", location: str = "../../secret") -> onnx.TensorProto:
    """A tensor whose values are another file, or a place in memory."""
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.UINT8, dims=[64], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def base() -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.ParseFromString(models.linear([1.0]))
    return model


def graph_of(*tensors: onnx.TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes) or [helper.make_node("Identity", ["a"], ["b"])], "inner", [], [], list(tensors))


def function(model: onnx.ModelProto, domain: str = "own", name: str = "Leak", *nodes: onnx.NodeProto) -> onnx.FunctionProto:
    made = onnx.FunctionProto(domain=domain, name=name)
    made.input.append("a")
    made.output.append("b")
    made.node.extend(nodes or [helper.make_node("Identity", ["a"], ["b"])])
    model.functions.append(made)
    kept: onnx.FunctionProto = model.functions[-1]
    return kept


def initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(external())


def only_listed(model: onnx.ModelProto) -> None:
    """The entry that names the file, in a tensor that says it holds its own values."""
    tensor = external()
    tensor.data_location = onnx.TensorProto.DEFAULT
    model.graph.initializer.append(tensor)


def memory(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(external(location="*/_ORT_MEM_ADDR_/*"))


def sparse_initializer(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add(values=external())


def sparse_indices(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add(indices=external())


def attribute_tensor(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=external()))


def attribute_tensors(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.add(name="many", type=onnx.AttributeProto.TENSORS).tensors.append(external())


def attribute_sparse(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.add(name="one", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.values.CopyFrom(external())


def attribute_sparse_many(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.add(name="many", type=onnx.AttributeProto.SPARSE_TENSORS).sparse_tensors.add(indices=external())


def inner_graph(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.add(name="body", type=onnx.AttributeProto.GRAPH).g.CopyFrom(graph_of(external()))


def graph_in_graph(model: onnx.ModelProto) -> None:
    node = helper.make_node("If", ["a"], ["b"], then_branch=graph_of(external()))
    model.graph.node[0].attribute.add(name="bodies", type=onnx.AttributeProto.GRAPHS).graphs.append(graph_of(nodes=(node,)))


def function_node(model: onnx.ModelProto) -> None:
    function(model, "own", "Leak", helper.make_node("Constant", [], ["b"], value=external()))


def function_default(model: onnx.ModelProto) -> None:
    function(model).attribute_proto.add(name="v", type=onnx.AttributeProto.TENSOR).t.CopyFrom(external())


def function_default_graph(model: onnx.ModelProto) -> None:
    function(model).attribute_proto.add(name="v", type=onnx.AttributeProto.GRAPH).g.CopyFrom(graph_of(external()))


EXTERNAL: Final = (
    initializer, only_listed, memory, sparse_initializer, sparse_indices, attribute_tensor, attribute_tensors, attribute_sparse,
    attribute_sparse_many, inner_graph, graph_in_graph, function_node, function_default, function_default_graph,
)  # fmt: skip


@pytest.mark.parametrize("hide", EXTERNAL)
def test_tensor_in_another_file_is_found_anywhere(hide: Callable[[onnx.ModelProto], None]) -> None:
    model = base()
    check_contents(model.SerializeToString())
    hide(model)
    with pytest.raises(ModelCorrupt, match="keeps the tensor 'stolen' in another file"):
        check_contents(model.SerializeToString())


@pytest.mark.parametrize(
    "domain", ["com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", ""]
)
def test_function_does_not_admit_the_operators_of_its_domain(domain: str) -> None:
    model = base()
    function(model, domain, "Harmless")
    with pytest.raises(ModelCorrupt, match="the domain is reserved"):
        check_contents(model.SerializeToString())


def test_function_admits_only_itself() -> None:
    model = base()
    function(model, "own", "Known")
    model.graph.node.append(helper.make_node("Known", ["x"], ["z"], domain="own"))
    check_contents(model.SerializeToString())
    model.graph.node.append(helper.make_node("Unknown", ["x"], ["w"], domain="own"))
    with pytest.raises(ModelCorrupt, match=r"own\.Unknown"):
        check_contents(model.SerializeToString())


def test_operator_of_another_domain_is_found_in_a_function_and_in_an_inner_graph() -> None:
    foreign = helper.make_node("PythonOp", ["a"], ["b"], domain="com.microsoft")
    hidden = base()
    function(hidden, "own", "Leak", foreign)
    deep = base()
    deep.graph.node[0].attribute.add(name="body", type=onnx.AttributeProto.GRAPH).g.CopyFrom(graph_of(nodes=(foreign,)))
    for model in (hidden, deep):
        with pytest.raises(ModelCorrupt, match=r"com\.microsoft\.PythonOp"):
            check_contents(model.SerializeToString())


def test_training_information_is_refused() -> None:
    model = base()
    model.training_info.add().algorithm.CopyFrom(graph_of(external()))
    with pytest.raises(ModelCorrupt, match="training information"):
        check_contents(model.SerializeToString())


def test_field_that_onnx_does_not_know_is_refused() -> None:
    """What a later version of the format may hide there is not known."""
    model = base()
    unknown = bytes([0xFA, 0x7F, 3]) + b"abc"  # field 2047, three bytes
    with pytest.raises(ModelCorrupt, match="fields of ModelProto that onnx"):
        check_contents(model.SerializeToString() + unknown)
    model.graph.MergeFromString(unknown)
    with pytest.raises(ModelCorrupt, match="fields of GraphProto that onnx"):
        check_contents(model.SerializeToString())


def test_a_domain_that_is_not_utf_8_is_refused() -> None:
    """The protobuf package returns such a text as bytes, which are equal to no domain that the check knows."""
    model = base()
    function(model, domain="com.microsoft!")
    data = bytes(model.SerializeToString()).replace(b"com.microsoft!", b"com.microsoft\xff")
    with pytest.raises(ModelCorrupt, match=r"FunctionProto\.domain"):
        check_contents(data)
