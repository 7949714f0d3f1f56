"""The two topics of a topology's releases, and the groups of those that report there: names, and the configuration of the topics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from penstock.control.messages import MAX_BYTES
from penstock.topology.spec import Topology

__all__ = ["CONTROL_CONFIG", "STATUS_CONFIG", "Groups", "Topics", "group_of"]

# Kept forever, and stamped by the brokers: a key's time of trust is compared with their clock, not the signer's. The size limit applies
# to the uncompressed batch, since the brokers unpack it: else 60 kB could unpack to 60 MB in every worker.
CONTROL_CONFIG: Final[Mapping[str, str]] = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "message.timestamp.type": "LogAppendTime",
    "max.message.bytes": str(2 * MAX_BYTES),  # a signature adds a third, and a batch its own header
    "compression.type": "uncompressed",
}
STATUS_CONFIG: Final[Mapping[str, str]] = {
    "cleanup.policy": "compact",
    "message.timestamp.type": "LogAppendTime",
    "segment.ms": str(3600 * 1000),  # only closed segments are compacted
    "min.cleanable.dirty.ratio": "0.1",
    "compression.type": "uncompressed",
}


class Topics(NamedTuple):
    """Their names: `APPLICATION.TOPOLOGY.control` and `.status`, unless the topology file sets others."""

    control: str
    status: str

    @classmethod
    def of(cls, application: str, topology: str, *, control: str = "", status: str = "") -> Topics:
        group = f"{application}.{topology}"
        return cls(control or f"{group}.control", status or f"{group}.status")

    @classmethod
    def declared(cls, application: str, topology: Topology) -> Topics:
        """Returns the topics of this topology, by its file."""
        return cls.of(application, topology.name, control=topology.releases.control, status=topology.releases.status)


class Groups(NamedTuple):
    """The consumer groups whose members' reports count: of workers, which share the partitions, and of services, which have none.

    The stages of a topology that is cut have a group each. Which there are is not known without the models, so `workers` are all that there
    can be, by the stage: "" is of what is not cut.
    """

    workers: Mapping[str, str]
    services: str

    @classmethod
    def of(cls, application: str, topology: Topology) -> Groups:
        apart = [node.name for node in topology.nodes if node.materialize is not None]
        matches = (match.name for match in topology.matches)
        stages = ["", *matches, *apart, *(sink.name for sink in topology.sinks if apart)]
        return cls({one: group_of(application, topology.name, one) for one in stages}, f"{application}.{topology.name}.services")


def group_of(application: str, topology: str, stage: str = "") -> str:
    """Returns the consumer group of the workers of a topology, or of a stage that runs apart."""
    return f"{application}.{topology}{f'.{stage}' if stage else ''}"
