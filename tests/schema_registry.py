"""Schema registries for tests: a double in this process, which can be told to misbehave, and Apicurio's, which it is judged by.

tests/contracts/test_schema_registries.py holds both to the same answers.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import socket
import ssl
import subprocess
import tarfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["APICURIO", "Double", "apicurio", "double", "post"]

APICURIO = "3.0.9"  # the last one for Java 17
READY_S = 90.0


@dataclass
class Double:
    """What the registry holds and does. `asked` are the requests: method and path. `status` replaces every answer; 0: none."""

    url: str = ""
    schemas: list[dict[str, Any]] = field(default_factory=list)  # the id is the place, from 1
    subjects: dict[str, list[int]] = field(default_factory=dict)  # ids by version, from 1
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    status: int = 0
    body: bytes = b"<html>a proxy</html>"
    location: str = ""
    silent: bool = False  # takes requests and does not answer
    compatible: bool = True
    messages: list[str] = field(default_factory=list)  # why not, for those who ask
    ended: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def heard(self, count: int) -> None:
        """Waits until so many requests have come."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.asked) >= count, 20), self.asked

    def add(self, subject: str, schema: Any, kind: str = "AVRO", references: Any = ()) -> int:
        """Registers as a producer would. Returns the id."""
        text = schema if isinstance(schema, str) else json.dumps(schema)
        return int(
            self.answer("POST", ["subjects", subject, "versions"], {"schema": text, "schemaType": kind, "references": [*references]})[1][
                "id"
            ]
        )

    def answer(self, method: str, path: list[str], body: Any, *, verbose: bool = False) -> tuple[int, Any]:  # noqa: PLR0911  one per path
        match method, path:
            case "GET", ["schemas", "types"]:
                return 200, ["AVRO", "JSON", "PROTOBUF"]
            case "GET", ["schemas", "ids", id]:
                return self._schema(int(id) - 1)
            case "GET", ["schemas", "guids", guid]:
                return self._schema(next((at for at in range(len(self.schemas)) if guid_of(at + 1) == guid), -1))
            case "GET", ["subjects"]:
                return 200, [*self.subjects]
            case "GET", ["subjects", subject, "versions"]:
                return (200, [*range(1, len(self.subjects[subject]) + 1)]) if subject in self.subjects else _no(40401, "Subject")
            case "GET", ["subjects", subject, "versions", version]:
                return self._version(subject, version)
            case "POST", ["subjects", subject]:
                found = next((id for id in self.subjects.get(subject, ()) if self._same(id, body)), 0)
                if not found:
                    return _no(40403, "Schema") if subject in self.subjects else _no(40401, "Subject")
                return self._version(subject, str(self.subjects[subject].index(found) + 1))
            case "POST", ["compatibility", "subjects", subject, "versions", "latest"]:
                said = {} if self.compatible or not verbose else {"messages": self.messages}
                return (200, {"is_compatible": self.compatible, **said}) if subject in self.subjects else _no(40401, "Subject")
            case "POST", ["subjects", subject, "versions"]:
                return self._register(subject, body)
            case _:
                return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}

    def _schema(self, at: int) -> tuple[int, Any]:
        return (200, {**self.schemas[at], "guid": guid_of(at + 1)}) if 0 <= at < len(self.schemas) else _no(40403, "Schema")

    def _version(self, subject: str, version: str) -> tuple[int, Any]:
        if subject not in self.subjects:
            return _no(40401, "Subject")
        number = len(self.subjects[subject]) if version == "latest" else int(version)
        if not 0 < number <= len(self.subjects[subject]):
            return _no(40402, "Version")
        id = self.subjects[subject][number - 1]
        return 200, {"subject": subject, "version": number, "id": id, **self.schemas[id - 1]}

    def _same(self, id: int, body: Any) -> bool:
        held = self.schemas[id - 1]
        return bool(held["schemaType"] == body.get("schemaType", "AVRO") and _parsed(held["schema"]) == _parsed(body["schema"]))

    def _register(self, subject: str, body: Any) -> tuple[int, Any]:
        kind, text = body.get("schemaType", "AVRO"), body["schema"]
        if kind == "AVRO" and not isinstance(_parsed(text), (dict, list)):
            return 422, {"error_code": 42201, "message": "Invalid schema"}
        if subject in self.subjects and not self.compatible:
            return 409, {"error_code": 409, "message": "Schema being registered is incompatible with an earlier schema"}
        id = next((at + 1 for at in range(len(self.schemas)) if self._same(at + 1, body)), 0)
        if not id:
            self.schemas.append({"schema": text, "schemaType": kind, "references": list(body.get("references", ()))})
            id = len(self.schemas)
        versions = self.subjects.setdefault(subject, [])
        if id not in versions:
            versions.append(id)
        return 200, {"id": id, "guid": guid_of(id)}


def guid_of(id: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(id)))


def _no(code: int, what: str) -> tuple[int, Any]:
    return 404, {"error_code": code, "message": f"{what} not found."}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@contextmanager
def double(tls: ssl.SSLContext | None = None) -> Iterator[Double]:
    """A registry at http://127.0.0.1:PORT, or with `tls` at https://localhost:PORT."""
    site = Double()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def do_GET(self) -> None:
            with site.changed:
                site.asked.append(f"{self.command} {self.path}")
                site.headers.append(dict(self.headers))
                site.changed.notify_all()
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
            if site.silent:
                site.ended.wait(10)
                self.close_connection = True
                return
            if site.status:
                status, data = site.status, site.body
            else:
                asked = urlsplit(self.path)
                path = [unquote(part) for part in asked.path.split("/")[1:]]
                status, found = site.answer(self.command, path, body, verbose="verbose=true" in asked.query)
                data = json.dumps(found).encode()
            self.send_response(status)
            if site.location:
                self.send_header("Location", site.location)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET  # noqa: N815  the name that http.server looks for

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:  # who asked has gone, or does not trust the certificate
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        site.url = f"{'https://localhost' if tls else 'http://127.0.0.1'}:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield site
        finally:
            site.ended.set()
            server.shutdown()
            thread.join()


def post(url: str, path: str, body: Any) -> Any:
    """Asks a registry as another client would, and returns its answer."""
    asked = urllib.request.Request(f"{url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return json.load(answer)


@contextmanager
def apicurio() -> Iterator[str]:
    """Apicurio's registry in memory, at the URL of its API for Confluent's clients. Raises OSError with the reason when it cannot run."""
    folder = _fetched()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        "java",
        "-Xmx512m",
        "-Dquarkus.http.host=127.0.0.1",
        f"-Dquarkus.http.port={port}",
        "-jar",
        f"apicurio-registry-app-{APICURIO}-runner.jar",
    ]
    url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
    with (folder / "server.log").open("wb") as log, subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process:
        try:
            _wait(url, process, folder / "server.log")
            yield url
        finally:
            process.terminate()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/subjects", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise OSError(f"Apicurio did not start: {log.read_text(errors='replace')[-500:]}")


def _fetched() -> Path:
    """Returns its folder. The first call fetches it from Maven Central; concurrent processes wait for that."""
    for command in ("java", "mvn"):
        if shutil.which(command) is None:
            raise OSError(f"there is no {command} command")
    folder = Path.home() / ".cache/penstock" / f"apicurio-{APICURIO}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "fetched").exists():
            name = f"io.apicurio:apicurio-registry-app:{APICURIO}:tar.gz:all"
            goal = ["dependency:copy", f"-Dartifact={name}", f"-DoutputDirectory={folder}"]
            done = subprocess.run(["mvn", "-q", "-B", *goal], capture_output=True, text=True, check=False, cwd=folder)
            if done.returncode:
                raise OSError(f"mvn could not fetch {name}: {(done.stdout + done.stderr).strip()[-300:]}")
            archive = folder / f"apicurio-registry-app-{APICURIO}-all.tar.gz"
            with tarfile.open(archive) as packed:
                packed.extractall(folder, filter="data")
            archive.unlink()
            (folder / "fetched").touch()
    return folder
