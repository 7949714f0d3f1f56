"""How the brokers are reached: the settings in the words of each client, and the first look at the topics."""

from __future__ import annotations

import ipaddress
import logging
import ssl
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from penstock.errors import SettingsError, TopicMissing, TransportError, TransportUnavailable
from penstock.settings import Settings

__all__ = ["Admin", "TopicInfo", "aiokafka_arguments", "librdkafka_arguments"]

logger = logging.getLogger(__name__)

PATIENCE = 2.0  # seconds for an answer that one can do without


def aiokafka_arguments(settings: Settings) -> dict[str, Any]:
    """What AIOKafkaConsumer and AIOKafkaProducer need to connect."""
    check(settings)
    arguments: dict[str, Any] = {
        "bootstrap_servers": settings.brokers,
        "client_id": settings.client_id,
        "security_protocol": settings.security_protocol,
    }
    if settings.security_protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=settings.ssl_cafile)
        if settings.ssl_certfile:
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
        arguments["ssl_context"] = context
    if settings.security_protocol.startswith("SASL"):
        arguments |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password.reveal(),
        }
    return arguments


def librdkafka_arguments(settings: Settings) -> dict[str, Any]:
    """The same for confluent-kafka."""
    check(settings)
    arguments: dict[str, Any] = {
        "bootstrap.servers": settings.brokers,
        "client.id": settings.client_id,
        "security.protocol": settings.security_protocol,
    }
    files = {
        "ssl.ca.location": settings.ssl_cafile,
        "ssl.certificate.location": settings.ssl_certfile,
        "ssl.key.location": settings.ssl_keyfile,
    }
    arguments |= {name: str(path) for name, path in files.items() if path}
    if settings.security_protocol.startswith("SASL"):
        arguments |= {
            "sasl.mechanism": settings.sasl_mechanism,
            "sasl.username": settings.sasl_username,
            "sasl.password": settings.sasl_password.reveal(),
        }
    return arguments


def check(settings: Settings) -> None:
    """Raises SettingsError without brokers, and for plaintext to another host that nobody has allowed."""
    if not settings.brokers:
        raise SettingsError("no brokers given: use --brokers HOST:PORT or PENSTOCK_BROKERS (`penstock demo` brings its own)")
    if settings.security_protocol.endswith("PLAINTEXT") and not settings.insecure_plaintext:
        far = [address for address in settings.brokers.split(",") if not _is_loopback(address.strip())]
        if far:
            raise SettingsError(
                f"{', '.join(far)}: not this host, and {settings.security_protocol} would send events and passwords in the clear; "
                "use --security-protocol SSL or SASL_SSL, or --insecure-plaintext on a network that you trust"
            )


def _is_loopback(address: str) -> bool:
    host = address.rsplit(":", 1)[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class TopicInfo(NamedTuple):
    """What a topic is like: its partitions, and the largest record batch that it takes, in bytes (None: not told)."""

    partitions: int
    max_message_bytes: int | None


class Admin:
    """Topics, asked with patience: brokers that do not answer are tried again for `broker_timeout` seconds."""

    def __init__(self, settings: Settings) -> None:
        self._brokers = settings.brokers
        self._patience = settings.broker_timeout
        self._client = AdminClient({**librdkafka_arguments(settings), "log_level": 0}, logger=logging.getLogger("penstock.quiet"))

    def partitions(self) -> dict[str, int]:
        """Every topic of the cluster with the number of its partitions. Raises TransportUnavailable."""
        deadline = time.monotonic() + self._patience
        pause = 0.25
        while True:
            left = max(deadline - time.monotonic(), 0.1)
            try:
                topics = self._client.list_topics(timeout=min(left, 5.0)).topics
                return {name: len(topic.partitions) for name, topic in topics.items()}
            except KafkaException as error:
                if time.monotonic() + pause >= deadline:
                    raise TransportUnavailable(
                        f"no broker answered at {self._brokers} within {self._patience:g} s ({_reason(error)}); "
                        "is it running, and reachable from here? --broker-timeout says how long to try"
                    ) from error
                logger.warning("no broker answers at %s yet, trying again: %s", self._brokers, _reason(error))
            time.sleep(pause)
            pause = min(pause * 2, 5.0)

    def describe(self, names: Iterable[str]) -> dict[str, TopicInfo]:
        """These topics. Raises TopicMissing with all that do not exist, TransportUnavailable."""
        wanted = sorted(set(names))
        partitions = self.partitions()
        missing = [name for name in wanted if not partitions.get(name)]
        if missing:
            raise TopicMissing(f"no such topic: {', '.join(missing)}; `penstock topics create TOPOLOGY` makes what a topology needs")
        limits = self._limits(wanted)
        return {name: TopicInfo(partitions[name], limits.get(name)) for name in wanted}

    def _limits(self, names: Iterable[str]) -> dict[str, int]:
        """max.message.bytes by topic; empty where the broker does not say (no permission, or a mock cluster, which never answers)."""
        asked = self._client.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in names], request_timeout=PATIENCE)
        limits = {}
        for resource, answer in asked.items():
            try:
                limits[resource.name] = int(answer.result()["max.message.bytes"].value)
            except KafkaException as error:
                logger.debug("no configuration of %s: %s", resource.name, _reason(error))
        return limits

    def create(self, wanted: Mapping[str, int], *, replication: int, config: Mapping[str, str] | None = None) -> None:
        """Makes these topics (name -> partitions) and waits until each has its leaders. Raises TransportError."""
        topics = [NewTopic(name, count, replication, config=dict(config or {})) for name, count in wanted.items()]
        problems = []
        for name, answer in self._client.create_topics(topics, request_timeout=30).items():
            try:
                answer.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    problems.append(f"{name}: {_reason(error)}")
        if problems:
            raise TransportError("topics could not be created: " + "; ".join(problems))
        deadline = time.monotonic() + self._patience
        while not all(self.partitions().get(name, 0) >= count for name, count in wanted.items()):
            if time.monotonic() > deadline:
                raise TransportUnavailable("topics were created, but have no leaders yet")
            time.sleep(0.05)


def _reason(error: KafkaException) -> str:
    cause = error.args[0]
    return str(cause.str() if isinstance(cause, KafkaError) else cause)
