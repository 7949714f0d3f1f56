"""A connection ends at its deadline, whatever its server sends until then, and however the end of the answer is told."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator

import pytest

from penstock.deadline import cut_after

HEADS = {
    "no length": b"HTTP/1.1 200 OK\r\n\r\n",
    "closing": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
    "old": b"HTTP/1.0 200 OK\r\n\r\n",
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
    "head": b"HTTP/1.1 200 OK\r\nX: ",
    "continues": b"",
}


@pytest.fixture(params=HEADS)
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """Of a server that begins its answer, and drips until its client has left."""
    over = threading.Event()
    part = b"HTTP/1.1 100 Continue\r\n\r\n" if request.param == "continues" else b"x"

    def serve() -> None:
        client, _ = listening.accept()
        with client:
            try:
                client.recv(65536)
                client.sendall(HEADS[request.param])
                while not over.wait(0.02):
                    client.sendall(part)
            except OSError:
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        over.set()
        thread.join()


def test_an_answer_that_drips_is_cut(port: int) -> None:
    """Its reader would wait for as long as its server likes: where only the end of the connection ends the body, too."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    ended = threading.Event()

    def ask() -> None:
        with contextlib.closing(connection), cut_after(0.2, connection) as late:
            try:
                connection.request("GET", "/")
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                pass
            if late.is_set():
                ended.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(20)
    assert ended.is_set()
