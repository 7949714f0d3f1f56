"""LitServe: one worker process. litserve_app.py PORT BATCH; a batch of 1 is no batching."""

from __future__ import annotations

import sys
from typing import Any

import litserve as ls


class Flights(ls.LitAPI):
    def setup(self, device: str) -> None:
        from benchmarks.serving_peers.scoring import score  # in the worker

        self.score = score

    def predict(self, x: Any) -> Any:
        return self.score([x])[0]


class Batched(Flights):
    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, x: Any) -> Any:
        return self.score(x)

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output


if __name__ == "__main__":
    port, batch = map(int, sys.argv[1:])
    api = Batched(max_batch_size=batch, batch_timeout=0.001, api_path="/score") if batch > 1 else Flights(api_path="/score")
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, log_level="warning", access_log=False, generate_client_file=False)
