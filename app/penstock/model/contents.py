"""Checks the content of a model file, from its protobuf, before it runs.

Rejected are files over the size limit, tensors in other files (a model is loaded from bytes and reads no other file), operators that are
neither in the ONNX standard nor in `CONTRIB` nor, where they are installed, in `extensions.OPERATORS`, training information, and
everything that the installed onnx package does not know.

`CONTRIB` lists operators of onnxruntime's own domain that converters write. Each computes its outputs from its inputs and nothing else: no
files, no state, no chance, no custom library; and it refuses an input that is too short. Others of that domain read files (EPContext),
call Python (PythonOp), draw random numbers (Sampling), or, in onnxruntime 1.31, read beyond the end of a short input (Inverse,
QLinearConcat, QLinearSoftmax) or end the process over it (SkipLayerNormalization). A test runs every operator of the list, and
gives it inputs that are too short.

The walk visits every message of the file by its descriptor, so a place for tensors or operators that a later version of the format
adds is visited too, or refused as unknown: never overlooked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]  # its types are in another package
from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-untyped,unused-ignore]

from penstock.errors import ModelCorrupt
from penstock.model import extensions
from penstock.model.foreign import check_foreign

__all__ = ["CONTRIB", "DOMAINS", "MAX_BYTES", "check_contents", "check_texts", "messages", "parsed"]

DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
CONTRIB: Final = frozenset({
    "Tokenizer", "MurmurHash3", "CDist",  # skl2onnx: text, hashing, nearest neighbours and Gaussian processes
    "Gelu", "FastGelu", "BiasGelu", "QuickGelu", "FusedMatMul", "FusedGemm",  # optimised transformers
    "QuantizeLinear", "DequantizeLinear", "QGemm", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu",  # static quantization
    "MatMulNBits", "Trilu",
})  # fmt: skip
_RUNTIME: Final = "com.microsoft"
RESERVED: Final = ("ai.onnx", "com.microsoft", "com.ms")  # domains of operators that runtimes implement
MAX_BYTES: Final = 512 * 1024 * 1024


def parsed(data: bytes, label: str, max_bytes: int) -> onnx.ModelProto:
    """Returns the file as a message. Raises ModelCorrupt for one that is too large, of another format, or damaged."""
    if len(data) > max_bytes:
        raise ModelCorrupt(f"{label} has {len(data):,} bytes, the limit is {max_bytes:,}")
    check_foreign(data, label)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelCorrupt(f"{label} is not an ONNX file, or it is truncated: {error}") from error
    return model


def check_contents(data: bytes, *, label: str = "the model", max_bytes: int = MAX_BYTES) -> None:
    """Raises ModelCorrupt that names the tensor or operator, unless `data` is a self-contained ONNX file with standard operators only."""
    model = parsed(data, label, max_bytes)
    if not model.HasField("graph") or not model.graph.node:
        raise ModelCorrupt(f"{label} is not an ONNX file: it contains no graph")
    if model.training_info:
        raise ModelCorrupt(f"{label} contains training information, which scoring does not need: export it for inference")
    check_texts(model, label)
    own = {(function.domain, function.name) for function in model.functions}
    for domain, name in own:
        if not domain or any(domain == one or domain.startswith(f"{one}.") for one in RESERVED):
            raise ModelCorrupt(f"{label} defines the function {domain}.{name}; the domain is reserved for operators of the runtime")
    for message in messages(model):
        if isinstance(message, onnx.NodeProto):
            _check_node(message, own, label)
        elif isinstance(message, onnx.TensorProto):
            _check_tensor(message, label)
        if len(UnknownFieldSet(message)):
            raise ModelCorrupt(
                f"{label} has fields of {type(message).__name__} that onnx {onnx.__version__} does not know; "
                "export it for an older version of ONNX, or install a newer onnx"
            )


def check_texts(model: onnx.ModelProto, label: str) -> None:
    """Raises ModelCorrupt for a name that is not UTF-8: the protobuf package returns it as bytes, which equal no name."""
    for message in messages(model):
        for field, value in message.ListFields():
            if field.type != field.TYPE_STRING or isinstance(value, str):
                continue
            if isinstance(value, bytes) or any(isinstance(text, bytes) for text in value):
                raise ModelCorrupt(f"{label} has a text that is not UTF-8 in {type(message).__name__}.{field.name}")


def _check_node(node: onnx.NodeProto, own: set[tuple[str, str]], label: str) -> None:
    if node.domain in DOMAINS or (node.domain, node.op_type) in own or (node.domain == _RUNTIME and node.op_type in CONTRIB):
        return
    used = f"{label} uses the operator {node.domain}.{node.op_type} (node {node.name!r})"
    if node.domain == extensions.DOMAIN:
        if found := extensions.problem(node):
            raise ModelCorrupt(f"{used}; {found}")
        return
    raise ModelCorrupt(
        f"{used}; only the domains ai.onnx and ai.onnx.ml are "
        f"supported, and of {_RUNTIME}: {', '.join(sorted(CONTRIB))}; export without custom or fused operators"
    )


def _check_tensor(tensor: onnx.TensorProto, label: str) -> None:
    if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
        raise ModelCorrupt(
            f"{label} keeps the tensor {tensor.name!r} in another file; "
            "save the model as one file: onnx.save(model, path, save_as_external_data=False)"
        )


def messages(root: Any) -> Iterator[Any]:
    """Yields the message and all messages in it. It does not recurse, because the file controls the depth."""
    waiting = [root]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend(value if isinstance(value, Sequence) else (value,))
