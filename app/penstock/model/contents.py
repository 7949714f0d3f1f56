"""What a model file may hold, read from its protobuf before anything of it runs.

Refused: files over the size limit, tensors kept in other files (a model comes as bytes and reads nothing else), and operators
outside the ONNX standard, which would need a custom library in the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]  # its types are a package apart

from penstock.errors import ModelCorrupt

__all__ = ["DOMAINS", "MAX_BYTES", "check_contents"]

DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
MAX_BYTES: Final = 512 * 1024 * 1024


def check_contents(data: bytes, *, label: str = "the model", max_bytes: int = MAX_BYTES) -> None:
    """Raises ModelCorrupt, naming the tensor or operator, unless `data` is an ONNX file that stands alone and uses standard operators."""
    if len(data) > max_bytes:
        raise ModelCorrupt(f"{label} has {len(data):,} bytes, the limit is {max_bytes:,}")
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise ModelCorrupt(f"{label} is not an ONNX file, or it is truncated: {error}") from error
    if not model.HasField("graph") or not model.graph.node:
        raise ModelCorrupt(f"{label} is not an ONNX file: it holds no graph")
    own = {function.domain for function in model.functions}
    for node in _nodes(model):
        if node.domain not in DOMAINS | own:
            raise ModelCorrupt(
                f"{label} uses the operator {node.domain}.{node.op_type} (node {node.name!r}); "
                "only the domains ai.onnx and ai.onnx.ml are run: export without custom or fused operators"
            )
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ModelCorrupt(
                f"{label} keeps the tensor {tensor.name!r} in another file; "
                "save it as one: onnx.save(model, path, save_as_external_data=False)"
            )


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph and all that are nested in it or in the functions: without recursion, since nesting is the file's choice."""
    waiting = [model.graph]
    for function in model.functions:
        waiting.extend(_inner(function.node))
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting.extend(_inner(graph.node))


def _inner(nodes: Iterator[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for graph in _graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in _graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
