"""A signature counts when somebody trusted made it over exactly these files; everything else is refused with its reason."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import model_signing
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError, ModelUntrusted
from penstock.model.artifact import Artifact, digest_of
from penstock.model.signer import ModelTrust, Pem, Signer
from penstock.model.signing import Signed, check_signature, is_encrypted, sign
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from tests.unit.model.issued import NOW, Issued, PrivateKey, authority, issue, private_pem, public_pem

FILES = {"model.onnx": digest_of(b"model"), "model.toml": digest_of(b"manifest"), "golden.json": digest_of(b"golden")}
KEY = ec.generate_private_key(ec.SECP256R1())
ROOT = authority("root")


def trusting(*keys: PrivateKey, authorities: tuple[Issued, ...] = ()) -> ModelTrust:
    return ModelTrust(
        tuple(Pem(Path(f"key-{number}.pem"), public_pem(key)) for number, key in enumerate(keys)),
        tuple(Pem(Path(f"authority-{number}.crt"), one.pem) for number, one in enumerate(authorities)),
    )


def by_key(folder: Path, key: PrivateKey = KEY, files: Mapping[str, str] = FILES, password: bytes | None = None) -> Signed:
    (folder / "private.pem").write_bytes(private_pem(key, password))
    return sign(files, subject="1", key=folder / "private.pem", password=password, now=NOW)


def by_certificate(folder: Path, who: Issued, *chain: Issued) -> Signed:
    """Signs on the first day of the certificate: when it is looked at is what the tests are about."""
    certificate, key = who.files(folder, "who")
    more = [one.files(folder, f"chain-{number}")[0] for number, one in enumerate(chain)]
    return sign(FILES, subject="1", key=key, certificates=[certificate, *more], now=who.certificate.not_valid_before_utc)


def forged(signed: Signed, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The bundle with its JSON changed."""
    document = json.loads(signed.bundle)
    change(document)
    return json.dumps(document).encode()


def resigned(signed: Signed, change: Mapping[str, Any]) -> bytes:
    """The bundle with another statement, signed by the same key: what a trusted person may do with other tools."""
    document = json.loads(signed.bundle)
    envelope = document["dsseEnvelope"]
    payload = json.dumps({**json.loads(base64.b64decode(envelope["payload"])), **change}).encode()
    message = b"DSSEv1 %d %s %d %s" % (len(envelope["payloadType"]), envelope["payloadType"].encode(), len(payload), payload)
    envelope["payload"] = base64.b64encode(payload).decode()
    envelope["signatures"][0]["sig"] = base64.b64encode(KEY.sign(message, ec.ECDSA(hashes.SHA256()))).decode()
    return json.dumps(document).encode()


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_key_that_is_trusted_vouches(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    signed = by_key(tmp_path, key)
    signer = check_signature(FILES, signed.bundle, trusting(KEY, key), now=NOW)
    assert signer == Signer("key", "key-1.pem", digest_of(public_pem(key))), "the fingerprint is what sha256sum says of the file"
    assert signed.signer.fingerprint == signer.fingerprint


def test_nothing_is_asked_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    who = issue("alice", ROOT)
    assert check_signature(FILES, by_certificate(tmp_path, who).bundle, trusting(authorities=(ROOT,)), now=NOW).name == "CN=alice"
    assert check_signature(FILES, by_key(tmp_path).bundle, trusting(KEY), now=NOW).kind == "key"


@pytest.mark.parametrize("file", FILES)
def test_file_that_changed_is_named(tmp_path: Path, file: str) -> None:
    with pytest.raises(ModelUntrusted, match=f"^{file} is not the file that was signed; sign it again"):
        check_signature({**FILES, file: digest_of(b"other")}, by_key(tmp_path).bundle, trusting(KEY), now=NOW)


def test_files_beyond_and_short_of_a_version_are_named(tmp_path: Path) -> None:
    less = {file: digest for file, digest in FILES.items() if file != "golden.json"}
    with pytest.raises(ModelUntrusted, match=r"^golden\.json was not signed;"):
        check_signature(FILES, by_key(tmp_path, files=less).bundle, trusting(KEY), now=NOW)
    with pytest.raises(ModelUntrusted, match=r"^'more\.so' was signed but is not a file of a version;"):
        check_signature(FILES, by_key(tmp_path, files={**FILES, "more.so": digest_of(b"")}).bundle, trusting(KEY), now=NOW)


def test_stranger_is_told_by_the_fingerprint(tmp_path: Path) -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    bundle = by_key(tmp_path, stranger).bundle
    with pytest.raises(ModelUntrusted, match=rf"the key '{digest_of(public_pem(stranger))}'.*trusted keys: key-0\.pem \(sha256:"):
        check_signature(FILES, bundle, trusting(KEY), now=NOW)
    with pytest.raises(ModelUntrusted, match="trusted keys: none"):
        check_signature(FILES, bundle, trusting(authorities=(ROOT,)), now=NOW)


def test_fingerprint_of_another_does_not_help(tmp_path: Path) -> None:
    """A stranger's signature that claims to be made with a trusted key."""
    hint = digest_of(public_pem(KEY)).removeprefix("sha256:")
    stranger = by_key(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    bundle = forged(stranger, lambda document: document["verificationMaterial"]["publicKey"].update(hint=hint))
    with pytest.raises(ModelUntrusted, match=r"model\.sig was altered, or was not made by key key-0\.pem"):
        check_signature(FILES, bundle, trusting(KEY), now=NOW)


def test_altered_statement_is_refused(tmp_path: Path) -> None:
    other = json.loads(by_key(tmp_path, files={**FILES, "model.onnx": digest_of(b"other")}).bundle)["dsseEnvelope"]["payload"]
    bundle = forged(by_key(tmp_path), lambda document: document["dsseEnvelope"].update(payload=other))
    with pytest.raises(ModelUntrusted, match="was altered"):
        check_signature({**FILES, "model.onnx": digest_of(b"other")}, bundle, trusting(KEY), now=NOW)


# --- certificates -------------------------------------------------------------------------------------------------------


def test_certificate_of_a_trusted_authority_vouches(tmp_path: Path) -> None:
    team = authority("team", ROOT)
    signed = by_certificate(tmp_path, issue("alice", team), team)
    signer = check_signature(FILES, signed.bundle, trusting(authorities=(ROOT,)), now=NOW)
    assert (signer.kind, signer.name) == ("certificate", "CN=alice")
    assert signer == signed.signer


def test_chain_may_lie_with_those_who_check(tmp_path: Path) -> None:
    team = authority("team", ROOT)
    bundle = by_certificate(tmp_path, issue("alice", team)).bundle
    assert check_signature(FILES, bundle, trusting(authorities=(ROOT, team)), now=NOW).name == "CN=alice"
    with pytest.raises(ModelUntrusted, match="unable to get local issuer certificate"):
        check_signature(FILES, bundle, trusting(authorities=(ROOT,)), now=NOW)


@pytest.mark.parametrize("trusted", [(), (authority("root"),)], ids=["nobody", "another of that name"])
def test_authority_that_is_not_trusted(tmp_path: Path, trusted: tuple[Issued, ...]) -> None:
    """With nobody to trust, the system's web authorities must not take their place."""
    bundle = by_certificate(tmp_path, issue("alice", ROOT), ROOT).bundle
    with pytest.raises(ModelUntrusted, match="its certificate is not trusted at 2026-06-01 12:00 UTC: "):
        check_signature(FILES, bundle, trusting(KEY, authorities=trusted), now=NOW)


@pytest.mark.parametrize("days", [-40, 40], ids=["not yet", "no more"])
def test_certificate_that_is_not_valid_now(tmp_path: Path, days: int) -> None:
    """It was when the model was signed; without a time stamp nobody can tell."""
    bundle = by_certificate(tmp_path, issue("alice", ROOT)).bundle
    with pytest.raises(ModelUntrusted, match="certificate has expired" if days > 0 else "certificate is not yet valid"):
        check_signature(FILES, bundle, trusting(authorities=(ROOT,)), now=NOW + timedelta(days=days))


def test_authority_in_between_that_has_expired(tmp_path: Path) -> None:
    team = authority("team", ROOT, until=NOW - timedelta(days=1))
    with pytest.raises(ModelUntrusted, match="certificate has expired"):
        check_signature(FILES, by_certificate(tmp_path, issue("alice", team), team).bundle, trusting(authorities=(ROOT,)), now=NOW)


def test_person_cannot_act_as_authority(tmp_path: Path) -> None:
    alice = issue("alice", ROOT)
    bundle = by_certificate(tmp_path, issue("mallory", alice), alice).bundle
    with pytest.raises(ModelUntrusted, match="is not trusted at"):
        check_signature(FILES, bundle, trusting(authorities=(ROOT,)), now=NOW)


SERVER = (ExtendedKeyUsageOID.SERVER_AUTH,)
CODE = (ExtendedKeyUsageOID.CODE_SIGNING,)


@pytest.mark.parametrize(("signs", "purposes"), [(False, ()), (True, SERVER), (None, SERVER), (None, ()), (False, CODE)])
def test_certificate_that_was_issued_for_something_else(
    tmp_path: Path, signs: bool | None, purposes: tuple[x509.ObjectIdentifier, ...]
) -> None:
    """A TLS server's, say: its key lies on a machine that anybody may reach. Neither signed with, nor taken when others sign with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    wrong, right = issue("web", ROOT, key=key, signs=signs, purposes=purposes), issue("web", ROOT, key=key)
    with pytest.raises(ConfigError, match=r"who\.crt: the certificate of CN=web was not issued for signing"):
        by_certificate(tmp_path, wrong)
    der = base64.b64encode(wrong.certificate.public_bytes(Encoding.DER)).decode()
    chain = {"certificates": [{"rawBytes": der}]}
    bundle = forged(by_certificate(tmp_path, right), lambda document: document["verificationMaterial"].update(x509CertificateChain=chain))
    with pytest.raises(ModelUntrusted, match="was not issued for signing"):
        check_signature(FILES, bundle, trusting(authorities=(ROOT,)), now=NOW)


def test_certificate_for_signing_without_extended_usage_is_enough(tmp_path: Path) -> None:
    bundle = by_certificate(tmp_path, issue("alice", ROOT, purposes=())).bundle
    assert check_signature(FILES, bundle, trusting(authorities=(ROOT,)), now=NOW).name == "CN=alice"


def test_certificate_of_another_key_is_not_signed_with(tmp_path: Path) -> None:
    certificate, _ = issue("alice", ROOT).files(tmp_path, "alice")
    _, key = issue("bob", ROOT).files(tmp_path, "bob")
    with pytest.raises(ConfigError, match=r"alice\.crt is not the certificate of this key"):
        sign(FILES, subject="1", key=key, certificates=[certificate], now=NOW)
    certificate, key = issue("late", ROOT).files(tmp_path, "late")
    with pytest.raises(ConfigError, match=r"late\.crt is valid from 2026-05-02 .* to 2026-07-01"):
        sign(FILES, subject="1", key=key, certificates=[certificate], now=NOW + timedelta(days=31))


# --- what is not a bundle -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bundle", [b"", b"\x00\xff", b"[]", b"{}", b'{"verificationMaterial": {}}', b"[" * 100_000], ids=str)
def test_garbage_is_refused(bundle: bytes) -> None:
    with pytest.raises(ModelUntrusted, match=r"^model\.sig is not a bundle of the OpenSSF model-signing format 1\.0"):
        check_signature(FILES, bundle, trusting(KEY), now=NOW)


def test_huge_bundle_is_refused_unread() -> None:
    with pytest.raises(ModelUntrusted, match=r"^model\.sig is larger than 1,048,576 bytes"):
        check_signature(FILES, b" " * (1024**2 + 1), trusting(KEY), now=NOW)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return by_key(tmp_path_factory.mktemp("signed"))


PLACES = [
    ("mediaType",), ("verificationMaterial",), ("verificationMaterial", "publicKey"), ("verificationMaterial", "publicKey", "hint"),
    ("dsseEnvelope",), ("dsseEnvelope", "payload"), ("dsseEnvelope", "payloadType"), ("dsseEnvelope", "signatures"),
]  # fmt: skip


@given(
    place=st.sampled_from(PLACES),
    value=st.recursive(st.none() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=2), max_leaves=3),
)
def test_whatever_stands_in_a_bundle_ends_as_untrusted(signed: Signed, place: tuple[str, ...], value: object) -> None:
    """Any value in any place, and never another exception."""

    def put(document: dict[str, Any]) -> None:
        for name in place[:-1]:
            document = document[name]
        document[place[-1]] = value

    with pytest.raises(ModelUntrusted):
        check_signature(FILES, forged(signed, put), trusting(KEY, authorities=(ROOT,)), now=NOW)


@pytest.mark.parametrize(
    ("chain", "said"),
    [
        ({"certificates": []}, "the certificates in model.sig cannot be read"),
        ({"certificates": [{"rawBytes": "AAAA"}]}, "the certificates in model.sig cannot be read"),
    ],
)
def test_chain_that_is_none(signed: Signed, chain: object, said: str) -> None:
    bundle = forged(signed, lambda document: document.update(verificationMaterial={"x509CertificateChain": chain}))
    with pytest.raises(ModelUntrusted, match=said):
        check_signature(FILES, bundle, trusting(authorities=(ROOT,)), now=NOW)


def test_online_signatures_are_refused_as_such(signed: Signed) -> None:
    bundle = forged(signed, lambda document: document.update(verificationMaterial={"certificate": {"rawBytes": "AAAA"}}))
    with pytest.raises(ModelUntrusted, match="signed by Sigstore's online method; sign it with a key or a certificate"):
        check_signature(FILES, bundle, trusting(KEY), now=NOW)


def test_second_signature_is_refused(signed: Signed) -> None:
    def double(document: dict[str, Any]) -> None:
        document["dsseEnvelope"]["signatures"] *= 2

    with pytest.raises(ModelUntrusted, match="must hold one statement with one signature"):
        check_signature(FILES, forged(signed, double), trusting(KEY), now=NOW)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"predicateType": "https://example.org"}, "not one of the OpenSSF model-signing format"),
        ({"_type": "other"}, "not one of the OpenSSF model-signing format"),
        ({"predicate": None}, "not one of the OpenSSF model-signing format"),
        ({"subject": [{"name": "1", "digest": {"sha256": "00"}}]}, "Manifest is inconsistent"),
    ],
)
def test_other_things_that_a_trusted_key_signed_are_no_signature(signed: Signed, change: dict[str, Any], said: str) -> None:
    """The same key may sign other statements in the same envelope."""
    with pytest.raises(ModelUntrusted, match=rf"the statement of key key-0\.pem .*{said}|{said}"):
        check_signature(FILES, resigned(signed, change), trusting(KEY), now=NOW)


def test_digest_of_another_kind_is_not_taken_for_ours(signed: Signed) -> None:
    statement = json.loads(base64.b64decode(json.loads(signed.bundle)["dsseEnvelope"]["payload"]))
    for resource in statement["predicate"]["resources"]:
        resource["algorithm"] = "blake2"
    with pytest.raises(ModelUntrusted, match=r"^golden\.json was signed with the digest 'blake2', not SHA-256; "):
        check_signature(FILES, resigned(signed, statement), trusting(KEY), now=NOW)


# --- keys ---------------------------------------------------------------------------------------------------------------


def test_encrypted_key_signs_with_its_password_only(tmp_path: Path) -> None:
    assert check_signature(FILES, by_key(tmp_path, password=b"open").bundle, trusting(KEY), now=NOW).kind == "key"
    key = tmp_path / "private.pem"
    assert is_encrypted(key)
    for password, said in (
        (b"wrong", "is not a private key in PEM, or the password is wrong"),
        (None, "Password was not given"),
    ):
        with pytest.raises(ConfigError, match=said):
            sign(FILES, subject="1", key=key, password=password, now=NOW)


def test_encrypted_key_signs_with_a_certificate_too(tmp_path: Path) -> None:
    alice = issue("alice", ROOT)
    certificate, key = alice.files(tmp_path, "alice")
    key.write_bytes(private_pem(alice.key, b"open"))
    signed = sign(FILES, subject="1", key=key, password=b"open", certificates=[certificate], now=NOW)
    assert check_signature(FILES, signed.bundle, trusting(authorities=(ROOT,)), now=NOW).name == "CN=alice"


RSA = rsa.generate_private_key(65537, 2048)
ODD = ec.generate_private_key(ec.SECP256K1())


@pytest.mark.parametrize("key", [RSA, ODD], ids=["RSA", "secp256k1"])
def test_key_of_another_kind_neither_signs_nor_is_trusted(tmp_path: Path, signed: Signed, key: PrivateKey) -> None:
    (tmp_path / "private.pem").write_bytes(private_pem(key))
    with pytest.raises(ConfigError, match=r"private\.pem is not a P-256, P-384 or P-521 key"):
        sign(FILES, subject="1", key=tmp_path / "private.pem", now=NOW)
    with pytest.raises(ConfigError, match=r"model_trust: key-0\.pem is not a P-256, P-384 or P-521 key"):
        check_signature(FILES, signed.bundle, trusting(key), now=NOW)
    alice = issue("alice", ROOT, key=key)
    chain = {"certificates": [{"rawBytes": base64.b64encode(alice.certificate.public_bytes(Encoding.DER)).decode()}]}
    bundle = forged(signed, lambda document: document.update(verificationMaterial={"x509CertificateChain": chain}))
    with pytest.raises(ModelUntrusted, match="the certificate of CN=alice has a key that is not P-256, P-384 or P-521"):
        check_signature(FILES, bundle, trusting(authorities=(ROOT,)), now=NOW)


def test_files_that_are_no_keys_are_named(tmp_path: Path, signed: Signed) -> None:
    def check(name: str, data: bytes) -> None:
        pem = Pem(Path(name), data)
        trust = ModelTrust((pem,)) if name.endswith(".pem") else ModelTrust(authorities=(pem,))
        chain = {"certificates": [{"rawBytes": base64.b64encode(ROOT.certificate.public_bytes(Encoding.DER)).decode()}]}
        material = json.loads(signed.bundle)["verificationMaterial"] if trust.keys else {"x509CertificateChain": chain}
        check_signature(FILES, forged(signed, lambda document: document.update(verificationMaterial=material)), trust, now=NOW)

    with pytest.raises(ConfigError, match=r"model_trust: a\.pem is a private key, which must stay with its owner; give the public one"):
        check("a.pem", private_pem(KEY))
    with pytest.raises(ConfigError, match=r"model_trust: a\.pem is not a public key in PEM"):
        check("a.pem", b"key")
    with pytest.raises(ConfigError, match=r"^a\.crt has no certificate in PEM that can be read"):
        check("a.crt", public_pem(KEY))
    with pytest.raises(ConfigError, match=r"absent\.pem cannot be read: No such file"):
        sign(FILES, subject="1", key=tmp_path / "absent.pem", now=NOW)


# --- with the library's own tools ---------------------------------------------------------------------------------------


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return DirectoryRegistry(tmp_path / "models").publish("score", models.linear([1, 2]))


def test_library_accepts_what_we_sign(tmp_path: Path, artifact: Artifact) -> None:
    """Others check our models by the format's own tool, on the folder as it is in the registry."""
    (tmp_path / "public.pem").write_bytes(public_pem(KEY))
    bundle = DirectoryRegistry(tmp_path / "models").add_bundle(artifact, by_key(tmp_path, files=artifact.digests).bundle)
    config: Any = model_signing.verifying.Config  # its constructor has no types
    theirs = config().use_elliptic_key_verifier(public_key=tmp_path / "public.pem")
    theirs.verify(artifact.path, bundle)
    (artifact.path / "more").write_text("")
    with pytest.raises(ValueError, match="Extra files found"):
        theirs.verify(artifact.path, bundle)


def test_we_accept_what_the_library_signs(tmp_path: Path, artifact: Artifact) -> None:
    alice = issue("alice", ROOT)
    certificate, key = alice.files(tmp_path, "alice")
    root, _ = ROOT.files(tmp_path, "root")
    config: Any = model_signing.signing.Config  # its constructor has no types
    theirs = config()
    theirs.use_elliptic_key_signer(private_key=key).sign(artifact.path, tmp_path / "key.sig")
    theirs.use_certificate_signer(private_key=key, signing_certificate=certificate, certificate_chain=[root])
    theirs.sign(artifact.path, tmp_path / "certificate.sig")
    trust = trusting(alice.key, authorities=(ROOT,))
    assert check_signature(artifact.digests, (tmp_path / "key.sig").read_bytes(), trust, now=NOW).name == "key-0.pem"
    assert check_signature(artifact.digests, (tmp_path / "certificate.sig").read_bytes(), trust, now=NOW).name == "CN=alice"
