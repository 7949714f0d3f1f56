"""API keys: 256 random bits behind a public id, `penstock_ID_SECRET`. The access file has the id and the SHA-256 of the whole key.

A slow hash (bcrypt, Argon2) makes guesses of *passwords* expensive, because people choose from few. These keys are chosen by chance
from 2^256: no number of guesses finds one, with a hash that takes a microsecond or one that takes a second. A slow hash would only let
any client occupy the service by sending wrong keys.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from typing import Final, NamedTuple

__all__ = ["ID", "KEY", "NewKey", "digest", "matches", "new_key"]

ID: Final = re.compile(r"[a-z2-7]{12}")
KEY: Final = re.compile(r"penstock_([a-z2-7]{12})_[A-Za-z0-9_-]{43}")  # the prefix lets scanners for leaked secrets find it
SHA256: Final = re.compile(r"[0-9a-f]{64}")


class NewKey(NamedTuple):
    """A key that was just made: its public id, and its text, which is shown once and stored nowhere."""

    id: str
    text: str


def new_key() -> NewKey:
    """Returns a key of 256 random bits."""
    public = base64.b32encode(secrets.token_bytes(10)).decode().lower()[:12]
    return NewKey(public, f"penstock_{public}_{secrets.token_urlsafe(32)}")


def digest(text: str) -> str:
    """Returns what the access file stores of a key: its SHA-256, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def matches(text: str, stored: str) -> bool:
    """Returns whether this key has the stored digest. The time it takes does not depend on where they differ."""
    return hmac.compare_digest(digest(text), stored)
