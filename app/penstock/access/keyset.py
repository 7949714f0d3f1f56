"""The public keys of an issuer of tokens (JWKS, RFC 7517): from a file or a URL, read again as they change.

1. Keys of a URL are fetched again every REFRESH seconds, and when a token names an unknown one; never twice within RETRY seconds,
   whatever callers send, and one fetch at a time.
2. While the server does not answer, or answers with what is no set of keys, the last keys serve for the issuer's `keep` seconds. After
   that nothing can be decided: TransportUnavailable, which is no verdict about the caller.
3. A file is looked at every LOOK seconds; a bad new one leaves the keys as they are.
4. Only public keys of the three algorithms are taken, RSA from 2048 to 8192 bits. Others in the set are passed over: issuers publish
   keys for other purposes beside them.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from penstock.access.file import Issuer
from penstock.deadline import cut_after
from penstock.errors import ConfigError, KeysWanted, Problem, TransportUnavailable, Unauthenticated
from penstock.host import read_regular

__all__ = ["Key", "KeySet", "parse"]

logger = logging.getLogger(__name__)

REFRESH: Final = 300.0  # seconds between two fetches
RETRY: Final = 10.0  # least seconds between two fetches
LOOK: Final = 1.0  # seconds between two looks at a file
TIMEOUT: Final = 5.0  # seconds that a fetch may take
MOST: Final = 256 * 1024  # bytes of a set
KEYS: Final = 100  # of a set that are looked at
RSA_BITS: Final = (2048, 8192)
_ALGORITHMS: Final = {("OKP", "Ed25519"): "EdDSA", ("EC", "P-256"): "ES256", ("RSA", ""): "RS256"}  # by type and curve of a key


@dataclass(frozen=True, slots=True)
class Key:
    """A public key and the one algorithm that it checks. `public` is a key of the library `cryptography`."""

    algorithm: str
    public: Any


def parse(data: bytes) -> dict[tuple[str, str], Key]:
    """Returns the usable keys of a set, by id and algorithm; a key without an id has "".

    Raises ValueError for what is no set of keys, and for one without a usable key.
    """
    if len(data) > MOST:
        raise ValueError(f"more than {MOST} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError('it is no set of keys: {"keys": [...]}')
    found: dict[tuple[str, str], Key] = {}
    doubled = set()
    for one in listed[:KEYS]:
        key = _key(one) if isinstance(one, dict) else None
        if key is not None:
            name = (str(one.get("kid", "")), key.algorithm)
            doubled |= {name} & found.keys()
            found[name] = key
    for name in doubled:  # which of them signed is not known
        del found[name]
    if not found:
        raise ValueError("it has no public key for EdDSA (Ed25519), ES256 or RS256 (2048 bits at least)")
    return found


def _key(jwk: Mapping[str, Any]) -> Key | None:
    """Returns a key of the set if tokens may be signed with it."""
    import jwt
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if "d" in jwk or "k" in jwk or jwk.get("use", "sig") != "sig" or not isinstance(jwk.get("kid", ""), str):
        return None
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    algorithm = _ALGORITHMS.get((_text(jwk, "kty"), _text(jwk, "crv")))
    if algorithm is None or jwk.get("alg", algorithm) != algorithm:
        return None
    if not all(isinstance(value, str) and len(value) <= 4096 for name, value in jwk.items() if name in ("n", "e", "x", "y")):
        return None
    try:
        public = jwt.PyJWK.from_dict({name: jwk[name] for name in ("kty", "crv", "n", "e", "x", "y") if name in jwk}, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
        return None
    if isinstance(public, rsa.RSAPublicKey):
        return Key(algorithm, public) if RSA_BITS[0] <= public.key_size <= RSA_BITS[1] else None
    return Key(algorithm, public) if isinstance(public, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) else None


def _text(jwk: Mapping[str, Any], name: str) -> str:
    value = jwk.get(name, "")
    return value if isinstance(value, str) else "?"


class KeySet:
    """The keys of one issuer. `version` changes with them. May be used by several threads."""

    def __init__(self, issuer: Issuer, clock: Callable[[], float]) -> None:
        self.issuer = issuer
        self.version = 0
        self.problem = ""
        self._keys: Mapping[tuple[str, str], Key] = {}
        self._clock = clock
        self._fetched: float | None = None
        self._tried: float | None = None
        self._seen: object = None
        self._fetching = threading.Lock()

    def open(self) -> None:
        """Reads the file of keys. Raises ConfigError for one that cannot be used. Keys of a URL are fetched when they are needed."""
        if not self.issuer.url and (problem := self._read_file()):
            raise ConfigError(Problem(self.issuer.jwks, 0, 0, f"no keys of the issuer {self.issuer.name}: {problem}"))

    def fetch(self) -> None:
        """Asks the server of a URL for the keys, unless that was just done. Raises nothing: one that does not answer may come later."""
        if not self.issuer.url:
            return
        with self._fetching:
            if not self._may_ask(self._clock()):
                return
            problem = ""
            try:
                self._take(parse(_get(urlsplit(self.issuer.jwks), self.issuer.ca)))
                self._fetched = self._clock()
            except (OSError, ValueError, http.client.HTTPException) as error:
                problem = str(error) or type(error).__name__
            self._tried = self._clock()
            self._say(problem)

    def look(self) -> None:
        """Begins to read or fetch keys that are old, and forgets those that are too old. To be called for each token, also a known one.

        Raises KeysWanted when the issuer has to be asked first, and TransportUnavailable when it has not answered for longer than its
        keys are kept.
        """
        now = self._clock()
        if self.issuer.url:
            self._age(now)
        elif self._tried is None or not 0 <= now - self._tried < LOOK:
            self._tried = now
            self._say(self._read_file())

    def find(self, kid: str | None, algorithm: str) -> Key:
        """Returns the key of this id, without an id the only one of the algorithm.

        Raises Unauthenticated when the issuer has no such key, and what `look` raises.
        """
        self.look()
        found = self._find(kid, algorithm)
        if found is not None:
            return found
        if self.issuer.url and self._may_ask(self._clock()):
            raise KeysWanted(f"{self.issuer.name} is asked for a key", self.fetch)
        raise Unauthenticated(f"{self.issuer.name} has no such key", code="unknown-key")

    def _find(self, kid: str | None, algorithm: str) -> Key | None:
        if kid is not None:
            return self._keys.get((kid, algorithm))
        fitting = [key for (_, one), key in self._keys.items() if one == algorithm]
        return fitting[0] if len(fitting) == 1 else None

    def _age(self, now: float) -> None:
        if self._fetched is not None and 0 <= now - self._fetched < REFRESH:
            return
        if self._fetched is None or now - self._fetched >= self.issuer.keep:
            if self._may_ask(now):
                raise KeysWanted(f"{self.issuer.name} is asked for its keys", self.fetch)
            raise TransportUnavailable(f"the keys of the issuer {self.issuer.name} cannot be fetched; try again later")
        if self._may_ask(now) and not self._fetching.locked():
            threading.Thread(target=self.fetch, name=f"keys of {self.issuer.name}", daemon=True).start()

    def _may_ask(self, now: float) -> bool:
        return self._tried is None or not 0 <= now - self._tried < RETRY

    def _read_file(self) -> str:
        """Reads the file if it has changed; returns what is wrong with it."""
        path = Path(self.issuer.jwks)
        try:
            found = os.stat(path)
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
            if seen == self._seen:
                return self.problem
            self._seen = seen
            self._take(parse(read_regular(path, MOST)))
        except (OSError, ValueError) as error:
            return str(getattr(error, "strerror", None) or error)
        return ""

    def _take(self, keys: Mapping[tuple[str, str], Key]) -> None:
        self._keys = keys
        self.version += 1

    def _say(self, problem: str) -> None:
        if problem and problem != self.problem:
            logger.warning("the keys of the issuer %s stay as they are: %s: %s", self.issuer.name, self.issuer.jwks, problem)
        self.problem = problem


def _get(url: SplitResult, ca: Path | None) -> bytes:
    """Returns the body at the URL. Raises OSError, HTTPException or ValueError."""
    connection: http.client.HTTPConnection
    if url.scheme == "https":
        context = ssl.create_default_context(cafile=ca)
        connection = http.client.HTTPSConnection(url.hostname or "", url.port, timeout=TIMEOUT, context=context)
    else:
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=TIMEOUT)
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    with contextlib.closing(connection), cut_after(TIMEOUT, connection) as late:
        try:
            connection.request("GET", target, headers={"Accept": "application/jwk-set+json, application/json", "User-Agent": "penstock"})
            response = connection.getresponse()
            data = response.read(MOST + 1)
        except OSError as error:
            if late.is_set():
                raise TimeoutError(f"no answer within {TIMEOUT:g} s") from error
            raise
    if late.is_set():  # what has arrived until then may be a part
        raise TimeoutError(f"no answer within {TIMEOUT:g} s")
    if response.status != 200:
        raise ValueError(
            f"the answer is {response.status} {response.reason}" + ("; redirects are not followed" if response.status // 100 == 3 else "")
        )
    return data
