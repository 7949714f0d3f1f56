"""A web server for one test: static files of a folder, told to misbehave."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ["Site", "serve"]


@dataclass
class Site:
    """What the server does. `asked` are the requests: (path, range); `ended` is set when the test is over."""

    folder: Path
    url: str = ""
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes of model.onnx after which the next answers end
    instead: dict[str, Callable[[BaseHTTPRequestHandler, Site], None]] = field(default_factory=dict)  # by path
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def ranges_of(self, file: str) -> list[str | None]:
        return [asked for path, asked in self.asked if path.endswith(file)]


@contextmanager
def serve(folder: Path) -> Iterator[Site]:
    """The folder below http://127.0.0.1:PORT/models/."""
    site = Site(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def do_GET(self) -> None:
            site.asked.append((self.path, self.headers.get("Range")))
            try:
                _answer(self, site)
            except OSError:  # who asked has gone
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        site.url = f"http://127.0.0.1:{server.server_address[1]}/models"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield site
        finally:
            site.ended.set()
            server.shutdown()
            thread.join()


def _answer(handler: BaseHTTPRequestHandler, site: Site) -> None:
    if (instead := site.instead.get(handler.path)) is not None:
        instead(handler, site)
        return
    file = site.folder / handler.path.removeprefix("/models/")
    if not file.is_file():
        handler.send_error(404)
        return
    data, start = file.read_bytes(), 0
    if site.ranges and (asked := re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))):
        start = int(asked[1])
        if start >= len(data):
            handler.send_error(416)
            return
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    else:
        handler.send_response(200)
    handler.send_header("Content-Length", str(len(data) - start))
    handler.end_headers()
    body = data[start:]
    if file.name == "model.onnx" and site.cut_after:
        body = body[: site.cut_after.pop(0)]
        handler.close_connection = True
    handler.wfile.write(body)
