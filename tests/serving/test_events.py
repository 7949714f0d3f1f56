"""Events as they are on Kafka, over HTTP: what comes back is what the stream would write, and what its dead letters would say."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

import penstock
from tests.serving.conftest import ROOT, Service, ask, served

SCORE = "/v1/topologies/flights:score"


@pytest.fixture(scope="module")
def expected(flights: list[dict[str, Any]]) -> list[Any]:
    with penstock.open(ROOT / "topologies/flights.yaml", models=ROOT / "models", schemas=ROOT / "schemas") as plan:
        return plan.score(flights)


def test_one_event_is_answered_as_the_sink_writes_it(service: Service, flights: list[dict[str, Any]], expected: list[Any]) -> None:
    """The answer is the sink's event, and its headers name what made it."""
    answer = service.post(SCORE, json.dumps(flights[0]))
    assert (answer.status_code, answer.json()) == (200, expected[0])
    assert answer.headers["penstock-generation"] == "0"
    assert "trees=flight-trees@1" in answer.headers["penstock-models"]
    assert answer.headers["penstock-variant"] == "live"


@pytest.mark.parametrize("form", ["list", "wrapped", "lines", "packed"])
def test_many_events_are_answered_in_order(service: Service, flights: list[dict[str, Any]], expected: list[Any], form: str) -> None:
    """As a list, in an object, packed, or as a stream of lines."""
    if form == "lines":
        body = "\n".join(map(json.dumps, flights))
        answer = service.post(SCORE, body, content_type="application/x-ndjson")
        found = [json.loads(line) for line in answer.text.splitlines()]
    elif form == "packed":
        answer = service.post(SCORE, gzip.compress(json.dumps(flights).encode()), content_encoding="gzip")
        found = answer.json()
    else:
        answer = service.post(SCORE, json.dumps(flights if form == "list" else {"events": flights}))
        found = answer.json()
    assert answer.status_code == 200
    assert found == expected


def test_a_bad_event_fails_beside_good_ones(service: Service, flights: list[dict[str, Any]], expected: list[Any]) -> None:
    """It has its failure at its place: what its dead letter would say."""
    bad = {**flights[1], "origin": "BOS"}
    answer = service.post(SCORE, json.dumps([flights[0], bad, 7, flights[2]]))
    first, second, third, last = answer.json()
    assert (first, last) == (expected[0], expected[2])
    assert second["failure"]["stage"] == "decode"
    assert "'BOS'" in second["failure"]["message"]
    assert third["failure"]["reason"] == "DecodeError"
    assert answer.headers["penstock-failed"] == "2"


def test_one_bad_event_is_refused_with_its_reason(service: Service, flights: list[dict[str, Any]]) -> None:
    """The status says that it is the event, not the request."""
    answer = service.post(SCORE, json.dumps({key: value for key, value in flights[0].items() if key != "carrier"}))
    assert answer.status_code == 422
    assert answer.json()["failure"] == {
        "stage": "decode", "reason": "DecodeError", "message": "Object missing required field `carrier`",
    }  # fmt: skip
    assert answer.json()["error"] == "Object missing required field `carrier`"


def test_lines_that_fail_do_not_end_their_stream(service: Service, flights: list[dict[str, Any]], expected: list[Any]) -> None:
    """Each line has an answer at its place; empty lines have none."""
    body = b"\n".join([json.dumps(flights[0]).encode(), b"not JSON", b"", json.dumps(flights[2]).encode()])
    answer = service.post(SCORE, body, content_type="application/x-ndjson")
    first, second, third = [json.loads(line) for line in answer.text.splitlines()]
    assert (first, third) == (expected[0], expected[2])
    assert "malformed" in second["failure"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        (f"{SCORE}?source=nope", "{}", 404, "no source 'nope'"),
        (f"{SCORE}?sauce=departures", "{}", 400, "no parameter 'sauce'"),
        (SCORE, "[{", 400, "the list of events cannot be read"),
        (SCORE, '{"events": [', 400, "the list of events cannot be read"),
        (SCORE, '{"events": 3}', 400, "`events` is a list"),
        (SCORE, '{"events": {"flight_id": "x"}}', 400, "`events` is a list"),
        (SCORE, "", 400, "the body is no JSON: Input data was truncated"),
        (SCORE, "flight", 400, "the body is no JSON"),
        (SCORE, "[1] [2]", 400, "for one event per line send Content-Type: application/x-ndjson"),
        (SCORE, '{"flight_id": "x"}\n{"flight_id": "y"}\n', 400, "for one event per line send Content-Type: application/x-ndjson"),
        (SCORE, '{"flight_id": "x"}', 422, "missing required field"),
        (SCORE, "7", 422, "Expected `object`, got `int`"),
        ("/v1/topologies/other:score", "{}", 404, "/openapi.json"),
    ],
)
def test_what_cannot_be_read_is_refused(service: Service, path: str, body: str, status: int, says: str) -> None:
    """With a status, and a message that leads on."""
    answer = service.post(path, body)
    assert answer.status_code == status
    assert says in answer.json()["error"]


def test_a_list_of_no_events_has_no_answers(service: Service) -> None:
    assert service.post(SCORE, "[]").json() == []


def test_another_method_is_refused(service: Service) -> None:
    answer = service.get(SCORE)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    both = ask(service.ports["http"], "PUT", "/v1/releases")
    assert (both.status_code, both.headers["allow"]) == (405, "GET, POST")


def test_several_sinks_answer_by_their_names(flights: list[dict[str, Any]]) -> None:
    """An event that a sink's `when` leaves out is not in it."""
    with served("topologies/flights-cascade.yaml", doors=("http",)) as cascade:
        answers = cascade.post("/v1/topologies/flights-cascade:score", json.dumps(flights)).json()
    assert all("predictions" in one for one in answers)
    assert {"by"} <= answers[0]["predictions"].keys()
    unsure = [one for one in answers if "unsure" in one]
    assert 0 < len(unsure) < len(answers)
    assert all(one["predictions"]["by"] == "trees" for one in unsure)
