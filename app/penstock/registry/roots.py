"""The sources of models: folders, and static web sites, of the layout NAME/VERSION/FILE. Nothing outside a root is read.

A root can read from any byte on, so that an interrupted fetch continues. Its rules:

1. Web sites use https, and their certificate is checked; http only on this host. No password in the URL: it would be shown.
2. A redirect out of the root is refused, and so is a symbolic link out of a folder.
3. A server that sends nothing for `SILENCE` seconds times out. A true `stopped()`, called ten times per second, cuts off a slow one.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import posixpath
import socket
import ssl
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple, Protocol
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from penstock.errors import FetchError, SettingsError, Stopped
from penstock.settings import is_loopback

__all__ = ["ABSENT", "AGAIN", "Opened", "Root", "root_of"]

ABSENT: Final = "absent"  # an error code: there is no such file
AGAIN: Final = "again"  # an error code: cut off, or the server is busy; received bytes are good. Every other error is "refused"
CONNECT: Final = 5.0  # seconds
SILENCE: Final = 10.0
_REDIRECTS: Final = 5
_PIECE: Final = 1024 * 1024
_POLL: Final = 0.1


class Opened(NamedTuple):
    """A file being read: the offset of its first byte, and its pieces. Iterating them raises FetchError or Stopped."""

    start: int
    pieces: Iterator[bytes]


class Root(Protocol):
    """A place with models; its `str` is the text of the setting."""

    def open(self, path: str, start: int, stopped: Callable[[], bool]) -> AbstractContextManager[Opened]:
        """Reads NAME/VERSION/FILE from byte `start` on, or from its beginning. Raises FetchError with one of the codes above, Stopped."""


def root_of(text: str) -> Root:
    """Returns the root that a setting names. Raises SettingsError for an invalid root."""
    return Website(text) if "://" in text else Folder(text)


class Folder:
    """A folder of this host, or a mounted one."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._root = Path(text).expanduser()

    def __str__(self) -> str:
        return self._text

    @contextlib.contextmanager
    def open(self, path: str, start: int, stopped: Callable[[], bool]) -> Iterator[Opened]:
        """See `Root.open`."""
        try:
            descriptor = self._descriptor(path)
        except (FileNotFoundError, NotADirectoryError):
            what = f"there is no {path}" if self._root.is_dir() else "there is no such folder"
            raise FetchError(what, code=ABSENT) from None
        except OSError as error:
            raise FetchError(f"{path} cannot be read: {error.strerror}") from error
        except RuntimeError as error:  # a link to itself, before Python 3.13
            raise FetchError(f"{path} cannot be read: {error}") from error
        with open(descriptor, "rb", buffering=0) as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise FetchError(f"{path} is not a file")
            yield Opened(file.seek(start if start <= found.st_size else 0), self._pieces(file, path, stopped))

    def _descriptor(self, path: str) -> int:
        real = (self._root / path).resolve(strict=True)
        if not real.is_relative_to(self._root.resolve()):
            raise FetchError(f"{path} leads out of the folder, to {real}")
        return os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for its writer

    def _pieces(self, file: Readable, path: str, stopped: Callable[[], bool]) -> Iterator[bytes]:
        while True:
            if stopped():
                raise Stopped
            try:
                piece = file.read(_PIECE)
            except OSError as error:
                raise FetchError(f"{path} cannot be read: {error.strerror}", code=AGAIN) from error
            if not piece:
                return
            yield piece


class Readable(Protocol):
    """An open file."""

    def read(self, size: int, /) -> bytes: ...


class Website:
    """Static files below a URL, on any web server; ranges are used where the server supports them."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._base = _checked(text)
        self._tls = ssl.create_default_context()

    def __str__(self) -> str:
        return self._text

    @contextlib.contextmanager
    def open(self, path: str, start: int, stopped: Callable[[], bool]) -> Iterator[Opened]:
        """See `Root.open`."""
        url = urljoin(self._base.geturl(), path)
        for _ in range(1 + _REDIRECTS):
            with (
                contextlib.closing(self._connection()) as connection,
                _ended_by(stopped, connection),
                contextlib.closing(_answer(connection, urlsplit(url).path, start, stopped)) as response,
            ):
                if response.status in (301, 302, 303, 307, 308):
                    url = self._within(urljoin(url, response.headers.get("Location", "")))
                elif response.status == 416 and start:  # the file is shorter than the part that we have
                    start = 0
                else:
                    yield Opened(_start(response, path, start), _pieces(response, stopped))
                    return
        raise FetchError(f"{path}: more than {_REDIRECTS} redirects")

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._base.hostname or "", self._base.port
        if self._base.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=CONNECT)
        return http.client.HTTPSConnection(host, port, timeout=CONNECT, context=self._tls)

    def _within(self, url: str) -> str:
        found = urlsplit(url)
        path = posixpath.normpath(unquote(found.path))
        same = (found.scheme, found.netloc) == (self._base.scheme, self._base.netloc)
        if not same or not path.startswith(unquote(self._base.path)) or found.query:
            raise FetchError(f"a redirect out of the root, to {url}")
        return url


def _checked(text: str) -> SplitResult:
    """Returns the URL with a slash at its end. Raises SettingsError when models may not be fetched from it."""
    url = urlsplit(text if text.endswith("/") else f"{text}/")
    try:
        problem = _problem(url)
    except ValueError as error:  # a port that is not a number
        problem = str(error)
    if problem:
        raise SettingsError(f"roots: {text}: {problem}")
    return url


def _problem(url: SplitResult) -> str:
    if url.scheme not in ("http", "https") or not url.hostname or url.port == 0:
        return "a root is a folder or an https URL"
    if url.username is not None or url.query or url.fragment:
        return "a URL with user, password, query or fragment is not allowed: use a place that the workers may read without them"
    if url.scheme == "http" and not is_loopback(url.hostname):
        return "models would be fetched without encryption: use https"
    if ".." in unquote(url.path).split("/"):
        return "no .. in a root"
    return ""


@contextlib.contextmanager
def _ended_by(stopped: Callable[[], bool], connection: http.client.HTTPConnection) -> Iterator[None]:
    """Connects, and shuts the connection down once `stopped()` is true, which ends every wait for an answer."""
    if stopped():
        raise Stopped
    try:
        connection.connect()
    except OSError as error:
        code = "refused" if isinstance(error, ssl.SSLCertVerificationError) else AGAIN
        raise FetchError(f"cannot connect: {error.strerror or error}", code=code) from error
    sock: socket.socket = connection.sock
    sock.settimeout(SILENCE)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_POLL):
            if stopped():
                with contextlib.suppress(OSError):  # closed at the same time
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
                return

    watcher = threading.Thread(target=watch, name="penstock-fetch-watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _answer(connection: http.client.HTTPConnection, path: str, start: int, stopped: Callable[[], bool]) -> http.client.HTTPResponse:
    ranged = {"Range": f"bytes={start}-"} if start else {}
    try:
        connection.request("GET", path, headers={"Accept-Encoding": "identity", "User-Agent": "penstock", **ranged})
        return connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise _cut(error, stopped) from error


def _start(response: http.client.HTTPResponse, path: str, start: int) -> int:
    """Returns the offset of the answer's first byte. Raises FetchError when the answer is not the file."""
    if response.status in (404, 410):
        raise FetchError(f"there is no {path}", code=ABSENT)
    if response.status not in (200, 206):
        busy = response.status in (408, 429) or response.status >= 500
        raise FetchError(f"{path}: {response.status} {response.reason}", code=AGAIN if busy else "refused")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise FetchError(f"{path} arrives with Content-Encoding {response.headers['Content-Encoding']}, but the request allows none")
    if response.status == 200:
        return 0
    if not start or not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        raise FetchError(f"{path}: the server returned another range than requested")
    return start


def _pieces(response: http.client.HTTPResponse, stopped: Callable[[], bool]) -> Iterator[bytes]:
    left = response.length  # None where the server does not send it
    while left is None or left > 0:
        try:
            piece = response.read1(_PIECE if left is None else min(left, _PIECE))
        except (OSError, http.client.HTTPException) as error:
            raise _cut(error, stopped) from error
        if not piece and (stopped() or left):
            raise _cut(None, stopped)
        if not piece:
            return
        if left is not None:
            left -= len(piece)
        yield piece


def _cut(error: Exception | None, stopped: Callable[[], bool]) -> FetchError | Stopped:
    if stopped():
        return Stopped()
    if isinstance(error, TimeoutError):
        return FetchError(f"no data for {SILENCE:g} s", code=AGAIN)
    return FetchError(f"the connection was cut off{f': {error}' if error else ''}", code=AGAIN)
