"""Checks the content of a model file, from its protobuf, before it runs.

Rejected are files over the size limit, tensors in other files (a model is loaded from bytes and reads no other file), and
operators outside the ONNX standard, which would need a custom library in the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]  # its types are in another package

from penstock.errors import ModelCorrupt

__all__ = ["DOMAINS", "MAX_BYTES", "check_contents"]

DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
MAX_BYTES: Final = 512 * 1024 * 1024


def check_contents(data: bytes, *, label: str = "the model", max_bytes: int = MAX_BYTES) -> None:
    """Raises ModelCorrupt that names the tensor or operator, unless `data` is a self-contained ONNX file with standard operators only."""
    if len(data) > max_bytes:
        raise ModelCorrupt(f"{label} has {len(data):,} bytes, the limit is {max_bytes:,}")
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise ModelCorrupt(f"{label} is not an ONNX file, or it is truncated: {error}") from error
    if not model.HasField("graph") or not model.graph.node:
        raise ModelCorrupt(f"{label} is not an ONNX file: it contains no graph")
    own = {function.domain for function in model.functions}
    for node in _nodes(model):
        if node.domain not in DOMAINS | own:
            raise ModelCorrupt(
                f"{label} uses the operator {node.domain}.{node.op_type} (node {node.name!r}); "
                "only the domains ai.onnx and ai.onnx.ml are supported: export without custom or fused operators"
            )
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ModelCorrupt(
                f"{label} keeps the tensor {tensor.name!r} in another file; "
                "save the model as one file: onnx.save(model, path, save_as_external_data=False)"
            )


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """Yields the graph and all graphs nested in it or in functions. It does not recurse, because the file controls the depth."""
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
