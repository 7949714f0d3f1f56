"""A small server of the Open Inference Protocol v2, over REST and gRPC, that keeps every rule, but for the faults that a test gives it.

It shares no code with the checks but for the messages of gRPC. Its model gives back each of its tensors, one of each datatype.
"""

from __future__ import annotations

import contextlib
import json
import math
import ssl
import struct
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import grpc

from penstock.serving.messages import METHODS, SERVICE, message
from tests.kafka.certificates import Certificate

CODES = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q",
    "FP16": "e", "FP32": "f", "FP64": "d", "BYTES": "",
}  # fmt: skip
CONTENTS = {
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"), **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "BOOL": "bool_contents", "INT64": "int64_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}  # fmt: skip
NAME = "every"
DECLARED: list[dict[str, Any]] = [
    {"name": f"x{datatype.lower()}", "datatype": datatype, "shape": [-1, 2]} for datatype in CODES if datatype != "FP16"
]
HALF: list[dict[str, Any]] = [{"name": "h", "datatype": "FP16", "shape": [-1, 2]}]  # JSON has no form of it
NOT_FOUND, INVALID = (404, grpc.StatusCode.NOT_FOUND), (400, grpc.StatusCode.INVALID_ARGUMENT)

Tensors = dict[str, tuple[str, list[int], list[Any]]]  # datatype, shape and values by name


class Refused(Exception):
    """The codes of HTTP and gRPC, and a text."""


class Started(NamedTuple):
    url: str
    grpc: str


class Server:
    """What both protocols do; `faults` are the names of what it does wrong."""

    def __init__(self, faults: Collection[str] = ()) -> None:
        self.faults = frozenset(faults)
        self.count = 0
        self.declared = HALF if "half" in self.faults else DECLARED

    def name(self, name: str, version: str = "") -> None:
        if name != NAME and "answers-for-any-model" not in self.faults:
            raise Refused(NOT_FOUND, f"there is no model {name}")
        if version not in ("", "1"):
            raise Refused(NOT_FOUND, f"there is no version {version}")

    def infer(self, given: Tensors, outputs: Sequence[str]) -> Tensors:
        expected = {one["name"]: one for one in self.declared}
        if given.keys() != expected.keys() and not (given.keys() > expected.keys() and "takes-more-inputs" in self.faults):
            raise Refused(INVALID, f"inputs {sorted(given)} and not {sorted(expected)}")
        for name, (datatype, shape, values) in given.items():
            if name not in expected:
                continue
            if datatype != expected[name]["datatype"] and "takes-any-datatype" not in self.faults:
                raise Refused(INVALID, f"{name} is {datatype}")
            if len(shape) != 2 or shape[1] != 2 or shape[0] < 0:
                raise Refused(INVALID, f"{name} has the shape {shape}")
            if len(values) != math.prod(shape) and "takes-short-data" not in self.faults:
                raise Refused(INVALID, f"{name} has {len(values)} values for the shape {shape}")
        if strange := set(outputs) - expected.keys():
            raise Refused(INVALID, f"no outputs {sorted(strange)}")
        self.count += 1
        chosen = [*expected] if not outputs or "gives-all-outputs" in self.faults else outputs
        found = {name: given[name] for name in chosen}
        if "rounds" in self.faults:
            found = {
                name: (kind, shape, [float(round(one)) for one in values] if kind == "FP64" else values)
                for name, (kind, shape, values) in found.items()
            }
        if "wrong-output-shape" in self.faults:
            found = {name: (kind, [len(values)], values) for name, (kind, _, values) in found.items()}
        return found


def pack(datatype: str, values: Sequence[Any]) -> bytes:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(one)) + one for one in (text.encode() for text in values))
    return struct.pack(f"<{len(values)}{CODES[datatype]}", *values)


def unpack(datatype: str, shape: Sequence[int], data: bytes) -> list[Any]:
    if datatype != "BYTES":
        count = math.prod(shape)
        if len(data) != count * struct.calcsize(CODES[datatype]):
            raise Refused(INVALID, f"{len(data)} bytes for the shape {list(shape)}")
        return [*struct.unpack(f"<{count}{CODES[datatype]}", data)]
    found, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        if at + 4 + length > len(data):
            raise Refused(INVALID, "a text beyond its bytes")
        found.append(data[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return found


def flat(data: Any) -> list[Any]:
    return [one for part in data for one in flat(part)] if isinstance(data, list) else [data]


# -- REST --------------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    server: Any
    protocol_version = "HTTP/1.1"

    @property
    def did(self) -> Server:
        return self.server.did  # type: ignore[no-any-return]

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""

    def do_GET(self) -> None:
        self.answer(b"")

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def answer(self, body: bytes) -> None:
        headers: dict[str, str] = {}
        try:
            status, found = 200, self.found(self.path.removeprefix("/v2").strip("/").split("/"), body, headers)
        except Refused as error:
            (status, _), text = error.args
            found = {"error": text} if "plain-errors" not in self.did.faults else {"detail": text}
            status = 500 if "internal-errors" in self.did.faults else status
        written = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(written)))
        self.end_headers()
        self.wfile.write(written)

    def found(self, path: list[str], body: bytes, headers: dict[str, str]) -> Any:
        match path:
            case [""]:
                return {"name": "right", "version": "1", "extensions": ["binary_tensor_data", "model_repository", "statistics"]}
            case ["health", kind]:
                return {kind: True}
            case ["repository", "index"]:
                return [{"name": NAME, "version": "1", "state": "READY", "reason": ""}]
            case ["models", name, *rest]:
                version = rest[1] if rest[:1] == ["versions"] else ""
                self.did.name(name, version)
                return self.of_model(name, rest[2:] if version else rest, body, headers)
        raise Refused(NOT_FOUND, "nothing is here")

    def of_model(self, name: str, rest: list[str], body: bytes, headers: dict[str, str]) -> Any:
        match rest:
            case []:
                return {"name": name, "versions": ["1"], "platform": "none", "inputs": self.did.declared, "outputs": self.did.declared}
            case ["ready"]:
                return {"name": name, "ready": True}
            case ["stats"]:
                return {"model_stats": [{"name": name, "version": "1", "inference_count": self.did.count}]}
            case ["infer"]:
                return self.inferred(name, body, headers)
        raise Refused(NOT_FOUND, "nothing is here")

    def inferred(self, name: str, body: bytes, headers: dict[str, str]) -> Any:
        length = self.headers.get("Inference-Header-Content-Length")
        if length is not None and (not length.isdecimal() or int(length) > len(body)):
            if "trusts-lengths" not in self.did.faults:
                raise Refused(INVALID, f"the length {length}")
            length = str(json.JSONDecoder().raw_decode(body.decode("latin-1"))[1])
        head, packed = (body, b"") if length is None else (body[: int(length)], body[int(length) :])
        try:
            request = json.loads(head)
        except ValueError as error:
            raise Refused(INVALID, f"no JSON: {error}") from None
        if not isinstance(request, dict) or not isinstance(request.get("inputs"), list):
            raise Refused(INVALID, "no inputs")
        given: Tensors = {}
        for one in request["inputs"]:
            if not isinstance(one, dict):
                raise Refused(INVALID, "an input is no object")
            size = one.get("parameters", {}).get("binary_data_size")
            if size is None and one["datatype"] == "FP16":
                raise Refused(INVALID, "FP16 is bytes")
            if size is None:
                values = flat(one["data"]) if "flat-only" not in self.did.faults else one["data"]
                if any(isinstance(value, list) for value in values):
                    raise Refused(INVALID, "nested data")
            else:
                values = unpack(one["datatype"], one["shape"], packed[:size])
                packed = packed[size:]
            given[one["name"]] = one["datatype"], one["shape"], values
        if packed:
            raise Refused(INVALID, "bytes that belong to nothing")
        asked = request.get("outputs", [])
        found = self.did.infer(given, [one["name"] for one in asked])
        every = request.get("parameters", {}).get("binary_data_output", False)
        chosen = (
            {one["name"] for one in asked if one.get("parameters", {}).get("binary_data", every)}
            if asked
            else set(found)
            if every
            else set()
        )
        return self.written(name, request, found, chosen, headers)

    def written(self, name: str, request: Mapping[str, Any], found: Tensors, chosen: set[str], headers: dict[str, str]) -> Any:
        outputs, pieces = [], []
        for output, (datatype, shape, values) in found.items():
            one: dict[str, Any] = {"name": output, "datatype": datatype, "shape": shape}
            if output in chosen:
                pieces.append(pack(datatype, values))
                one["parameters"] = {"binary_data_size": len(pieces[-1]) + ("miscounts" in self.did.faults)}
            else:
                one["data"] = values if datatype != "BOOL" or "bool-as-number" not in self.did.faults else [int(value) for value in values]
            outputs.append(one)
        answer = {"model_name": name, "model_version": "1", "outputs": outputs}
        if "id" in request and "drops-id" not in self.did.faults:
            answer["id"] = request["id"]
        if not pieces:
            return answer
        head = json.dumps(answer).encode()
        headers |= {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
        return b"".join([head, *pieces])


# -- gRPC --------------------------------------------------------------------------------------------------------------


class Calls(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio ships no types
    def __init__(self, did: Server) -> None:
        self.did = did

    def service(self, details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        if details.method != f"/{SERVICE}/{method}" or method not in METHODS:
            return None

        def call(request: Any, context: Any) -> Any:
            try:
                return message(f"{method}Response")(**getattr(self, method)(request))
            except Refused as error:
                (_, code), text = error.args
                context.abort(grpc.StatusCode.UNKNOWN if "internal-errors" in self.did.faults else code, text)

        return grpc.unary_unary_rpc_method_handler(call, message(f"{method}Request").FromString, lambda one: one.SerializeToString())

    def ServerLive(self, _: Any) -> Any:  # noqa: N802
        return {"live": True}

    def ServerReady(self, _: Any) -> Any:  # noqa: N802
        return {"ready": True}

    def ServerMetadata(self, _: Any) -> Any:  # noqa: N802
        return {"name": "right", "version": "1", "extensions": ["model_repository", "statistics"]}

    def RepositoryIndex(self, _: Any) -> Any:  # noqa: N802
        return {"models": [{"name": NAME, "version": "1", "state": "READY"}]}

    def ModelReady(self, request: Any) -> Any:  # noqa: N802
        self.did.name(request.name, request.version)
        return {"ready": True}

    def ModelMetadata(self, request: Any) -> Any:  # noqa: N802
        self.did.name(request.name, request.version)
        return {"name": request.name, "versions": ["1"], "platform": "none", "inputs": self.did.declared, "outputs": self.did.declared}

    def ModelStatistics(self, request: Any) -> Any:  # noqa: N802
        self.did.name(request.name, request.version)
        return {"model_stats": [{"name": NAME, "version": "1", "inference_count": self.did.count}]}

    def ModelInfer(self, request: Any) -> Any:  # noqa: N802
        self.did.name(request.model_name, request.model_version)
        given: Tensors = {}
        raw = list(request.raw_input_contents)
        if raw and (any(one.HasField("contents") for one in request.inputs) or len(raw) != len(request.inputs)):
            raise Refused(INVALID, "raw and typed contents")
        for at, one in enumerate(request.inputs):
            shape = list(one.shape)
            if raw:
                values = unpack(one.datatype, shape, raw[at] if "raw-big-endian" not in self.did.faults else raw[at][::-1])
            else:
                values = list(getattr(one.contents, CONTENTS.get(one.datatype, "bytes_contents")))
                values = [value.decode() for value in values] if one.datatype == "BYTES" else values
            given[one.name] = one.datatype, shape, values
        found = self.did.infer(given, [one.name for one in request.outputs])
        answer = message("ModelInferResponse")(
            model_name=NAME, model_version="1", id=request.id if "drops-id" not in self.did.faults else ""
        )
        for name, (datatype, shape, values) in found.items():
            answer.outputs.add(name=name, datatype=datatype, shape=shape)
            answer.raw_output_contents.append(pack(datatype, values))
        return {
            "model_name": NAME,
            "model_version": "1",
            "id": answer.id,
            "outputs": answer.outputs,
            "raw_output_contents": answer.raw_output_contents,
        }


@contextlib.contextmanager
def started(faults: Collection[str] = (), certificate: Certificate | None = None) -> Iterator[Started]:
    """Yields the places of a server, on free ports of this host; with a certificate, over TLS."""
    did = Server(faults)
    rest = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    rest.did = did  # type: ignore[attr-defined]
    thread = threading.Thread(target=rest.serve_forever, kwargs={"poll_interval": 0.02})
    calls = grpc.server(ThreadPoolExecutor(2), handlers=[Calls(did)])
    if certificate is None:
        port = calls.add_insecure_port("127.0.0.1:0")
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.chain)
        rest.socket = context.wrap_socket(rest.socket, server_side=True)
        pair = certificate.key.read_bytes(), certificate.certificate.read_bytes()
        port = calls.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    thread.start()
    calls.start()
    try:
        yield Started(f"http{'s' if certificate else ''}://127.0.0.1:{rest.server_port}", f"127.0.0.1:{port}")
    finally:
        rest.shutdown()
        rest.server_close()
        thread.join()
        calls.stop(None).wait()
