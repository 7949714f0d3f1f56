"""Admits requests: from a header or a client certificate to a `Caller`, by the access file, which is read again as it changes.

1. What a request shows is looked at in this order: the header `Authorization: Bearer`, which has an API key or a token; else the client
   certificate. A credential that is not good is refused, also when another one would be.
2. Without an access file every caller is `anonymous`, with the rights to score, label and read. `exposure` keeps such a service to its
   host.
3. The file is looked at every LOOK seconds. A bad new one leaves everything as it was, is logged, and is `problem`.
4. Memory is bounded: only what was admitted is remembered (tokens, certificates, spent amounts), the latest of each. What was refused is
   counted by its reason, and logged at most every QUIET seconds.
5. `admit` never waits. Where the keys of an issuer have to be fetched first, it raises KeysWanted; `admitted` awaits that.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, Generic, Self, TypeVar

from penstock.access import certificate as certificates
from penstock.access.file import Access
from penstock.access.keys import KEY, matches
from penstock.access.meter import Ledger, Meter
from penstock.access.rules import ANONYMOUS, Rules
from penstock.access.tokens import Token, Tokens, has
from penstock.batch import Array
from penstock.errors import ConfigError, KeysWanted, TransportUnavailable, Unauthenticated

__all__ = ["Caller", "Gate"]

logger = logging.getLogger(__name__)

LOOK: Final = 1.0  # seconds between two looks at the file
QUIET: Final = 10.0  # least seconds between two log records about refused requests
TOKENS: Final = 4096  # checked tokens that are remembered
CERTIFICATES: Final = 256
HEADER: Final = 8 * 1024 + 16  # characters of the header `Authorization`

V = TypeVar("V")


class _Latest(Generic[V]):
    """The `most` values that were used last, by key."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[object, V] = OrderedDict()

    def get(self, key: object) -> V | None:
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: object, value: V) -> None:
        self._values[key] = value
        if len(self._values) > self._most:
            self._values.popitem(last=False)

    def clear(self) -> None:
        self._values.clear()

    def __len__(self) -> int:
        return len(self._values)


class Caller:
    """Who sent a request, and what that caller may do.

    `name` is the caller in the access file; `subject` whose token or certificate it was, "" for a key; `proof` what it showed: `key ID`,
    `token ISSUER`, `certificate` or "". `spent` is whether its request was counted.
    """

    __slots__ = ("_clock", "_meter", "proof", "rules", "spent", "subject")

    def __init__(self, rules: Rules, meter: Meter, clock: Callable[[], float], subject: str = "", proof: str = "") -> None:
        self.rules = rules
        self.subject = subject
        self.proof = proof
        self.spent = False
        self._meter = meter
        self._clock = clock

    def asking(self) -> Caller:
        """Returns the same caller for one request, which it counts."""
        return Caller(self.rules, self._meter, self._clock, self.subject, self.proof)

    @property
    def name(self) -> str:
        return self.rules.name

    @property
    def part(self) -> float:
        """The most rows of a part of a stream; see `Meter.part`."""
        return self._meter.part

    def allows(self, right: str, *, topology: str = "", model: str | None = "", version: str = "") -> bool:
        """Returns whether the caller has this right (`control.rights`).

        Without a topology: whether it has it for any; without a model: for the whole topology; with the model None: for any of its models.
        """
        return self.rules.allows(right, topology, model, version)

    def check(self, right: str, *, topology: str = "", model: str | None = "", version: str = "") -> None:
        """Raises Forbidden unless the caller has this right."""
        self.rules.check(right, topology, model, version)

    def refused(self, columns: Mapping[str, Array], nulls: Mapping[str, Array] | None = None) -> dict[int, str]:
        """Returns the rows with a value of a field that this caller may not send, each with the reason; see `Rules.refused`."""
        return self.rules.refused(columns, nulls or {})

    def spend(self, rows: int) -> None:
        """Counts one request of so many rows. Raises RateLimited with the seconds until it can succeed, or TooLarge."""
        self.spent = True
        self._meter.spend(rows, self._clock())


class Gate:
    """Admits requests by an access file; without one, every request as `anonymous`. For one event loop.

    `clock` returns Unix time in seconds. `refusals` counts refused credentials by reason.
    """

    def __init__(self, path: Path | None, access: Access, clock: Callable[[], float], ledger: Ledger) -> None:
        self.path = path
        self._ledger = ledger
        self.problem = ""
        self.refusals: Counter[str] = Counter()
        self._clock = clock
        self._looked = clock()
        self._checked: _Latest[tuple[Caller, Token]] = _Latest(TOKENS)
        self._certificates: _Latest[tuple[Caller, certificates.Certificate]] = _Latest(CERTIFICATES)
        self._told = -QUIET
        self._untold: Counter[str] = Counter()
        self._fetching: dict[object, asyncio.Task[None]] = {}
        self._seen: object = None
        self._access = Access()
        self._tokens: Tokens | None = None
        self._use(access)

    @classmethod
    def open(cls, path: Path | None, clock: Callable[[], float], *, shared: Path | None = None) -> Self:
        """Reads the access file. None: every caller is anonymous. Raises ConfigError with every problem in it.

        Processes with the same file `shared` count together what callers send; it is made where it is missing.
        """
        ledger = Ledger(shared)
        if path is None:
            return cls(None, Access(), clock, ledger)
        seen = _state(path)
        gate = cls(path, Access.load(path), clock, ledger)
        gate._seen = seen
        if gate._tokens is not None:
            gate._tokens.fetch()
        return gate

    def admit(self, authorization: str | None, certificate: bytes | None) -> Caller:
        """Returns the caller of a request: by the header `Authorization`, else by the client certificate (DER) that TLS has checked.

        Raises Unauthenticated, KeysWanted (fetch them, and admit again), and TransportUnavailable when the keys of an issuer cannot be had.
        """
        if self.path is None:
            return self._anonymous
        now = self._clock()
        if not 0 <= now - self._looked < LOOK:
            self._looked = now
            self._look()
        try:
            if authorization is not None:
                return self._by_header(authorization, now)
            if certificate is not None:
                return self._by_certificate(certificate, now)
            raise Unauthenticated("a key, a token or a client certificate is needed: Authorization: Bearer ...", code="no-credential")
        except Unauthenticated as refused:
            self._count(refused.code, now)
            raise

    async def admitted(self, authorization: str | None, certificate: bytes | None) -> Caller:
        """Does the same for one request, and waits where the keys of an issuer have to be fetched first; all who wait share one fetch."""
        try:
            return self.admit(authorization, certificate).asking()
        except KeysWanted as wanted:
            await asyncio.shield(self._fetched(wanted.fetch))
        try:
            return self.admit(authorization, certificate).asking()
        except KeysWanted as wanted:
            raise TransportUnavailable(str(wanted)) from None

    def _fetched(self, fetch: Callable[[], None]) -> asyncio.Task[None]:
        """Returns the task that fetches these keys, which may have begun for another request."""
        task = self._fetching.get(fetch)
        if task is None:
            task = self._fetching[fetch] = asyncio.create_task(asyncio.to_thread(fetch))
            task.add_done_callback(lambda _: self._fetching.pop(fetch, None))
        return task

    # -- the three credentials ------------------------------------------------------------------------------------

    def _by_header(self, header: str, now: float) -> Caller:
        scheme, _, text = header.partition(" ")
        text = text.strip(" ")
        if len(header) > HEADER or scheme.lower() != "bearer" or not text.isascii() or "," in text:  # several are joined by commas
            raise Unauthenticated("one header is needed, `Authorization: Bearer` with a key or a token", code="bad-header")
        if (found := KEY.fullmatch(text)) is not None:
            return self._by_key(found[1], text, now)
        if self._tokens is None:
            raise Unauthenticated("this is no key of this service", code="unknown-key")
        return self._by_token(text, now)

    def _by_key(self, name: str, text: str, now: float) -> Caller:
        found = self._keys.get(name)
        if found is None or not matches(text, found[1].sha256):
            raise Unauthenticated("this is no key of this service", code="unknown-key")
        caller, key = found
        standing = key.standing(now)
        if standing != "valid":
            raise Unauthenticated(f"the key {name} {'has expired' if standing == 'expired' else 'was revoked'}", code=standing)
        return caller

    def _by_token(self, text: str, now: float) -> Caller:
        assert self._tokens is not None, "asked only where the file has issuers"
        name = hashlib.sha256(text.encode()).digest()
        if (known := self._checked.get(name)) is not None:
            caller, token = known
            token.keys.look()
            if now < token.ends and token.keys.version == token.version:
                return caller
        token = self._tokens.read(text)
        caller = self._of_token(token)
        self._checked.put(name, (caller, replace(token, claims={})))
        return caller

    def _of_token(self, token: Token) -> Caller:
        for entry in self._access.callers.values():
            if any(rule.issuer == token.issuer and has(token.claims, rule.claims) for rule in entry.tokens):
                return self._caller(entry.rules, token.subject, f"token {token.issuer}")
        raise Unauthenticated("the token is good, and its claims are those of no caller", code="unknown-claims")

    def _by_certificate(self, der: bytes, now: float) -> Caller:
        name = hashlib.sha256(der).digest()
        known = self._certificates.get(name)
        if known is None:
            found = certificates.read(der)
            entry = next((entry for entry in self._access.callers.values() if not found.names.isdisjoint(entry.certificates)), None)
            if entry is None:
                raise Unauthenticated("the client certificate is that of no caller", code="unknown-certificate")
            known = (self._caller(entry.rules, found.subject, "certificate"), found)
            self._certificates.put(name, known)
        known[1].check(now)
        return known[0]

    def _caller(self, rules: Rules, subject: str = "", proof: str = "") -> Caller:
        """Returns a caller with what it has left: all keys of one share it, tokens and certificates by their subject."""
        owner = (proof, subject) if subject else ()
        return Caller(rules, Meter(rules.name, rules.limits, self._ledger, *owner), self._clock, subject, proof)

    # -- the file -------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Reads the file again if it has changed."""
        assert self.path is not None
        state = _state(self.path)
        if state == self._seen:
            return
        self._seen = state
        try:
            self._use(Access.load(self.path))
        except ConfigError as error:
            self.problem = str(error)
            logger.warning("the access file stays as it was: %s", error)
        else:
            self.problem = ""
            logger.info("the access file %s has changed: %d callers", self.path, len(self._access.callers))

    def _use(self, access: Access) -> None:
        """Takes the content of a file, whole or not at all."""
        if access.issuers != self._access.issuers:
            self._tokens = Tokens(access.issuers.values(), self._clock, self._tokens) if access.issuers else None
        self._access = access
        self._checked.clear()
        self._certificates.clear()
        self._anonymous = self._caller(ANONYMOUS)
        self._keys = {
            key.id: (self._caller(entry.rules, proof=f"key {key.id}"), key)
            for entry in access.callers.values()
            for key in entry.keys.values()
        }

    # -- what was refused -----------------------------------------------------------------------------------------

    def _count(self, code: str, now: float) -> None:
        self.refusals[code] += 1
        self._untold[code] += 1
        if not 0 <= now - self._told < QUIET:
            self._told = now
            reasons = ", ".join(f"{count} {reason}" for reason, count in self._untold.most_common())
            logger.warning("requests without valid credentials since the last such message: %s", reasons)
            self._untold.clear()


def _state(path: Path) -> object:
    """Returns what changes when a file is written or replaced; None when it is missing."""
    try:
        found = os.stat(path.expanduser())
    except (OSError, ValueError):
        return None
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)
