"""Compares a model on its providers with itself on the processor: that is where it was checked, and what it must agree with.

`check_parity` does so on the golden records. `Pair` does so on every row of a run, as the model of a node: both compute it, from the same
inputs. Floats agree within the tolerance of the version's manifest, everything else exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from penstock.batch import Array
from penstock.errors import InferenceError, ModelMismatch
from penstock.model.artifact import Artifact
from penstock.model.golden import GoldenRecord
from penstock.model.session import Session
from penstock.model.verify import answers, check_golden, verify
from penstock.provider import Provider

__all__ = ["Pair", "check_parity"]

_ADVICE = "set an option of the provider for exact arithmetic, push the version with a wider --rtol, or run it elsewhere"


def check_parity(artifact: Artifact, session: Session, cpu: Session, providers: Sequence[Provider]) -> None:
    """Compares all outputs for the inputs of the golden records, then verifies the version on its providers.

    `cpu` is the same version on the processor, where it has passed. Raises ModelMismatch with the first value that differs, ModelCorrupt.
    """
    golden, records = artifact.manifest.golden, artifact.golden_records()
    expected = [GoldenRecord(record.inputs, row) for record, row in zip(records, answers(cpu, records), strict=True)]
    try:
        check_golden(session, expected, atol=golden.atol, rtol=golden.rtol)
    except InferenceError as error:
        raise _differs(artifact, providers, str(error)) from error
    verify(artifact, session)


class Pair:
    """A version on its providers and on the processor; runs like a model. `rows` were compared, and `differ` of them are different."""

    def __init__(self, artifact: Artifact, session: Session, cpu: Session, providers: Sequence[Provider]) -> None:
        self.artifact = artifact
        self.rows = self.differ = 0
        self._session, self._cpu, self._providers = session, cpu, providers
        self._first = ""

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Returns what the processor gives, after it has been compared. Raises InferenceError, NoRoom."""
        expected = self._cpu.run(outputs, feeds)
        size = len(next(iter(feeds.values())))
        try:
            got = self._session.run(outputs, feeds)
        except InferenceError as error:
            if size > 1:
                raise  # the caller runs each half
            self._note(np.ones(size, np.bool_), f"it fails there: {error}")
            return expected
        differs = np.zeros(size, np.bool_)
        for name, one, other in zip(outputs, expected, got, strict=True):
            odd = self._odd(one, other)
            row = int(np.flatnonzero(odd)[0]) if odd.any() else 0
            what = f"output {name!r}: {_shown(one[row:][:1])} on the processor, {_shown(other[row:][:1])} there" if odd.any() else ""
            self._first = self._first or what
            differs |= odd
        self._note(differs)
        return expected

    def _odd(self, one: Array, other: Array) -> Array:
        """Returns which rows differ."""
        if other.shape != one.shape:
            return np.ones(len(one), np.bool_)
        golden = self.artifact.manifest.golden
        equal = np.isclose(other, one, golden.rtol, golden.atol, equal_nan=True) if one.dtype.kind == "f" else other == one
        return np.asarray(~np.asarray(equal, np.bool_).all(axis=tuple(range(1, one.ndim))))

    def _note(self, differs: Array, what: str = "") -> None:
        self.rows += len(differs)
        self.differ += int(differs.sum())
        self._first = self._first or what

    def __str__(self) -> str:
        where = ", ".join(one.name for one in self._providers)
        return f"as on the processor on {where}, on its golden records and {self.rows} real rows ({self.differ} differ)"

    def refusal(self, share: float) -> str:
        """Returns why the version may not serve, when more than `share` of the rows differ; else ""."""
        if self.differ <= share * self.rows:
            return ""
        golden = self.artifact.manifest.golden
        what = f"{self.differ} of {self.rows} real rows; the first: {self._first}"
        tolerance = f"tolerance {golden.atol:g} + {golden.rtol:g} x expected"
        return str(_differs(self.artifact, self._providers, f"{what} ({tolerance})"))


def _differs(artifact: Artifact, providers: Sequence[Provider], what: str) -> ModelMismatch:
    where = ", ".join(map(str, providers))
    message = f"{artifact} does not compute on {where} what it computes on the processor: {what}; {_ADVICE}"
    return ModelMismatch(message, name=artifact.name, version=artifact.version)


def _shown(rows: Array) -> str:
    """Returns the first of the rows as text."""
    if not len(rows):
        return "nothing"
    text = repr(rows[0].tolist() if isinstance(rows[0], np.ndarray | np.generic) else rows[0])
    return text if len(text) <= 200 else f"{text[:200]}..."
