"""`penstock conformance`: whether a server keeps the Open Inference Protocol v2."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from penstock.cli.output import err, format_option, out, print_json, table
from penstock.errors import ConfigError, Problem
from penstock.host import read_regular

if TYPE_CHECKING:
    from penstock.conformance.rules import Finding, Findings
    from penstock.conformance.tensors import Tensor

__all__ = ["conformance"]

_LIMIT: Final = 64 * 1024**2  # bytes of a request that is read from a file
_NAME: Final = re.compile(
    r"[a-z0-9_.-]+(?<!-bin)", re.IGNORECASE
)  # of a header that HTTP and gRPC can send; gRPC has other values for -bin
_FILE = click.Path(path_type=Path, dir_okay=False)
_COLOURS: Final = {"passed": "green", "failed": "bold red", "absent": "dim", "skipped": "yellow"}


@click.command()
@click.argument("url")
@click.option("--grpc", metavar="HOST:PORT", default="", help="Check the same models over gRPC, too; with TLS where URL is https.")
@click.option(
    "--model", "models", multiple=True, metavar="NAME", help="Model to try; may be repeated. [default: all of the server's index]"
)
@click.option("--input", "given", type=_FILE, metavar="FILE", help="A valid request to the one --model, as the JSON that is posted.")
@click.option("--headers", type=_FILE, metavar="FILE", help="Headers to send with each request, as lines NAME: VALUE; for a token.")
@click.option("--cafile", type=_FILE, metavar="FILE", help="Certificates of the authorities that the server is trusted by (PEM).")
@click.option("--strict", is_flag=True, help="Exit code 1 also where a should fails, or where something was skipped.")
@format_option
def conformance(
    url: str, grpc: str, models: tuple[str, ...], given: Path | None, headers: Path | None, cafile: Path | None, strict: bool, form: str
) -> int:
    """Check whether the server at URL keeps the Open Inference Protocol v2 (KServe).

    \b
      penstock conformance http://127.0.0.1:8080 --grpc 127.0.0.1:8081
      penstock conformance http://127.0.0.1:8000 --model iris --input iris.json

    It asks for health, metadata, answers in every form (JSON flat and nested, binary tensors, typed and raw contents) and versions, and
    sends requests that are wrong in one way each. Requests are made from a model's metadata; a model that wants particular
    values gets them by --input. Answers in all forms have to be the same.

    A rule is a must of the protocol, or a should: an extension, or a code that clients expect. Exit code 0 when no must fails, 1 when
    one does, 4 when the server does not answer. What was skipped, for want of a valid request, is named at the end; --strict wants it.
    """
    from penstock.conformance.check import check  # with its clients: `--help` does without

    if given is not None and len(models) != 1:
        raise click.UsageError("--input is a request to one model: name it with --model")
    found = check(
        url,
        grpc=grpc,
        models=models,
        request=None if given is None else _request(given),
        headers=_headers(headers),
        authorities=cafile,
        on_step=lambda step: err.print(f"checking {step}", style="dim", markup=False),
    )
    failed = [*found.failed("must"), *([*found.failed("should"), *found.skipped()] if strict else ())]
    if form == "json":
        print_json(_document(url, grpc, found))
    else:
        _show(list(found))
        for model in dict.fromkeys(one.model for one in found.skipped()):
            out.print(f"not checked: {model}; give a valid request: penstock conformance {url} --model {model} --input FILE", markup=False)
    return 1 if failed else 0


def _request(file: Path) -> Sequence[Tensor]:
    from penstock.conformance.model import given

    try:
        parsed = json.loads(read_regular(file, _LIMIT))
        if not isinstance(parsed, dict):
            raise ValueError("it is no object")
        return given(parsed)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        what = getattr(error, "strerror", None) or error
        raise ConfigError(Problem(str(file), 0, 0, f"is no valid request: {what}", "give the JSON that is posted to .../infer")) from error


def _headers(file: Path | None) -> Mapping[str, str]:
    if file is None:
        return {}
    try:
        lines = read_regular(file, _LIMIT).decode("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(Problem(str(file), 0, 0, f"cannot be read: {getattr(error, 'strerror', '') or error}")) from error
    found = {}
    for number, line in enumerate(lines, 1):
        name, colon, value = (part.strip() for part in line.partition(":"))
        if line.strip() and not (colon and _NAME.fullmatch(name) and value.isprintable()):
            raise ConfigError(Problem(str(file), number, 1, "no header", "write NAME: VALUE"))  # not shown: it may be a secret
        if line.strip():
            found[name] = value
    return found


def _document(url: str, grpc: str, found: Findings) -> dict[str, Any]:
    counts = {level: dict.fromkeys(_COLOURS, 0) for level in ("must", "should")}
    for one in found:
        counts[one.level][one.state] += 1
    return {
        "url": url,
        "grpc": grpc or None,
        "conforms": False if found.failed("must") else None if found.skipped() else True,  # null: not everything was checked
        **counts,
        "findings": [{**one._asdict(), "level": one.level, "text": one.text} for one in found],
    }


def _show(found: Sequence[Finding]) -> None:
    from rich.text import Text

    for protocol, title in (("rest", "REST"), ("grpc", "gRPC")):
        shown = table(title, "", "rule", "level", "model", "seen")
        for one in found:
            if one.protocol == protocol and one.state != "passed":
                seen = f"{one.text} Seen: {one.seen}" if one.state == "failed" else one.seen
                shown.add_row(Text(one.state, _COLOURS[one.state]), one.rule, one.level, Text(one.model or "-"), Text(seen))
        if shown.row_count:
            out.print(shown)
            out.print()
    for level in ("must", "should"):
        states = [one.state for one in found if one.level == level]
        counted = ", ".join(f"{states.count(state)} {state}" for state in _COLOURS if state in states)
        out.print(f"{level}: {counted or 'nothing was checked'}", markup=False)
