"""`penstock keys`: makes the keys that sign releases, and edits the trust file, in three steps: make a key, share it, trust it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from rich.markup import escape

from penstock.cli.echo import echo
from penstock.cli.files import edit
from penstock.cli.options import with_settings
from penstock.cli.output import err, format_option, out, print_json, table
from penstock.cli.release.strategies import Percent
from penstock.control.rights import ALL, RELEASES, listed
from penstock.control.trust.file import KEY_NAME, Trust, TrustedKey, is_topology, with_key, with_revocation
from penstock.control.trust.keys import HOME, SigningKey, public_key
from penstock.errors import ConfigError
from penstock.settings import Settings

__all__ = ["KeyName", "Time", "TopologyName", "keys", "shown_time"]


class KeyName(click.ParamType):
    """A key's name, which is also the name of its file and of its author."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not KEY_NAME.fullmatch(value):
            self.fail(f"{value!r}: a name is made of letters, digits, '_' and '-' (64 characters at most)", param, ctx)
        return str(value)


class Time(click.ParamType):
    """A time with its zone, as Unix time in ms."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            when = datetime.fromisoformat(value)
        except ValueError as error:
            self.fail(f"{value!r}: {error}; write it as 2026-01-31T12:00:00Z", param, ctx)
        if when.tzinfo is None:
            self.fail(f"{value!r}: the zone is missing, as in 2026-01-31T12:00:00Z", param, ctx)
        return int(when.timestamp() * 1000)


class TopologyName(click.ParamType):
    """A topology's name, or "*"."""

    name = "topology"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not is_topology(value):
            self.fail(f"{value!r} is not a topology's name", param, ctx)
        return str(value)


@click.group()
def keys() -> None:
    """Make the keys that sign releases, and choose which are trusted.

    Workers accept a release, an activation or an abort only if it is signed with a key that their trust file has for the topology.
    The private key stays with the person who releases; the public one goes into the trust file, which every worker reads.

    \b
    1. Alice makes a key, and sends the printed line on:
         penstock keys new alice --topology flights
    2. The owner of trust.toml adds her key to it:
         penstock keys trust alice --public 11qY... --topology flights
    3. Alice releases:
         penstock deploy flights trees=flight-trees@2 \\
             --signing-key alice
    4. From now on she may not; her releases stay:
         penstock keys revoke alice
    The key of workers with `on_invalid: rollback`:
         penstock keys trust worker --public ... --topology flights \\
             --may rollback
    """


@keys.command(short_help="Make a key.")
@click.argument("name", type=KeyName())
@click.option(
    "--out", "path", type=click.Path(dir_okay=False, path_type=Path), help=f"File of the private key, instead of {HOME}/NAME.pem."
)
@click.option(
    "--topology",
    "topologies",
    type=TopologyName(),
    multiple=True,
    metavar="NAME",
    help="A topology to release; may be given several times.",
)
@format_option
def new(name: str, path: Path | None, topologies: tuple[str, ...], form: str) -> None:
    """Make a key: the private part in a file that only you can read; the public part is printed with the next steps."""
    path = _file(name) if path is None else path
    key = SigningKey.new(name)
    key.save(path)
    line = f"penstock keys trust {name} --public {key.public} " + " ".join(f"--topology {one}" for one in topologies or ("TOPOLOGY",))
    if form == "json":
        print_json({**_shown(key), "file": str(path), "trust": line})
        return
    out.print(
        f"key {key.kid} of {name}, private part in {escape(str(path))}\n\nSend this to the owner of the trust file; it is not secret:\n"
        f"  {escape(line)}\n\nThen release with it:\n  export PENSTOCK_SIGNING_KEY={escape(str(path))}"
    )


@keys.command(short_help="Print the public part of a key.")
@click.argument("key", metavar="NAME|FILE")
@format_option
def public(key: str, form: str) -> None:
    """Print the public part of a private key, given by its NAME or as a FILE in PEM."""
    found = SigningKey.load(Path(key))
    if form == "json":
        print_json(_shown(found))
    else:
        echo(found.public)


@keys.command(short_help="List the trusted keys, and your own.")
@with_settings("trust")
@format_option
def ls(settings: Settings, form: str) -> None:
    """List the keys of the trust file, and your own keys that are not in it."""
    trusted, own = Trust.load(settings.trust).keys, {key.kid: (path, key) for path, key in _own()}
    rows = [{**_row(key), "private": str(own[key.kid][0]) if key.kid in own else None} for key in trusted.values()]
    rows += [{**_UNKNOWN, **_shown(key), "private": str(path)} for path, key in own.values() if key.kid not in trusted]
    rows.sort(key=lambda row: row["name"])
    if form == "json":
        print_json(rows)
        return
    listing = table(
        escape(f"keys ({settings.trust})"),
        *("name", "standing", "may", "topologies", "trusted", "expires", "revoked", "key", "private part", "comment"),
    )
    for row in rows:
        most = f", up to {100 * row['max_share']:.6g} % of the units" if (row["max_share"] or 1) < 1 else ""
        shown = {**row, "topologies": ", ".join(row["topologies"]), "may": ", ".join(row["may"]) + most}
        listing.add_row(*(escape(shown[name] or "") for name in _COLUMNS))
    out.print(listing)


@keys.command(short_help="Trust a key for some topologies.")
@click.argument("name", type=KeyName())
@click.option("--public", "text", metavar="TEXT", help="The public part, as `keys new` prints it. [default: that of your key NAME]")
@click.option(
    "--topology",
    "topologies",
    type=TopologyName(),
    multiple=True,
    required=True,
    metavar="NAME",
    help="A topology that it may release; '*' for all.",
)
@click.option("--may", type=click.Choice(RELEASES), multiple=True, help="What it may do; may be given several times. [default: all three]")
@click.option(
    "--max-share", type=Percent(), metavar="PERCENT", help="The most of the units that it may let a release answer. [default: 100]"
)
@click.option("--from", "begin", type=Time(), help="Trusted from then on, such as 2026-01-31T12:00:00Z. [default: now]")
@click.option("--expires", type=Time(), help="Not trusted from then on. [default: never]")
@click.option("--comment", default="", help="A comment, one line.")
@with_settings("trust")
@format_option
def trust(
    name: str, text: str | None, topologies: tuple[str, ...], may: tuple[str, ...], max_share: float | None, begin: int | None,
    expires: int | None, comment: str, settings: Settings, form: str,
) -> None:  # fmt: skip
    """Add a public key to the trust file, under the name that its releases will show as author.

    \b
      penstock keys trust alice --topology flights \\
          --public 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo

    A key may `deploy` (release any version, and promote and end its own releases), `promote` (activate, promote or abort what
    others have announced) and `rollback` (return to an earlier generation, and abort). Give the key of a worker with
    `on_invalid: rollback` only `--may rollback`. With --max-share it begins trials and promotes them up to that share; what
    leads further needs another key.

    Workers read the file again when it changes; copy it to their hosts. Workers of a Penstock without these rights refuse a
    file that names them: upgrade these first.
    """
    if text is None:
        text = SigningKey.load(_file(name)).public
    try:
        public_key(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a public key as `keys new` prints it: {error}", param_hint="--public") from None
    begin = _now() if begin is None else begin
    if expires is not None and expires <= begin:
        raise click.BadParameter("this is not after the time from which it is trusted", param_hint="--expires")
    key = TrustedKey(
        name, text, frozenset(topologies), begin, comment=comment, may=frozenset(may) or ALL, expires_ms=expires,
        max_share=1.0 if max_share is None else max_share,
    )  # fmt: skip
    edit(settings.trust, lambda before, file: with_key(before, key, file=file))
    _say(settings.trust, name, f"{name} may {listed(key.may)} {'all topologies' if '*' in topologies else ', '.join(topologies)}", form)


@keys.command(short_help="Revoke a key.")
@click.argument("name", type=KeyName())
@click.option("--at", type=Time(), help="Not trusted from then on, such as 2026-01-31T12:00:00Z. [default: now]")
@with_settings("trust")
@format_option
def revoke(name: str, at: int | None, settings: Settings, form: str) -> None:
    """Revoke a key. What it signed before stays valid; a pending release can be aborted.

    An earlier --at is for a stolen key: everything signed since then is removed from the history, including generations, and so
    are the releases that build on these. Workers then return to the generation that was active before. Deploy again what was
    right. To see the effect beforehand, revoke the key in a copy of the file, and fold the log by it:

    \b
      cp trust.toml what-if.toml
      penstock keys revoke alice --at 2026-01-31T12:00:00Z --trust what-if.toml
      penstock history flights --trust what-if.toml
    """
    now = _now()
    edit(settings.trust, lambda before, file: with_revocation(before, name, now if at is None else at, file=file))
    _say(settings.trust, name, f"{name} may no longer release" + (f" from {shown_time(at)} on" if at is not None else ""), form)
    if at is not None and at < now:
        err.print(
            f"warning: generations that {name} has announced since {shown_time(at)}, and those that build on them, do not count any more "
            f"for readers of {settings.trust}: workers return to the generation before them. `penstock history TOPOLOGY` shows what is "
            "left; `penstock keys revoke --help`, how to see it beforehand",
            style="yellow", markup=False,
        )  # fmt: skip


_COLUMNS: Final = ("name", "standing", "may", "topologies", "trusted", "expires", "revoked", "key", "private", "comment")
_UNKNOWN: Final[dict[str, Any]] = {
    "standing": "not in the file", "may": [], "max_share": None, "topologies": [], "trusted": None, "expires": None, "revoked": None,
    "comment": "",
}  # fmt: skip


def _row(key: TrustedKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "standing": _standing(key, _now()),
        "may": [one for one in RELEASES if one in key.may],
        "max_share": key.max_share,
        "topologies": sorted(key.topologies),
        "trusted": shown_time(key.trusted_ms),
        "expires": None if key.expires_ms is None else shown_time(key.expires_ms),
        "revoked": None if key.revoked_ms is None else shown_time(key.revoked_ms),
        "key": key.kid,
        "public": key.public,
        "comment": key.comment,
    }


def _standing(key: TrustedKey, now_ms: int) -> str:
    fault = key.fault(now_ms)
    return "trusted" if fault is None else "not yet" if fault.code == "not-yet-trusted" else fault.code


def _own() -> Iterator[tuple[Path, SigningKey]]:
    """Yields the private keys in their usual folder; prints an error for each unusable file."""
    for path in sorted(HOME.expanduser().glob("*.pem")):
        try:
            yield path, SigningKey.load(path)
        except ConfigError as error:
            err.print(escape(str(error)))


def _say(path: Path, name: str, text: str, form: str) -> None:
    if form == "json":
        key = Trust.load(path).named(name)
        assert key is not None, f"{name} has just been written"
        print_json(_row(key))
    else:
        out.print(escape(f"{path}: {text}"))


def _file(name: str) -> Path:
    return HOME.expanduser() / f"{name}.pem"


def _shown(key: SigningKey) -> dict[str, str]:
    return {"name": key.name, "key": key.kid, "public": key.public}


def _now() -> int:
    return int(time.time() * 1000)


def shown_time(ms: int) -> str:
    """Returns a Unix time in ms as people read it."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
