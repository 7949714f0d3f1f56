"""What strangers and bad callers send to a service: it costs little, and the next caller is answered."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import psutil
import pytest

from penstock.access.file import ApiKey, with_key, with_revocation
from penstock.access.keys import digest, new_key
from penstock.access.meter import Limits
from penstock.access.rules import Rules
from penstock.serving.grpc import OPEN
from penstock.serving.messages import SERVICE, message
from tests.kafka.certificates import Authority
from tests.serving.conftest import ROOT, Service, served, wait_for

SCORE = "/v1/topologies/flights:score"
MIB = 1024 * 1024
WRONG = {  # requests that are refused, or ask for nothing
    "no JSON": ("POST", "/v2/models/flights.stack/infer", b"{"),
    "another method": ("GET", "/v2/models/flights.stack/infer", b""),
    "no such model": ("POST", "/v2/models/none/infer", b"{}"),
    "no such version": ("GET", "/v2/models/flights.stack/versions/infer", b""),
    "a release of this name": ("GET", "/v1/releases/infer", b""),
    "half of a list": ("POST", SCORE, b"[{"),
    "no events": ("POST", SCORE, b"[]"),
    "no such source": ("POST", f"{SCORE}?source=none", b"{}"),
}


class Guarded(NamedTuple):
    """A service with an access file and an audit log, and the keys of its callers."""

    service: Service
    keys: dict[str, str]
    access: Path
    audit: Path

    def connected(self) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.service.ports["http"]), 10)
        made.settimeout(10)
        return made

    def head(self, path: str = SCORE, key: str = "all", method: str = "POST", **headers: str) -> bytes:
        named = {
            "Host": "x",
            "Authorization": f"Bearer {self.keys[key]}",
            **{name.replace("_", "-"): text for name, text in headers.items()},
        }
        return f"{method} {path} HTTP/1.1\r\n".encode() + "".join(f"{name}: {text}\r\n" for name, text in named.items() if text).encode()

    def ask(self, body: bytes, path: str = SCORE, key: str = "all") -> tuple[int, bytes]:
        """Sends one request, and returns status and body of its answer."""
        with self.connected() as client:
            client.sendall(self.head(path, key, Content_Length=str(len(body)), Connection="close") + b"\r\n" + body)
            answer = rest_of(client)
        head, _, found = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), found

    @property
    def peak(self) -> int:
        """The most memory that the process has had since `forget`, in bytes."""
        text = Path(f"/proc/{self.service.process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024

    def forget(self) -> int:
        """Begins to measure the memory again; returns what is used now."""
        Path(f"/proc/{self.service.process.pid}/clear_refs").write_text("5")
        return psutil.Process(self.service.process.pid).memory_info().rss


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    access, audit, text, keys = folder / "access.toml", folder / "audit.jsonl", "", {}
    rules = {
        "all": Rules("all", frozenset({"score", "read"}), frozenset({"*"})),
        "newark": Rules("newark", frozenset({"score"}), frozenset({"flights"}), only={"origin": frozenset({"EWR"})}),
        "tenant": Rules("tenant", frozenset({"score"}), frozenset({"flights"}), only={"tenant": frozenset({"a"})}),
        "header": Rules("header", frozenset({"score"}), frozenset({"flights"}), only={"header.tenant": frozenset({"a"})}),
        "stack": Rules("stack", frozenset({"score", "read"}), frozenset({"flights"}), frozenset({"flights.stack@1"})),
        "seldom": Rules("seldom", frozenset({"read"}), frozenset({"flights"}), limits=Limits(requests=0.01)),
        **{
            f"rare{at}": Rules(f"rare{at}", frozenset({"score", "read"}), frozenset({"flights"}), limits=Limits(requests=0.01))
            for at in range(len(WRONG) + 2)
        },
        "short": Rules("short", frozenset({"score"}), frozenset({"flights"})),
    }
    for name, given in rules.items():
        key = new_key()
        keys[name] = key.text
        text = with_key(text, given, name, ApiKey(key.id, digest(key.text), 0.0), file="f")
    access.write_text(text)
    with served("topologies/flights.yaml", "--access", str(access), "--audit", str(audit)) as service:
        yield Guarded(service, keys, access, audit)


@pytest.fixture
def event(flights: list[dict[str, Any]]) -> bytes:
    return json.dumps(flights[0]).encode()


def rest_of(client: socket.socket) -> bytes:
    """Everything that comes until the service closes."""
    found = b""
    try:
        while part := client.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


def sent(client: socket.socket, part: bytes, times: int) -> int:
    """Sends until the service has closed the connection; returns how many bytes went out."""
    count = 0
    try:
        for _ in range(times):
            client.sendall(part)
            count += len(part)
    except OSError:
        pass
    return count


@pytest.mark.parametrize(
    ("begin", "part"),
    [
        (b"GET /v2 HTTP/1.1\r\nHost: x\r\n", b"x: " + b"y" * 10_000 + b"\r\n"),
        (b"GET /v2 HTTP/1.1\r\nHost: x\r\nx: ", b"y" * 10_000),
        (b"GET /v2", b"y" * 10_000),
        (b"POST /v2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"x: " + b"y" * 10_000 + b"\r\n"),
        (b"POST /v2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;", b"y" * 10_000),
    ],
    ids=["headers", "one header", "path", "trailers", "extension of a chunk"],
)
def test_a_head_without_end_is_cut(guarded: Guarded, event: bytes, begin: bytes, part: bytes) -> None:
    """After 16 KiB, and what the system has read at once: 100 MB would take seconds of the loop, and the memory."""
    before = guarded.forget()
    with guarded.connected() as client:
        client.sendall(begin)
        assert sent(client, part, 10_000) < 20 * MIB
    assert guarded.peak < before + 30 * MIB
    assert guarded.ask(event)[0] == 200


def test_requests_ahead_of_their_answers_are_bounded(guarded: Guarded, event: bytes) -> None:
    """A read of 256 KiB can hold 14,000 requests, and each takes 3 KiB until its turn."""
    before = guarded.forget()
    clients = [guarded.connected() for _ in range(20)]
    for client in clients:
        sent(client, b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n" * 9_000, 1)
    for client in clients:
        rest_of(client)
        client.close()
    assert guarded.peak < before + 40 * MIB
    assert guarded.ask(event)[0] == 200


def test_a_few_requests_ahead_are_answered_in_order(guarded: Guarded) -> None:
    with guarded.connected() as client:
        one = guarded.head("/v2/models/flights", method="GET") + b"\r\n"
        client.sendall(one * 7 + guarded.head("/v2", method="GET", Connection="close") + b"\r\n")
        assert rest_of(client).count(b"HTTP/1.1 200 OK") == 8


def test_several_credentials_are_none(guarded: Guarded) -> None:
    """A proxy may have judged one, and the service would take another."""
    for pair in (["all", "newark"], ["all", "all"]):
        lines = "".join(f"Authorization: Bearer {guarded.keys[name]}\r\n" for name in pair)
        with guarded.connected() as client:
            client.sendall(f"GET /v2/models/flights HTTP/1.1\r\nHost: x\r\n{lines}Connection: close\r\n\r\n".encode())
            assert rest_of(client).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 4\r\nTransfer-Encoding: chunked", "Content-Length: 4\r\nContent-Length: 5", "Content-Length: 4, 4",
        "Content-Length: +4", "Content-Length: -1", "Transfer-Encoding: xchunked", "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x", "A: b\r\n c", "A: b\x00",
    ],
    ids=range(10),
)  # fmt: skip
def test_where_a_request_ends_is_never_a_question(guarded: Guarded, head: str) -> None:
    """What two readers could divide differently is refused, and the connection ends."""
    with guarded.connected() as client:
        client.sendall(guarded.head() + f"{head}\r\n\r\n0\r\n\r\nGET /v2 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = rest_of(client)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1


def test_nor_is_it_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, event: bytes) -> None:
    """Another parser reads HTTP then. A proxy that goes by the length would take the rest for the request of another client."""
    (tmp_path / "httptools.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))))
    hidden = b"0\r\n\r\nGET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"
    with served("topologies/flights.yaml", doors=("http",)) as service:
        assert service.post(SCORE, event).status_code == 200
        for path in (SCORE, "/v2/models/flights/infer", "/healthz"):
            with socket.create_connection(("127.0.0.1", service.ports["http"]), 10) as client:
                head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(hidden)}\r\nTransfer-Encoding: chunked\r\n\r\n"
                client.sendall(head.encode() + hidden)
                answer = rest_of(client)
            assert answer.split(b" ", 2)[1] in (b"400", b"405")
            assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("wrap", [b"[%s]", b'{"events":[%s]}'])
def test_a_list_of_four_million_numbers_takes_no_memory(guarded: Guarded, event: bytes, wrap: bytes) -> None:
    before = guarded.forget()
    status, answer = guarded.ask(wrap % b",".join([b"1"] * 4_000_000))
    assert (status, b"Expected `object`, got `int`" in answer) == (400, True)
    assert guarded.peak < before + 60 * MIB
    assert guarded.ask(wrap % event)[0] == 200


def test_a_list_of_two_million_objects_is_too_large(guarded: Guarded) -> None:
    before = guarded.forget()
    status, answer = guarded.ask(b"[" + b",".join([b"{}"] * 2_000_000) + b"]")
    assert (status, json.loads(answer)["code"]) == (413, "too-large")
    assert guarded.peak < before + 120 * MIB


def test_a_name_of_megabytes_is_not_compared_and_not_repeated(guarded: Guarded) -> None:
    before = guarded.forget()
    body = b'{"inputs":[{"name":"' + b"ab" * 3_000_000 + b'","shape":[1],"datatype":"FP32","data":[1]}]}'
    status, answer = guarded.ask(body, "/v2/models/flights/infer")
    assert status == 400
    assert len(answer) < 1200
    assert guarded.peak < before + 120 * MIB


@pytest.mark.parametrize(
    ("shape", "data", "status", "says"),
    [
        ([4_000_000], b"[" + b",".join([b"0"] * 4_000_000) + b"]", 413, "4000000 rows in one request; at most 2048"),
        ([2_000_000, 1], b"[" + b",".join([b"[0]"] * 2_000_000) + b"]", 413, "2000000 rows in one request; at most 2048"),
        ([1], b"[" + b",".join([b"0"] * 4_000_000) + b"]", 400, "'X' has more values than its shape [1]"),
        ([1, 2], b"[" + b",".join([b"[0]"] * 2_000_000) + b"]", 400, "'X' has more values than its shape [1, 2]"),
        ([0], b"[" + b",".join([b"[]"] * 2_000_000) + b"]", 400, "more values than its shape"),
    ],
    ids=range(5),
)
def test_values_beyond_a_shape_are_not_read(guarded: Guarded, shape: list[int], data: bytes, status: int, says: str) -> None:
    before = guarded.forget()
    body = b'{"inputs":[{"name":"X","shape":%s,"datatype":"FP32","data":%s}]}' % (json.dumps(shape).encode(), data)
    found, answer = guarded.ask(body, "/v2/models/flights.stack/infer")
    assert (found, says in json.loads(answer)["error"]) == (status, True)
    assert guarded.peak < before + 70 * MIB


def test_lines_without_end_share_what_bodies_may_take(guarded: Guarded, event: bytes) -> None:
    """Beyond the setting max_in_flight_bytes, streams are refused like requests: 60 lines of 8 MB would take 480 MB."""
    before = guarded.forget()
    clients = []
    for _ in range(20):
        clients.append(guarded.connected())
        clients[-1].sendall(guarded.head(Content_Type="application/x-ndjson", Transfer_Encoding="chunked") + b"\r\n")
        sent(clients[-1], b"100000\r\n" + b"x" * MIB + b"\r\n", 7)
    assert guarded.peak < before + 150 * MIB
    for client in clients:
        client.close()
    until = time.monotonic() + 10
    while guarded.ask(event)[0] != 200:
        assert time.monotonic() < until, "their bytes were not given back"


def test_a_caller_of_one_model_sees_that_model_alone(guarded: Guarded) -> None:
    """Over both doors; of others it does not learn whether they exist."""

    def get(path: str, method: str = "GET") -> tuple[int, Any]:
        with guarded.connected() as client:
            client.sendall(guarded.head(path, "stack", method, Connection="close") + b"\r\n")
            head, _, body = rest_of(client).partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), json.loads(body)

    assert get("/v2/models/flights.stack")[0] == 200
    assert {get(f"/v2/models/{name}")[0] for name in ("flights", "flights.trees", "none")} == {403}
    assert [one["name"] for one in get("/v2/models/stats")[1]["model_stats"]] == ["flights.stack"]
    assert [one["name"] for one in get("/v2/repository/index", "POST")[1]] == ["flights.stack"]
    metadata = [("authorization", f"Bearer {guarded.keys['stack']}")]
    with grpc.insecure_channel(guarded.service.grpc) as channel:
        asked = channel.unary_unary(f"/{SERVICE}/ModelMetadata", request_serializer=message("ModelMetadataRequest").SerializeToString)
        codes = [
            asked.future(message("ModelMetadataRequest")(name=name), metadata=metadata, timeout=60).code().name
            for name in ("flights.stack", "flights.trees", "none")
        ]
    assert codes == ["OK", "PERMISSION_DENIED", "PERMISSION_DENIED"]


def test_questions_count_as_requests(guarded: Guarded) -> None:
    """Those about models, over either door: one in 100 seconds."""

    def get() -> bytes:
        with guarded.connected() as client:
            client.sendall(guarded.head("/v2/models/flights", "seldom", "GET", Connection="close") + b"\r\n")
            return rest_of(client)

    assert get().startswith(b"HTTP/1.1 200 ")
    refused = get()
    assert refused.startswith(b"HTTP/1.1 429 ")
    assert 90 <= int(refused.partition(b"retry-after: ")[2].partition(b"\r\n")[0]) <= 100
    with grpc.insecure_channel(guarded.service.grpc) as channel:
        asked = channel.unary_unary(f"/{SERVICE}/RepositoryIndex")
        call = asked.future(b"", metadata=[("authorization", f"Bearer {guarded.keys['seldom']}")], timeout=60)
        assert call.code().name == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(("at", "kind"), [*enumerate(WRONG)], ids=WRONG)
def test_wrong_requests_count_too(guarded: Guarded, at: int, kind: str) -> None:
    """They are read like others. A caller over its rate is refused for that, whatever it sends."""
    method, path, body = WRONG[kind]

    def status() -> bytes:
        with guarded.connected() as client:
            head = guarded.head(path, f"rare{at}", method, Connection="close", Content_Length=str(len(body)) if body else "")
            client.sendall(head + b"\r\n" + body)
            return rest_of(client).split(b" ", 2)[1]

    assert status() != b"429"
    assert status() == b"429"


@pytest.mark.parametrize(("at", "lines"), [(0, b""), (1, b"\n \n")])
def test_a_stream_without_a_line_counts_too(guarded: Guarded, at: int, lines: bytes) -> None:
    head = guarded.head(
        key=f"rare{len(WRONG) + at}", Content_Type="application/x-ndjson", Content_Length=str(len(lines)), Connection="close"
    )
    for status in (b"200", b"429"):
        with guarded.connected() as client:
            client.sendall(head + b"\r\n" + lines)
            assert rest_of(client).split(b" ", 2)[1] == status


def test_wrong_messages_count_too(guarded: Guarded) -> None:
    metadata = [("authorization", f"Bearer {guarded.keys['rare0']}")]
    with grpc.insecure_channel(guarded.service.grpc) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        codes = [infer.future(b"\xff" * 9, timeout=60, metadata=metadata).code().name for _ in range(2)]
    assert codes[1] == "RESOURCE_EXHAUSTED"


def test_every_call_of_a_caller_is_in_the_audit_log_once(guarded: Guarded, event: bytes) -> None:
    """By the right that it needs: also questions, releases that are refused, and streams that end early."""
    guarded.ask(event)
    before = len(guarded.audit.read_bytes())

    def get(path: str, method: str = "GET") -> None:
        with guarded.connected() as client:
            client.sendall(guarded.head(path, method=method, Connection="close") + b"\r\n")
            rest_of(client)

    get("/v2/models/flights")
    get("/v2/models/none")
    get("/v2/repository/index", "POST")
    get("/v2/repository/models/flights/load", "POST")
    guarded.ask(b"{}", "/v1/releases")
    guarded.ask(b"{}", "/v2/models/none/infer")
    with grpc.insecure_channel(guarded.service.grpc) as channel:
        asked = channel.unary_unary(f"/{SERVICE}/RepositoryIndex")
        asked.future(b"", metadata=[("authorization", f"Bearer {guarded.keys['all']}")], timeout=60).result()
    with guarded.connected() as client:
        client.sendall(guarded.head(Content_Type="application/x-ndjson", Transfer_Encoding="chunked") + b"\r\n")
        client.sendall(b"%x\r\n%s\n\r\n" % (len(event) + 1, event))
        assert b" 200 " in client.recv(65536)
        sent(client, b"100000\r\n" + b"x" * MIB + b"\r\n", 9)
        found = b""
        while b"too-large" not in found:
            part = client.recv(65536)
            assert part, found
            found += part
    lines = [json.loads(line) for line in guarded.audit.read_bytes()[before:].splitlines()]
    assert [(line["call"], line["outcome"]) for line in lines] == [
        ("read", "ok"), ("read", "not-there"), ("read", "ok"), ("read", "by-release"), ("deploy", "no-releases"), ("score", "not-there"),
        ("read", "ok"), ("score", "ok"), ("score", "too-large"),
    ]  # fmt: skip


def test_a_line_that_grows_by_bytes_costs_no_more_than_its_bytes(guarded: Guarded, event: bytes) -> None:
    """Each byte behind 7 MB copied and searched all of them: 500 bytes in a second occupied the service."""
    process = psutil.Process(guarded.service.process.pid)

    def cost(*before: bytes) -> float:
        """Seconds of the processor for 1000 requests, each behind these bytes, which the service has read when it answers."""
        begun = process.cpu_times()
        for _ in range(1000):
            for one in before:
                client.sendall(one)
            assert guarded.ask(event)[0] == 200
        ended = process.cpu_times()
        return ended.user + ended.system - begun.user - begun.system

    with guarded.connected() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(guarded.head(Content_Type="application/x-ndjson", Transfer_Encoding="chunked") + b"\r\n")
        assert sent(client, b"100000\r\n" + b" " * MIB + b"\r\n", 7) > 7 * MIB
        assert cost(b"1\r\n \r\n") < cost() + 1
        last = b"%x\r\n%s\r\n0\r\n\r\n" % (len(event), event)
        client.sendall(last)
        answer = client.recv(65536)
        assert b" 200 " in answer
        while b"0\r\n\r\n" not in answer:
            answer += client.recv(65536)
        assert b'"flight_id"' in answer


def test_strangers_leave_no_line_in_the_audit_log(guarded: Guarded, event: bytes) -> None:
    assert guarded.ask(event)[0] == 200
    before = guarded.audit.read_bytes()
    for _ in range(50):
        with guarded.connected() as client:
            client.sendall(b"GET /v2/models/flights HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert rest_of(client).startswith(b"HTTP/1.1 401 ")
    assert guarded.audit.read_bytes() == before
    assert guarded.ask(event, "/v2/models/none/infer", "newark")[0] == 404
    line = json.loads(guarded.audit.read_bytes()[len(before) :])
    assert (line["caller"], line["outcome"]) == ("newark", "not-there")
    assert guarded.keys["newark"][-43:] not in guarded.audit.read_text()


def test_a_request_that_is_refused_has_one_line_in_the_audit_log(guarded: Guarded, flights: list[dict[str, Any]]) -> None:
    """An event that was sent alone, and has no answer, had a second one, as if it had."""
    other = json.dumps(next(one for one in flights if one["origin"] == "JFK")).encode()
    for body, key, status, outcome in ((b"{}", "all", 422, "failed"), (other, "newark", 403, "forbidden")):
        before = len(guarded.audit.read_bytes())
        assert guarded.ask(body, key=key)[0] == status
        lines = guarded.audit.read_bytes()[before:].splitlines()
        assert [json.loads(line)["outcome"] for line in lines] == [outcome]


def test_a_stream_ends_when_its_key_is_revoked(guarded: Guarded, event: bytes) -> None:
    """A caller that never ends its request would otherwise keep what it was once given."""
    with guarded.connected() as client:
        client.sendall(guarded.head(key="short", Content_Type="application/x-ndjson", Transfer_Encoding="chunked") + b"\r\n")
        line = b"%x\r\n%s\n\r\n" % (len(event) + 1, event)
        client.sendall(line)
        assert b" 200 " in client.recv(65536)
        text = with_revocation(guarded.access.read_text(), [guarded.keys["short"].split("_")[1]], time.time() - 1, file="f")
        new = guarded.access.with_suffix(".new")
        new.write_text(text)
        os.replace(new, guarded.access)
        found, until = b"", time.monotonic() + 10
        while b"revoked" not in found:
            assert time.monotonic() < until, found
            client.sendall(line)
            found += client.recv(65536)


@pytest.mark.parametrize(
    "tail", ['"origin":"EWR","origin":"JFK"', '"origin":"EWR","\\u006frigin":"JFK"', '"Origin":"EWR"', '"origin":null', '"origin":["EWR"]']
)
def test_the_value_that_is_judged_is_the_one_that_is_scored(guarded: Guarded, flights: list[dict[str, Any]], tail: str) -> None:
    """A name that occurs twice has its last value for both; what cannot be told is refused."""
    rest = {name: value for name, value in flights[0].items() if name != "origin"}
    event = (json.dumps(rest)[:-1] + "," + tail + "}").encode()
    assert guarded.ask(event, key="newark")[0] == 403
    good = (json.dumps(rest)[:-1] + ',"origin":"JFK","origin":"EWR"}').encode()
    status, answer = guarded.ask(good, key="newark")
    assert status == 200
    plain = (json.dumps(rest)[:-1] + ',"origin":"EWR"}').encode()
    assert json.loads(answer) == json.loads(guarded.ask(plain, key="newark")[1])


def test_a_field_that_the_topology_does_not_have_is_missing(guarded: Guarded, flights: list[dict[str, Any]]) -> None:
    """Whatever the event has under its name: nothing reads it."""
    for key, more in (("tenant", {"tenant": "a"}), ("header", {"header": {"tenant": "a"}})):
        status, answer = guarded.ask(json.dumps({**flights[0], **more}).encode(), key=key)
        assert (status, "the field is missing" in json.loads(answer)["error"]) == (403, True)


def test_the_value_that_is_judged_is_in_the_envelope(guarded: Guarded, flights: list[dict[str, Any]], tmp_path: Path) -> None:
    """Beside the data, a CloudEvent can have an attribute of any name: the caller could send all values, and honest events were refused."""
    file = tmp_path / "flights.yaml"
    text = (ROOT / "topologies/flights.yaml").read_text()
    file.write_text(text.replace("    id: flight_id\n", "    id: flight_id\n    envelope: cloudevents\n", 1))
    mine = next(one for one in flights if one["origin"] == "EWR")
    other = next(one for one in flights if one["origin"] == "JFK")
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}
    with served(file, "--access", str(guarded.access), doors=("http",)) as service:
        both = guarded._replace(service=service)

        def status(**more: Any) -> int:
            return both.ask(json.dumps({**event, **more}).encode(), key="newark")[0]

        coded = [base64.b64encode(json.dumps(one).encode()).decode() for one in (mine, other)]
        assert [status(data=mine), status(data_base64=coded[0])] == [200, 200]
        assert {status(data=other), status(origin="EWR", data=other), status(origin="EWR", data_base64=coded[1])} == {403}
        assert status(origin="EWR") == 403
        assert both.ask(json.dumps({**event, "origin": "EWR", "data": other}).encode())[0] == 200


def test_grpc_refuses_strangers_before_it_receives_their_messages(guarded: Guarded) -> None:
    """50 messages of 7 MB took 0.6 GB when they were received first."""
    before = guarded.forget()
    request = message("ModelInferRequest")(model_name="flights", raw_input_contents=[b"x" * 7_000_000]).SerializeToString()
    calls = []
    with grpc.insecure_channel(guarded.service.grpc) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        calls = [infer.future(request, timeout=60, metadata=[("authorization", "Bearer x")]) for _ in range(50)]
        assert {call.code().name for call in calls} == {"UNAUTHENTICATED"}
        both = [("authorization", f"Bearer {guarded.keys['all']}")] * 2
        call = channel.unary_unary(f"/{SERVICE}/ModelMetadata").future(b"", timeout=60, metadata=both)
        assert call.code().name == "UNAUTHENTICATED"
    assert guarded.peak < before + 120 * MIB


def test_strangers_that_send_no_message_are_in_no_ones_way(guarded: Guarded) -> None:
    """16 calls that need no credential, and never sent their message, kept every other caller waiting."""
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait(120)
        yield from ()

    apart = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(guarded.service.grpc, apart) as strangers, grpc.insecure_channel(guarded.service.grpc, apart) as channel:
        silent = [strangers.stream_unary(f"/{SERVICE}/{name}").future(nothing(), timeout=120) for name in OPEN for _ in range(20)]
        try:
            assert {call.code().name for call in silent} == {"OK"}
            call = channel.unary_unary(f"/{SERVICE}/RepositoryIndex")
            found = call.future(b"", timeout=20, metadata=[("authorization", f"Bearer {guarded.keys['all']}")])
            assert found.code().name == "OK"
        finally:
            over.set()


def test_a_caller_that_sends_no_message_is_in_no_others_way(guarded: Guarded) -> None:
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait(120)
        yield from ()

    def of(name: str) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {guarded.keys[name]}")]

    apart = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(guarded.service.grpc, apart) as silent, grpc.insecure_channel(guarded.service.grpc, apart) as channel:
        calls = [silent.stream_unary(f"/{SERVICE}/ModelInfer").future(nothing(), timeout=120, metadata=of("newark")) for _ in range(40)]
        try:
            silent.unary_unary(f"/{SERVICE}/ServerLive").future(b"", timeout=60).result()  # behind them
            asked = channel.unary_unary(f"/{SERVICE}/RepositoryIndex")
            assert asked.future(b"", timeout=20, metadata=of("all")).code().name == "OK"
            assert not any(call.done() for call in calls)
        finally:
            over.set()


def test_grpc_receives_a_few_messages_at_a_time(guarded: Guarded) -> None:
    """Also those of callers: 100 of them with 7 MB took 1.8 GB, and kept it until the collector ran."""
    before = guarded.forget()
    request = message("ModelInferRequest")(model_name="flights", raw_input_contents=[b"x" * 7_000_000]).SerializeToString()
    with grpc.insecure_channel(guarded.service.grpc) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        calls = [infer.future(request, timeout=60, metadata=[("authorization", f"Bearer {guarded.keys['all']}")]) for _ in range(60)]
        assert {call.code().name for call in calls} <= {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
    assert guarded.peak < before + 450 * MIB


@pytest.mark.parametrize("data", [b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x7f", b"\x2a" * 1000], ids=range(3))
def test_grpc_messages_that_cannot_be_read_are_refused(guarded: Guarded, data: bytes) -> None:
    with grpc.insecure_channel(guarded.service.grpc) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        call = infer.future(data, timeout=60, metadata=[("authorization", f"Bearer {guarded.keys['all']}")])
        assert (call.code().name, call.details()) == ("INVALID_ARGUMENT", "the message cannot be read")


def test_grpc_offers_no_reflection(guarded: Guarded) -> None:
    """What there is, callers learn from the methods that ask for a credential."""
    with grpc.insecure_channel(guarded.service.grpc) as channel:
        for method in (
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            f"/{SERVICE}/Nothing",
            "/grpc.channelz.v1.Channelz/GetServers",
        ):
            assert channel.unary_unary(method).future(b"", timeout=60).code().name == "UNIMPLEMENTED"


def test_processes_of_a_service_count_together(guarded: Guarded) -> None:
    """A caller that may ask once in 100 seconds does not get one answer from each."""
    with served("topologies/flights.yaml", "--access", str(guarded.access), "--workers", "2", doors=("http",), ready=False) as service:
        both = guarded._replace(service=service)
        wait_for(service, lambda text: text.count("ready: ") >= 2)
        statuses = []
        for _ in range(12):
            with both.connected() as client:
                client.sendall(both.head("/v2/models/flights", "seldom", "GET", Connection="close") + b"\r\n")
                statuses.append(rest_of(client).split(b" ", 2)[1])
    assert sorted(statuses) == [b"200", *[b"429"] * 11]


def test_a_handshake_of_tls_has_five_seconds(tmp_path: Path, event: bytes) -> None:
    """A connection that is silent before it is one of HTTP."""
    authority = Authority(tmp_path, "ca")
    own = authority.sign("server", "DNS:localhost")
    own.key.chmod(0o600)
    flags = ("--serve-certfile", str(own.certificate), "--serve-keyfile", str(own.key))
    with served("topologies/flights.yaml", *flags, doors=("http",)) as service:
        with socket.create_connection(("127.0.0.1", service.ports["http"]), 10) as silent:
            silent.settimeout(20)
            assert rest_of(silent) == b""
        context = ssl.create_default_context(cafile=authority.certificate)
        with (
            socket.create_connection(("127.0.0.1", service.ports["http"]), 10) as near,
            context.wrap_socket(near, server_hostname="localhost") as client,
        ):
            client.sendall(
                f"POST {SCORE} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(event)}\r\n\r\n".encode() + event
            )
            assert rest_of(client).startswith(b"HTTP/1.1 200 ")
