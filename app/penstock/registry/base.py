"""What a registry offers: model versions that never change, under names, and aliases that point at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from penstock.model.artifact import Artifact
from penstock.model.golden import GoldenRecord

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
    ) -> Artifact:
        """Registers an ONNX file as a new version (None: the next whole number), all of it or nothing.

        The model is loaded and must meet its golden records; without any, some are made up that pin what it answers today.
        It runs in this process: put a file that you do not know through `penstock.model.quarantine` first.
        Raises ModelExists when the version is there, ModelCorrupt or ModelMismatch when the file cannot serve,
        ConfigError when a name or value is not allowed.
        """

    def resolve(self, name: str, version: str) -> Artifact:
        """The version, or the one that the alias points at. Raises ModelNotFound, saying what there is instead."""

    def add_bundle(self, artifact: Artifact, bundle: bytes, *, replace: bool = False) -> str | Path:
        """Puts a signature (the content of model.sig) beside the version's files, whole or not at all. Returns where it is, for people.

        Raises ModelExists when there is one and `replace` is not given.
        """

    def names(self) -> list[str]:
        """Every registered name, sorted."""

    def versions(self, name: str) -> list[str]:
        """The versions of a name, in natural order (2 before 10); none when there is no such name."""

    def alias(self, name: str, alias: str, version: str) -> None:
        """Points the alias at a version, from now on. Raises ModelNotFound when there is no such version."""

    def aliases(self, name: str) -> dict[str, str]:
        """Each alias of the name and the version that it points at."""
