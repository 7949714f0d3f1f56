"""The code of the how-to pages does what the pages promise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from penstock.batch import Batch
from penstock.engine import compile as plan_of
from penstock.engine import execute
from penstock.errors import TopologyError
from penstock.model.session import Session
from penstock.nodes import MAKERS
from penstock.runners.stream import GRACE
from penstock.schema import Field, Schema
from penstock.settings import Settings
from penstock.testing import models
from penstock.topology.check import wire
from penstock.topology.kinds import KINDS
from penstock.topology.parse import parse_text

ROOT = Path(__file__).parents[2]


def snippets(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "docs/how-to" / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


CONTRACTS = {
    "codec.md": "test_msgpack_keeps_the_contract",
    "transport.md": "test_table_keeps_the_contract",
    "node.md": "test_above_keeps_the_contract",
}
# A line of each page whose loss breaks a promise.
BROKEN = {
    "codec.md": "failures.append(Failure(row, DecodeError(str(error))))",
    "transport.md": "self._open.clear()",
    "node.md": "unknown = np.flatnonzero(np.isnan(number[:, 0])).tolist()",
}
# What replaces that line; nothing, unless later lines need its name.
INSTEAD = {"node.md": "unknown = []"}


def code(page: str, without: str = "") -> dict[str, Any]:
    """The names that the code of a page defines."""
    namespace: dict[str, Any] = {}
    for text in snippets(page, "python"):
        exec(compile(text.replace(without, INSTEAD.get(page, "pass")) if without else text, page, "exec", dont_inherit=True), namespace)
    return namespace


def contract(page: str, tmp_path: Path, without: str = "") -> None:
    """Runs the code of a page, and then its test."""
    namespace = code(page, without)
    test = namespace[CONTRACTS[page]]
    test(*([tmp_path] if test.__code__.co_argcount else []))


@pytest.mark.parametrize("page", CONTRACTS)
def test_code_of_the_page_keeps_the_contract(page: str, tmp_path: Path) -> None:
    contract(page, tmp_path)


@pytest.mark.parametrize("page", CONTRACTS)
def test_contract_notices_a_broken_promise(page: str, tmp_path: Path) -> None:
    """Otherwise the test above could not fail."""
    assert any(BROKEN[page] in text for text in snippets(page, "python"))
    with pytest.raises(AssertionError):
        contract(page, tmp_path, BROKEN[page])


def test_node_kind_of_the_page_runs_in_a_topology(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its two rows, the kind is parsed, checked, compiled and run like any other."""
    page = code("node.md")
    monkeypatch.setitem(KINDS, "above", page["AboveKind"]())
    monkeypatch.setitem(MAKERS, page["AboveSpec"], page["make"])
    (nodes,) = [text for text in snippets("node.md", "yaml") if text.startswith("nodes:")]
    head = "topology: t\nsources: {orders: {topic: in, schema: order.avsc}}\n"
    text = f"{head}{nodes}sinks: {{out: {{topic: out, fields: {{high: high}}}}}}\n"
    order = Schema("Order", (Field("amount", "float"),))
    risk = models.linear([1.0], 0.0)
    session = Session.load(risk)
    signatures = {"risk": session.signature}
    plan = plan_of(wire(parse_text(text), {"orders": order}, signatures), {"risk": session}, {"risk": "risk@1"})
    (stage,) = plan.stages.values()
    done = execute(stage, Batch(3, {"amount": np.array([0.25, 0.75, np.nan], np.float32)}))
    assert done.columns["high.above"].tolist() == [[False], [True]]
    assert [(one.row, str(one.error)) for one in done.failures] == [(2, "the number is NaN")]
    with pytest.raises(TopologyError, match=r"nodes\.high\.limit: 'x' is not a number"):
        wire(parse_text(text.replace("limit: 0.5", "limit: x")), {"orders": order}, signatures)


def test_deployment_names_real_settings_and_waits_for_the_worker() -> None:
    """Each PENSTOCK_* variable is a setting, and the grace period is longer than what a worker may take to stop."""
    (text,) = snippets("kubernetes.md", "yaml")
    pod = yaml.safe_load(text)["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    names = [one["name"].removeprefix("PENSTOCK_").lower() for one in worker["env"]]
    settings = Settings()
    assert [name for name in names if not hasattr(settings, name)] == []
    assert pod["terminationGracePeriodSeconds"] > settings.drain_timeout + settings.session_timeout + GRACE
    memory = next(int(one["value"]) for one in worker["env"] if one["name"] == "PENSTOCK_MODEL_MEMORY")
    assert worker["resources"]["limits"]["memory"] == "1Gi"
    assert memory <= 2**30 // 2, "a row with too large tensors is a dead letter before the kernel ends the container"
    (port,) = worker["ports"]
    assert worker["args"][2:] == ["--http", f"0.0.0.0:{port['containerPort']}"]
    probes = {name: worker[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/healthz"}
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert {one["name"] for one in worker["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
