"""Which messages are accepted: the keys of the trust file, the seal around a message, and the judge that admits control topic entries.

A sealed message is a JWS (`jws`) with a key of the trust file. An entry is admitted when all of these
conditions hold. They are checked in this order, cheap ones first:

1. It has a value, of at most `MAX_SEALED` bytes, in three parts. The first part is our header.
2. The header's key is in the trust file, for this topology, and the **broker** stamped the entry while the key was trusted: from
   `trusted` on, and before `revoked` and `expires`. The broker's clock decides: the holder of a stolen key could set back the signer's.
3. The signature is the key's, over the bytes as received. Only then is the message parsed.
4. The message is well formed (`messages`), for this topology, this cluster and (from version 2 on) the topic that the entry was read
   from, its id is the record's key, its author is the key's name.
5. Its time is within `CLOCK_MS` of the broker's stamp, so a message that is sent again later is refused.

The conditions depend only on the entry and the trust file, so a new fold gives the same state, as long as keys are revoked and never
removed: without its key, a message is refused. What a key `may` do is decided by the `log`, from the entries before.

Where unsigned messages are allowed (for development), a value that begins with `{` is the bare message; conditions 4 and 5 still apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from penstock.control.messages import MAX_BYTES, Message, encode, parse
from penstock.control.rights import Admitted
from penstock.control.trust.file import Trust, TrustedKey, stamped
from penstock.control.trust.jws import HEAD, SIGNATURE, key_named, sign, verify
from penstock.control.trust.keys import SigningKey, from_text, public_key
from penstock.errors import ControlError

if TYPE_CHECKING:  # the client of Kafka is not needed to judge
    from penstock.transports.kafka.journal import Entry

__all__ = ["CLOCK_MS", "MAX_SEALED", "NEXT", "Judge", "seal"]

MAX_SEALED: Final = MAX_BYTES * 4 // 3 + 512
CLOCK_MS: Final = 5 * 60 * 1000
TYPE: Final = "penstock-control+json"


# What to do about a refusal, by its code: advice for the operator whose message a reader has refused.
NEXT: Final[Mapping[str, str]] = {
    "unsigned": "set --signing-key; only readers with --unsigned-control accept unsigned messages",
    "unknown-key": "add the key to the trust file of this reader (`penstock keys trust`), or give it the trust file of the others",
    "not-allowed": "use a key that may, or trust one for it (`penstock keys ls`, `penstock keys trust`)",
    "not-yet-trusted": "wait until then, or set `trusted` in the trust file to an earlier time",
    "revoked": "use a key that is trusted now (`penstock keys ls`)",
    "expired": "use a key that is trusted now, or make and trust a new one (`penstock keys new`)",
    "bad-signature": "the private key is not the one that this reader trusts under this id",
    "author": "give the key the same name in every trust file",
    "clock": "set the clock of the operator's host, and that of the brokers",
    "unstamped": "`penstock topics create` sets this on a new topic",
    "old-version": "upgrade the Penstock that writes",
    "newer": "upgrade this reader",
    "unknown-kind": "upgrade this reader",
    "unknown-strategy": "upgrade this reader",
    "rejected": "this reader has another active generation: compare its trust file with the others",
}


def seal(message: Message, key: SigningKey | None) -> bytes:
    """Returns the value of the message's record: signed, or bare without a key. Raises ControlError when readers would refuse it."""
    payload = encode(message)
    if key is None:
        return payload
    return sign(payload, key, TYPE)


@dataclass(frozen=True)
class Judge:
    """Admits the entries of one topology's control topic on one cluster, by the conditions of this module.

    `judge(entry)` returns the message and the rights of its key, or raises ControlError. Its `.code` is the reason: empty, too-large,
    unsigned, malformed, unknown-key, not-allowed, unstamped, not-yet-trusted, revoked, expired, bad-signature, newer, unknown-kind,
    unknown-strategy, wrong-topology, wrong-cluster, wrong-topic, wrong-key, author, clock. Whether the version and the rights are enough
    at this offset is decided by the `log`.
    """

    topology: str
    cluster: str
    control_topic: str
    trust: Trust
    unsigned: bool = False
    _publics: Mapping[str, Ed25519PublicKey] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_publics", {kid: public_key(key.public) for kid, key in self.trust.keys.items()})

    def __call__(self, entry: Entry) -> Admitted:
        value = entry.value
        if not value:
            _refuse("empty", "the record has no value")
        if len(value) > MAX_SEALED:
            _refuse("too-large", f"{len(value):,} bytes, the limit is {MAX_SEALED:,}")
        if value[:1] == b"{":
            if not self.unsigned:
                _refuse("unsigned", "the message is not signed: set `signing_key` where it is sent")
            key, payload = None, value
        else:
            key, payload = self._open(value, entry)
        message = parse(payload)
        self._fits(message, entry, key)
        return Admitted(message) if key is None else Admitted(message, key.may, key.max_share)

    def _open(self, value: bytes, entry: Entry) -> tuple[TrustedKey, bytes]:
        """Returns the key that signed, and the payload that it signed."""
        signed, _, signature = value.rpartition(b".")
        header, dot, payload = signed.partition(b".")
        if not dot or len(header) > HEAD or len(signature) != SIGNATURE:
            _refuse("malformed", "neither a message nor a signed one")
        key = self._key(header)
        self._trusts(key, entry)
        try:
            if not verify(self._publics[key.kid], signed, signature):
                _refuse("bad-signature", f"the signature is not {key.name}'s")
            return key, from_text(payload)
        except ValueError as error:
            _refuse("malformed", f"not base64url: {error}")

    def _key(self, header: bytes) -> TrustedKey:
        try:
            kid = key_named(header, TYPE)
        except ValueError as error:
            _refuse("malformed", f"this is not the header of a signed message: {error}")
        return self.trust.keys.get(kid) or _refuse("unknown-key", f"key {kid} is not in the trust file")

    def _trusts(self, key: TrustedKey, entry: Entry) -> None:
        """Refuses a key that is not trusted for this topology at the time of the broker's stamp."""
        if not key.serves(self.topology):
            _refuse("not-allowed", f"{key.name} may not sign for {self.topology}, only for {', '.join(sorted(key.topologies))}")
        if not entry.stamped:
            _refuse("unstamped", "the topic keeps the writer's timestamps; set message.timestamp.type=LogAppendTime on it")
        if fault := key.fault(entry.timestamp):
            _refuse(fault.code, f"{fault.why}, this was sent at {stamped(entry.timestamp)}")

    def _fits(self, message: Message, entry: Entry, key: TrustedKey | None) -> None:
        """Refuses a message for another destination or another time."""
        if message.topology != self.topology:
            _refuse("wrong-topology", f"the message is for the topology {message.topology}")
        if message.cluster != self.cluster:
            _refuse("wrong-cluster", f"the message is for the cluster {message.cluster}, this is {self.cluster}")
        if message.version > 1 and message.control_topic != self.control_topic:
            _refuse("wrong-topic", f"the message was written to the topic {message.control_topic}, this is {self.control_topic}")
        if entry.key != message.id.encode():
            _refuse("wrong-key", f"the message names release {message.id}, the record's key names another")
        if key is not None and message.author != key.name:
            _refuse("author", f"{key.name} signed as {message.author}")
        if entry.stamped and abs(message.at_ms - entry.timestamp) > CLOCK_MS:
            times = f"the time of the message is {message.time}, the broker's is {stamped(entry.timestamp)}"
            _refuse("clock", f"{times}: the message was sent again, or a clock is wrong")


def _refuse(code: str, why: str) -> NoReturn:
    raise ControlError(why, code=code)
