"""The trust file: the keys whose control messages are accepted, for which topologies, and from when to when.

    [keys.alice]
    public = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    topologies = ["flights"]            # or ["*"]: all
    may = ["promote", "rollback"]       # what it may do (`control.rights`); without the line: deploy, promote and rollback
    max_share = 0.25                    # the most of the units that it may let a release answer; without the line: all
    trusted = 2026-01-31T12:00:00Z
    expires = 2027-01-31T12:00:00Z      # if it is to end by itself
    revoked = 2026-06-30T12:00:00Z      # once it is no longer trusted
    comment = "Alice, data science"     # for people
    kid = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"   # the key's id, as messages name it; checked when it is there

Revoke a key that was trusted; never remove it, nor take a right from it. The history keeps what it signed while it was trusted, and is
folded by what the file has now: to narrow a key, revoke it and trust a new one.
Edits change the text, so that comments stay. An edit is rejected unless the new text parses to the intended keys.
"""

from __future__ import annotations

import json
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from penstock.control.messages import timestamp
from penstock.control.rights import ALL, RELEASES
from penstock.control.trust.keys import key_id, public_key
from penstock.errors import ConfigError, Problem
from penstock.host import read_regular
from penstock.settings import Settings
from penstock.topology.names import NAME

__all__ = ["KEY_NAME", "Trust", "TrustedKey", "is_topology", "with_key", "with_revocation"]

KEY_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")


class Fault(NamedTuple):
    """Why a key is not trusted at a time: not-yet-trusted, revoked or expired, and the sentence for people."""

    code: str
    why: str


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A key of the trust file: `public` in base64url, the topologies it is for ("*": all), its rights, and when it is trusted.

    `max_share` is the largest share of the units (0 to 1) that it may let a release answer. Times are Unix times in ms.
    """

    name: str
    public: str
    topologies: frozenset[str]
    trusted_ms: int
    revoked_ms: int | None = None
    comment: str = field(default="", compare=False)
    may: frozenset[str] = ALL
    expires_ms: int | None = None
    max_share: float = 1.0

    @property
    def kid(self) -> str:
        return key_id(self.public)

    def serves(self, topology: str) -> bool:
        """Returns whether the key may sign messages for this topology."""
        return not self.topologies.isdisjoint({topology, "*"})

    def fault(self, ms: float) -> Fault | None:
        """Returns why messages that a broker stamps at this Unix time in ms are refused; None when they are accepted."""
        if ms < self.trusted_ms:
            return Fault("not-yet-trusted", f"{self.name} is trusted from {stamped(self.trusted_ms)} on")
        if self.revoked_ms is not None and ms >= self.revoked_ms:
            return Fault("revoked", f"{self.name} was revoked at {stamped(self.revoked_ms)}")
        if self.expires_ms is not None and ms >= self.expires_ms:
            return Fault("expired", f"{self.name} expired at {stamped(self.expires_ms)}")
        return None


DEFAULT: Final = Settings().trust
_LIMIT: Final = 16 * 1024**2  # bytes
_LAST: Final = 253_402_300_799_999  # the last moment of the year 9999


@dataclass(frozen=True, slots=True)
class Trust:
    """The trusted keys, by key id. Equal when the same keys are trusted for the same topologies at the same times."""

    keys: Mapping[str, TrustedKey] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads the trust file. Without a file at the default place no key is trusted.

        Raises ConfigError with every problem in it; for a file that was named and is not there (its folder may not be mounted, and without
        its keys a worker would go back to the topology file's versions); and for one that every user of the host can write.
        """
        try:
            text = read_regular(path.expanduser(), _LIMIT).decode()
            mode = path.expanduser().stat().st_mode
        except FileNotFoundError:
            if path == DEFAULT:
                return cls()
            fix = "is its folder mounted? `penstock keys trust NAME` creates it"
            raise ConfigError(Problem(str(path), 0, 0, "this file of trusted keys does not exist", fix)) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(Problem(str(path), 0, 0, f"cannot be read: {getattr(error, 'strerror', None) or error}")) from None
        if mode & stat.S_IWOTH:
            message = "every user of this host can change this file, and with it who may swap models"
            raise ConfigError(Problem(str(path), 0, 0, message, f"chmod o-w {path}"))
        return cls.parse(text, file=str(path))

    @classmethod
    def parse(cls, text: str, *, file: str) -> Self:
        """Reads the trust file from its text. Raises ConfigError with every problem in it, each with the key's line."""
        try:
            document = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits is no TOMLDecodeError
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
        """Returns the key of this name, or None."""
        return next((key for key in self.keys.values() if key.name == name), None)

    def able(self, topology: str, rights: frozenset[str], ms: float) -> list[str]:
        """Returns the names of the keys that have one of the rights for the topology, at this Unix time in ms."""
        return sorted(
            key.name for key in self.keys.values() if key.serves(topology) and not key.fault(ms) and not rights.isdisjoint(key.may)
        )


_FIELDS: Final = ("kid", "public", "topologies", "may", "max_share", "trusted", "expires", "revoked", "comment")


def _complaints(name: str, table: Any) -> Iterator[str]:
    """Yields the problems of a key's table, each as "field: what"."""
    if not KEY_NAME.fullmatch(name):
        yield ": a name is made of letters, digits, '_' and '-' (64 characters at most)"
    if not isinstance(table, dict):
        yield ": not a table"
        return
    yield from (f"{unknown}: not known here; a key has {', '.join(_FIELDS)}" for unknown in table if unknown not in _FIELDS)
    yield from _public_complaints(table)
    topologies = table.get("topologies")
    if not isinstance(topologies, list) or not topologies or not all(isinstance(one, str) and is_topology(one) for one in topologies):
        yield 'topologies: a list of topologies\' names is needed, such as ["flights"], or ["*"] for all'
    may = table.get("may", ["deploy"])
    if not isinstance(may, list) or not may or not all(isinstance(one, str) and one in RELEASES for one in may):
        yield f"may: a list of {', '.join(RELEASES)}; without the line, all of them"
    share = table.get("max_share", 1.0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        yield "max_share: a share of the units is needed, more than 0 and at most 1, such as 0.25"
    for when in ("trusted", "expires", "revoked"):
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
        yield f"kid: this public key's id is {key_id(public)}; `public` or `kid` belongs to another key"


def is_topology(name: str) -> bool:
    """Returns whether this is a topology's name or "*"."""
    return name == "*" or re.fullmatch(NAME, name) is not None


def _trusted(name: str, table: Mapping[str, Any]) -> TrustedKey:
    def ms(when: datetime) -> int:
        return int(when.timestamp() * 1000)

    revoked, expires = table.get("revoked"), table.get("expires")
    return TrustedKey(
        name, table["public"], frozenset(table["topologies"]), ms(table["trusted"]), revoked and ms(revoked), table.get("comment", ""),
        frozenset(table.get("may", ALL)), expires and ms(expires), float(table.get("max_share", 1.0)),
    )  # fmt: skip


def _dot(complaint: str) -> str:
    return complaint if complaint.startswith(":") else f".{complaint}"


def _place(name: str, text: str) -> tuple[int, int]:
    """Returns the line and column of a key's table in its usual form, else zeros: tomllib does not report them."""
    found = re.search(rf"^[ \t]*\[\s*keys\s*\.\s*[\"']?{re.escape(name)}[\"']?\s*\]", text, re.MULTILINE)
    return (text.count("\n", 0, found.start()) + 1, 1) if found else (0, 0)


def with_key(text: str, key: TrustedKey, *, file: str) -> str:
    """Returns the trust file with one more key, trusted from that second on.

    Raises ConfigError when it has the name or the key already, or when the text cannot be edited.
    """
    before = Trust.parse(text, file=file)
    key = replace(key, trusted_ms=key.trusted_ms // 1000 * 1000, expires_ms=key.expires_ms and key.expires_ms // 1000 * 1000)
    if key.name in {one.name for one in before.keys.values()}:
        raise ConfigError(Problem(file, *_place(key.name, text), f"there is a key {key.name} already", "choose another name, or edit it"))
    if other := before.keys.get(key.kid):
        raise ConfigError(Problem(file, *_place(other.name, text), f"the file has this key already, as {other.name}", "edit it"))
    lines = [
        f"[keys.{key.name}]",
        f'public = "{key.public}"',
        f'kid = "{key.kid}"',
        f"topologies = [{', '.join(_quoted(one) for one in sorted(key.topologies))}]",
        *([f"may = [{', '.join(_quoted(one) for one in RELEASES if one in key.may)}]"] if key.may != ALL else []),
        *([f"max_share = {key.max_share!r}"] if key.max_share < 1 else []),
        f"trusted = {_written(key.trusted_ms)}",
        *([f"expires = {_written(key.expires_ms)}"] if key.expires_ms is not None else []),
        *([f"comment = {_quoted(key.comment)}"] if key.comment else []),
    ]
    begun = text.rstrip("\n")
    return _checked("\n".join([*([begun, ""] if begun else []), *lines, ""]), Trust({**before.keys, key.kid: key}), file=file)


def with_revocation(text: str, name: str, at_ms: int, *, file: str) -> str:
    """Returns the trust file with the key revoked from then on. Raises ConfigError for an unknown key, or one that was revoked before."""
    before = Trust.parse(text, file=file)
    key = before.named(name)
    if key is None:
        known = ", ".join(sorted(one.name for one in before.keys.values())) or "none"
        raise ConfigError(Problem(file, 0, 0, f"there is no key {name}", f"known: {known}"))
    line, column = _place(name, text)
    if key.revoked_ms is not None:
        raise ConfigError(Problem(file, line, column, f"{name} was revoked at {_written(key.revoked_ms)}", "set another time by hand"))
    lines = text.split("\n")
    at_ms = at_ms // 1000 * 1000
    lines[line:line] = [f"revoked = {_written(at_ms)}"] if line else []
    return _checked("\n".join(lines), Trust({**before.keys, key.kid: replace(key, revoked_ms=at_ms)}), file=file)


def _checked(text: str, meant: Trust, *, file: str) -> str:
    """Returns the text if it parses to `meant`: TOML has many ways to write a table, and only the usual one can be edited here."""
    try:
        found: Trust | None = Trust.parse(text, file=file)
    except ConfigError:
        found = None
    if found != meant:
        raise ConfigError(Problem(file, 0, 0, "its tables are not written as [keys.NAME], so it cannot be edited here", "edit it by hand"))
    return text


def _quoted(text: str) -> str:
    """Returns a TOML string: a JSON string is one, except for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def stamped(ms: int) -> str:
    """Returns a Unix time in ms as messages write times; one that no date can express as the nearest."""
    return timestamp(min(max(ms, 0), _LAST) / 1000)


def _written(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
