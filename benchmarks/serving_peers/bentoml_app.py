"""BentoML: an API that takes one flight, and a batchable one, to which a request brings a list of one."""

from __future__ import annotations

import bentoml

from benchmarks.serving_peers.schemas import Flight, Score
from benchmarks.serving_peers.scoring import score


# The latency of a batchable API is the limit for an answer, not a window: a small one refuses requests.
@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Flights:
    @bentoml.api
    async def score(self, flight: Flight) -> Score:
        return Score(**score([flight.__dict__])[0])

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    async def score_batch(self, flights: list[Flight]) -> list[Score]:
        return [Score(**one) for one in score([flight.__dict__ for flight in flights])]
