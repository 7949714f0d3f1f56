"""JWS in its compact form (RFC 7515), `header.payload.signature`, each in base64url: what signs control messages and workers' reports.

Only one form is accepted: Ed25519, exactly the three header fields, and the type that the reader asks for. Detached (appendix F), the
payload is left out: it stands elsewhere, as it is.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from penstock.control.trust.keys import SigningKey, from_text, to_text

__all__ = ["HEAD", "SIGNATURE", "attached", "detached", "key_named", "sign", "verify"]

SIGNATURE: Final = 86  # characters of 64 bytes
HEAD: Final = 512  # the most characters of a header that is decoded; ours has 130


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    """All fields that a header may have. An unknown field (`crit`, `jwk`, `b64`) would change what the signature means."""

    alg: Literal["EdDSA"]
    typ: str
    kid: str


_HEADER: Final = msgspec.json.Decoder(_Header)


def sign(payload: bytes, key: SigningKey, type: str) -> bytes:
    """Returns the signed payload."""
    header = msgspec.json.encode({"alg": "EdDSA", "typ": type, "kid": key.kid})
    signed = to_text(header) + b"." + to_text(payload)
    return signed + b"." + to_text(key.private.sign(signed))


def key_named(head: bytes, type: str) -> str:
    """Returns the key id in a header, the first of the three parts. Raises ValueError for any other header."""
    found = _HEADER.decode(from_text(head)) if len(head) <= HEAD else None
    if found is None or found.typ != type:
        raise ValueError("another type")
    return found.kid


def verify(public: Ed25519PublicKey, signed: bytes, signature: bytes) -> bool:
    """Returns whether the signature (base64url) over `signed`, the first two parts, is the key's. Raises ValueError for other text."""
    try:
        public.verify(from_text(signature), signed)
    except InvalidSignature:
        return False
    return True


def detached(sealed: bytes) -> bytes:
    """Returns the signed payload without the payload."""
    head, _, signature = sealed.split(b".")
    return head + b".." + signature


def attached(parts: bytes, payload: bytes) -> bytes:
    """Returns what `detached` was made of. Raises ValueError when it is not of that form."""
    head, middle, signature = parts.split(b".")
    if middle or len(head) > HEAD or len(signature) != SIGNATURE:
        raise ValueError("not a detached signature")
    return b".".join([head, to_text(payload), signature])
