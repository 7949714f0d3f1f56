"""Golden records: inputs with the outputs that a model must give for them, as a JSON file that people read and edit.

    {"records": [
      {"inputs": {"X": [0.5, 1.0]}, "outputs": {"probabilities": [0.25, 0.75]}}
    ]}

Each value belongs to one row, so it has no rows axis: a number, string or bool for a `[N]` tensor, nested lists for more axes.
null means NaN. Every input is given, and at least one output; the others may be left out. Integers, strings and bools must be equal, floats
must agree within `atol + rtol * |expected|`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from penstock.batch import Array
from penstock.errors import ConfigError, Problem
from penstock.signature import Signature, Tensor

__all__ = ["ATOL", "RTOL", "GoldenRecord", "Miss", "compare", "dump", "feeds_of", "meets", "parse", "rows_of"]

ATOL: Final = 1e-5
RTOL: Final = 1e-4
_CHUNK: Final = 256


@dataclass(frozen=True, slots=True)
class GoldenRecord:
    """One row: the value of each input, and of each output that is checked, as Python values (nested lists; None is NaN)."""

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Miss:
    """A difference: record `record` (from 1) expected another value of `output`."""

    record: int
    output: str
    expected: Any
    got: Any

    def __str__(self) -> str:
        return f"golden record {self.record}, output {self.output!r}: expected {self.expected}, got {self.got}"


def parse(text: str, signature: Signature, *, file: str = "golden.json") -> tuple[GoldenRecord, ...]:
    """Parses a golden file. Raises ConfigError with every value that does not fit the signature."""
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line, column = (error.lineno, error.colno) if isinstance(error, json.JSONDecodeError) else (0, 0)
        raise ConfigError(Problem(file, line, column, f"not JSON: {error}")) from error
    found = document.get("records") if isinstance(document, dict) else None
    if not isinstance(found, list) or not found:
        raise ConfigError(Problem(file, 0, 0, "there are no records", 'write {"records": [{"inputs": {...}, "outputs": {...}}]}'))
    problems = [Problem(file, 0, 0, text) for i, record in enumerate(found, 1) for text in _problems(record, signature, f"record {i}")]
    if problems:
        raise ConfigError(problems)
    return tuple(GoldenRecord(record["inputs"], record["outputs"]) for record in found)


def dump(records: Iterable[GoldenRecord]) -> str:
    """Returns the text of a golden file, one record per line."""
    lines = (json.dumps({"inputs": dict(r.inputs), "outputs": dict(r.outputs)}, ensure_ascii=False, allow_nan=False) for r in records)
    return '{"records": [\n' + ",\n".join(f"  {line}" for line in lines) + "\n]}\n"


def feeds_of(records: Sequence[GoldenRecord], signature: Signature) -> list[dict[str, Array]]:
    """Yields the inputs of the records as batches, in order: up to 256 rows per batch when all have the same shapes, else one row."""
    rows = [{t.name: _array(record.inputs[t.name], t) for t in signature.inputs} for record in records]
    if len({tuple(array.shape for array in row.values()) for row in rows}) == 1:
        chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
        return [{t.name: np.stack([row[t.name] for row in chunk]) for t in signature.inputs} for chunk in chunks]
    return [{name: array[np.newaxis] for name, array in row.items()} for row in rows]


def rows_of(arrays: Mapping[str, Array]) -> list[dict[str, Any]]:
    """Returns the rows of arrays (each `[N, ...]`) as golden values, with floats in the fewest digits that parse to the same number."""
    columns = {name: [_plain(row) for row in array] for name, array in arrays.items()}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def compare(
    records: Sequence[GoldenRecord], got: Sequence[Mapping[str, Any]], signature: Signature, *, atol: float, rtol: float
) -> list[Miss]:
    """Returns the differences between the rows of a model (in the form of `rows_of`) and the records' expectations."""
    misses = []
    for number, (record, row) in enumerate(zip(records, got, strict=True), 1):
        for name, expected in record.outputs.items():
            tensor = signature.output(name)
            if tensor is None or not meets(_array(expected, tensor), _array(row[name], tensor), atol, rtol):
                misses.append(Miss(number, name, expected, row[name]))
    return misses


def meets(expected: Array, got: Array, atol: float, rtol: float) -> bool:
    """Whether two values of one row, `[*shape]`, agree: floats within the tolerances (NaN meets NaN), everything else exactly."""
    expected, got = np.asarray(expected), np.asarray(got)  # an item of an object column is no array
    if expected.shape == got.shape and expected.dtype.kind == got.dtype.kind == "f":
        return bool(np.allclose(got, expected, atol=atol, rtol=rtol, equal_nan=True))
    return bool(np.array_equal(expected, got))


def _problems(record: Any, signature: Signature, where: str) -> Iterable[str]:
    if not isinstance(record, dict) or not all(isinstance(record.get(part), dict) for part in ("inputs", "outputs")):
        yield f'{where}: must have "inputs" and "outputs", each an object of tensor names'
        return
    for part, tensors in (("inputs", signature.inputs), ("outputs", signature.outputs)):
        names = {tensor.name for tensor in tensors}
        for name in record[part].keys() - names:
            yield f"{where}: the model has no {part[:-1]} {name!r}; it has {', '.join(sorted(names))}"
        for tensor in tensors:
            if tensor.name in record[part]:
                yield from _misfit(record[part][tensor.name], tensor, where)
            elif part == "inputs":
                yield f"{where}: the input {tensor.name!r} is missing"
    if not record["outputs"]:
        yield f"{where}: give at least one output to check"


def _misfit(value: Any, tensor: Tensor, where: str) -> Iterable[str]:
    try:
        _array(value, tensor)
    except (ValueError, TypeError, OverflowError) as error:
        yield f"{where}: {tensor.name!r} does not fit {tensor}: {error}"


_SCALARS: Final[Mapping[str, tuple[type, ...]]] = {"f": (int, float, type(None)), "i": (int,), "u": (int,), "b": (bool,), "O": (str,)}


def _array(value: Any, tensor: Tensor) -> Array:
    """Returns one row's value as an array of the tensor's inner shape. Raises ValueError when it does not fit."""
    dtype = np.dtype(object if tensor.dtype == "string" else tensor.dtype)
    flat: list[Any] = []
    shape = _flatten(value, len(tensor.shape), flat)
    if len(shape) != len(tensor.shape) or any(want not in (None, have) for want, have in zip(tensor.shape, shape, strict=True)):
        raise ValueError(f"one row has the shape {list(shape)}")
    for item in flat:
        if not isinstance(item, _SCALARS[dtype.kind]) or (isinstance(item, bool) and dtype.kind != "b"):
            raise ValueError(f"{item!r} is not a value of {tensor.dtype}")
    return np.array([np.nan if item is None else item for item in flat], dtype=dtype).reshape(shape)


def _flatten(value: Any, depth: int, into: list[Any]) -> tuple[int, ...]:
    """Appends the scalars of `depth` nested lists; returns their shape. Raises ValueError when the lists are uneven."""
    if depth == 0:
        into.append(value)
        return ()
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not a list")
    shapes = {_flatten(item, depth - 1, into) for item in value}
    if len(shapes) > 1:
        raise ValueError("the lists differ in length")
    return (len(value), *(shapes.pop() if shapes else (0,) * (depth - 1)))


def _plain(value: Any) -> Any:
    """Returns a row of an array as JSON values."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.floating):
        return None if np.isnan(value) else float(str(value))
    return value.item() if isinstance(value, np.generic) else value
