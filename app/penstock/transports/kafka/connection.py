"""Connection to the brokers: the settings under the names that each client uses, and the first query of the topics."""

from __future__ import annotations

import logging
import re
import ssl
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from penstock.errors import AccessRefused, SettingsError, TopicMissing, TransportError, TransportUnavailable
from penstock.settings import Settings, exposed, in_the_clear
from penstock.transports.kafka.metadata import MAX_AGE_MS

__all__ = ["Admin", "TopicInfo", "aiokafka_arguments", "librdkafka_arguments", "patience_of"]

logger = logging.getLogger(__name__)

PATIENCE = 2.0  # seconds for an answer that is not required


def patience_of(settings: Settings) -> float:
    """Returns the seconds to wait for an answer of the brokers: at least one, also when `broker_timeout` allows no second try."""
    return max(settings.broker_timeout, 1.0)


def aiokafka_arguments(settings: Settings) -> dict[str, Any]:
    """What AIOKafkaConsumer and AIOKafkaProducer need to connect."""
    check(settings)
    arguments: dict[str, Any] = {
        "bootstrap_servers": settings.brokers,
        "client_id": settings.client_id,
        "security_protocol": settings.security_protocol,
        "metadata_max_age_ms": MAX_AGE_MS,
    }
    if settings.security_protocol.endswith("SSL"):
        arguments["ssl_context"] = _tls(settings)
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
    if settings.security_protocol.endswith("SSL"):
        _tls(settings)  # names the file that is wrong; librdkafka does not, and would ask the terminal for a passphrase
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
    """Raises SettingsError without brokers, and for plaintext to another host that the settings do not allow."""
    if not settings.brokers:
        raise SettingsError("no brokers given: use --brokers HOST:PORT or PENSTOCK_BROKERS (`penstock demo` brings its own)")
    if far := in_the_clear(settings):
        raise SettingsError(
            f"{', '.join(far)}: not this host, and {settings.security_protocol} would send events and passwords in the clear; "
            "use --security-protocol SSL or SASL_SSL, or --insecure-plaintext on a network that you trust"
        )


def _tls(settings: Settings) -> ssl.SSLContext:
    """Returns the TLS context: trusted authorities and our certificate. It checks the broker's name. Raises SettingsError."""

    def encrypted() -> str:
        raise SettingsError(
            f"ssl_keyfile: {settings.ssl_keyfile} is encrypted; give a key without a passphrase, readable by this user only"
        )

    try:
        context = ssl.create_default_context(cafile=settings.ssl_cafile)
    except OSError as error:  # an SSLError is one
        raise SettingsError(f"ssl_cafile: {settings.ssl_cafile} cannot be used: {error}; it holds certificates in PEM") from error
    if settings.ssl_certfile:
        try:
            if settings.ssl_keyfile and (problem := exposed(settings.ssl_keyfile.stat())):
                raise SettingsError(f"ssl_keyfile: {settings.ssl_keyfile} {problem}: chmod 600 it")
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, encrypted)
        except OSError as error:
            pair = f"{settings.ssl_certfile} and {settings.ssl_keyfile}"
            raise SettingsError(
                f"ssl_certfile, ssl_keyfile: {pair} cannot be used: {error}; they are a certificate and its key in PEM"
            ) from error
    return context


DEFAULT_LIMIT = 1_048_588  # the brokers' default for max.message.bytes


class TopicInfo(NamedTuple):
    """A topic's partitions, and the largest record batch that it takes, in bytes (None: not known)."""

    partitions: int
    max_message_bytes: int | None


class Admin:
    """Queries and creates topics. Brokers that do not answer are tried again for `broker_timeout` seconds.

    A login or a certificate that is refused ends the retries at once: a retry would be refused too.
    """

    def __init__(self, settings: Settings) -> None:
        self._brokers = settings.brokers
        self._patience = settings.broker_timeout
        self._user = settings.sasl_username or (f"the owner of {settings.ssl_certfile}" if settings.ssl_certfile else "")
        self._trouble: KafkaError | None = None  # librdkafka's last error while it connected; its exceptions contain only that it failed
        arguments = {**librdkafka_arguments(settings), "log_level": 0, "error_cb": self._met}
        self._client = AdminClient(arguments, logger=logging.getLogger("penstock.quiet"))

    def partitions(self) -> dict[str, int]:
        """Returns every topic of the cluster with the number of its partitions. Raises TransportUnavailable, AccessRefused."""
        deadline = time.monotonic() + self._patience
        pause = 0.25
        while True:
            left = max(deadline - time.monotonic(), 0.1)
            try:
                topics = self._client.list_topics(timeout=min(left, 5.0)).topics
                return {name: len(topic.partitions) for name, topic in topics.items()}
            except KafkaException as error:
                self._client.poll(0)  # calls `_met`
                if (refusal := _refusal(self._trouble)) is not None:
                    raise refusal from error
                reason = self._trouble.str() if self._trouble else _reason(error)
                if time.monotonic() + pause >= deadline:
                    raise TransportUnavailable(
                        f"no broker answered at {self._brokers} within {self._patience:g} s ({reason}); "
                        "is it running, and reachable from here? the setting broker_timeout is how long to try"
                    ) from error
                left = deadline - time.monotonic()
                logger.warning("no broker answers at %s yet, trying for another %.0f s: %s", self._brokers, left, reason)
            time.sleep(pause)
            pause = min(pause * 2, 5.0)

    def cluster_id(self) -> str:
        """Returns the id that the cluster got when it was created. Raises TransportUnavailable, AccessRefused."""
        self.partitions()  # retries until the brokers answer
        return str(self._client.list_topics(timeout=PATIENCE).cluster_id)

    def _met(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN and _refusal(self._trouble) is None:
            self._trouble = error

    def describe(self, names: Iterable[str]) -> dict[str, TopicInfo]:
        """Returns these topics. Raises as `require`."""
        partitions = self.require(names)
        limits = self._limits(partitions)
        return {name: TopicInfo(count, limits.get(name)) for name, count in partitions.items()}

    def require(self, names: Iterable[str], fix: str = "`penstock topics create TOPOLOGY` makes what a topology needs") -> dict[str, int]:
        """Returns the partitions of these topics.

        Raises TopicMissing with all that do not exist or may not be seen, and the `fix`; TransportUnavailable, AccessRefused.
        """
        wanted = sorted(set(names))
        partitions = self.partitions()
        missing = [name for name in wanted if not partitions.get(name)]
        if missing:
            unseen = f" (or may not be seen by {self._user})" if self._user else ""
            raise TopicMissing(f"no such topic{unseen}: {', '.join(missing)}; {fix}")
        return {name: partitions[name] for name in wanted}

    def _limits(self, names: Iterable[str]) -> dict[str, int]:
        """Returns max.message.bytes by topic."""
        return {name: int(found["max.message.bytes"]) for name, found in self.configs(names).items()}

    def configs(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """Returns the configuration of each topic; none without an answer of the broker (no permission, or a mock cluster)."""
        asked = self._client.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in names], request_timeout=PATIENCE)
        found = {}
        for resource, answer in asked.items():
            try:
                found[resource.name] = {name: entry.value or "" for name, entry in answer.result().items()}
            except KafkaException as error:
                logger.debug("no configuration of %s: %s", resource.name, _reason(error))
        return found

    def allowed(self, topics: Iterable[str], group: str) -> dict[str, frozenset[str]]:
        """Returns what this user may do with each topic, and under "" with the group, such as READ: what the brokers say of it.

        Without an authorizer everything is allowed. What the brokers do not answer for is left out.
        """
        patience = max(PATIENCE, min(self._patience, 10.0))
        futures = {
            **self._client.describe_topics(TopicCollection([*topics]), include_authorized_operations=True, request_timeout=patience),
            "": self._client.describe_consumer_groups([group], include_authorized_operations=True, request_timeout=patience)[group],
        }
        found = {}
        for name, answer in futures.items():
            try:
                operations = answer.result().authorized_operations
            except KafkaException as error:
                logger.debug("what may be done with %s is not known: %s", name or group, _reason(error))
                continue
            if operations is not None:
                found[name] = frozenset(one.name for one in operations)
        return found

    def create(self, wanted: Mapping[str, int], *, replication: int, config: Mapping[str, str] | None = None) -> None:
        """Creates these topics (name -> partitions) and waits until each has its leaders. Raises TransportError."""
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


def _refusal(trouble: KafkaError | None) -> AccessRefused | None:
    """Returns librdkafka's error as a refusal when no retry can succeed, else None."""
    if trouble is None:
        return None
    if trouble.code() == KafkaError._AUTHENTICATION:
        return AccessRefused(f"authentication failed: {trouble.str()}; look at sasl_mechanism, sasl_username and the password")
    if trouble.code() == KafkaError._SSL or "certificate verify failed" in trouble.str():  # the code depends on the call that failed
        return AccessRefused(
            f"the broker's certificate was not accepted: {trouble.str()}; ssl_cafile must hold the authority that signed it, "
            "and it must be issued for the host that brokers names"
        )
    if re.search(r"alert (\w+ )?(certificate|unknown ca)", trouble.str()):
        return AccessRefused(f"the broker did not accept our certificate: {trouble.str()}; look at ssl_certfile and ssl_keyfile")
    return None


def _reason(error: KafkaException) -> str:
    cause = error.args[0]
    return str(cause.str() if isinstance(cause, KafkaError) else cause)
