"""Writes docs/reference/ from the code: what the code says of itself is the reference, so the two cannot drift apart.

python docs/generate.py           writes the pages
python docs/generate.py --check   exits with 1 and names the pages that are out of step
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import click

from penstock import errors
from penstock.cli.main import class_code, cli
from penstock.settings import Settings, describe
from penstock.telemetry.families import Family
from penstock.telemetry.metrics import FAMILIES, SUPERVISOR

REFERENCE: Final = Path(__file__).parent / "reference"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def settings() -> str:
    """One row a field of Settings."""
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

A value comes from the first that has one: a flag (`--commit-interval 2`), the environment (`PENSTOCK_COMMIT_INTERVAL=2`), a file
(`commit_interval = 2` in `penstock.toml`, or in the file that `--config` or `PENSTOCK_CONFIG` names), the default below. A command takes
as flags the settings that it reads (`--help` lists them); environment and file take all. Sizes may be written `8MiB`. A password is
read from the environment or from the file that `sasl_password_file` names, and from nowhere else. `penstock settings` shows what is
in force, and where each value came from.

{_table(("setting", "default", "unit", "what it does"), rows)}
"""


def metrics() -> str:
    """One row per metric family."""

    def rows(families: Iterable[Family]) -> list[tuple[str, ...]]:
        return [(_code(one.exported), one.kind, one.unit, ", ".join(map(_code, one.labels)), one.help) for one in families]

    head = ("metric", "kind", "unit", "labels", "what it is")
    return f"""# Metrics

What the page `/metrics` of a worker shows ([monitoring](../monitoring.md)), declared in `penstock.telemetry.metrics.Metrics`. The page
also has the standard `process_*` families (memory, CPU time, open files).

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
    """The tree, and one row a class."""
    tree = (errors.__doc__ or "").partition("\n\n")[2].strip()
    rows = [(_code(one.__name__), (one.__doc__ or "").partition("\n")[0], _exit(one)) for one in _errors()]
    return f"""# Errors

Everything that Penstock raises on purpose, grouped by what the catcher does about it. The last column is the exit code of the
command line; 0 is success, 130 an interruption, and 1 also an error that Penstock did not foresee.

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
    return "# Command line\n\nWhat `--help` says of every command.\n\n" + "\n".join(parts)


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "settings.md": settings,
    "cli.md": cli_page,
    "errors.md": errors_page,
    "metrics.md": metrics,
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
