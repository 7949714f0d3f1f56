"""JSON Web Tokens: which issuer signed one, what it claims, and until when that holds.

Checked in this order: size and form; the issuer is one of the file; the algorithm is one that the issuer may use; the key is one of its
set, for exactly that algorithm; the signature; `aud`, `exp`, `nbf`, `iat`. The header chooses nothing else: keys and addresses in it
(`jwk`, `jku`, `x5u`, `x5c`) are not read, `kid` only looks up a key of the set, and `crit` is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from penstock.access.file import ALGORITHMS, Issuer
from penstock.access.keyset import KeySet
from penstock.errors import ConfigError, Unauthenticated

__all__ = ["TOKEN", "Token", "Tokens", "has"]

LARGEST: Final = 8 * 1024  # characters of a token
SUBJECT: Final = 255  # characters of `sub`, as OpenID Connect has it
_HALF: Final = re.compile("[\ud800-\udfff]")  # of a pair: JSON can have one alone, and no message that names the subject can
TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was checked: the issuer's name in the access file, its claims, and the Unix time until which it counts.

    `keys` checked it when they had the `version`.
    """

    keys: KeySet
    version: int
    issuer: str
    subject: str
    claims: Mapping[str, Any]
    ends: float


class Tokens:
    """Checks tokens of these issuers; those that are in `before` as well keep the keys that they have there.

    Raises ConfigError when the library for it is not installed, or a file of keys cannot be used.
    """

    def __init__(self, issuers: Iterable[Issuer], clock: Callable[[], float], before: Tokens | None = None) -> None:
        try:
            import jwt  # noqa: F401  a start should fail, not the first token
        except ImportError:
            raise ConfigError("the access file has issuers of tokens: pip install 'penstock[jwt]'") from None
        self._clock = clock
        known = {} if before is None else {keys.issuer: keys for keys in before.sets}
        self.sets: list[KeySet] = [known.get(issuer) or KeySet(issuer, clock) for issuer in issuers]
        for keys in self.sets:
            keys.open()

    def fetch(self) -> None:
        """Asks the issuers for their keys, one after the other. One that does not answer is logged."""
        for keys in self.sets:
            keys.fetch()

    def read(self, text: str) -> Token:
        """Returns a token that counts now. Raises Unauthenticated, and what `KeySet.find` raises."""
        import jwt

        if len(text) > LARGEST or not TOKEN.fullmatch(text):
            raise _bad("it is no JSON Web Token of at most 8192 characters", "bad-token")
        header, claims = _parts(text)
        if "crit" in header:
            raise _bad("its header has `crit`, and nothing is known here that it could name", "bad-token")
        algorithm, kid, claimed = header.get("alg"), header.get("kid"), claims.get("iss")
        if algorithm not in ALGORITHMS:
            raise _bad(f"only {', '.join(ALGORITHMS)} are accepted", "bad-algorithm")
        if not isinstance(kid, str | None):
            raise _bad("its `kid` is no text", "bad-token")
        chosen = [keys for keys in self.sets if keys.issuer.issuer == claimed]
        if not chosen:
            raise _bad("its issuer is not known", "unknown-issuer")
        reason = _bad("its signature is not its issuer's", "bad-signature")
        for keys in chosen:  # one `iss` may have entries for several audiences
            issuer = keys.issuer
            if algorithm not in issuer.algorithms:
                reason = _bad(f"{issuer.name} does not sign with {algorithm}", "bad-algorithm")
                continue
            if not _aimed(claims.get("aud"), issuer.audience):
                reason = _bad("it is for another audience", "wrong-audience")
                continue
            key = keys.find(kid, algorithm)
            try:
                jwt.PyJWS().decode(text, key.public, algorithms=[algorithm])
            except (jwt.PyJWTError, ValueError, TypeError):
                raise reason from None
            subject = claims.get("sub", "")
            if not isinstance(subject, str) or len(subject) > SUBJECT or _HALF.search(subject):
                raise _bad("its `sub` is no text of at most 255 characters", "bad-token")
            return Token(keys, keys.version, issuer.name, subject, claims, _timely(claims, self._clock(), issuer.leeway))
        raise reason


def has(claims: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """Returns whether each claim is there, with the value, with it in its list, or, for `scope`, with it as one of its words."""
    for name, value in wanted.items():
        found = claims.get(name)
        if isinstance(found, str) and name == "scope":
            found = found.split(" ")
        if found != value and not (isinstance(found, list) and value in found):
            return False
    return True


def _parts(text: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Returns header and claims, which are not checked yet. A name that occurs twice could be read differently by others."""
    from jwt.utils import base64url_decode

    found = []
    for part in text.split(".")[:2]:
        try:
            found.append(json.loads(base64url_decode(part), object_pairs_hook=_once))
        except (ValueError, RecursionError):
            raise _bad("header and claims have to be JSON objects in base64url", "bad-token") from None
    if not all(isinstance(one, dict) for one in found):
        raise _bad("header and claims have to be JSON objects", "bad-token")
    return found[0], found[1]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _aimed(audience: Any, wanted: Iterable[str]) -> bool:
    return any(one in wanted for one in (audience if isinstance(audience, list) else [audience]) if isinstance(one, str))


def _timely(claims: Mapping[str, Any], now: float, leeway: float) -> float:
    """Returns until when the token counts. Raises Unauthenticated when that is over, or has not begun."""
    times: dict[str, float] = {}
    for name in ("exp", "nbf", "iat"):
        value = claims.get(name)
        if value is None and name != "exp":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e12:
            raise _bad(f"its `{name}` is no time", "bad-token")
        times[name] = float(value)
    if now >= times["exp"] + leeway:
        raise _bad("it has expired", "expired")
    if now < max(times.get("nbf", 0.0), times.get("iat", 0.0)) - leeway:
        raise _bad("it does not count yet", "not-yet-valid")
    return times["exp"] + leeway


def _bad(why: str, code: str) -> Unauthenticated:
    return Unauthenticated(f"the token is refused: {why}", code=code)
