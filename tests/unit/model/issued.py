"""Keys and certificates for one test, made in memory and written as PEM."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["NOW", "Issued", "authority", "issue", "private_pem", "public_pem"]

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Issued:
    """A certificate and its private key; `files(folder, name)` writes both as `name.crt` and `name.key`."""

    def __init__(self, certificate: x509.Certificate, key: PrivateKey) -> None:
        self.certificate = certificate
        self.key = key

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def files(self, folder: Path, name: str) -> tuple[Path, Path]:
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        certificate.write_bytes(self.pem)
        key.write_bytes(private_pem(self.key))
        return certificate, key


def private_pem(key: PrivateKey, password: bytes | None = None) -> bytes:
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def authority(name: str, by: Issued | None = None, *, until: datetime = NOW + 365 * DAY) -> Issued:
    """An authority: its own, or one that `by` vouches for."""
    basic = x509.BasicConstraints(ca=True, path_length=None)
    return _made(name, by, ec.generate_private_key(ec.SECP256R1()), NOW - 365 * DAY, until, [basic, _usage(key_cert_sign=True)])


def issue(
    name: str, by: Issued, *, key: PrivateKey | None = None, begin: datetime = NOW - 30 * DAY, until: datetime = NOW + 30 * DAY,
    signs: bool | None = True, purposes: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.CODE_SIGNING,),
) -> Issued:  # fmt: skip
    """A certificate for a person who signs; `signs` None leaves the key usage out, and no `purposes` the extended one."""
    extensions: list[x509.ExtensionType] = [x509.BasicConstraints(ca=False, path_length=None)]
    if signs is not None:
        extensions.append(_usage(digital_signature=signs, key_encipherment=not signs))
    if purposes:
        extensions.append(x509.ExtendedKeyUsage(purposes))
    return _made(name, by, key or ec.generate_private_key(ec.SECP384R1()), begin, until, extensions)


def _made(
    name: str, by: Issued | None, key: PrivateKey, begin: datetime, until: datetime, extensions: list[x509.ExtensionType]
) -> Issued:  # fmt: skip
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateBuilder(
        issuer_name=by.certificate.subject if by else subject,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=begin,
        not_valid_after=until,
    )
    for extension in extensions:
        made = made.add_extension(extension, critical=not isinstance(extension, x509.ExtendedKeyUsage))
    return Issued(made.sign(by.key if by else key, hashes.SHA256()), key)


def _usage(**said: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**{name: said.get(name, False) for name in names})
