"""The hot routes, as bare ASGI beside Starlette's pages: the Open Inference Protocol v2, and events as they are on Kafka.

    POST /v1/topologies/NAME:score               one event, a list of events, {"events": [...]}, or a stream of lines (NDJSON)
    GET  /v2, /v2/health/live, /v2/health/ready, /v2/models/NAME[/versions/VERSION][/ready|/stats]
    POST /v2/models/NAME[/versions/VERSION]/infer, /v2/repository/index
    GET  /openapi.json
    GET, POST /v1/releases                       (`releases`)

A body is read to its end before anything is done with it, but for a stream of lines. Events and tensors that have come whole are answered
without ASGI: they wait for their batch, and not in a task of their own. A body's bytes are bounded alone and together, and an error
has the JSON `{"error": MESSAGE}` with the status of its class (`codes`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import aclosing
from typing import Any, Final

from penstock.access import Caller
from penstock.batch import Failure
from penstock.errors import (
    CallRefused,
    KeysWanted,
    Malformed,
    NotReady,
    NotThere,
    Overloaded,
    RateLimited,
    RecordError,
    TooLarge,
    TooLate,
    Unauthenticated,
)
from penstock.serving import bodies, oip, releases
from penstock.serving.asked import JSON, LINES, Answer, AskedEvents, AskedTensors, written
from penstock.serving.bodies import Headers
from penstock.serving.codes import code_of, described
from penstock.serving.connections import CLOSE, Reply
from penstock.serving.describe import metadata, refused_load, stats, version_of
from penstock.serving.handlers import EXTENSIONS, NAME, Service
from penstock.serving.openapi import document
from penstock.serving.targets import Live, Outcome
from penstock.telemetry.families import Counter

__all__ = ["Rest"]

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LAST: Final = 1.0  # seconds that a client has for the end of a stream, when the service stops
_STREAMS: Final = frozenset((b"application/x-ndjson", b"application/ndjson", b"application/jsonl", b"application/x-jsonlines"))


class Rest:
    """The app of the service. What is not its own goes to `pages`, and requests for `/v2/health` are answered without models."""

    def __init__(self, service: Service, pages: App) -> None:
        self._service, self._pages = service, pages
        self._name = service.name
        self._cells: dict[tuple[str, int], Counter] = {}
        self._observe = service.metrics.request_seconds.labels("http").observe
        self._score = f"/v1/topologies/{service.name}:score"
        self._wraps = {  # a source whose events have a field `events` takes no {"events": [...]}
            one.name: not service.loaded.schemas[one.name].has("events") for one in service.loaded.topology.sources
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        headers: Headers = dict(scope.get("headers", ()))
        ambiguous = b"content-length" in headers and b"transfer-encoding" in headers
        if scope["type"] != "http" or not (ambiguous or path.startswith(("/v1", "/v2", "/openapi.json"))):
            await self._pages(scope, receive, send)
            return
        began = time.monotonic()
        target, caller = "", None
        try:
            if ambiguous:
                raise _Ambiguous("the request has a length and a transfer-encoding, and may have one of them")
            caller = await self._admitted(scope, headers)
            if path == self._score:
                if scope["method"] != "POST":
                    raise _NotAllowed("POST")
                target = self._source(scope)
                assert caller is not None
                if _is_stream(headers):
                    await self._lines(scope, caller, target, headers, receive, send)
                    self._count(target, 200, began)
                    return
                answer = await self._events(caller, target, headers, receive)
            else:
                target = self._named(_asked(path))
                answer, target = await self._route(scope, caller, headers, receive)
                if not target and not _changes(scope):  # others have noted what they did
                    self._service.note(caller, "read", "ok")
        except asyncio.CancelledError:  # by `app.answering`, at the end
            answer = self._refused(scope, caller, _stopped())
        except Exception as error:  # noqa: BLE001  whatever goes wrong is this caller's answer
            answer = self._refused(scope, caller, error)
        self._count(target, answer[0], began)
        status, head, body = answer
        last = (CLOSE,) if self._service.stopping else ()
        await send({"type": "http.response.start", "status": status, "headers": [*head, (b"content-length", b"%d" % len(body)), *last]})
        await send({"type": "http.response.body", "body": body})

    def take(self, url: bytes, scope: Scope, body: bytes, reply: Reply) -> bool:
        """Takes a request that has come whole, if it has events or tensors and waits for nothing but its batch; see `connections.Door`."""
        service, headers = self._service, dict(scope["headers"])
        if len(body) > service.settings.max_body_bytes or b"content-encoding" in headers:
            return False
        path, _, query = url.decode().partition("?")
        model = None if path == self._score else _asked(path)
        if (service.looks or _is_stream(headers)) if path == self._score else model is None:
            return False
        scope["method"], scope["path"], scope["query_string"] = "POST", path, query.encode()
        waiting = _Waiting(self, scope, reply)
        try:
            caller = service.gate.admit(_authorization(scope, headers), _certificate(scope)).asking()
            if caller.rules.only:
                return False
            waiting.caller = caller
            waiting.target = self._source(scope) if model is None else self._named(model)
            service.check(caller, *(model or ()))
            bodies.number(headers, b"content-length")  # has to be a number here, too
            waiting.keep(body)
            asked: AskedEvents | AskedTensors
            if model is None:
                asked = AskedEvents(service, caller, waiting.target, headers, body, wraps=self._wraps[waiting.target])
            else:
                asked = AskedTensors(service, caller, *model, headers, body)
            waiting.asked = asked
            asked.ask(waiting)
        except KeysWanted:
            return False
        except Exception as error:  # noqa: BLE001  whatever goes wrong is this caller's answer
            # Not now: requests behind it would be read as if they had waited for its answer.
            asyncio.get_running_loop().call_soon(waiting.set_exception, error)
        return True

    def _refused(self, scope: Scope, caller: Caller | None, error: Exception) -> Answer:
        error, path = self._service.counted(caller, error), scope["path"]
        if not _changes(scope):
            call = "score" if path == self._score or path.rstrip("/").endswith("/infer") else "read"
            self._service.note(caller, call, str(getattr(error, "code", "failed")), address=_address(scope))
        return _refusal(error)

    def _named(self, asked: tuple[str, str] | None) -> str:
        """Returns the name of the model that is asked, if there is one: each name that callers make up would be a series of the metrics."""
        return asked[0] if asked is not None and asked[0] in self._service.live.models else ""

    def _count(self, target: str, status: int, began: float) -> None:
        cell = self._cells.get((target, status))
        if cell is None:
            cell = self._cells[target, status] = self._service.metrics.requests.labels("http", target, str(status))
        cell.inc()
        self._observe(time.monotonic() - began)

    async def _admitted(self, scope: Scope, headers: Headers) -> Caller | None:
        """Returns who asks. Health, and what server this is, are for everyone: None. Raises Unauthenticated, TransportUnavailable."""
        if scope["path"].startswith("/v2/health/") or scope["path"].rstrip("/") == "/v2":
            return None
        return await self._service.gate.admitted(_authorization(scope, headers), _certificate(scope))

    # -- events --------------------------------------------------------------------------------------------------------

    def _source(self, scope: Scope) -> str:
        wanted = ""
        for part in scope["query_string"].decode("latin-1").split("&") if scope["query_string"] else ():
            name, _, value = part.partition("=")
            if name != "source":
                raise Malformed(f"there is no parameter {name!r}; there is source=NAME")
            wanted = value
        return self._service.live.source(wanted).source.name

    async def _events(self, caller: Caller, source: str, headers: Headers, receive: Receive) -> Answer:
        service = self._service
        service.check(caller)
        body = await self._body(headers, receive)
        try:
            asked = AskedEvents(service, caller, source, headers, body, wraps=self._wraps[source])
            return asked.answer(*await self._scored(caller, source, asked.values, headers, _deadline(service, headers), len(body)))
        finally:
            service.read(len(body))

    async def _scored(
        self, caller: Caller, source: str, values: Sequence[bytes], headers: Headers, deadline: float, size: int
    ) -> tuple[Live, list[bytes | Failure]]:
        """Returns the answers of events; those that the caller may not send have failed."""
        service = self._service
        events = service.live.source(source)
        records = bodies.records(events.source.topic, values, headers)
        refused = service.refused(caller, events, records)
        if refused:
            records = [record for row, record in enumerate(records) if row not in refused]
        live: Live = service.live
        found: list[bytes | Failure] = []
        if records:
            live, outcome = await service.score(events, records, size=size, deadline=deadline)
            if isinstance(outcome, Exception):
                raise outcome
            assert isinstance(outcome, list)
            found = outcome
        if refused:
            answers = iter(found)
            rows = range(len(values))
            found = [Failure(row, RecordError(refused[row], where="access")) if row in refused else next(answers) for row in rows]
        return live, found

    async def _lines(self, scope: Scope, caller: Caller, source: str, headers: Headers, receive: Receive, send: Send) -> None:
        """Answers a stream of events, one per line, while it comes: each line has the answer of the line at its place.

        What cannot go on after the first answers ends with a line that is an error, as of a refusal.
        """
        if bodies.coding(headers):
            raise Malformed("a stream of lines is read while it comes, so it cannot be packed: send it without content-encoding")
        started, service = False, self._service
        within = service.settings.idle_timeout  # seconds that the client has to read a part of its answers
        try:
            async with aclosing(self._answered(scope, caller, source, headers, receive)) as answered:
                async for live, answers in answered:
                    if not started:
                        started = True
                        await send({"type": "http.response.start", "status": 200, "headers": [LINES, *live.about]})
                    if not await self._read(scope, caller, send, answers, within):
                        return
        except (Exception, asyncio.CancelledError) as why:
            if not started:
                raise
            error, within = (_stopped(), LAST) if isinstance(why, asyncio.CancelledError) else (why, within)
            service.note(caller, "score", str(getattr(error, "code", "failed")), address=_address(scope))
            if not await self._read(scope, caller, send, _refusal(error)[2] + b"\n", within):
                return
        if not caller.spent:  # there was no line
            caller.spend(0)
        if not started:
            await send({"type": "http.response.start", "status": 200, "headers": [LINES, *service.live.about]})
        await self._read(scope, caller, send, b"", within, more=False)

    async def _read(self, scope: Scope, caller: Caller, send: Send, answers: bytes, within: float, *, more: bool = True) -> bool:
        """Sends a part of a stream's answers. Returns False for a client that does not read them: its connection is closed."""
        try:
            async with asyncio.timeout(within):
                await send({"type": "http.response.body", "body": answers, "more_body": more})
        except TimeoutError:
            where = f" from {address}" if (address := _address(scope)) else ""
            logger.warning("a stream of %s%s is closed: its answers were not read for %g s", caller.name, where, within)
            self._service.note(caller, "score", TooLate.code, address=_address(scope))
            scope["state"]["cut"]()
            return False
        return True

    async def _answered(
        self, scope: Scope, caller: Caller, source: str, headers: Headers, receive: Receive
    ) -> AsyncGenerator[tuple[Live, bytes], None]:
        """Yields the answers to the lines of a body as they come. Raises CallRefused.

        A stream may last: its caller is admitted again for each part of it, so that a key ends when it is revoked. No part has more rows
        than the caller may send at once.
        """
        service, settings = self._service, self._service.settings
        seconds, most, rest, more = bodies.seconds(headers), min(settings.chunk_rows, settings.max_batch_rows), bytearray(), True
        kept = 0
        try:
            service.check(caller)
            while more:
                try:
                    async with asyncio.timeout(settings.idle_timeout):
                        message = await receive()
                except TimeoutError:
                    raise TooLate(f"no more of the stream came within {settings.idle_timeout:g} s (setting idle_timeout)") from None
                if message["type"] == "http.disconnect":
                    return
                more = message.get("more_body", False)
                first, *others = message.get("body", b"").split(b"\n")
                rest += first  # of what is there already nothing is copied or searched again: it may grow by a byte at a time
                lines = [bytes(rest), *others[:-1]] if others else []
                if others:
                    rest = bytearray(others[-1])
                if not more:
                    lines.append(bytes(rest))
                    rest.clear()
                if len(rest) > settings.max_body_bytes:
                    raise TooLarge(f"a line of more than {settings.max_body_bytes} bytes (setting max_body_bytes)")
                if not service.reading(len(rest) - kept):
                    raise Overloaded("too many bytes of requests are being read")
                kept = len(rest)
                given = [line for one in lines if (line := one.strip())]
                while given:
                    rows = int(min(most, caller.part))
                    live, found = await self._patiently(caller, source, given[:rows], headers, seconds)
                    service.note(caller, "score", "ok", generation=live.generation, rows=len(found))
                    yield live, b"".join(part for one in found for part in (written(one), b"\n"))
                    del given[:rows]
                    if given:
                        caller = await self._readmitted(scope, caller, headers)
                if more:
                    caller = await self._readmitted(scope, caller, headers)
        finally:
            service.read(kept)

    async def _readmitted(self, scope: Scope, caller: Caller, headers: Headers) -> Caller:
        caller = await self._admitted(scope, headers) or caller
        self._service.check(caller)
        return caller

    async def _patiently(
        self, caller: Caller, source: str, values: Sequence[bytes], headers: Headers, seconds: float | None
    ) -> tuple[Live, Sequence[bytes | Failure]]:
        """Returns the answers of some lines. A stream waits where a request would be refused: it is read no faster than it is answered.

        For the caller's rate as long as that takes; for a crowded service no longer than a request may take.
        """
        service = self._service
        while True:
            try:
                caller.spend(len(values))
                break
            except RateLimited as early:
                await asyncio.sleep(early.retry_after)
        size, until = sum(map(len, values)), time.monotonic() + service.settings.request_timeout
        while True:
            try:
                return await self._scored(caller, source, values, headers, service.deadline(seconds), size)
            except Overloaded as error:
                if time.monotonic() + error.retry_after > until:
                    raise
                await asyncio.sleep(error.retry_after)

    # -- the Open Inference Protocol -------------------------------------------------------------------------------------

    async def _route(self, scope: Scope, caller: Caller | None, headers: Headers, receive: Receive) -> tuple[Answer, str]:
        """Returns the answer, and the name of the model that was asked, if there is one."""
        path, method = scope["path"], scope["method"]
        if (asked := _asked(path)) is not None:
            _allow(method, "POST")
            return await self._infer(caller, *asked, headers, receive), asked[0]
        parts = path.strip("/").split("/")
        if caller is not None:
            caller.spend(0)  # those above spend their rows, too
        match parts:
            case ["v1", "releases", *rest] if len(rest) < 2:
                return await self._releases(scope, caller, rest, headers, receive), ""
            case ["v2", "repository", *rest]:
                _allow(method, "POST")
                service = self._service
                assert caller is not None
                service.check_read(caller)
                service.read(len(await self._body(headers, receive)))
                return self._repository(caller, rest), ""
            case _:
                if parts != ["v2"] and caller is not None:  # before it is shown whether there is such a model
                    of_model = parts[:2] == ["v2", "models"] and parts[2:] not in ([], ["stats"])
                    version = parts[4] if of_model and parts[3:4] == ["versions"] and len(parts) > 4 else ""
                    self._service.check_read(caller, parts[2] if of_model else "", version)
                answer = self._described(caller, parts)
                _allow(method, "GET")
                return answer, ""

    async def _releases(self, scope: Scope, caller: Caller | None, rest: Sequence[str], headers: Headers, receive: Receive) -> Answer:
        service, method = self._service, scope["method"]
        assert caller is not None
        if method == "POST" and not rest:
            right, body = "deploy", b""
            try:
                body = await self._body(headers, receive)
                wanted, right = releases.read(service, body)
                made = await releases.asked(service, caller, wanted, right)
            except Exception as error:
                service.note(caller, right, str(getattr(error, "code", type(error).__name__)), address=_address(scope))
                raise
            finally:
                service.read(len(body))
            return 202, (JSON, (b"location", f"/v1/releases/{made['id']}".encode())), oip.encode(made)
        _allow(method, *(("GET",) if rest else ("GET", "POST")))
        service.check_read(caller)
        found = await releases.shown(service, caller, rest[0]) if rest else await releases.listed(service, caller)
        return 200, (JSON,), oip.encode(found)

    def _described(self, caller: Caller | None, parts: Sequence[str]) -> Answer:
        """Returns what a path describes. Raises NotThere, NotReady."""
        service = self._service
        found: Mapping[str, Any]
        status = 200
        match parts:
            case ["v2"]:
                found = {"name": NAME, "version": version_of(), "extensions": EXTENSIONS}
            case ["v2", "health", "live"]:
                found = {"live": True}
            case ["v2", "health", "ready"]:
                found, status = {"ready": service.ready}, 200 if service.ready else 503
            case ["v2", "models", "stats"] if caller is not None:
                found = {"model_stats": [stats(one, service.tally(one)) for one in service.readable(caller)]}
            case ["v2", "models", name, "versions", version, *rest] if caller is not None:
                found, status = self._model(caller, name, version, rest)
            case ["v2", "models", name, *rest] if caller is not None:
                found, status = self._model(caller, name, "", rest)
            case ["openapi.json"] if caller is not None:
                found = document(service.loaded, service.live, [one.name for one in service.readable(caller)])
            case ["v1", "topologies"]:
                live = service.live
                found = {"topologies": [{"name": live.name, "generation": live.generation, "sources": list(live.events)}]}
            case _:
                raise _nothing(parts)
        return status, (JSON,), oip.encode(found)

    def _model(self, caller: Caller, name: str, version: str, rest: Sequence[str]) -> tuple[Mapping[str, Any], int]:
        service = self._service
        model = service.model(caller, name, version)
        match rest:
            case []:
                return metadata(model), 200
            case ["ready"]:
                return {"name": model.name, "ready": service.ready}, 200 if service.ready else 503
            case ["stats"]:
                return {"model_stats": [stats(model, service.tally(model))]}, 200
        raise _nothing(["v2", "models", name, *rest])

    def _repository(self, caller: Caller, parts: Sequence[str]) -> Answer:
        match parts:
            case ["index"]:
                models = self._service.readable(caller)
                index = [{"name": one.name, "version": one.version, "state": "READY", "reason": ""} for one in models]
                return 200, (JSON,), oip.encode(index)
            case ["models", name, "load" | "unload"]:
                raise refused_load(self._service, caller, name)
        raise NotThere(f"there is no /v2/repository/{'/'.join(parts)}; there is index")

    async def _infer(self, caller: Caller | None, name: str, version: str, headers: Headers, receive: Receive) -> Answer:
        service = self._service
        assert caller is not None
        service.check(caller, name, version)
        service.model(caller, name, version)  # before its body is read
        body = await self._body(headers, receive)
        try:
            asked = AskedTensors(service, caller, name, version, headers, body)
            found = service.future()
            asked.ask(found)
            return asked.answer(*await found)
        finally:
            service.read(len(body))

    # -- bodies --------------------------------------------------------------------------------------------------------------

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """Returns the body; its bytes count as kept until `Service.read`. Raises TooLarge, Overloaded, Malformed."""
        service = self._service
        most = service.settings.max_body_bytes
        length = bodies.number(headers, b"content-length") or 0
        if length > most:
            raise TooLarge(f"a body of {length} bytes; at most {most} are read (setting max_body_bytes)")
        kept = 0
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(service.settings.idle_timeout):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Malformed("the connection ended within the body")
                    part, more = message.get("body", b""), message.get("more_body", False)
                    if not service.reading(len(part)):
                        raise Overloaded("too many bytes of requests are being read")
                    kept += len(part)
                    if kept > most:
                        raise TooLarge(f"a body of more than {most} bytes (setting max_body_bytes)")
                    parts.append(part)
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            if packed := bodies.coding(headers):
                body = bodies.unpacked(packed, body, most)
                service.read(kept)
                kept = 0
                if not service.reading(len(body)):
                    raise Overloaded("too many bytes of requests are being read")
                kept = len(body)
        except TimeoutError:
            service.read(kept)
            raise TooLate(f"the body did not come within {service.settings.idle_timeout:g} s (setting idle_timeout)") from None
        except BaseException:
            service.read(kept)
            raise
        return body


class _Waiting:
    """A request that was taken, and waits for its outcome in place of a future."""

    __slots__ = ("_began", "_kept", "_reply", "_rest", "_scope", "_settled", "asked", "caller", "target")
    asked: AskedEvents | AskedTensors

    def __init__(self, rest: Rest, scope: Scope, reply: Reply) -> None:
        self._rest, self._scope, self._reply = rest, scope, reply
        self._began, self._kept, self._settled = time.monotonic(), 0, False
        self.caller: Caller | None = None
        self.target = ""

    def keep(self, body: bytes) -> None:
        """Counts the body as kept until the answer. Raises Overloaded."""
        if not self._rest._service.reading(len(body)):
            raise Overloaded("too many bytes of requests are being read")
        self._kept = len(body)

    def done(self) -> bool:
        return self._settled

    def set_result(self, found: tuple[Live, Outcome]) -> None:
        try:
            answer = self.asked.answer(*found)
        except Exception as error:  # noqa: BLE001  whatever goes wrong is this caller's answer
            answer = self._rest._refused(self._scope, self.caller, error)
        self._end(answer)

    def set_exception(self, error: Exception) -> None:
        self._end(self._rest._refused(self._scope, self.caller, error))

    def _end(self, answer: Answer) -> None:
        self._settled = True
        rest, (status, head, body) = self._rest, answer
        rest._service.read(self._kept)
        rest._count(self.target, status, self._began)
        self._reply(status, (*head, CLOSE) if rest._service.stopping else head, body)


def _asked(path: str) -> tuple[str, str] | None:
    """Returns the model and the version ("": any) that a path has tensors for; None for other paths."""
    match path.strip("/").split("/"):
        case ["v2", "models", name, "versions", version, "infer"]:
            return name, version
        case ["v2", "models", name, "infer"]:
            return name, ""
    return None


def _is_stream(headers: Headers) -> bool:
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower() in _STREAMS


def _authorization(scope: Scope, headers: Headers) -> str | None:
    """Returns the credential in the headers. Several are refused: a proxy before this service may have judged another one."""
    if b"authorization" not in headers:
        return None
    return b", ".join(value for name, value in scope["headers"] if name == b"authorization").decode("latin-1")


def _certificate(scope: Scope) -> bytes | None:
    state = scope.get("state")
    return state.get("certificate") if state else None


def _changes(scope: Scope) -> bool:
    """Whether a release is asked for, which notes its refusals itself: which right it needs is in its body."""
    return scope["method"] == "POST" and str(scope["path"]).strip("/") == "v1/releases"


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


class _Ambiguous(Malformed):
    """Two readers could see the end of the request at two places. httptools refuses such requests by itself, h11 does not."""


class _NotAllowed(CallRefused):
    """The path has no such method."""

    def __init__(self, *allowed: str) -> None:
        super().__init__(f"the method here is {' or '.join(allowed)}", code="method-not-allowed")
        self.allowed = ", ".join(allowed)


def _allow(method: str, *wanted: str) -> None:
    if method not in wanted and not ("GET" in wanted and method == "HEAD"):
        raise _NotAllowed(*wanted)


def _deadline(service: Service, headers: Headers) -> float:
    return service.deadline(bodies.seconds(headers))


def _nothing(parts: Sequence[str]) -> NotThere:
    return NotThere(f"there is no /{'/'.join(parts)} here; /openapi.json describes what is")


def _refusal(error: Exception) -> Answer:
    head = [JSON]
    status = code_of(error).http
    if isinstance(error, Unauthenticated):
        head.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, Overloaded | RateLimited):
        head.append((b"retry-after", b"%d" % max(math.ceil(error.retry_after), 1)))
    if isinstance(error, _NotAllowed):
        status = 405
        head.append((b"allow", error.allowed.encode()))
    if isinstance(error, TooLarge | Overloaded | TooLate | Unauthenticated | _Ambiguous):
        head.append(CLOSE)  # the rest of the body is not read
    if status == 500:
        logger.error("a request failed: %s", type(error).__name__, exc_info=error)
    return status, head, oip.encode(described(error))


def _stopped() -> NotReady:
    return NotReady("the service stops, and the setting drain_timeout is over: send again what has no answer")
