"""Our service under `penstock conformance`, which checks any server: every rule holds, over REST and gRPC, for every model."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from penstock.cli.main import main
from penstock.conformance.check import check
from penstock.conformance.model import given
from penstock.conformance.rules import RULES
from tests.serving.conftest import Service, served, wait_for
from tests.unit.cli.done import Done

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


def test_what_was_skipped_is_no_deviation_and_is_named(service: Service) -> None:
    """With --strict it is asked for."""

    def run(*flags: str) -> Done:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            code = main(["conformance", service.url, "--model", "flights", *flags])
        return Done(code, out.getvalue(), err.getvalue())

    done = run()
    assert done.code == 0
    assert f"not checked: flights; give a valid request: penstock conformance {service.url} --model flights --input FILE" in done.out
    done = run("--strict", "--format", "json")
    assert (done.code, done.json["conforms"], done.json["must"]["skipped"]) == (1, None, 1)


def test_statistics_of_several_processes_grow() -> None:
    """Each counts what it answers; one connection leads to one of them."""
    with served("topologies/flights.yaml", "--workers", "2", doors=("http",), ready=False) as many:
        wait_for(many, lambda text: text.count("ready: ") == 2)
        for _ in range(5):
            assert not check(many.url, models=["flights.stack"]).failed("should")
