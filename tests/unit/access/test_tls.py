"""The service's certificate in real handshakes: its versions, client certificates, and new files while it serves."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from penstock.access.tls import ServerTls
from penstock.errors import ConfigError
from tests.clock import Clock
from tests.kafka.certificates import Authority, Certificate


class Files(NamedTuple):
    """The files of a service, and two authorities with a client's certificate of each."""

    chain: Path
    key: Path
    clients: Path
    one: Authority
    other: Authority


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority, dict[str, Certificate]]:
    folder = tmp_path_factory.mktemp("authorities")
    one, other = Authority(folder, "one"), Authority(folder, "other")
    signed = {
        "server": one.sign("server", "DNS:localhost"), "renewed": one.sign("renewed", "DNS:localhost"), "client": one.sign("client"),
        "stranger": other.sign("stranger"),
    }  # fmt: skip
    return one, other, signed


@pytest.fixture
def files(made: tuple[Authority, Authority, dict[str, Certificate]], tmp_path: Path) -> Files:
    one, other, signed = made
    found = Files(tmp_path / "server.crt", tmp_path / "server.key", tmp_path / "clients.pem", one, other)
    install(found, signed["server"])
    shutil.copy(one.certificate, found.clients)
    return found


def install(files: Files, certificate: Certificate) -> None:
    shutil.copy(certificate.certificate, files.chain)
    shutil.copy(certificate.key, files.key)
    files.key.chmod(0o600)


def tls(files: Files, clock: Clock | None = None, *, clients: bool = True) -> ServerTls:
    return ServerTls(files.chain, files.key, files.clients if clients else None, clock or Clock(time.time()))


def shake(
    server: ssl.SSLContext, files: Files, client: Certificate | None = None, *, name: str | None = "localhost",
    session: ssl.SSLSession | None = None, newest: ssl.TLSVersion | None = None, context: ssl.SSLContext | None = None,
) -> tuple[bytes | None, str, ssl.SSLSession | None]:  # fmt: skip
    """Connects once; returns the client's certificate as the server sees it, the common name of the server's, and the client's session.

    Raises SSLError when either side refuses.
    """
    if context is None:
        context = ssl.create_default_context(cafile=files.one.certificate)
        context.check_hostname = name is not None
        if newest is not None:
            context.maximum_version = newest
            context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        if client is not None:
            context.load_cert_chain(client.certificate, client.key)
    near, far = socket.socketpair()
    seen: list[bytes | Exception | None] = []

    def serve() -> None:
        try:
            with server.wrap_socket(far, server_side=True) as accepted:
                seen.append(accepted.getpeercert(binary_form=True))
                accepted.sendall(b"x")
        except (ssl.SSLError, OSError) as error:
            seen.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with near:
            near.settimeout(10)
            with context.wrap_socket(near, server_hostname=name, session=session) as connected:
                connected.recv(1)
                shown, kept = connected.getpeercert() or {}, connected.session
    finally:
        thread.join(10)
    (found,) = seen
    if isinstance(found, Exception):
        raise found
    subject: tuple[tuple[tuple[str, str], ...], ...] = shown["subject"]  # type: ignore[assignment]  # typeshed has it looser
    return found, dict(pair for pairs in subject for pair in pairs)["commonName"], kept


def test_client_may_show_a_certificate_and_then_it_must_be_good(
    files: Files, made: tuple[Authority, Authority, dict[str, Certificate]]
) -> None:
    signed, context = made[2], tls(files).context
    assert shake(context, files)[:2] == (None, "server")
    der = ssl.PEM_cert_to_DER_cert(signed["client"].certificate.read_text())
    assert shake(context, files, signed["client"])[0] == der
    with pytest.raises(ssl.SSLError):
        shake(context, files, signed["stranger"])


def test_without_authorities_no_certificate_is_asked_for(files: Files, made: tuple[Authority, Authority, dict[str, Certificate]]) -> None:
    assert shake(tls(files, clients=False).context, files, made[2]["client"])[:2] == (None, "server")


def test_old_versions_of_tls_are_refused(files: Files) -> None:
    assert shake(tls(files).context, files, newest=ssl.TLSVersion.TLSv1_2)[1] == "server"
    with pytest.raises(ssl.SSLError), pytest.warns(DeprecationWarning, match="TLSv1_1"):
        shake(tls(files).context, files, newest=ssl.TLSVersion.TLSv1_1)


@pytest.mark.parametrize("name", ["localhost", None])
def test_renewed_certificate_is_served_without_a_restart(
    files: Files, made: tuple[Authority, Authority, dict[str, Certificate]], name: str | None
) -> None:
    """Also to a client that names no host."""
    clock = Clock()
    served = tls(files, clock)
    install(files, made[2]["renewed"])
    assert shake(served.context, files, name=name)[1] == "server", "the files are looked at once per second"
    clock.now += 1
    assert shake(served.context, files, name=name)[1] == "renewed"
    assert served.pem().chain == files.chain.read_bytes()


def test_authorities_of_clients_change_with_their_file(files: Files, made: tuple[Authority, Authority, dict[str, Certificate]]) -> None:
    """Also those that were taken away, and for clients that were connected before."""
    clock, signed = Clock(), made[2]
    served = tls(files, clock)
    context = ssl.create_default_context(cafile=files.one.certificate)
    context.load_cert_chain(signed["client"].certificate, signed["client"].key)
    session = shake(served.context, files, context=context)[2]
    shutil.copy(files.other.certificate, files.clients)
    clock.now += 1
    assert shake(served.context, files, signed["stranger"])[0] is not None
    with pytest.raises(ssl.SSLError):
        shake(served.context, files, signed["client"])
    with pytest.raises(ssl.SSLError):
        shake(served.context, files, context=context, session=session)


def test_half_written_files_leave_the_old_ones(
    files: Files, made: tuple[Authority, Authority, dict[str, Certificate]], caplog: pytest.LogCaptureFixture
) -> None:
    """The certificate is there, and its key not yet: this is how renewals look in between."""
    clock, renewed = Clock(), made[2]["renewed"]
    served = tls(files, clock)
    shutil.copy(renewed.certificate, files.chain)
    clock.now += 1
    assert shake(served.context, files)[1] == "server"
    assert "cannot be used" in served.problem
    assert served.pem().key == made[2]["server"].key.read_bytes()
    install(files, renewed)
    clock.now += 1
    assert shake(served.context, files)[1] == "renewed"
    assert served.problem == ""
    assert len([record for record in caplog.records if "stays as it was" in record.getMessage()]) == 1


def test_files_that_cannot_be_used_are_an_error_at_the_start(
    files: Files, made: tuple[Authority, Authority, dict[str, Certificate]]
) -> None:
    files.key.chmod(0o644)
    with pytest.raises(ConfigError, match="can be used by every user of this host"):
        tls(files)
    files.key.chmod(0o600)
    files.clients.write_text("no certificate")
    with pytest.raises(ConfigError, match="certificates of authorities cannot be used"):
        tls(files)
    shutil.copy(made[2]["renewed"].certificate, files.chain)
    with pytest.raises(ConfigError, match="do not belong together"):
        tls(files, clients=False)
    files.key.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        tls(files)
