"""How the brokers are reached: the settings that are refused before anything is sent, and that no password is shown."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import SettingsError
from penstock.settings import Secret, Settings
from penstock.transports.kafka.connection import aiokafka_arguments, librdkafka_arguments

CLIENTS = pytest.mark.parametrize("arguments", [aiokafka_arguments, librdkafka_arguments])
Arguments = Callable[[Settings], dict[str, Any]]


@CLIENTS
@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SASL_PLAINTEXT"])
def test_events_and_passwords_leave_this_host_in_the_clear_only_when_allowed(arguments: Arguments, protocol: str) -> None:
    """Also for settings that were made in code, which no settings file has checked."""
    with pytest.raises(SettingsError, match=r"kafka:9092: not this host.*--insecure-plaintext"):
        arguments(Settings(brokers="localhost:9092,kafka:9092", security_protocol=protocol))
    assert arguments(Settings(brokers="kafka:9092", security_protocol=protocol, insecure_plaintext=True))


@CLIENTS
def test_brokers_must_be_named(arguments: Arguments) -> None:
    with pytest.raises(SettingsError, match="no brokers given"):
        arguments(Settings())


@CLIENTS
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_of_authorities_that_cannot_be_read_is_named(arguments: Arguments, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content:
        path.write_text(content)
    with pytest.raises(SettingsError, match=r"ssl_cafile: .*ca\.pem cannot be used"):
        arguments(Settings(brokers="kafka:9093", security_protocol="SSL", ssl_cafile=path))


@CLIENTS
def test_a_client_certificate_that_cannot_be_read_is_named(arguments: Arguments, tmp_path: Path) -> None:
    certificate, key = tmp_path / "me.crt", tmp_path / "me.key"
    with pytest.raises(SettingsError, match=r"ssl_certfile, ssl_keyfile: .*me\.crt and .*me\.key cannot be used"):
        arguments(Settings(brokers="kafka:9093", security_protocol="SSL", ssl_certfile=certificate, ssl_keyfile=key))


@CLIENTS
@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command to make a key")
def test_an_encrypted_key_is_refused_instead_of_asked_for(arguments: Arguments, tmp_path: Path) -> None:
    """OpenSSL would ask the terminal, and a worker without one would hang."""
    certificate, key = tmp_path / "me.crt", tmp_path / "me.key"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-subj", "/CN=me", "-passout", "pass:secret"]
    subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    with pytest.raises(SettingsError, match=r"ssl_keyfile: .*me\.key is encrypted"):
        arguments(Settings(brokers="kafka:9093", security_protocol="SSL", ssl_certfile=certificate, ssl_keyfile=key))


def test_no_password_is_in_what_a_log_may_show() -> None:
    settings = Settings(brokers="kafka:9093", security_protocol="SASL_SSL", sasl_username="ada", sasl_password=Secret("hunter2"))
    arguments = aiokafka_arguments(settings)
    assert arguments["sasl_plain_password"] == librdkafka_arguments(settings)["sasl.password"] == "hunter2"
    assert "hunter2" not in repr(settings) + str(settings.sasl_password)


@CLIENTS
def test_a_key_that_others_can_read_is_refused(arguments: Arguments, tmp_path: Path) -> None:
    certificate, key = tmp_path / "me.crt", tmp_path / "me.key"
    key.write_text("KEY")
    key.chmod(0o644)
    with pytest.raises(SettingsError, match=r"ssl_keyfile: .*me\.key .*: chmod 600 it"):
        arguments(Settings(brokers="kafka:9093", security_protocol="SSL", ssl_certfile=certificate, ssl_keyfile=key))
