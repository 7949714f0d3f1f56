"""The checks over REST."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple
from urllib.parse import SplitResult, quote

from penstock.conformance.model import NO_INPUTS, NOWHERE, Model, bad_requests, declared, misfit, unreadable, wanted
from penstock.conformance.rules import Findings, Protocol, State
from penstock.conformance.tensors import Tensor, difference, flattened, from_bytes, made, nested, to_bytes
from penstock.deadline import cut_after

__all__ = ["Rest"]

TIMEOUT: Final = 20.0  # seconds for one answer
_LIMIT: Final = 64 * 1024**2  # bytes of an answer that are read
_LENGTH: Final = "Inference-Header-Content-Length"
_ID: Final = "conformance-42"
_SHOWN: Final = 160  # characters of an answer in a finding
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_DIGITS: Final = 20  # of a count
BINARY: Final = "binary_tensor_data"


class Answer(NamedTuple):
    """`lost` is why there is no answer; its status is 0 then."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    lost: str = ""

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def json(self) -> Any:
        """The body; None for one that is not JSON, or has half of a pair of surrogates, which no other protocol can repeat."""
        try:
            found = json.loads(self.body)
            if _SURROGATE.search(self.body):
                json.dumps(found, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            return None
        return found

    def __str__(self) -> str:
        text = self.body[:_SHOWN].decode(errors="replace").strip()
        return self.lost or f"{self.status} {text}".strip()


class Rest:
    """A server below a URL; what it does is noted in `findings`. `headers` are sent with every request."""

    protocol: ClassVar[Protocol] = "rest"

    def __init__(self, url: SplitResult, findings: Findings, headers: Mapping[str, str], tls: ssl.SSLContext | None = None) -> None:
        self._url, self.findings, self._headers, self._tls = url, findings, headers, tls
        self.extensions: frozenset[str] = frozenset()
        self.refused = ""  # the index's answer where it was 401 or 403

    # -- the wire ------------------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Sends one request on a new connection. Never raises for what the server does."""
        with contextlib.closing(self._connection()) as connection:
            return self._called(connection, method, path, body, headers)

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT)

    def _called(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        lost = f"no answer: it has not ended within {TIMEOUT:g} s"
        with cut_after(TIMEOUT, connection) as late:
            try:
                given = {"Content-Type": "application/json"} if body is not None else {}
                connection.request(method, f"{self._url.path.rstrip('/')}/v2{path}", body, {**given, **self._headers, **(headers or {})})
                found = connection.getresponse()
                with found:  # otherwise the connection would wait for its end
                    answer = Answer(found.status, {name.lower(): value for name, value in found.getheaders()}, found.read(_LIMIT))
            except (OSError, http.client.HTTPException) as error:
                return Answer(0, {}, b"", lost if late.is_set() else f"no answer: {type(error).__name__} {error}".strip())
        return Answer(0, {}, b"", lost) if late.is_set() else answer  # what has arrived until then may be a part

    def _infer(self, model: Model, request: Mapping[str, Any], version: str = "") -> Answer:
        return self.call("POST", f"{_place(model.name, version)}/infer", json.dumps(request).encode())

    # -- the server ----------------------------------------------------------------------------------------------------

    def server(self) -> None:
        """Checks what is not about a model. Sets `extensions`."""
        for rule, path, key in (("server-live", "/health/live", "live"), ("server-ready", "/health/ready", "ready")):
            found = self.call("GET", path)
            self._note(rule, found.status == 200, found)
            if found.body:
                self._note("health-body", isinstance(found.json, dict) and found.json.get(key, True) is found.ok, found)
        found = self.call("GET", "")
        metadata = found.json if isinstance(found.json, dict) else {}
        extensions = metadata.get("extensions")
        texts = isinstance(extensions, list) and all(isinstance(one, str) for one in extensions)
        named = all(isinstance(metadata.get(key), str) for key in ("name", "version"))
        self._note("server-metadata", found.ok and named and texts, found)
        self._typed(found, "")
        self.extensions = frozenset(extensions) if isinstance(extensions, list) and texts else frozenset()

    def index(self) -> list[str]:
        """Returns the names of the models that the repository's index calls ready; none without an index."""
        found = self.call("POST", "/repository/index", b"{}")
        self.refused = str(found) if found.status in (401, 403) else ""
        listed = found.json
        well = found.ok and isinstance(listed, list) and all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in listed)
        with_state = well and all(isinstance(one.get("state"), str) for one in listed)
        self._extension("repository-index", "model_repository", "", with_state, found)
        return list(dict.fromkeys(one["name"] for one in listed if one.get("state", "READY") in ("READY", ""))) if well else []

    def unknown(self) -> None:
        """Checks requests for a model that is not there."""
        request = json.dumps({"inputs": [_written(made("x", "FP32", (1,)))]}).encode()
        self._refused("unknown-model", "", self.call("GET", f"/models/{NOWHERE}"), 404)
        self._refused("unknown-model", "", self.call("POST", f"/models/{NOWHERE}/infer", request), 404)
        ready = self.call("GET", f"/models/{NOWHERE}/ready")
        self._note("unknown-model", not ready.ok or (isinstance(ready.json, dict) and ready.json.get("ready") is False), ready)

    def alive(self) -> None:
        """Checks that the server has survived the requests."""
        found = self.call("GET", "/health/live")
        self._note("server-live", found.status == 200, found)

    # -- one model -----------------------------------------------------------------------------------------------------

    def model(self, name: str, request: Sequence[Tensor] | None) -> Model | None:
        """Checks readiness and metadata. Returns the model with a valid request, `request` where it is given; None without metadata."""
        ready = self.call("GET", f"{_place(name)}/ready")
        self._note("model-ready", ready.ok and (not isinstance(ready.json, dict) or ready.json.get("ready", True) is True), ready, name)
        found = self.call("GET", _place(name))
        metadata = found.json
        try:
            if not found.ok or not isinstance(metadata, dict):
                raise ValueError(str(found))
            if metadata.get("name") != name:
                raise ValueError(f"the name is {metadata.get('name')!r}")
            inputs, outputs = declared(metadata, "inputs"), declared(metadata, "outputs")
            versions = metadata.get("versions", [])
            if not isinstance(versions, list) or not all(isinstance(one, str) for one in versions):
                raise ValueError(f"the versions are {versions!r}, and not a list of text")
            self._note("model-metadata", isinstance(metadata.get("platform"), str), f"the platform is {metadata.get('platform')!r}", name)
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
        return Model(name, tuple(versions), inputs, outputs, tensors, guessed=not request)

    def answers(self, model: Model) -> list[Tensor] | None:
        """Checks valid requests. Returns the answer; None when the server does not give one."""
        if any(tensor.datatype in ("FP16", "BF16") for tensor in model.request):
            return self._binary_alone(model)
        flat = {"id": _ID, "inputs": [_written(tensor) for tensor in model.request]}
        found = self._infer(model, flat)
        if not self._valid(model, found):
            return None
        expected = self._read("infer-answer", model, found)
        if expected is None:
            return None
        self._typed(found, model.name)
        self._note("id-returned", found.json.get("id") == _ID, f"the id {found.json.get('id')!r} for {_ID!r}", model.name)
        if model.outputs:
            wrong = misfit(model, expected)
            self._note("infer-metadata", not wrong, wrong, model.name)
        deep = {"inputs": [{**_written(tensor), "data": nested(tensor)} for tensor in model.request]}
        self._same("infer-nested", model, self._infer(model, deep), expected)
        empty = {"parameters": {}, "inputs": [{**_written(one), "parameters": {}} for one in model.request]}
        if model.outputs:
            empty["outputs"] = [{"name": one.name, "parameters": {}} for one in model.outputs]
        self._same("parameters-allowed", model, self._infer(model, empty), expected)
        for one in model.outputs:
            found = self._infer(model, {**flat, "outputs": [{"name": one.name}]})
            self._same("outputs-chosen", model, found, [tensor for tensor in expected if tensor.name == one.name])
        for version in model.versions:
            self._version(model, version, flat, expected)
        self._binary(model, expected)
        self._statistics(model, flat)
        return expected

    def refusals(self, model: Model) -> None:
        """Checks requests that are errors."""
        name, flat = model.name, {"inputs": [_written(tensor) for tensor in model.request]}
        for bad in bad_requests(model.request):
            self._refused(bad.rule, name, self._infer(model, {"inputs": [_written(tensor) for tensor in bad.tensors]}))
        self._refused("unknown-output", name, self._infer(model, {**flat, "outputs": [{"name": NOWHERE}]}))
        self._refused("unknown-version", name, self._infer(model, flat, "7f3a"), 404)
        self._refused("no-json", name, self.call("POST", f"{_place(name)}/infer", b'{"inputs": ['))
        for body in (b"[]", b"{}", b'{"inputs": {}}', b'{"inputs": [7]}'):
            self._refused("no-object", name, self.call("POST", f"{_place(name)}/infer", body))
        binary = self.findings.found.get((self.protocol, name, "binary-input"))
        if binary is not None and binary.state == "passed":
            self._bad_binary(model)

    def _version(self, model: Model, version: str, request: Mapping[str, Any], expected: Sequence[Tensor]) -> None:
        found = self.call("GET", _place(model.name, version))
        self._note("versions-served", found.ok, found, model.name)
        found = self._infer(model, request, version)
        named = found.json.get("model_version", version) if isinstance(found.json, dict) else None
        if self._note("versions-served", found.ok and named == version, f"{version}: {found}", model.name) and len(model.versions) == 1:
            self._same("infer-same", model, found, expected)

    def _statistics(self, model: Model, request: Mapping[str, Any]) -> None:
        """On one connection: of a server with several processes on its port, each may count what it answers itself."""
        place, body = _place(model.name), json.dumps(request).encode()
        with contextlib.closing(self._connection()) as connection:
            before = self._called(connection, "GET", f"{place}/stats")
            self._called(connection, "POST", f"{place}/infer", body)
            after = self._called(connection, "GET", f"{place}/stats")
        counts = [_count(one.json, model.name) if one.ok else None for one in (before, after)]
        grew = counts[0] is not None and counts[1] is not None and counts[1] > counts[0]
        self._extension("statistics", "statistics", model.name, grew, f"inferences {counts[0]} and then {counts[1]}: {after}")

    # -- binary tensors ------------------------------------------------------------------------------------------------

    def _sent(self, model: Model, tensors: Sequence[Tensor], packed: int, more: Mapping[str, Any] | None = None) -> Answer:
        """Sends the first `packed` tensors as bytes, and the others in JSON."""
        body, head = _packed(tensors, packed, more or {})
        given = {_LENGTH: str(head), "Content-Type": "application/octet-stream"}
        return self.call("POST", f"{_place(model.name)}/infer", body, given)

    def _binary(self, model: Model, expected: Sequence[Tensor]) -> None:
        found = self._sent(model, model.request, len(model.request))
        if not self._same("binary-input", model, found, expected, extension=BINARY):
            return
        if len(model.request) > 1:
            self._same("binary-mixed", model, self._sent(model, model.request, 1), expected, extension=BINARY)
        flat = {"inputs": [_written(tensor) for tensor in model.request]}
        if expected:
            chosen = {**flat, "outputs": [{"name": one.name, "parameters": {"binary_data": at == 0}} for at, one in enumerate(expected)]}
            self._came_packed("binary-output", model, self._infer(model, chosen), expected, 1)
        every = {**flat, "parameters": {"binary_data_output": True}}
        self._came_packed("binary-data-output", model, self._infer(model, every), expected, len(expected))

    def _binary_alone(self, model: Model) -> list[Tensor] | None:
        """Checks a model with inputs that JSON cannot hold."""
        found = self._sent(model, model.request, len(model.request), {"id": _ID})
        if not self._valid(model, found):
            return None
        self._note("binary-input", True, "", model.name)
        return self._read("infer-answer", model, found)

    def _came_packed(self, rule: str, model: Model, found: Answer, expected: Sequence[Tensor], count: int) -> None:
        packed = [one for one in _outputs(found) if _packed_size(one) is not None]
        if found.ok and len(packed) != count:
            self._extension(rule, BINARY, model.name, False, f"{len(packed)} outputs as bytes, asked for {count}")
            return
        self._same(rule, model, found, expected, extension=BINARY)

    def _bad_binary(self, model: Model) -> None:
        body, head = _packed(model.request, len(model.request), {})
        for length in ("many", "-1", str(len(body) + 1), str(head - 1)):
            found = self.call("POST", f"{_place(model.name)}/infer", body, {_LENGTH: length, "Content-Type": "application/octet-stream"})
            self._refused("binary-length", model.name, found)
        for wrong in (body[:-1], body + b"\0"):
            found = self.call(
                "POST", f"{_place(model.name)}/infer", wrong, {_LENGTH: str(head), "Content-Type": "application/octet-stream"}
            )
            self._refused("binary-size", model.name, found)

    # -- notes ---------------------------------------------------------------------------------------------------------

    def _note(self, rule: str, held: bool, seen: object, model: str = "") -> bool:
        return self.findings.note(rule, self.protocol, model, held, str(seen))

    def _valid(self, model: Model, found: Answer) -> bool:
        """Notes whether a valid request was answered. One that was made from metadata alone may be refused, which says nothing."""
        unknown = model.guessed and found.status in (400, 422)
        state: State = "skipped" if unknown else "failed"
        seen = f"it refuses tensors made from its metadata, give a valid request with --input: {found}" if unknown else str(found)
        return self.findings.note("infer", self.protocol, model.name, found.ok, seen, state=state)

    def _extension(self, rule: str, extension: str, model: str, held: bool, seen: object) -> bool:
        """Notes a rule of an extension: one that fails is absent where the server does not state the extension."""
        state: State = "failed" if extension in self.extensions else "absent"
        return self.findings.note(rule, self.protocol, model, held, str(seen), state=state)

    def _typed(self, found: Answer, model: str) -> None:
        kind = found.headers.get("content-type", "none")
        self._note("json-type", kind.startswith("application/json"), f"the content type is {kind}", model)

    def _read(self, rule: str, model: Model, found: Answer) -> list[Tensor] | None:
        try:
            tensors = list(_tensors(found, model.name))
        except ValueError as error:
            self._note(rule, False, error, model.name)
            return None
        self._note(rule, True, "", model.name)
        return tensors

    def _same(self, rule: str, model: Model, found: Answer, expected: Sequence[Tensor], *, extension: str = "") -> bool:
        """Notes whether the answer has the expected tensors."""
        try:
            if not found.ok:
                raise ValueError(str(found))
            wrong = difference(list(_tensors(found, model.name)), expected)
        except ValueError as error:
            wrong = str(error)
        return (
            self._extension(rule, extension, model.name, not wrong, wrong) if extension else self._note(rule, not wrong, wrong, model.name)
        )

    def _refused(self, rule: str, model: str, found: Answer, code: int = 400) -> None:
        if self._note(rule, found.status >= 400, found, model):
            body = found.json
            self._note("error-body", isinstance(body, dict) and isinstance(body.get("error"), str), f"{rule}: {found}", model)
            self._note("error-code", found.status == code, f"{rule}: {found.status} and not {code}", model)


def _place(name: str, version: str = "") -> str:
    return f"/models/{quote(name, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")


def _written(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "shape": list(tensor.shape), "datatype": tensor.datatype, "data": list(tensor.values)}


def _packed(tensors: Sequence[Tensor], count: int, more: Mapping[str, Any]) -> tuple[bytes, int]:
    """Returns a body whose first `count` tensors are bytes behind its JSON, and the length of the JSON."""
    written, pieces = [], []
    for at, tensor in enumerate(tensors):
        one = _written(tensor)
        if at < count:
            pieces.append(to_bytes(tensor))
            del one["data"]
            one["parameters"] = {"binary_data_size": len(pieces[-1])}
        written.append(one)
    head = json.dumps({**more, "inputs": written}).encode()
    return b"".join([head, *pieces]), len(head)


def _head(found: Answer) -> tuple[Any, bytes]:
    """Returns the JSON of an answer and the bytes behind it. Raises ValueError."""
    length = found.headers.get(_LENGTH.lower())
    if length is None:
        return found.json, b""
    if not length.isascii() or not length.isdecimal() or int(length) > len(found.body):
        raise ValueError(f"{_LENGTH} is {length} and the body has {len(found.body)} bytes")
    return Answer(200, {}, found.body[: int(length)]).json, found.body[int(length) :]


def _outputs(found: Answer) -> list[dict[str, Any]]:
    try:
        head, _ = _head(found)
    except ValueError:
        return []
    listed = head.get("outputs") if isinstance(head, dict) else None
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _packed_size(output: Mapping[str, Any]) -> Any:
    parameters = output.get("parameters")
    return parameters.get("binary_data_size") if isinstance(parameters, dict) else None


def _tensors(found: Answer, model: str) -> Iterator[Tensor]:
    """Yields the outputs of an answer. Raises ValueError with what is wrong."""
    head, rest = _head(found)
    if not isinstance(head, dict) or not isinstance(head.get("outputs"), list):
        raise ValueError(f"the answer has no outputs: {found}")
    if head.get("model_name") != model:
        raise ValueError(f"model_name is {head.get('model_name')!r}")
    for one in head["outputs"]:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str) or not isinstance(one.get("shape"), list):
            raise ValueError("an output without a name or a shape")
        size = _packed_size(one)
        if size is not None:
            if type(size) is not int or not 0 <= size <= len(rest):
                raise ValueError(f"{one['name']}: binary_data_size is {size!r}, and {len(rest)} bytes are left")
            yield from_bytes(one["name"], str(one.get("datatype")), one["shape"], rest[:size])
            rest = rest[size:]
            continue
        if not isinstance(one.get("data"), list):
            raise ValueError(f"{one['name']}: the data are no list")
        tensor = Tensor(one["name"], str(one.get("datatype")), tuple(one["shape"]), tuple(flattened(one["data"])))
        if wrong := unreadable(tensor):
            raise ValueError(wrong)
        yield tensor
    if rest:
        raise ValueError(f"{len(rest)} bytes behind the last output")


def _count(statistics: Any, model: str) -> int | None:
    """Returns how many inferences the statistics of a model count; None when they do not."""
    listed = statistics.get("model_stats") if isinstance(statistics, dict) else None
    listed = listed if isinstance(listed, list) else []
    counts = [one.get("inference_count") for one in listed if isinstance(one, dict) and one.get("name") == model]
    whole = [int(one) for one in counts if isinstance(one, int) or (isinstance(one, str) and one.isdecimal() and len(one) <= _DIGITS)]
    return sum(whole) if whole else None
