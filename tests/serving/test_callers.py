"""Who may call a service, over both of its doors: keys, rights, models, values, rates, TLS and client certificates."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from penstock.access.keys import digest, new_key
from penstock.conformance.check import check
from penstock.errors import ConfigError
from penstock.serving.messages import SERVICE, message
from tests.kafka.certificates import Authority, Certificate
from tests.serving.conftest import ROOT, Answer, Service, ask, served

SCORE = "/v1/topologies/flights:score"
STACK = "/v2/models/flights.stack/infer"
X = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [2, 2], "data": [0.1, 0.2, 0.3, 0.4]}]}
FILE = """
[callers.shop]
may = ["score"]
topologies = ["flights"]
models = ["flights"]
only = { origin = ["EWR"] }
certificates = ["dns:shop.example.org"]

[callers.desk]
may = ["score", "read"]
topologies = ["*"]
request_rows = 1

[callers.scoped]
may = ["score", "read", "deploy"]
topologies = ["flights"]
models = ["flights.stack@99", "flights.none@99"]

[callers.busy]
may = ["score"]
topologies = ["flights"]
requests = 1

[callers.slow]
may = ["score"]
topologies = ["flights"]
rows = 100
requests = 200

[callers.small]
may = ["score"]
topologies = ["flights"]
request_rows = 7
"""


class Guarded(NamedTuple):
    """A service with TLS, an access file and an audit log; the keys of its callers, and its authority."""

    service: Service
    keys: dict[str, str]
    authority: Authority
    client: Certificate
    audit: Path

    def post(self, path: str, body: Any, key: str = "", **more: Any) -> Answer:
        headers = {"authorization": f"Bearer {self.keys.get(key, key)}"} if key else {}
        if more.get("lines"):
            headers["content-type"] = "application/x-ndjson"
        secure = ssl.create_default_context(cafile=str(self.authority.certificate))
        if more.get("certificate"):
            secure.load_cert_chain(self.client.certificate, self.client.key)
        return ask(
            self.service.ports["http"], more.get("method", "POST"), path, body if more.get("lines") else json.dumps(body), headers, secure
        )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    authority = Authority(folder, "ca")
    server, client = authority.sign("server", "DNS:localhost"), authority.sign("client", "DNS:shop.example.org")
    server.key.chmod(0o600)
    text, keys = FILE, {}
    for name in ("shop", "desk", "scoped", "busy", "slow", "small"):
        key = new_key()
        keys[name] = key.text
        text += f"\n[callers.{name}.keys.{key.id}]\nsha256 = {json.dumps(digest(key.text))}\nmade = 2026-01-01T00:00:00Z\n"
    access, audit = folder / "access.toml", folder / "audit.ndjson"
    access.write_text(text)
    access.chmod(0o600)
    flags = [
        "--access", str(access), "--audit", str(audit), "--serve-certfile", str(server.certificate), "--serve-keyfile", str(server.key),
        "--serve-cafile", str(authority.certificate),
    ]  # fmt: skip
    with served("topologies/flights.yaml", *flags) as found:
        yield Guarded(found, keys, authority, client, audit)


@pytest.mark.parametrize(
    ("path", "method", "key", "status"),
    [
        (STACK, "POST", "desk", 413),  # two rows, where one request has one
        (STACK, "POST", "shop", 403),  # only the whole topology
        (STACK, "POST", "", 401),
        (STACK, "POST", "penstock_aaaaaaaaaaaa_" + "a" * 43, 401),
        ("/v2/models/flights", "GET", "shop", 403),  # it may not read
        ("/v2/models/flights", "GET", "desk", 200),
        ("/v2/models/none/infer", "POST", "shop", 403),  # whether there is such a model is not shown
        ("/v2/models/none/infer", "POST", "desk", 404),
        ("/v2/health/ready", "GET", "", 200),
        ("/v2", "GET", "", 200),
        ("/v2", "GET", "wrong", 200),
        ("/v2/models/stats", "GET", "", 401),
        ("/openapi.json", "GET", "", 401),
    ],
)
def test_each_caller_does_what_it_may(guarded: Guarded, path: str, method: str, key: str, status: int) -> None:
    """Its rights, models and limits; without a credential, only health."""
    answer = guarded.post(path, X, key, method=method)
    assert answer.status_code == status, answer.text
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"


HIDDEN = ["/v2/models/{}", "/v2/models/{}/ready", "/v2/models/{}/stats", "/v2/models/{}/versions/{}", "/v2/models/{}/versions/{}/stats"]
HIDDEN += ["/v2/models/{}/infer", "/v2/models/{}/versions/{}/infer", "/v2/repository/models/{}/load", "/v2/repository/models/{}/unload"]


@pytest.mark.parametrize("path", HIDDEN)
@pytest.mark.parametrize("version", ["1", "7", "99"])
def test_a_refusal_shows_nothing_of_what_there_is(guarded: Guarded, path: str, version: str) -> None:
    """Whether the model exists or not, and what version is live: this caller may use version 99 of both, and 1 of one is live."""
    method = "POST" if path.endswith(("infer", "load")) else "GET"
    found = {}
    for name in ("flights.stack", "flights.none"):
        answer = guarded.post(path.format(name, version), X, "scoped", method=method)
        found[name] = answer.status_code, answer.text.replace(name, "NAME")
    assert found["flights.stack"] == found["flights.none"]
    status, text = found["flights.stack"]
    asked = "{}" in path.partition("versions")[2]
    assert (status, "@1" in text) == (404 if asked and version == "99" else 403, asked and version == "1")


def test_a_caller_of_certain_models_is_shown_no_other(guarded: Guarded) -> None:
    """Not the generation of the topology either, in a refusal."""
    assert not [path for path in guarded.post("/openapi.json", "", "scoped", method="GET").json()["paths"] if "/models/flights" in path]
    assert guarded.post("/openapi.json", "", "desk", method="GET").json()["paths"]["/v2/models/flights.stack"]
    assert guarded.post(SCORE, {}, "scoped").json()["error"] == "scoped may not score flights: its `models` lack flights"


def test_the_check_of_the_protocol_wants_a_credential_too(guarded: Guarded) -> None:
    """The error names the missing credential; it does not say that there are no models."""
    url = f"https://localhost:{guarded.service.ports['http']}"
    for models in ([], ["flights.stack"]):
        with pytest.raises(ConfigError, match=r"wants to know who asks: 401 .*give a credential with --headers FILE"):
            check(url, models=models, authorities=guarded.authority.certificate)


def test_a_caller_sends_only_the_values_that_it_may(guarded: Guarded, flights: list[dict[str, Any]]) -> None:
    """Rows with others fail beside those that are allowed; alone, the request is refused."""
    mine = next(one for one in flights if one["origin"] == "EWR")
    other = next(one for one in flights if one["origin"] == "JFK")
    first, second, third = guarded.post(SCORE, [mine, other, mine], "shop").json()
    assert first == third
    assert first["flight_id"] == mine["flight_id"]
    assert second["failure"]["stage"] == "access"
    assert "'JFK' is no value that shop may send" in second["failure"]["message"]
    assert guarded.post(SCORE, other, "shop").status_code == 403


def test_two_headers_are_a_bad_header(guarded: Guarded) -> None:
    """Also where both have a key that is good."""
    secure = ssl.create_default_context(cafile=str(guarded.authority.certificate))
    connection = http.client.HTTPSConnection("localhost", guarded.service.ports["http"], timeout=30, context=secure)
    with closing(connection):
        connection.putrequest("GET", "/v2/models/flights")
        for _ in range(2):
            connection.putheader("Authorization", f"Bearer {guarded.keys['desk']}")
        connection.endheaders()
        found = connection.getresponse()
        assert (found.status, json.loads(found.read())["code"]) == (401, "bad-header")


def test_a_client_certificate_is_a_credential(guarded: Guarded, flights: list[dict[str, Any]]) -> None:
    """Of the caller whose name it has."""
    mine = next(one for one in flights if one["origin"] == "EWR")
    assert guarded.post(SCORE, mine, certificate=True).status_code == 200
    assert guarded.post("/v2/models/flights", mine, certificate=True, method="GET").status_code == 403


def test_a_caller_that_asks_too_often_is_told_when_to_come_again(guarded: Guarded, flights: list[dict[str, Any]]) -> None:
    found = [guarded.post(SCORE, flights[0], "busy") for _ in range(5)]
    refused = next(one for one in found if one.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["code"] == "rate-limited"


@pytest.mark.parametrize(("caller", "limit"), [("slow", "100 (its `rows`, per second)"), ("small", "7 (its `request_rows`)")])
def test_a_stream_is_of_any_length_where_a_list_is_limited(
    guarded: Guarded, flights: list[dict[str, Any]], caller: str, limit: str
) -> None:
    """It is read in parts that the caller may send at once, at the caller's rate. The refusal of a list names the limit."""
    refused = guarded.post(SCORE, flights[:250], caller)
    assert (refused.status_code, refused.json()["error"]) == (413, f"250 rows in one request; {caller} may send {limit}: split it")
    began = time.monotonic()
    answer = guarded.post(SCORE, "\n".join(map(json.dumps, flights[:250])), caller, lines=True)
    found = [json.loads(line) for line in answer.text.splitlines()]
    assert [one.get("flight_id") for one in found] == [one["flight_id"] for one in flights[:250]]
    assert caller != "slow" or time.monotonic() - began > 1.4, "the first hundred at once, and the others at its rate"


@pytest.mark.parametrize("version", ["", "1", "7", "99"])
def test_a_refusal_over_grpc_shows_nothing_of_what_there_is(guarded: Guarded, version: str) -> None:
    credentials = grpc.ssl_channel_credentials(
        guarded.authority.certificate.read_bytes(), guarded.client.key.read_bytes(), guarded.client.certificate.read_bytes()
    )
    metadata = [("authorization", f"Bearer {guarded.keys['scoped']}")]

    def asked(method: str, **fields: str) -> object:
        call = channel.unary_unary(
            f"/{SERVICE}/{method}", request_serializer=message(f"{method}Request").SerializeToString,
            response_deserializer=message(f"{method}Response").FromString,
        )  # fmt: skip
        try:
            return call(message(f"{method}Request")(**fields), metadata=metadata, timeout=20)
        except grpc.RpcError as error:
            return error.code(), error.details().replace("flights.stack", "NAME").replace("flights.none", "NAME")

    with grpc.secure_channel(f"localhost:{guarded.service.ports['grpc']}", credentials) as channel:
        for method in ("ModelReady", "ModelMetadata", "ModelStatistics"):
            assert asked(method, name="flights.stack", version=version) == asked(method, name="flights.none", version=version)
        there = asked("ModelInfer", model_name="flights.stack", model_version=version)
        assert there == asked("ModelInfer", model_name="flights.none", model_version=version)
        for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
            assert asked(method, model_name="flights.stack") == asked(method, model_name="flights.none")


@pytest.mark.parametrize(("key", "code"), [("shop", "PERMISSION_DENIED"), ("wrong", "UNAUTHENTICATED"), ("", "UNAUTHENTICATED")])
def test_grpc_admits_the_same_callers(guarded: Guarded, key: str, code: str) -> None:
    """With authorities of client certificates, a client needs one; its header comes first."""
    credentials = grpc.ssl_channel_credentials(
        guarded.authority.certificate.read_bytes(), guarded.client.key.read_bytes(), guarded.client.certificate.read_bytes()
    )
    metadata = [("authorization", f"Bearer {guarded.keys.get(key, key)}")] if key else []
    with grpc.secure_channel(f"localhost:{guarded.service.ports['grpc']}", credentials) as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/ModelMetadata", request_serializer=message("ModelMetadataRequest").SerializeToString,
            response_deserializer=message("ModelMetadataResponse").FromString,
        )  # fmt: skip
        if not key:  # the certificate alone: of shop, which may not read
            code = "PERMISSION_DENIED"
        with pytest.raises(grpc.RpcError) as error:
            call(message("ModelMetadataRequest")(name="flights"), metadata=metadata, timeout=20)
        assert error.value.code().name == code
        desk = [("authorization", f"Bearer {guarded.keys['desk']}")]
        assert call(message("ModelMetadataRequest")(name="flights"), metadata=desk, timeout=20).name == "flights"


def test_the_audit_log_has_who_did_what(guarded: Guarded, flights: list[dict[str, Any]]) -> None:
    """One line each, without payloads or keys."""
    guarded.post(SCORE, flights[0], "desk")
    guarded.post(STACK, X, "shop")
    end = time.monotonic() + 10
    lines: list[dict[str, Any]] = []
    while time.monotonic() < end and not any(one.get("outcome") == "forbidden" for one in lines):
        lines = [json.loads(line) for line in guarded.audit.read_text().splitlines()]
    good = next(one for one in lines if (one.get("caller"), one["call"], one["outcome"]) == ("desk", "score", "ok"))
    assert (good["topology"], good["generation"], good["rows"]) == ("flights", 0, 1)
    text = guarded.audit.read_text()
    assert flights[0]["flight_id"] not in text
    assert guarded.keys["desk"] not in text


def test_other_hosts_need_tls_and_an_access_file() -> None:
    """Or a setting that says it is meant."""
    command = [sys.executable, "-m", "penstock", "serve", "topologies/flights.yaml", "--http", ":0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "access file" in done.stderr


@pytest.mark.parametrize(("given", "why"), [("nope.pem", "nope.pem: cannot be read"), ("missing", "missing.pem: cannot be read")])
def test_a_key_that_is_not_there_ends_the_start(tmp_path: Path, given: str, why: str) -> None:
    """Not the first release that a caller asks for. A name is that of a key of one's own."""
    command = [sys.executable, "-m", "penstock", "serve", "topologies/flights.yaml", "--http", "127.0.0.1:0", "--signing-key", given]
    home = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=home, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, why in " ".join(done.stderr.split())) == (2, True), done.stderr
