"""Requests to a schema registry: JSON over HTTP, by the standard library. Its rules:

1. Several URLs are one registry: the one that answered last is asked first. When none of them answers, all are asked once more.
2. A request takes at most `schema_registry_timeout`, however slowly a server drips.
3. What the registry has decided (no such schema, refused) is an answer. Everything else (no connection, 5xx, 429, a page of a proxy)
   is no answer: a 404 counts only with an error code of the API, since a proxy with a wrong path must not look like a lost schema.
4. Credentials go to the URLs of the settings only: a redirect is not followed.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from penstock.deadline import cut_after
from penstock.errors import AccessRefused, SettingsError, TransportUnavailable
from penstock.settings import Settings

__all__ = ["Absent", "Client", "Refused"]

MEDIA: Final = "application/vnd.schemaregistry.v1+json"
MOST: Final = 8 * 1024**2  # bytes of an answer
_ROUNDS: Final = 2  # over all URLs
_LOGIN: Final = "check schema_registry_username, schema_registry_password and schema_registry_token"


class Absent(Exception):
    """The registry has no such schema, subject or version."""


class Refused(Exception):
    """The registry does not take the schema, or the question, for the reason given."""


class _NoAnswer(Exception):
    """Why a URL gave no answer."""


class Client:
    """Asks the registry that the settings name. May be used by several threads. Raises SettingsError for an unusable certificate."""

    def __init__(self, settings: Settings) -> None:
        self.urls = [urlsplit(url.rstrip("/")) for one in settings.schema_registry_url.split(",") if (url := one.strip())]
        self._timeout = settings.schema_registry_timeout
        self._headers = {"Accept": f"{MEDIA}, application/json", "User-Agent": "penstock", **_login(settings)}
        self._tls = _tls(settings) if any(url.scheme == "https" for url in self.urls) else None

    def get(self, *path: str, **query: str) -> Any:
        """Returns the JSON at this path. Raises Absent, Refused, AccessRefused, TransportUnavailable."""
        return self._ask("GET", path, query, None)

    def post(self, *path: str, body: Mapping[str, Any], **query: str) -> Any:
        """Does the same with a body."""
        return self._ask("POST", path, query, json.dumps(body).encode())

    def _ask(self, method: str, path: tuple[str, ...], query: Mapping[str, str], body: bytes | None) -> Any:
        target = "/" + "/".join(quote(part, safe="") for part in path) + (f"?{urlencode(query)}" if query else "")
        reasons: dict[str, str] = {}
        for _ in range(_ROUNDS):
            for url in list(self.urls):
                try:
                    found = self._once(url, method, target, body)
                except _NoAnswer as error:
                    reasons[url.geturl()] = str(error)
                    continue
                if url is not self.urls[0]:
                    self.urls = [url, *(one for one in self.urls if one is not url)]
                return found
        listed = "; ".join(f"{url}: {reason}" for url, reason in reasons.items())
        raise TransportUnavailable(f"the schema registry does not answer: {listed}")

    def _once(self, url: SplitResult, method: str, target: str, body: bytes | None) -> Any:
        connection = self._connection(url)
        headers = self._headers if body is None else {**self._headers, "Content-Type": MEDIA}
        with contextlib.closing(connection), cut_after(self._timeout, connection) as late:
            try:
                connection.request(method, url.path + target, body=body, headers=headers)
                response = connection.getresponse()
                data = response.read(MOST + 1)
            except ssl.SSLCertVerificationError as error:
                raise AccessRefused(f"the certificate of {url.geturl()} is not trusted: {error.verify_message}") from error
            except (OSError, http.client.HTTPException) as error:
                slow = isinstance(error, TimeoutError) or late.is_set()
                raise _NoAnswer(f"no answer within {self._timeout:g} s" if slow else str(error) or type(error).__name__) from error
        if late.is_set():  # what has arrived until then may be a part
            raise _NoAnswer(f"no answer within {self._timeout:g} s")
        if len(data) > MOST:
            raise _NoAnswer(f"an answer of more than {MOST} bytes")
        return _answer(url, response.status, response.reason, data)

    def _connection(self, url: SplitResult) -> http.client.HTTPConnection:
        if url.scheme == "https":
            return http.client.HTTPSConnection(url.hostname or "", url.port, timeout=self._timeout, context=self._tls)
        return http.client.HTTPConnection(url.hostname or "", url.port, timeout=self._timeout)


def _answer(url: SplitResult, status: int, reason: str, data: bytes) -> Any:
    try:
        found = json.loads(data) if data else None
    except (ValueError, RecursionError):
        found = None
    code = found.get("error_code") if isinstance(found, dict) else None
    said = str(found.get("message") or reason) if isinstance(found, dict) else reason
    match status:
        case 200 | 201 if found is not None:
            return found
        case 401 | 403:
            raise AccessRefused(f"the schema registry {url.geturl()} refuses access ({status} {said}); {_LOGIN}")
        case 404 if isinstance(code, int) and code // 100 == 404:
            raise Absent(said)
        case 400 | 409 | 422:
            raise Refused(said)
        case 404:
            raise _NoAnswer(f"404 {reason}: no schema registry is there; Apicurio's URL ends with /apis/ccompat/v7")
        case _ if 300 <= status < 400:
            raise _NoAnswer(f"{status}: it leads elsewhere, which is not followed; set that URL")
        case _:
            raise _NoAnswer(f"{status} {said}" if status != 200 else "the answer is not JSON")


def _login(settings: Settings) -> dict[str, str]:
    if settings.schema_registry_token:
        return {"Authorization": f"Bearer {settings.schema_registry_token.reveal()}"}
    if settings.schema_registry_username:
        pair = f"{settings.schema_registry_username}:{settings.schema_registry_password.reveal()}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


def _tls(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.schema_registry_cafile)
    except (OSError, ValueError) as error:
        raise SettingsError(f"schema_registry_cafile: {settings.schema_registry_cafile} cannot be used: {error}") from None
    if settings.schema_registry_certfile:
        try:
            context.load_cert_chain(settings.schema_registry_certfile, settings.schema_registry_keyfile, password="")
        except (OSError, ValueError) as error:
            raise SettingsError(f"schema_registry_certfile: {settings.schema_registry_certfile} cannot be used: {error}") from None
    return context
