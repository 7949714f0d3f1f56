"""The messages of the Open Inference Protocol over gRPC, as classes of the Protobuf library.

They are made from `oip.binpb`, which `make proto` compiles from `oip.proto`: code that protoc generates runs only with libraries that are
as new as itself. They have a pool of their own, since a client in the same process registers the same names in the shared one.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

__all__ = ["METHODS", "SERVICE", "message"]

SERVICE: Final = "inference.GRPCInferenceService"
METHODS: Final = (
    "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelStatistics", "RepositoryIndex",
    "RepositoryModelLoad", "RepositoryModelUnload",
)  # fmt: skip
COMPILED: Final = Path(__file__).with_name("oip.binpb")


def message(name: str) -> Any:
    """Returns the class of a message: `message("ModelInferRequest")`. Raises KeyError."""
    return _classes()[f"inference.{name}"]


@cache
def _classes() -> dict[str, Any]:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    files = descriptor_pb2.FileDescriptorSet.FromString(COMPILED.read_bytes()).file
    pool = descriptor_pool.DescriptorPool()
    for file in files:
        pool.Add(file)
    found: dict[str, Any] = message_factory.GetMessageClassesForFiles([file.name for file in files], pool)
    return found
