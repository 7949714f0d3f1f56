"""The checks over gRPC."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, ClassVar, Final, NamedTuple, Self

from penstock.conformance.model import NO_INPUTS, NOWHERE, Model, bad_requests, declared, misfit, unreadable, wanted
from penstock.conformance.rules import Findings, Protocol, State
from penstock.conformance.tensors import Tensor, difference, from_bytes, made, to_bytes
from penstock.serving.messages import SERVICE, message

__all__ = ["Grpc"]

TIMEOUT: Final = 20.0  # seconds for one answer
_LIMIT: Final = 64 * 1024**2  # bytes of an answer that are read
_SHOWN: Final = 160  # characters of an answer in a finding
_ID: Final = "conformance-42"
_CONTENTS: Final[Mapping[str, str]] = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


class Reply(NamedTuple):
    """The message of a call, or the name of its error's code, with its text."""

    message: Any
    code: str = "OK"
    text: str = ""

    @property
    def ok(self) -> bool:
        return self.code == "OK"

    def __str__(self) -> str:
        text = str(self.message) if self.ok else self.text
        return f"{self.code} {' '.join(text.split())[:_SHOWN]}".strip()


class Grpc:
    """A server at HOST:PORT; what it does is noted in `findings`. Use as a context manager."""

    protocol: ClassVar[Protocol] = "grpc"

    def __init__(
        self, target: str, findings: Findings, headers: Mapping[str, str], authorities: bytes | None = None, *, tls: bool = False
    ) -> None:
        import grpc  # the extra; its absence is reported by `check`

        options = [("grpc.max_receive_message_length", _LIMIT), ("grpc.enable_http_proxy", 0)]
        if tls:
            self._channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(authorities), options)
        else:
            self._channel = grpc.insecure_channel(target, options)
        self._failed: Any = grpc.RpcError
        self.findings = findings
        self._metadata = [(name.lower(), value) for name, value in headers.items()]
        self.extensions: frozenset[str] = frozenset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._channel.close()

    # -- the wire ------------------------------------------------------------------------------------------------------

    def call(self, method: str, **fields: Any) -> Reply:
        """Calls a method with the fields of its request. Never raises for what the server does."""
        return self._send(method, message(f"{method}Request")(**fields))

    def _send(self, method: str, request: Any) -> Reply:
        stub = self._channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=lambda one: one.SerializeToString(),
            response_deserializer=message(f"{method}Response").FromString,
        )
        try:
            return Reply(stub(request, timeout=TIMEOUT, metadata=self._metadata))
        except self._failed as error:
            return Reply(None, error.code().name, error.details() or "")

    def _infer(self, model: Model, tensors: Sequence[Tensor], *, raw: bool | None = None, **more: Any) -> Reply:
        """Sends a request; `raw` None takes the typed contents where each datatype has them."""
        raw = any(one.datatype not in _CONTENTS for one in tensors) if raw is None else raw
        return self._send("ModelInfer", _request(model.name, tensors, raw=raw, **more))

    # -- the server ----------------------------------------------------------------------------------------------------

    def server(self) -> None:
        """Checks what is not about a model. Sets `extensions`."""
        self.alive()
        ready = self.call("ServerReady")
        self._note("server-ready", ready.ok and ready.message.ready, ready)
        found = self.call("ServerMetadata")
        self._note("server-metadata", found.ok and bool(found.message.name) and bool(found.message.version), found)
        self.extensions = frozenset(found.message.extensions) if found.ok else frozenset()

    def alive(self) -> None:
        """Checks that the server is live."""
        live = self.call("ServerLive")
        self._note("server-live", live.ok and live.message.live, live)

    def index(self) -> list[str]:
        """Returns the names of the models that the repository's index calls ready; none without an index."""
        found = self.call("RepositoryIndex")
        well = found.ok and all(one.name and one.state for one in found.message.models)
        self._extension("repository-index", "model_repository", "", well, found)
        return list(dict.fromkeys(one.name for one in found.message.models if one.state in ("READY", ""))) if found.ok else []

    def unknown(self) -> None:
        """Checks requests for a model that is not there."""
        nowhere = Model(NOWHERE, (), (), (), (made("x", "FP32", (1,)),))
        self._refused("unknown-model", "", self.call("ModelMetadata", name=NOWHERE), "NOT_FOUND")
        self._refused("unknown-model", "", self._infer(nowhere, nowhere.request), "NOT_FOUND")
        ready = self.call("ModelReady", name=NOWHERE)
        self._note("unknown-model", not ready.ok or not ready.message.ready, "ModelReady is true")

    # -- one model -----------------------------------------------------------------------------------------------------

    def model(self, name: str, request: Sequence[Tensor] | None) -> Model | None:
        """Checks readiness and metadata. Returns the model with a valid request, `request` where it is given; None without metadata."""
        ready = self.call("ModelReady", name=name)
        self._note("model-ready", ready.ok and ready.message.ready, ready, name)
        found = self.call("ModelMetadata", name=name)
        try:
            if not found.ok:
                raise ValueError(str(found))
            said = found.message
            if said.name != name:
                raise ValueError(f"the name is {said.name!r}")
            listed = {
                kind: [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in getattr(said, kind)]
                for kind in ("inputs", "outputs")
            }
            inputs, outputs = declared(listed, "inputs"), declared(listed, "outputs")
            self._note("model-metadata", bool(said.platform), "the platform is empty", name)
        except ValueError as error:
            self._note("model-metadata", False, str(error), name)
            return None
        try:
            tensors = tuple(request or wanted(inputs))
        except ValueError as error:
            self._note("infer", False, error, name)
            return None
        if not tensors:
            self._note("infer", False, NO_INPUTS, name)
            return None
        return Model(name, tuple(said.versions), inputs, outputs, tensors, guessed=not request)

    def answers(self, model: Model) -> list[Tensor] | None:
        """Checks valid requests. Returns the answer; None when the server does not give one."""
        typed = all(one.datatype in _CONTENTS for one in model.request)
        found = self._infer(model, model.request, id=_ID)
        if not self._valid(model, found):
            return None
        try:
            expected = list(_tensors(found.message, model.name))
        except ValueError as error:
            self._note("infer-answer", False, error, model.name)
            return None
        self._note("infer-answer", True, "", model.name)
        self._note("infer-contents" if typed else "infer-raw", True, "", model.name)
        self._note("id-returned", found.message.id == _ID, f"the id {found.message.id!r} for {_ID!r}", model.name)
        if model.outputs:
            wrong = misfit(model, expected)
            self._note("infer-metadata", not wrong, wrong, model.name)
        if typed:
            self._same("infer-raw", model, self._infer(model, model.request, raw=True), expected)
        for one in model.outputs:
            found = self._infer(model, model.request, outputs=(one.name,))
            self._same("outputs-chosen", model, found, [tensor for tensor in expected if tensor.name == one.name])
        for version in model.versions:
            found = self._infer(model, model.request, version=version)
            served = found.ok and found.message.model_version == version
            if self._note("versions-served", served, f"{version}: {found}", model.name) and len(model.versions) == 1:
                self._same("infer-same", model, found, expected)
        self._statistics(model)
        return expected

    def refusals(self, model: Model) -> None:
        """Checks requests that are errors."""
        for bad in bad_requests(model.request):
            raw = any(tensor.datatype not in _CONTENTS for tensor in bad.tensors)
            self._refused(bad.rule, model.name, self._infer(model, bad.tensors))
            if not raw and bad.rule in ("too-few-values", "too-many-values"):
                self._refused(bad.rule, model.name, self._infer(model, bad.tensors, raw=True))
        self._refused("unknown-output", model.name, self._infer(model, model.request, outputs=(NOWHERE,)))
        self._refused("unknown-version", model.name, self._infer(model, model.request, version="7f3a"), "NOT_FOUND")
        if all(one.datatype in _CONTENTS for one in model.request):
            both = _request(model.name, model.request, raw=False)
            both.raw_input_contents.extend(to_bytes(one) for one in model.request)
            self._refused("raw-and-contents", model.name, self._send("ModelInfer", both))

    def _statistics(self, model: Model) -> None:
        before = self.call("ModelStatistics", name=model.name)
        self._infer(model, model.request)
        after = self.call("ModelStatistics", name=model.name)
        first, second = (
            sum(stats.inference_count for stats in one.message.model_stats if stats.name == model.name) if one.ok else 0
            for one in (before, after)
        )
        self._extension("statistics", "statistics", model.name, second > first, f"inferences {first} and then {second}: {after}")

    # -- notes ---------------------------------------------------------------------------------------------------------

    def _note(self, rule: str, held: bool, seen: object, model: str = "") -> bool:
        return self.findings.note(rule, self.protocol, model, held, str(seen))

    def _valid(self, model: Model, found: Reply) -> bool:
        """Notes whether a valid request was answered. One that was made from metadata alone may be refused, which says nothing."""
        unknown = model.guessed and found.code in ("INVALID_ARGUMENT", "FAILED_PRECONDITION")
        state: State = "skipped" if unknown else "failed"
        seen = f"it refuses tensors made from its metadata, give a valid request with --input: {found}" if unknown else str(found)
        return self.findings.note("infer", self.protocol, model.name, found.ok, seen, state=state)

    def _extension(self, rule: str, extension: str, model: str, held: bool, seen: object) -> bool:
        state: State = "failed" if extension in self.extensions else "absent"
        return self.findings.note(rule, self.protocol, model, held, str(seen), state=state)

    def _same(self, rule: str, model: Model, found: Reply, expected: Sequence[Tensor]) -> None:
        try:
            if not found.ok:
                raise ValueError(str(found))
            wrong = difference(list(_tensors(found.message, model.name)), expected)
        except ValueError as error:
            wrong = str(error)
        self._note(rule, not wrong, wrong, model.name)

    def _refused(self, rule: str, model: str, found: Reply, code: str = "INVALID_ARGUMENT") -> None:
        if self._note(rule, not found.ok, "it was answered", model):
            self._note("error-code", found.code == code, f"{rule}: {found} and not {code}", model)


def _request(name: str, tensors: Sequence[Tensor], *, raw: bool, id: str = "", version: str = "", outputs: Sequence[str] = ()) -> Any:
    request = message("ModelInferRequest")(model_name=name, model_version=version, id=id)
    for tensor in tensors:
        one = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=list(tensor.shape))
        if raw:
            request.raw_input_contents.append(to_bytes(tensor))
        else:
            values = [text.encode() for text in tensor.values] if tensor.datatype == "BYTES" else tensor.values
            getattr(one.contents, _CONTENTS[tensor.datatype]).extend(values)
    for output in outputs:
        request.outputs.add(name=output)
    return request


def _tensors(answer: Any, model: str) -> Iterator[Tensor]:
    """Yields the outputs of an answer. Raises ValueError with what is wrong."""
    if answer.model_name != model:
        raise ValueError(f"model_name is {answer.model_name!r}")
    raw = list(answer.raw_output_contents)
    if raw and len(raw) != len(answer.outputs):
        raise ValueError(f"{len(raw)} raw_output_contents for {len(answer.outputs)} outputs")
    for at, one in enumerate(answer.outputs):
        shape = tuple(one.shape)
        if raw:
            yield from_bytes(one.name, one.datatype, shape, raw[at])
            continue
        values = list(getattr(one.contents, _CONTENTS.get(one.datatype, "bytes_contents")))
        if one.datatype == "BYTES":
            values = [value.decode(errors="replace") for value in values]
        tensor = Tensor(one.name, one.datatype, shape, tuple(values))
        if wrong := unreadable(tensor):
            raise ValueError(wrong)
        yield tensor
