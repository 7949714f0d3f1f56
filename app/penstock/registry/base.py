"""The interface of a registry: model versions that never change, under names, and aliases that point at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from penstock.model.artifact import Artifact
from penstock.model.golden import GoldenRecord
from penstock.model.manifest import Source

__all__ = ["Registry"]


class Registry(Protocol):
    """A name is lower-case letters, digits and `._-`; a version begins with a digit, an alias with a letter."""

    def publish(
        self,
        name: str,
        model: bytes,
        *,
        version: str | None = None,
        golden: Sequence[GoldenRecord] | None = None,
        metrics: Mapping[str, float] | None = None,
        provenance: Mapping[str, str] | None = None,
        description: str = "",
        rows: int | None = None,
        tolerance: tuple[float, float] | None = None,
        source: Source | None = None,
    ) -> Artifact:
        """Registers an ONNX file as a new version (None: the next whole number), all of it or nothing.

        The model is loaded and must meet its golden records. Without any, synthetic ones are made, which pin its current outputs.
        The model runs in this process: run an untrusted file through `penstock.model.quarantine` first.
        `rows` is how many rows the model takes at a time (None: any number). `tolerance` is how far its outputs may be from the golden
        records, absolute and relative (None: `golden.ATOL` and `golden.RTOL`). `source` is the file that was pushed, if `model` differs.
        Raises ModelExists when the version exists, ModelCorrupt or ModelMismatch when the file cannot serve,
        ConfigError when a name or value is not allowed.
        """

    def resolve(self, name: str, version: str) -> Artifact:
        """Returns the version, or the one that the alias points at. Raises ModelNotFound, which lists what exists."""

    def add_bundle(self, artifact: Artifact, bundle: bytes, *, replace: bool = False) -> str | Path:
        """Writes a signature (the content of model.sig) beside the version's files, whole or not at all. Returns its place, for people.

        Raises ModelExists when the version has a signature and `replace` is False.
        """

    def names(self) -> list[str]:
        """Returns every registered name, sorted."""

    def versions(self, name: str) -> list[str]:
        """Returns the versions of a name, in natural order (2 before 10); an empty list for an unknown name."""

    def alias(self, name: str, alias: str, version: str) -> None:
        """Points the alias at a version. Raises ModelNotFound when there is no such version."""

    def aliases(self, name: str) -> dict[str, str]:
        """Returns each alias of the name and the version that it points at."""
