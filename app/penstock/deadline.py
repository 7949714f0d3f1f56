"""A time after which a connection is ended, however slowly its server drips."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator

__all__ = ["cut_after"]


@contextlib.contextmanager
def cut_after(seconds: float, connection: http.client.HTTPConnection) -> Iterator[threading.Event]:
    """Ends the connection after that time: its own timeout begins again with every byte. Yields an event that is set then."""
    late = threading.Event()

    def cut() -> None:
        late.set()
        if (sock := connection.sock) is not None:
            with contextlib.suppress(OSError):  # closed at the same time
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
