"""Who may sign models and who has signed one: the values that `trust` (which decides) and `signing` (which checks) share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

__all__ = ["ModelTrust", "Pem", "Signer"]


class Pem(NamedTuple):
    """A file in PEM and what it held when it was read."""

    file: Path
    data: bytes


@dataclass(frozen=True, slots=True)
class ModelTrust:
    """Whose signatures count: those of these public keys, and of every certificate that one of these authorities has issued."""

    keys: tuple[Pem, ...] = ()
    authorities: tuple[Pem, ...] = ()


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signed. `name` is the file of the trusted key, or the certificate's subject.

    `fingerprint` is "sha256:..." of the public key in PEM (what `sha256sum` says of its file), or of the certificate in DER.
    """

    kind: Literal["key", "certificate"]
    name: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({self.fingerprint})"
