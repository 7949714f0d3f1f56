"""The command line: one table of commands, one table of exit codes, and the place where errors become messages.

A command's module is imported when the command is called, so `penstock --help` is fast: it imports
neither the stream library nor the model runtime.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from penstock import errors
from penstock.cli import complete
from penstock.cli.echo import echo, shown
from penstock.cli.options import Invocation, setting_flags
from penstock.native import native

__all__ = ["COMMANDS", "EXIT_CODES", "class_code", "cli", "exit_code", "main"]


class Command(NamedTuple):
    """Where a command is defined, as "module:attribute", and its purpose in one line."""

    target: str
    help: str


COMMANDS: Final[Mapping[str, Command]] = {
    "demo": Command("penstock.cli.demo:demo", "Score half a year of real flights live, on a broker inside this process."),
    "new": Command("penstock.cli.new:new", "Write a small working project to start from."),
    "run": Command("penstock.cli.run:run", "Run a topology on Kafka: events in, predictions out."),
    "serve": Command("penstock.cli.serve:serve", "Serve a topology over HTTP and gRPC: events or tensors in, answers out."),
    "validate": Command("penstock.cli.topology:validate", "Check a topology file; list every problem with its line."),
    "plan": Command("penstock.cli.topology:plan", "Show what running a topology will do: topics, steps, columns."),
    "draw": Command("penstock.cli.topology:draw", "Draw a topology, as text or as Mermaid."),
    "test": Command("penstock.cli.test:test", "Run the examples beside a topology (*.test.yaml), without a broker."),
    "batch": Command("penstock.cli.batch:batch", "Run a topology once over a file of events, or over a piece of a topic."),
    "features": Command("penstock.cli.features:features", "Compute the features of windows for each event of a range, to train from."),
    "precompute": Command("penstock.cli.precompute:precompute", "Score a population into a store, where lookups find the answers."),
    "export": Command("penstock.cli.export:export", "Write a topology with its models as files that need nothing else."),
    "model": Command("penstock.cli.model:model", "Push, list, show, alias, sign and verify registered models."),
    "conformance": Command("penstock.cli.conformance:conformance", "Check any server of the Open Inference Protocol v2."),
    "deploy": Command("penstock.cli.release.deploy:deploy", "Swap models while the stream runs."),
    "rollback": Command("penstock.cli.release.deploy:rollback", "Return to an earlier generation."),
    "promote": Command("penstock.cli.release.deploy:promote", "Lead the release on trial to more events, or make it live."),
    "pause": Command("penstock.cli.release.deploy:pause", "Keep the release on trial at its share of the events."),
    "abort": Command("penstock.cli.release.deploy:abort", "Cancel a release that is not active yet, or end a trial."),
    "watch": Command("penstock.cli.release.watch:watch", "Release a model version when a registry alias moves to it."),
    "status": Command("penstock.cli.release.status:status", "Show the active generation and the state of every worker."),
    "history": Command("penstock.cli.release.history:history", "Show which generations were active, since when, by whom and why."),
    "releases": Command("penstock.cli.release.history:releases", "List all releases, or show one in full."),
    "explain": Command("penstock.cli.explain:explain", "Trace one prediction to its input and models, and compute it again."),
    "access": Command("penstock.cli.access:access", "Make the keys of those who call the service, and set what they may do."),
    "keys": Command("penstock.cli.keys:keys", "Make the keys that sign releases, and set which keys are trusted."),
    "topics": Command("penstock.cli.topics:topics", "List or create the topics that a topology needs."),
    "schema": Command("penstock.cli.schema:schema", "Check event schemas; print the JSON Schema of topology files."),
    "settings": Command("penstock.cli.settings:settings", "Show every setting, its value, and where it came from."),
}

EXIT_CODES: Final[Mapping[type[BaseException], int]] = {
    errors.ConfigError: 2,
    errors.ModelError: 3,
    errors.TransportUnavailable: 4,
    errors.TopicMissing: 5,
    errors.RecordMissing: 5,
    errors.DeliveryFailed: 6,
    errors.AccessRefused: 7,
    errors.IdentityTaken: 2,
    errors.Stalled: 9,
    errors.TransportError: 4,
    errors.ControlError: 8,
    errors.FetchError: 3,
    errors.CallRefused: 7,
    errors.Stopped: 130,
    errors.RecordError: 1,
    errors.PenstockError: 1,
    click.ClickException: 2,
    click.Abort: 130,
    KeyboardInterrupt: 130,
    Exception: 1,
}

_EPILOG = """
\b
Three commands to begin with:
  penstock demo                watch real flights being scored
  penstock validate flights    check topologies/flights.yaml, line by line
  penstock run flights         score events of your Kafka

\b
Exit codes:
  0    done                         4    the brokers did not answer
  1    a check failed, or a bug     5    a topic or record is missing
  2    usage, settings or files     6    an output was refused
  3    a model cannot serve         7    login or certificate refused
  8    a release was not made       9    a worker made no progress
  130  interrupted

\b
Completion (or zsh_source, fish_source):
  eval "$(_PENSTOCK_COMPLETE=bash_source penstock)"
"""


class _Lazy(click.Group):
    """A group whose commands are rows of COMMANDS, imported when they are called."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Before a command is run or a word completed: a shell that asks for one sets a variable, which click reads."""
        complete.install()
        return super().main(*args, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        row = COMMANDS.get(cmd_name)
        if row is None:
            return None
        module, _, attribute = row.target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command), f"{row.target} is not a click command"
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        # A command is imported before the callback of the group runs, so the flag must be set before an import can fail.
        ctx.ensure_object(Invocation).debug = bool(ctx.params["debug"])
        if args[0] not in COMMANDS and (close := difflib.get_close_matches(args[0], COMMANDS, n=1)):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {close[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, row.help) for name, row in COMMANDS.items()])


def _version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        metadata = importlib.import_module("importlib.metadata")  # slow to import, and only needed here
        echo(f"penstock {metadata.version('penstock')} ({'with' if native else 'without'} its native part)")
        echo(f"quarantine of models: {_confined()}")
        ctx.exit()


def _confined() -> str:
    found = importlib.import_module("penstock.model.confine").available()
    if len(found) == 2:
        return "no files, no network, no processes (Landlock, seccomp)"
    lacking = " and ".join(name for name in ("Landlock", "seccomp") if name not in found)
    return f"{found[0] if found else 'limits'} only; this host lacks {lacking}, see docs/security.md"


@click.group(cls=_Lazy, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and how it was built.",
)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings file, instead of penstock.toml.")
@setting_flags("log_level", "log_format", "debug")
@click.make_pass_decorator(Invocation, ensure=True)
def cli(invocation: Invocation, /, config: Path | None, **flags: Any) -> None:
    """Score Kafka events with a topology of ONNX models, and write predictions to topics."""
    invocation.config = config
    invocation.flags = flags


def exit_code(error: BaseException) -> int:
    """Returns the exit code of the error's class. The code of a failed worker is passed on."""
    return error.code if isinstance(error, errors.WorkerFailed) else class_code(type(error))


def class_code(kind: type[BaseException]) -> int:
    """Returns the code of the class in EXIT_CODES, or that of its nearest parent in the table."""
    return next(EXIT_CODES[parent] for parent in kind.__mro__ if parent in EXIT_CODES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, the integer that the command returned, or the code of its error in EXIT_CODES.

    Errors are written to stderr without a traceback; `--debug` or PENSTOCK_DEBUG=1 shows it.
    """
    invocation = Invocation()
    try:
        result = cli.main(arguments, prog_name="penstock", standalone_mode=False, obj=invocation)
    except BrokenPipeError:
        # The reader has closed the pipe (`penstock draw | head`). Without this, Python reports the error again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the outermost handler turns every error into a message and a code
        if invocation.debug and not isinstance(error, click.ClickException):
            echo(traceback.format_exc(), err=True, nl=False)
        _report(error)
        return exit_code(error)
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _report(error: BaseException) -> None:
    if isinstance(error, click.ClickException):
        echo(shown(error), err=True, nl=False)
    elif isinstance(error, click.Abort | KeyboardInterrupt):
        echo("interrupted", err=True)
    elif isinstance(error, errors.ConfigError) and len(error.problems) > 1:
        echo(f"error: {len(error.problems)} problems", err=True)
        echo("\n".join(f"  {line}" for line in str(error).splitlines()), err=True)
    elif isinstance(error, errors.PenstockError):
        echo(f"error: {error}", err=True)
    else:
        echo(f"error: {type(error).__name__}: {error}\nThis is a bug. `penstock --debug ...` shows where.", err=True)
