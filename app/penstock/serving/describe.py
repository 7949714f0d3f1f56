"""What both doors say of the models: metadata and statistics as the Open Inference Protocol has them, as values that JSON holds."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from penstock.access import Caller
from penstock.errors import CallRefused
from penstock.serving import oip
from penstock.serving.handlers import NAME, Service, Tally
from penstock.serving.targets import Model
from penstock.signature import Tensor

__all__ = ["metadata", "refused_load", "stats", "version_of"]


def version_of() -> str:
    """Returns the version of Penstock."""
    return version(NAME)


def metadata(model: Model) -> dict[str, Any]:
    """Returns a model's metadata as the protocol has it."""
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": model.platform,
        "inputs": [tensor(one) for one in model.inputs],
        "outputs": [tensor(one) for one in model.outputs],
    }


def tensor(one: Tensor) -> dict[str, Any]:
    """Returns a tensor's metadata: -1 is an open axis, first of all the rows."""
    return {"name": one.name, "datatype": oip.DATATYPES[one.dtype], "shape": [-1, *(-1 if axis is None else axis for axis in one.shape)]}


def stats(model: Model, tally: Tally) -> dict[str, Any]:
    """Returns a model's statistics as the protocol's extension has them."""
    whole = tally.queue_ns + tally.compute_ns
    none = {"count": 0, "ns": 0}
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": tally.last_ms,
        "inference_count": tally.rows,
        "execution_count": tally.runs,
        "inference_stats": {
            "success": {"count": tally.requests, "ns": whole},
            "fail": {"count": tally.failed, "ns": tally.failed_ns},
            "queue": {"count": tally.requests, "ns": tally.queue_ns},
            "compute_input": none,
            "compute_infer": {"count": tally.requests, "ns": tally.compute_ns},
            "compute_output": none,
            "cache_hit": none,
            "cache_miss": none,
        },
        "batch_stats": [],
        "memory_usage": [],
    }


def refused_load(service: Service, caller: Caller, name: str) -> CallRefused:
    """Returns why a model is not loaded or unloaded by this protocol. Raises Forbidden, NotThere."""
    service.check_read(caller, name)
    model = service.model(caller, name)
    node = model.name.partition(".")[2] or "NODE"
    return CallRefused(
        f"models are swapped by releases, which every worker and service of {service.name} follows: "
        f"penstock deploy {service.name} {node}=MODEL@VERSION",
        code="by-release",
    )
