"""Ray Serve: one replica that takes the plain request. ray_app.py PORT BATCH; a batch of 1 is no batching."""

from __future__ import annotations

import signal
import sys
from typing import Any

import orjson
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

QUIET = {"enable_access_log": False, "log_level": "WARNING"}


class Flights:
    def __init__(self, batch: int) -> None:
        from benchmarks.serving_peers.scoring import score  # in the replica

        self.score = score
        self.batch = batch

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)
    async def together(self, flights: list[Any]) -> list[Any]:
        return self.score(flights)

    async def __call__(self, request: Request) -> Response:
        flight = orjson.loads(await request.body())
        answer = await self.together(flight) if self.batch > 1 else self.score([flight])[0]
        return Response(orjson.dumps(answer), media_type="application/json")


if __name__ == "__main__":
    port, batch = map(int, sys.argv[1:])
    ray.init(num_cpus=2, include_dashboard=False, logging_level="warning", object_store_memory=200 * 2**20)
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=QUIET)
    flights = serve.deployment(num_replicas=1, max_ongoing_requests=256, logging_config=QUIET)(Flights)
    serve.run(flights.bind(batch), name="flights", route_prefix="/score")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # Ray then ends its processes
    signal.pause()
