"""The command line starts light, says what is wrong in words, and tells programs by its exit code."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from penstock import errors
from penstock.cli.main import COMMANDS, EXIT_CODES, cli, exit_code, main
from penstock.model import confine
from penstock.native import native


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `penstock settings` raise what the test gives it."""

    def arrange(error: BaseException) -> None:
        @click.command()
        def command() -> None:
            raise error

        monkeypatch.setattr(importlib.import_module(COMMANDS["settings"].target.partition(":")[0]), "settings", command)

    return arrange


def test_help_imports_no_heavy_library() -> None:
    """It would take seconds. What is looked at is what a fresh interpreter has loaded after it."""
    script = "import sys; from penstock.cli.main import main; assert main(['--help']) == 0; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(shown.stdout.splitlines()[-1].split())
    assert "penstock.cli.main" in loaded
    assert loaded.isdisjoint({"faust", "aiokafka", "onnxruntime", "onnx", "numpy", "rich", "confluent_kafka", "penstock.cli.run"})
    assert loaded.isdisjoint({"prometheus_client", "starlette", "uvicorn"})


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """Every command, the three to begin with, and every exit code."""
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)
    assert "Three commands to begin with" in shown
    assert all(f"{code} " in shown for code in {0, *EXIT_CODES.values()})


def test_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("penstock 0.")
    assert ("without" if native is None else "with") + " its native part" in shown


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (("Landlock", "seccomp"), "no files, no network, no processes (Landlock, seccomp)"),
        (("seccomp",), "seccomp only; this host lacks Landlock, see docs/security.md"),
        ((), "limits only; this host lacks Landlock and seccomp, see docs/security.md"),
    ],
)
def test_version_shows_how_far_models_are_confined(
    found: tuple[str, ...], shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(confine, "available", lambda: found)
    assert main(["--version"]) == 0
    assert f"quarantine of models: {shown}\n" in capsys.readouterr().out


def test_module_runs_as_the_script_does() -> None:
    shown = subprocess.run([sys.executable, "-m", "penstock", "settings", "--format", "json"], capture_output=True, text=True, check=True)
    assert {"workers", "brokers"} <= {one["name"] for one in json.loads(shown.stdout)}


@pytest.mark.parametrize("name", COMMANDS)
def test_row_of_the_table_is_a_command_that_explains_itself(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert isinstance(command, click.Command)
    assert command.help


def test_unknown_command_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rnu"]) == 2
    assert "No such command 'rnu'. Did you mean 'run'?" in capsys.readouterr().err
    assert main(["xyzzy"]) == 2
    assert "No such command 'xyzzy'." in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "Problem"])
def test_every_error_has_its_exit_code(name: str) -> None:
    """By a row for itself or for a parent of ours; falling through to `Exception` would mean that it was forgotten."""
    kind = getattr(errors, name)
    assert any(parent in EXIT_CODES for parent in kind.__mro__ if issubclass(parent, errors.PenstockError))


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (errors.SchemaError("no type"), 2, "error: no type"),
        (errors.ModelCorrupt("trees@1: the digest differs"), 3, "error: trees@1: the digest differs"),
        (errors.TransportUnavailable("nobody at localhost:1"), 4, "error: nobody at localhost:1"),
        (errors.TopicMissing("flights"), 5, "error: flights"),
        (errors.DeliveryFailed("refused"), 6, "error: refused"),
        (errors.FetchError("cannot connect", code="again"), 3, "error: cannot connect"),
        (errors.Stopped("stopped while the model was in quarantine"), 130, "error: stopped while the model was in quarantine"),
        (errors.WorkerFailed("worker 2 gave up", 5), 5, "error: worker 2 gave up"),
        (errors.DecodeError("bad"), 1, "error: bad"),
        (KeyError("x"), 1, "error: KeyError: 'x'\nThis is a bug."),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.Abort(), 130, "interrupted"),
        (click.UsageError("which file?"), 2, "which file?"),
    ],
)
def test_error_becomes_a_message_and_a_code(
    error: BaseException, code: int, told: str, raising: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    raising(error)
    assert main(["settings"]) == code == exit_code(error)
    shown = capsys.readouterr().err
    assert told in shown
    assert "Traceback" not in shown


def test_all_problems_are_listed(raising: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]) -> None:
    raising(errors.TopologyError([errors.Problem("a.yaml", 1, 2, "x"), errors.Problem("a.yaml", 3, 4, "y")]))
    assert main(["settings"]) == 2
    assert capsys.readouterr().err == "error: 2 problems\n  a.yaml:1:2: x\n  a.yaml:3:4: y\n"


def test_debug_shows_the_traceback(raising: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]) -> None:
    raising(errors.ModelNotFound("trees"))
    assert main(["--debug", "settings"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_integer_that_a_command_returns_is_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command whose checks fail says so by returning 1; returning nothing, or True, is success."""
    module = importlib.import_module("penstock.cli.settings")
    for returned, code in ((1, 1), (None, 0), (True, 0)):
        monkeypatch.setattr(module, "settings", click.Command("settings", callback=lambda returned=returned: returned))
        assert main(["settings"]) == code


def test_reader_that_leaves_is_no_error() -> None:
    """`penstock draw | head` must not end in a traceback."""
    script = "import sys, os; from penstock.cli.main import main; os.close(0); sys.exit(main(['settings']))"
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait() == 1


def test_settings_lists_value_and_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("workers = 4\n")
    assert main(["--config", str(path), "--log-level", "warning", "settings", "--changed", "--format", "json"]) == 0
    shown = {one["name"]: (one["value"], one["source"]) for one in json.loads(capsys.readouterr().out)}
    assert shown == {"workers": ("4", f"{path}:1"), "log_level": ("warning", "--log-level")}


@pytest.mark.parametrize("form", ["text", "json"])
def test_settings_shows_that_there_is_a_password_and_not_which(
    form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_SASL_PASSWORD", "hunter2")
    assert main(["settings", "--format", form]) == 0
    shown = capsys.readouterr().out
    assert "***" in shown
    assert "hunter2" not in shown
