"""What a node that remembers has given for the records of a chunk: those who run them again have no memory of that time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from penstock.batch import Array, Batch
from penstock.errors import InferenceError
from penstock.signature import Tensor

__all__ = ["note", "recall"]


def note(batch: Batch, name: str, columns: Mapping[str, Array], known: Array) -> None:
    """Notes the columns of the node `name`, [N, ...], and for which rows it has computed them, bool [N]."""
    assert batch.origin is not None, "rows of a stream have one"
    for column, values in {**columns, _known(name): known}.items():
        whole = values
        if batch.rows is not None:
            whole = np.zeros((len(batch.origin.records), *values.shape[1:]), values.dtype)
            whole[batch.rows] = values
        batch.origin.recalled[column] = whole


def recall(batch: Batch, name: str, columns: Mapping[str, Tensor], why: str, *, blank: bool = False) -> Batch:
    """Returns the batch with the columns that were noted, without the rows that have none: they fail, `why` is the reason.

    With `blank`, a row that the node left out has zeros, and only chunks without any note fail: another model may decide that the node
    computes the row, and a trial of that model is not to fail because of it.
    """
    there = {} if batch.origin is None else batch.origin.recalled
    at = slice(None) if batch.rows is None else batch.rows
    known = there[_known(name)][at] if _known(name) in there else np.zeros(batch.size, bool)
    made = {column: there[column][at] if column in there else _empty(tensor, batch.size) for column, tensor in columns.items()}
    if blank and _known(name) in there:
        known = np.ones(batch.size, bool)
    error = InferenceError(why, where=name)
    return batch.with_columns(made).fail(dict.fromkeys(np.flatnonzero(~known).tolist(), error))


def _known(name: str) -> str:
    """Returns the column that marks the rows with columns of the node. No node of a file has such an output."""
    return f"{name}?"


def _empty(tensor: Tensor, size: int) -> Array:
    if tensor.dtype == "string":
        return np.full(size, "", object)
    return np.zeros((size, *(axis or 0 for axis in tensor.shape)), tensor.dtype)
