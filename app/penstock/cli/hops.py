"""What a topic between two stages costs per record, measured here: bytes, and CPU to write and to read."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from penstock.batch import Array
from penstock.codecs import decoder, encoder
from penstock.schema import Column, Schema
from penstock.signature import Tensor
from penstock.topology.stages import Between

__all__ = ["Hop", "hop"]

ROWS: Final = 256  # of a chunk
CHUNKS: Final = 40
OPEN: Final = 8  # items of an array of open size
TEXT: Final = 8  # characters


@dataclass(frozen=True, slots=True)
class Hop:
    """`bytes` of a record's value before compression; `write_us` and `read_us` are microseconds of CPU per record."""

    node: str
    topic: str
    retention_ms: int
    compression: str
    bytes: int
    write_us: float
    read_us: float


def hop(one: Between, schema: Schema) -> Hop:
    """Measures the topic on made-up rows."""
    fields = [Tensor(field.name, field.dtype, field.shape) for field in one.fields.values()]
    columns = [Column(name, field.name, field.dtype, field.shape, field.missing) for name, field in one.fields.items()]
    written, read = encoder("avro", fields, schema), decoder("avro", schema, columns)
    random = np.random.default_rng(0)
    size, times = 0, [0.0, 0.0]
    for _ in range(CHUNKS):
        rows = [_rows(random, field) for field in fields]
        began = time.process_time()
        values, _ = written.encode(rows)
        between = time.process_time()
        read.decode(values)
        times[0] += between - began
        times[1] += time.process_time() - between
        size += sum(map(len, values))
    count = ROWS * CHUNKS
    spec = one.spec
    return Hop(
        one.node, one.topic, spec.retention_ms, spec.compression, round(size / count), times[0] / count * 1e6, times[1] / count * 1e6
    )


def _rows(random: np.random.Generator, field: Tensor) -> Array:
    shape = tuple(OPEN if axis is None else axis for axis in field.shape)
    count = ROWS * math.prod(shape)
    if field.dtype == "string":
        made: Array = np.array([f"{number:0{TEXT}d}" for number in random.integers(0, 10**TEXT, count)], object)
    elif field.dtype.startswith("float"):
        made = random.standard_normal(count).astype(field.dtype)
    else:
        made = random.integers(0, 2, count).astype(field.dtype)
    return made.reshape(ROWS, *shape)
