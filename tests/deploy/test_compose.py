"""docker-compose.yml and the Dockerfile, held against the compose schema and against what they run and copy."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

from penstock import settings
from penstock.cli.main import cli

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OURS = sorted(name for name, service in COMPOSE["services"].items() if "build" in service)
PINNED = re.compile(r"[a-z0-9./-]+:\d+\.\d+\.\d+[a-z0-9.-]*(@sha256:[0-9a-f]{64})?")  # with the digest: docs/release.md


def _parse(words: list[str]) -> list[str]:
    """The names of the commands that a command line leads to. Raises click.UsageError as the program would, but runs nothing."""
    command: click.Command = cli
    context = cli.make_context("penstock", list(words))
    named = []
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert name is not None
        assert found is not None
        named.append(name)
        command, context = found, found.make_context(name, rest, parent=context)
    return named


def test_the_file_fits_the_compose_schema() -> None:
    schema = json.loads(Path(__file__).with_name("compose-spec.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    problems = sorted(error.message for error in jsonschema.Draft7Validator(schema).iter_errors(COMPOSE))
    assert problems == []


@pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker command")
def test_docker_compose_itself_takes_the_file() -> None:
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker has no compose plugin here")
    checked = subprocess.run(["docker", "compose", "config", "--quiet"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("service", OURS)
def test_every_command_is_one_that_penstock_has(service: str) -> None:
    """A renamed command, option or topology file would otherwise be found by the first person who starts it."""
    words = COMPOSE["services"][service]["command"]
    assert _parse(words) == {"topics": ["topics", "create"], "worker": ["run"]}[service]
    assert [word for word in words if word.endswith(".yaml") and not (ROOT / word).exists()] == []


def test_a_command_that_penstock_has_not_is_seen() -> None:
    """The parser above refuses what the program would refuse."""
    for words in (["topics", "make", "x.yaml"], ["run", "x.yaml", "--wrkers", "2"], ["run"]):
        with pytest.raises(click.UsageError):
            _parse(words)


@pytest.mark.parametrize("service", OURS)
def test_every_variable_is_a_setting(service: str) -> None:
    given = {name: str(value) for name, value in COMPOSE["services"][service]["environment"].items()}
    assert all(name.startswith(settings.PREFIX) for name in given)
    assert settings.load({}, environ=given).brokers == "kafka:19092"


def test_a_worker_waits_for_kafka_and_its_topics() -> None:
    services = COMPOSE["services"]
    waits = {name: {on: how["condition"] for on, how in services[name]["depends_on"].items()} for name in OURS}
    assert waits == {
        "topics": {"kafka": "service_healthy"},
        "worker": {"kafka": "service_healthy", "topics": "service_completed_successfully"},
    }
    assert "healthcheck" in services["kafka"]


def test_a_worker_is_given_time_to_finish() -> None:
    """Docker's SIGKILL must not come before the worker's own bound is over."""
    default = settings.Settings()
    grace = float(COMPOSE["services"]["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace > default.drain_timeout + default.session_timeout


def test_every_listener_that_clients_are_sent_to_is_listened_on() -> None:
    environment = COMPOSE["services"]["kafka"]["environment"]
    listeners = dict(re.findall(r"(\w+)://[^,]*:(\d+)", environment["KAFKA_LISTENERS"]))
    advertised = dict(re.findall(r"(\w+)://[^,]*:(\d+)", environment["KAFKA_ADVERTISED_LISTENERS"]))
    assert advertised.items() <= listeners.items()
    assert listeners[environment["KAFKA_CONTROLLER_LISTENER_NAMES"]] == environment["KAFKA_CONTROLLER_QUORUM_VOTERS"].rpartition(":")[2]
    assert set(listeners) == {pair.partition(":")[0] for pair in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")}
    assert COMPOSE["services"]["kafka"]["ports"] == [f"127.0.0.1:{advertised['HOST']}:{listeners['HOST']}"]


def test_images_are_pinned() -> None:
    images = [service["image"] for service in COMPOSE["services"].values()] + re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert [image for image in images if not PINNED.fullmatch(image)] == []


def test_the_image_has_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {COMPOSE["services"][service]["image"] for service in OURS} == {f"penstock:{version}"}


def test_everything_that_is_copied_is_there_and_sent_to_the_builder() -> None:
    copied = {path for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE) for path in line.split()[:-1]}
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert [path for path in sorted(copied) if not (ROOT / path).exists()] == []
    assert copied == sent


def test_the_worker_is_nobody_special_and_cannot_write() -> None:
    user = re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)
    assert user == ["10001"]
    assert all(COMPOSE["services"][service]["read_only"] and COMPOSE["services"][service]["cap_drop"] == ["ALL"] for service in OURS)
