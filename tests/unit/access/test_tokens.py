"""JSON Web Tokens: which are taken, for whom, and until when; and those that try to be."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from penstock.access import Gate
from penstock.access.gate import TOKENS
from penstock.errors import ConfigError, RateLimited, Unauthenticated
from tests.clock import Clock
from tests.unit.access.identity import ISSUER, NOW, encoded, jwk, private, published, token

FILE = """\
[callers.admins]
may = ["deploy", "score"]
topologies = ["*"]
tokens = [{ issuer = "company", claims = { groups = "admins", tenant = "a" } }]

[callers.shops]
may = ["score"]
topologies = ["flights"]
requests = 1
tokens = [{ issuer = "company", claims = { scope = "score" } }, { issuer = "company", claims = { sub = "alice" } }]

[issuers.company]
issuer = "https://login.example.org"
audience = ["penstock", "https://penstock.example.org"]
jwks = "keys.json"
"""


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "access.toml"
    path.write_text(FILE)
    (tmp_path / "keys.json").write_bytes(published(jwk("EdDSA", "one"), jwk("ES256", "two"), jwk("RS256", "three")))
    return path


@pytest.fixture
def gate(path: Path, clock: Clock) -> Gate:
    return Gate.open(path, clock)


def refused(gate: Gate, text: str) -> str:
    with pytest.raises(Unauthenticated) as found:
        gate.admit(f"Bearer {text}", None)
    return found.value.code


@pytest.mark.parametrize(("algorithm", "kid"), [("EdDSA", "one"), ("ES256", "two"), ("RS256", "three")])
def test_token_of_each_algorithm_is_taken(gate: Gate, algorithm: str, kid: str) -> None:
    caller = gate.admit(f"Bearer {token(algorithm, kid)}", None)
    assert (caller.name, caller.subject, caller.proof) == ("shops", "alice", "token company")


def test_token_without_a_key_id_is_checked_by_the_only_key_of_its_algorithm(gate: Gate, path: Path, clock: Clock) -> None:
    assert gate.admit(f"Bearer {token(kid=None)}", None).name == "shops"
    path.with_name("keys.json").write_bytes(published(jwk("EdDSA", "one"), jwk("EdDSA", "other", 1)))
    clock.now += 1
    assert refused(gate, token(kid=None, jti="x")) == "unknown-key"


def test_claims_choose_the_caller_and_the_first_one_counts(gate: Gate) -> None:
    def name(**claims: Any) -> str:
        return gate.admit(f"Bearer {token(**claims)}", None).name

    assert name(groups=["users", "admins"], tenant="a") == "admins"
    assert name(groups="admins", tenant="a") == "admins"
    assert name(groups=["admins"], tenant="b") == "shops", "every claim of a rule is needed; alice is one of the shops"
    assert name(sub="bob", scope="read score") == "shops"
    for claims in (
        {"sub": "bob"},
        {"sub": "bob", "scope": "scores read"},
        {"sub": "bob", "groups": ["admin"]},
        {"sub": None},
        {"sub": "alice "},
    ):
        assert refused(gate, token(**claims)) == "unknown-claims"


def test_owners_of_tokens_have_an_allowance_each(gate: Gate) -> None:
    alice, bob = (gate.admit(f"Bearer {token(sub=sub, scope='score')}", None) for sub in ("alice", "bob"))
    again = gate.admit(f"Bearer {token(sub='alice', scope='score', jti='another token of hers')}", None)
    alice.spend(1)
    bob.spend(1)
    with pytest.raises(RateLimited):
        again.spend(1)


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"exp": NOW - 31}, "expired"),
        ({"exp": NOW - 29}, ""),
        ({"exp": None}, "bad-token"),
        ({"exp": "soon"}, "bad-token"),
        ({"exp": True}, "bad-token"),
        ({"exp": 1e300}, "bad-token"),
        ({"exp": float("inf")}, "bad-token"),
        ({"exp": [NOW + 60]}, "bad-token"),
        ({"nbf": NOW + 31}, "not-yet-valid"),
        ({"nbf": NOW + 29}, ""),
        ({"iat": NOW + 31}, "not-yet-valid"),
        ({"iat": "x"}, "bad-token"),
        ({"nbf": {}}, "bad-token"),
        ({"sub": "x" * 256}, "bad-token"),
        ({"sub": ["alice"]}, "bad-token"),
        ({"iss": "https://login.example.org/"}, "unknown-issuer"),
        ({"iss": None}, "unknown-issuer"),
        ({"iss": [ISSUER]}, "unknown-issuer"),
        ({"aud": "other"}, "wrong-audience"),
        ({"aud": None}, "wrong-audience"),
        ({"aud": []}, "wrong-audience"),
        ({"aud": {"penstock": 1}}, "wrong-audience"),
        ({"aud": ["other", "penstock"]}, ""),
        ({"aud": "https://penstock.example.org"}, ""),
    ],
)  # fmt: skip
def test_claims_are_checked(gate: Gate, claims: dict[str, Any], code: str) -> None:
    import jwt

    try:
        text = token(**claims)
    except TypeError:  # the library does not write such claims
        claimed = {"iss": ISSUER, "aud": "penstock", "sub": "alice", "exp": NOW + 60, **claims}
        text = jwt.PyJWS().encode(json.dumps(claimed).encode(), private("EdDSA"), "EdDSA", headers={"kid": "one"})
    if code:
        assert refused(gate, text) == code
    else:
        assert gate.admit(f"Bearer {text}", None).name == "shops"


def test_token_that_was_taken_ends_at_its_time(gate: Gate, clock: Clock) -> None:
    """Checked tokens are remembered, and not for longer than they count."""
    text = token()
    gate.admit(f"Bearer {text}", None)
    clock.now = NOW + 89
    gate.admit(f"Bearer {text}", None)
    clock.now = NOW + 90
    assert refused(gate, text) == "expired"


def test_token_that_was_taken_ends_with_its_key(gate: Gate, path: Path, clock: Clock) -> None:
    """Also when no other token comes in between."""
    text = token()
    gate.admit(f"Bearer {text}", None)
    path.with_name("keys.json").write_bytes(published(jwk("EdDSA", "new", 1)))
    clock.now += 1
    assert refused(gate, text) == "unknown-key"


def test_token_that_was_taken_ends_with_its_caller(gate: Gate, path: Path, clock: Clock) -> None:
    text = token()
    gate.admit(f"Bearer {text}", None)
    path.write_text(FILE.replace('sub = "alice"', 'sub = "bob"'))
    clock.now += 1
    assert refused(gate, text) == "unknown-claims"


@pytest.mark.parametrize("subject", ["\ud800", "a\udfff", "x" * 256, 5])
def test_subject_that_cannot_be_written_down_is_refused(gate: Gate, subject: Any) -> None:
    """Releases and the audit log name it."""
    assert refused(gate, token(sub=subject)) == "bad-token"
    pair = token(sub="\U0001f600", scope="score")
    assert gate.admit(f"Bearer {pair}", None).subject == "\U0001f600"


def test_tokens_that_are_remembered_are_bounded(gate: Gate, clock: Clock) -> None:
    for number in range(50):
        gate.admit(f"Bearer {token(jti=str(number))}", None)
    assert len(gate._checked) == 50
    gate._checked._most = 50
    gate.admit(f"Bearer {token(jti='one more')}", None)
    assert len(gate._checked) == 50
    assert TOKENS <= 10_000


# --- attacks ----------------------------------------------------------------------------------------------------------


def forged(header: dict[str, Any], signed: Callable[[bytes], bytes] = lambda _: b"", **claims: Any) -> str:
    """A token with any header, signed by a function."""
    from jwt.utils import base64url_encode

    body = f"{encoded(header)}.{encoded({'iss': ISSUER, 'aud': 'penstock', 'sub': 'alice', 'exp': NOW + 60, **claims})}"
    return f"{body}.{base64url_encode(signed(body.encode())).decode() or 'AA'}"


def public_pem(algorithm: str) -> bytes:
    key = private(algorithm).public_key()
    return bytes(key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))


def test_public_key_is_no_secret_for_hmac(gate: Gate) -> None:
    """The confusion of RS256 with HS256: a checker that takes the algorithm from the token would accept this."""
    for secret in (public_pem("RS256"), public_pem("RS256").rstrip(b"\n"), jwk("RS256")["n"].encode()):
        text = forged({"alg": "HS256", "kid": "three"}, lambda body, secret=secret: hmac.digest(secret, body, hashlib.sha256))  # type: ignore[misc]
        assert refused(gate, text) == "bad-algorithm"


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "nOnE", "HS384", "RS512", "PS256", "ES384", "ES256K", "Ed25519", "", None, 1, ["EdDSA"], {}]
)
def test_other_algorithms_are_refused(gate: Gate, algorithm: Any) -> None:
    assert refused(gate, forged({"alg": algorithm, "kid": "one"})) == "bad-algorithm"


def test_algorithm_of_another_key_is_refused(gate: Gate) -> None:
    """The key `three` is for RS256, whatever the token says."""
    assert refused(gate, token("EdDSA", "three")) == "unknown-key"
    assert refused(gate, token("RS256", "one")) == "unknown-key"


def test_algorithm_that_the_issuer_does_not_use_is_refused(path: Path, clock: Clock) -> None:
    path.write_text(FILE + 'algorithms = ["ES256"]\n')
    gate = Gate.open(path, clock)
    gate.admit(f"Bearer {token('ES256', 'two')}", None)
    assert refused(gate, token("EdDSA", "one")) == "bad-algorithm"


@pytest.mark.parametrize(
    "kid", ["../../etc/passwd", "/dev/null", "http://evil.example.org/keys", "one'; drop table keys; --", "", "one\x00", "x" * 1000, "☃"]
)
def test_key_id_only_looks_up(gate: Gate, kid: str) -> None:
    """It is no path, no address and no query."""
    assert refused(gate, token(kid=kid)) == "unknown-key"


@pytest.mark.parametrize("kid", [1, ["one"], {"one": 1}, True])
def test_key_id_that_is_no_text_is_refused(gate: Gate, kid: Any) -> None:
    assert refused(gate, forged({"alg": "EdDSA", "kid": kid})) == "bad-token"


def test_keys_of_the_header_are_not_used(gate: Gate) -> None:
    """Whoever makes a token could bring the key for it."""
    for more in ({"jwk": jwk("EdDSA", number=1)}, {"jku": "https://evil.example.org/keys"}, {"x5u": "https://evil.example.org/x"}):
        assert refused(gate, token(number=1, header=more)) == "bad-signature"
        assert refused(gate, token(kid="evil", number=1, header=more)) == "unknown-key"


def test_what_the_header_calls_critical_is_not_known(gate: Gate) -> None:
    assert refused(gate, token(header={"crit": ["exp"], "exp": 1})) == "bad-token"
    assert refused(gate, forged({"alg": "EdDSA", "kid": "one", "b64": False})) == "bad-signature"


def test_signature_of_another_key_or_text_is_refused(gate: Gate) -> None:
    good = token()
    assert refused(gate, token(number=1)) == "bad-signature"
    head, body, signature = good.split(".")
    other = encoded({"iss": ISSUER, "aud": "penstock", "sub": "alice", "exp": NOW + 600, "groups": "admins", "tenant": "a"})
    assert refused(gate, f"{head}.{other}.{signature}") == "bad-signature"
    assert refused(gate, f"{head}.{body}.{signature[:-4]}AAAA") == "bad-signature"
    assert refused(gate, f"{head}.{body}.AA") == "bad-signature"
    gate.admit(f"Bearer {good}", None)


@pytest.mark.parametrize(
    "text",
    [
        "a.b.c", "..", "a.b", "a.b.c.d", "a.b.", ".b.c",
        "e30. e30.AA", "e30.e30=.AA", "e30.e30.A+A/", "e3\x00.e30.AA", "ÿ.e30.AA",
        f"{encoded([])}.{encoded({})}.AA", f"{encoded({'alg': 'EdDSA'})}.{encoded('x')}.AA",
        "W1tb" * 1500 + ".e30.AA", "eyJhIjox" + "MTEx" * 1500 + "fQ.e30.AA",
        "A" * 8193, "a.b." + "c" * 1_000_000,
    ],
    ids=range(17),
)  # fmt: skip
def test_what_is_no_token_is_refused(gate: Gate, text: str) -> None:
    assert refused(gate, text) in ("bad-token", "bad-header")


def test_name_that_occurs_twice_is_refused(gate: Gate) -> None:
    """One reader takes the first, another the last: they could see different issuers."""
    import jwt

    claims = f'{{"iss":"evil","iss":"{ISSUER}","aud":"penstock","sub":"alice","exp":{NOW + 60}}}'
    text = jwt.PyJWS().encode(claims.encode(), private("EdDSA"), "EdDSA", headers={"kid": "one"})
    assert refused(gate, text) == "bad-token"


def test_two_entries_of_one_issuer_are_told_apart_by_their_audience(path: Path, clock: Clock) -> None:
    more = FILE + f'[issuers.admins]\nissuer = "{ISSUER}"\naudience = ["admin-site"]\njwks = "keys.json"\n'
    path.write_text(more.replace('{ issuer = "company", claims = { groups', '{ issuer = "admins", claims = { groups'))
    gate = Gate.open(path, clock)
    assert gate.admit(f"Bearer {token(groups='admins', tenant='a')}", None).name == "shops"
    assert gate.admit(f"Bearer {token(groups='admins', tenant='a', aud='admin-site')}", None).name == "admins"


def test_bad_file_of_keys_at_the_start_is_an_error(path: Path, clock: Clock) -> None:
    path.with_name("keys.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"keys\.json: no keys of the issuer company: it is no set of keys"):
        Gate.open(path, clock)
