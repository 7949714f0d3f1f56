"""Checks one server over both protocols, and compares what they answer."""

from __future__ import annotations

import importlib.util
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import SplitResult, quote, urlsplit

from penstock.conformance.model import Model
from penstock.conformance.rest import Rest
from penstock.conformance.rules import Findings
from penstock.conformance.tensors import Tensor, difference
from penstock.errors import ConfigError, Problem, TransportUnavailable
from penstock.host import read_regular

__all__ = ["check"]

_LIMIT: Final = 1024**2  # bytes of a file of certificates
EXTRA: Final = "gRPC is checked with an extra: pip install 'penstock[serve]'"


class Door(Protocol):
    """A server over one protocol."""

    def model(self, name: str, request: Sequence[Tensor] | None) -> Model | None: ...
    def answers(self, model: Model) -> list[Tensor] | None: ...
    def refusals(self, model: Model) -> None: ...


def check(
    url: str,
    *,
    grpc: str = "",
    models: Sequence[str] = (),
    request: Sequence[Tensor] | None = None,
    headers: Mapping[str, str] | None = None,
    authorities: Path | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Findings:
    """Returns what is found about the server at `url` (http or https), and at `grpc` (HOST:PORT; TLS where `url` is https).

    `models` (none: those that the index of the repository calls ready) are tried with `request`, else with tensors made from their
    metadata. `on_step` receives what is checked next. Raises ConfigError for a malformed URL or file of `authorities`, for no model to
    try, or one that is not there, without a credential that the server wants, and without the library of gRPC; TransportUnavailable when
    the server does not answer at all.
    """
    found, place, given = Findings(), _place(url), headers or {}
    pem = _pem(authorities) if authorities else None
    tls = ssl.create_default_context(cadata=pem) if place.scheme == "https" else None
    rest = Rest(place, found, given, tls)
    on_step("the server over REST")
    if lost := rest.call("GET", "/health/live").lost:
        raise TransportUnavailable(f"{url}: {lost}")
    rest.server()
    indexed = rest.index()
    tried = list(models) or indexed
    if rest.refused and (not tried or rest.refused.startswith("401")):
        raise ConfigError(
            f"{url} wants to know who asks: {rest.refused}; give a credential with --headers FILE (Authorization: Bearer ...)"
        )
    if not tried:
        raise ConfigError(f"{url} has no index of its models, or none is ready: name one with --model")
    for name in models:
        if name not in indexed and rest.call("GET", f"/models/{quote(name, safe='')}").status == 404:
            raise ConfigError(f"{url} has no model {name}; its index has {', '.join(indexed[:12]) or 'none'}")
    rest.unknown()
    answered = {}
    for name in tried:
        on_step(f"{name} over REST")
        answered[name] = _try(rest, name, request)
    rest.alive()
    if grpc:
        if any(importlib.util.find_spec(name) is None for name in ("grpc", "google.protobuf")):
            raise ConfigError(EXTRA)
        from penstock.conformance.grpc import Grpc

        with Grpc(grpc, found, given, pem.encode() if pem else None, tls=place.scheme == "https") as calls:
            on_step("the server over gRPC")
            if (live := calls.call("ServerLive")).code == "UNAVAILABLE":
                raise TransportUnavailable(f"{grpc}: {live}")
            calls.server()
            calls.index()
            calls.unknown()
            for name in tried:
                on_step(f"{name} over gRPC")
                there, here = _try(calls, name, request), answered[name]
                if there is not None and here is not None:
                    wrong = difference(there, here)
                    found.note("infer-same", "grpc", name, not wrong, f"over gRPC and REST: {wrong}")
            calls.alive()
    return found


def _try(door: Door, name: str, request: Sequence[Tensor] | None) -> list[Tensor] | None:
    """Returns the answer to the valid request; None without one."""
    if (model := door.model(name, request)) is None or (answer := door.answers(model)) is None:
        return None
    door.refusals(model)
    return answer


def _pem(file: Path) -> str:
    """Raises ConfigError for a file without certificates."""
    try:
        text = read_regular(file, _LIMIT).decode("ascii")
        ssl.create_default_context(cadata=text)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(Problem(str(file), 0, 0, f"has no certificates of authorities: {what}", "give a file in PEM")) from error
    return text


def _place(url: str) -> SplitResult:
    """Raises ConfigError for what is no http or https URL."""
    try:
        found = urlsplit(url)
        port = found.port
    except ValueError as error:
        raise ConfigError(f"{url}: {error}") from error
    if found.scheme not in ("http", "https") or not found.hostname or found.username or found.query or found.fragment or port == 0:
        raise ConfigError(f"{url}: give http://HOST:PORT or https://HOST:PORT, where the path /v2 begins")
    return found
