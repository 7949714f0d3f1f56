"""The Open Inference Protocol v2 over gRPC: messages in and out around the same handlers as HTTP.

A request with `raw_input_contents` is answered with `raw_output_contents`, one with typed contents with typed contents. A deadline of the
client is that of the request. Generation, model versions and variant are parameters of an answer.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import grpc
from grpc import aio

from penstock.access import Caller
from penstock.access.tls import ServerTls
from penstock.errors import Malformed, Overloaded, PenstockError, RateLimited, SettingsError
from penstock.serving import oip
from penstock.serving.codes import code_of, described
from penstock.serving.describe import metadata, refused_load, stats, version_of
from penstock.serving.handlers import EXTENSIONS, NAME, Service
from penstock.serving.messages import METHODS, SERVICE, message
from penstock.serving.targets import Scored

__all__ = ["calling"]

logger = logging.getLogger(__name__)

OPEN: Final = ("/ServerLive", "/ServerReady", "/ServerMetadata")  # methods that need no credential
STREAMS: Final = 1024  # requests of one connection at a time

Handler = Callable[[Any, Any], Awaitable[Any]]


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
        interceptors=[] if service.gate.path is None else [_First(service)],
        maximum_concurrent_rpcs=settings.max_connections,
    )
    door = _Door(service)
    made = {name: _method(name, getattr(door, name)) for name in METHODS}
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


def _method(name: str, handler: Handler) -> Any:
    request, response = message(f"{name}Request"), message(f"{name}Response")
    return grpc.unary_unary_rpc_method_handler(handler, request.FromString, response.SerializeToString)


class _First(aio.ServerInterceptor):  # type: ignore[misc]  # the library has no types
    """Refuses a request with a bad key or token by its metadata, before its message is received: 100 of 8 MiB would take 1 GiB.

    A request without a key or token is judged by the client's certificate, which is seen later, and which TLS has checked by then.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        authorization = _authorization(details.invocation_metadata)
        if details.method.endswith(OPEN) or (authorization is None and self._service.settings.serve_cafile is not None):
            return await continuation(details)
        try:
            await self._service.gate.admitted(authorization, None)
        except PenstockError as error:
            code, message = getattr(grpc.StatusCode, code_of(error).grpc), described(error)["error"]
            self._service.metrics.requests.labels("grpc", "", code.name).inc()

            async def refuse(requests: Any, context: Any) -> None:
                await context.abort(code, message)

            return grpc.stream_unary_rpc_method_handler(refuse)  # a stream's messages are received when they are asked for
        return await continuation(details)


def _authorization(metadata: Any) -> str | None:
    """Returns the key or token; several are joined, and then no credential."""
    found = [value for name, value in metadata or () if name == "authorization"]
    return ", ".join(found) if found else None


class _Door:
    """The methods of the protocol, by their names there."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._response: Any = message("ModelInferResponse")
        self._parameter: Any = message("InferParameter")
        cells = service.metrics.request_seconds.labels("grpc")
        self._observe = cells.observe
        self._count = service.metrics.requests

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802  as the protocol names it
        began = time.monotonic()
        name, known = request.model_name, ""
        service = self._service
        caller = None
        try:
            caller = await self._admitted(context)
            service.check(caller, name, request.model_version)
            size = request.ByteSize()
            model = service.live.model(name, request.model_version)
            known = name
            given, raw = _read(request)
            left = context.time_remaining()
            part = model.fit(given)
            caller.spend(part.rows)
            service.refuses(caller, part)
            version = request.model_version or service.pinned(caller, model)
            answer = service.infer(model, part, size=size, deadline=service.deadline(left), version=version)
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
        except Exception as error:  # noqa: BLE001  whatever goes wrong is this caller's answer
            service.note(caller, "score", str(getattr(error, "code", "failed")), model=known, address=context.peer())
            await self._refuse(context, error, known, began)
        else:
            self._count.labels("grpc", known, "OK").inc()
            self._observe(time.monotonic() - began)
            return response

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return message("ServerLiveResponse")(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return message("ServerReadyResponse")(ready=self._service.ready)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return message("ServerMetadataResponse")(name=NAME, version=version_of(), extensions=EXTENSIONS)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        async with self._answering(context):
            self._service.live.model(request.name, request.version)
        return message("ModelReadyResponse")(ready=self._service.ready)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        async with self._answering(context):
            found = metadata(self._service.live.model(request.name, request.version))
        return message("ModelMetadataResponse")(**found)

    async def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802
        service = self._service
        async with self._answering(context):
            live = service.live
            models = [live.model(request.name, request.version)] if request.name else [*live.models.values()]
            found = [stats(one, service.tally(one)) for one in models]
        for one in found:
            del one["batch_stats"], one["memory_usage"]
        return message("ModelStatisticsResponse")(model_stats=found)

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        async with self._answering(context):
            models = self._service.live.models.values()
        index = [{"name": one.name, "version": one.version, "state": "READY"} for one in models]
        return message("RepositoryIndexResponse")(models=index)

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        async with self._answering(context):
            raise refused_load(self._service, request.model_name)

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

    @contextlib.asynccontextmanager
    async def _answering(self, context: Any) -> AsyncIterator[None]:
        try:
            caller = await self._admitted(context)
            caller.check("read", topology=self._service.name)
            yield
        except Exception as error:  # noqa: BLE001  as above
            await self._refuse(context, error, "", time.monotonic())

    async def _refuse(self, context: Any, error: Exception, target: str, began: float) -> None:
        code = code_of(error).grpc
        if code == "INTERNAL":
            logger.error("a request failed: %s", type(error).__name__, exc_info=error)
        self._count.labels("grpc", target, code).inc()
        self._observe(time.monotonic() - began)
        trailing: tuple[tuple[str, str], ...] = ()
        if isinstance(error, Overloaded | RateLimited):
            trailing = (("grpc-retry-pushback-ms", str(int(error.retry_after * 1000))),)
        await context.abort(getattr(grpc.StatusCode, code), described(error)["error"], trailing)


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
