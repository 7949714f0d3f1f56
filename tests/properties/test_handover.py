"""What a sink writes and the check lets a source read can be read: every value of every type, through the real codecs."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock.codecs import decoder, encoder
from penstock.schema import Column, Field, Missing, Schema
from penstock.signature import Tensor
from penstock.topology.spec import Ref, Sink, Source
from penstock.topology.wiring import OutputField, Part
from penstock.topology.written import Written, fits_reader

DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64", "string"]
KINDS = ["boolean", "int", "long", "float", "double", "string", "timestamp", "enum"]
SYMBOLS = ("A", "B", "C")
REF = Ref("n", "n")


def values(dtype: str) -> st.SearchStrategy[Any]:
    if dtype in ("float32", "float64"):
        return st.floats(allow_nan=False, allow_infinity=False, width=int(dtype[5:]))  # type: ignore[arg-type]  # 32 or 64
    if dtype == "string":
        return st.text(alphabet=st.characters(codec="utf-8"), max_size=8) | st.sampled_from(SYMBOLS)
    if dtype == "bool":
        return st.booleans()
    info = np.iinfo(dtype)
    return st.integers(int(info.min), int(info.max)) | st.sampled_from([int(info.min), int(info.max)])


def field(kind: Any, *, optional: bool = False, array: bool = False, size: int | None = None) -> Field:
    symbols, unit = SYMBOLS if kind == "enum" else (), "ms" if kind == "timestamp" else ""
    if array:
        return Field("f", "array", items=Field("items", kind, symbols=symbols, unit=unit), size=size)  # type: ignore[arg-type]  # ms or none
    return Field("f", kind, optional=optional, symbols=symbols, unit=unit)  # type: ignore[arg-type]  # ms or none


class Handover(NamedTuple):
    """An output, the field that it copies (None: it is the output of a node), and the field that reads it."""

    output: OutputField
    copied: Field | None
    read: Field

    def accepted(self) -> bool:
        sink, source, schema = Sink("a", "t", (("f", REF),)), Source("b", "t", "read.avsc"), Schema("Read", (self.read,), path="read.avsc")
        return not list(
            fits_reader(
                sink, [Written(self.output, REF, self.copied, self.copied is not None and self.copied.optional)], None, source, schema
            )
        )


KNOWN = [("A",), ("A", "B"), ("C", "A", "B")]
COPIED = [Field("g", "enum", optional=optional, symbols=known) for optional, known in product((False, True), KNOWN)]
OUTPUTS: list[tuple[OutputField, Field | None]] = [
    (OutputField("f", Part("n.y"), dtype, shape), None) for dtype, shape in product(DTYPES, [(), (1,), (2,), (None,)])
]
OUTPUTS += [(OutputField("f", Part("g"), "string"), copied) for copied in COPIED]
FIELDS = [field(kind, optional=optional) for kind, optional in product(KINDS, (False, True))]
FIELDS += [field(kind, array=True, size=size) for kind, size in product(KINDS, (None, 1, 2))]
ALL = [Handover(output, copied, read) for (output, copied), read in product(OUTPUTS, FIELDS)]
ACCEPTED = [one for one in ALL if one.accepted()]


def test_the_check_accepts_some_and_refuses_others() -> None:
    """Each type of output but uint64, which no field of a schema holds, has fields that read it and fields that do not."""
    assert {one.output.dtype for one in ACCEPTED} == set(DTYPES) - {"uint64"}
    assert {one.output.dtype for one in set(ALL) - set(ACCEPTED)} == set(DTYPES)
    assert {one.copied for one in ACCEPTED if one.copied} == set(COPIED)


@given(st.sampled_from(ACCEPTED), st.data())
def test_events_that_the_check_lets_through_are_read_back(handover: Handover, data: st.DataObject) -> None:
    output, copied, read = handover
    one = values(output.dtype) if copied is None else st.sampled_from([*copied.symbols, *([None] if copied.optional else [])])
    sizes = zip(output.shape, read.shape, strict=True)  # an open axis is as long as the reader's, which is checked at each event
    shape = tuple(axis if axis is not None else wanted if wanted is not None else 2 for axis, wanted in sizes)
    rows = data.draw(st.lists(st.lists(one, min_size=shape[0], max_size=shape[0]) if shape else one, min_size=1, max_size=5))
    array = np.array(rows, dtype=object if output.dtype == "string" else output.dtype)
    written, errors = encoder("json", [Tensor("f", output.dtype, output.shape)], None).encode([array])
    assert not errors
    column = Column("f", "f", read.dtype, shape, Missing("fill", None) if read.optional and not shape else Missing())
    batch = decoder("json", Schema("Read", (read,)), [column]).decode(written)
    assert batch.failures == ()
    found = batch.columns["f"]
    # A double reads the shortest digits of a float32, which are those of no other float32.
    assert (found.astype(np.float32) if output.dtype == "float32" else found).tolist() == rows
