"""Flights scored by a BentoML service: pip install bentoml; bentoml serve --working-dir examples/serving bentoml_app:Flights

BentoML joins the events of requests that wait, and the plan scores them in one pass. An event that fails has {"failure": reason}, and its
neighbours have their answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bentoml

import penstock

ROOT = Path(__file__).parents[2]  # BentoML works in the folder --working-dir, where no topologies are


@bentoml.service(name="flights")
class Flights:
    def __init__(self) -> None:
        self.plan = penstock.open(  # in each worker process
            ROOT / "topologies/flights.yaml", models=ROOT / "models", schemas=ROOT / "schemas"
        )

    @bentoml.api(batchable=True, max_batch_size=1024)
    def score(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        answers = self.plan.score(events)
        return [{"failure": str(one.error)} if isinstance(one, penstock.Failure) else one for one in answers]
