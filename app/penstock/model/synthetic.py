"""Generated inputs for a model, from its signature alone: seeded, small, and the same on every machine.

Golden records made from them fix a model's outputs of today; they do not show that the outputs are correct.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from penstock.batch import Array
from penstock.errors import ModelCorrupt, RecordError
from penstock.model.golden import GoldenRecord, rows_of
from penstock.model.session import Session
from penstock.model.verify import answers
from penstock.signature import Signature, Tensor

__all__ = ["synthetic_feeds", "synthetic_records"]

_WORDS: Final = ("", "a", "b", "A1", "zz", "ä")
_OPEN_AXIS: Final = 3


def synthetic_feeds(signature: Signature, size: int, *, seed: int = 0) -> dict[str, Array]:
    """Returns `size` rows: floats from 0 to 1, integers 0 and 1 (safe as an index), any bool, a few words; open axes have size 3."""
    random = np.random.default_rng(seed)
    return {tensor.name: _column(random, tensor, size) for tensor in signature.inputs}


def synthetic_records(session: Session, *, size: int = 8, seed: int = 0) -> tuple[GoldenRecord, ...]:
    """Returns golden records of the model's outputs for generated rows. Raises ModelCorrupt when it refuses them."""
    inputs = rows_of(synthetic_feeds(session.signature, size, seed=seed))
    asked = [GoldenRecord(row, {}) for row in inputs]
    try:
        rows = answers(session, asked)
    except RecordError as error:
        raise ModelCorrupt(f"generated rows do not run: {error}; if real rows run, give some as golden records") from error
    return tuple(GoldenRecord(row, answer) for row, answer in zip(inputs, rows, strict=True))


def _column(random: np.random.Generator, tensor: Tensor, size: int) -> Array:
    shape = (size, *(_OPEN_AXIS if axis is None else axis for axis in tensor.shape))
    if tensor.dtype == "string":
        return np.array(_WORDS, dtype=object)[random.integers(len(_WORDS), size=shape)]
    kind = np.dtype(tensor.dtype).kind
    drawn: Any = random.random(shape) if kind == "f" else random.integers(2, size=shape)
    column: Array = np.asarray(drawn).astype(tensor.dtype)
    return column
