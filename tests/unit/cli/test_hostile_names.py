"""Every command over names and descriptions that somebody made to steer a terminal: none of their control characters comes out.

In texts of models, topologies, schemas, events, cases, keys and file names, and in what is typed; as text, as JSON, and as an error. The
commands that need a broker are tried in tests/kafka/test_hostile_names.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click import Group

from penstock.cli.main import COMMANDS, cli, main
from penstock.control.trust.keys import SigningKey
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from tests.hostile import EVIL, harmless
from tests.unit.cli.done import Done

NAME = EVIL.replace("\x00", "").replace("/", "")  # as a file's name

TOPOLOGY = """\
topology: double
sources: {numbers: {topic: numbers, schema: number.avsc}}
nodes: {double: {kind: model, model: double@1}}
sinks: {doubled: {topic: doubled, fields: {x: x, y: double}}}
"""


def quoted(text: str) -> str:
    return json.dumps(text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("schemas", "topologies", "evil"):
        Path(name).mkdir()
    schema = {"type": "record", "name": "Number", "fields": [{"name": "x", "type": "float"}]}
    Path("schemas/number.avsc").write_text(json.dumps(schema))
    Path("schemas/evil.avsc").write_text(json.dumps({**schema, "name": EVIL, "doc": EVIL}))
    Path(f"schemas/{NAME}.avsc").write_text(json.dumps({**schema, "fields": [{"name": EVIL, "type": EVIL, "doc": EVIL}]}))
    Path("double.yaml").write_text(TOPOLOGY)
    Path("topologies/double.yaml").write_text(TOPOLOGY)
    Path(f"topologies/{NAME}.yaml").write_text(TOPOLOGY)
    for at, line in enumerate(("topic: numbers", "model: double@1", "fields: {x: x, y: double}", "topology: double", "double: {", "x: x")):
        name, _, _ = line.partition(":")
        evil = f"{quoted(EVIL)}: {{" if line.endswith("{") else f"{name}: {quoted(EVIL)}"
        Path(f"evil/{at}.yaml").write_text(TOPOLOGY.replace(line, evil))
    Path("evil/key.yaml").write_text(f"{TOPOLOGY}{quoted(EVIL)}: 1\n")
    Path("evil/raw.yaml").write_text(f"{TOPOLOGY}# {EVIL}\n")
    cases = [{"name": EVIL, "given": {"numbers": [{"x": 2}, {"x": EVIL}]}, "expect": {"doubled": [{"y": 5}]}}]
    Path("topologies/double.test.yaml").write_text(json.dumps({"cases": cases}))
    Path("in.ndjson").write_text("".join(json.dumps(one) + "\n" for one in ({"x": 1}, {"x": EVIL}, {EVIL: 1})) + EVIL + "\n")
    registry = DirectoryRegistry("models")
    registry.publish("double", models.linear([2]), description=EVIL, metrics={"auc": 1.0}, provenance={"author": EVIL, "code": EVIL})
    Path("evil.onnx").write_bytes(evil_model())
    Path(f"{NAME}.onnx").write_bytes(models.linear([2]))
    key = SigningKey.new("alice")
    Path("trust.toml").write_text(
        f'[keys.alice]\npublic = "{key.public}"\ntopologies = ["*"]\ntrusted = 2026-01-01T00:00:00Z\ncomment = {json.dumps(EVIL)}\n'
        .replace("\x7f", "\\u007f")
    )  # fmt: skip
    Path("evil.toml").write_text(Path("trust.toml").read_text().replace('["*"]', f"[{json.dumps(EVIL)}]").replace("\x7f", "\\u007f"))
    return tmp_path


def evil_model() -> bytes:
    """One with an operator of a hostile domain and name."""
    data = models.linear([2])
    import onnx

    made = onnx.load_from_string(data)
    made.graph.node[0].domain, made.graph.node[0].op_type = EVIL, EVIL
    made.doc_string = made.producer_name = EVIL
    return bytes(made.SerializeToString())


LINES = [
    ["model", "ls"],
    ["model", "show", "double"],
    ["model", "show", EVIL],
    ["model", "verify"],
    ["model", "verify", f"double@{EVIL}"],
    ["model", "push", "evil.onnx", "--name", "evil"],
    ["model", "push", f"{NAME}.onnx", "--name", "fine", "--description", EVIL.replace("\x00", ""), "--author", EVIL],
    ["model", "push", f"{NAME}.absent", "--name", EVIL],
    ["model", "alias", "double", EVIL, "1"],
    ["model", "alias", "double", "production", EVIL],
    ["model", "sign", f"double@{EVIL}", "--key", NAME],
    ["validate", "double.yaml"],
    ["validate", f"topologies/{NAME}.yaml"],
    ["validate", "evil/raw.yaml"],
    ["validate", "evil/key.yaml"],
    *(["validate", f"evil/{at}.yaml"] for at in range(6)),
    *(["plan", f"evil/{at}.yaml"] for at in range(6)),
    ["plan", f"topologies/{NAME}.yaml"],
    ["draw", f"topologies/{NAME}.yaml"],
    *(["draw", f"evil/{at}.yaml"] for at in range(6)),
    ["test"],
    ["test", f"topologies/{NAME}.yaml"],
    ["batch", "double.yaml", "--in", "in.ndjson", "--out", "out.ndjson"],
    ["batch", "double.yaml", "--in", NAME, "--out", f"{NAME}.out"],
    ["features", "double.yaml", "--in", NAME, "--out", f"{NAME}.out", "--nodes", NAME],
    ["features", f"topologies/{NAME}.yaml", "--in", NAME, "--out", "out.ndjson", "--since", NAME],
    ["precompute", "double.yaml", "--in", "in.ndjson", "--store", f"sqlite:///{NAME}"],
    ["precompute", f"topologies/{NAME}.yaml", "--in", NAME, "--dry-run"],
    ["serve", f"topologies/{NAME}.yaml", "--http", EVIL],
    ["export", "edge", f"topologies/{NAME}.yaml", "--out", f"{NAME}.edge"],
    ["conformance", f"http://{NAME}"],
    ["access", "key", "list", "--access", f"{NAME}.toml"],
    ["access", "key", "revoke", EVIL],
    ["schema", "ls"],
    ["schema", "show", "schemas/evil.avsc"],
    ["schema", "show", f"schemas/{NAME}.avsc"],
    ["schema", "check", f"schemas/{NAME}.avsc"],
    ["schema", "check", "schemas/number.avsc", "--events", "in.ndjson"],
    ["schema", "infer", "in.ndjson"],
    ["keys", "ls"],
    ["keys", "ls", "--trust", "evil.toml"],
    ["keys", "ls", "--trust", f"{NAME}.toml"],
    ["keys", "public", NAME],
    ["keys", "new", NAME],
    ["keys", "revoke", NAME],
    ["settings"],
    ["settings", f"--{NAME}"],
    ["new", NAME],
    ["topics", "ls", NAME],
    ["status", NAME],
    ["history", NAME],
    ["releases", "ls", NAME],
    ["releases", "show", NAME, NAME],
    ["deploy", "double", EVIL],
    ["deploy", "double", f"{EVIL}=double@{EVIL}", "--brokers", NAME],
    ["rollback", NAME, "--to", EVIL],
    ["abort", NAME, NAME],
    ["promote", NAME],
    ["pause", NAME, "--reason", EVIL],
    ["deploy", "double", "double=double@2", "--canary", EVIL],
    ["watch", NAME],
    ["explain", NAME],
    ["run", NAME],
    ["demo", NAME],
    [NAME],
    ["--config", f"{NAME}.toml", "settings"],
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: " ".join(re.sub("[^a-z0-9./ -]+", "~", word) for word in line)[:60])
@pytest.mark.usefixtures("folder")
def test_no_control_character_comes_out(line: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """In text, and in JSON where the command has it."""
    for words in [line, [*line, "--format", "json"]] if "--format" in usage(line) else [line]:
        done = Done(main(words), *capfd.readouterr())
        assert harmless(done.out), repr(done.out)
        assert harmless(done.err), repr(done.err)
        assert "Traceback" not in done.err
        assert "This is a bug" not in done.err


@pytest.mark.usefixtures("folder")
def test_most_of_these_lines_print_such_a_text(capfd: pytest.CaptureFixture[str]) -> None:
    """Else the others would show nothing. Some print none: what they read is valid, or they end before they read it."""
    shown = 0
    for line in LINES:
        main(line)
        shown += "pwn" in "".join(capfd.readouterr())
    assert shown > len(LINES) * 3 // 5


def usage(line: list[str]) -> str:
    """The options of the command that the line calls."""
    command = cli.get_command(None, line[0])  # type: ignore[arg-type]
    if isinstance(command, Group) and len(line) > 1:
        command = command.commands.get(line[1])
    return " ".join(option for one in command.params for option in one.opts) if command else ""


def test_lines_are_of_every_command() -> None:
    assert {line[0] for line in LINES} >= set(COMMANDS)
