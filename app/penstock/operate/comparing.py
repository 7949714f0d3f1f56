"""What a release changes, with the metrics of the versions before and after, from their manifests in the registry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from penstock.binding import Binding
from penstock.control.proposal import Difference
from penstock.model.metrics import Judgement, MetricChange, compare
from penstock.operate.precheck import same_version
from penstock.registry.base import Registry
from penstock.topology.spec import Topology

__all__ = ["Compared", "compared"]


class Compared(NamedTuple):
    """A node that changes. `metrics` is empty where only parameters change; `note` is why metrics are missing, "" when they are not."""

    difference: Difference
    metrics: tuple[MetricChange, ...] = ()
    note: str = ""

    @property
    def worse(self) -> tuple[MetricChange, ...]:
        """The metrics that get worse."""
        return tuple(one for one in self.metrics if one.judgement is Judgement.WORSE)


def compared(topology: Topology, differences: Iterable[Difference], registry: Registry) -> tuple[Compared, ...]:
    """Returns the differences with the metrics. Reads manifests, no model. A version that this registry lacks has none."""
    return tuple(_compared(topology, one, registry) for one in differences)


def _compared(topology: Topology, one: Difference, registry: Registry) -> Compared:
    before, after = one.before, one.after
    if before is not None and (before.digest, before.manifest) == (after.digest, after.manifest):
        return Compared(one)
    had, has = (None if before is None else _metrics(registry, before)), _metrics(registry, after)
    absent = [str(binding) for binding, found in ((before, had), (after, has)) if binding is not None and found is None]
    node = topology.model_node(one.node)
    thresholds = [(wanted.metric, wanted.comparison) for wanted in node.require] if node is not None else []
    metrics = compare(had or {}, has or {}, thresholds)
    if absent:
        return Compared(one, metrics, f"the metrics of {' and '.join(absent)} are not known: this registry lacks these files")
    return Compared(one, metrics, "" if metrics else "neither version states metrics")


def _metrics(registry: Registry, binding: Binding) -> dict[str, float] | None:
    artifact = same_version(registry, binding)
    return None if artifact is None else dict(artifact.manifest.metrics)
