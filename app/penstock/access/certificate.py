"""What a client certificate calls its owner: the names that the access file can list.

The TLS layer has checked the chain and that the client holds the key; without that, these names say nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from penstock.errors import Unauthenticated

__all__ = ["Certificate", "read"]

LARGEST: Final = 64 * 1024  # bytes
_NAMES: Final = 64  # of one certificate that are looked at


@dataclass(frozen=True, slots=True)
class Certificate:
    """Names as the access file writes them (`dns:shop.example.org`), and the Unix times between which it is valid."""

    names: frozenset[str]
    subject: str
    begins: float
    ends: float

    def check(self, now: float) -> None:
        """Raises Unauthenticated outside of its time: a connection can outlive the certificate that opened it."""
        if not self.begins <= now < self.ends:
            raise Unauthenticated("the client certificate is not valid at this time", code="certificate-expired")


def read(der: bytes) -> Certificate:
    """Returns what a certificate (DER) says. Raises Unauthenticated for what is no certificate."""
    from cryptography import x509  # only where client certificates are used

    if len(der) > LARGEST:
        raise Unauthenticated("the client certificate is too large", code="bad-certificate")
    try:
        found = x509.load_der_x509_certificate(der)
        subject = found.subject.rfc4514_string()
        names = {f"sha256:{hashlib.sha256(der).hexdigest()}", *([f"subject:{subject}"] if subject else [])}
        try:
            others = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            others = x509.SubjectAlternativeName([])
        for one in list(others)[:_NAMES]:
            if isinstance(one, x509.DNSName):
                names.add(f"dns:{one.value.lower()}")
            elif isinstance(one, x509.UniformResourceIdentifier):
                names.add(f"uri:{one.value}")
            elif isinstance(one, x509.RFC822Name):
                names.add(f"email:{one.value}")
        begins, ends = found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
    except (ValueError, TypeError, x509.DuplicateExtension) as error:
        raise Unauthenticated("the client certificate cannot be read", code="bad-certificate") from error
    return Certificate(frozenset(names), subject, begins, ends)
