"""`penstock conformance`: a server that keeps the protocol passes, and each fault of another one is found by its rule."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.cli.main import main
from penstock.conformance.check import check
from penstock.conformance.rules import RULES, Findings
from penstock.conformance.tensors import Tensor, difference
from tests.kafka.certificates import Authority
from tests.unit.cli.done import Done, Run
from tests.unit.conformance.server import DECLARED, NAME, Started, started

# What a server does wrong, and the rules by which it is found, over each protocol.
FAULTS = {
    "drops-id": {("rest", "id-returned"), ("grpc", "id-returned")},
    "flat-only": {("rest", "infer-nested")},
    "gives-all-outputs": {("rest", "outputs-chosen"), ("grpc", "outputs-chosen")},
    "takes-short-data": {("rest", "too-few-values"), ("grpc", "too-few-values"), ("rest", "too-many-values"), ("grpc", "too-many-values")},
    "takes-any-datatype": {("rest", "wrong-datatype"), ("grpc", "wrong-datatype")},
    "takes-more-inputs": {("rest", "unknown-input"), ("grpc", "unknown-input")},
    "answers-for-any-model": {("rest", "unknown-model"), ("grpc", "unknown-model"), ("rest", "error-code"), ("grpc", "error-code")},
    "wrong-output-shape": {("rest", "infer-metadata"), ("grpc", "infer-metadata")},
    "bool-as-number": {("rest", "infer-answer")},
    "plain-errors": {("rest", "error-body")},
    "internal-errors": {("rest", "error-code"), ("grpc", "error-code")},
    "trusts-lengths": {("rest", "binary-length")},
    "miscounts": {("rest", "binary-output"), ("rest", "binary-data-output")},
    "raw-big-endian": {("grpc", "infer-raw")},
}


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> Done:
        return Done(main(["conformance", *arguments]), *capfd.readouterr())

    return call


@pytest.fixture(scope="module")
def right() -> Iterator[Started]:
    with started() as places:
        yield places


def failed(found: Findings) -> set[tuple[str, str]]:
    return {(one.protocol, one.rule) for one in found if one.state == "failed"}


def test_server_that_keeps_the_protocol_passes_every_rule(right: Started) -> None:
    found = list(check(right.url, grpc=right.grpc))
    assert [one for one in found if one.state != "passed"] == []
    over = {protocol: {one.rule for one in found if one.protocol == protocol} for protocol in ("rest", "grpc")}
    assert over["rest"] | over["grpc"] == RULES.keys(), "every rule was checked"
    assert {one.model for one in found} == {"", NAME}


def test_page_lists_the_rules() -> None:
    page = (Path(__file__).parents[3] / "docs/conformance.md").read_text(encoding="utf-8")
    assert page.endswith("".join(f"| `{name}` | {rule.level} | {rule.text} |\n" for name, rule in RULES.items()))


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found_by_its_rule_and_by_no_other(fault: str) -> None:
    with started([fault]) as places:
        found = failed(check(places.url, grpc=places.grpc))
    assert found == FAULTS[fault]


def test_several_faults_are_found_at_once(run: Run) -> None:
    faults = ["drops-id", "flat-only", "takes-short-data", "takes-more-inputs", "plain-errors", "miscounts"]
    with started(faults) as places:
        done = run(places.url, "--grpc", places.grpc, "--format", "json")
    assert done.code == 1
    failures = [one for one in done.json["findings"] if one["state"] == "failed"]
    assert {(one["protocol"], one["rule"]) for one in failures} == set().union(*(FAULTS[fault] for fault in faults))
    assert done.json["conforms"] is False
    assert done.json["must"]["failed"] == len([one for one in failures if RULES[one["rule"]].level == "must"])


def test_report_names_what_was_seen(run: Run) -> None:
    with started(["drops-id"]) as places:
        done = run(places.url)
    assert done.code == 1
    assert "id-returned" in done.out
    assert "Seen: the id None for 'conformance-42'" in done.out
    assert f"checking {NAME} over REST" in done.err


def test_should_fails_only_where_it_is_asked_for(run: Run) -> None:
    with started(["internal-errors"]) as places:
        assert run(places.url).code == 0
        assert run(places.url, "--strict").code == 1


def test_request_of_a_file_is_sent(run: Run, right: Started, tmp_path: Path) -> None:
    """With the shape of the file's tensors."""
    given = {"BOOL": [[True, False]], "BYTES": [["x", "y"]]}
    inputs = [{**one, "shape": [1, 2], "data": given.get(str(one["datatype"]), [[1, 2]])} for one in DECLARED]
    (tmp_path / "request.json").write_text(json.dumps({"inputs": inputs}))
    done = run(right.url, "--grpc", right.grpc, "--model", NAME, "--input", str(tmp_path / "request.json"))
    assert done.code == 0, done.out
    inputs[0]["data"] = [[True]]
    (tmp_path / "request.json").write_text(json.dumps({"inputs": inputs}))
    refused = run(right.url, "--model", NAME, "--input", str(tmp_path / "request.json"))
    assert refused.code == 2
    assert "1 values of BOOL for the shape [1, 2]" in refused.err


def test_model_that_is_not_there_is_an_error_and_no_finding(run: Run, right: Started) -> None:
    done = run(right.url, "--model", "other")
    assert (done.code, done.out) == (2, "")
    assert f"has no model other; its index has {NAME}" in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("url", "code", "message"),
    [
        ("127.0.0.1:8080", 2, "give http://HOST:PORT or https://HOST:PORT, where the path /v2 begins"),
        ("http://127.0.0.1:1", 4, "http://127.0.0.1:1: no answer: ConnectionRefusedError"),
        ("http://127.0.0.1:99999", 2, "Port out of range"),
    ],
)
def test_server_that_does_not_answer_is_an_error_and_no_finding(run: Run, url: str, code: int, message: str) -> None:
    done = run(url)
    assert (done.code, done.out) == (code, "")
    assert message in done.err


def test_headers_are_sent_and_never_shown(run: Run, right: Started, tmp_path: Path) -> None:
    (tmp_path / "headers").write_text("Authorization: Bearer secret\n\nbroken secret\n")
    done = run(right.url, "--headers", str(tmp_path / "headers"))
    assert done.code == 2
    assert f"{tmp_path}/headers:3:1: no header (write NAME: VALUE)" in done.err
    assert "secret" not in done.err


@pytest.mark.parametrize("line", ["bad name: secret", "x-bin: secret", "x: secret\x01", "x\ty: secret", ": secret"])
def test_header_that_cannot_be_sent_is_an_error_of_its_file(run: Run, right: Started, tmp_path: Path, line: str) -> None:
    """And neither a finding about the server nor a bug."""
    (tmp_path / "headers").write_text(f"x-tenant: a\n{line}\n")
    done = run(right.url, "--grpc", right.grpc, "--headers", str(tmp_path / "headers"))
    assert (done.code, f"{tmp_path}/headers:2:1: no header" in done.err, "secret" in done.err) == (2, True, False)


def test_tensors_of_half_precision_are_sent_as_bytes() -> None:
    """JSON and the typed contents have no form of them."""
    with started(["half"]) as places:
        found = list(check(places.url, grpc=places.grpc))
    assert [one for one in found if one.state != "passed"] == []
    assert {("rest", "binary-input"), ("rest", "infer-answer"), ("grpc", "infer-raw")} <= {(one.protocol, one.rule) for one in found}


def test_server_with_tls_is_checked_by_its_authority(run: Run, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    with started(certificate=authority.sign("server", "IP:127.0.0.1")) as places:
        done = run(places.url, "--grpc", places.grpc, "--cafile", str(authority.certificate))
        assert done.code == 0, done.out
        refused = run(places.url)
        assert refused.code == 4
        assert "certificate verify failed" in refused.err
        strange = run(places.url, "--cafile", __file__)
    assert strange.code == 2
    assert "has no certificates of authorities" in strange.err


class Garbage(BaseHTTPRequestHandler):
    """Answers everything with the same bytes."""

    server: Any

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.body)

    do_POST = do_GET  # noqa: N815  # as the library calls it


@pytest.fixture(scope="module")
def garbage() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Garbage)
    server.headers, server.body = {}, b""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["FP32", "BYTES", "BOOL", "m", "1", -1, 2**70]),
)
_NAMES = st.sampled_from(
    [
        "name",
        "platform",
        "versions",
        "inputs",
        "outputs",
        "datatype",
        "shape",
        "data",
        "parameters",
        "binary_data_size",
        "model_name",
        "state",
    ]
)
_JSON = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=6), max_leaves=20)
_TENSOR = st.fixed_dictionaries({"name": st.just("x"), "datatype": st.sampled_from(["FP32", "BYTES"]), "shape": st.just([-1, 1])})
_MODEL = st.fixed_dictionaries(
    {
        "name": st.just("m"), "platform": st.just("p"), "model_name": st.just("m"), "versions": st.just(["1"]) | _JSON,
        "inputs": st.lists(_TENSOR, max_size=2) | _JSON, "outputs": st.lists(_TENSOR | _JSON, max_size=2), "model_stats": _JSON,
    }
)  # fmt: skip


@given(_JSON | _MODEL, st.sampled_from([{}, {"Inference-Header-Content-Length": "7"}, {"Inference-Header-Content-Length": "x"}]))
@settings(max_examples=30)
def test_whatever_a_server_answers_is_a_finding(garbage: Any, body: Any, headers: dict[str, str]) -> None:
    garbage.headers, garbage.body = headers, json.dumps(body).encode()
    found = check(f"http://127.0.0.1:{garbage.server_port}", models=["m"])
    assert found.failed("must")


def test_tensor_of_any_size_is_not_made(garbage: Any) -> None:
    garbage.headers = {}
    garbage.body = b'{"name": "m", "platform": "p", "inputs": [{"name": "x", "datatype": "FP32", "shape": [99999999999]}], "outputs": []}'
    seen = {one.rule: one.seen for one in check(f"http://127.0.0.1:{garbage.server_port}", models=["m"]).failed("must")}
    assert seen["infer"] == "x has the shape [99999999999]: give a valid request with --input"


def test_body_that_is_nested_without_end_is_a_finding(garbage: Any) -> None:
    garbage.headers, garbage.body = {}, b"[" * 100_000
    assert check(f"http://127.0.0.1:{garbage.server_port}", models=["m"]).failed("must")
    deep = '{"name": "m", "platform": "p", "model_name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}], "outputs": '
    garbage.body = (deep + '[{"name": "x", "datatype": "FP32", "shape": [1], "data": ' + "[" * 400 + "]" * 400 + "}]}").encode()
    seen = {one.rule: one.seen for one in check(f"http://127.0.0.1:{garbage.server_port}", models=["m"]).failed("must")}
    assert seen["infer-answer"] == "data with more than 32 axes"


GIVEN = '{"name": "m", "platform": "p", "model_name": "m", "versions": [%s], "inputs": [%s], "outputs": [%s], "model_stats": [%s]}'
X = '{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}'


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (GIVEN % (r'"\ud800"', X, X, ""), "model-metadata"),
        (GIVEN % ('"1"', X.replace("[1]", str([1] * 3000)), X, ""), "model-metadata"),
        (GIVEN % ('"1"', X, X.replace("[1]", str([1] * 3000)), ""), "model-metadata"),
        (GIVEN % ('"1"', X, X, '{"name": "m", "inference_count": "%s"}' % ("9" * 5000)), "id-returned"),
        (GIVEN % ('"1"', X, X.replace("1.0", "1" + "0" * 400), ""), "id-returned"),
        (GIVEN.replace('"name": "m"', f'"name": "{"m" * 5_000_000}"') % ('"1"', X, X, ""), "model-metadata"),
    ],
    ids=["half of a surrogate pair", "axes of an input", "axes of an output", "count", "whole number beyond floats", "long name"],
)
def test_extremes_of_a_server_are_findings(garbage: Any, body: str, rule: str) -> None:
    """And no error of the command; what is repeated of them is short."""
    garbage.headers, garbage.body = {}, body.encode()
    seen = {one.rule: one.seen for one in check(f"http://127.0.0.1:{garbage.server_port}", models=["m"]).failed("must")}
    assert rule in seen
    assert max(map(len, seen.values())) <= 1000


def test_whole_number_beyond_floats_differs_from_a_float() -> None:
    one, other = (Tensor("x", "FP32", (1,), (value,)) for value in (10**400, 1.5))
    assert difference([one], [other])
    assert difference([one], [one]) == ""


def test_index_with_names_that_cannot_be_repeated_is_none(run: Run, garbage: Any) -> None:
    garbage.headers, garbage.body = {}, rb'[{"name": "\ud800", "state": "READY"}]'
    done = run(f"http://127.0.0.1:{garbage.server_port}")
    assert (done.code, "has no index of its models" in done.err) == (2, True)
