"""What it takes to be obeyed, from the side of whoever is not supposed to be."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.api_jws import PyJWS

from penstock.binding import Binding
from penstock.control.log import Kind, Log
from penstock.control.messages import MAX_BYTES, encode
from penstock.control.trust import CLOCK_MS, MAX_SEALED, Judge, Trust, seal
from penstock.control.trust.keys import SigningKey, key_id, public_key
from penstock.errors import ConfigError, ControlError
from penstock.transports.kafka.journal import Entry
from tests.unit.control.making import CONTROL, NOW_MS, abort, activate, binding, entry, release, trust_file, trusting

ALICE, MALLORY = SigningKey.new("alice"), SigningKey.new("mallory")
TRUST = trusting(ALICE)
JUDGE = Judge("flights", "cluster-1", CONTROL, TRUST)
HEADER = {"alg": "EdDSA", "typ": "penstock-control+json", "kid": ALICE.kid}


def code(given: Entry, judge: Judge = JUDGE) -> str:
    """Why the entry is refused, "" when it is admitted."""
    try:
        judge(given)
    except ControlError as error:
        return error.code
    return ""


def text(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def forged(header: dict[str, Any] | bytes = b"", payload: bytes = b"", key: SigningKey = ALICE) -> Entry:
    """An entry whose seal is made by hand, with a header of one's choice, and signed by `key` over just that."""
    head = header if isinstance(header, bytes) and header else json.dumps(header or HEADER).encode()
    signed = text(head) + b"." + text(payload or encode(release()))
    return entry(0, release(), value=signed + b"." + text(key.private.sign(signed)))


def parts(sealed: bytes) -> tuple[bytes, bytes, bytes]:
    head, payload, signature = sealed.split(b".")
    return head, payload, signature


# --- who is obeyed ----------------------------------------------------------------------------------------------------


def test_signed_message_is_admitted_as_it_was_said() -> None:
    said = release(restores=0, reason="größer")
    assert JUDGE(entry(0, said, ALICE)).message == said
    assert code(forged()) == ""


def test_seal_is_a_jws_to_another_implementation() -> None:
    """And one that the other makes is admitted."""
    opened = PyJWS().decode_complete(seal(release(), ALICE), ALICE.private.public_key(), algorithms=["EdDSA"])
    assert (opened["payload"], opened["header"]) == (encode(release()), HEADER)
    made = PyJWS().encode(encode(release()), ALICE.private, algorithm="EdDSA", headers={**HEADER})
    assert JUDGE(entry(0, release(), value=made.encode())).message == release()


def test_key_id_is_the_thumbprint_of_the_standard() -> None:
    """The example of RFC 8037, appendix A.3."""
    assert key_id("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo") == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_stranger_is_not_obeyed() -> None:
    assert code(entry(0, release(), MALLORY)) == "unknown-key"
    assert code(entry(0, release(), ALICE), Judge("flights", "cluster-1", CONTROL, Trust())) == "unknown-key"


def test_stranger_who_names_a_trusted_key_is_not_obeyed() -> None:
    assert code(forged(key=MALLORY)) == "bad-signature"


def test_key_speaks_for_its_topologies_only() -> None:
    trust = trusting(ALICE, topologies='["trains", "ships"]')
    assert code(entry(0, release(), ALICE), Judge("flights", "cluster-1", CONTROL, trust)) == "not-allowed"
    assert code(entry(0, release(), ALICE), Judge("flights", "cluster-1", CONTROL, trusting(ALICE, topologies='["*"]'))) == ""


def test_author_is_the_name_of_the_key() -> None:
    """Else one who may deploy could put another's name in the history."""
    assert code(entry(0, release(author="bob"), ALICE)) == "author"


@pytest.mark.parametrize(
    ("stamp", "why"),
    [(-60_001, "not-yet-trusted"), (-60_000, ""), (59_999, ""), (60_000, "revoked")],
)
def test_key_is_trusted_from_a_time_to_a_time_by_the_brokers_clock(stamp: int, why: str) -> None:
    trust = trusting(ALICE, trusted="2027-01-15T07:59:00Z", revoked="2027-01-15T09:01:00+01:00")
    assert code(entry(0, release(), ALICE, timestamp=NOW_MS + stamp), Judge("flights", "cluster-1", CONTROL, trust)) == why


def test_backdated_message_does_not_help_a_revoked_key() -> None:
    """Whoever stole it chooses the message's time, not the broker's; nor does a topic count that takes the writer's word."""
    judge = Judge("flights", "cluster-1", CONTROL, trusting(ALICE, revoked="2027-01-15T08:00:00Z"))
    backdated = entry(0, release(time="2027-01-15T07:59:59Z"), ALICE, timestamp=NOW_MS + 1)
    assert code(backdated, judge) == "revoked"
    assert code(backdated._replace(timestamp=NOW_MS - 1000, stamped=False), judge) == "unstamped"


# --- what is not a message for us, now --------------------------------------------------------------------------------


def test_message_for_elsewhere_is_refused_however_well_it_is_signed() -> None:
    assert code(entry(0, release(topology="trains"), ALICE)) == "wrong-topology"
    assert code(entry(0, release(cluster="cluster-2"), ALICE)) == "wrong-cluster"
    assert code(entry(0, release(control_topic="staging.flights.control"), ALICE)) == "wrong-topic"
    assert code(entry(0, release(), ALICE)._replace(key=release(2).id.encode())) == "wrong-key"
    assert code(entry(0, release(), ALICE)._replace(key=None)) == "wrong-key"


def test_copy_in_the_log_of_another_application_is_refused_since_version_2() -> None:
    """The same topology may run twice on a cluster, for production and for a trial; byte for byte the same record in both logs."""
    other = Judge("flights", "cluster-1", "trial.flights.control", TRUST)
    for message in (release(), activate(), abort()):
        given = entry(0, message, ALICE)
        assert (code(given), code(given, other)) == ("", "wrong-topic")
    assert code(entry(0, release(version=1), ALICE), other) == "", "version 1 names no topic"


@pytest.mark.parametrize("late", [CLOCK_MS + 1, -CLOCK_MS - 1])
def test_message_that_is_sent_again_later_is_refused(late: int) -> None:
    assert code(entry(0, release(), ALICE, timestamp=NOW_MS + late)) == "clock"
    assert code(entry(0, release(), ALICE, timestamp=NOW_MS + late - (1 if late > 0 else -1))) == ""


def test_message_that_is_sent_again_at_once_changes_nothing() -> None:
    log = Log(JUDGE)
    said = [entry(0, release(), ALICE), entry(1, activate(), ALICE)]
    for each in (*said, said[0]._replace(offset=2), said[1]._replace(offset=3)):
        log.apply(each)
    assert (log.generation, len(log.releases), log.refused.total()) == (1, 1, 0)


def test_message_signed_before_an_upgrade_is_of_no_use_after_it() -> None:
    """Even within the five minutes, and even if it was never written: its release is pending, only its activation was held back."""
    log = Log(JUDGE)
    for each in (entry(0, release(1, version=1), ALICE), entry(1, release(2), ALICE)):
        log.apply(each)
    assert log.apply(entry(2, activate(1, version=1), ALICE)).kind is Kind.REFUSED
    assert (log.generation, log.refused) == (0, {"old-version": 1})
    assert log.apply(entry(3, activate(1), ALICE)).kind is Kind.ACTIVATED, "a person who signs it now is obeyed"


def test_forged_message_of_version_2_locks_nobody_out() -> None:
    """Else one record of junk would silence every operator of version 1."""
    log = Log(JUDGE)
    for offset, forgery in enumerate((
        entry(0, release(9)), entry(0, release(9), MALLORY), forged(payload=encode(release(9)), key=MALLORY),
        entry(0, release(9, control_topic="trial.flights.control"), ALICE), entry(0, release(9), ALICE, timestamp=NOW_MS + CLOCK_MS + 1),
        forged(payload=encode(release(9)).replace(b"single", b"canary")),
    )):  # fmt: skip
        assert log.apply(forgery._replace(offset=offset)).kind is Kind.REFUSED
    assert log.version == 1
    assert log.apply(entry(10, release(1, version=1), ALICE)).kind is Kind.RELEASED


def test_newer_message_is_refused_as_newer_and_only_when_it_is_signed() -> None:
    newer = json.dumps({"version": 3, "kind": "freeze"}).encode()
    assert code(forged(payload=newer)) == "newer"
    assert code(forged(payload=newer, key=MALLORY)) == "bad-signature"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"x" * (MAX_SEALED + 1), "too-large"),
        (b"junk", "malformed"),
        (b"..", "malformed"),
        (b"a.b", "malformed"),
        (b"." * 1000, "malformed"),
        (encode(release()), "unsigned"),
        (b"{", "unsigned"),
    ],
)
def test_what_is_no_signed_message_is_refused(value: bytes | None, why: str) -> None:
    assert code(entry(0, release(), value=value)) == why


def test_largest_message_fits_its_seal() -> None:
    room = MAX_BYTES - len(encode(release(bindings={"trees": binding(1, parameters={"x": ""})})))
    said = release(bindings={"trees": binding(1, parameters={"x": "y" * room})})
    assert len(encode(said)) == MAX_BYTES
    assert JUDGE(entry(0, said, ALICE)).message == said


# --- forgeries of the seal --------------------------------------------------------------------------------------------


def test_payload_under_the_signature_of_another_is_refused() -> None:
    one, other = parts(seal(release(1), ALICE)), parts(seal(release(2), ALICE))
    assert code(entry(0, release(2), value=b".".join((one[0], other[1], one[2])))) == "bad-signature"


def test_header_of_another_key_over_a_good_signature_is_refused() -> None:
    """A signature covers the header, so it cannot be moved to another key, or be taken over by one."""
    judge = Judge("flights", "cluster-1", CONTROL, trusting(ALICE, MALLORY))
    swapped = entry(0, release(), value=b".".join((parts(seal(release(), MALLORY))[0], *parts(seal(release(), ALICE))[1:])))
    assert code(swapped, judge) == "bad-signature"


@pytest.mark.parametrize("cut", [1, 10, 85, 86])
def test_truncated_signature_is_refused(cut: int) -> None:
    assert code(entry(0, release(), value=seal(release(), ALICE)[:-cut])) == "malformed"


@pytest.mark.parametrize("header", [{**HEADER, "alg": alg} for alg in ("none", "None", "HS256", "ES256", "Ed25519", "", 1, None)])
def test_other_algorithms_are_refused(header: dict[str, Any]) -> None:
    assert code(forged(header)) == "malformed"


def test_public_key_is_not_a_secret_to_sign_with() -> None:
    """The old confusion: HS256, with what everybody knows as its secret."""
    for secret in (ALICE.public.encode(), base64.urlsafe_b64decode(ALICE.public + "=")):
        made = PyJWS().encode(encode(release()), secret, algorithm="HS256", headers={**HEADER, "alg": "HS256"})
        assert code(entry(0, release(), value=made.encode())) == "malformed"
        lied = PyJWS().encode(encode(release()), secret, algorithm="HS256", headers={"typ": HEADER["typ"], "kid": ALICE.kid})
        assert code(entry(0, release(), value=lied.encode())) == "malformed"


def test_message_without_a_signature_is_refused() -> None:
    head = text(json.dumps({**HEADER, "alg": "none"}).encode())
    assert code(entry(0, release(), value=head + b"." + text(encode(release())) + b".")) == "malformed"


@pytest.mark.parametrize(
    "more",
    [
        {"crit": ["exp"]}, {"b64": False}, {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": MALLORY.public}}, {"jku": "https://example.org"},
        {"x5c": []}, {"typ": "JWT"}, {"kid": 1}, {"kid": None}, {"zip": "DEF"},
    ],
)  # fmt: skip
def test_header_that_says_more_is_refused(more: dict[str, Any]) -> None:
    assert code(forged({**HEADER, **more})) == "malformed"


@pytest.mark.parametrize("kid", ["../../etc/passwd", "alice", "", ALICE.kid + "\n", ALICE.kid.lower(), "x" * 300])
def test_key_is_named_by_its_id_and_nothing_else(kid: str) -> None:
    assert code(forged({**HEADER, "kid": kid})) == "unknown-key"


@pytest.mark.parametrize("head", [b"[]", b"null", b"{}", b'"x"', b"\xff", b"[" * 300, json.dumps({**HEADER, "kid": "x" * 400}).encode()])
def test_header_that_is_none_is_refused(head: bytes) -> None:
    assert code(forged(head)) == "malformed"


def test_seal_has_one_form() -> None:
    """Padding, the other alphabet of base64, blanks and bits that are dropped would make several values of one message."""
    head, payload, signature = parts(seal(release(), ALICE))
    last = {b"A": b"B", b"Q": b"R", b"g": b"h", b"w": b"x"}[signature[-1:]]  # the same 64 bytes, but for four bits that nobody reads
    for other in (signature[:-1] + last, signature[:-1] + b"=", b" " + signature[1:]):
        assert code(entry(0, release(), value=b".".join((head, payload, other)))) == "malformed"
    for begun in (head + b"=", head[:-1] + b"\n", head.replace(b"e", b"+", 1)):
        assert code(entry(0, release(), value=b".".join((begun, payload, signature)))) == "malformed"
    signed = head + b"." + payload + b"=="
    assert code(entry(0, release(), value=signed + b"." + text(ALICE.private.sign(signed)))) == "malformed"


@given(st.data())
def test_not_one_byte_of_a_sealed_message_may_be_changed(data: st.DataObject) -> None:
    sealed = bytearray(seal(release(), ALICE))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != sealed[place]))
    assert code(entry(0, release(), value=bytes(sealed))) != ""


@given(st.binary(max_size=300), st.booleans())
def test_junk_is_refused_and_nothing_worse(value: bytes, unsigned: bool) -> None:
    assert code(entry(0, release(), value=value), Judge("flights", "cluster-1", CONTROL, TRUST, unsigned=unsigned)) != ""


# --- unsigned, for development ----------------------------------------------------------------------------------------


def test_unsigned_message_is_admitted_where_it_is_allowed() -> None:
    """All else is asked of it too; a signed one is as it always is."""
    judge = Judge("flights", "cluster-1", CONTROL, TRUST, unsigned=True)
    assert judge(entry(0, release(author="anybody"))).message.author == "anybody"
    assert code(entry(0, release(), stamped=False), judge) == ""
    assert code(entry(0, release(topology="trains")), judge) == "wrong-topology"
    assert code(entry(0, release(), timestamp=NOW_MS + CLOCK_MS + 1), judge) == "clock"
    assert code(entry(0, release(), ALICE), judge) == ""
    assert code(entry(0, release(), MALLORY), judge) == "unknown-key"


def test_what_readers_would_refuse_is_not_sealed() -> None:
    with pytest.raises(ControlError, match="every reader would refuse this message"):
        seal(release(reason="two\nlines"), ALICE)
    with pytest.raises(ControlError, match="the limit is 65,536"):
        seal(release(bindings={"trees": Binding(**{**_fields(binding()), "parameters": {"x": "y" * MAX_BYTES}})}), ALICE)


def _fields(one: Binding) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__struct_fields__}


# --- the trust file ---------------------------------------------------------------------------------------------------


def test_without_a_file_no_key_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Trust.load(Path("trust.toml")) == Trust()
    with pytest.raises(ConfigError, match=r"named\.toml: this file of trusted keys does not exist.*mounted"):
        Trust.load(tmp_path / "named.toml")


def test_file_that_every_user_can_write_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "trust.toml"
    file.write_text("")
    assert Trust.load(file) == Trust()
    file.chmod(0o666)
    with pytest.raises(ConfigError, match="chmod o-w"):
        Trust.load(file)


def test_file_that_is_too_large_is_refused_and_never_read_in_part(tmp_path: Path) -> None:
    """What is cut off could be the line that revokes a key."""
    file = tmp_path / "trust.toml"
    file.write_text("#" * 16 * 1024**2 + "\n" + trust_file(ALICE))
    with pytest.raises(ConfigError, match="cannot be read: it has more than 16,777,216 bytes"):
        Trust.load(file)


def test_trust_is_equal_when_it_means_the_same(tmp_path: Path) -> None:
    """A worker folds again when it differs: a comment or another order is no reason."""
    file = tmp_path / "trust.toml"
    file.write_text(trust_file(ALICE, MALLORY))
    assert Trust.load(file) == trusting(MALLORY, ALICE, comment='"on call"', trusted="2026-01-01T01:00:00+01:00")
    assert Trust.load(file) != trusting(ALICE, MALLORY, revoked="2027-01-01T00:00:00Z")
    assert Trust.load(file) != trusting(ALICE, MALLORY, topologies='["*"]')
    assert Trust.load(file).named("mallory") == Trust.load(file).keys[MALLORY.kid]
    assert Trust.load(file).named("bob") is None


def test_every_problem_of_a_trust_file_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "trust.toml"
    file.write_text(
        f"""
        key = "x"
        [keys.alice]
        public = "{ALICE.public}"
        kid = "{MALLORY.kid}"
        topologies = "flights"
        trusted = "2026-01-01T00:00:00Z"
        colour = "red"
        [keys."bob@example.org"]
        public = "{ALICE.public}="
        topologies = ["a b"]
        revoked = 2026-01-01T00:00:00
        comment = 1
        max_share = 0
        [keys.carol]
        """
    )
    with pytest.raises(ConfigError) as caught:
        Trust.load(file)
    told = str(caught.value).replace(str(file), "FILE").splitlines()
    assert [line.partition(": ")[0] + ": " + line.split(": ")[1] for line in told] == [
        "FILE: key",
        "FILE:3:1: keys.alice.colour",
        "FILE:3:1: keys.alice.kid",
        "FILE:3:1: keys.alice.topologies",
        "FILE:3:1: keys.alice.trusted",
        "FILE:9:1: keys.bob@example.org.comment",
        "FILE:9:1: keys.bob@example.org.max_share",
        "FILE:9:1: keys.bob@example.org.public",
        "FILE:9:1: keys.bob@example.org.revoked",
        "FILE:9:1: keys.bob@example.org.topologies",
        "FILE:9:1: keys.bob@example.org.trusted",
        "FILE:9:1: keys.bob@example.org",
        "FILE:15:1: keys.carol.public",
        "FILE:15:1: keys.carol.topologies",
        "FILE:15:1: keys.carol.trusted",
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[keys", "not TOML"),
        (b"\xff", "cannot be read"),
        (b"keys = 1", "keys: not a table"),
        (b"[keys]\nalice = 1", "keys.alice: not a table"),
    ],
)
def test_file_that_is_no_trust_file_is_told(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "trust.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        Trust.load(file)


def test_key_has_one_name() -> None:
    """Else its author could choose."""
    with pytest.raises(ConfigError, match=r"keys.alias.public: this is also the key of alice"):
        trusting(ALICE, SigningKey("alias", ALICE.private))


# --- private keys -----------------------------------------------------------------------------------------------------


def test_private_key_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "alice.pem"
    ALICE.save(file)
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    loaded = SigningKey.load(file)
    assert (loaded.name, loaded.public, loaded.kid) == (ALICE.name, ALICE.public, ALICE.kid)
    assert seal(release(), loaded) == seal(release(), ALICE)
    with pytest.raises(ConfigError, match="the file exists already"):
        MALLORY.save(file)
    assert SigningKey.load(file).kid == ALICE.kid
    assert "PRIVATE" not in repr(loaded)


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o602, 0o644])
def test_private_key_that_others_may_read_or_change_is_not_used(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "alice.pem"
    ALICE.save(file)
    file.chmod(mode)
    with pytest.raises(ConfigError, match=rf"mode {mode:04o}.*chmod 600"):
        SigningKey.load(file)
    file.chmod(0o440)  # as orchestrators mount secrets, which are root's
    if os.geteuid():
        with pytest.raises(ConfigError, match="by its group"):
            SigningKey.load(file)
        return
    assert SigningKey.load(file).kid == ALICE.kid
    os.chown(file, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        SigningKey.load(file)


def test_pipe_in_the_place_of_a_key_or_of_the_trust_file_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "trust.toml")
    with pytest.raises(ConfigError, match="it is a named pipe, not a file"):
        Trust.load(tmp_path / "trust.toml")
    os.mkfifo(tmp_path / "alice.pem")
    with pytest.raises(ConfigError, match="this key is no file"):
        SigningKey.load(tmp_path / "alice.pem")


def _pem(key: Any, passphrase: bytes = b"") -> bytes:
    lock = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)
    return data


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"junk", "not a private key in PEM"),
        (_pem(ed25519.Ed25519PrivateKey.generate(), b"secret"), "not a private key in PEM without a passphrase"),
        (_pem(ec.generate_private_key(ec.SECP256R1())), "not an Ed25519 key"),
    ],
)
def test_file_that_holds_no_signing_key_is_told(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "key.pem"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
    with open(descriptor, "wb") as opened:
        opened.write(content)
    with pytest.raises(ConfigError, match=says):
        SigningKey.load(file)
    with pytest.raises(ConfigError, match=r"cannot be read.*keys new"):
        SigningKey.load(tmp_path / "nothing.pem")


@pytest.mark.parametrize("given", ["", "x", "é" * 43, ALICE.public[:-1], ALICE.public + "A", "A" * 44])
def test_text_that_is_no_public_key_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        public_key(given)


def test_flood_of_junk_costs_a_fraction_of_a_look_at_a_signature() -> None:
    """Measured: 4 µs against 130; and the fold keeps the last refusals only."""
    junk = [b"x" * 200_000, b"{" * 1000, b"a.b.c", seal(release(), MALLORY), b"", seal(release(), ALICE)[:-1]]

    def cost(values: list[bytes], why: set[str]) -> float:
        log = Log(JUDGE)
        entries = [Entry(offset, NOW_MS, True, b"k", values[offset % len(values)]) for offset in range(1200)]
        begun = time.process_time()
        assert {log.apply(each).kind for each in entries} == {Kind.REFUSED}
        spent = time.process_time() - begun
        assert (log.refused.total(), len(log.last_refused), set(log.refused)) == (1200, 20, why)
        return spent

    forgery = [forged(key=MALLORY).value or b""]
    assert 4 * cost(junk, {"too-large", "unsigned", "malformed", "unknown-key", "empty"}) < cost(forgery, {"bad-signature"})
