"""What a shell offers: the names that are there, without loading what runs models."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest

from penstock.cli.complete import ARGUMENTS, FLAGS, complete
from penstock.cli.main import cli
from penstock.registry.directory import DirectoryRegistry
from penstock.settings import Settings, flag_name
from penstock.testing import models

TOPOLOGY = """\
topology: shop
sources: {orders: {topic: orders, schema: order.avsc}}
nodes: {price: {kind: model, model: pricing@1, inputs: {x: amount}}, risk: {kind: model, model: risk@live, inputs: {x: amount}}}
sinks: {scores: {topic: scores, fields: {risk: risk}}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for place in ("topologies", "elsewhere"):
        Path(place).mkdir()
    Path("topologies/shop.yaml").write_text(TOPOLOGY)
    for name in ("shop.test.yaml", "returns.yml", "notes.txt"):
        Path("topologies", name).write_text("")
    Path("elsewhere/far.yaml").write_text("")
    registry = DirectoryRegistry("models")
    for name, versions in {"pricing": 2, "risk": 1}.items():
        for number in range(versions):
            registry.publish(name, models.linear([number]))
    registry.alias("risk", "live", "1")
    Path("models/.push-left").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("run ", ["returns", "shop"]),
        ("validate s", ["shop"]),
        ("--log-level debug --config penstock.toml status --watch ", ["returns", "shop"]),
        ("status --brokers localhost:9092 sh", ["shop"]),
        ("status --topologies elsewhere ", ["far"]),
        ("topics create --dry-run ", ["returns", "shop"]),
        ("deploy shop ", ["price=pricing@1", "price=pricing@2", "risk=risk@1", "risk=risk@live"]),
        ("deploy shop price=pricing@2 ri", ["risk=risk@1", "risk=risk@live"]),
        ("deploy topologies/shop.yaml risk=pr", ["risk=pricing@1", "risk=pricing@2"]),
        ("model show ", ["pricing", "risk"]),
        ("model verify risk@1 risk@", ["risk@1", "risk@live"]),
        ("model alias ", ["pricing", "risk"]),
        ("model alias risk ", ["live"]),
        ("model alias risk live ", ["1"]),
        ("model show --models nowhere ", None),
        ("deploy gone ", None),
        ("run --bro", None),
        ("run --brokers ", None),
        ("run topologies/s", None),
        ("settings ", None),
        ("", None),
    ],
)
@pytest.mark.usefixtures("folder")
def test_names_are_offered_where_they_belong(line: str, offered: list[str] | None) -> None:
    """None: click completes it, as a path, an option or a command."""
    *words, word = line.split(" ")
    assert complete(words, word) == offered


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        elif command is not None:
            yield (*path, name), command


def test_table_is_in_step_with_the_commands() -> None:
    """Every argument that names a topology or a model is completed, and every option without a value is known as one."""
    named = {"topology", "reference", "references"}
    assert {path for path, one in commands() if named & {parameter.name for parameter in one.params}} <= ARGUMENTS.keys()
    assert ARGUMENTS.keys() <= {path for path, _ in commands()}
    flags = {
        option
        for _, one in commands()
        for parameter in one.params
        if isinstance(parameter, click.Option) and parameter.is_flag
        for option in parameter.opts
    }
    assert flags <= FLAGS | {flag_name(one.name) for one in fields(Settings)}


@pytest.mark.parametrize("line", ["run ", "deploy shop ", "model show ", "explain "])
def test_completion_loads_nothing_heavy(folder: Path, line: str) -> None:
    text = (
        "import sys; from penstock.cli import main; from penstock.cli.complete import complete;"
        f"assert complete({line.split(' ')[:-1]!r}, '');"
        "print([name for name in ('onnxruntime', 'numpy', 'aiokafka', 'faust', 'confluent_kafka', 'fastavro') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("penstock run sh", ["shop"]),
        ("penstock deploy shop risk=risk@l", ["live"]),
        ("penstock deploy shop price=", ["pricing@1", "pricing@2"]),
    ],
)
def test_bash_replaces_the_piece_that_it_cuts(folder: Path, line: str, offered: list[str]) -> None:
    """Bash cuts a word at "=" and "@", so that an offer begins behind the last of them."""
    script = f"""
        penstock() {{ {sys.executable} -m penstock "$@"; }}
        eval "$(_PENSTOCK_COMPLETE=bash_source penstock)"
        COMP_LINE={line!r} COMP_POINT={len(line)}
        env() {{ while [[ $1 == *=* ]]; do export "$1"; shift; done; "$@"; }}
        _penstock_completion penstock
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    found = done.stdout.split()
    assert [one for one in found if one in offered] == offered, done.stderr
    assert not [one for one in found if "=" in one]
