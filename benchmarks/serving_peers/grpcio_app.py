"""The floor of a gRPC service in Python: grpcio on uvloop, as `penstock serve` has it, whose handler does nothing."""

from __future__ import annotations

import sys
from typing import Any

import grpc
import uvloop

ANSWER = bytes(200)  # about as long as three tensors


async def handler(request: bytes, context: Any) -> bytes:
    return ANSWER


async def serve(port: int) -> None:
    server = grpc.aio.server()
    made = {"ModelInfer": grpc.unary_unary_rpc_method_handler(handler)}  # bytes in, bytes out
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", made),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
