"""`penstock export`: a topology with its models as files that need nothing else."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from penstock.cli.options import CONNECTION, with_settings
from penstock.cli.output import err, format_option, out, print_json
from penstock.errors import TopologyError
from penstock.settings import Settings
from penstock.topology.find import find
from penstock.topology.parse import parse

__all__ = ["export"]


@click.group()
def export() -> None:
    """Write a topology with its models as files that need nothing else."""


@export.command()
@click.argument("topology", type=click.Path(path_type=Path), metavar="TOPOLOGY")
@click.option(
    "--out", "folder", type=click.Path(path_type=Path), metavar="FOLDER",
    help="Folder to write, new or empty. [default: TOPOLOGY_edge here]",
)  # fmt: skip
@with_settings(
    *CONNECTION, "application", "models", "model_trust", "schemas", "schema_registry_url", "releases", "trust", "unsigned_control", "roots",
    "cache",
)  # fmt: skip
@format_option
def edge(topology: Path, folder: Path | None, settings: Settings, form: str) -> None:
    """Write TOPOLOGY with its models and schemas as one folder that scores offline, and is a Python package.

    With --brokers, the versions are those that are active there, with the parameters of their release; without, or with --no-releases,
    those that the file names. Each model is checked as at a worker's start, and the folder is opened once before it gets its name. The
    same versions give the same bytes. Nothing is overwritten.

    \b
      penstock export edge flights
      python -m pip install ./flights_edge
      python -c 'import flights_edge; print(flights_edge.score({...}))'

    SHA256SUMS in the folder lists every file; a folder that differs from it is refused when it is opened. Compare the digest of that
    list, which is printed here, before you use a folder that others could change.
    """
    from penstock import runtime  # with what it imports: `--help` does without
    from penstock.codecs.schema_registry import open_schema_registry
    from penstock.edge.write import export as write
    from penstock.edge.write import package_name
    from penstock.explain.bound import bound_now, load_bound

    parsed = parse(find(topology, settings.topologies))
    if problems := runtime.forgotten(parsed, "an exported folder"):
        raise TopologyError(problems)
    if settings.brokers and settings.releases:
        bound = bound_now(parsed, settings)
        loaded, _ = load_bound(parsed, bound, settings)
    else:
        bound = None
        loaded = runtime.load(parsed, models=settings.models, schemas=settings.schemas, schema_registry=open_schema_registry(settings))
        runtime.prepare(loaded, settings, warm_rows=1)
    release = None if bound is None else bound.release
    made = write(
        loaded,
        folder or Path(package_name(parsed.name)),
        settings,
        runtime.bindings(loaded) if release is None else release.bindings,
        generation=bound.generation if bound else 0,
        release=release.id if release else "",
    )
    models = {node: str(one) for node, one in loaded.artifacts.items()}
    if form == "json":
        print_json(
            {
                "folder": str(made.folder),
                "package": made.package,
                "version": made.version,
                "topology": parsed.name,
                "generation": made.generation,
                "models": models,
                "files": made.files,
                "bytes": made.size,
                "digest": made.digest,
            }
        )
        return
    by = f"generation {made.generation}" if made.generation else "the versions of the topology file"
    out.print(
        f"wrote {made.folder}: {made.files} files, {made.size:,} bytes, {by}: " + ", ".join(f"{a}={b}" for a, b in models.items()),
        markup=False,
    )
    out.print(f"digest of its list: {made.digest}", markup=False)
    # With "/" in it, pip takes the name for a folder, and never for a package of the index.
    where = shlex.quote(str(made.folder) if made.folder.is_absolute() else f"./{made.folder}")
    err.print(f"next:\n  python -m pip install {where}\n  python -c 'import {made.package}'", markup=False)
