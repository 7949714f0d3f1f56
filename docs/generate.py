"""Writes docs/reference/ from the code: what the code says of itself is the reference, so the two cannot drift apart.

python docs/generate.py           writes the pages
python docs/generate.py --check   exits with 1 and names the pages that are out of step
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import click

import penstock
from penstock import errors
from penstock.cli.main import class_code, cli
from penstock.settings import Settings, describe
from penstock.telemetry.families import Family
from penstock.telemetry.metrics import FAMILIES, SUPERVISOR
from penstock.topology.language import json_schema

REFERENCE: Final = Path(__file__).parent / "reference"
DECISIONS: Final = Path(__file__).parent / "decisions"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in line) + " |" for line in lines)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def settings() -> str:
    """One row per field of Settings."""
    rows = [
        (
            _code(one.name),
            _code(one.default),
            one.unit,
            one.help + (f" One of {', '.join(map(_code, one.choices))}." if one.choices else ""),
        )
        for one in describe(Settings(), {})
    ]
    return f"""# Settings

A value comes from the first place that has one: a flag (`--commit-interval 2`), the environment
(`PENSTOCK_COMMIT_INTERVAL=2`), a file (`commit_interval = 2` in `penstock.toml`, or in the file that `--config` or
`PENSTOCK_CONFIG` names), the default below. A command takes as flags the settings that it reads (`--help` lists them);
environment and file take all. Sizes may be written `8MiB`. A password or token is read from the environment or from the
file that the setting of its name with `_file` names, and from nowhere else. `penstock settings` prints each value and
where it came from.

{_table(("setting", "default", "unit", "what it does"), rows)}
"""


def metrics() -> str:
    """One row per metric family."""

    def rows(families: Iterable[Family]) -> list[tuple[str, ...]]:
        return [(_code(one.exported), one.kind, one.unit, ", ".join(map(_code, one.labels)), one.help) for one in families]

    head = ("metric", "kind", "unit", "labels", "what it is")
    return f"""# Metrics

The page `/metrics` of a worker shows these families ([monitoring](../monitoring.md)), which are declared in
`penstock.telemetry.metrics.Metrics`. It also has the standard `process_*` families (memory, CPU time, open files).

{_table(head, rows(FAMILIES.values()))}

With `--workers N`, every series has the label `worker` (1 to N), and the supervisor adds:

{_table(head, rows(SUPERVISOR))}
"""


def _errors() -> list[type[errors.PenstockError]]:
    classes = [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, errors.PenstockError)]
    return sorted(classes, key=lambda one: [parent.__name__ for parent in reversed(one.__mro__)])


def _exit(kind: type[errors.PenstockError]) -> str:
    return "the worker's" if kind is errors.WorkerFailed else str(class_code(kind))


def errors_page() -> str:
    """The tree, and one row per class."""
    tree = (errors.__doc__ or "").partition("\n\n")[2].strip()
    rows = [(_code(one.__name__), (one.__doc__ or "").partition("\n")[0], _exit(one)) for one in _errors()]
    return f"""# Errors

Everything that Penstock raises on purpose, grouped by what the catcher does about it. The last column is the exit code
of the command line; 0 is success, 130 an interruption, and 1 also an error that Penstock did not foresee.

```
{tree}
```

{_table(("error", "meaning", "exit code"), rows)}
"""


def commands(group: click.Group = cli, path: str = "penstock") -> Iterable[tuple[str, click.Command]]:
    """Every command with its full name, groups before their members."""
    yield path, group
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, f"{path} lists {name} but has no such command"
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def cli_page() -> str:
    """The help of every command."""
    parts = []
    for path, command in commands():
        names = cli.context_settings["help_option_names"]  # handed down by the group, as it is when a command is called
        shown = command.get_help(click.Context(command, info_name=path, terminal_width=110, max_content_width=110, help_option_names=names))
        parts.append(f"## {path}\n\n```\n" + "\n".join(line.rstrip() for line in shown.splitlines()) + "\n```\n")
    return "# Command line\n\nWhat `--help` prints for every command.\n\n" + "\n".join(parts)


def language_page() -> str:
    """One section per mapping of the topology language, one row per key."""
    head = ("key", "default", "holds", "what it does")
    sections = "\n\n".join(f"## {path}\n\n{_table(head, rows)}" for path, rows in _mappings(json_schema()))
    return f"""# Topology language

Every key of a topology file. [Topologies](../topologies.md) explains them with examples. `penstock schema topology`
prints the same language as a JSON Schema, for editors.

{sections}
"""


Rows = list[tuple[str, str, str, str]]


def _mappings(schema: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, Rows]]:
    """The rows of each mapping with fixed keys in a JSON Schema, and where in a file it is."""
    properties = schema.get("properties", {})
    if properties:
        required = schema.get("required", ())
        rows = [
            (_code(name), "required" if name in required else _code(_default(one)), _holds(one), one.get("description", ""))
            for name, one in properties.items()
        ]
        yield _code(path) if path else "A topology file", rows
    for name, one in properties.items():
        yield from _mappings(one, f"{path}.{name}".lstrip("."))
    for form in (*schema.get("anyOf", ()), *(one for one in schema.get("oneOf", ()) if "properties" in one)):
        yield from _mappings(form, path)
    if isinstance(rest := schema.get("additionalProperties"), Mapping):
        yield from _mappings(rest, f"{path}.NAME")


def _default(schema: Mapping[str, Any]) -> str:
    return str(schema["default"]) if "default" in schema else ""


def _holds(schema: Mapping[str, Any]) -> str:
    """A JSON Schema in a few words."""
    if "enum" in schema:
        return ", ".join(map(_code, schema["enum"]))
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_holds(one) for one in schema["anyOf"]))
    if "minimum" in schema and "maximum" in schema:
        return f"{schema['minimum']} to {schema['maximum']}"
    kinds = schema.get("type", "value")
    names = {"string": "text", "object": "mapping", "array": "list"}
    return " or ".join(names.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds))


# Every name of `penstock.__all__`, in the order in which a reader wants them; tests/docs finds one that is missing here.
PYTHON: Final[Mapping[str, tuple[str, ...]]] = {
    "Score events from a program": ("open", "Scorer", "Scored", "Followed", "Failure"),
    "Release models from a program": ("connect", "Releases"),
    "Test a topology without Kafka": ("TopologyDriver", "Record", "Position"),
    "Topologies": ("parse", "parse_text", "Topology", "load_schema", "Schema"),
    "Columns": ("Batch",),
    "Models": ("DirectoryRegistry", "Artifact", "GoldenRecord", "quarantine", "Session", "verify"),
    "Settings": ("Settings",),
    "A broker for tests": ("open_broker", "Broker"),
    "Errors": (
        "PenstockError", "ConfigError", "SettingsError", "TopologyError", "SchemaError", "Problem",
        "ModelError", "RecordError", "ControlError", "TransportError",
    ),
}  # fmt: skip


def python_page() -> str:
    """A summary of every public name, and the place where the site renders its docstring."""
    parts = []
    for title, names in PYTHON.items():
        rows = [(f"[`{name}`][penstock.{name}]", _summary(getattr(penstock, name))) for name in names]
        parts.append(f"## {title}\n\n{_table(('name', 'what it is'), rows)}\n\n" + "\n\n".join(f"::: penstock.{name}" for name in names))
    sections = "\n\n".join(parts)
    return f"""# Python API

`import penstock` offers these names, and fetches each when it is first used. Everything else is private: it may change
in any release. The operator's side of releases is described in [Releases](../releases.md), contract checks for parts of
your own in [Testing](../testing.md).

{sections}
"""


def _summary(value: object) -> str:
    """The first sentence of its docstring."""
    first = (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=\.)\s|: ", first, maxsplit=1)[0].rstrip(":")


def decisions_page() -> str:
    """One row per decision, newest first, with its title and date."""
    rows = []
    for page in sorted(DECISIONS.glob("[0-9]*.md"), reverse=True):
        text = page.read_text(encoding="utf-8")
        title = re.search(r"^# (\d+) (.+)$", text, re.MULTILINE)
        date = re.search(r"^(\d{4}-\d\d-\d\d)", text, re.MULTILINE)
        assert title is not None, f"{page.name} does not begin with its number and title"
        assert date is not None, f"{page.name} has no date"
        rows.append((title[1], f"[{title[2]}](../decisions/{page.name})", date[1]))
    return f"""# Decisions

Where an alternative was real, a page records why it lost. Decisions are never edited; a newer one supersedes them.

{_table(("number", "decision", "date"), rows)}
"""


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "settings.md": settings,
    "cli.md": cli_page,
    "errors.md": errors_page,
    "metrics.md": metrics,
    "topology.md": language_page,
    "python.md": python_page,
    "decisions.md": decisions_page,
}


def stale(reference: Path = REFERENCE) -> list[str]:
    """The pages that are missing or say something else than the code."""
    pages = {name: reference / name for name in PAGES}
    return [name for name, path in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != PAGES[name]()]


def main() -> int:
    parser = argparse.ArgumentParser(description="Write docs/reference/ from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a page is out of step")
    if parser.parse_args().check:
        old = stale()
        for name in old:
            print(f"docs/reference/{name} is out of step with the code; run `make docs`")
        return 1 if old else 0
    REFERENCE.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
