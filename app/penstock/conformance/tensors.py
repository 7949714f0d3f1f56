"""Tensors of requests and answers: values that a model can take, their forms on the wire, and whether two answers are the same."""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

__all__ = ["AXES", "DATATYPES", "Tensor", "difference", "flattened", "from_bytes", "made", "nested", "to_bytes"]

_CODES: Final[Mapping[str, str]] = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q",
    "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip
DATATYPES: Final = frozenset((*_CODES, "BYTES", "BF16"))
AXES: Final = 32  # of a tensor
_ROWS: Final = 2  # on an axis that is open
_NEAR: Final = {"FP16": 1e-2, "BF16": 1e-1, "FP32": 1e-4}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor with its values in row-major order: booleans, whole numbers, floats, or text."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: tuple[Any, ...]

    def with_values(self, values: Sequence[Any], shape: Sequence[int]) -> Tensor:
        return replace(self, values=tuple(values), shape=tuple(shape))


def made(name: str, datatype: str, shape: Sequence[int]) -> Tensor:
    """Returns a tensor with values that differ from one another. Open axes (negative) have the length 2."""
    axes = tuple(_ROWS if axis < 0 else axis for axis in shape)
    return Tensor(name, datatype, axes, tuple(_value(datatype, at) for at in range(math.prod(axes))))


def _value(datatype: str, at: int) -> Any:
    if datatype == "BOOL":
        return at % 2 == 0
    if datatype == "BYTES":
        return "abc"[at % 3]
    return at % 3 + 0.5 if datatype.startswith(("FP", "BF")) else at % 3 + 1


def nested(tensor: Tensor) -> Any:
    """Returns the values as lists in lists, as the shape is."""
    pieces: list[Any] = list(tensor.values)
    for axis in reversed(tensor.shape[1:]):
        pieces = [pieces[at : at + axis] for at in range(0, len(pieces), axis)] if axis else []
    return pieces


def flattened(data: Any, axes: int = AXES) -> list[Any]:
    """Returns the values of a list of lists in order. Raises ValueError for one that is nested more deeply than any tensor."""
    if not isinstance(data, list):
        return [data]
    if not axes:
        raise ValueError(f"data with more than {AXES} axes")
    return [one for part in data for one in flattened(part, axes - 1)]


def to_bytes(tensor: Tensor) -> bytes:
    """Returns the values little-endian, each text behind its length in four bytes. Raises ValueError for a datatype without such a form."""
    if tensor.datatype == "BYTES":
        texts = [one.encode() if isinstance(one, str) else bytes(one) for one in tensor.values]
        return b"".join(struct.pack("<I", len(one)) + one for one in texts)
    if tensor.datatype not in _CODES:
        raise ValueError(f"{tensor.datatype} has no values here")
    return struct.pack(f"<{len(tensor.values)}{_CODES[tensor.datatype]}", *tensor.values)


def from_bytes(name: str, datatype: str, shape: Sequence[int], data: bytes) -> Tensor:
    """Returns the tensor in these bytes. Raises ValueError when they are not those of the shape."""
    if len(shape) > AXES or not all(type(axis) is int and axis >= 0 for axis in shape):
        raise ValueError(f"{name}: the shape {list(shape)!r:.100}")
    if datatype == "BYTES":
        texts = tuple(_texts(data))
        if len(texts) != math.prod(shape):
            raise ValueError(f"{len(texts)} texts for the shape {list(shape)}")
        return Tensor(name, datatype, tuple(shape), texts)
    code = _CODES.get(datatype, "")
    count = math.prod(shape)
    if not code or len(data) != count * struct.calcsize(code):
        raise ValueError(f"{len(data)} bytes for {datatype} of the shape {list(shape)}")
    return Tensor(name, datatype, tuple(shape), struct.unpack(f"<{count}{code}", data))


def _texts(data: bytes) -> Iterator[str]:
    at = 0
    while at < len(data):
        if len(data) < at + 4:
            raise ValueError("a text without its length of four bytes")
        (length,) = struct.unpack_from("<I", data, at)
        if len(data) < at + 4 + length:
            raise ValueError(f"a text of {length} bytes in {len(data) - at - 4}")
        yield data[at + 4 : at + 4 + length].decode(errors="replace")
        at += 4 + length


def difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> str:
    """Returns how two answers differ, by the names of their tensors; "" for the same. Floats may differ by rounding."""
    there, here = ({tensor.name: tensor for tensor in tensors} for tensors in (one, other))
    if there.keys() != here.keys():
        return f"outputs {', '.join(there)} and {', '.join(here)}"
    for name, first in there.items():
        second = here[name]
        if (first.datatype, first.shape) != (second.datatype, second.shape):
            return f"{name}: {first.datatype} {list(first.shape)} and {second.datatype} {list(second.shape)}"
        near = _NEAR.get(first.datatype, 1e-6 if first.datatype == "FP64" else 0.0)
        for left, right in zip(first.values, second.values, strict=True):
            if not _same(left, right, near):
                return f"{name}: {left!r} and {right!r}"
    return ""


def _same(left: Any, right: Any, near: float) -> bool:
    if float in (type(left), type(right)) and isinstance(left, int | float) and isinstance(right, int | float):
        with contextlib.suppress(OverflowError):  # JSON has whole numbers beyond every float
            return (math.isnan(left) and math.isnan(right)) or math.isclose(left, right, rel_tol=near, abs_tol=near)
    return bool(left == right)
