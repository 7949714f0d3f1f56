"""MLServer: a runtime with its codecs, over HTTP and gRPC. mlserver_app.py HTTP_PORT GRPC_PORT BATCH; a batch of 1 is no batching."""

from __future__ import annotations

import asyncio
import sys

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import install_uvloop_event_loop

from benchmarks.serving_peers.scoring import NUMBERS, TEXTS, run


class Flights(MLModel):
    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        given = {tensor.name: tensor for tensor in payload.inputs}
        columns = {name: NumpyCodec.decode_input(given[name]) for name in NUMBERS}
        columns |= {name: np.array(StringCodec.decode_input(given[name]), object) for name in TEXTS}
        outputs = [NumpyCodec.encode_output(name, values.reshape(-1, 1)) for name, values in run(columns).items()]
        return InferenceResponse(model_name=self.name, outputs=outputs)


async def serve(http: int, grpc: int, batch: int) -> None:
    # Without worker processes the model runs in the server's own, which on one core is the faster way.
    settings = Settings(host="127.0.0.1", http_port=http, grpc_port=grpc, metrics_endpoint=None, parallel_workers=0, debug=False)
    window = {"max_batch_size": batch, "max_batch_time": 0.001} if batch > 1 else {}
    await MLServer(settings).start([ModelSettings(name="flights", implementation=Flights, **window)])


if __name__ == "__main__":
    install_uvloop_event_loop()  # as `mlserver start` does
    asyncio.run(serve(*map(int, sys.argv[1:])))
