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
    late, connect = threading.Event(), connection.connect
    made = [connection.sock]

    def connected() -> None:
        connect()
        made.append(connection.sock)

    def cut() -> None:
        late.set()
        # A connection forgets its socket at an answer that only the connection's end ends, and the body is still to be read.
        if (sock := connection.sock or made[-1]) is not None:
            with contextlib.suppress(OSError):  # closed at the same time
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    connection.connect = connected  # type: ignore[method-assign]

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
        del connection.connect  # what the class has
