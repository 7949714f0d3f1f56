"""The Open Inference Protocol v2, pure: requests as JSON, with binary tensors behind it, or as messages of Protobuf ↔ named numpy arrays.

A tensor comes as JSON (flat, or nested as its shape), as bytes (little-endian, row-major; each text behind its length in four bytes), or
in the typed contents of a message. An array of text is an object array of `str`. JSON has no NaN and no infinity, and a number beyond its
datatype is refused; `null` is read where the reader allows it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from penstock.batch import Array
from penstock.errors import Malformed, TooLarge

__all__ = [
    "DATATYPES",
    "DTYPES",
    "Request",
    "Tensor",
    "Wanted",
    "encode",
    "from_bytes",
    "from_contents",
    "into_contents",
    "joined",
    "raw",
    "read",
    "to_bytes",
    "write",
]

DATATYPES: Final[Mapping[str, str]] = {  # by the dtype of a tensor
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "float16": "FP16", "float32": "FP32", "float64": "FP64", "string": "BYTES",
}  # fmt: skip
DTYPES: Final[Mapping[str, str]] = {datatype: dtype for dtype, datatype in DATATYPES.items()}
MOST_AXES: Final = 16
MOST_VALUES: Final = 2**40  # of a shape without its zeros: numpy makes no empty array whose other axes are beyond it
LONG: Final = 65_536  # bytes of the data of a tensor, from which their number is compared with its shape first
_CONTENTS: Final[Mapping[str, str]] = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
_RANGES: Final = {name: (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)) for name, dtype in DTYPES.items() if "INT" in name}
_LENGTH: Final = struct.Struct("<I")
FEW: Final = 64  # values that are looked at one by one faster than by numpy


def _flat(datatype: str, dtype: str) -> Callable[[Any], list[Any]]:
    """Returns a decoder of a flat list of values; it checks their range."""
    kind: Any
    if datatype in ("BOOL", "BYTES"):
        kind = bool if datatype == "BOOL" else str
    elif datatype.startswith("FP"):
        most = float(np.finfo(dtype).max)
        kind = Annotated[float, msgspec.Meta(ge=-most, le=most)]
    elif datatype == "UINT64":  # msgspec takes no bound beyond 2**63
        kind = Annotated[int, msgspec.Meta(ge=0)]
    else:
        least, most_int = _RANGES[datatype]
        kind = Annotated[int, msgspec.Meta(ge=least, le=most_int)]
    return msgspec.json.Decoder(list[kind]).decode


_FLAT: Final = {datatype: _flat(datatype, dtype) for datatype, dtype in DTYPES.items()}
_NUMPY: Final[Mapping[str, Any]] = {
    datatype: np.dtype(object if dtype == "string" else dtype).newbyteorder("<") if dtype != "string" else np.dtype(object)
    for datatype, dtype in DTYPES.items()
}


@dataclass(slots=True)
class Tensor:
    """A named tensor: its values as an array of its shape, or as a flat list of checked values; `joined` makes one of it.

    `nulls` marks the values that were null in JSON, None where none was.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Array | list[Any]
    nulls: Array | None = None


@dataclass(slots=True)
class Wanted:
    """An output that the caller asks for: as JSON, or as `binary` behind it."""

    name: str
    binary: bool = False


@dataclass(slots=True)
class Request:
    """A request: its tensors by name, and what is to be answered (`outputs` None: every output)."""

    inputs: dict[str, Tensor]
    outputs: list[Wanted] | None = None
    id: str = ""
    parameters: Mapping[str, Any] | None = None
    binary: bool = False  # of outputs that do not say


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Any] | None = None


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Any] | None = None
    outputs: list[_Output] | None = None


_READ: Final = msgspec.json.Decoder(_Request).decode
_ANY: Final = msgspec.json.Decoder().decode
encode: Final = msgspec.json.Encoder().encode


def read(body: bytes, head: int | None = None, most: int | None = None) -> Request:
    """Returns the request in a body; with binary tensors, its first `head` bytes are the JSON.

    Raises Malformed, and TooLarge for more than `most` rows, before their values are read.
    """
    if head is not None and not 0 <= head <= len(body):
        raise Malformed(f"the JSON of the request is {head} bytes by its header, but the body has {len(body)}")
    try:
        given = _READ(body if head is None else body[:head])
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the request cannot be read: {error}") from error
    inputs: dict[str, Tensor] = {}
    at = head
    for one in given.inputs:
        size = None if one.parameters is None else one.parameters.get("binary_data_size")
        shape = _shape(one.name, one.shape, one.datatype)
        if most is not None and shape[0] > most:
            raise TooLarge(f"{shape[0]} rows in one request; at most {most} are answered together: send them in several requests")
        if size is not None:
            part, at = _part(one.name, size, body, at)
            tensor = Tensor(one.name, one.datatype, shape, from_bytes(one.name, one.datatype, shape, part))
        elif isinstance(one.data, msgspec.Raw):
            tensor = _of_json(one.name, one.datatype, shape, one.data)
        else:
            raise Malformed(f"input {one.name!r} has no data")
        if one.name in inputs:
            raise Malformed(f"input {one.name!r} is given twice")
        inputs[one.name] = tensor
    if at is not None and at != len(body):
        raise Malformed(f"{len(body) - at} bytes are left behind the tensors")
    binary = _flag("the request", given.parameters, "binary_data_output", default=False)
    wanted = [_output(one, binary) for one in given.outputs] if given.outputs else None  # none named: all, as over gRPC
    return Request(inputs, wanted, given.id, given.parameters, binary)


def _part(name: str, size: object, body: bytes, at: int | None) -> tuple[memoryview, int]:
    """Returns the bytes of a binary tensor, which begin at `at`, and where they end."""
    if at is None:
        raise Malformed(f"input {name!r} has binary data, but the header Inference-Header-Content-Length is missing")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(body) - at:
        raise Malformed(f"input {name!r}: binary_data_size is {size!r}, and {len(body) - at} bytes are left in the body")
    return memoryview(body)[at : at + size], at + size


def _output(one: _Output, binary: bool) -> Wanted:
    if one.parameters and one.parameters.get("classification"):
        raise Malformed(f"output {one.name!r}: classification is not offered; take the whole tensor")
    return Wanted(one.name, _flag(f"output {one.name!r}", one.parameters, "binary_data", default=binary))


def _flag(where: str, parameters: Mapping[str, Any] | None, name: str, *, default: bool) -> bool:
    """Returns a parameter that is true or false: the text "false" would count as true otherwise."""
    value = default if parameters is None else parameters.get(name, default)
    if not isinstance(value, bool):
        raise Malformed(f"{where}: {name} is true or false")
    return value


def _shape(name: str, shape: Sequence[int], datatype: str) -> tuple[int, ...]:
    axes = tuple(shape)  # what Protobuf holds is slow to look at
    if datatype not in DTYPES:
        raise Malformed(f"input {name!r}: {datatype!r} is no datatype; there are {', '.join(DTYPES)}")
    if not 0 < len(axes) <= MOST_AXES or min(axes) < 0:
        raise Malformed(f"input {name!r} has the shape {list(axes)}: the first axis is the rows, and no axis is below 0")
    if 0 in axes and math.prod(axis or 1 for axis in axes) > MOST_VALUES:  # the values of any other shape are compared with it
        raise Malformed(f"input {name!r} has the shape {list(axes)}, whose axes are too large")
    return axes


def _of_json(name: str, datatype: str, shape: tuple[int, ...], data: msgspec.Raw) -> Tensor:
    if len(memoryview(data)) > LONG and datatype != "BYTES" and bytes(data).count(b",") >= math.prod(shape):  # a text may have commas
        raise Malformed(f"input {name!r} has more values than its shape {list(shape)}")  # before they are read, which takes seconds
    try:
        flat = _FLAT[datatype](data)
    except ValueError:  # nested, or with nulls, or wrong
        return _of_nested(name, datatype, shape, data)
    if len(flat) != math.prod(shape):
        raise Malformed(f"input {name!r} has {len(flat)} values, but the shape {list(shape)}")
    return Tensor(name, datatype, shape, flat if datatype != "UINT64" else _array(name, datatype, flat, shape))


def _of_nested(name: str, datatype: str, shape: tuple[int, ...], data: msgspec.Raw) -> Tensor:
    try:
        level = _ANY(data)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the data of input {name!r} cannot be read: {error}") from error
    if not isinstance(level, list):
        raise Malformed(f"the data of input {name!r} is a list of values")
    if any(isinstance(one, list) for one in level):
        for depth, axis in enumerate(shape[1:], 1):
            if not all(isinstance(one, list) and len(one) == axis for one in level):
                raise Malformed(f"the data of input {name!r} is not nested as its shape {list(shape)} (axis {depth})")
            level = [item for one in level for item in one]
    if len(level) != math.prod(shape):
        raise Malformed(f"input {name!r} has {len(level)} values, but the shape {list(shape)}")
    nulls = None
    if None in level:
        nulls = np.fromiter((one is None for one in level), bool, len(level)).reshape(shape)
        filling: Any = "" if datatype == "BYTES" else False if datatype == "BOOL" else 0
        level = [filling if one is None else one for one in level]
    try:
        flat = _FLAT[datatype](encode(level))  # checks types and ranges
    except ValueError as error:
        raise Malformed(f"the data of input {name!r} does not fit {datatype}: {error}") from error
    return Tensor(name, datatype, shape, _array(name, datatype, flat, shape), nulls)


def joined(tensors: Sequence[Tensor]) -> Array:
    """Returns the rows of tensors with the same axes behind the rows, one below the other, as one array."""
    first = tensors[0]
    if len(tensors) == 1 and isinstance(first.values, np.ndarray):
        return first.values.reshape(first.shape)
    if type(first.values) is list and all(type(one.values) is list and one.datatype == first.datatype for one in tensors):
        # One array for all: making one for each of many small requests costs more than running them.
        flat = first.values if len(tensors) == 1 else [value for one in tensors for value in one.values]
        return _array(first.name, first.datatype, flat, (sum(one.shape[0] for one in tensors), *first.shape[1:]))
    arrays = [_array(one.name, one.datatype, one.values, one.shape) if type(one.values) is list else one.values for one in tensors]
    made: list[Array] = [array.reshape(one.shape) for array, one in zip(arrays, tensors, strict=True)]  # type: ignore[union-attr]  # no list is left
    return made[0] if len(made) == 1 else np.concatenate(made)


def _array(name: str, datatype: str, flat: list[Any], shape: tuple[int, ...]) -> Array:
    try:
        made: Array = np.array(flat, _NUMPY[datatype])
    except OverflowError as error:
        raise Malformed(f"the data of input {name!r} does not fit {datatype}: {error}") from error
    return made.reshape(shape)


# -- bytes -----------------------------------------------------------------------------------------------------------


def from_bytes(name: str, datatype: str, shape: tuple[int, ...], data: memoryview | bytes) -> Array:
    """Returns the array in these bytes; it may share their memory. Raises Malformed."""
    count = math.prod(shape)
    if datatype == "BYTES":
        return _texts(name, shape, count, bytes(data))
    dtype = _NUMPY[datatype]
    if count * dtype.itemsize != len(data):
        raise Malformed(f"input {name!r} has {len(data)} bytes, but {datatype} of the shape {list(shape)} has {count * dtype.itemsize}")
    array: Array = np.frombuffer(data, dtype).reshape(shape)
    if datatype == "BOOL" and (array.view(np.uint8) > 1).any():
        raise Malformed(f"input {name!r} has a byte that is no BOOL: they are 0 or 1")
    return array


def _texts(name: str, shape: tuple[int, ...], count: int, data: bytes) -> Array:
    if count > len(data) // 4:  # before an array of that size is made
        raise Malformed(f"input {name!r} has {len(data)} bytes, too few for {count} texts of BYTES")
    found: list[str] = []
    at = 0
    try:
        for _ in range(count):
            end = at + 4 + _LENGTH.unpack_from(data, at)[0]
            if end > len(data):
                raise Malformed(f"input {name!r}: a text reaches beyond its bytes")
            found.append(str(data[at + 4 : end], "utf-8"))
            at = end
    except struct.error:
        raise Malformed(f"input {name!r}: a text has no length before it") from None
    except UnicodeDecodeError as error:
        raise Malformed(f"input {name!r} has a text that is no UTF-8: {error.reason}") from None
    if at != len(data):
        raise Malformed(f"input {name!r} has {len(data) - at} bytes behind its last text")
    made = np.empty(count, object)
    made[:] = found
    return made.reshape(shape)


def to_bytes(array: Array) -> bytes:
    """Returns the bytes of an array: little-endian, row-major; each text behind its length."""
    if array.dtype == object:
        texts = [one.encode() for one in array.reshape(-1).tolist()]
        return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


# -- the typed contents of Protobuf --------------------------------------------------------------------------------------


def from_contents(name: str, datatype: str, shape: Sequence[int], contents: Any) -> Tensor:
    """Returns the tensor in an InferTensorContents. Raises Malformed."""
    axes = _shape(name, shape, datatype)
    field = _CONTENTS.get(datatype)
    if field is None:
        raise Malformed(f"input {name!r}: {datatype} has no typed contents: send it in raw_input_contents")
    values = getattr(contents, field)
    count = math.prod(axes)
    if len(values) != count:
        raise Malformed(f"input {name!r} has {len(values)} values in {field}, but the shape {list(axes)}")
    flat = list(values)
    if datatype == "BYTES":
        try:
            flat = [str(one, "utf-8") for one in flat]
        except UnicodeDecodeError as error:
            raise Malformed(f"input {name!r} has a text that is no UTF-8: {error.reason}") from None
    elif field != f"{datatype.lower()}_contents" and flat and datatype in _RANGES:
        least, most = _RANGES[datatype]  # the field holds more than the datatype
        if min(flat) < least or max(flat) > most:
            raise Malformed(f"the data of input {name!r} does not fit {datatype}: a value is outside of {least} to {most}")
    return Tensor(name, datatype, axes, flat)


def raw(name: str, datatype: str, shape: Sequence[int], data: bytes) -> Tensor:
    """Returns the tensor in an entry of raw_input_contents. Raises Malformed."""
    axes = _shape(name, shape, datatype)
    return Tensor(name, datatype, axes, from_bytes(name, datatype, axes, data))


def into_contents(contents: Any, datatype: str, array: Array) -> None:
    """Writes an array into an InferTensorContents. Raises Malformed for FP16, which has none."""
    field = _CONTENTS.get(datatype)
    if field is None:
        raise Malformed(f"{datatype} has no typed contents: ask with raw_input_contents")
    values = array.reshape(-1).tolist()
    getattr(contents, field).extend([one.encode() for one in values] if datatype == "BYTES" else values)


# -- answers -------------------------------------------------------------------------------------------------------------


def write(
    about: Mapping[str, Any], id: str, outputs: Iterable[tuple[Wanted, str, Array]], parameters: Mapping[str, Any]
) -> tuple[bytes, int | None]:
    """Returns the body of an answer, and where its JSON ends if binary tensors follow. `about` is what comes first: model and version.

    Raises Malformed for a number that JSON does not have.
    """
    described = []
    parts: list[bytes] = []
    for wanted, datatype, array in outputs:
        one: dict[str, Any] = {"name": wanted.name, "datatype": datatype, "shape": array.shape}
        if wanted.binary:
            parts.append(to_bytes(array))
            one["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            data = array.reshape(-1).tolist()
            if datatype.startswith("FP") and not (all(map(math.isfinite, data)) if len(data) < FEW else np.isfinite(array).all()):
                raise Malformed(f"output {wanted.name!r} has a number that JSON does not have (NaN or infinity): ask for it as binary data")
            one["data"] = data
        described.append(one)
    head = encode({**about, **({"id": id} if id else {}), "parameters": parameters, "outputs": described})
    return (b"".join((head, *parts)), len(head)) if parts else (head, None)
