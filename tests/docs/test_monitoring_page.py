"""The page on monitoring names metrics, conditions and settings that are there."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from penstock.runners.health import Phase, Picture, readiness
from penstock.settings import Settings
from penstock.telemetry.health import Condition, Health
from penstock.telemetry.metrics import FAMILIES, SUPERVISOR

PAGE = (Path(__file__).parents[2] / "docs/monitoring.md").read_text(encoding="utf-8")


def snippets(language: str) -> list[Any]:
    return [yaml.safe_load(text) for text in re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]


def test_every_metric_that_is_named_is_declared() -> None:
    """Also in the alerts, with their labels."""
    declared = {family.exported: family for family in (*FAMILIES.values(), *SUPERVISOR)}
    named = set(re.findall(r"penstock_\w+", PAGE))
    assert named - declared.keys() == set()
    assert len(named) >= 8
    for rule in snippets("yaml")[-1]["groups"][0]["rules"]:
        for name, matchers in re.findall(r"(penstock_\w+)\{(.*?)\}", rule["expr"]):
            assert set(re.findall(r"(\w+)!?=", matchers)) <= {*declared[name].labels, "worker"}, rule


def test_conditions_are_those_of_readiness() -> None:
    conditions = [one.name for one in readiness(Picture(phase=Phase.STARTING, sources={}))]
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == conditions


def test_answers_have_the_shape_that_is_shown() -> None:
    health = Health((Condition("departures", False, "why"),), (Condition("running", False, "why"),))
    for shown, answered in zip(snippets("json"), (health.liveness(), health.readiness()), strict=True):
        assert list(shown) == list(json.loads(json.dumps(answered.body)))


def test_settings_exist() -> None:
    assert {"http", "stall_timeout", "broker_timeout"} <= {one.name for one in fields(Settings)}
