"""Checks that a registered version is what was pushed, and returns the same outputs. Runs at every start, before any event is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from penstock.batch import Array
from penstock.errors import InferenceError
from penstock.model.artifact import GOLDEN_FILE, MANIFEST_FILE, MODEL_FILE, Artifact
from penstock.model.golden import GoldenRecord, compare, feeds_of, rows_of
from penstock.model.session import Session
from penstock.signature import Signature

__all__ = ["CORRECTED", "Report", "answers", "check_golden", "verify"]


CORRECTED: Final = "`penstock model push` corrects what the file declares"


@dataclass(frozen=True, slots=True)
class Report:
    """A version that passed: the number of golden records, and whether people gave them ("given") or the push ("synthetic")."""

    artifact: Artifact
    records: int
    origin: str


def verify(artifact: Artifact, session: Session | None = None) -> Report:
    """Checks digests, signature, and golden records, by running them. Pass the `session` when the version is loaded already.

    Raises ModelCorrupt that names model, version, file, and the first golden record and output that differ.
    """
    session = session or Session.load(artifact)
    _same_signature(artifact, session.signature)
    records, golden = artifact.golden_records(), artifact.manifest.golden
    try:
        check_golden(session, records, atol=golden.atol, rtol=golden.rtol)
    except InferenceError as error:
        raise artifact.corrupt(MODEL_FILE, f"does not return the outputs of its golden records ({GOLDEN_FILE}): {error}") from error
    return Report(artifact, len(records), golden.origin)


def check_golden(session: Session, records: Sequence[GoldenRecord], *, atol: float, rtol: float) -> None:
    """Runs the records. Raises InferenceError with the first record and output that differ, the expected value and the actual one."""
    misses = compare(records, answers(session, records), session.signature, atol=atol, rtol=rtol)
    if misses:
        more = f", and {len(misses) - 1} more" if len(misses) > 1 else ""
        raise InferenceError(f"{misses[0]} (tolerance {atol:g} + {rtol:g} x expected){more}")


def answers(session: Session, records: Sequence[GoldenRecord]) -> list[Mapping[str, Any]]:
    """Returns the model's outputs for the records, one row each. Raises InferenceError when it refuses one or an output is not finite."""
    names = [tensor.name for tensor in session.signature.outputs]
    rows: list[Mapping[str, Any]] = []
    for feeds in feeds_of(records, session.signature):
        size = len(next(iter(feeds.values())))
        arrays = dict(zip(names, session.run(names, feeds), strict=True))
        _sound(session.label, arrays, size)
        for tensor in session.signature.outputs:
            if not tensor.admits(arrays[tensor.name].shape):
                raise InferenceError(f"{session.label}: output {tensor} has the shape {list(arrays[tensor.name].shape)}; {CORRECTED}")
        rows.extend(rows_of(arrays))
    return rows


def _sound(label: str, outputs: Mapping[str, Array], size: int) -> None:
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != size:
            raise InferenceError(f"{label}: output {name!r} has the shape {list(array.shape)} for {size} rows")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array.reshape(size, -1)).all(axis=1))[0])
            raise InferenceError(f"{label}: output {name!r} is not finite in row {row + 1}: {array[row].tolist()}")


def _same_signature(artifact: Artifact, found: Signature) -> None:
    for kind, declared, real in (
        ("inputs", artifact.signature.inputs, found.inputs),
        ("outputs", artifact.signature.outputs, found.outputs),
    ):
        if declared != real:
            listed, has = (", ".join(map(str, tensors)) for tensors in (declared, real))
            raise artifact.corrupt(MANIFEST_FILE, f"lists the {kind} {listed}, but the model has {has}; push it as a new version")
