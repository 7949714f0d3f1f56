"""PyTriton: NVIDIA's Triton with a Python function as the model and the dynamic batcher. pytriton_app.py HTTP_PORT GRPC_PORT"""

from __future__ import annotations

import os
import sys
import sysconfig
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.serving_peers.scoring import NUMBERS, SCORES, TEXTS, run


@batch
def infer(**columns: Any) -> dict[str, Any]:
    texts = {name: np.char.decode(columns[name].astype("S"), "utf-8") for name in TEXTS}
    return {name: values.reshape(-1, 1) for name, values in run({**columns, **texts}).items()}


if __name__ == "__main__":
    # The Python that Triton embeds must be this one, also where the system has another of the same minor version.
    os.environ["LD_LIBRARY_PATH"] = f"{sysconfig.get_config_var('LIBDIR')}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    http, grpc = map(int, sys.argv[1:])
    place = {"http_address": "127.0.0.1", "http_port": http, "grpc_address": "127.0.0.1", "grpc_port": grpc}
    inputs = [Tensor(name=name, dtype=np.float32 if name == "dep_delay" else np.int32, shape=(1,)) for name in NUMBERS]
    inputs += [Tensor(name=name, dtype=bytes, shape=(1,)) for name in ("flight_id", *TEXTS)]
    outputs = [Tensor(name=name, dtype=np.float32, shape=(1,)) for name in SCORES]
    with Triton(config=TritonConfig(**place, allow_metrics=False)) as triton:
        triton.bind("flights", infer, inputs, outputs, config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher()))
        triton.serve()
