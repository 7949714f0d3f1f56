"""The trusted signers and the signer of a model: values that `trust` (which decides) and `signing` (which checks) share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

__all__ = ["ModelTrust", "Pem", "Signer"]


class Pem(NamedTuple):
    """A PEM file and its content when it was read."""

    file: Path
    data: bytes


@dataclass(frozen=True, slots=True)
class ModelTrust:
    """The trusted signers: these public keys, and every certificate that one of these authorities has issued."""

    keys: tuple[Pem, ...] = ()
    authorities: tuple[Pem, ...] = ()


@dataclass(frozen=True, slots=True)
class Signer:
    """The signer. `name` is the file of the trusted key, or the certificate's subject.

    `fingerprint` is "sha256:..." of the public key in PEM (as `sha256sum` prints for its file), or of the certificate in DER.
    """

    kind: Literal["key", "certificate"]
    name: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({self.fingerprint})"
