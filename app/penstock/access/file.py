"""The access file: who may call the service, how each caller shows who it is, and what it may do.

    [callers.shop]
    may = ["score", "read"]              # words of `control.rights`
    topologies = ["flights"]             # or ["*"]: all
    models = ["flights", "flights.trees@2"]   # the models that it may address, all versions or one; without the line: all
    only = { store = ["A", "B"] }        # the values that these fields of its rows may have
    requests = 100                       # per second; without the line: no limit
    rows = 20_000                        # per second
    request_rows = 1_000                 # in one request
    certificates = ["dns:shop.example.org"]                              # client certificates (mTLS)
    tokens = [{ issuer = "company", claims = { groups = "shops" } }]     # JWTs that have all of these claims
    comment = "the shop's web server"

    [callers.shop.keys.k3m7qa2tzx5b]     # an API key by its public id; several, while one replaces another
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    made = 2026-01-31T12:00:00Z
    expires = 2027-01-31T12:00:00Z
    revoked = 2026-06-30T12:00:00Z

    [issuers.company]                    # who signs JWTs
    issuer = "https://login.example.org"
    audience = ["penstock"]
    jwks = "https://login.example.org/.well-known/jwks.json"    # or a file, beside this one

A token or a certificate that fits several callers is the first one's, in the order of the file.
Edits change the text, so that comments stay. An edit is rejected unless the new text parses to the intended callers.
"""

from __future__ import annotations

import json
import math
import re
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from penstock.access.keys import ID, SHA256
from penstock.access.meter import Limits
from penstock.access.rules import MODEL, Rules, Value
from penstock.control.rights import RIGHTS
from penstock.control.trust.file import KEY_NAME, is_topology
from penstock.errors import ConfigError, Problem
from penstock.host import read_regular
from penstock.settings import is_loopback

__all__ = ["ALGORITHMS", "Access", "ApiKey", "Entry", "Issuer", "TokenRule", "with_key", "with_revocation"]

ALGORITHMS: Final = ("EdDSA", "ES256", "RS256")
CERTIFICATE: Final = re.compile(r"(dns|uri|email|subject|sha256):\S.{0,510}")
_WHERE: Final = re.compile(r"line (\d+), column (\d+)")  # in what tomllib reports
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")  # a key of TOML without quotes
_LIMIT: Final = 4 * 1024**2  # bytes


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key of a caller: what the file stores of it. Times are Unix times in seconds."""

    id: str
    sha256: str
    made: float
    expires: float | None = None
    revoked: float | None = None

    def standing(self, now: float) -> str:
        """Returns valid, revoked or expired."""
        if self.revoked is not None and now >= self.revoked:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "valid"


@dataclass(frozen=True, slots=True)
class TokenRule:
    """The tokens that are a caller's: those of the issuer that have every claim, with the value, or with it in their list."""

    issuer: str
    claims: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who signs tokens, and where its keys are: `jwks` is an https URL or a file.

    `leeway` is how far its clock may differ (s); `keep`, how long its last keys serve while it does not answer (s).
    """

    name: str
    issuer: str
    audience: tuple[str, ...]
    jwks: str
    ca: Path | None = None
    algorithms: tuple[str, ...] = ALGORITHMS
    leeway: float = 30.0
    keep: float = 3600.0

    @property
    def url(self) -> bool:
        return "://" in self.jwks


@dataclass(frozen=True, slots=True)
class Entry:
    """One caller of the file: its rules, and what shows that a request is from it."""

    rules: Rules
    keys: Mapping[str, ApiKey] = field(default_factory=dict)
    certificates: tuple[str, ...] = ()
    tokens: tuple[TokenRule, ...] = ()
    comment: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Access:
    """The content of an access file, in its order."""

    callers: Mapping[str, Entry] = field(default_factory=dict)
    issuers: Mapping[str, Issuer] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads the file. Raises ConfigError with every problem in it, and for a file that every user of the host can write."""
        path = path.expanduser()
        try:
            text = read_regular(path, _LIMIT).decode()
            mode = path.stat().st_mode
        except FileNotFoundError:
            fix = "is its folder mounted? `penstock access key add NAME` creates it"
            raise ConfigError(Problem(str(path), 0, 0, "this access file does not exist", fix)) from None
        except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the path
            raise ConfigError(Problem(str(path), 0, 0, f"cannot be read: {getattr(error, 'strerror', None) or error}")) from None
        if mode & stat.S_IWOTH:
            message = "every user of this host can change this file, and with it who may call the service"
            raise ConfigError(Problem(str(path), 0, 0, message, f"chmod o-w {path}"))
        return cls.parse(text, file=str(path))

    @classmethod
    def parse(cls, text: str, *, file: str) -> Self:
        """Reads the file from its text. Raises ConfigError with every problem in it, each with its line."""
        try:
            document = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits is no TOMLDecodeError
            at = _WHERE.search(str(error))
            line, column = (int(at[1]), int(at[2])) if at else (0, 0)
            raise ConfigError(Problem(file, line, column, f"not TOML: {error}")) from None
        problems = [Problem(file, 0, 0, f"{name}: not known here", _TOP) for name in sorted(set(document) - {"callers", "issuers"})]
        tables: dict[str, dict[str, Any]] = {}
        for kind in ("callers", "issuers"):
            tables[kind] = document.get(kind, {})
            if not isinstance(tables[kind], dict):
                problems.append(Problem(file, 0, 0, f"{kind}: not a table", _TOP))
                tables[kind] = {}
            for name, table in tables[kind].items():
                found = _complaints(kind, name, table, tables["callers"], document.get("issuers"))
                problems += [Problem(file, *_at(kind, name, one, text), f"{kind}.{name}{_dot(one)}") for one in found]
        if not problems:
            doubles = _doubles(tables["callers"])
            problems = [Problem(file, *_at("callers", name, one, text), f"callers.{name}.{one}") for name, one in doubles]
        if problems:
            raise ConfigError(sorted(problems))
        folder = Path(file).parent
        return cls(
            {name: _entry(name, table) for name, table in tables["callers"].items()},
            {name: _issuer(name, table, folder) for name, table in tables["issuers"].items()},
        )

    def key(self, name: str) -> tuple[Entry, ApiKey] | None:
        """Returns the key of this id with its caller, or None."""
        return next(((entry, entry.keys[name]) for entry in self.callers.values() if name in entry.keys), None)


_TOP: Final = "the file has tables [callers.NAME] and [issuers.NAME]"
_CALLER: Final = (
    "may", "topologies", "models", "only", "requests", "rows", "request_rows", "certificates", "tokens", "comment", "keys",
)  # fmt: skip
_KEY: Final = ("sha256", "made", "expires", "revoked")
_ISSUER: Final = ("issuer", "audience", "jwks", "ca", "algorithms", "leeway", "keep")


# --- what is wrong ----------------------------------------------------------------------------------------------------


def _complaints(kind: str, name: str, table: Any, callers: Any, issuers: Any) -> list[str]:
    """Returns the problems of a table, each as "field: what"."""
    found = []
    if not KEY_NAME.fullmatch(name):
        found.append(": a name is made of letters, digits, '_' and '-' (64 characters at most)")
    if not isinstance(table, dict):
        return [*found, ": not a table"]
    known = _CALLER if kind == "callers" else _ISSUER
    found += [f"{one}: not known here; known are {', '.join(known)}" for one in table if one not in known]
    if kind == "issuers":
        return found + list(_issuer_complaints(table))
    found += _caller_complaints(table)
    found += _proof_complaints(table, issuers if isinstance(issuers, dict) else {})
    return found


def _caller_complaints(table: Mapping[str, Any]) -> Iterator[str]:
    if not _texts(table.get("may"), lambda one: one in RIGHTS):
        yield f"may: a list of {', '.join(RIGHTS)} is needed"
    if not _texts(table.get("topologies"), is_topology):
        yield 'topologies: a list of topologies\' names is needed, such as ["flights"], or ["*"] for all'
    if "models" in table and not _texts(table["models"], lambda one: MODEL.fullmatch(one) is not None):
        yield 'models: a list of models is needed, such as ["flights", "flights.trees@2"]'
    only = table.get("only", {})
    if not isinstance(only, dict) or not all(isinstance(one, list) and one and all(map(_is_value, one)) for one in only.values()):
        yield 'only: fields with lists of values are needed, such as { store = ["A", "B"] }'
    for limit in ("requests", "rows"):
        value = table.get(limit, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            yield f"{limit}: a number above 0 is needed: how many per second"
    value = table.get("request_rows", 1)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        yield "request_rows: a whole number above 0 is needed"
    if not isinstance(table.get("comment", ""), str):
        yield "comment: a text is needed"


def _proof_complaints(table: Mapping[str, Any], issuers: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is wrong with a caller's keys, certificates and tokens."""
    if "certificates" in table and not _texts(table["certificates"], lambda one: CERTIFICATE.fullmatch(one) is not None):
        yield 'certificates: a list is needed, such as ["dns:shop.example.org", "subject:CN=shop,O=Example"]; also uri:, email:, sha256:'
    tokens = table.get("tokens", [])
    if not isinstance(tokens, list) or not all(_is_token_rule(one) for one in tokens):
        yield 'tokens: a list is needed, such as [{ issuer = "company", claims = { sub = "shop" } }]'
    else:
        yield from (f"tokens: there is no [issuers.{one['issuer']}]" for one in tokens if one["issuer"] not in issuers)
    keys = table.get("keys", {})
    if not isinstance(keys, dict):
        yield "keys: not a table; a key is [callers.NAME.keys.ID]"
        return
    for name, key in keys.items():
        yield from (f"keys.{name}{_dot(one)}" for one in _key_complaints(name, key))


def _key_complaints(name: str, key: Any) -> Iterator[str]:
    if not ID.fullmatch(name):
        yield ": this is no id of a key; `penstock access key add` makes keys"
    if not isinstance(key, dict):
        yield ": not a table"
        return
    yield from (f"{one}: not known here; known are {', '.join(_KEY)}" for one in key if one not in _KEY)
    stored = key.get("sha256")
    if not isinstance(stored, str) or not SHA256.fullmatch(stored):
        yield "sha256: 64 hexadecimal digits are needed, as `penstock access key add` writes them; never the key"
    for when in ("made", "expires", "revoked"):
        value = key.get(when)
        if not (isinstance(value, datetime) and value.tzinfo) and (when in key or when == "made"):
            yield f"{when}: a time with its zone is needed, such as 2026-01-31T12:00:00Z, without quotes"


def _issuer_complaints(table: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(table.get("issuer"), str) or not table["issuer"]:
        yield "issuer: the text that its tokens have as `iss` is needed"
    if not _texts(table.get("audience"), bool):
        yield 'audience: a list of the texts that tokens for this service have as `aud` is needed, such as ["penstock"]'
    jwks = table.get("jwks")
    if not isinstance(jwks, str) or not jwks:
        yield "jwks: an https URL or a file is needed"
    elif problem := _url_problem(jwks):
        yield f"jwks: {problem}"
    if not isinstance(table.get("ca", "ca.pem"), str):
        yield "ca: a file of certificates (PEM) is needed"
    if "algorithms" in table and not _texts(table["algorithms"], lambda one: one in ALGORITHMS):
        yield f"algorithms: a list of {', '.join(ALGORITHMS)} is needed; no others are accepted"
    for name, low, high in (("leeway", 0, 300), ("keep", 0, 7 * 86_400)):
        value = table.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            yield f"{name}: seconds from {low} to {high} are needed"


def _url_problem(text: str) -> str:
    """Returns why keys are not fetched from this URL, "" for a good one or a file."""
    if "://" not in text:
        return ""
    try:
        url = urlsplit(text)
        good = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0 and not url.fragment
    except ValueError:  # a port that is not a number
        return f"{text!r} is not a URL"
    if not good:
        return f"{text!r} is not an https URL"
    if url.username is not None or url.password is not None:
        return "a URL with a user would be shown"
    if url.scheme == "http" and not is_loopback(url.hostname or ""):
        return "keys that came without encryption could be anybody's: use https"
    return ""


def _doubles(callers: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yields keys and certificates that two callers have: the caller and the problem."""
    seen: dict[str, str] = {}
    for name, table in callers.items():
        proofs = [f"keys.{one}" for one in table.get("keys", {})] + [f"certificates: {one}" for one in table.get("certificates", [])]
        for one in proofs:
            if seen.setdefault(one, name) != name:
                yield name, f"{one}: this is also one of {seen[one]}"


def _texts(value: Any, good: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) and good(one) for one in value)


def _is_value(value: Any) -> bool:
    return isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))


def _is_token_rule(value: Any) -> bool:
    if not isinstance(value, dict) or not set(value) <= {"issuer", "claims"} or not isinstance(value.get("issuer"), str):
        return False
    claims = value.get("claims", {})
    return isinstance(claims, dict) and all(isinstance(one, str) and one for one in claims.values())


# --- values -----------------------------------------------------------------------------------------------------------


def _entry(name: str, table: Mapping[str, Any]) -> Entry:
    models = table.get("models")
    rules = Rules(
        name, frozenset(table["may"]), frozenset(table["topologies"]), None if models is None else frozenset(models),
        {path: frozenset[Value](values) for path, values in table.get("only", {}).items()},
        Limits(table.get("requests"), table.get("rows"), table.get("request_rows")),
    )  # fmt: skip
    keys = {one: _key(one, key) for one, key in table.get("keys", {}).items()}
    tokens = tuple(TokenRule(one["issuer"], one.get("claims", {})) for one in table.get("tokens", []))
    return Entry(rules, keys, tuple(table.get("certificates", ())), tokens, table.get("comment", ""))


def _key(name: str, table: Mapping[str, Any]) -> ApiKey:
    expires, revoked = table.get("expires"), table.get("revoked")
    return ApiKey(name, table["sha256"], table["made"].timestamp(), expires and expires.timestamp(), revoked and revoked.timestamp())


def _issuer(name: str, table: Mapping[str, Any], folder: Path) -> Issuer:
    jwks, ca = table["jwks"], table.get("ca")
    return Issuer(
        name, table["issuer"], tuple(table["audience"]), jwks if "://" in jwks else str(folder / Path(jwks).expanduser()),
        None if ca is None else folder / Path(ca).expanduser(), tuple(table.get("algorithms", ALGORITHMS)),
        float(table.get("leeway", Issuer.__dataclass_fields__["leeway"].default)),
        float(table.get("keep", Issuer.__dataclass_fields__["keep"].default)),
    )  # fmt: skip


def _dot(complaint: str) -> str:
    return complaint if complaint.startswith(":") else f".{complaint}"


def _place(kind: str, name: str, text: str, *more: str) -> tuple[int, int]:
    """Returns the line and column of a table in its usual form, else zeros: tomllib does not report them."""
    path = r"\s*\.\s*".join(rf"[\"']?{re.escape(one)}[\"']?" for one in (kind, name, *more))
    found = re.search(rf"^[ \t]*\[\s*{path}\s*\]", text, re.MULTILINE)
    return (text.count("\n", 0, found.start()) + 1, 1) if found else (0, 0)


def _at(kind: str, name: str, complaint: str, text: str) -> tuple[int, int]:
    """Returns the line and column of a field with a problem ("field: what"), else those of its table."""
    head, found = complaint.partition(":")[0], _place(kind, name, text)
    if key := re.fullmatch(rf"keys\.({ID.pattern})(?:\.(.*))?", head):
        head, found = key[2] or "", _place(kind, name, text, "keys", key[1])
    start, field = found[0], re.compile(rf"""\s*["']?{re.escape(head)}["']?\s*=""")
    for number, line in enumerate(text.split("\n")[start:] if start and head else (), start + 1):
        if re.match(r"\s*\[[^\[]", line):  # the next table
            break
        if field.match(line):
            return number, 1
    return found


# --- edits ------------------------------------------------------------------------------------------------------------


def with_key(text: str, rules: Rules | None, name: str, key: ApiKey, comment: str = "", *, file: str) -> str:
    """Returns the file with one more key: of a new caller with these rules, or, without rules, of one that it has.

    Raises ConfigError when the file has that caller already, or does not, or when the text cannot be edited.
    """
    before = Access.parse(text, file=file)
    known = before.callers.get(name)
    if rules is None and known is None:
        others = ", ".join(sorted(before.callers)) or "none"
        raise ConfigError(Problem(file, 0, 0, f"there is no caller {name}", f"known: {others}; --may and --topology make a new one"))
    if rules is not None and known is not None:
        fix = "leave out --may, --topology and limits for one more key of this caller; edit the file to change what it may do"
        raise ConfigError(Problem(file, *_place("callers", name, text), f"there is a caller {name} already", fix))
    key = replace(key, made=_second(key.made), expires=None if key.expires is None else _second(key.expires))
    lines = [] if rules is None else [*_caller_lines(rules, comment), ""]
    lines += [f"[callers.{name}.keys.{key.id}]", f'sha256 = "{key.sha256}"', f"made = {_written(key.made)}"]
    lines += [] if key.expires is None else [f"expires = {_written(key.expires)}"]
    entry = known or Entry(rules or Rules(name, frozenset(), frozenset()))
    meant = Access({**before.callers, name: replace(entry, keys={**entry.keys, key.id: key})}, before.issuers)
    begun = text.rstrip("\n")
    return _checked("\n".join([*([begun, ""] if begun else []), *lines, ""]), meant, file=file)


def with_revocation(text: str, names: Iterable[str], at: float, *, file: str) -> str:
    """Returns the file with the keys of these ids revoked from that Unix time on.

    Raises ConfigError for an unknown key, one that was revoked before, and a text that cannot be edited.
    """
    meant, at = Access.parse(text, file=file), _second(at)
    for name in names:
        found = meant.key(name)
        if found is None:
            raise ConfigError(Problem(file, 0, 0, f"there is no key {name}", "`penstock access key list` shows the ids"))
        entry, key = found
        caller = entry.rules.name
        line, column = _place("callers", caller, text, "keys", name)
        if key.revoked is not None:
            raise ConfigError(Problem(file, line, column, f"{name} was revoked at {_written(key.revoked)}", "set another time by hand"))
        lines = text.split("\n")
        lines[line:line] = [f"revoked = {_written(at)}"] if line else []
        text = "\n".join(lines)
        entry = replace(entry, keys={**entry.keys, name: replace(key, revoked=at)})
        meant = Access({**meant.callers, caller: entry}, meant.issuers)
    return _checked(text, meant, file=file)


def _caller_lines(rules: Rules, comment: str) -> Iterator[str]:
    yield f"[callers.{rules.name}]"
    yield f"may = {_listed(one for one in RIGHTS if one in rules.may)}"
    yield f"topologies = {_listed(sorted(rules.topologies))}"
    if rules.models is not None:
        yield f"models = {_listed(sorted(rules.models))}"
    if rules.only:
        fields = (
            f"{path if _BARE.fullmatch(path) else _quoted(path)} = {_listed(sorted(values, key=str))}"
            for path, values in rules.only.items()
        )
        yield f"only = {{ {', '.join(fields)} }}"
    for name in ("requests", "rows", "request_rows"):
        if (value := getattr(rules.limits, name)) is not None:
            yield f"{name} = {int(value) if value == int(value) else value!r}"
    if comment:
        yield f"comment = {_quoted(comment)}"


def _checked(text: str, meant: Access, *, file: str) -> str:
    """Returns the text if it parses to `meant`: TOML has many ways to write a table, and only the usual one can be edited here."""
    try:
        found: Access | None = Access.parse(text, file=file)
    except ConfigError:
        found = None
    if found != meant:
        raise ConfigError(
            Problem(file, 0, 0, "its tables are not written as [callers.NAME], so it cannot be edited here", "edit it by hand")
        )
    return text


def _listed(values: Iterable[Value]) -> str:
    return f"[{', '.join(_quoted(one) if isinstance(one, str) else repr(one).lower() for one in values)}]"


def _quoted(text: str) -> str:
    """Returns a TOML string: a JSON string is one, except for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _second(at: float) -> float:
    return float(math.floor(at))


def _written(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
