"""The load of `benchmarks.serving`: callers with a connection each, which send prepared requests and note how long the answers take."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import random
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import grpc
import msgspec

from benchmarks.contender import Running
from benchmarks.serving_peers.scoring import NUMBERS, SCORES, TEXTS, score
from benchmarks.workload import ROOT
from penstock.serving.messages import SERVICE, message

WARM = 1.0  # seconds
PATIENCE = 120.0  # seconds until a server answers
SEED = 7
EVERY = 20  # of so many answers, one is compared with the models run here
CLOSE = 1e-5
FLOATS = ("dep_delay",)
CLIENT_BOUND = 0.95  # of the load's core

Body = Literal["event", "flight", "flights", "tensors", "message", "anything"]


def flights() -> list[bytes]:
    """A thousand events."""
    with gzip.open(ROOT / "examples/flights/sample/departures.ndjson.gz", "rb") as lines:
        return [line.strip() for line, _ in zip(lines, range(1000), strict=False)]


# -- what a request contains, and its answer ---------------------------------------------------------------------------


def written(body: Body, event: bytes) -> bytes:
    """Returns the body of a request.

    It is an event, also as the `flight` of an object or in the list of its `flights`; or its fields as tensors of the Open Inference
    Protocol, in JSON or as a message.
    """
    if body in ("event", "flight", "flights"):
        return {"event": b"%s", "flight": b'{"flight":%s}', "flights": b'{"flights":[%s]}'}[body] % event
    flight = msgspec.json.decode(event)
    kinds = {name: "FP32" if name in FLOATS else "INT32" for name in NUMBERS} | dict.fromkeys(("flight_id", *TEXTS), "BYTES")
    inputs: list[dict[str, Any]] = [{"name": name, "datatype": kind, "shape": [1, 1]} for name, kind in kinds.items()]
    outputs = [{"name": name} for name in SCORES]
    if body == "tensors":
        return msgspec.json.encode({"inputs": [{**one, "data": [flight[one["name"]]]} for one in inputs], "outputs": outputs})
    places = {"FP32": "fp32_contents", "INT32": "int_contents", "BYTES": "bytes_contents"}
    for one in inputs:
        value = flight[one["name"]]
        one["contents"] = {places[one["datatype"]]: [value.encode() if isinstance(value, str) else value]}
    made: bytes = message("ModelInferRequest")(model_name="flights", inputs=inputs, outputs=outputs).SerializeToString()
    return made


def scores(body: Body, answer: bytes) -> list[float]:
    """Returns the scores in an answer."""
    if body == "message":
        read = message("ModelInferResponse").FromString(answer)
        if read.raw_output_contents:
            values = [struct.unpack("<f", one)[0] for one in read.raw_output_contents]
        else:
            values = [one.contents.fp32_contents[0] for one in read.outputs]
        found = dict(zip((one.name for one in read.outputs), values, strict=True))
    else:
        given = msgspec.json.decode(answer)
        found = {one["name"]: one["data"][0] for one in given["outputs"]} if body == "tensors" else given
        found = found[0] if isinstance(found, list) else found
    return [found[name] for name in SCORES]


def check(body: Body, kept: Sequence[tuple[int, bytes]]) -> None:
    """Compares answers, by the numbers of their events, with the models run here. Raises AssertionError."""
    if body == "anything":
        return
    assert kept, "no answer was kept"
    expected = score([msgspec.json.decode(event) for event in flights()])
    for number, answer in kept:
        wanted = [expected[number][name] for name in SCORES]
        try:
            found = scores(body, answer)
        except (LookupError, TypeError, ValueError, struct.error) as error:
            raise AssertionError(f"flight {number} has an answer without scores ({error!r}): {answer[:200]!r}") from error
        far = max(abs(one - other) for one, other in zip(wanted, found, strict=True))
        assert far < CLOSE, f"flight {number} is answered by {found}, the models answer {wanted}"


# -- callers -----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Work:
    """What the callers of a run share: prepared requests with the numbers of their events, and what is noted of the answers."""

    requests: Iterator[tuple[int, bytes]]
    again: bool = False  # a caller sends its next request after an answer
    taken: list[float] = field(default_factory=list)
    kept: list[tuple[int, bytes]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    free: list[Caller] = field(default_factory=list)


class Caller:
    """Sends one request at a time, and notes how long its answer took since it was due."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.busy = False
        self._due = 0.0
        self._number = 0

    def send(self, due: float) -> None:
        self.busy, self._due = True, due
        self._number, request = next(self.work.requests)
        self.write(request)

    def answered(self, body: bytes, problem: str = "") -> None:
        now, work = time.perf_counter(), self.work
        work.taken.append(now - self._due)
        self.busy = False
        if problem:
            work.problems.append(problem)
        elif len(work.taken) % EVERY == 1:
            work.kept.append((self._number, body))
        if work.again:
            self.send(now)
        else:
            work.free.append(self)

    def write(self, request: bytes) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


class Http(Caller, asyncio.Protocol):
    """A connection of HTTP/1.1 that is kept."""

    _rest = b""
    _closing = False
    _transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def write(self, request: bytes) -> None:
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._rest += data
        head, found, body = self._rest.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        at = lower.find(b"content-length:")
        if at >= 0 and len(body) < int(lower[at + 15 :].split(b"\r\n", 1)[0]):
            return
        self._rest = b""
        self.answered(body, "" if head.startswith(b"HTTP/1.1 200") and at >= 0 else head.split(b"\r\n", 1)[0].decode())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closing:
            self.work.problems.append("the server closed a connection")
            self.busy = False

    async def close(self) -> None:
        self._closing = True
        self._transport.close()


class Grpc(Caller):
    """A channel of grpcio; messages are sent and received as bytes."""

    def __init__(self, work: Work, port: int, path: str) -> None:
        super().__init__(work)
        # Otherwise the channels of a process share one connection.
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
        self._method = self._channel.unary_unary(path)
        self._call: asyncio.Task[None] | None = None

    def write(self, request: bytes) -> None:
        self._call = asyncio.create_task(self._called(request))

    async def _called(self, request: bytes) -> None:
        try:
            answer = await self._method(request)
        except grpc.RpcError as error:
            self.answered(b"", f"{error.code()}: {error.details()}")
        else:
            self.answered(answer)

    async def close(self) -> None:
        if self._call is not None:
            self._call.cancel()
        await self._channel.close()


def request(path: str, body: bytes) -> bytes:
    """Returns a request of HTTP."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def requests(path: str, body: Body = "event") -> Iterator[tuple[int, bytes]]:
    """Returns requests without end, each with the number of its event."""
    over_grpc = path.startswith(f"/{SERVICE}/")
    made = [written("message" if body == "anything" else body, event) for event in flights()]
    return itertools.cycle(enumerate(made if over_grpc else [request(path, one) for one in made]))


async def connect(work: Work, port: int, path: str, kind: type[Http] = Http) -> Caller:
    """Returns a caller with its connection. Raises OSError."""
    if path.startswith(f"/{SERVICE}/"):
        return Grpc(work, port, path)
    made: Http
    _, made = await asyncio.get_running_loop().create_connection(lambda: kind(work), "127.0.0.1", port)
    return made


async def pace(free: list[Caller], rate: int) -> None:
    """Sends requests at random times, so many per second, by the callers that are free."""
    chance = random.Random(SEED)
    due = time.perf_counter()
    while True:
        due += chance.expovariate(rate)
        if (left := due - time.perf_counter()) > 0:
            await asyncio.sleep(left)
        while not free:
            await asyncio.sleep(0.0005)
        free.pop().send(due)


# -- a run -------------------------------------------------------------------------------------------------------------


async def ready(port: int, path: str, body: Body, started: Running) -> None:
    """Waits until a server answers. Raises TimeoutError with what it answers instead, and WorkerFailed when it has ended."""
    end = time.monotonic() + PATIENCE
    problem = "no connection"
    prepared = requests(path, body)
    while time.monotonic() < end:
        started.check()
        work = Work(prepared)
        with suppress(OSError):
            caller = await connect(work, port, path)
            caller.send(time.perf_counter())
            while caller.busy and time.monotonic() < end:
                await asyncio.sleep(0.01)
            await caller.close()
            if work.kept:
                return
            problem = work.problems[-1] if work.problems else "no answer"
        await asyncio.sleep(0.2)
    raise TimeoutError(problem)


async def measured(
    port: int, path: str, started: Running, callers: int, rate: int, seconds: float, body: Body = "event"
) -> dict[str, float]:
    """Returns the figures of one run: closed with so many callers, or open at the rate.

    Raises AssertionError for a wrong answer, and WorkerFailed when the server has ended.
    """
    await ready(port, path, body, started)
    work = Work(requests(path, body), again=not rate)
    many = [await connect(work, port, path) for _ in range(callers)]
    work.free += many
    if not rate:
        for one in many:
            one.send(time.perf_counter())
    paced = asyncio.create_task(pace(work.free, rate)) if rate else None
    await asyncio.sleep(WARM)
    work.taken.clear()
    began, spent, own = time.perf_counter(), started.cpu(), time.process_time()
    await asyncio.sleep(seconds)
    wall, used, mine = time.perf_counter() - began, started.cpu() - spent, time.process_time() - own
    answers = sorted(work.taken)
    if paced is not None:
        paced.cancel()
    work.again = False
    for one in many:
        await one.close()
    started.check()  # otherwise another server may have answered on this port
    assert not work.problems, f"{len(work.problems)} answers are none: {work.problems[0]}"
    assert answers, "no answer came in time"
    check(body, work.kept)
    return {
        "req_s": len(answers) / wall,
        "p50_ms": answers[len(answers) // 2] * 1000,
        "p99_ms": answers[int(len(answers) * 0.99)] * 1000,
        "cpu_us": used / len(answers) * 1e6,
        "rss_mb": started.rss_peak / 1e6,
        "client": mine / wall,
    }
