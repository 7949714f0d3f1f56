"""An identity provider for one test: keys of each algorithm, the tokens that it signs, and the server that publishes its keys."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

__all__ = ["ISSUER", "NOW", "Provider", "encoded", "jwk", "private", "published", "token"]

ISSUER = "https://login.example.org"
NOW = 1_800_000_000.0  # Unix time of the tests' clocks, s


@cache
def private(algorithm: str, number: int = 0, bits: int = 2048) -> Any:
    """A private key; the same for the same arguments, since RSA keys take long to make."""
    if algorithm == "RS256":
        return rsa.generate_private_key(public_exponent=65537, key_size=bits)
    return ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else ed25519.Ed25519PrivateKey.generate()


def jwk(algorithm: str, kid: str | None = None, number: int = 0, **more: Any) -> dict[str, Any]:
    """The public key as a member of a set."""
    kind: Any = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}[algorithm]
    found = json.loads(kind.to_jwk(private(algorithm, number).public_key()))
    found.pop("key_ops", None)
    return {**found, **({"kid": kid} if kid is not None else {}), **more}


def published(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def token(algorithm: str = "EdDSA", kid: str | None = "one", number: int = 0, header: dict[str, Any] | None = None, **claims: Any) -> str:
    """A signed token for this service, good for a minute from NOW on; a claim that is None is left out."""
    claimed = {"iss": ISSUER, "aud": "penstock", "sub": "alice", "exp": NOW + 60, "iat": NOW, **claims}
    claimed = {name: value for name, value in claimed.items() if value is not None}
    named = {**({"kid": kid} if kid is not None else {}), **(header or {})}
    return jwt.encode(claimed, private(algorithm, number), algorithm, headers=named)


def encoded(value: Any) -> str:
    """JSON in base64url, as a part of a token."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@dataclass
class Provider:
    """A server of keys. `body` is what it answers with `status`; while `silent`, it answers nothing. `asked` counts requests."""

    body: bytes = b""
    status: int = 200
    location: str = ""
    silent: bool = False
    asked: int = 0
    url: str = ""
    ended: threading.Event = field(default_factory=threading.Event)

    @classmethod
    @contextmanager
    def open(cls, body: bytes, tls: ssl.SSLContext | None = None) -> Iterator[Provider]:
        """Serves at http://127.0.0.1:PORT/keys, or with `tls` at https://localhost:PORT/keys."""
        site = cls(body)

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                site.asked += 1
                if site.silent:
                    site.ended.wait(20)
                    return
                self.send_response(site.status)
                if site.location:
                    self.send_header("Location", site.location)
                self.send_header("Content-Length", str(len(site.body)))
                self.end_headers()
                self.wfile.write(site.body)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:  # who asked has gone, or does not trust the certificate
                pass

        with Server(("127.0.0.1", 0), Handler) as server:
            if tls is not None:
                server.socket = tls.wrap_socket(server.socket, server_side=True)
            site.url = f"{'https://localhost' if tls else 'http://127.0.0.1'}:{server.server_address[1]}/keys"
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield site
            finally:
                site.ended.set()
                server.shutdown()
                thread.join()
