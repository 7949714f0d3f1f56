"""The service as others judge it: tritonclient over HTTP and gRPC, and schemathesis by the document that the service publishes."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

import penstock
from tests.serving.conftest import ROOT, Service, served
from tests.serving.test_tensors import FIELDS, array_of

DOORS: Final = {"http": triton_http, "grpc": triton_grpc}
CHECKS: Final = "status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with served("topologies/flights.yaml") as found:
        yield found


@pytest.fixture(scope="module")
def events() -> list[dict[str, Any]]:
    with gzip.open(ROOT / "examples/flights/sample/departures.ndjson.gz", "rt") as lines:
        found = [json.loads(line) for line, _ in zip(lines, range(50), strict=False)]
    return [one for one in found if one["dep_delay"] is not None]


@pytest.fixture(scope="module")
def scores(events: list[dict[str, Any]]) -> list[float]:
    with penstock.open(ROOT / "topologies/flights.yaml", models=ROOT / "models", schemas=ROOT / "schemas") as plan:
        return [one["score"] for one in plan.score(events)]  # type: ignore[index]  # none of them fails


def tensors(door: str, events: list[dict[str, Any]], **how: Any) -> list[Any]:
    made = []
    for name, kind in FIELDS.items():
        tensor = DOORS[door].InferInput(name, [len(events)], kind)
        tensor.set_data_from_numpy(array_of(events, name, kind), **how)
        made.append(tensor)
    return made


@pytest.fixture(params=["http", "grpc"])
def door(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(service: Service, door: str) -> Any:
    return DOORS[door].InferenceServerClient(f"127.0.0.1:{service.ports[door]}")


def test_tritonclient_finds_server_and_models(client: Any, door: str) -> None:
    """Health, metadata, index and statistics."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("flights.trees", "1")
    assert not client.is_model_ready("flights.trees", "7")
    more = {"as_json": True} if door == "grpc" else {}
    assert client.get_server_metadata(**more)["name"] == "penstock"
    assert client.get_model_metadata("flights.trees", **more)["versions"] == ["1"]
    index = client.get_model_repository_index(**more)
    assert "flights" in {one["name"] for one in (index["models"] if door == "grpc" else index)}
    assert client.get_inference_statistics("flights", **more)["model_stats"][0]["name"] == "flights"
    with pytest.raises(InferenceServerException, match="penstock deploy"):
        client.load_model("flights.trees")


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_infers(client: Any, door: str, binary: bool, events: list[dict[str, Any]], scores: list[float]) -> None:
    """Binary and JSON, with an id and chosen outputs."""
    how = {"binary_data": binary} if door == "http" else {}
    wanted = [DOORS[door].InferRequestedOutput("score", **how)]
    answer = client.infer("flights", tensors(door, events, **how), request_id="q", outputs=wanted)
    assert answer.as_numpy("score") == pytest.approx(scores, abs=1e-6)
    assert answer.as_numpy("trees") is None
    everything = client.infer("flights", tensors(door, events, **how))
    assert [one.decode() if isinstance(one, bytes) else one for one in everything.as_numpy("carrier")] == [one["carrier"] for one in events]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_tritonclient_sends_packed_bodies(service: Service, coding: str, events: list[dict[str, Any]], scores: list[float]) -> None:
    client = triton_http.InferenceServerClient(f"127.0.0.1:{service.ports['http']}")
    answer = client.infer("flights", tensors("http", events), request_compression_algorithm=coding)
    assert answer.as_numpy("score") == pytest.approx(scores, abs=1e-6)


def test_tritonclient_reads_refusals(client: Any, door: str) -> None:
    tensor = DOORS[door].InferInput("X", [1, 3], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 3), np.float32))
    with pytest.raises(InferenceServerException, match=r"but \[-1, 2\] is read"):
        client.infer("flights.stack", [tensor])
    with pytest.raises(InferenceServerException, match="no model 'none'"):
        client.infer("none", [tensor])


def test_tritonclient_infers_many_at_once(service: Service, events: list[dict[str, Any]], scores: list[float]) -> None:
    """Over one channel, from one event loop."""

    async def main() -> list[Any]:
        async with triton_grpc_aio.InferenceServerClient(service.grpc) as client:
            answers = await asyncio.gather(*(client.infer("flights", tensors("grpc", [event])) for event in events))
        return [answer.as_numpy("score")[0] for answer in answers]

    assert asyncio.run(main()) == pytest.approx(scores, abs=1e-6)


def test_the_document_describes_the_service(service: Service, tmp_path: Path) -> None:
    """Whatever a document's reader may send has an answer that the document has."""
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "run", f"{service.url}/openapi.json", "--checks", CHECKS, "--max-examples", "20",
        "--phases", "coverage,fuzzing", "--seed", "1",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-10_000:]
