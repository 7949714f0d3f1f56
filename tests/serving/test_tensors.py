"""The Open Inference Protocol v2 over HTTP and gRPC: a topology and each of its nodes as models, by the protocol's own words."""

from __future__ import annotations

import json
import struct
from typing import Any

import grpc
import numpy as np
import pytest

import penstock
from penstock.serving import oip
from penstock.serving.messages import SERVICE, message
from tests.serving.conftest import ROOT, Service

FIELDS = {
    "flight_id": "BYTES", "hour": "INT32", "minute": "INT32", "sched_arr_time": "INT32", "dep_delay": "FP32", "carrier": "BYTES",
    "origin": "BYTES", "dest": "BYTES", "distance": "INT32",
}  # fmt: skip


def inputs(flights: list[dict[str, Any]], *, axes: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    return [
        {"name": name, "datatype": kind, "shape": [len(flights), *axes], "data": [one[name] for one in flights]}
        for name, kind in FIELDS.items()
    ]


@pytest.fixture(scope="module")
def known(flights: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in flights if one["dep_delay"] is not None][:50]


@pytest.fixture(scope="module")
def scores(known: list[dict[str, Any]]) -> list[float]:
    with penstock.open(ROOT / "topologies/flights.yaml", models=ROOT / "models", schemas=ROOT / "schemas") as plan:
        return [one["score"] for one in plan.score(known)]  # type: ignore[index]  # none of them fails


def call(service: Service, method: str, **fields: Any) -> Any:
    with grpc.insecure_channel(service.grpc) as channel:
        unary = channel.unary_unary(
            f"/{SERVICE}/{method}", request_serializer=message(f"{method}Request").SerializeToString,
            response_deserializer=message(f"{method}Response").FromString,
        )  # fmt: skip
        return unary(message(f"{method}Request")(**fields), timeout=30)


def test_the_topology_is_a_model(service: Service, known: list[dict[str, Any]], scores: list[float]) -> None:
    """Its tensors are the fields that are read, and those of the sink; the id is echoed."""
    body = {"id": "q-7", "inputs": inputs(known), "outputs": [{"name": "score"}]}
    answer = service.post("/v2/models/flights/infer", json.dumps(body)).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("flights", "0", "q-7")
    assert answer["parameters"]["generation"] == 0
    (score,) = answer["outputs"]
    assert (score["name"], score["datatype"], score["shape"]) == ("score", "FP32", [len(known)])
    assert score["data"] == pytest.approx(scores, abs=1e-6)


@pytest.mark.parametrize("nested", [True, False])
def test_a_column_may_be_a_matrix_of_one_column(service: Service, known: list[dict[str, Any]], scores: list[float], nested: bool) -> None:
    """[N, 1] is [N], flat or nested as its shape."""
    given = inputs(known[:3], axes=(1,))
    for one in given if nested else ():
        one["data"] = [[value] for value in one["data"]]
    answer = service.post("/v2/models/flights/infer", json.dumps({"inputs": given})).json()
    found = next(one["data"] for one in answer["outputs"] if one["name"] == "score")
    assert found == pytest.approx(scores[:3], abs=1e-6)


def test_null_in_json_is_null(service: Service, known: list[dict[str, Any]]) -> None:
    """A field that may be null takes it; one that may not refuses the row."""
    given = inputs(known[:2])
    next(one for one in given if one["name"] == "dep_delay")["data"][1] = None
    assert service.post("/v2/models/flights/infer", json.dumps({"inputs": given})).status_code == 200
    next(one for one in given if one["name"] == "hour")["data"][1] = None
    refused = service.post("/v2/models/flights/infer", json.dumps({"inputs": given}))
    assert refused.status_code == 422
    assert "hour" in refused.json()["error"]


def test_a_node_runs_alone(service: Service) -> None:
    """Its tensors are its model's own, its version the registered one."""
    x = np.linspace(0, 1, 8, dtype=np.float32).reshape(4, 2)
    body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [4, 2], "data": x.tolist()}]}
    answer = service.post("/v2/models/flights.stack/versions/1/infer", json.dumps(body)).json()
    found = {one["name"]: one for one in answer["outputs"]}
    assert (answer["model_version"], found["label"]["shape"], found["probabilities"]["shape"]) == ("1", [4], [4, 2])
    sums = np.array(found["probabilities"]["data"]).reshape(4, 2).sum(axis=1)
    assert sums == pytest.approx(1)


def test_binary_tensors_in_and_out(service: Service, known: list[dict[str, Any]], scores: list[float]) -> None:
    """Bytes behind the JSON, both ways."""
    arrays = {name: array_of(known, name, kind) for name, kind in FIELDS.items()}
    parts = {name: oip.to_bytes(array) for name, array in arrays.items()}
    head = json.dumps({
        "parameters": {"binary_data_output": True},
        "inputs": [
            {"name": name, "datatype": FIELDS[name], "shape": [len(known)], "parameters": {"binary_data_size": len(part)}}
            for name, part in parts.items()
        ],
    }).encode()  # fmt: skip
    answer = service.post(
        "/v2/models/flights/infer", b"".join((head, *parts.values())), inference_header_content_length=str(len(head))
    )  # fmt: skip
    size = int(answer.headers["inference-header-content-length"])
    described, rest, found = json.loads(answer.content[:size]), answer.content[size:], {}
    for one in described["outputs"]:
        length = one["parameters"]["binary_data_size"]
        found[one["name"]] = oip.from_bytes(one["name"], one["datatype"], tuple(one["shape"]), rest[:length])
        rest = rest[length:]
    assert not rest
    assert found["score"] == pytest.approx(scores, abs=1e-6)
    assert found["carrier"].tolist() == [one["carrier"] for one in known]


def array_of(flights: list[dict[str, Any]], name: str, kind: str) -> Any:
    return np.array([one[name] for one in flights], {"BYTES": object, "INT32": np.int32, "FP32": np.float32}[kind])


@pytest.mark.parametrize("raw", [True, False])
def test_grpc_answers_in_the_form_that_it_was_asked(service: Service, known: list[dict[str, Any]], scores: list[float], raw: bool) -> None:
    """Raw contents for raw contents, typed ones for typed ones."""
    request: dict[str, Any] = {"model_name": "flights", "id": "g", "inputs": []}
    fields = {"INT32": "int_contents", "FP32": "fp32_contents", "BYTES": "bytes_contents"}
    for name, kind in FIELDS.items():
        array = array_of(known, name, kind)
        tensor: dict[str, Any] = {"name": name, "datatype": kind, "shape": [len(known)]}
        if raw:
            request.setdefault("raw_input_contents", []).append(oip.to_bytes(array))
        else:
            values = array.tolist()
            tensor["contents"] = {fields[kind]: [one.encode() for one in values] if kind == "BYTES" else values}
        request["inputs"].append(tensor)
    answer = call(service, "ModelInfer", **request)
    assert (answer.model_name, answer.model_version, answer.id) == ("flights", "0", "g")
    assert answer.parameters["variant"].string_param == "live"
    at = [one.name for one in answer.outputs].index("score")
    found = np.frombuffer(answer.raw_output_contents[at], np.float32) if raw else np.array(answer.outputs[at].contents.fp32_contents)
    assert found == pytest.approx(scores, abs=1e-6)


def test_both_doors_describe_the_same(service: Service) -> None:
    """Server, models, versions, statistics, index."""
    over_http = service.get("/v2/models/flights.trees").json()
    over_grpc = call(service, "ModelMetadata", name="flights.trees")
    assert over_http["versions"] == [*over_grpc.versions] == ["1"]
    assert over_http["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 124]}]
    assert [(one.name, one.datatype, [*one.shape]) for one in over_grpc.inputs] == [("X", "FP32", [-1, 124])]
    assert service.get("/v2").json()["name"] == call(service, "ServerMetadata").name == "penstock"
    assert service.get("/v2/health/live").json() == {"live": True}
    assert service.get("/v2/health/ready").json() == {"ready": True}
    assert service.get("/v2/models/flights/ready").json()["ready"]
    assert call(service, "ServerReady").ready
    index = {one["name"]: one for one in service.post("/v2/repository/index").json()}
    assert index.keys() == {one.name for one in call(service, "RepositoryIndex").models}
    assert index.keys() == {"flights", *(f"flights.{node}" for node in ("features", "logistic", "trees", "stack"))}
    assert {one["state"] for one in index.values()} == {"READY"}


def test_statistics_count_requests_and_rows(service: Service) -> None:
    """Requests, rows and runs of one model."""
    before = service.get("/v2/models/flights.logistic/stats").json()["model_stats"][0]
    body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [3, 124], "data": [0.0] * 372}]}
    assert service.post("/v2/models/flights.logistic/infer", json.dumps(body)).status_code == 200
    after = call(service, "ModelStatistics", name="flights.logistic").model_stats[0]
    assert after.inference_count - before["inference_count"] == 3
    assert after.execution_count - before["execution_count"] == 1
    assert after.inference_stats.success.count - before["inference_stats"]["success"]["count"] == 1


def test_grpc_requests_at_once_run_together_and_each_gets_its_own_answer(service: Service) -> None:
    before = call(service, "ModelStatistics", name="flights.logistic").model_stats[0]
    rows = np.random.default_rng(1).normal(size=(200, 124)).astype(np.float32)
    tensor = {"name": "X", "datatype": "FP32", "shape": [1, 124]}
    requests = [
        message("ModelInferRequest")(model_name="flights.logistic", inputs=[tensor], raw_input_contents=[row.tobytes()]) for row in rows
    ]
    with grpc.insecure_channel(service.grpc) as channel:
        infer = channel.unary_unary(
            f"/{SERVICE}/ModelInfer", request_serializer=message("ModelInferRequest").SerializeToString,
            response_deserializer=message("ModelInferResponse").FromString,
        )  # fmt: skip
        answers = [answer.result() for answer in [infer.future(request, timeout=30) for request in requests]]
    together = message("ModelInferRequest")(
        model_name="flights.logistic", inputs=[{**tensor, "shape": [200, 124]}], raw_input_contents=[rows.tobytes()]
    )
    with grpc.insecure_channel(service.grpc) as channel:
        whole = channel.unary_unary(f"/{SERVICE}/ModelInfer", response_deserializer=message("ModelInferResponse").FromString)(
            together.SerializeToString(), timeout=30
        )
    for at, name in enumerate(one.name for one in whole.outputs):
        kind = {"FP32": np.float32, "INT64": np.int64}[whole.outputs[at].datatype]
        parts = [np.frombuffer(answer.raw_output_contents[at], kind) for answer in answers]
        assert np.concatenate(parts) == pytest.approx(np.frombuffer(whole.raw_output_contents[at], kind), abs=1e-6), name
    after = call(service, "ModelStatistics", name="flights.logistic").model_stats[0]
    assert after.inference_count - before.inference_count == 400
    assert after.execution_count - before.execution_count < 201  # not one by one; how many together depends on the machine


def test_models_are_loaded_by_releases_alone(service: Service) -> None:
    """The refusal says how."""
    refused = service.post("/v2/repository/models/flights.trees/load")
    assert refused.status_code == 400
    assert "penstock deploy flights trees=MODEL@VERSION" in refused.json()["error"]
    with pytest.raises(grpc.RpcError) as error:
        call(service, "RepositoryModelUnload", model_name="flights.trees")
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION


X = {"name": "X", "datatype": "FP32", "shape": [1, 2], "data": [0.1, 0.2]}


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        ({**X, "name": "Y"}, "no input 'Y'"),
        ({**X, "datatype": "FP64"}, "is FP64, but flights.stack takes FP32"),
        ({**X, "datatype": "FP31"}, "'FP31' is no datatype"),
        ({**X, "shape": [1, 3], "data": [1, 2, 3]}, "has the shape [1, 3], but [-1, 2] is read"),
        ({**X, "shape": [2]}, "but [-1, 2] is read"),
        ({**X, "shape": [-1, 2]}, "no axis is below 0"),
        ({**X, "shape": [0, 2], "data": []}, "has no rows"),
        ({**X, "shape": []}, "the first axis is the rows"),
        ({**X, "shape": [2, 1 << 62]}, "has 2 values"),
        ({**X, "data": [0.1]}, "has 1 values, but the shape [1, 2]"),
        ({**X, "data": [[0.1, 0.2], [0.3]]}, "not nested as its shape"),
        ({**X, "data": ["a", "b"]}, "does not fit FP32"),
        ({**X, "data": [True, False]}, "does not fit FP32"),
        ({**X, "data": [1e39, 0]}, "does not fit FP32"),
        ({**X, "data": [None, 0.2]}, "a null, which no model reads"),
        ({**X, "data": 7}, "is a list of values"),
        ({"name": "X", "datatype": "FP32", "shape": [1, 2]}, "has no data"),
        ({**X, "parameters": {"binary_data_size": 8}}, "Inference-Header-Content-Length is missing"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(service: Service, tensor: dict[str, Any], says: str) -> None:
    """Names, types, shapes and values are checked before a model sees them."""
    answer = service.post("/v2/models/flights.stack/infer", json.dumps({"inputs": [tensor]}))
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["error"]


@pytest.mark.parametrize(
    ("length", "size", "data", "says"),
    [
        ("x", 8, b"\0" * 8, "is no number"),
        ("9999", 8, b"\0" * 8, "but the body has"),
        (None, -1, b"\0" * 8, "binary_data_size is -1"),
        (None, 9, b"\0" * 8, "binary_data_size is 9"),
        (None, 7, b"\0" * 7, "has 7 bytes, but FP32 of the shape [1, 2] has 8"),
        (None, 8, b"\0" * 9, "1 bytes are left"),
    ],
)
def test_malformed_binary_headers_are_refused(service: Service, length: str | None, size: int, data: bytes, says: str) -> None:
    """Sizes that do not agree with the body or the shape."""
    tensor = {"name": "X", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]}).encode()
    answer = service.post("/v2/models/flights.stack/infer", head + data, inference_header_content_length=length or str(len(head)))
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["error"]


def test_text_with_wrong_lengths_is_refused(service: Service, known: list[dict[str, Any]]) -> None:
    """A length beyond the data, of a tensor of text."""
    given = inputs(known[:1])
    data = struct.pack("<I", 1 << 30) + b"UA"
    given[0] = {"name": "flight_id", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": given}).encode()
    answer = service.post("/v2/models/flights/infer", head + data, inference_header_content_length=str(len(head)))
    assert (answer.status_code, "reaches beyond" in answer.json()["error"]) == (400, True)


def test_an_unknown_version_is_not_answered(service: Service) -> None:
    """Another version than the live one comes by a release."""
    answer = service.post("/v2/models/flights.stack/versions/2/infer", json.dumps({"inputs": [X]}))
    assert (answer.status_code, "has the version 1 now" in answer.json()["error"]) == (404, True)
    with pytest.raises(grpc.RpcError) as error:
        call(service, "ModelMetadata", name="flights.stack", version="2")
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_deadline_that_cannot_be_met_is_refused_at_once(service: Service) -> None:
    """Of a caller that waits no longer, over both doors."""
    answer = service.post("/v2/models/flights.stack/infer", json.dumps({"inputs": [X]}), x_request_timeout="0")
    assert (answer.status_code, answer.json()["code"]) == (504, "too-late")
    assert service.post("/v2/models/flights.stack/infer", json.dumps({"inputs": [X]}), x_request_timeout="no").status_code == 400


def test_more_rows_than_a_batch_may_have_are_refused(service: Service) -> None:
    """The setting max_batch_rows; nothing of the request runs."""
    body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [2049, 2], "data": [0.0] * 4098}]}
    answer = service.post("/v2/models/flights.stack/infer", json.dumps(body))
    assert (answer.status_code, "at most 2048" in answer.json()["error"]) == (413, True)


@pytest.mark.parametrize("axes", [[0, 2**70], [0, 2**63 - 1], [0, 2**40, 2**40]], ids=range(3))
@pytest.mark.parametrize("datatype", ["FP32", "UINT64", "BYTES"])
def test_axes_that_no_array_has_are_refused(service: Service, axes: list[int], datatype: str) -> None:
    """An empty tensor has as many values as any shape with a zero says."""
    one = {"name": "X", "datatype": datatype, "shape": [1, *axes]}
    flat = json.dumps({"inputs": [{**one, "data": []}]}).encode()
    nested = json.dumps({"inputs": [{**one, "data": [[]]}]}).encode()
    head = json.dumps({"inputs": [{**one, "parameters": {"binary_data_size": 0}}]}).encode()
    path = "/v2/models/flights.stack/infer"
    found = [
        service.post(path, flat), service.post(path, nested), service.post(path, head, Inference_Header_Content_Length=str(len(head))),
    ]  # fmt: skip
    assert [one.status_code for one in found] == [400] * 3, [one.text for one in found]
    if max(axes) < 2**63:
        with pytest.raises(grpc.RpcError) as refused:
            call(service, "ModelInfer", model_name="flights.stack", inputs=[{**one}], raw_input_contents=[b""])
        assert refused.value.code().name == "INVALID_ARGUMENT"


def test_an_output_is_asked_for_once(service: Service) -> None:
    """Each would be written: a request of 8 MB could have an answer of gigabytes. None named are all, over both doors."""
    tensor = {"name": "X", "datatype": "FP32", "shape": [1, 2]}
    ask = {"inputs": [{**tensor, "data": [0.1, 0.2]}]}
    path, twice = "/v2/models/flights.stack/infer", [{"name": "label"}] * 2
    refused = service.post(path, json.dumps({**ask, "outputs": twice}))
    assert (refused.status_code, "twice" in refused.json()["error"]) == (400, True)
    assert len(service.post(path, json.dumps({**ask, "outputs": []})).json()["outputs"]) == 2
    typed = {"model_name": "flights.stack", "inputs": [{**tensor, "contents": {"fp32_contents": [0.1, 0.2]}}]}
    with pytest.raises(grpc.RpcError) as error:
        call(service, "ModelInfer", **typed, outputs=twice)
    assert error.value.code().name == "INVALID_ARGUMENT"
    assert len(call(service, "ModelInfer", **typed).outputs) == 2


@pytest.mark.parametrize("value", ["false", 0, None])
def test_a_parameter_that_is_true_or_false_is_no_text(service: Service, value: Any) -> None:
    """A text "false" counted as true."""
    ask: dict[str, Any] = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 2], "data": [0.1, 0.2]}]}
    for more in ({"parameters": {"binary_data_output": value}}, {"outputs": [{"name": "label", "parameters": {"binary_data": value}}]}):
        assert service.post("/v2/models/flights.stack/infer", json.dumps({**ask, **more})).status_code == 400
