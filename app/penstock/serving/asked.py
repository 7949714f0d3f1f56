"""What the body of a request asks for, and the answer that its outcome becomes: of events, and of tensors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from penstock.access import Caller
from penstock.batch import Failure
from penstock.errors import Forbidden, Malformed
from penstock.serving import bodies, oip
from penstock.serving.bodies import Headers
from penstock.serving.handlers import Receiver, Service
from penstock.serving.targets import Live, Outcome, Scored, failed

__all__ = ["BINARY", "JSON", "LINES", "Answer", "AskedEvents", "AskedTensors", "written"]

Answer = tuple[int, Sequence[tuple[bytes, bytes]], bytes]  # status, headers, and body

JSON: Final = (b"content-type", b"application/json")
LINES: Final = (b"content-type", b"application/x-ndjson")
BINARY: Final = (b"content-type", b"application/octet-stream")
_HEAD: Final = b"inference-header-content-length"


class AskedEvents:
    """Events of a source, `values`, which the caller has spent. Raises CallRefused."""

    __slots__ = ("_caller", "_headers", "_one", "_service", "_size", "_source", "values")

    def __init__(self, service: Service, caller: Caller, source: str, headers: Headers, body: bytes, *, wraps: bool) -> None:
        self._service, self._caller, self._source, self._headers, self._size = service, caller, source, headers, len(body)
        self._one, self.values = bodies.split(body, service.settings.max_batch_rows, wraps=wraps)
        caller.spend(len(self.values))

    def ask(self, answer: Receiver) -> None:
        """Puts the events in line; none are answered in the next turn of the loop. Raises CallRefused.

        Not for a caller that may not send some of them, nor where they are looked up.
        """
        service = self._service
        live, deadline = service.live, service.deadline(bodies.seconds(self._headers))
        events = live.source(self._source)
        if records := bodies.records(events.source.topic, self.values, self._headers):
            service.ask_events(events, records, answer, size=self._size, deadline=deadline)
        else:
            asyncio.get_running_loop().call_soon(answer.set_result, (live, []))

    def answer(self, live: Live, found: Outcome) -> Answer:
        """Raises the failure of an event that was sent alone, Forbidden where the caller may not send it, Malformed for what is no JSON."""
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, list), "events are answered by a list"
        alone = found[0] if self._one else b""
        if isinstance(alone, Failure):  # noted as what it is refused with
            if alone.error.where == "access":
                raise Forbidden(str(alone.error))
            raise Malformed(why) if (why := bodies.no_json(self.values[0])) else alone.error
        self._service.note(self._caller, "score", "ok", generation=live.generation, rows=len(found))
        if self._one:
            return 200, (JSON, *live.about), alone
        bad = sum(type(each) is Failure for each in found)
        return 200, (JSON, *live.about, (b"penstock-failed", b"%d" % bad)), b"[" + b",".join(map(written, found)) + b"]"


class AskedTensors:
    """Tensors for a model, which the caller has spent. Raises CallRefused."""

    __slots__ = ("_caller", "_headers", "_model", "_part", "_request", "_service", "_size", "_version")

    def __init__(self, service: Service, caller: Caller, name: str, version: str, headers: Headers, body: bytes) -> None:
        self._service, self._caller, self._headers, self._size = service, caller, headers, len(body)
        self._model = service.model(caller, name, version)
        self._request = oip.read(body, bodies.number(headers, _HEAD), service.settings.max_batch_rows)
        self._part = self._model.fit(self._request)
        caller.spend(self._part.rows)
        service.refuses(caller, self._part)
        self._version = version or service.pinned(caller, self._model)

    def ask(self, answer: Receiver) -> None:
        """Puts the tensors in line. Raises CallRefused."""
        deadline = self._service.deadline(bodies.seconds(self._headers))
        self._service.ask_model(self._model, self._part, answer, size=self._size, deadline=deadline, version=self._version)

    def answer(self, live: Live, found: Outcome) -> Answer:
        """Raises the failure of the first row that failed."""
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, Scored), "tensors are answered by tensors"
        if found.failures:
            raise found.failures[0].error
        request, name = self._request, self._model.name
        self._service.note(self._caller, "score", "ok", model=name, generation=live.generation, rows=self._part.rows, request=request.id)
        answering = live.model(name)
        datatypes = {tensor.name: oip.DATATYPES[tensor.dtype] for tensor in answering.outputs}
        wanted = [oip.Wanted(one.name, request.binary) for one in answering.outputs] if request.outputs is None else request.outputs
        made, head = oip.write(
            {"model_name": name, "model_version": answering.version},
            request.id,
            [(one, datatypes[one.name], found.outputs[one.name]) for one in wanted],
            live.parameters,
        )
        if head is None:
            return 200, (JSON, *live.about), made
        return 200, (BINARY, (_HEAD, b"%d" % head), *live.about), made


def written(one: bytes | Failure) -> bytes:
    """Returns the answer of one event among those of others."""
    return failed(one) if type(one) is Failure else one  # type: ignore[return-value]  # a subclass of neither exists
