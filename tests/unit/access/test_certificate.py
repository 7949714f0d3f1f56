"""Callers by their client certificates, which the TLS layer has checked."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from penstock.access import Gate
from penstock.access.certificate import read
from penstock.errors import Unauthenticated
from tests.clock import Clock
from tests.kafka.certificates import Authority
from tests.unit.access.identity import NOW

BEGIN = datetime.fromtimestamp(NOW, UTC)


def issued(*names: x509.GeneralName, common: str = "shop") -> bytes:
    """A certificate (DER) with these names, valid for an hour from NOW on."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example, Inc."), x509.NameAttribute(NameOID.COMMON_NAME, common)])
    made = x509.CertificateBuilder(subject, subject, key.public_key(), 1, BEGIN, BEGIN + timedelta(hours=1))
    if names:
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def gate(folder: Path, clock: Clock, *certificates: str) -> Gate:
    path = folder / "access.toml"
    listed = ", ".join(f"'{one}'" for one in certificates)
    path.write_text(f'[callers.shop]\nmay = ["score"]\ntopologies = ["*"]\ncertificates = [{listed}]\n')
    return Gate.open(path, clock)


def refused(gate: Gate, der: bytes) -> str:
    with pytest.raises(Unauthenticated) as found:
        gate.admit(None, der)
    return found.value.code


def test_names_are_those_of_the_access_file() -> None:
    found = read(
        issued(
            x509.DNSName("Shop.Example.org"), x509.UniformResourceIdentifier("spiffe://example.org/shop"),
            x509.RFC822Name("shop@example.org"), x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
        )
    )  # fmt: skip
    assert {name for name in found.names if not name.startswith("sha256:")} == {
        "dns:shop.example.org", "uri:spiffe://example.org/shop", "email:shop@example.org", r"subject:CN=shop,O=Example\, Inc.",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["dns:shop.example.org", r"subject:CN=shop,O=Example\, Inc."])
def test_certificate_admits_its_caller(tmp_path: Path, name: str) -> None:
    opened = gate(tmp_path, Clock(NOW), "dns:other", name)
    caller = opened.admit(None, issued(x509.DNSName("shop.example.org")))
    assert (caller.name, caller.subject, caller.proof) == ("shop", r"CN=shop,O=Example\, Inc.", "certificate")


def test_one_certificate_can_be_pinned(tmp_path: Path) -> None:
    der, same_name = issued(), issued()
    opened = gate(tmp_path, Clock(NOW), *(name for name in read(der).names if name.startswith("sha256:")))
    assert opened.admit(None, der).name == "shop"
    assert refused(opened, same_name) == "unknown-certificate"


def test_other_names_are_nobody(tmp_path: Path) -> None:
    """A name matches whole, in its own kind only: a certificate of an authority that both trust is not enough."""
    opened = gate(tmp_path, Clock(NOW), "dns:shop.example.org", "subject:CN=shop")
    for der in (
        issued(), issued(x509.DNSName("evil.shop.example.org")), issued(x509.DNSName("*.example.org")),
        issued(x509.UniformResourceIdentifier("shop.example.org")), issued(common="dns:shop.example.org"),
        issued(x509.DNSName("shop.example.org\x00.evil.org")), issued(common="shop,O=Example"),
    ):  # fmt: skip
        assert refused(opened, der) == "unknown-certificate"


def test_connection_does_not_outlive_its_certificate(tmp_path: Path) -> None:
    clock, der = Clock(NOW), issued(x509.DNSName("shop.example.org"))
    opened = gate(tmp_path, clock, "dns:shop.example.org")
    opened.admit(None, der)
    clock.now = NOW + 3600
    assert refused(opened, der) == "certificate-expired"
    clock.now = NOW - 1
    assert refused(opened, der) == "certificate-expired"


def test_header_comes_before_the_certificate(tmp_path: Path) -> None:
    """A bad key is refused and not passed over: whoever sends one means to be somebody else."""
    opened, der = gate(tmp_path, Clock(NOW), "dns:shop.example.org"), issued(x509.DNSName("shop.example.org"))
    with pytest.raises(Unauthenticated):
        opened.admit("Bearer x", der)


@pytest.mark.parametrize("der", [b"", b"x", b"\x30\x82" + b"\xff" * 100, b"\x00" * 1_000_000, issued()[:-10]], ids=range(5))
def test_what_is_no_certificate_is_refused(tmp_path: Path, der: bytes) -> None:
    assert refused(gate(tmp_path, Clock(NOW), "dns:a"), der) == "bad-certificate"


def test_certificate_of_openssl_is_read(tmp_path: Path) -> None:
    """Names are written as `openssl x509 -subject -nameopt RFC2253` prints them."""
    signed = Authority(tmp_path, "authority").sign("shop", "DNS:shop.example.org,URI:spiffe://example.org/shop")
    found = read(ssl.PEM_cert_to_DER_cert(signed.certificate.read_text()))
    assert {"subject:CN=shop", "dns:shop.example.org", "uri:spiffe://example.org/shop"} <= found.names
