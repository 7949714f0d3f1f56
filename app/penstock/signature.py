"""The inputs and outputs of a model: named tensors with a dtype and a shape, independent of their sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["DTYPES", "Signature", "Tensor"]

DTYPES: Final = (
    "float32", "float64", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "bool", "string",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named input or output.

    `dtype` is one of `DTYPES`; strings are numpy object arrays of `str`. `shape` holds the axes after
    the first, which is always the rows: `()` is a `[N]` tensor, `(1,)` is `[N, 1]`, `(None,)` is `[N, ?]`.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] = ()

    def __str__(self) -> str:
        axes = ", ".join(["N", *("?" if axis is None else str(axis) for axis in self.shape)])
        return f"{self.name}: {self.dtype}[{axes}]"

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape has these axes: the rows first, then each of its size where it is fixed."""
        return len(shape) == 1 + len(self.shape) and all(size in (None, axis) for size, axis in zip(self.shape, shape[1:], strict=True))


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of a model, in the model's own order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def input(self, name: str) -> Tensor | None:
        return next((tensor for tensor in self.inputs if tensor.name == name), None)

    def output(self, name: str) -> Tensor | None:
        return next((tensor for tensor in self.outputs if tensor.name == name), None)
