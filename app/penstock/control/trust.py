"""Who is obeyed: the keys of the trust file, the seal around a message, and the judge who admits an entry of the control topic.

A sealed message is a JWS in its compact form (RFC 7515): `header.message.signature`, each in base64url. Of all that a JWS may be, this
is the one form that is taken: Ed25519, the header's three fields and no other, and a key that the trust file holds. An entry is
admitted when all of this is true, asked in this order, the cheap questions first:

1. It has a value, of at most `MAX_SEALED` bytes, in three parts, the first of which is our header.
2. The header's key is in the trust file, for this topology, and the **broker** stamped the entry while the key was trusted: from
   `trusted` on, and before `revoked`. The broker's clock and not the signer's, which a stolen key could set back.
3. The signature is the key's, over the bytes as they stand. Only now is the message parsed.
4. The message is well formed (`messages`), for this topology and this cluster, its id is the record's key, its author is the key's name.
5. Its time is within `CLOCK_MS` of the broker's stamp, so what is sent again later means nothing.

All of this is about the entry and the trust file, so folding again gives the same state, as long as keys are revoked and never
taken out: with a key goes what it signed.

Where unsigned messages are allowed (for development), a value that begins with `{` is taken as the bare message; the rest holds.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Self

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from penstock.control.messages import MAX_BYTES, Message, encode, parse, timestamp
from penstock.errors import ConfigError, ControlError, Problem
from penstock.topology.names import NAME

if TYPE_CHECKING:  # the client of Kafka is not needed to judge
    from penstock.transports.kafka.journal import Entry

__all__ = [
    "CLOCK_MS",
    "KEY_NAME",
    "MAX_SEALED",
    "Judge",
    "SigningKey",
    "Trust",
    "TrustedKey",
    "key_id",
    "public_key",
    "public_text",
    "seal",
]

MAX_SEALED: Final = MAX_BYTES * 4 // 3 + 512
CLOCK_MS: Final = 5 * 60 * 1000
KEY_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_SIGNATURE: Final = 86  # characters of 64 bytes
_HEAD: Final = 512  # characters of the longest header that is looked at; ours has 130

ALGORITHM: Final = "EdDSA"
TYPE: Final = "penstock-control+json"


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    """All that a header may say. A field that we do not know (`crit`, `jwk`, `b64`) would change what the signature means."""

    alg: Literal["EdDSA"]
    typ: Literal["penstock-control+json"]
    kid: str


_HEADER: Final = msgspec.json.Decoder(_Header)


# --- keys -------------------------------------------------------------------------------------------------------------


def public_text(public: Ed25519PublicKey) -> str:
    """A public key as people hand it on: its 32 bytes in base64url, 43 characters."""
    return _encode(public.public_bytes_raw()).decode()


def public_key(text: str) -> Ed25519PublicKey:
    """The key of a `public_text`. Raises ValueError when it is none."""
    data = _decode(text.encode("ascii", "replace"))
    if len(data) != 32:
        raise ValueError(f"{len(data)} bytes, an Ed25519 key has 32")
    return Ed25519PublicKey.from_public_bytes(data)


def key_id(public: str) -> str:
    """The thumbprint of a public key (RFC 7638) by which headers name it."""
    return _encode(hashlib.sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{public}"}}'.encode()).digest()).decode()


@dataclass(frozen=True)
class SigningKey:
    """A private key, and the public part that others trust. `name` is its file's."""

    name: str
    private: Ed25519PrivateKey = field(repr=False)

    @property
    def public(self) -> str:
        return public_text(self.private.public_key())

    @property
    def kid(self) -> str:
        return key_id(self.public)

    @classmethod
    def new(cls, name: str) -> SigningKey:
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """The key of a PEM file (PKCS 8, without a passphrase). Raises ConfigError, also when others may read the file."""
        place, path = str(path), path.expanduser()
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                data = file.read(65_536)
        except OSError as error:
            raise ConfigError(Problem(place, 0, 0, f"cannot be read: {error.strerror}", "`penstock keys new NAME` makes a key")) from None
        if mode & 0o037:
            raise ConfigError(Problem(place, 0, 0, f"others may read or change this key (mode {mode:04o})", f"chmod 600 {place}"))
        try:
            key = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # a TypeError asks for a passphrase
            raise ConfigError(Problem(place, 0, 0, f"no private key in PEM without a passphrase: {error}")) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(Problem(place, 0, 0, "not an Ed25519 key", "`penstock keys new NAME` makes one"))
        return cls(path.stem, key)

    def save(self, path: Path) -> None:
        """Writes the key for its owner's eyes only. Raises ConfigError when there is a file already: keys are never replaced."""
        path = path.expanduser()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise ConfigError(Problem(str(path), 0, 0, "there is a file already", "choose another name, or --out")) from None
        with open(descriptor, "wb") as file:
            file.write(self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


# --- the trust file ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A key of the trust file: `public` in base64url, the topologies it is for ("*": all), and when it is trusted, Unix time in ms."""

    name: str
    public: str
    topologies: frozenset[str]
    trusted_ms: int
    revoked_ms: int | None = None
    comment: str = field(default="", compare=False)

    @property
    def kid(self) -> str:
        return key_id(self.public)

    def serves(self, topology: str) -> bool:
        """Whether it may speak for this topology."""
        return not self.topologies.isdisjoint({topology, "*"})


@dataclass(frozen=True, slots=True)
class Trust:
    """The keys that are obeyed, by key id. Equal when the same keys are trusted for the same topologies at the same times."""

    keys: Mapping[str, TrustedKey] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The trust file; without one no key is trusted. Raises ConfigError with everything that is wrong in it."""
        try:
            text = path.expanduser().read_text(encoding="utf-8")
        except FileNotFoundError:
            return cls()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(Problem(str(path), 0, 0, f"cannot be read: {error}")) from None
        return cls.parse(text, file=str(path))

    @classmethod
    def parse(cls, text: str, *, file: str) -> Self:
        """The trust file from its text. Raises ConfigError with everything that is wrong in it, each with the key's line."""
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(Problem(file, 0, 0, f"not TOML: {error}")) from None
        tables = document.get("keys", {})
        problems = [Problem(file, 0, 0, f"{name}: not known here", "each key is a table: [keys.NAME]") for name in set(document) - {"keys"}]
        if not isinstance(tables, dict):
            raise ConfigError([*problems, Problem(file, 0, 0, "keys: not a table", "each key is a table: [keys.NAME]")])
        keys: dict[str, TrustedKey] = {}
        for name, table in tables.items():
            found = list(_complaints(name, table))
            if not found:
                key = _trusted(name, table)
                if other := keys.get(key.kid):
                    found = [f"public: this is also the key of {other.name}; a key has one name"]
                keys[key.kid] = key
            problems += [Problem(file, *_place(name, text), f"keys.{name}{_dot(complaint)}") for complaint in found]
        if problems:
            raise ConfigError(sorted(problems))
        return cls(keys)

    def named(self, name: str) -> TrustedKey | None:
        """The key of this name."""
        return next((key for key in self.keys.values() if key.name == name), None)


_FIELDS: Final = ("kid", "public", "topologies", "trusted", "revoked", "comment")


def _complaints(name: str, table: Any) -> Iterator[str]:
    """What is wrong with a key's table: "field: what"."""
    if not KEY_NAME.fullmatch(name):
        yield ": a name is made of letters, digits, '_' and '-' (64 characters at most)"
    if not isinstance(table, dict):
        yield ": not a table"
        return
    yield from (f"{unknown}: not known here; a key has {', '.join(_FIELDS)}" for unknown in table if unknown not in _FIELDS)
    yield from _public_complaints(table)
    topologies = table.get("topologies")
    if not isinstance(topologies, list) or not topologies or not all(isinstance(one, str) and _is_topology(one) for one in topologies):
        yield 'topologies: a list of topologies\' names is needed, such as ["flights"], or ["*"] for all'
    for when in ("trusted", "revoked"):
        value = table.get(when)
        if not (isinstance(value, datetime) and value.tzinfo) and (when in table or when == "trusted"):
            yield f"{when}: a time with its zone is needed, such as 2026-01-31T12:00:00Z, without quotes"
    if not isinstance(table.get("comment", ""), str):
        yield "comment: a text is needed"


def _public_complaints(table: Mapping[str, Any]) -> Iterator[str]:
    public = table.get("public")
    if not isinstance(public, str):
        yield "public: the public key is needed, as `penstock keys public` prints it"
        return
    try:
        public_key(public)
    except ValueError as error:
        yield f"public: not a public key as `penstock keys public` prints it: {error}"
        return
    if table.get("kid", key_id(public)) != key_id(public):
        yield f"kid: this public key's id is {key_id(public)}; one of the two is another key's"


def _is_topology(name: str) -> bool:
    return name == "*" or re.fullmatch(NAME, name) is not None


def _trusted(name: str, table: Mapping[str, Any]) -> TrustedKey:
    def ms(when: datetime) -> int:
        return int(when.timestamp() * 1000)

    revoked = table.get("revoked")
    return TrustedKey(
        name, table["public"], frozenset(table["topologies"]), ms(table["trusted"]), revoked and ms(revoked), table.get("comment", "")
    )


def _dot(complaint: str) -> str:
    return complaint if complaint.startswith(":") else f".{complaint}"


def _place(name: str, text: str) -> tuple[int, int]:
    """Line and column of a key's table, as it is usually written: tomllib does not say."""
    found = re.search(rf"^[ \t]*\[\s*keys\s*\.\s*[\"']?{re.escape(name)}[\"']?\s*\]", text, re.MULTILINE)
    return (text.count("\n", 0, found.start()) + 1, 1) if found else (0, 0)


# --- the seal ---------------------------------------------------------------------------------------------------------


def seal(message: Message, key: SigningKey | None) -> bytes:
    """The value of the message's record: signed, or bare where there is no key. Raises ControlError when readers would refuse it."""
    payload = encode(message)
    if key is None:
        return payload
    header = msgspec.json.encode({"alg": ALGORITHM, "typ": TYPE, "kid": key.kid})
    signed = _encode(header) + b"." + _encode(payload)
    return signed + b"." + _encode(key.private.sign(signed))


@dataclass(frozen=True)
class Judge:
    """Admits the entries of one topology's control topic on one cluster, as the top of this module says.

    `judge(entry)` is the message, or raises ControlError whose `.code` is the reason: empty, too-large, unsigned, malformed,
    unknown-key, not-allowed, unstamped, not-yet-trusted, revoked, bad-signature, newer, wrong-topology, wrong-cluster, wrong-key,
    author, clock.
    """

    topology: str
    cluster: str
    trust: Trust
    unsigned: bool = False
    _publics: Mapping[str, Ed25519PublicKey] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_publics", {kid: public_key(key.public) for kid, key in self.trust.keys.items()})

    def __call__(self, entry: Entry) -> Message:
        value = entry.value
        if not value:
            _refuse("empty", "the record has no value")
        if len(value) > MAX_SEALED:
            _refuse("too-large", f"{len(value):,} bytes, the limit is {MAX_SEALED:,}")
        if value[:1] == b"{":
            if not self.unsigned:
                _refuse("unsigned", "the message is not signed: set `signing_key` where it is sent from")
            key, payload = None, value
        else:
            key, payload = self._open(value, entry)
        message = parse(payload)
        self._fits(message, entry, key)
        return message

    def _open(self, value: bytes, entry: Entry) -> tuple[TrustedKey, bytes]:
        """The key that signed and what it signed."""
        signed, _, signature = value.rpartition(b".")
        header, dot, payload = signed.partition(b".")
        if not dot or len(header) > _HEAD or len(signature) != _SIGNATURE:
            _refuse("malformed", "neither a message nor a signed one")
        key = self._key(header)
        self._trusts(key, entry)
        try:
            self._publics[key.kid].verify(_decode(signature), signed)
            return key, _decode(payload)
        except InvalidSignature:
            _refuse("bad-signature", f"the signature is not {key.name}'s")
        except ValueError as error:
            _refuse("malformed", f"not base64url: {error}")

    def _key(self, header: bytes) -> TrustedKey:
        try:
            kid = _HEADER.decode(_decode(header)).kid
        except ValueError as error:
            _refuse("malformed", f"the header is not that of a signed message: {error}")
        return self.trust.keys.get(kid) or _refuse("unknown-key", f"key {kid} is not in the trust file")

    def _trusts(self, key: TrustedKey, entry: Entry) -> None:
        """The key is trusted for this topology, at the time of the broker's stamp."""
        if not key.serves(self.topology):
            _refuse("not-allowed", f"{key.name} may not speak for {self.topology}, only for {', '.join(sorted(key.topologies))}")
        if not entry.stamped:
            _refuse("unstamped", "the topic takes the writer's word for the time; it needs message.timestamp.type=LogAppendTime")
        if entry.timestamp < key.trusted_ms:
            _refuse("not-yet-trusted", f"{key.name} is trusted from {_time(key.trusted_ms)} on, this was sent at {_time(entry.timestamp)}")
        if key.revoked_ms is not None and entry.timestamp >= key.revoked_ms:
            _refuse("revoked", f"{key.name} was revoked at {_time(key.revoked_ms)}, this was sent at {_time(entry.timestamp)}")

    def _fits(self, message: Message, entry: Entry, key: TrustedKey | None) -> None:
        """The message is meant for us, and for now."""
        if message.topology != self.topology:
            _refuse("wrong-topology", f"the message is for the topology {message.topology}")
        if message.cluster != self.cluster:
            _refuse("wrong-cluster", f"the message is for the cluster {message.cluster}, this is {self.cluster}")
        if entry.key != message.id.encode():
            _refuse("wrong-key", f"the message is about release {message.id}, the record's key is another")
        if key is not None and message.author != key.name:
            _refuse("author", f"{key.name} signed as {message.author}")
        if entry.stamped and abs(message.at_ms - entry.timestamp) > CLOCK_MS:
            late = f"the message says {message.time}, the broker {_time(entry.timestamp)}"
            _refuse("clock", f"{late}: it was sent again, or a clock is wrong")


def _refuse(code: str, why: str) -> NoReturn:
    raise ControlError(why, code=code)


_LAST: Final = 253_402_300_799_000  # the end of the year 9999, after which a time cannot be written


def _time(ms: int) -> str:
    return timestamp(min(max(ms, 0), _LAST) / 1000)


def _encode(data: bytes) -> bytes:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decode(text: bytes) -> bytes:
    """Of base64url without padding, in its one canonical form. Raises ValueError for anything else."""
    data = binascii.a2b_base64(text.translate(_TO_BASE64) + b"=" * (-len(text) % 4), strict_mode=True)
    if _encode(data) != text:
        raise ValueError("not in its one canonical form")
    return data


_TO_BASE64: Final = bytes.maketrans(b"-_+/", b"+/--")
