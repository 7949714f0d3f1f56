"""`penstock access`: makes the API keys of those who call the service, and edits the access file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import click
from rich.markup import escape

from penstock.access.file import Access, ApiKey, with_key, with_revocation
from penstock.access.keys import digest, new_key
from penstock.access.meter import Limits
from penstock.access.rules import MODEL, Rules, Value
from penstock.cli.echo import echo
from penstock.cli.files import edit
from penstock.cli.keys import KeyName, Time, TopologyName, shown_time
from penstock.cli.options import with_settings
from penstock.cli.output import err, format_option, out, print_json, table
from penstock.control.rights import RIGHTS
from penstock.errors import ConfigError, Problem
from penstock.settings import Settings

__all__ = ["access"]

DEFAULT: Final = Path("access.toml")


class _Model(click.ParamType):
    """A model's name, with or without a version."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not MODEL.fullmatch(value):
            self.fail(f"{value!r} is neither NAME nor NAME@VERSION", param, ctx)
        return str(value)


class _Only(click.ParamType):
    """FIELD=VALUE,VALUE: the values that a field may have, as text."""

    name = "only"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, frozenset[Value]]:
        path, equals, values = value.partition("=")
        if not path or not equals or not values:
            self.fail(f"{value!r} is not FIELD=VALUE,VALUE", param, ctx)
        return path, frozenset(values.split(","))


@click.group()
def access() -> None:
    """Make the keys of those who call the service, and set what they may do.

    The access file names every caller, how it shows who it is (API keys, tokens of an identity provider, client certificates), and what
    it may do. This command edits the keys; the file's other lines are edited by hand, see docs/access.md.
    A running service reads the file again when it changes.

    \b
      penstock access key add shop --may score --topology flights
      curl -H "Authorization: Bearer penstock_..." ...
      penstock access key list
      penstock access key revoke k3m7qa2tzx5b
    """


@access.group()
def key() -> None:
    """Add, list and revoke API keys."""


@key.command(short_help="Make a key, and print it once.")
@click.argument("name", type=KeyName())
@click.option("--may", type=click.Choice(RIGHTS), multiple=True, help="What a new caller may do; may be given several times.")
@click.option(
    "--topology", "topologies", type=TopologyName(), multiple=True, metavar="NAME", help="A topology that it may call; '*' for all."
)
@click.option(
    "--model", "models", type=_Model(), multiple=True, metavar="NAME[@VERSION]", help="A model that it may address. [default: all]"
)
@click.option(
    "--only",
    type=_Only(),
    multiple=True,
    metavar="FIELD=VALUE,...",
    help="Values (text) that this field of its rows may have; may be given several times.",
)
@click.option("--requests", type=click.FloatRange(0, min_open=True), help="Most requests per second. [default: no limit]")
@click.option("--rows", type=click.FloatRange(0, min_open=True), help="Most rows per second. [default: no limit]")
@click.option("--request-rows", type=click.IntRange(1), help="Most rows of one request. [default: no limit]")
@click.option("--expires", type=Time(), help="The key is refused from then on, such as 2026-01-31T12:00:00Z. [default: never]")
@click.option("--comment", default="", help="A comment, one line.")
@with_settings("access")
@format_option
def add(
    name: str, may: tuple[str, ...], topologies: tuple[str, ...], models: tuple[str, ...], only: tuple[tuple[str, frozenset[Value]], ...],
    requests: float | None, rows: float | None, request_rows: int | None, expires: int | None, comment: str, settings: Settings, form: str,
) -> None:  # fmt: skip
    """Make a key of the caller NAME, and print it. It is shown once: the file has only its SHA-256.

    \b
      penstock access key add shop --may score --may read \\
          --topology flights --only store=A,B --rows 20000

    A name that the file does not have yet is a new caller, which needs --may and --topology. One that it has gets one more
    key: to replace a key, add the new one, install it, and revoke the old one.
    """
    path, now = _file(settings), time.time()
    if expires is not None and expires / 1000 <= now:
        raise click.BadParameter("this is over already", param_hint="--expires")
    new = any((may, topologies, models, only, requests, rows, request_rows, comment))
    if new and not (may and topologies):
        raise click.UsageError("a new caller needs --may and --topology; for one more key of a caller, give neither of them nor limits")
    rules = None
    if new:
        limits = Limits(requests, rows, request_rows)
        allowed: dict[str, frozenset[Value]] = {}
        for path_of, values in only:  # the same field may be given again, as every other flag that lists
            allowed[path_of] = allowed.get(path_of, frozenset()) | values
        rules = Rules(name, frozenset(may), frozenset(topologies), frozenset(models) if models else None, allowed, limits)
    made = new_key()
    stored = ApiKey(made.id, digest(made.text), now, None if expires is None else expires / 1000)
    edit(path, lambda before, file: with_key(before, rules, name, stored, comment, file=file))
    if form == "json":
        print_json({"caller": name, "id": made.id, "key": made.text, "file": str(path)})
        return
    err.print(escape(f"{path}: {name} has the key {made.id}. It is shown only here:"))
    echo(made.text)


@key.command("list", short_help="List the callers and their keys.")
@with_settings("access")
@format_option
def list_(settings: Settings, form: str) -> None:
    """List the callers of the access file, what they may do, and their keys. The keys themselves are not in the file."""
    path = _file(settings)
    rows = _rows(Access.load(path), time.time())
    if form == "json":
        print_json(rows)
        return
    listing = table(
        escape(f"callers ({path})"), *("caller", "may", "topologies", "models", "key", "standing", "expires", "also by", "comment")
    )
    for row in rows:
        cells = {**row, **{name: ", ".join(row[name] or ()) for name in ("may", "topologies", "models", "also by")}}
        listing.add_row(*(escape(cells[name] or "") for name in _COLUMNS))
    out.print(listing)


@key.command(short_help="Revoke a key, or all keys of a caller.")
@click.argument("name", metavar="ID|NAME")
@click.option("--at", type=Time(), help="Refused from then on, such as 2026-01-31T12:00:00Z. [default: now]")
@with_settings("access")
@format_option
def revoke(name: str, at: int | None, settings: Settings, form: str) -> None:
    """Revoke the key with this id, or all keys of the caller of this name. A running service refuses them within a second."""
    path, now = _file(settings), time.time()
    moment = now if at is None else at / 1000
    ids: list[str] = []

    def change(before: str, file: str) -> str:
        callers = Access.parse(before, file=file).callers
        ids.extend([key.id for key in callers[name].keys.values() if key.revoked is None] if name in callers else [name])
        if not ids:
            raise ConfigError(Problem(file, 0, 0, f"{name} has no key that is not revoked", "`penstock access key list` shows them"))
        return with_revocation(before, ids, moment, file=file)

    edit(path, change)
    if form == "json":
        print_json({"revoked": ids, "file": str(path), "at": shown_time(int(moment * 1000))})
    else:
        out.print(escape(f"{path}: {', '.join(ids)} revoked" + (f" from {shown_time(at)} on" if at is not None else "")))


_COLUMNS: Final = ("caller", "may", "topologies", "models", "key", "standing", "expires", "also by", "comment")


def _rows(access: Access, now: float) -> list[dict[str, Any]]:
    """Returns one row per key, and one per caller without keys."""
    rows = []
    for name, entry in access.callers.items():
        rules = entry.rules
        common = {
            "caller": name,
            "may": [one for one in RIGHTS if one in rules.may],
            "topologies": sorted(rules.topologies),
            "models": None if rules.models is None else sorted(rules.models),
            "also by": [*(f"token {one.issuer}" for one in entry.tokens), *entry.certificates],
            "comment": entry.comment,
        }
        for key in entry.keys.values() or [None]:
            shown: dict[str, Any] = {"key": None, "standing": None, "made": None, "expires": None, "revoked": None}
            if key is not None:
                shown = {"key": key.id, "standing": key.standing(now), "made": _time(key.made), "expires": _time(key.expires)}
                shown["revoked"] = _time(key.revoked)
            rows.append({**common, **shown})
    return rows


def _time(at: float | None) -> str | None:
    return None if at is None else shown_time(int(at * 1000))


def _file(settings: Settings) -> Path:
    return settings.access or DEFAULT
