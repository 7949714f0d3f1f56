"""What a window counts of values of each type, as an event has them: null is none, behind another stage as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from penstock.testing import TopologyDriver

SCHEMA: Final = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "card", "type": "string"},
        {"name": "text", "type": ["null", "string"]},
        {"name": "whole", "type": ["null", "long"]},
        {"name": "flag", "type": ["null", "boolean"]},
        {"name": "real", "type": ["null", "double"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}
COUNTED: Final = ("text", "whole", "flag", "real", "known.size", "known.large")
TOPOLOGY: Final = """\
topology: cards
sources: {payments: {topic: payments, schema: payment.avsc, time: at}}
nodes:
  known: {kind: rule, outputs: {large: "coalesce(real, 0.0) > 1", size: "'large' if coalesce(real, 0.0) > 1 else 'small'"}%s}
  lately: {kind: window, by: card, over: [1h], %sfeatures: %s}
sinks: {out: {topic: out, fields: %s}}
"""
EVENTS: Final[list[dict[str, Any]]] = [
    {"text": "a", "whole": 2**53, "flag": True, "real": 0.5},
    {"text": None, "whole": None, "flag": None, "real": None},
    {"text": "", "whole": 2**53 + 1, "flag": False, "real": 1.5},
    {"text": "a", "whole": 2**53, "flag": True, "real": 0.5},
    {"text": "b", "whole": -1, "flag": False, "real": -0.5},
]


@pytest.mark.parametrize("exact", ["", "exact: true, "])
@pytest.mark.parametrize("stage", ["", ", materialize: {key: card}"])
def test_each_type_is_counted_as_it_is(tmp_path: Path, exact: str, stage: str) -> None:
    """Two whole numbers that one float stands for are two values."""
    names = {f"n{number}": one for number, one in enumerate(COUNTED)}
    features = {**{name: f"distinct({one})" for name, one in names.items()}, "middle": "quantile(real, 0.5)"}
    fields = {name: f"lately.{name}_1h" for name in features}
    (tmp_path / "payment.avsc").write_text(json.dumps(SCHEMA))
    (tmp_path / "cards.yaml").write_text(TOPOLOGY % (stage, exact, json.dumps(features), json.dumps(fields)))
    driver = TopologyDriver(tmp_path / "cards.yaml", schemas=tmp_path, models=tmp_path)
    driver.send("payments", *({**one, "card": "x", "at": 1_700_000_000_000 + at} for at, one in enumerate(EVENTS)))
    assert [[*one.values()] for one in driver.events("out")] == [
        [0, 0, 0, 0, 0, 0, None],
        [1, 1, 1, 1, 1, 1, 0.5],
        [1, 1, 1, 1, 1, 1, 0.5],
        [2, 2, 2, 2, 2, 2, 1.0],
        [2, 2, 2, 2, 2, 2, 0.5],
    ]
