"""Brokers that can fail one by one: what a test has to know of them, and to do to them."""

from __future__ import annotations

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from penstock.testing import Broker, committed, wait_for
from penstock.testing.broker import Kind
from penstock.testing.jvm_kafka import JvmCluster, JvmNode

__all__ = ["Cluster"]

PATIENCE_S = 60.0


class Cluster(Broker):
    """Brokers with the ids 1 to `size`, and a controller that never fails."""

    kind: Kind = "jvm"

    def __init__(self, size: int) -> None:
        self.size = size
        self._kafka = JvmCluster(size)
        self._frozen: set[int] = set()
        self.ailing = False  # from the first fault until it is healed
        self._admin = AdminClient({"bootstrap.servers": self._kafka.bootstrap, "log_level": 2, "reconnect.backoff.max.ms": 200})
        super().__init__(self._kafka.bootstrap)

    # -- what fails ------------------------------------------------------------------------------------------------

    def down(self, id: int) -> None:
        """Kill -9."""
        self.ailing = True
        self._node(id).kill()

    def up(self, id: int) -> None:
        """Starts it again; returns when it answers clients."""
        self._kafka.start(id)

    def freeze(self, id: int) -> None:
        """SIGSTOP."""
        self.ailing = True
        self._frozen.add(id)
        self._node(id).pause()

    def thaw(self, id: int) -> None:
        """SIGCONT."""
        self._node(id).resume()
        self._frozen.discard(id)

    def heal(self) -> None:
        """Returns when every broker is up and every partition has all its copies."""
        for id in sorted(self._frozen):
            self.thaw(id)
        for id in range(1, self.size + 1):
            if not self._node(id).running:
                self.up(id)
        self.wait_until_in_sync()
        self.ailing = False

    def stop(self) -> None:
        self._kafka.stop()

    # -- what can be seen ------------------------------------------------------------------------------------------

    def address(self, id: int) -> str:
        return self._kafka.addresses[id - 1]

    def leader(self, topic: str, partition: int) -> int:
        """The broker that leads the partition; -1 if none does."""
        return int(self._admin.list_topics(topic, PATIENCE_S).topics[topic].partitions[partition].leader)

    def coordinator(self, group: str) -> int:
        """The broker that coordinates the group. To be asked while no broker is down: librdkafka aborts the process else, now and then."""
        return int(self._admin.describe_consumer_groups([group], request_timeout=PATIENCE_S)[group].result().coordinator.id)

    def wait_until_coordinated(self, group: str, topic: str) -> None:
        """Until a broker answers for the group's offsets."""

        def answers() -> bool:
            try:
                return bool(committed(self, group, topic))
            except KafkaException:
                return False

        wait_for(answers, f"a coordinator of {group}", PATIENCE_S, 0.1)

    def wait_until_in_sync(self) -> None:
        wait_for(self._in_sync, "all copies of all partitions in sync", PATIENCE_S, 0.2)

    def _in_sync(self) -> bool:
        try:
            found = self._admin.list_topics(timeout=5)
        except KafkaException:
            return False
        partitions = [one for topic in found.topics.values() for one in topic.partitions.values()]
        return len(found.brokers) == self.size and all(one.leader > 0 and len(one.isrs) == len(one.replicas) for one in partitions)

    def _node(self, id: int) -> JvmNode:
        return self._kafka.brokers[id - 1]
