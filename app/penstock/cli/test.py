"""`penstock test`: runs the examples beside a topology through the real plan, without a broker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import track
from rich.text import Text

from penstock.cli.options import with_settings
from penstock.cli.output import err, format_option, out, print_json
from penstock.errors import ConfigError, Problem
from penstock.settings import Settings
from penstock.topology.find import find

if TYPE_CHECKING:
    from penstock.testing.case_file import CaseFile
    from penstock.testing.cases import Case, Mismatch

__all__ = ["test"]


@dataclass(frozen=True, slots=True)
class Result:
    """A case that was run. It passed when it has no mismatches."""

    file: str
    case: Case
    mismatches: tuple[Mismatch, ...]


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[TOPOLOGIES, FILES or FOLDERS]")
@with_settings("models", "schemas", "schema_registry_url")
@click.option("-k", "part", default="", metavar="TEXT", help="Run only cases with this text in their name.")
@format_option
def test(paths: tuple[Path, ...], settings: Settings, part: str, form: str) -> int:
    """Run the examples beside a topology: events in, expected outputs out, no broker.

    A file NAME.test.yaml holds cases for NAME.yaml: the events of the sources, and the expected records of sinks and dead-letter
    topics. Give the name of the topology, either file, or a folder for all *.test.yaml files in it. The default is topologies/.

    Exit codes: 0 every case passed, 1 a case failed, 2 a file cannot be run (all problems are listed and no case is run).
    """
    # Imported here because they load the pipeline and the model runtime, which `--help` does not need.
    from penstock.codecs.schema_registry import open_schema_registry
    from penstock.testing.case_file import SUFFIX, read_cases
    from penstock.testing.cases import run_case

    found = open_schema_registry(settings)
    files: list[CaseFile] = []
    problems: list[Problem] = []
    for path in _files(paths, settings.topologies, SUFFIX):
        try:
            files.append(read_cases(path, models=settings.models, schemas=settings.schemas, schema_registry=found))
        except ConfigError as error:
            problems += error.problems
    if problems:
        return _refuse(list(dict.fromkeys(problems)), form)
    chosen = [(file, case) for file in files for case in file.cases if part in case.name]
    if not chosen:
        raise click.UsageError(f"no case has {part!r} in its name")
    watched = track(chosen, "cases", console=err, transient=True, disable=form == "json" or not err.is_terminal)
    results = [Result(file.file, case, run_case(file.driver, case)) for file, case in watched]
    (_print_json if form == "json" else _print)(results, files)
    return int(any(result.mismatches for result in results))


def _files(paths: Sequence[Path], folder: Path, suffix: str) -> list[Path]:
    """Returns every file of cases that the paths name, once, in order: all in the folder of topologies without one."""
    found: list[Path] = []
    if not paths and not folder.exists():
        raise click.UsageError(f"there is no folder {folder} here: give the files to run, or their folder")
    for path in [one if one.is_dir() else find(one, folder) for one in paths] or [folder]:
        if not path.exists():
            raise click.UsageError(f"there is no file {path}")
        if path.is_dir():
            inside = sorted(path.rglob(f"*{suffix}"))
            if not inside:
                raise click.UsageError(f"{path} holds no *{suffix}")
            found += inside
        elif path.name.endswith(suffix) or not (beside := path.with_name(path.stem + suffix)).is_file():
            found.append(path)
        else:
            found.append(beside)
    return list(dict.fromkeys(found))


def _refuse(problems: Sequence[Problem], form: str) -> int:
    if form == "json":
        print_json({"passed": 0, "failed": 0, "problems": [asdict(problem) for problem in problems], "files": []})
        return 2
    raise ConfigError(problems)


def _print_json(results: Sequence[Result], files: Sequence[CaseFile]) -> None:
    failed = sum(bool(result.mismatches) for result in results)
    listed = [
        {
            "file": file.file,
            "topology": file.driver.topology.file,
            "cases": [_case(result) for result in results if result.file == file.file],
        }
        for file in files
    ]
    print_json({"passed": len(results) - failed, "failed": failed, "problems": [], "files": listed})


def _case(result: Result) -> dict[str, Any]:
    return {
        "name": result.case.name,
        "line": result.case.mark.line,
        "passed": not result.mismatches,
        "mismatches": [
            {"where": one.where, "expected": one.expected, "got": one.got, "line": one.mark.line, "column": one.mark.column}
            for one in result.mismatches
        ],
    }


def _print(results: Sequence[Result], files: Sequence[CaseFile]) -> None:
    for file in files:
        mine = [result for result in results if result.file == file.file]
        if mine:
            out.print(Text(file.file, style="bold"))
        for result in mine:
            out.print(Text.assemble("  ", ("failed", "red") if result.mismatches else ("passed", "green"), f"  {result.case.name}"))
            for one in result.mismatches:
                place = f"    {file.file}:{one.mark.line}:{one.mark.column}: "
                out.print(Text.assemble(place, f"{one.where}: expected ", (one.expected, "green"), ", got ", (one.got, "red")))
    failed = sum(bool(result.mismatches) for result in results)
    count = f"{len(results)} case{'s' if len(results) != 1 else ''}"
    out.print(Text(f"{count}, {failed} failed", style="red") if failed else Text(f"{count}, all passed", style="green"))
