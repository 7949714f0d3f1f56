"""What a push changes in a model file so that it can serve. A file that needs no change is returned as it is, byte for byte.

1. Tensors in a file beside the model (`model.onnx.data`, as torch writes them) are merged into it. This is the only place that reads
   such a file; everywhere else a tensor in another file is refused (`contents`).
2. Dictionaries of probabilities (ZipMap) become one array.
3. Outputs that are not wanted, or that no tensor of a batch can hold, are left out, with the operators that only they need.
4. float16 inputs and outputs become float32: a Cast at the edge, and the same computation between. bfloat16, for which the runtime's CPU
   has no operators, becomes float32 throughout; its weights keep their values.
5. Outputs for which a run showed other axes than the file declares are declared with those (`declared`, after the quarantine).
6. Text is put in lower or upper case by the rules of Unicode (C.UTF-8) where the model names no other locale than the default,
   en_US.UTF-8: containers do not have that one.

Only the protobuf is read. The model is not loaded, and what is returned is as untrusted as what was given.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from penstock.errors import ConfigError, ModelCorrupt
from penstock.host import read_regular
from penstock.model.contents import MAX_BYTES, check_texts, messages, parsed

__all__ = ["LOCALES", "Intake", "declared", "take_in"]

_USABLE: Final = frozenset({
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BOOL, TensorProto.STRING, TensorProto.FLOAT16, TensorProto.BFLOAT16,
    TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
    TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
})  # fmt: skip
_TYPE_ATTRIBUTES: Final = frozenset({"to", "dtype", "output_dtype", "stash_type", "softmax_precision"})  # whose number is an element type
_KEYS: Final = frozenset({"location", "offset", "length", "checksum"})
_OPSET: Final = 8  # for the Identity and Cast of a file without one; every IR version that has opsets allows it
_SHOWN: Final = 8  # classes that a note lists
UNICODE: Final = "C.UTF-8"
LOCALES: Final = (UNICODE, "en_US.UTF-8")  # what StringNormalizer uses: on every Linux, and by default


@dataclass(frozen=True, slots=True)
class Intake:
    """A model file that may serve, and a line for people per change; without changes `data` is what was given."""

    data: bytes
    changes: tuple[str, ...]


def take_in(data: bytes, *, file: Path | None = None, outputs: Sequence[str] = (), max_bytes: int = MAX_BYTES) -> Intake:
    """Returns the file as it can serve. `file` is where it was, for the tensors beside it; `outputs` are those to keep (none: all usable).

    Raises ModelCorrupt when it is no ONNX file, or when what is beside it may not be merged; ConfigError for an output that it does
    not have.
    """
    label = "the model" if file is None else str(file)
    model = parsed(data, label, max_bytes)
    check_texts(model, label)
    changes = [] if file is None else _merge(model, file, max_bytes - len(data))
    graph = model.graph
    wanted = _wanted(graph, outputs)
    changes += [change for one in graph.output if one.name in wanted for change in _without_zip_map(graph, one)]
    changes += _choose(graph, wanted if outputs else None)
    changes += _widen(model)
    changes += _cast(graph)
    if changes and not any(opset.domain in ("", "ai.onnx") for opset in model.opset_import):
        model.opset_import.add(domain="", version=_OPSET)  # CatBoost's files have none, as their one operator is of ai.onnx.ml
    if sys.platform == "linux":
        changes += _in_unicode(model)
    return Intake(bytes(model.SerializeToString()) if changes else data, tuple(changes))


def declared(intake: Intake, shapes: Mapping[str, Sequence[int | None]]) -> Intake:
    """Returns the file with these axes of outputs after the rows, None for an open one: as `ModelMisdeclared` has them."""
    model = onnx.ModelProto.FromString(intake.data)
    for one in model.graph.output:
        if (axes := shapes.get(one.name)) is not None:
            shape = one.type.tensor_type.shape
            del shape.dim[1:]
            if not shape.dim:
                shape.dim.add(dim_param="N")
            for axis in axes:
                shape.dim.add(**({} if axis is None else {"dim_value": axis}))
    listed = " and ".join(
        f"{name!r} as [{', '.join(['N', *('?' if axis is None else str(axis) for axis in axes)])}]" for name, axes in shapes.items()
    )
    return Intake(
        bytes(model.SerializeToString()), (*intake.changes, f"declares {listed}, as a run showed, instead of what the file declared")
    )


# --- tensors beside the model -----------------------------------------------------------------------------------------------------------


def _merge(model: onnx.ModelProto, file: Path, room: int) -> list[str]:
    """Reads the tensors beside the model into it. Their files are named like the model, so it can name no other file of its folder."""
    outside = [one for one in messages(model) if isinstance(one, TensorProto) and one.data_location == TensorProto.EXTERNAL]
    read: dict[str, bytes] = {}
    total = 0
    for tensor in outside:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        where = f"{file}: the tensor {tensor.name!r} is in the file {location!r}"
        if not _beside(location, file):
            raise ModelCorrupt(
                f"{where}; only a file in the same folder whose name begins with {file.stem!r} is merged, like {file.name}.data: "
                f"save it as one file (onnx.save(onnx.load('{file.name}'), 'one.onnx')) and push that"
            )
        if unknown := sorted(entries.keys() - _KEYS):
            raise ModelCorrupt(f"{where}, with the unknown entry {unknown[0]!r}: save the model as one file")
        if location not in read:
            try:
                read[location] = read_regular(file.parent / location, room - sum(map(len, read.values())), follow=False)
            except OSError as error:
                raise ModelCorrupt(f"{where}, which cannot be read: {error.strerror}; put it beside the model") from error
        begin, length = _place(entries, len(read[location]), where)
        total += length
        if total > room:
            raise ModelCorrupt(f"{file} has more than {MAX_BYTES:,} bytes with the tensors beside it, which is the limit")
        tensor.raw_data = read[location][begin : begin + length]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return [f"merged {len(outside)} tensors ({total:,} bytes) of {', '.join(read)} into the model"] if outside else []


def _beside(location: str, file: Path) -> bool:
    return (
        bool(re.fullmatch(r"[^/\\\0]+", location)) and location != file.name and bool(re.match(rf"{re.escape(file.stem)}[._-]", location))
    )


def _place(entries: Mapping[str, str], size: int, where: str) -> tuple[int, int]:
    """Returns where a tensor begins in a file of `size` bytes, and its length."""
    begin, length = entries.get("offset", "0"), entries.get("length", "")
    if not all(re.fullmatch(r"[0-9]{1,18}", number) for number in (begin, length or "0")):
        raise ModelCorrupt(f"{where}, at offset {begin!r} with length {length!r}, which are not numbers")
    first = int(begin)
    last = first + int(length) if length else size
    if not first <= last <= size:
        raise ModelCorrupt(f"{where}, at bytes {first:,} to {last:,}, but the file has {size:,}: it is truncated, or of another model")
    return first, last - first


# --- outputs ----------------------------------------------------------------------------------------------------------------------------


def _wanted(graph: onnx.GraphProto, outputs: Sequence[str]) -> Collection[str]:
    """Returns the names of the outputs to keep; a comma separates names unless an output has it in its name."""
    known = [one.name for one in graph.output]
    asked = [name for text in outputs for name in ([text] if text in known else [part.strip() for part in text.split(",")])]
    if unknown := [name for name in asked if name not in known]:
        raise ConfigError(f"--outputs: the model has no output {unknown[0]!r}; it has {', '.join(map(repr, known))}")
    return asked or known


def _without_zip_map(graph: onnx.GraphProto, output: onnx.ValueInfoProto) -> Iterator[str]:
    """Replaces dictionaries of probabilities by the array that they are made of."""
    for node in graph.node:
        if output.name not in node.output or (node.domain, node.op_type) != ("ai.onnx.ml", "ZipMap") or len(node.input) != 1:
            continue
        classes = [
            one for attribute in node.attribute for one in (*attribute.ints, *(text.decode(errors="replace") for text in attribute.strings))
        ]
        node.op_type, node.domain = "Identity", ""
        node.ClearField("attribute")
        output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, [None, len(classes)]))
        shown = ", ".join(map(str, classes[:_SHOWN])) + (", ..." if len(classes) > _SHOWN else "")
        yield (
            f"output {output.name!r} is one array instead of dictionaries (ZipMap), with the classes in the order {shown}; "
            "skl2onnx.to_onnx(model, X, options={'zipmap': False}) does the same (onnxmltools: zipmap=False)"
        )


def _choose(graph: onnx.GraphProto, wanted: Collection[str] | None) -> list[str]:
    """Leaves out what is not in `wanted`; with None, what is no usable tensor, as long as another output is one."""
    unusable = {one.name: what for one in graph.output if (what := _unusable(one.type))}
    left = [one.name for one in graph.output if (one.name in unusable if wanted is None else one.name not in wanted)]
    if not left or len(left) == len(graph.output):  # what refuses a model without a usable output says why
        return []
    _keep(graph, [one.name for one in graph.output if one.name not in left])
    return [
        f"left out the output {name!r}" + (f", which is {unusable[name]}, not a tensor of a batch" if name in unusable else "")
        for name in left
    ]


def _unusable(kind: onnx.TypeProto) -> str:
    """Returns the type, for people, when no batch can hold it; "" otherwise, also for an output that declares none."""
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        element = kind.tensor_type.elem_type
        return "" if element in (TensorProto.UNDEFINED, *_USABLE) else f"a tensor of {_named(element)}"
    return {None: "", "sequence_type": "a sequence", "map_type": "a map", "optional_type": "an optional value"}.get(which, f"a {which}")


def _named(element: int) -> str:
    return TensorProto.DataType.Name(element).lower() if element in TensorProto.DataType.values() else f"type {element}"


def _keep(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    """Removes the other outputs, and the nodes and weights that nothing else needs. Inputs stay."""
    makers = {name: node for node in graph.node for name in node.output if name}
    needed, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        if (maker := makers.get(name)) is not None:
            waiting += [read for inner in messages(maker) for read in _reads(inner)]
    given = {one.name for one in graph.input}
    _filter(graph.output, lambda one: one.name in names)
    _filter(graph.node, lambda node: not needed.isdisjoint(node.output))
    _filter(graph.initializer, lambda one: one.name in needed or one.name in given)
    _filter(graph.sparse_initializer, lambda one: one.values.name in needed or one.values.name in given)
    _filter(graph.value_info, lambda one: one.name in needed)


def _reads(message: Any) -> Sequence[str]:
    """Returns the names that a node, or a graph in it, may take from outside."""
    if isinstance(message, onnx.NodeProto):
        return list(message.input)
    return [one.name for one in message.output] if isinstance(message, onnx.GraphProto) else []


def _filter(field: Any, keep: Callable[[Any], bool]) -> None:
    for at in reversed(range(len(field))):
        if not keep(field[at]):
            del field[at]


# --- half precision ---------------------------------------------------------------------------------------------------------------------


def _widen(model: onnx.ModelProto) -> list[str]:
    """Makes bfloat16 float32, wherever it is: the same numbers, with more digits between the operators."""
    found = False
    for one in messages(model):
        if isinstance(one, (onnx.TypeProto.Tensor, onnx.TypeProto.SparseTensor)) and one.elem_type == TensorProto.BFLOAT16:
            one.elem_type = TensorProto.FLOAT
        elif isinstance(one, TensorProto) and one.data_type == TensorProto.BFLOAT16:
            try:
                bits = np.frombuffer(one.raw_data, "<u2") if one.raw_data else np.array(one.int32_data, np.uint16)
            except (ValueError, OverflowError) as error:
                raise ModelCorrupt(f"the tensor {one.name!r} holds no bfloat16: {error}") from error
            one.raw_data, one.data_type = (bits.astype("<u4") << 16).tobytes(), TensorProto.FLOAT
            one.ClearField("int32_data")
        elif isinstance(one, onnx.AttributeProto) and one.name in _TYPE_ATTRIBUTES and one.i == TensorProto.BFLOAT16:
            one.i = TensorProto.FLOAT
        else:
            continue
        found = True
    return (
        ["computes in float32 where it was bfloat16, which the runtime does not compute on a CPU; weights keep their values"]
        if found
        else []
    )


def _cast(graph: onnx.GraphProto) -> list[str]:
    """Gives float16 inputs and outputs the type float32, and casts them at the edge of the graph."""
    weights = {one.name for one in graph.initializer}
    inputs = [one for one in graph.input if one.name not in weights and one.type.tensor_type.elem_type == TensorProto.FLOAT16]
    outputs = [one for one in graph.output if one.type.tensor_type.elem_type == TensorProto.FLOAT16]
    used = {name for one in messages(graph) if isinstance(one, onnx.NodeProto) for name in (*one.input, *one.output)}
    used |= weights | {one.name for one in (*graph.input, *graph.output)}
    given = {one.name for one in graph.input}
    casts: tuple[list[onnx.NodeProto], list[onnx.NodeProto]] = ([], [])
    for at, one in [*((0, one) for one in inputs), *((1, one) for one in outputs)]:
        one.type.tensor_type.elem_type = TensorProto.FLOAT
        if at and one.name in given:
            continue  # an input that is an output as well has been cast
        inner = next(name for name in (f"{one.name}_float16{'_' * more}" for more in range(len(used) + 1)) if name not in used)
        used.add(inner)
        _rename(graph, one.name, inner)
        if at:
            casts[1].append(helper.make_node("Cast", [inner], [one.name], to=TensorProto.FLOAT))
        else:
            casts[0].append(helper.make_node("Cast", [one.name], [inner], to=TensorProto.FLOAT16))
    for node in reversed(casts[0]):
        graph.node.insert(0, node)
    graph.node.extend(casts[1])
    names = ", ".join(repr(one.name) for one in (*inputs, *outputs))
    return [f"takes and returns float32 where it was float16 ({names}), and casts at the edge"] if names else []


def _rename(graph: onnx.GraphProto, name: str, inner: str) -> None:
    """Renames a value within the graph, and in the graphs in it; its input and output keep the name."""
    for one in messages(graph):
        if isinstance(one, onnx.NodeProto):
            for names in (one.input, one.output):
                names[:] = [inner if each == name else each for each in names]
    for weight in graph.initializer:
        weight.name = inner if weight.name == name else weight.name
    _filter(graph.value_info, lambda one: one.name != name)


# --- text -------------------------------------------------------------------------------------------------------------------------------


def _in_unicode(model: onnx.ModelProto) -> list[str]:
    changed = 0
    for one in messages(model):
        if not isinstance(one, onnx.NodeProto) or (one.domain, one.op_type) not in (
            ("", "StringNormalizer"),
            ("ai.onnx", "StringNormalizer"),
        ):
            continue
        named = next((attribute for attribute in one.attribute if attribute.name == "locale"), None)
        if named is None:
            one.attribute.append(helper.make_attribute("locale", UNICODE))
        elif named.s in (b"en_US", b"en_US.UTF-8"):
            named.s = UNICODE.encode()
        else:
            continue
        changed += 1
    return [f"changes the case of text by the locale {UNICODE} instead of en_US.UTF-8, which containers do not have"] if changed else []
