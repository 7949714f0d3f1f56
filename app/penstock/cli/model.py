"""`penstock model`: shows what the registry holds, and adds models to it."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from penstock.cli.options import Number, with_settings
from penstock.cli.output import err, format_option, out, print_json, table
from penstock.errors import ConfigError, ModelCorrupt, ModelMisdeclared, ModelUntrusted, PenstockError
from penstock.model.artifact import Artifact, digest_of
from penstock.model.contents import MAX_BYTES
from penstock.model.foreign import check_place
from penstock.model.golden import ATOL, RTOL, GoldenRecord, parse
from penstock.model.intake import declared, take_in
from penstock.model.manifest import MAX_ROWS, Source
from penstock.model.quarantine import Limits, quarantine
from penstock.model.session import Session, limit_memory
from penstock.model.signer import ModelTrust
from penstock.model.trust import EXTRA, Policy, judge, load_trust
from penstock.model.verify import verify
from penstock.registry.base import Registry
from penstock.registry.names import check_names
from penstock.registry.open import open_registry
from penstock.settings import Settings

__all__ = ["model"]

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def model() -> None:
    """Push, list, show, alias, sign and verify registered models.

    \b
    A model is NAME@VERSION or NAME@ALIAS. Versions never change.
    An alias points at one version and may move.
      penstock model push lr.onnx --name flight-lr --metrics auc=0.71 --alias live
      penstock model ls
      penstock model show flight-lr@live
    """


@model.command(short_help="Check an ONNX file and register it.")
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--name", required=True, help="Lower-case letters, digits, '.', '_', '-'.")
@click.option("--version", help="Begins with a digit. [default: the next whole number]")
@click.option("--golden", type=_FILE, help="Golden records (JSON). [default: the model's outputs for generated rows]")
@click.option("--atol", type=Number(min=0), default=ATOL, show_default=True, help="How far a float may be from its golden record.")
@click.option("--rtol", type=Number(min=0), default=RTOL, show_default=True, help="The same, times the expected number.")
@click.option("--outputs", multiple=True, metavar="NAME,...", help="The outputs to keep. [default: all that are tensors]")
@click.option("--rows", type=click.IntRange(1, MAX_ROWS), help="Run it this many rows at a time, always. [default: any number]")
@click.option("--metrics", multiple=True, metavar="NAME=NUMBER", help="A quality metric; may be given several times.")
@click.option("--description", default="", help="One line for people.")
@click.option("--training-data", default="", help="Provenance: what it was trained on.")
@click.option("--code", default="", help="Provenance: repository and commit of the training code.")
@click.option("--framework", default="", help="Provenance: library and version that trained it.")
@click.option("--author", default="", help="Provenance: who made it.")
@click.option("--alias", help="Point this alias at the new version.")
@with_settings("models", "model_memory", "quarantine_memory", "quarantine_seconds")
@format_option
def push(
    file: Path, name: str, version: str | None, golden: Path | None, atol: float, rtol: float, outputs: tuple[str, ...], rows: int | None,
    metrics: tuple[str, ...], description: str, alias: str | None, settings: Settings, form: str, **provenance: str,
) -> None:  # fmt: skip
    """Check an ONNX file and register it as a new version.

    The file is first tried in a separate process. It must load without custom operators or other files, run at batch sizes 1, 2
    and 256, and return finite outputs with one row per input row. Generated golden records fix today's outputs of the model; they
    do not show that the outputs are correct. Give real records where you can.

    \b
    What cannot serve as it is, is changed; each change is printed, and kept in
    the manifest:
      tensors in FILE.data are merged   (torch.onnx.export writes them)
      dictionaries become an array      (ZipMap of skl2onnx and onnxmltools)
      sequences and maps are left out   (--outputs: keep these only)
      float16 and bfloat16 become float32 at the edge
    """
    check_names(name, version=version, alias=alias)
    check_place(file)
    if (size := file.stat().st_size) > MAX_BYTES:
        raise ModelCorrupt(f"{file} has {size:,} bytes, the limit is {MAX_BYTES:,}")
    figures = dict(_figure(text) for text in metrics)
    given = file.read_bytes()
    taken = take_in(given, file=file, outputs=outputs)
    for change in taken.changes:
        err.print(f"changed: {change}", markup=False)
    try:
        records = _tried(taken.data, golden, rows, settings)
    except ModelMisdeclared as error:
        taken = declared(taken, error.shapes)
        err.print(f"changed: {taken.changes[-1]}", markup=False)
        records = _tried(taken.data, golden, rows, settings)
    registry = open_registry(settings.models)
    pushed = registry.publish(
        name,
        taken.data,
        version=version,
        golden=records,
        metrics=figures,
        provenance={key: text for key, text in provenance.items() if text},
        description=description,
        rows=rows,
        tolerance=(atol, rtol),
        source=Source(digest_of(given), taken.changes) if taken.changes else None,
    )
    if alias:
        registry.alias(name, alias, pushed.version)
    if form == "json":
        print_json(_described(pushed, registry))
        return
    out.print(f"pushed {pushed} to {pushed.path}" + (f", and {name}@{alias} points at it" if alias else ""), markup=False)
    if records is None:
        err.print("its golden records were generated: they fix today's outputs and do not show that they are correct (--golden: real ones)")


@model.command()
@with_settings("models")
@format_option
def ls(settings: Settings, form: str) -> None:
    """List models, their versions and aliases."""
    registry = open_registry(settings.models)
    names = registry.names()
    if form == "json":
        print_json([{"name": name, "versions": registry.versions(name), "aliases": registry.aliases(name)} for name in names])
        return
    if not names:
        out.print(f"no models in {settings.models}; push one: penstock model push FILE.onnx --name NAME", markup=False)
        return
    shown = table("", "model", "versions", "aliases", "latest is")
    for name in names:
        versions = registry.versions(name)
        aliases = ", ".join(f"{alias} → {version}" for alias, version in registry.aliases(name).items())
        latest = registry.resolve(name, versions[-1]).manifest
        shown.add_row(name, ", ".join(versions), aliases or "-", escape(latest.description) or latest.created)
    out.print(shown)


@model.command(short_help="Show a version: tensors, metrics, origin, who signed it.")
@click.argument("reference", metavar="NAME[@VERSION]")
@with_settings("models", "model_trust")
@format_option
def show(reference: str, settings: Settings, form: str) -> None:
    """Show a version: its tensors, metrics, where it came from and who signed it. Without a version, the latest."""
    registry = open_registry(settings.models)
    artifact = registry.resolve(*_asked(registry, (reference,))[-1])
    signature = _signature(artifact, _trust(settings))
    if form == "json":
        print_json({**_described(artifact, registry), "signature": signature})
        return
    manifest = artifact.manifest
    golden, records = manifest.golden, len(artifact.golden_records())
    about = {
        "description": manifest.description,
        "created": manifest.created,
        "digest": artifact.digest,
        "size": f"{artifact.size:,} bytes",
        **({"rows": f"{manifest.rows} at a time"} if manifest.rows else {}),
        **({"source": manifest.source.digest, "changed": "\n".join(manifest.source.changes)} if manifest.source else {}),
        "aliases": ", ".join(_aliases_of(artifact, registry)),
        "golden records": f"{records} {golden.origin}, compared within {golden.atol:g} + {golden.rtol:g} x expected",
        "signature": signature,
        **{f"metric {name}": f"{value:g}" for name, value in manifest.metrics.items()},
        **{name.replace("_", " "): text for name, text in manifest.provenance.items()},
    }
    shown = table(str(artifact), "", "")
    for key, text in about.items():
        shown.add_row(escape(key), escape(text) or "-")
    for kind, tensors in (("input", artifact.signature.inputs), ("output", artifact.signature.outputs)):
        for tensor in tensors:
            shown.add_row(kind, escape(str(tensor)), end_section=tensor is tensors[-1])
    out.print(shown)


@model.command(short_help="Point an alias at a version.")
@click.argument("name")
@click.argument("alias")
@click.argument("version")
@with_settings("models")
def alias(name: str, alias: str, version: str, settings: Settings) -> None:
    """Point ALIAS of the model NAME at VERSION; running workers are not affected."""
    registry = open_registry(settings.models)
    before = registry.aliases(name).get(alias)
    registry.alias(name, alias, version)
    now = registry.aliases(name)[alias]
    out.print(f"{name}@{alias} points at {now}" + (f", previously at {before}" if before else ""), markup=False)


@model.command(short_help="Sign the files of a version with a key.")
@click.argument("reference", metavar="NAME@VERSION")
@click.option("--key", required=True, type=_FILE, help="Private key (PEM; P-256, P-384 or P-521).")
@click.option("--certificate", type=_FILE, help="The key's certificate (PEM). A worker that trusts its authority then trusts the model.")
@click.option("--chain", multiple=True, type=_FILE, help="Certificates that lead from --certificate to the authority (PEM).")
@click.option("--password-file", type=_FILE, help="File with the key's password; its line end is ignored. [default: a prompt]")
@click.option("--replace", is_flag=True, help="Replace an existing signature.")
@with_settings("models")
@format_option
def sign(
    reference: str, key: Path, certificate: Path | None, chain: tuple[Path, ...], password_file: Path | None, replace: bool,
    settings: Settings, form: str,
) -> None:  # fmt: skip
    """Sign a version, in the OpenSSF model-signing format: `model.sig` beside its files. No network is used.

    \b
      penstock model sign flight-lr@3 --key private.pem
      penstock model sign flight-lr@3 --key alice.key \\
          --certificate alice.crt --chain team-ca.crt

    The files must be those that were pushed. Checking the signature needs the public key (openssl pkey -in private.pem -pubout)
    or the authority's certificate, in the folder that `model_trust` names.
    """
    if chain and certificate is None:
        raise ConfigError("--chain leads from a certificate to its authority: give --certificate too")
    name, _, version = reference.partition("@")
    if not version:
        raise ConfigError(f"{reference!r}: name the version to sign, as NAME@VERSION or NAME@ALIAS")
    registry = open_registry(settings.models)
    artifact = registry.resolve(name, version)
    # Reading compares the files with their digests, so that only what was pushed is signed.
    artifact.read()
    artifact.golden_records()
    try:
        from penstock.model import signing  # imported here: it is slow to load and needs the extra
    except ModuleNotFoundError as error:
        raise ConfigError(f"{EXTRA} ({error})") from error
    signed = signing.sign(
        artifact.digests,
        subject=artifact.version,
        key=key,
        password=_password(key, password_file) if signing.is_encrypted(key) else None,
        certificates=(certificate, *chain) if certificate else (),
        now=datetime.now(UTC),
    )
    place = registry.add_bundle(artifact, signed.bundle, replace=replace)
    if form == "json":
        print_json({"name": artifact.name, "version": artifact.version, "path": place, "signer": asdict(signed.signer)})
    else:
        out.print(f"signed {artifact} with {signed.signer}: {place}", markup=False)


@model.command(name="verify", short_help="Check digests, tensors, golden records and signatures.")
@click.argument("references", nargs=-1, metavar="[NAME[@VERSION]]...")
@click.option(
    "--signatures", type=click.Choice(["off", "warn", "require"]),
    help="Whether a version must carry a signature that model_trust accepts. [default: warn if model_trust is set, else off]",
)  # fmt: skip
@with_settings("models", "model_trust")
@format_option
def verify_command(references: tuple[str, ...], signatures: Policy | None, settings: Settings, form: str) -> int:
    """Check digests, tensors, golden records and signatures of all models, or of those named. Exit code 3 when one fails.

    NAME alone means all its versions.
    """
    registry = open_registry(settings.models)
    trust = _trust(settings)
    policy: Policy = signatures or ("warn" if trust else "off")
    asked = _asked(registry, references)
    results = []
    with Progress(TextColumn("verifying {task.description}"), BarColumn(), MofNCompleteColumn(), console=err, transient=True) as progress:
        task = progress.add_task("", total=len(asked))
        for name, version in asked:
            label = f"{name}@{version}".rstrip("@")
            progress.update(task, description=escape(label))
            results.append({"model": label, **_verdict(registry, name, version, policy, trust)})
            progress.advance(task)
    failed = [result for result in results if not result["ok"]]
    if form == "json":
        print_json(results)
    else:
        for result in results:
            out.print(f"{'ok    ' if result['ok'] else 'FAILED'} {result['model']}: {result['message']}", markup=False)
        out.print(_summary(results, policy), markup=False)
    return 3 if failed else 0


def _summary(results: Sequence[Mapping[str, Any]], policy: Policy) -> str:
    passed, unsigned = (sum(result[what] for result in results) for what in ("ok", "untrusted"))
    signed = " and signed by a trusted key" if policy == "require" else ""
    text = f"{passed} of {len(results)} versions are unchanged since they were pushed{signed}"
    return text + (f"; {unsigned} lack the signature of a trusted key, and were not checked further" if unsigned else "")


def _verdict(registry: Registry, name: str, version: str, policy: Policy, trust: ModelTrust | None) -> dict[str, Any]:
    try:
        artifact = registry.resolve(name, version)
        verdict = judge(policy, artifact, trust, now=datetime.now(UTC))
        if not verdict.accepted:
            raise ModelUntrusted(verdict.message)
        report = verify(artifact)
    except PenstockError as error:
        return {"ok": False, "untrusted": isinstance(error, ModelUntrusted), "message": str(error)}
    message = f"{report.records} golden records passed ({report.origin})"
    message += f"; signed by {verdict.signer}" if verdict.signer else f"; WARNING: {verdict.message}" if verdict.message else ""
    return {"ok": True, "untrusted": False, "message": message}


def _trust(settings: Settings) -> ModelTrust | None:
    return load_trust(settings.model_trust) if settings.model_trust else None


def _signature(artifact: Artifact, trust: ModelTrust | None) -> str:
    """Describes the version's signature, for people."""
    if artifact.bundle() is None:
        return "none"
    if trust is None:
        return "not checked: give the trusted keys with --model-trust"
    verdict = judge("require", artifact, trust, now=datetime.now(UTC))
    return str(verdict.signer or f"NOT TRUSTED: {verdict.message}")


def _password(key: Path, file: Path | None) -> bytes:
    """Returns the password of an encrypted key: from a file or a terminal, never from a flag, which process lists show."""
    if file is not None:
        return file.read_bytes().rstrip(b"\r\n")
    if not sys.stdin.isatty():
        raise ConfigError(f"{key} is encrypted and there is no terminal for a prompt: give --password-file")
    password: str = click.prompt(f"Password of {key}", hide_input=True, err=True)
    return password.encode()


def _asked(registry: Registry, references: tuple[str, ...]) -> list[tuple[str, str]]:
    """Returns the (name, version or alias) pairs of the references. A name alone means all its versions; no references mean all names."""
    pairs: list[tuple[str, str]] = []
    for reference in references or registry.names():
        name, _, version = reference.partition("@")
        # An unknown name stays in the list: resolving it raises an error that lists the known names.
        versions = [version] if version else registry.versions(name) or [""]
        pairs.extend((name, one) for one in versions)
    return list(dict.fromkeys(pairs))


def _tried(data: bytes, golden: Path | None, rows: int | None, settings: Settings) -> tuple[GoldenRecord, ...] | None:
    """Runs the model in quarantine, and only then parses the golden records by its signature."""
    seconds = settings.quarantine_seconds
    limits = Limits(tensors=settings.model_memory, memory=settings.quarantine_memory, cpu=seconds, wall=2 * seconds)
    limit_memory(settings.model_memory)
    text = None if golden is None else golden.read_text(encoding="utf-8")
    remarks = quarantine(data, golden=text, rows=rows, limits=limits).remarks
    records = None if text is None else parse(text, Session.load(data, rows=rows).signature, file=str(golden))
    for remark in remarks:
        err.print(f"remark: {remark}", markup=False)
    return records


def _figure(text: str) -> tuple[str, float]:
    """Parses `auc=0.71` to a pair."""
    name, separator, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (name and separator and math.isfinite(value)):
        raise ConfigError(f"--metrics {text!r}: write NAME=NUMBER, like auc=0.71")
    return name, value


def _aliases_of(artifact: Artifact, registry: Registry) -> list[str]:
    return [alias for alias, version in registry.aliases(artifact.name).items() if version == artifact.version]


def _described(artifact: Artifact, registry: Registry) -> Mapping[str, Any]:
    manifest = artifact.manifest
    return {
        "name": artifact.name,
        "version": artifact.version,
        "path": artifact.path,
        "digest": artifact.digest,
        "size": artifact.size,
        "rows": manifest.rows,
        "source": asdict(manifest.source) if manifest.source else None,
        "created": manifest.created,
        "description": manifest.description,
        "aliases": _aliases_of(artifact, registry),
        "inputs": [asdict(tensor) for tensor in artifact.signature.inputs],
        "outputs": [asdict(tensor) for tensor in artifact.signature.outputs],
        "golden": asdict(manifest.golden),
        "metrics": dict(manifest.metrics),
        "provenance": dict(manifest.provenance),
    }
