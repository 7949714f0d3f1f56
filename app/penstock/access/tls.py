"""The service's certificate, for servers of HTTP and gRPC, read again as its files change.

The chain, its key and the authorities of client certificates are taken together or not at all: a bad new file leaves the old ones, is
logged, and is `problem`. New connections get the new ones; those that are open keep theirs.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from penstock.errors import ConfigError, Problem
from penstock.host import read_regular
from penstock.settings import exposed

__all__ = ["Pem", "ServerTls"]

logger = logging.getLogger(__name__)

LOOK: Final = 1.0  # seconds between two looks at the files
_LIMIT: Final = 4 * 1024**2  # bytes of a file


class Pem(NamedTuple):
    """What gRPC takes: the key, the chain, and the authorities of client certificates, in PEM; without these, None."""

    key: bytes
    chain: bytes
    authorities: bytes | None


class ServerTls:
    """A certificate with its key and, with `authorities`, client certificates (mTLS): a client may show one, and then it must be good.

    Whether a caller needs one is the access file's matter. Raises ConfigError for files that cannot be used, and for a key that others
    can read.
    """

    def __init__(self, chain: Path, key: Path, authorities: Path | None, clock: Callable[[], float]) -> None:
        self.problem = ""
        self._files = (chain, key, authorities)
        self._clock = clock
        self._looked = clock()
        self._seen = self._state()
        self._pem, self._current = self._load()
        # The context that servers hold never changes; each handshake goes on with the one that is current.
        self.context = self._make(self._pem)
        self.context.sni_callback = self._choose

    def pem(self) -> Pem:
        """Returns the current files, for a server that asks at each handshake (gRPC)."""
        self._look()
        return self._pem

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        self._look()
        connection.context = self._current

    def _look(self) -> None:
        now = self._clock()
        if 0 <= now - self._looked < LOOK:
            return
        self._looked = now
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self._pem, self._current = self._load()
        except ConfigError as error:
            self.problem = str(error)
            logger.warning("the service's certificate stays as it was: %s", error)
        else:
            self.problem = ""
            logger.info("the service's certificate was read again")

    def _state(self) -> list[Any]:
        found: list[Any] = []
        for path in self._files:
            try:
                state = None if path is None else os.stat(path.expanduser())
                found.append(state and (state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_size))
            except OSError as error:
                found.append(error.errno)
        return found

    def _load(self) -> tuple[Pem, ssl.SSLContext]:
        chain, key, authorities = self._files
        if found := _exposed(key):
            raise ConfigError(Problem(str(key), 0, 0, f"the key {found}", f"chmod 600 {key}"))
        pem = Pem(_read(key), _read(chain), None if authorities is None else _read(authorities))
        return pem, self._make(pem)

    def _make(self, pem: Pem) -> ssl.SSLContext:
        """Returns a context of these files: TLS 1.2 or later.

        No session is resumed where clients have certificates: a resumed one would not be checked against the authorities of today.
        """
        chain, key, authorities = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(chain.expanduser(), key.expanduser(), password="")
        except (OSError, ValueError) as error:
            why = "they do not belong together, or are not PEM without a passphrase"
            raise ConfigError(
                Problem(str(chain), 0, 0, f"{chain} and {key} cannot be used ({getattr(error, 'reason', None) or error}): {why}")
            ) from None
        if pem.authorities is not None:
            try:
                context.load_verify_locations(cadata=pem.authorities.decode("ascii"))
            except (OSError, ValueError) as error:
                problem = f"these certificates of authorities cannot be used: {getattr(error, 'reason', None) or error}"
                raise ConfigError(Problem(str(authorities), 0, 0, problem)) from None
            context.verify_mode = ssl.CERT_OPTIONAL
            context.options |= ssl.OP_NO_TICKET
            context.num_tickets = 0
        return context


def _read(path: Path) -> bytes:
    try:
        return read_regular(path.expanduser(), _LIMIT)
    except OSError as error:
        raise ConfigError(Problem(str(path), 0, 0, f"cannot be read: {error.strerror}")) from None


def _exposed(path: Path) -> str:
    try:
        return exposed(os.stat(path.expanduser()))
    except OSError as error:
        return f"cannot be read: {error.strerror}"
