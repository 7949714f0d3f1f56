"""TLS, logins and permissions on a broker that insists on them: what is let through, what is refused, and in which words."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from penstock.cli.options import CONNECTION
from penstock.errors import AccessRefused, TransportUnavailable
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.settings import Secret, Settings, environment_name, flag_name
from penstock.testing import committed, end_offsets, models, produce, read_all, wait_for
from penstock.testing.broker import ExternalBroker
from penstock.testing.jvm_kafka import JvmKafka, require_java
from penstock.transports.kafka.connection import Admin, aiokafka_arguments
from tests.kafka.certificates import Authority, Certificate
from tests.kafka.running import TOPOLOGY, Job, make_job

pytestmark = [pytest.mark.broker, pytest.mark.measured]

PASSWORD = "correct-horse-battery"
WORKER = "worker"  # may do what docs/security.md lists
RELEASER = "releaser"  # may do what docs/security.md lists for people who release
OPERATOR = "operator"  # may do everything
LISTENERS = {"SCRAM": "SASL_SSL", "PLAIN": "SASL_SSL", "MTLS": "SSL", "ELSEWHERE": "SSL"}
LOGIN = "org.apache.kafka.common.security"


class Site(NamedTuple):
    """A broker behind TLS, and the files of those who talk to it."""

    kafka: JvmKafka
    ours: Authority
    stranger: Authority
    operator: Certificate
    unknown: Certificate  # signed by an authority that the broker does not trust

    @property
    def broker(self) -> ExternalBroker:
        """Its plaintext listener, where everything is allowed: for what the test itself does."""
        return ExternalBroker(self.kafka.bootstrap)

    def scram(self, user: str = WORKER, password: str = PASSWORD) -> Settings:
        return Settings(
            brokers=self.kafka.addresses["SCRAM"],
            security_protocol="SASL_SSL",
            ssl_cafile=self.ours.certificate,
            sasl_username=user,
            sasl_password=Secret(password),
            broker_timeout=3,
        )

    def tls(self, listener: str = "MTLS", certificate: Certificate | None = None) -> Settings:
        return Settings(
            brokers=self.kafka.addresses[listener],
            security_protocol="SSL",
            ssl_cafile=self.ours.certificate,
            ssl_certfile=certificate.certificate if certificate else None,
            ssl_keyfile=certificate.key if certificate else None,
            broker_timeout=3,
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    try:
        require_java()
    except TransportUnavailable as reason:
        pytest.skip(f"no broker with TLS: {reason}")
    if shutil.which("openssl") is None:
        pytest.skip("no broker with TLS: there is no openssl command to make certificates")
    folder = tmp_path_factory.mktemp("certificates")
    ours, stranger = Authority(folder, "ours"), Authority(folder, "stranger")
    server = ours.sign("server", "IP:127.0.0.1,DNS:localhost")
    elsewhere = ours.sign("elsewhere", "DNS:kafka.example.org")
    kafka = JvmKafka(
        listeners=LISTENERS,
        properties=_properties(ours, server, elsewhere),
        scram={WORKER: PASSWORD, RELEASER: PASSWORD, OPERATOR: PASSWORD},
    )
    try:
        yield Site(kafka, ours, stranger, ours.sign(OPERATOR), stranger.sign("unknown"))
    finally:
        kafka.stop()


def _properties(ours: Authority, server: Certificate, elsewhere: Certificate) -> dict[str, str]:
    stores = {"truststore": ours.certificate, "keystore": server.chain}
    return {
        **{f"ssl.{store}.type": "PEM" for store in stores},
        **{f"ssl.{store}.location": str(path) for store, path in stores.items()},
        "listener.name.elsewhere.ssl.keystore.type": "PEM",
        "listener.name.elsewhere.ssl.keystore.location": str(elsewhere.chain),
        "listener.name.mtls.ssl.client.auth": "required",
        "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.scram.scram-sha-512.sasl.jaas.config": f"{LOGIN}.scram.ScramLoginModule required;",
        "listener.name.plain.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.plain.plain.sasl.jaas.config": f'{LOGIN}.plain.PlainLoginModule required user_{OPERATOR}="{PASSWORD}";',
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:ANONYMOUS;User:CN={OPERATOR};User:{OPERATOR}",
    }


def environment(folder: Path, settings: Settings) -> dict[str, str]:
    """The connection as settings in text, the password in a file."""
    given = {name: str(value) for name in CONNECTION if (value := getattr(settings, name)) and name != "insecure_plaintext"}
    if settings.sasl_password:
        (folder / "password").write_text(settings.sasl_password.reveal() + "\n")
        (folder / "password").chmod(0o600)
        given["sasl_password_file"] = "password"
    return given


def penstock(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, **{environment_name(name): value for name, value in settings.items()}}
    command = [sys.executable, "-m", "penstock", *arguments]
    return subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, check=False, timeout=60)


def allow(site: Site, job: Job, *, takes_back: bool = False) -> None:
    """Gives the worker what docs/security.md says that it needs, and nothing else."""
    read, write, look = AclOperation.READ, AclOperation.WRITE, AclOperation.DESCRIBE_CONFIGS
    topic, group = ResourceType.TOPIC, ResourceType.GROUP
    needed = [(topic, job.source, read), (topic, job.sink, write), (topic, job.dead, write), (group, job.group, read)]
    needed += [(topic, job.releases.control, read), (topic, job.releases.status, write)]
    needed += [(topic, name, look) for name in (job.source, job.sink, job.dead, *job.releases)]
    if takes_back:
        needed += [(topic, job.releases.control, write), (topic, job.releases.status, read)]
    grant(site, WORKER, needed)


def allow_releases(site: Site, job: Job) -> None:
    """Gives a person who releases what docs/security.md lists of topics, and nothing else."""
    topic = ResourceType.TOPIC
    control, status = job.releases
    needed = [(topic, control, AclOperation.READ), (topic, control, AclOperation.WRITE), (topic, status, AclOperation.READ)]
    grant(site, RELEASER, needed)


def grant(site: Site, user: str, needed: list[tuple[ResourceType, str, AclOperation]]) -> None:
    rules = [
        AclBinding(kind, name, ResourcePatternType.LITERAL, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
        for kind, name, operation in needed
    ]
    admin = AdminClient({"bootstrap.servers": site.kafka.bootstrap})
    for done in admin.create_acls(rules).values():
        done.result(15)


async def aiokafka_connects(settings: Settings) -> None:
    """The worker's own client, on its own: `penstock run` asks librdkafka first, which would hide what this one does."""
    client = AIOKafkaClient(**aiokafka_arguments(settings))
    try:
        await client.bootstrap()
    finally:
        await client.close()


def refused_by_aiokafka(settings: Settings, caplog: pytest.LogCaptureFixture) -> str:
    with pytest.raises(KafkaConnectionError):
        asyncio.run(aiokafka_connects(settings))
    return caplog.text


# --- let through ------------------------------------------------------------------------------------------------------


def test_a_worker_with_a_password_and_the_least_permissions_answers(site: Site, tmp_path: Path) -> None:
    """SASL_SSL with SCRAM-SHA-512, the password from a file: it reads, answers, writes dead letters and commits."""
    job = make_job(site.broker, tmp_path, partitions=2)
    allow(site, job)
    with job.run(**environment(tmp_path, site.scram()), log_level="debug") as worker:
        produce(site.broker, [*map(job.reading, range(10)), Record(job.source, b"{not json", b"bad")])
        job.wait_for_answers(10)
        wait_for(lambda: len(read_all(site.broker, job.dead)) == 1, "the dead letter")
        assert worker.stop() == 0, worker.log
    assert committed(site.broker, job.group, job.source) == end_offsets(site.broker, job.source)
    assert PASSWORD not in worker.log


def test_validate_lists_what_the_worker_may_not_do(site: Site, tmp_path: Path) -> None:
    """Without a right all are named; with the least permissions that a worker needs, there is nothing to say."""
    job = make_job(site.broker, tmp_path, partitions=2)
    flags, given = ("validate", str(job.file), "--live", "--format", "json"), environment(tmp_path, site.scram())
    look, topic = AclOperation.DESCRIBE, ResourceType.TOPIC
    grant(site, WORKER, [(topic, name, look) for name in (job.source, job.sink, job.dead, *job.releases)])
    done = penstock(tmp_path, *flags, **given, application=job.application)
    assert done.returncode == 1, done.stderr
    (access,) = [one for one in json.loads(done.stdout)["checks"] if one["check"] == "access" and one["state"] == "failed"]
    assert access["message"].startswith("worker lacks ")
    for right in (f"Read on topic {job.source}", f"Write on topic {job.sink}", f"Write on topic {job.dead}"):
        assert right in access["message"]
    allow(site, job)
    grant(site, WORKER, [(topic, job.releases.status, AclOperation.READ)])
    done = penstock(tmp_path, *flags, **given, application=job.application)
    states = {one["check"]: one["state"] for one in json.loads(done.stdout)["checks"]}
    assert (done.returncode, states["access"]) == (0, "ok"), done.stdout
    assert PASSWORD not in done.stdout + done.stderr


def test_people_who_release_need_no_more_than_the_table_lists(site: Site, tmp_path: Path) -> None:
    """They see the reports, know whose count, and write a release."""
    job = make_job(site.broker, tmp_path, partitions=1)
    allow(site, job)
    allow_releases(site, job)
    asked = environment(tmp_path, site.scram(RELEASER)) | {"application": job.application, "unsigned_control": "true"}
    DirectoryRegistry(tmp_path / "models").publish("double", models.linear([3.0]))
    with job.run(**environment(tmp_path, site.scram()), unsigned_control="true") as worker:
        worker.wait_until_assigned()
        blind = penstock(tmp_path, "status", str(job.file), "--format", "json", **asked)
        assert "grant Describe on the group" in json.loads(blind.stdout)["unchecked"]
        blind = penstock(tmp_path, "deploy", str(job.file), "double=double@2", "--format", "json", **asked)
        assert blind.returncode == 0, blind.stdout + blind.stderr
        assert "grant Describe on the group" in json.loads(blind.stdout)["unchecked"]
        assert blind.stderr.index("grant Describe on the group") < blind.stderr.index("announced ")
        grant(site, RELEASER, [(ResourceType.GROUP, job.group, AclOperation.DESCRIBE)])
        shown = penstock(tmp_path, "status", str(job.file), "--format", "json", **asked)
        assert shown.returncode == 0, shown.stdout + shown.stderr
        assert json.loads(shown.stdout)["unchecked"] is None
        done = penstock(tmp_path, "rollback", str(job.file), "--format", "json", **asked)
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["unchecked"] is None
        assert "not checked" not in done.stderr
        assert worker.stop() == 0, worker.log


def test_worker_that_takes_a_generation_back_needs_no_more_than_the_table_lists(site: Site, tmp_path: Path) -> None:
    """`on_invalid: rollback`: Write on the control log, and Read on the reports. Read on its group shows it whose count."""
    job = make_job(site.broker, tmp_path, partitions=1)
    job.file.write_text(job.file.read_text() + "releases: {on_invalid: rollback}\n")
    allow(site, job, takes_back=True)
    DirectoryRegistry(tmp_path / "models").publish("double", models.up_to(1000.0, 3.0))
    operator = {"brokers": site.kafka.bootstrap, "insecure_plaintext": "true", "application": job.application, "unsigned_control": "true"}
    with job.run(**environment(tmp_path, site.scram()), unsigned_control="true", guard_rows="100") as worker:
        job.send(range(1, 101))
        job.wait_for_answers(100)
        done = penstock(tmp_path, "deploy", str(job.file), "double=double@2", **operator)
        assert done.returncode == 0, done.stdout + done.stderr
        job.send(range(2000, 2100))
        wait_for(
            lambda: "generation 2 is live" in worker.log or worker.process.poll() is not None, lambda: f"the rollback\n{worker.log}", 60
        )
        assert "generation 2 is live" in worker.log, worker.log
        assert "reports are not checked" not in worker.log
        assert worker.stop() == 0, worker.log


def test_a_worker_with_a_client_certificate_answers(site: Site, tmp_path: Path) -> None:
    job = make_job(site.broker, tmp_path, partitions=1)
    with job.run(**environment(tmp_path, site.tls(certificate=site.operator))) as worker:
        job.send(range(5))
        job.wait_for_answers(5)
        assert worker.stop() == 0, worker.log


@pytest.mark.parametrize("listener", ["SCRAM", "PLAIN", "MTLS"])
def test_topics_are_made_by_whoever_may(site: Site, tmp_path: Path, listener: str) -> None:
    """Connected by flags alone, but for the password, which has none."""
    settings = site.tls(certificate=site.operator) if listener == "MTLS" else site.scram(OPERATOR)
    if listener == "PLAIN":
        settings = replace(settings, brokers=site.kafka.addresses["PLAIN"], sasl_mechanism="PLAIN")
    (tmp_path / "orders.yaml").write_text(TOPOLOGY.format(source=f"{listener}.in", sink=f"{listener}.out", dead=f"{listener}.dead"))
    flags = [part for name, value in environment(tmp_path, settings).items() for part in (flag_name(name), value)]
    done = penstock(tmp_path, "topics", "create", "orders.yaml", "--partitions", "1", *flags)
    assert done.returncode == 0, done.stderr
    assert Admin(settings).describe([f"{listener}.in"])[f"{listener}.in"].partitions == 1


# --- refused ----------------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_called_that_and_not_tried_again(site: Site, tmp_path: Path) -> None:
    job = make_job(site.broker, tmp_path, partitions=1)
    settings = replace(site.scram(password="wrong-horse"), broker_timeout=60)
    with job.run(**environment(tmp_path, settings), log_level="debug") as worker:
        assert worker.wait(30) == 7, worker.log
    assert "authentication failed" in worker.log
    assert "no broker answer" not in worker.log
    assert "wrong-horse" not in worker.log


def test_a_user_without_permission_is_told_so(site: Site, tmp_path: Path) -> None:
    """Brokers do not show a topic to those who may not read it."""
    job = make_job(site.broker, tmp_path, partitions=1)
    done = penstock(tmp_path, "run", str(job.file), **environment(tmp_path, site.scram()))
    assert done.returncode == 5, done.stderr
    assert f"may not be seen by {WORKER}" in done.stderr


@pytest.mark.parametrize("who", ["nobody", "unknown"])
def test_a_client_without_a_certificate_that_the_broker_trusts_is_refused(site: Site, who: str) -> None:
    settings = site.tls(certificate=site.unknown if who == "unknown" else None)
    with pytest.raises(AccessRefused, match=r"did not accept our certificate.*ssl_certfile"):
        Admin(settings).partitions()


def test_a_certificate_of_an_unknown_authority_is_refused_by_both_clients(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    settings = replace(site.scram(), ssl_cafile=site.stranger.certificate)
    with pytest.raises(AccessRefused, match=r"broker's certificate was not accepted.*ssl_cafile must hold the authority"):
        Admin(settings).partitions()
    assert "certificate verify failed" in refused_by_aiokafka(settings, caplog)


def test_a_certificate_for_another_host_is_refused_by_both_clients(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    settings = site.tls("ELSEWHERE")
    with pytest.raises(AccessRefused, match="must be issued for the host that brokers names"):
        Admin(settings).partitions()
    assert "certificate is not valid for '127.0.0.1'" in refused_by_aiokafka(settings, caplog)


def test_a_listener_without_tls_is_not_taken_for_a_broken_certificate(site: Site) -> None:
    with pytest.raises(TransportUnavailable, match=r"no broker answered .*SSL connection closed by peer"):
        Admin(replace(site.tls(), brokers=site.kafka.bootstrap)).partitions()
