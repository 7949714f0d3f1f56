"""Test vectors of the key of inputs: `python vectors.py` writes vectors.txt, which every implementation has to agree with.

A vector is lines of NAME KIND DECIMALS VALUE, then `key HEX`. Text is in hex of its UTF-8, a timestamp in microseconds, the items of an
array are separated by semicolons, and an empty VALUE is an empty text or array.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from penstock.schema import Field, Kind
from penstock.stores.keys import canonical, input_key

VECTORS = Path(__file__).with_name("vectors.txt")


class Given(NamedTuple):
    """One field of a vector."""

    kind: Kind
    value: Any
    decimals: int = 0
    listed: bool = False


Vector = dict[str, Given]

PICKED: tuple[Vector, ...] = (
    {"carrier": Given("string", "UA"), "dep_delay": Given("float", 12.5, 0), "distance": Given("long", 2475)},
    {"a": Given("double", 0.5, 0), "b": Given("double", 1.5, 0), "c": Given("double", 2.5, 0), "d": Given("double", -0.5, 0)},
    {"a": Given("double", 0.125, 2), "b": Given("double", 0.375, 2), "c": Given("double", 0.15, 1), "d": Given("double", 1.005, 2)},
    {"a": Given("float", 0.15, 1), "b": Given("float", 0.1, 15), "c": Given("double", 0.1, 15), "d": Given("float", 16777217.0, 1)},
    {"a": Given("double", -0.0, 2), "b": Given("double", -0.004, 2), "c": Given("double", -0.005, 2), "d": Given("double", -0.006, 2)},
    {"a": Given("double", 1e22, 1), "b": Given("double", 1.7976931348623157e308, 0), "c": Given("double", 5e-324, 15)},
    {"a": Given("double", 9007199254740993.0, 0), "b": Given("double", 123456789.987654321, 6), "c": Given("double", 2.0**-1074, 3)},
    {"a": Given("long", 9223372036854775807), "b": Given("long", -9223372036854775808), "c": Given("long", 0)},
    {"at": Given("timestamp", 1373514480000000), "before": Given("timestamp", -1), "zero": Given("timestamp", 0)},
    {"yes": Given("boolean", True), "no": Given("boolean", False), "none": Given("string", None)},
    {"empty": Given("string", ""), "line": Given("string", "a\nb=s1:c\n"), "nul": Given("string", "\0"),
     "quote": Given("string", "\"'\\")},
    {"composed": Given("string", "é"), "decomposed": Given("string", "e\u0301"),
     "astral": Given("string", "🛫🛬"), "greek": Given("string", "Ωμέγα")},
    {"none": Given("double", [], 1, listed=True), "some": Given("double", [0.25, -0.25, 1e3], 1, listed=True),
     "ids": Given("long", [3, 1, 2], listed=True)},
    {"words": Given("string", ["a", "", "ü,]"], listed=True), "flags": Given("boolean", [True, False], listed=True)},
    {"Z": Given("long", 1), "_a": Given("long", 2), "a": Given("long", 3), "a.b": Given("long", 4), "a10": Given("long", 5),
     "a2": Given("long", 6)},
)  # fmt: skip


def key_of(vector: Vector) -> str:
    fields = [
        Field(name, "array", items=Field("items", one.kind, unit="us")) if one.listed else Field(name, one.kind, unit="us")
        for name, one in vector.items()
    ]
    decimals = {name: one.decimals for name, one in vector.items()}
    return input_key(canonical(fields, decimals)([one.value for one in vector.values()]))


def drawn(count: int, seed: int = 1) -> Iterator[Vector]:
    """Yields vectors with random numbers of every size, and numbers halfway between two decimals."""
    dice = random.Random(seed)
    for _ in range(count):
        vector: Vector = {}
        for at in range(dice.randint(1, 6)):
            decimals = dice.randint(0, 15)
            (bits,) = struct.unpack("<d", dice.randbytes(8))
            near = dice.choice([bits, dice.uniform(-1e6, 1e6), dice.randint(-(10**6), 10**6) / 2 ** dice.randint(0, 12)])
            number = near if near - near == 0 else 0.0
            single = dice.random() < 0.3 and abs(number) < 1e38
            vector[f"f{at}"] = Given("float" if single else "double", number, decimals)
        yield vector


def lines(vectors: Iterable[Vector]) -> Iterator[str]:
    yield f"# {(__doc__ or '').splitlines()[0]}"
    for vector in vectors:
        for name, one in vector.items():
            kind = "null" if one.value is None else one.kind + "[]" * one.listed
            items = one.value if one.listed else [one.value]
            yield f"{name} {kind} {one.decimals} {'' if one.value is None else ';'.join(_text(one.kind, item) for item in items)}"
        yield f"key {key_of(vector)}"


def _text(kind: str, value: Any) -> str:
    if kind == "string":
        return str(value).encode().hex()
    return str(value).lower() if kind == "boolean" else repr(value)


if __name__ == "__main__":
    VECTORS.write_text("\n".join(lines([*PICKED, *drawn(200)])) + "\n", encoding="ascii")
