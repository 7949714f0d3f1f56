"""What clients may cost a service: bytes, time and connections are bounded, and whatever they send, the next client is answered."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import psutil
import pytest

from penstock.serving.messages import SERVICE, message
from tests.serving.conftest import Service, served, wait_for

SCORE = "/v1/topologies/flights:score"
INFER = "/v2/models/flights/infer"
IDLE = 0.5
BODY = 65_536


@pytest.fixture(scope="module")
def strict() -> Iterator[Service]:
    """A service with small limits."""
    flags = ("--max-body-bytes", str(BODY), "--idle-timeout", str(IDLE), "--max-connections", "8")
    with served("topologies/flights.yaml", *flags) as found:
        yield found


@pytest.fixture
def event(flights: list[dict[str, Any]]) -> bytes:
    return json.dumps(flights[0]).encode()


def connected(service: Service) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", service.ports["http"]), 10)
    made.settimeout(10)
    return made


def rest_of(client: socket.socket) -> bytes:
    """Everything that comes until the service closes."""
    found = b""
    try:
        while part := client.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


def head(length: int | str, path: str = SCORE) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def answers(service: Service, event: bytes) -> bool:
    return service.post(SCORE, event).status_code == 200


def tensors(event: bytes) -> bytes:
    """The event as a request of the Open Inference Protocol."""
    kinds: dict[type, str] = {int: "INT32", float: "FP32", str: "BYTES"}
    inputs = [
        {"name": name, "datatype": kinds[type(value)], "shape": [1], "data": [value]}
        for name, value in json.loads(event).items()
        if name in ("flight_id", "hour", "minute", "dep_delay", "distance", "sched_arr_time", "carrier", "origin", "dest")
    ]
    return json.dumps({"id": "7", "inputs": inputs}).encode()


@pytest.mark.parametrize(
    ("path", "made"),
    [
        (SCORE, lambda event: event),
        (f"{SCORE}?source=departures", lambda event: event),
        (SCORE, lambda event: b"[" + event + b", 5, " + event + b"]"),
        (SCORE, lambda event: b'{"events": [' + event + b"]}"),
        (SCORE, lambda event: b"[]"),
        (SCORE, lambda event: b"[" + event),
        (SCORE, lambda event: event[:-9]),
        (SCORE, lambda event: b""),
        (SCORE, lambda event: event + b" " * BODY),
        (f"{SCORE}?source=nope", lambda event: event),
        (f"{SCORE}?sauce=x", lambda event: event),
        ("/v1/topologies/%66lights:score", lambda event: event),
        (f"{SCORE}?source=departures#there", lambda event: event),
        ("/v2/models/flights#there/infer", tensors),
        ("//v2/models/flights/infer", tensors),
        (f"http://x{SCORE}", lambda event: event),
        ("/v2/models/" + "x" * 9_000 + "/infer", tensors),
        ("/v1/topologies/other:score", lambda event: event),
        (INFER, tensors),
        (INFER, lambda event: tensors(event).replace(b"INT32", b"FP64")),
        (INFER, lambda event: event),
        ("/v2/models/flights/versions/0/infer", tensors),
        ("/v2/models/flights/versions/7/infer", tensors),
        ("/v2/models/nope/infer", tensors),
        ("/v2/repository/index", lambda event: b"{}"),
        ("/healthz", lambda event: b"{}"),
        ("/nowhere", lambda event: b"{}"),
    ],
)
@pytest.mark.parametrize("last", [b"", b"Connection: close\r\n", b"X-Request-Timeout: -1\r\n"])
def test_a_request_has_the_same_answer_whole_and_in_pieces(
    strict: Service, event: bytes, path: str, made: Callable[[bytes], bytes], last: bytes
) -> None:
    """Most come whole, and are answered by a shorter way than those of several parts, and those that say how they are packed."""
    body = made(event)
    start = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n".encode() + last
    found = []
    for parts in (
        [start + b"\r\n" + body],
        [start + b"Content-Encoding: identity\r\n\r\n" + body],
        [start + b"\r\n", body],
        [start + b"Expect: 100-continue\r\n\r\n", body],
    ):
        with connected(strict) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for part in parts:
                client.sendall(part)
            answer = http.client.HTTPResponse(client)
            answer.begin()
            found.append((answer.status, sorted(answer.getheaders()), answer.read(), answer.will_close))
    assert found[1:] == found[:1] * 3
    assert found[0][3] or not last.startswith(b"Connection")


def test_tensors_that_come_whole_are_answered(strict: Service, event: bytes) -> None:
    """Above, a refusal would be the same, too."""
    assert strict.post(INFER, tensors(event)).json()["id"] == "7"


@pytest.mark.parametrize("length", ["0" * 16 + "{}", "{} \t"])
def test_a_length_is_read_alike_whole_and_in_pieces(strict: Service, event: bytes, length: str) -> None:
    """A number of some digits, and nothing behind it."""
    with connected(strict) as client:
        found = []
        for more in ("", "Content-Encoding: identity\r\n"):
            start = f"POST {SCORE} HTTP/1.1\r\nHost: x\r\n{more}Content-Length: {length.format(len(event))}\r\n\r\n"
            client.sendall(start.encode() + event)
            answer = http.client.HTTPResponse(client)
            answer.begin()
            found.append((answer.status, answer.read()))
    assert found[0] == found[1]


def test_a_url_that_cannot_be_read_is_refused_at_once(strict: Service, event: bytes) -> None:
    """Before its body has come: nothing else would end such a connection before it has been silent for too long."""
    with connected(strict) as client:
        client.sendall(head(1000, "http://x:99999999/") + event)
        assert rest_of(client).startswith(b"HTTP/1.1 400 ")
    assert "Traceback" not in strict.log.read_text()


def test_names_that_callers_make_up_are_no_series(service: Service) -> None:
    """Each would be kept until the service stops."""
    for at in range(3):
        assert service.post(f"/v2/models/none{at}/infer", b"{}").status_code == 404
    assert service.post("/v2/models/flights.stack/infer", b"{}").status_code == 400
    page = service.get("/metrics").text
    assert "none" not in page
    assert 'code="400",door="http",target="flights.stack"' in page


@pytest.mark.parametrize("body", [b"[", b"[]"], ids=["refused", "nothing to score"])
def test_requests_that_are_answered_at_once_are_bounded_too(service: Service, event: bytes, body: bytes) -> None:
    """A segment of thousands kept all others waiting until the last was answered."""
    with connected(service) as client:
        client.sendall((head(len(body)) + body) * 100)
        assert rest_of(client).count(b"HTTP/1.1 ") < 20
    assert answers(service, event)


def test_nothing_runs_behind_an_answer_that_ends_the_connection(service: Service) -> None:
    """The answer asks its client to send the rest again."""

    def count() -> int:
        return int(service.get("/v2/models/flights.stack/stats").json()["model_stats"][0]["inference_count"])

    body = json.dumps({"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 2], "data": [0.1, 0.2]}]}).encode()
    late = head(len(body), "/v2/models/flights.stack/infer").replace(b"Host: x", b"Host: x\r\nX-Request-Timeout: 0")
    before = count()
    with connected(service) as client:
        client.sendall(late + body + head(len(body), "/v2/models/flights.stack/infer") + body)
        said = rest_of(client)
    assert (said.startswith(b"HTTP/1.1 504 "), said.count(b"HTTP/1.1 ")) == (True, 1)
    assert count() == before


@pytest.mark.parametrize("way", ["", "Content-Encoding: identity\r\n"], ids=["whole", "packed"])
def test_a_bad_request_is_not_taken_for_an_earlier_one(service: Service, event: bytes, way: str) -> None:
    """The answer of the first was that of the second: 400."""
    first = f"POST {SCORE} HTTP/1.1\r\nHost: x\r\n{way}Content-Length: {len(event)}\r\n\r\n".encode() + event
    with connected(service) as client:
        client.sendall(first + b"GET\0\r\n\r\n")
        assert b" 400 " not in rest_of(client)
    with connected(service) as client:
        client.sendall(b"GET\0\r\n\r\n")
        assert b" 400 " in rest_of(client)


def test_trailers_are_no_headers(service: Service, event: bytes) -> None:
    """What a proxy takes out of the headers, or adds to them, it does not see behind the body."""
    begin = f"POST {SCORE} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
    body = b"%x\r\n%s\r\n0\r\nX-Request-Timeout: 0\r\nContent-Encoding: br\r\n\r\n" % (len(event), event)
    for more in ("", "Content-Encoding: identity\r\n"):
        with connected(service) as client:
            client.sendall(f"{begin}{more}\r\n".encode() + body)
            assert rest_of(client).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("more", ["", "Content-Encoding: identity\r\n"], ids=["whole", "packed"])
@pytest.mark.parametrize(
    "wish", ["Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n", "Upgrade: websocket\r\nConnection: Upgrade\r\n"]
)
def test_a_request_that_asks_for_another_protocol_keeps_its_body(service: Service, event: bytes, wish: str, more: str) -> None:
    """As Java's client sends it. The body was lost, or read as the next request."""
    ask = f"POST {SCORE} HTTP/1.1\r\nHost: x\r\n{wish}{more}".encode()
    length = b"Content-Length: %d\r\n\r\n" % len(event)
    chunks = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(event), event)
    last = b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    for parts in ([ask + length + event + ask + chunks + last], [ask, length, event[:50], event[50:] + ask, chunks, last]):
        with connected(service) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for part in parts:
                client.sendall(part)
                time.sleep(0.02)
            said = rest_of(client)
        assert (said.count(b"HTTP/1.1 "), said.count(b"HTTP/1.1 200 "), said.count(b'"flight_id"')) == (3, 3, 2)


def test_clients_that_leave_are_no_errors(service: Service, event: bytes) -> None:
    """Those with requests ahead had a traceback each."""
    for _ in range(20):
        with connected(service) as client:
            client.sendall(
                f"POST {SCORE} HTTP/1.1\r\nHost: x\r\nContent-Encoding: identity\r\nContent-Length: {len(event)}\r\n\r\n".encode() * 3
            )
            client.sendall((head(len(event)) + event) * 3)
    assert answers(service, event)
    assert "Traceback" not in service.log.read_text()


def test_a_body_of_100_mb_is_refused_by_its_length(strict: Service, event: bytes) -> None:
    """Without being read."""
    with connected(strict) as client:
        client.sendall(head(100_000_000))
        assert b" 413 " in client.recv(65536)
    assert answers(strict, event)


def test_a_body_without_a_length_is_refused_where_it_is_too_large(strict: Service, event: bytes) -> None:
    """In chunks; what was read of it is freed."""
    with connected(strict) as client:
        client.sendall(f"POST {SCORE} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        part = b"%x\r\n%s\r\n" % (16_384, b"x" * 16_384)
        client.sendall(part * 5)
        assert b" 413 " in client.recv(65536)
    assert answers(strict, event)


def test_a_packed_body_that_unpacks_to_too_much_is_refused(strict: Service, event: bytes) -> None:
    """By what it unpacks to, not by what comes."""
    packed = zlib.compress(b" " * 10_000_000)
    assert len(packed) < BODY
    refused = strict.post(SCORE, packed, content_encoding="deflate")
    assert (refused.status_code, "unpacks" in refused.json()["error"]) == (413, True)
    assert strict.post(SCORE, b"junk", content_encoding="gzip").status_code == 400
    assert strict.post(SCORE, zlib.compress(event)[:-4], content_encoding="deflate").status_code == 400
    assert strict.post(SCORE, event, content_encoding="br").status_code == 400
    assert answers(strict, event)


@pytest.mark.parametrize("sent", [b"", b"POST /v1", head(100), head(100) + b"{", b"GET / HTTP/1.1\r\n"], ids=range(5))
def test_a_client_that_sends_no_whole_request_is_closed(strict: Service, event: bytes, sent: bytes) -> None:
    """A silent one, half of a head, a head without its body, half of a body."""
    with connected(strict) as client:
        client.sendall(sent)
        began = time.monotonic()
        said = rest_of(client)
        assert time.monotonic() - began < 8
        assert not said or b" 504 " in said
    assert answers(strict, event)


@pytest.mark.parametrize("lines", [b"", b"%s\n"], ids=["no line", "one line"])
def test_a_stream_that_stops_is_told_so(strict: Service, event: bytes, lines: bytes) -> None:
    """As its status, or as the last line once there were answers."""
    sent = lines.replace(b"%s", event)
    with connected(strict) as client:
        head = f"POST {SCORE} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nContent-Length: 100000\r\n\r\n"
        client.sendall(head.encode() + sent)
        said = rest_of(client)
    status, body = said.split(b" ", 2)[1], said.partition(b"\r\n\r\n")[2]
    assert (status, b"came within 0.5 s" in body, b'"too-late"' in body) == (b"200" if lines else b"504", True, True)
    assert answers(strict, event)


def test_a_stream_cannot_be_packed(service: Service, event: bytes) -> None:
    """It was read as lines of junk, each with a failure."""
    refused = service.post(SCORE, gzip.compress(event), content_type="application/x-ndjson", content_encoding="gzip")
    assert (refused.status_code, "cannot be packed" in refused.json()["error"]) == (400, True)
    assert service.post(SCORE, event, content_type="application/x-ndjson", content_encoding="identity").status_code == 200


def test_nothing_behind_a_packed_body_is_lost(service: Service, event: bytes) -> None:
    """A second part has its own head: what is in it was not scored, and nothing said so."""
    refused = service.post(SCORE, gzip.compress(event) + gzip.compress(b"\n" + event), content_encoding="gzip")
    assert (refused.status_code, "left behind" in refused.json()["error"]) == (400, True)
    assert service.post(SCORE, gzip.compress(event), content_encoding="GZIP").status_code == 200


def test_a_client_that_drips_is_closed(strict: Service, event: bytes) -> None:
    """A byte now and then does not keep a request open."""
    ended = threading.Event()
    with connected(strict) as client:

        def drip() -> None:
            try:
                client.sendall(head(1000))
                while not ended.wait(IDLE / 5):
                    client.sendall(b" ")
            except OSError:
                pass

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert b" 504 " in rest_of(client)
        finally:
            ended.set()
            dripping.join()
    assert answers(strict, event)


def test_a_half_closed_connection_leaves_nothing(strict: Service, event: bytes) -> None:
    """A client that has shut down its side."""
    process = psutil.Process(strict.process.pid)
    answers(strict, event)
    before = len(process.net_connections())
    for sent in (b"", head(len(event)) + event, head(100)):
        with connected(strict) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            rest_of(client)
    assert answers(strict, event)
    end = time.monotonic() + 10
    while len(process.net_connections()) > before and time.monotonic() < end:
        time.sleep(0.05)
    assert len(process.net_connections()) <= before


def test_more_connections_than_allowed_close_the_silent_ones(strict: Service, event: bytes) -> None:
    """Clients that open many and send nothing do not keep others from their answers."""
    many = [connected(strict) for _ in range(40)]
    try:
        assert answers(strict, event)
    finally:
        for one in many:
            one.close()


def test_streams_do_not_exceed_the_connections_that_are_allowed(strict: Service, event: bytes) -> None:
    """A byte now and then keeps one of them open, but not more than there may be: the process would run out of files."""
    begin = f"POST {SCORE} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    clients = [connected(strict) for _ in range(30)]
    with ExitStack() as stack:
        for one in clients:
            stack.enter_context(one)
            one.sendall(begin)
        still, end = clients, time.monotonic() + 10
        while len(still) > 8:
            assert time.monotonic() < end, f"{len(still)} connections are open, of 8"
            assert answers(strict, event)
            still = [one for one in still if sends(one, b"1\r\n\n\r\n")]
        assert still, "others go on"


def sends(client: socket.socket, part: bytes) -> bool:
    try:
        client.sendall(part)
    except OSError:
        return False
    return True


def test_a_message_that_is_too_large_is_refused_while_it_comes(strict: Service) -> None:
    """By the library of gRPC, which knows no other status for it; without the time that says when to send it again."""
    sent = message("ModelInferRequest")(model_name="flights", id="x" * 2 * BODY).SerializeToString()
    with grpc.insecure_channel(strict.grpc) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/{SERVICE}/ModelInfer")(sent, timeout=20)
    assert (refused.value.code().name, refused.value.trailing_metadata()) == ("RESOURCE_EXHAUSTED", ())
    assert "Received message larger than max" in refused.value.details()


def test_a_caller_that_does_not_read_its_answers_is_closed(strict: Service, event: bytes) -> None:
    """A stream of lines whose answers nobody reads ends; others are answered meanwhile."""
    with connected(strict) as client:
        client.settimeout(60)
        client.sendall(
            f"POST {SCORE} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        lines = (event + b"\n") * 100
        part = b"%x\r\n%s\r\n" % (len(lines), lines)
        with pytest.raises(ConnectionError):  # noqa: PT012  the loop is the cause
            while True:
                client.sendall(part)
    assert answers(strict, event)
    log = strict.log.read_text()
    assert "a stream of anonymous from 127.0.0.1 is closed: its answers were not read for 0.5 s" in log
    assert "ASGI" not in log


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 100, b"POST " + b"/" * 100_000])
def test_what_is_no_http_is_closed(strict: Service, event: bytes, junk: bytes) -> None:
    """A TLS hello, a wrong version, zeros, a line without end."""
    with connected(strict) as client:
        client.sendall(junk)
        said = rest_of(client)
        assert not said or b" 400 " in said
    assert answers(strict, event)


def test_requests_that_wait_together_run_together(service: Service, flights: list[dict[str, Any]]) -> None:
    """Callers at the same time share runs; none is kept waiting for another."""
    body = json.dumps({"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 2], "data": [0.1, 0.2]}]})
    before = service.get("/v2/models/flights.stack/stats").json()["model_stats"][0]
    with ThreadPoolExecutor(16) as callers:
        found = list(callers.map(lambda _: service.post("/v2/models/flights.stack/infer", body).status_code, range(200)))
    assert found == [200] * 200
    after = service.get("/v2/models/flights.stack/stats").json()["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 200
    assert after["execution_count"] - before["execution_count"] <= 200


def test_a_stop_answers_what_is_under_way(event: bytes) -> None:
    """SIGTERM while requests come: each that was accepted is answered, and the exit code is 0."""
    found: list[int] = []
    with served("topologies/flights.yaml", doors=("http",)) as stopping:
        with connected(stopping) as client:
            client.sendall(head(len(event)) + event[:50])  # its body is on its way
            wait = threading.Timer(0.5, lambda: client.sendall(event[50:]))
            wait.start()
            stopping.process.terminate()
            said = rest_of(client)
            found.append(int(said.split()[1]))
            wait.join()
        assert stopping.stop() == 0
        assert "stopped" in stopping.log.read_text()
    assert found == [200]


def test_a_stop_loses_no_request_of_open_connections(event: bytes) -> None:
    """The last answer tells a client that its connection ends, so that it sends no further request on it."""
    with served("topologies/flights.yaml", doors=("http",)) as stopping, ExitStack() as stack:
        clients = [http.client.HTTPConnection("127.0.0.1", stopping.ports["http"], timeout=10) for _ in range(8)]
        for one in clients:
            stack.callback(one.close)

        def asks(client: http.client.HTTPConnection) -> bool:
            """Whether the connection goes on behind the answer. Raises OSError where there is none."""
            client.request("POST", SCORE, event)
            answer = client.getresponse()
            assert (answer.status, len(answer.read()) > 0) == (200, True)
            return answer.getheader("connection") != "close"

        assert all(asks(one) for one in clients)
        stopping.process.terminate()
        while clients:
            clients = [one for one in clients if asks(one)]
        assert stopping.stop() == 0


def test_a_stop_ends_what_is_left_with_an_error(event: bytes) -> None:
    """A stream by a last line that is an error, a request whose body has not come by a status. The log has one line, and no trace."""
    begin = f"POST {SCORE} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nContent-Length: 100000\r\n\r\n".encode()
    flags = ("--drain-timeout", "1", "--idle-timeout", "60")
    with (
        served("topologies/flights.yaml", *flags, doors=("http",)) as stopping,
        connected(stopping) as streaming,
        connected(stopping) as sending,
    ):
        streaming.sendall(begin + event + b"\n")
        said = streaming.recv(65536)
        assert b" 200 " in said
        sending.sendall(head(70_000) + event)
        assert stopping.stop() == 0
        said += rest_of(streaming)
        assert b" 503 " in rest_of(sending)
        log = stopping.log.read_text()
    lines = [json.loads(part) for part in said.split(b"\r\n") if part.startswith(b"{")]
    assert [set(one) for one in lines[1:]] == [{"error", "code"}]
    assert "the service stops" in lines[1]["error"]
    assert said.endswith(b"0\r\n\r\n")
    assert "Traceback" not in log
    assert log.count("drain_timeout (1 s) is over: requests that end with an error: 2") == 1


def test_a_stop_closes_both_doors_at_once(event: bytes) -> None:
    """No call is accepted over one while the other one answers what it has; and both together take no longer than one may."""
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait(60)
        yield from ()

    begin = f"POST {SCORE} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nContent-Length: 100000\r\n\r\n".encode()
    with (
        ExitStack() as stack,
        served("topologies/flights.yaml", "--drain-timeout", "6", "--idle-timeout", "60") as stopping,
        connected(stopping) as client,
        grpc.insecure_channel(stopping.grpc) as channel,
    ):
        stack.callback(over.set)
        client.sendall(begin + event + b"\n")
        assert b" 200 " in client.recv(65536)
        call = channel.stream_unary(f"/{SERVICE}/ModelInfer").future(nothing(), timeout=60)
        live = channel.unary_unary(f"/{SERVICE}/ServerLive").future(b"", timeout=60)
        assert live.code().name == "OK"  # behind the call, which is therefore under way
        began = time.monotonic()
        stopping.process.terminate()
        with pytest.raises(ConnectionError):  # noqa: PT012  until the listener is gone; one that it has at that time is reset
            while True:
                connected(stopping).close()
                assert not call.done(), "HTTP accepts connections until gRPC has ended"
        assert not call.done()
        assert stopping.stop() == 0
        assert time.monotonic() - began < 11


def test_a_service_that_is_not_ready_says_so(tmp_path: Any) -> None:
    """Its doors open before its models are loaded."""
    with served("topologies/flights.yaml", doors=("http",), ready=False) as starting:
        assert starting.get("/v2/health/live").status_code == 200
        ready = starting.get("/v2/health/ready")
        assert ready.status_code == (200 if ready.json()["ready"] else 503)
        wait_for(starting, lambda text: "ready: " in text)
        assert starting.get("/v2/health/ready").json() == {"ready": True}
        assert starting.get("/readyz").json()["conditions"] == {"running": "running", "models": "warm"}


def test_several_processes_share_the_ports(event: bytes) -> None:
    """One /readyz and one /metrics for both; each answers requests."""
    with served("topologies/flights.yaml", "--workers", "2", ready=False) as fleet:
        wait_for(fleet, lambda text: text.count("ready: flights") == 2)
        for _ in range(200):
            assert answers(fleet, event)
            metrics = fleet.get("/metrics").text
            if all(f'code="200",door="http",target="departures",worker="{one}"' in metrics for one in (1, 2)):
                break
        else:
            pytest.fail("one of them has answered nothing")
        assert fleet.get("/readyz").json()["workers"].keys() == {"1", "2"}
        assert fleet.stop() == 0
