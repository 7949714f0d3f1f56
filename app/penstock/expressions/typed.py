"""A part of an expression with its type: a tensor of the graph, or a constant that takes the type of what it stands beside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from penstock.expressions.tape import Axes, Value

__all__ = ["NUMBERS", "Typed"]

NUMBERS: Final = frozenset({"int64", "float32", "float64"})
_KINDS: Final = {bool: "bool", int: "int64", float: "float64", str: "string"}


@dataclass(frozen=True, slots=True)
class Typed:
    """`value`, or None for a `literal`. `ok` is for which rows it has a value (bool, a scalar per row; None: all).

    `why` has the causes of the other rows, each with the rows for which it does not hold; together these are `ok`.

    `suspect`: a float of it may be NaN or infinite without `ok` being false.
    """

    value: Value | None = None
    literal: Any = None
    ok: Value | None = None
    why: tuple[tuple[str, Value], ...] = ()
    suspect: bool = False

    @property
    def dtype(self) -> str:
        return self.value.dtype if self.value is not None else _KINDS[type(self.literal)]

    @property
    def shape(self) -> Axes:
        return self.value.shape if self.value is not None else ()

    @property
    def kind(self) -> str:
        """What it can meet: number, bool or string."""
        return "number" if self.dtype in NUMBERS else self.dtype

    @property
    def described(self) -> str:
        """Its type in words."""
        word = {"bool": "true or false", "string": "a text", "int64": "a whole number"}.get(self.dtype, f"a {self.dtype}")
        if not self.shape:
            return word
        return f"an array of {'unknown size' if self.shape[0] is None else self.shape[0]} {self.dtype}"
