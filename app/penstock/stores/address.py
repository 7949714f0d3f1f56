"""The address of a store: a URL without a password, and what the settings add."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from penstock.errors import Problem, SettingsError
from penstock.settings import Secret, Settings, is_loopback

__all__ = ["EXTRAS", "Address", "address"]

EXTRAS: Final = {"redis": "redis", "rediss": "redis", "sqlite": "", "postgresql": "postgres", "cassandra": "cassandra"}  # by scheme
_ENCRYPTED: Final = ("require", "verify-ca", "verify-full")  # values of PostgreSQL's sslmode
_FORMS: Final = "redis://HOST:6379/0, sqlite:///FILE, postgresql://USER@HOST/DATABASE or cassandra://USER@HOST/KEYSPACE"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a store is. `bare` is the URL without user and password, `shown` what may be printed."""

    scheme: str
    bare: str
    shown: str
    username: str
    password: Secret
    hosts: tuple[tuple[str, int | None], ...]
    path: str
    cafile: Path | None


def address(settings: Settings) -> Address:
    """Returns the address in the setting `store`. Raises SettingsError for any other text. (A password in it, the settings refuse.)"""
    text = settings.store
    try:
        url = urlsplit(text)
        hosts = tuple(_host(one) for one in url.netloc.rpartition("@")[2].split(",")) if url.netloc else ()
    except ValueError as error:
        raise _wrong(f"it is no URL: {error}") from error
    if url.scheme not in EXTRAS:
        raise _wrong("it begins with none of " + ", ".join(f"{one}://" for one in EXTRAS))
    if url.scheme == "sqlite" and (url.netloc or len(url.path) < 2):
        raise _wrong("sqlite has a file and no host", "write sqlite:///scores.db, or sqlite:////srv/scores.db")
    if url.scheme != "sqlite" and not (hosts and all(host for host, _ in hosts)):
        raise _wrong("a host is missing")
    if url.scheme in ("postgresql", "cassandra") and not url.path.strip("/"):
        raise _wrong("the database is missing", f"write {url.scheme}://{url.netloc}/NAME")
    clear = url.scheme == "redis" or (settings.store_cafile is None and url.scheme in ("postgresql", "cassandra"))
    clear = clear and not any(f"sslmode={mode}" in url.query.split("&") for mode in _ENCRYPTED)
    far = [host for host, _ in hosts if not is_loopback(host)]
    if clear and far and not settings.insecure_plaintext:
        fix = "use rediss://" if url.scheme == "redis" else "set store_cafile"
        raise _wrong(f"the connection to {', '.join(far)} would be unencrypted", f"{fix}, or allow it with insecure_plaintext")
    bare = urlunsplit((url.scheme, url.netloc.rpartition("@")[2], url.path, url.query, ""))
    shown = text.partition("?")[0]
    username = unquote(url.username or "")
    return Address(url.scheme, bare, shown, username, settings.store_password, hosts, url.path, settings.store_cafile)


def _host(text: str) -> tuple[str, int | None]:
    one = urlsplit(f"//{text}")
    return one.hostname or "", one.port


def _wrong(message: str, fix: str = f"a store is {_FORMS}") -> SettingsError:
    return SettingsError(Problem("setting store", 0, 0, message, fix))
