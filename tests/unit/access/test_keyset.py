"""The keys of an issuer: from a real server, as they change, and while it is away; and sets that try to do harm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock.access.keyset as module
from penstock.access import Gate
from penstock.access.keyset import KEYS, MOST, parse
from penstock.errors import KeysWanted, TransportUnavailable, Unauthenticated
from tests.clock import Clock
from tests.kafka.certificates import Authority
from tests.unit.access.identity import NOW, Provider, jwk, published, token

ONE, TWO = jwk("EdDSA", "one"), jwk("EdDSA", "two", 1)


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider.open(published(ONE)) as provider:
        yield provider


def gate(folder: Path, clock: Clock, url: str, more: str = "") -> Gate:
    path = folder / "access.toml"
    path.write_text(
        f'[callers.shops]\nmay = ["score"]\ntopologies = ["*"]\ntokens = [{{ issuer = "company" }}]\n\n[issuers.company]\n'
        f'issuer = "https://login.example.org"\naudience = ["penstock"]\njwks = "{url}"\n{more}'
    )
    return Gate.open(path, clock)


def name(gate: Gate, text: str) -> str:
    """Admits as a server does: where keys have to be fetched, it waits."""
    return asyncio.run(gate.admitted(f"Bearer {text}", None)).name


def later(clock: Clock, **claims: Any) -> str:
    """A token that is made now."""
    return token(iat=clock.now, exp=clock.now + 60, **claims)


def test_keys_are_fetched_at_the_start_and_not_again(tmp_path: Path, clock: Clock, provider: Provider) -> None:
    opened = gate(tmp_path, clock, provider.url)
    assert provider.asked == 1
    for number in range(20):
        opened.admit(f"Bearer {token(jti=str(number))}", None)
    assert provider.asked == 1


def test_new_key_is_fetched_when_a_token_names_it(tmp_path: Path, clock: Clock, provider: Provider) -> None:
    """Rotation: the issuer has published a key since, and signs with it."""
    opened = gate(tmp_path, clock, provider.url)
    provider.body = published(ONE, TWO)
    clock.now += 10
    text = later(clock, kid="two", number=1)
    with pytest.raises(KeysWanted):
        opened.admit(f"Bearer {text}", None)
    assert name(opened, text) == "shops"
    assert provider.asked == 2
    opened.admit(f"Bearer {text}", None)


def test_withdrawn_key_ends_with_the_next_fetch(tmp_path: Path, clock: Clock, provider: Provider) -> None:
    opened = gate(tmp_path, clock, provider.url)
    provider.body = published(TWO)
    clock.now += 10
    assert name(opened, later(clock)) == "shops"
    assert name(opened, later(clock, kid="two", number=1)) == "shops"
    with pytest.raises(Unauthenticated) as found:
        opened.admit(f"Bearer {later(clock)}", None)
    assert found.value.code == "unknown-key"


def test_unknown_keys_do_not_make_the_issuer_a_target(tmp_path: Path, clock: Clock, provider: Provider) -> None:
    """A thousand tokens with key ids of the attacker's, within ten seconds: one question at most."""
    opened = gate(tmp_path, clock, provider.url)
    clock.now += 10

    async def attack() -> list[Any]:
        texts = [later(clock, kid=f"k{number}") for number in range(1000)]
        return await asyncio.gather(*(opened.admitted(f"Bearer {text}", None) for text in texts), return_exceptions=True)

    outcomes = asyncio.run(attack())
    assert {type(one) for one in outcomes} == {Unauthenticated}
    assert provider.asked == 2


def test_keys_are_fetched_again_after_a_while_without_delay(tmp_path: Path, clock: Clock, provider: Provider) -> None:
    """A request that comes when the keys are old is answered with them; they are fetched beside it."""
    opened = gate(tmp_path, clock, provider.url)
    provider.body = published(ONE, TWO)
    clock.now += module.REFRESH
    opened.admit(f"Bearer {later(clock)}", None)
    assert opened._tokens is not None
    opened._tokens.fetch()
    assert opened.admit(f"Bearer {later(clock, kid='two', number=1)}", None).name == "shops"
    assert provider.asked == 2


def test_known_token_ends_with_the_keys_of_an_issuer_that_is_away(tmp_path: Path, clock: Clock, provider: Provider) -> None:
    opened = gate(tmp_path, clock, provider.url, "keep = 1000\n")
    text = token(exp=clock.now + 86_400)
    opened.admit(f"Bearer {text}", None)
    provider.status = 503
    clock.now += 1000
    with pytest.raises(TransportUnavailable):
        name(opened, text)


def test_known_token_has_old_keys_fetched_again(tmp_path: Path, clock: Clock, provider: Provider) -> None:
    """Otherwise a caller with one long token would never learn that its key was withdrawn."""
    opened = gate(tmp_path, clock, provider.url)
    text = token(exp=clock.now + 86_400)
    opened.admit(f"Bearer {text}", None)
    provider.body = published(TWO)
    clock.now += module.REFRESH
    with contextlib.suppress(Unauthenticated):  # where the keys, which this request asks for, have come before it is decided
        opened.admit(f"Bearer {text}", None)
    assert opened._tokens is not None
    opened._tokens.fetch()  # waits for the one that has begun
    with pytest.raises(Unauthenticated):
        opened.admit(f"Bearer {text}", None)


def test_last_keys_serve_for_a_stated_time(tmp_path: Path, clock: Clock, provider: Provider) -> None:
    opened = gate(tmp_path, clock, provider.url, "keep = 1000\n")
    provider.status = 503
    clock.now += 999
    assert name(opened, later(clock)) == "shops"
    clock.now += 11
    with pytest.raises(TransportUnavailable, match="keys of the issuer company cannot be fetched"):
        name(opened, later(clock))
    provider.status = 200
    clock.now += 10
    assert name(opened, later(clock)) == "shops"


def test_answer_that_is_no_set_of_keys_leaves_the_last_ones(
    tmp_path: Path, clock: Clock, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    opened = gate(tmp_path, clock, provider.url)
    for body in (b"", b"<html>", b"[]", b'{"keys": []}', b'{"keys": {}}', b"[" * 100_000, b" " * (MOST + 1), published(ONE)[:-5]):
        provider.body = body
        clock.now += 10
        with pytest.raises(Unauthenticated):
            name(opened, later(clock, kid="two", number=1))
        assert name(opened, later(clock)) == "shops"
    assert "the keys of the issuer company stay as they are" in caplog.text


def test_redirect_is_not_followed(tmp_path: Path, clock: Clock, provider: Provider) -> None:
    """It could lead to any host that this one reaches."""
    provider.status, provider.location = 302, provider.url
    opened = gate(tmp_path, clock, provider.url)
    assert provider.asked == 1
    clock.now += 10
    with pytest.raises(TransportUnavailable):
        name(opened, later(clock))


def test_silent_server_holds_up_only_those_who_wait_for_it(
    tmp_path: Path, clock: Clock, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    opened = gate(tmp_path, clock, provider.url)
    provider.silent = True
    clock.now += 10

    async def both() -> list[Any]:
        waiting = asyncio.create_task(opened.admitted(f"Bearer {later(clock, kid='two', number=1)}", None))
        await asyncio.sleep(0)
        admitted = opened.admit(f"Bearer {later(clock)}", None).name, waiting.done()
        return [admitted, *await asyncio.gather(waiting, return_exceptions=True)]

    admitted, refused = asyncio.run(both())
    assert admitted == ("shops", False)
    assert isinstance(refused, Unauthenticated)


def test_service_starts_without_its_issuer(tmp_path: Path, clock: Clock, provider: Provider) -> None:
    """API keys and certificates work meanwhile; tokens do as soon as it answers."""
    provider.status = 500
    opened = gate(tmp_path, clock, provider.url)
    with pytest.raises(TransportUnavailable):
        opened.admit(f"Bearer {token()}", None)
    provider.status = 200
    clock.now += 10
    assert name(opened, later(clock)) == "shops"


def test_server_needs_a_certificate_of_the_authority(tmp_path: Path, clock: Clock) -> None:
    authority = Authority(tmp_path, "authority")
    own = authority.sign("login", "DNS:localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.key)
    with Provider.open(published(ONE), context) as provider:
        assert name(gate(tmp_path, clock, provider.url, 'ca = "authority.pem"\n'), token()) == "shops"
        with pytest.raises(TransportUnavailable):
            name(gate(tmp_path, clock, provider.url), token())
        other = Authority(tmp_path, "other")
        with pytest.raises(TransportUnavailable):
            name(gate(tmp_path, clock, provider.url, f'ca = "{other.certificate.name}"\n'), token())


def test_issuers_of_a_changed_file_keep_their_keys(tmp_path: Path, clock: Clock, provider: Provider) -> None:
    opened = gate(tmp_path, clock, provider.url)
    path = tmp_path / "access.toml"
    path.write_text(path.read_text() + f'\n[issuers.other]\nissuer = "o"\naudience = ["penstock"]\njwks = "{provider.url}"\n')
    clock.now += 1
    assert opened.admit(f"Bearer {token(iat=clock.now)}", None).name == "shops"
    assert provider.asked == 1, "the new issuer is asked when a token is its"
    assert opened.problem == ""


def test_file_of_keys_is_read_again(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(published(ONE))
    opened = gate(tmp_path, clock, "keys.json")
    file.write_bytes(published(ONE, TWO))
    clock.now += 1
    opened.admit(f"Bearer {token(kid='two', number=1)}", None)
    for spoil in (lambda: file.write_text("{"), file.unlink):
        spoil()
        clock.now += 1
        opened.admit(f"Bearer {token(jti=str(clock.now))}", None)
    assert len([record for record in caplog.records if "stay as they are" in record.getMessage()]) == 2


# --- sets of keys -----------------------------------------------------------------------------------------------------


def usable(*keys: Any) -> list[tuple[str, str]]:
    try:
        return sorted(parse(json.dumps({"keys": keys}).encode()))
    except ValueError:
        return []


def test_keys_for_other_purposes_are_passed_over() -> None:
    odd: list[Any] = [
        {**ONE, "use": "enc"}, {**ONE, "key_ops": ["sign"]}, {**ONE, "key_ops": "verify"}, {**ONE, "alg": "ES256"}, {**ONE, "kid": 1},
        {**ONE, "d": "private"}, {"kty": "oct", "k": "c2VjcmV0", "kid": "h"}, {**ONE, "crv": "Ed448"}, {**ONE, "x": "AA"}, {**ONE, "x": 1},
        {**jwk("ES256", "e"), "crv": "P-384"}, {**jwk("ES256", "e"), "y": jwk("ES256", "e")["x"]}, {"kty": ["RSA"]}, {}, None, 1, "x", [],
        {**jwk("RS256", "r"), "e": "AA"}, {**jwk("RS256", "r"), "n": ""}, {**jwk("RS256", "r"), "n": "A" * 100_000},
    ]  # fmt: skip
    for one in odd:
        assert usable(one) == [], one
    assert usable(*odd, TWO, jwk("RS256", "r"), jwk("ES256", "e", use="sig", key_ops=["verify"], alg="ES256")) == [
        ("e", "ES256"), ("r", "RS256"), ("two", "EdDSA"),
    ]  # fmt: skip


def test_weak_and_huge_rsa_keys_are_passed_over() -> None:
    """One can be broken; checking by the other takes as long as its issuer likes."""
    from jwt.utils import base64url_encode

    from tests.unit.access.identity import private

    weak = private("RS256", 9, 1024).public_key().public_numbers().n
    for bits, number in ((1024, weak), (16_384, (1 << 16_383) | 1)):
        assert usable({**jwk("RS256", "r"), "n": base64url_encode(number.to_bytes(bits // 8)).decode()}) == [], bits


def test_key_id_that_occurs_twice_is_nobodys() -> None:
    assert usable(ONE, {**TWO, "kid": "one"}) == []
    assert usable(ONE, {**TWO, "kid": "one"}, TWO) == [("two", "EdDSA")]


def test_endless_set_is_cut() -> None:
    assert usable(*[{}] * KEYS, ONE) == []
