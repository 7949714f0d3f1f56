"""Signatures in the OpenSSF model-signing format, compared with a model's digests. Only this file imports that library.

A bundle is checked in this order, and each step may reject it:
1. It is read: at most 1 MiB, one signature.
2. Its signer is found among the trusted ones: a public key by its fingerprint, or a certificate that leads to an authority, is
   valid now, and was issued for signing.
3. The signature is checked with that key.
4. The signed statement names exactly the files of a version, with their digests.

The library writes the format and reads it. Two of its checks are not used: it accepts a certificate that has expired
since, and one that was issued for another purpose. This file uses private parts of it, so its version is pinned exactly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple, TypeGuard

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from model_signing import manifest as statements
from model_signing._hashing.hashing import Digest
from model_signing._signing import sign_certificate, sign_ec_key, sign_sigstore_pb, signing
from OpenSSL import crypto
from sigstore_models.bundle.v1 import Bundle, VerificationMaterial

from penstock.errors import ConfigError, ModelUntrusted
from penstock.host import read_regular
from penstock.model.artifact import BUNDLE_FILE, BUNDLE_LIMIT
from penstock.model.signer import ModelTrust, Pem, Signer

__all__ = ["Signed", "check_signature", "is_encrypted", "sign"]

_HASH: Final = "sha256"
# Errors that the library and its readers raise for JSON of an unexpected form.
_MISFIT: Final = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


class Signed(NamedTuple):
    """A bundle (the content of a model.sig) and its signer."""

    bundle: bytes
    signer: Signer


def check_signature(digests: Mapping[str, str], bundle: bytes, trust: ModelTrust, *, now: datetime) -> Signer:
    """Returns the signer in `trust` that has signed exactly these files.

    `digests` maps the name of each file to the "sha256:..." of the bytes that are used; `now` has a time zone. Raises ModelUntrusted
    with the reason, and ConfigError when a file of `trust` is not a key or certificate.
    """
    read = _read(bundle)
    signer, key = _signer(read.verification_material, trust, now)
    try:
        signed = _Verifier(key).verify(sign_sigstore_pb.Signature(read))
    except InvalidSignature as error:
        raise ModelUntrusted(f"{BUNDLE_FILE} was altered, or was not made by {signer}") from error
    except _MISFIT as error:
        raise ModelUntrusted(f"the statement of {signer} is not one of the OpenSSF model-signing format 1.0: {error!r:.200}") from error
    _same(digests, signed)
    return signer


def sign(
    digests: Mapping[str, str],
    *,
    subject: str,
    key: Path,
    password: bytes | None = None,
    certificates: Sequence[Path] = (),
    now: datetime,
) -> Signed:
    """Signs the files with these digests ("sha256:...", by name); `subject` is the name of their folder, for people.

    `key` is a private elliptic curve key in PEM (P-256, P-384 or P-521). With `certificates` (PEM), the first belongs to the key and the
    others lead to an authority. Raises ConfigError that names the file when one cannot be used.
    """
    private = _private_key(key, password)
    chain = [one for file in certificates for one in _certificates(_opened(file))]
    made: sign_ec_key.Signer = _KeySigner(private)
    signer = Signer("key", key.name, _fingerprint(private.public_key()))
    if chain:
        _issued_for(chain[0], private, str(certificates[0]), now)
        made, signer = _CertificateSigner(private, chain), _named(chain[0])
    items = [
        statements.FileManifestItem(path=PurePosixPath(file), digest=Digest(_HASH, bytes.fromhex(digest.removeprefix(f"{_HASH}:"))))
        for file, digest in digests.items()
    ]
    form = statements._FileSerialization(_HASH, allow_symlinks=False, ignore_paths=[Path(BUNDLE_FILE)])
    signature = made.sign(signing.Payload(statements.Manifest(subject, items, form)))
    assert isinstance(signature, sign_sigstore_pb.Signature)
    return Signed(signature.bundle.to_json().encode(), signer)


def is_encrypted(key: Path) -> bool:
    """Whether a private key (PEM) needs a password. Raises ConfigError when it cannot be read."""
    return b"ENCRYPTED" in _opened(key).data


# --- the parts of the library that are used -----------------------------------------------------------------------------


class _Verifier(sign_sigstore_pb.Verifier):
    """Checks a bundle with one key, from any source."""

    def __init__(self, key: ec.EllipticCurvePublicKey) -> None:
        self._key = key

    def _verify_bundle(self, bundle: Bundle) -> tuple[str, bytes]:
        envelope = bundle.dsse_envelope
        assert envelope is not None
        message = sign_sigstore_pb.pae(envelope.payload)
        self._key.verify(envelope.signatures[0].sig, message, ec.ECDSA(sign_ec_key.get_ec_key_hash(self._key)))
        return envelope.payload_type, envelope.payload


class _KeySigner(sign_ec_key.Signer):
    """The library's verifier, with a key that is loaded already."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._private_key = key


class _CertificateSigner(sign_certificate.Signer):
    """The library's signer, with a loaded key and certificates: the library takes neither a password nor a certificate without a chain."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, chain: Sequence[x509.Certificate]) -> None:
        self._private_key = key
        self._signing_certificate, *self._trust_chain = chain


# --- the steps of a check -----------------------------------------------------------------------------------------------


def _read(bundle: bytes) -> Bundle:
    if len(bundle) > BUNDLE_LIMIT:
        raise ModelUntrusted(f"{BUNDLE_FILE} is larger than {BUNDLE_LIMIT:,} bytes")
    try:
        document = json.loads(bundle)
        document["verificationMaterial"].setdefault("tlogEntries", [])  # some tools leave it out
        read = Bundle.from_dict(document)
    except _MISFIT as error:
        raise ModelUntrusted(f"{BUNDLE_FILE} is not a bundle of the OpenSSF model-signing format 1.0 (model-signing >= 1.1)") from error
    if read.dsse_envelope is None or len(read.dsse_envelope.signatures) != 1:
        raise ModelUntrusted(f"{BUNDLE_FILE} must hold one statement with one signature")
    return read


def _signer(material: VerificationMaterial, trust: ModelTrust, now: datetime) -> tuple[Signer, ec.EllipticCurvePublicKey]:
    """Returns the claimed signer, and the key that must verify the signature. Raises ModelUntrusted when the signer is not trusted."""
    if material.x509_certificate_chain is not None:
        leaf = _trusted_leaf([one.raw_bytes for one in material.x509_certificate_chain.certificates], trust, now)
        return _named(leaf), _for_signing(leaf)
    if material.public_key is None:
        raise ModelUntrusted("it is signed by Sigstore's online method; sign it with a key or a certificate")
    keys = {_fingerprint(key): (pem, key) for pem, key in _trusted_keys(trust)}
    asked = f"{_HASH}:{material.public_key.hint}"
    if asked not in keys:
        known = ", ".join(f"{pem.file.name} ({fingerprint})" for fingerprint, (pem, _) in keys.items()) or "none"
        raise ModelUntrusted(f"it is signed with the key {asked[:80]!r}, which is not one of the trusted keys: {known}")
    pem, key = keys[asked]
    return Signer("key", pem.file.name, asked), key


def _trusted_leaf(chain: Sequence[bytes], trust: ModelTrust, now: datetime) -> x509.Certificate:
    """Returns the first certificate. The others lead from it to an authority, and all are valid now. Raises ModelUntrusted otherwise."""
    now = now.astimezone(UTC)
    store = crypto.X509Store()
    for certificate in [one for pem in trust.authorities for one in _certificates(pem)]:
        store.add_cert(crypto.X509.from_cryptography(certificate))
    store.set_time(now)
    try:
        leaf, *others = [crypto.load_certificate(crypto.FILETYPE_ASN1, one) for one in chain]
        crypto.X509StoreContext(store, leaf, others).verify_certificate()
        return leaf.to_cryptography()
    except crypto.X509StoreContextError as error:
        raise ModelUntrusted(f"its certificate is not trusted at {now:%Y-%m-%d %H:%M} UTC: {error}") from error
    except (ValueError, crypto.Error) as error:
        raise ModelUntrusted(f"the certificates in {BUNDLE_FILE} cannot be read") from error


def _for_signing(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """Returns the certificate's key. Raises ModelUntrusted when it was issued for another purpose than signing, such as a server's TLS."""
    try:
        extensions, key = certificate.extensions, certificate.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise ModelUntrusted(f"the certificate of {certificate.subject.rfc4514_string()} cannot be read: {error}") from error
    usages = [one.value.digital_signature for one in extensions if isinstance(one.value, x509.KeyUsage)]
    usages += [ExtendedKeyUsageOID.CODE_SIGNING in one.value for one in extensions if isinstance(one.value, x509.ExtendedKeyUsage)]
    if not usages or not all(usages):
        raise ModelUntrusted(
            f"the certificate of {certificate.subject.rfc4514_string()} was not issued for signing: its key usage must have"
            " digitalSignature, and its extended key usage, if it has one, codeSigning"
        )
    if not _fits(key):
        raise ModelUntrusted(f"the certificate of {certificate.subject.rfc4514_string()} has a key that is not P-256, P-384 or P-521")
    return key


def _same(digests: Mapping[str, str], signed: statements.Manifest) -> None:
    found = {one.identifier: one.digest for one in signed.resource_descriptors()}
    problems = [f"{file!r:.80} was signed but is not a file of a version" for file in found if file not in digests]
    for file, digest in sorted(digests.items()):
        if file not in found:
            problems.append(f"{file} was not signed")
        elif found[file].algorithm != _HASH:
            problems.append(f"{file} was signed with the digest {found[file].algorithm!r:.20}, not SHA-256")
        elif f"{_HASH}:{found[file].digest_hex}" != digest:
            problems.append(f"{file} is not the file that was signed")
    if problems:
        raise ModelUntrusted(f"{'; '.join(problems[:6])}; sign it again (penstock model sign)")


# --- keys and certificates ----------------------------------------------------------------------------------------------


def _trusted_keys(trust: ModelTrust) -> Iterator[tuple[Pem, ec.EllipticCurvePublicKey]]:
    for pem in trust.keys:
        try:
            key = serialization.load_pem_public_key(pem.data)
        except (ValueError, UnsupportedAlgorithm) as error:
            what = "a private key, which must stay with its owner" if b"PRIVATE KEY" in pem.data else "not a public key in PEM"
            raise ConfigError(f"model_trust: {pem.file} is {what}; give the public one: openssl pkey -in KEY -pubout") from error
        if not _fits(key):
            raise ConfigError(f"model_trust: {pem.file} is not a P-256, P-384 or P-521 key; models are signed with one of these")
        yield pem, key


def _certificates(pem: Pem) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem.data)
    except ValueError as error:
        raise ConfigError(f"{pem.file} has no certificate in PEM that can be read: {error}") from error


def _private_key(file: Path, password: bytes | None) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(_opened(file).data, password)
    except TypeError as error:  # a password is missing, or given for a key without one
        raise ConfigError(f"{file}: {error}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{file} is not a private key in PEM, or the password is wrong: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not _fits(key.public_key()):
        raise ConfigError(f"{file} is not a P-256, P-384 or P-521 key; models are signed with one of these")
    return key


def _fits(key: object) -> TypeGuard[ec.EllipticCurvePublicKey]:
    """Whether the format allows the key."""
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1)


def _issued_for(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, file: str, now: datetime) -> None:
    """Raises ConfigError for a certificate that a later check of the signature would reject."""
    try:
        public = _for_signing(certificate)
    except ModelUntrusted as error:
        raise ConfigError(f"{file}: {error}") from error
    if public != key.public_key():
        raise ConfigError(f"{file} is not the certificate of this key: give the key's certificate first, then the chain to the authority")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise ConfigError(f"{file} is valid from {certificate.not_valid_before_utc} to {certificate.not_valid_after_utc}")


def _opened(file: Path) -> Pem:
    try:
        return Pem(file, read_regular(file, BUNDLE_LIMIT))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error


def _named(certificate: x509.Certificate) -> Signer:
    return Signer("certificate", certificate.subject.rfc4514_string(), f"{_HASH}:{certificate.fingerprint(hashes.SHA256()).hex()}")


def _fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Returns the fingerprint that the format uses: that of the key in PEM."""
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"{_HASH}:{hashlib.sha256(pem).hexdigest()}"
