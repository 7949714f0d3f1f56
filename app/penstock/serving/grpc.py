"""The Open Inference Protocol v2 over gRPC: messages in and out around the same handlers as HTTP.

A request with `raw_input_contents` is answered with `raw_output_contents`, one with typed contents with typed contents. A deadline of the
client is that of the request. Generation, model versions and variant are parameters of an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping
from typing import Any, Final, NamedTuple

import grpc
from grpc import aio

from penstock.access import Caller
from penstock.access.tls import ServerTls
from penstock.errors import Malformed, NotReady, NotThere, Overloaded, PenstockError, RateLimited, SettingsError, TooLate
from penstock.serving import oip
from penstock.serving.codes import code_of, described
from penstock.serving.describe import metadata, refused_load, stats, version_of
from penstock.serving.handlers import EXTENSIONS, NAME, Service
from penstock.serving.messages import METHODS, SERVICE, message
from penstock.serving.targets import Scored

__all__ = ["calling"]

logger = logging.getLogger(__name__)

OPEN: Final = ("ServerLive", "ServerReady", "ServerMetadata")  # methods that need no credential
INFER: Final = "ModelInfer"
RECEIVED: Final = 16  # messages that are received at a time
OWN: Final = 12  # of one caller: the others have places left when it sends slowly, or nothing
STREAMS: Final = 1024  # requests of one connection at a time

Handler = Callable[[Any, Any, Caller | None], Awaitable[Any]]


@contextlib.asynccontextmanager
async def calling(address: str, service: Service, *, shared: bool = False, tls: ServerTls | None = None) -> AsyncIterator[int]:
    """Serves gRPC on `HOST:PORT` while the block runs, with TLS where given, and yields the port.

    At the end, requests under way are answered first. Other processes may bind a `shared` port, too. Raises SettingsError for an address
    that cannot be bound.
    """
    settings = service.settings
    server = aio.server(
        options=[
            ("grpc.so_reuseport", int(shared)),
            ("grpc.max_receive_message_length", settings.max_body_bytes),
            ("grpc.max_concurrent_streams", STREAMS),
            ("grpc.http2.bdp_probe", 0),  # what is not asked for yet is kept for 64 KiB per stream, and not for up to 16 MiB
            ("grpc.max_connection_idle_ms", int(settings.idle_timeout * 10_000)),
            ("grpc.keepalive_time_ms", int(settings.idle_timeout * 1000)),
        ],
        maximum_concurrent_rpcs=settings.max_connections,
    )
    door = _Door(service)
    made = {name: grpc.stream_unary_rpc_method_handler(door.asked(name)) for name in METHODS}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, made),))
    try:
        place = f"0.0.0.0{address}" if address.startswith(":") else address  # noqa: S104  as asked
        port = server.add_insecure_port(place) if tls is None else server.add_secure_port(place, _credentials(tls))
    except RuntimeError as error:
        raise SettingsError(f"grpc: cannot listen on {address}; choose another address, or free this one") from error
    await server.start()
    logger.info("serving %s on grpc://%s", service.name, f"{address.rpartition(':')[0]}:{port}")
    try:
        yield port
    finally:
        await server.stop(settings.drain_timeout)


def _credentials(tls: ServerTls) -> Any:
    """Returns credentials that ask for the current files at each handshake. With authorities, every client needs a certificate:
    gRPC knows no other way to ask for one.
    """

    def current() -> Any:
        key, chain, authorities = tls.pem()
        return grpc.ssl_server_certificate_configuration([(key, chain)], authorities)

    return grpc.dynamic_ssl_server_credentials(current(), current, require_client_authentication=tls.pem().authorities is not None)


def _authorization(metadata: Any) -> str | None:
    """Returns the key or token; several are joined, and then no credential."""
    found = [value for name, value in metadata or () if name == "authorization"]
    return ", ".join(found) if found else None


class _Refusal(NamedTuple):
    """What a caller gets instead of an answer."""

    code: Any
    message: str
    trailing: tuple[tuple[str, str], ...]


class _Door:
    """The methods of the protocol, by their names there: each returns its answer, or raises.

    For the library they are methods of streams, since it receives the message of any other before the method is called: 100 messages of
    8 MB from strangers took 1.1 GB. So a caller is admitted first; RECEIVED messages are received at a time, and what they hold until their
    answers is bounded as over HTTP.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._response: Any = message("ModelInferResponse")
        self._parameter: Any = message("InferParameter")
        self._observe = service.metrics.request_seconds.labels("grpc").observe
        self._count = service.metrics.requests
        self._open = 0  # requests without an answer
        self._receiving = asyncio.Semaphore(RECEIVED)
        self._own = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(OWN))  # by the name of a caller

    def asked(self, name: str) -> Callable[[Any, Any], Awaitable[bytes | None]]:
        """Returns what the library calls for a method."""
        handler: Handler = getattr(self, name)
        read, target = message(f"{name}Request").FromString, _target(name)

        async def answer(_: Any, context: Any) -> bytes | None:
            found = await self._answered(name, handler, read, target, context)
            if isinstance(found, _Refusal):
                # The library keeps the error that this raises, and with it all frames between here and there, until the collector runs:
                # none of them may have the message.
                await context.abort(*found)
                return None
            return found

        return answer

    async def _answered(
        self, name: str, handler: Handler, read: Callable[[bytes], Any], target: Callable[[Any], str], context: Any
    ) -> bytes | _Refusal:
        """Admits the caller, receives the message, and returns the answer."""
        began, size, caller, asked = time.monotonic(), 0, None, ""
        self._open += 1
        try:
            if name not in OPEN:
                caller = await self._admitted(context)
                if name != INFER:  # which spends its rows, too; which model is in the message
                    caller.spend(0)
                    self._service.check_read(caller)
            # Requests that need no credential hold nothing, and are not waited for: strangers that send none would be in the callers' way.
            data = b"" if name in OPEN else await self._received(caller, context)
            size = self._kept(data)
            request = read(data)
            asked = target(request)
            response = bytes((await handler(request, context, caller)).SerializeToString())
        except Exception as error:  # noqa: BLE001  whatever goes wrong is this caller's answer
            return self._refusal(name, caller, error, asked if asked in self._known() else "", began)
        else:
            if name != INFER:  # which is noted with its rows
                self._service.note(caller, "read", "ok")
            self._count.labels("grpc", asked, "OK").inc()
            self._observe(time.monotonic() - began)
            return response
        finally:
            self._open -= 1
            self._service.read(size)

    async def _received(self, caller: Caller | None, context: Any) -> Any:
        own = self._own["" if caller is None else caller.name]
        async with own, self._receiving, asyncio.timeout(self._service.settings.idle_timeout):
            return await context.read()

    def _known(self) -> Container[str]:
        return self._service.live.models if self._service.ready else ()

    def _kept(self, data: Any) -> int:
        """Counts the bytes of a message as kept until `Service.read`. Raises Malformed, Overloaded."""
        if not isinstance(data, bytes):  # aio.EOF
            raise Malformed("the request has no message")
        if not self._service.reading(len(data)):
            raise Overloaded("too many bytes of requests are being read")
        return len(data)

    async def ModelInfer(self, request: Any, context: Any, caller: Caller | None) -> Any:  # noqa: N802  as the protocol names it
        service, name = self._service, request.model_name
        assert caller is not None
        service.check(caller, name, request.model_version)
        size = request.ByteSize()
        model = service.model(caller, name, request.model_version)
        given, raw = _read(request)
        left = context.time_remaining()
        part = model.fit(given)
        caller.spend(part.rows)
        service.refuses(caller, part)
        version = request.model_version or service.pinned(caller, model)
        # The library hands over one request per turn of the loop: beside others, nearly every run would be of one.
        gather = self._open > 1 or service.crowded
        answer = service.future()
        service.ask_model(model, part, answer, size=size, deadline=service.deadline(left), version=version, gather=gather)
        live, found = await answer
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, Scored)
        if found.failures:
            raise found.failures[0].error
        service.note(caller, "score", "ok", model=name, generation=live.generation, rows=part.rows, request=request.id)
        answering = live.model(name)
        response = self._response(model_name=name, model_version=answering.version, id=request.id)
        _set(response.parameters, live.parameters)
        datatypes = {tensor.name: oip.DATATYPES[tensor.dtype] for tensor in answering.outputs}
        for one in [tensor.name for tensor in answering.outputs] if given.outputs is None else [one.name for one in given.outputs]:
            array, datatype = found.outputs[one], datatypes[one]
            made = response.outputs.add(name=one, datatype=datatype, shape=array.shape)
            if raw:
                response.raw_output_contents.append(oip.to_bytes(array))
            else:
                oip.into_contents(made.contents, datatype, array)
        return response

    async def ServerLive(self, request: Any, context: Any, caller: Caller | None) -> Any:  # noqa: N802
        return message("ServerLiveResponse")(live=True)

    async def ServerReady(self, request: Any, context: Any, caller: Caller | None) -> Any:  # noqa: N802
        return message("ServerReadyResponse")(ready=self._service.ready)

    async def ServerMetadata(self, request: Any, context: Any, caller: Caller | None) -> Any:  # noqa: N802
        return message("ServerMetadataResponse")(name=NAME, version=version_of(), extensions=EXTENSIONS)

    async def ModelReady(self, request: Any, context: Any, caller: Caller | None) -> Any:  # noqa: N802
        assert caller is not None
        self._service.check_read(caller, request.name, request.version)
        try:
            self._service.model(caller, request.name, request.version)
        except (NotThere, NotReady):  # clients of the protocol ask whether there is a model
            return message("ModelReadyResponse")(ready=False)
        return message("ModelReadyResponse")(ready=self._service.ready)

    async def ModelMetadata(self, request: Any, context: Any, caller: Caller | None) -> Any:  # noqa: N802
        assert caller is not None
        self._service.check_read(caller, request.name, request.version)
        return message("ModelMetadataResponse")(**metadata(self._service.model(caller, request.name, request.version)))

    async def ModelStatistics(self, request: Any, context: Any, caller: Caller | None) -> Any:  # noqa: N802
        service = self._service
        assert caller is not None
        service.check_read(caller, request.name, request.version)
        models = [service.model(caller, request.name, request.version)] if request.name else service.readable(caller)
        found = [stats(one, service.tally(one)) for one in models]
        for one in found:
            del one["batch_stats"], one["memory_usage"]
        return message("ModelStatisticsResponse")(model_stats=found)

    async def RepositoryIndex(self, request: Any, context: Any, caller: Caller | None) -> Any:  # noqa: N802
        assert caller is not None
        models = self._service.readable(caller)
        index = [{"name": one.name, "version": one.version, "state": "READY"} for one in models]
        return message("RepositoryIndexResponse")(models=index)

    async def RepositoryModelLoad(self, request: Any, context: Any, caller: Caller | None) -> Any:  # noqa: N802
        assert caller is not None
        raise refused_load(self._service, caller, request.model_name)

    RepositoryModelUnload = RepositoryModelLoad

    async def _admitted(self, context: Any) -> Caller:
        """Returns who asks. Raises Unauthenticated, TransportUnavailable."""
        gate = self._service.gate
        if gate.path is None:
            return await gate.admitted(None, None)
        authorization = _authorization(context.invocation_metadata())
        shown = context.auth_context().get("x509_pem_cert")
        certificate = ssl.PEM_cert_to_DER_cert(shown[0].decode()) if shown else None
        return await gate.admitted(authorization, certificate)

    def _refusal(self, name: str, caller: Caller | None, error: Exception, target: str, began: float) -> _Refusal:
        error = self._service.counted(caller, error)
        self._service.note(caller, "score" if name == INFER else "read", str(getattr(error, "code", "failed")), model=target)
        if isinstance(error, TimeoutError):
            error = TooLate("the message did not come in time (setting idle_timeout)")
        elif type(error).__name__ == "DecodeError" and not isinstance(error, PenstockError):  # of the library of Protobuf
            error = Malformed("the message cannot be read")
        code = code_of(error).grpc
        if code == "INTERNAL":
            logger.error("a request failed: %s", type(error).__name__, exc_info=error)
        self._count.labels("grpc", target, code).inc()
        self._observe(time.monotonic() - began)
        trailing: tuple[tuple[str, str], ...] = ()
        if isinstance(error, Overloaded | RateLimited):
            trailing = (("grpc-retry-pushback-ms", str(int(error.retry_after * 1000))),)
        return _Refusal(getattr(grpc.StatusCode, code), described(error)["error"], trailing)


def _target(name: str) -> Callable[[Any], str]:
    """Returns what finds the model in a request, for the metrics."""
    return (lambda request: str(request.model_name)) if name == INFER else (lambda request: "")


def _read(request: Any) -> tuple[oip.Request, bool]:
    """Returns the request, and whether its tensors are raw. Raises Malformed."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise Malformed(f"there are {len(request.inputs)} inputs, but {len(raw)} raw_input_contents")
    inputs: dict[str, oip.Tensor] = {}
    for at, one in enumerate(request.inputs):
        name, datatype = one.name, one.datatype
        if name in inputs:
            raise Malformed(f"input {name!r} is given twice")
        if raw and one.HasField("contents"):
            raise Malformed(f"input {name!r} has contents beside raw_input_contents")
        inputs[name] = oip.raw(name, datatype, one.shape, raw[at]) if raw else oip.from_contents(name, datatype, one.shape, one.contents)
    outputs = [oip.Wanted(one.name) for one in request.outputs] if request.outputs else None
    return oip.Request(inputs, outputs, request.id), bool(raw)


def _set(parameters: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, str):
            parameters[name].string_param = value
        else:
            parameters[name].int64_param = value
