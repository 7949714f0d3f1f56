"""Our service under `penstock conformance`, which checks any server: every rule holds, over REST and gRPC, for every model."""

from __future__ import annotations

from typing import Any

from penstock.conformance.check import check
from penstock.conformance.model import given
from penstock.conformance.rules import RULES
from tests.serving.conftest import Service

NODES = ["flights.features", "flights.logistic", "flights.trees", "flights.stack"]


def test_every_rule_holds_for_the_nodes_of_a_topology(service: Service) -> None:
    found = list(check(service.url, grpc=service.grpc, models=NODES))
    assert [one for one in found if one.state != "passed"] == []
    assert {one.model for one in found} == {"", *NODES}


def test_every_rule_holds_for_the_topology(service: Service, flights: list[dict[str, Any]]) -> None:
    """Its tensors are the fields of events, some of which take particular values only: they are those of real flights."""
    metadata = service.get("/v2/models/flights").json()
    inputs = [
        {"name": one["name"], "datatype": one["datatype"], "shape": [3], "data": [event[one["name"]] for event in flights[:3]]}
        for one in metadata["inputs"]
        if all(event.get(one["name"]) is not None for event in flights[:3])
    ]
    found = list(check(service.url, grpc=service.grpc, models=["flights"], request=given({"inputs": inputs})))
    assert [one for one in found if one.state != "passed"] == []
    assert {one.rule for one in found} == RULES.keys()


def test_model_that_wants_particular_values_is_not_called_wrong(service: Service) -> None:
    """Tensors that are made from metadata alone may be refused: then nothing is known of its answers."""
    (one,) = (one for one in check(service.url, models=["flights"]) if one.state != "passed")
    assert (one.rule, one.state) == ("infer", "skipped")
    assert "give a valid request with --input" in one.seen
