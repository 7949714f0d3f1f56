"""Keys: an Ed25519 pair, the private part in a file of its owner, the public part as a text that people share.

A public key is its 32 bytes in base64url; its id is the thumbprint of RFC 7638. The trust file records the owner and the topologies.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from penstock.errors import ConfigError, Problem
from penstock.settings import exposed

__all__ = ["HOME", "SigningKey", "from_text", "key_id", "public_key", "public_text", "to_text"]


HOME: Final = Path("~/.config/penstock/keys")  # of a person's own keys


def to_text(data: bytes) -> bytes:
    """Returns base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def from_text(text: bytes) -> bytes:
    """Decodes base64url without padding, in its one canonical form. Raises ValueError for anything else."""
    data = binascii.a2b_base64(text.translate(_TO_BASE64) + b"=" * (-len(text) % 4), strict_mode=True)
    if to_text(data) != text:
        raise ValueError("not in its one canonical form")
    return data


_TO_BASE64: Final = bytes.maketrans(b"-_+/", b"+/--")


def public_text(public: Ed25519PublicKey) -> str:
    """Returns a public key as people share it: its 32 bytes in base64url, 43 characters."""
    return to_text(public.public_bytes_raw()).decode()


def public_key(text: str) -> Ed25519PublicKey:
    """Returns the key of a `public_text`. Raises ValueError for any other text."""
    data = from_text(text.encode("ascii", "replace"))
    if len(data) != 32:
        raise ValueError(f"{len(data)} bytes, an Ed25519 key has 32")
    return Ed25519PublicKey.from_public_bytes(data)


def key_id(public: str) -> str:
    """Returns the thumbprint of a public key (RFC 7638), by which headers name it."""
    return to_text(hashlib.sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{public}"}}'.encode()).digest()).decode()


@dataclass(frozen=True)
class SigningKey:
    """A private key, and the public part that others trust. `name` is the name of its file, without the extension."""

    name: str
    private: Ed25519PrivateKey = field(repr=False)

    @property
    def public(self) -> str:
        return public_text(self.private.public_key())

    @property
    def kid(self) -> str:
        return key_id(self.public)

    @classmethod
    def new(cls, name: str) -> SigningKey:
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Reads the key of a PEM file (PKCS 8, without a passphrase), or of this name in HOME, where `penstock keys new` puts it.

        Raises ConfigError, also when others may read the file.
        """
        if len(path.parts) == 1 and not path.suffix and not path.exists():
            path = HOME / f"{path}.pem"
        place, path = str(path), path.expanduser()
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # a pipe would wait for its writer
                problem = exposed(os.fstat(file.fileno()))
                data = b"" if problem else file.read(65_536)
        except OSError as error:
            raise ConfigError(Problem(place, 0, 0, f"cannot be read: {error.strerror}", "`penstock keys new NAME` makes a key")) from None
        if problem:
            raise ConfigError(Problem(place, 0, 0, f"this key {problem}", f"chmod 600 {place}"))
        try:
            key = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # a TypeError means that a passphrase is needed
            raise ConfigError(Problem(place, 0, 0, f"not a private key in PEM without a passphrase: {error}")) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(Problem(place, 0, 0, "not an Ed25519 key", "`penstock keys new NAME` makes one"))
        return cls(path.stem, key)

    def save(self, path: Path) -> None:
        """Writes the key to a file that only its owner may read. Raises ConfigError when the file exists: keys are never replaced."""
        path = path.expanduser()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            if path.exists():
                raise ConfigError(Problem(str(path), 0, 0, "the file exists already", "choose another name, or --out")) from None
            raise ConfigError(Problem(str(path), 0, 0, f"cannot be written: {error.strerror}")) from None
        with open(descriptor, "wb") as file:
            file.write(self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
