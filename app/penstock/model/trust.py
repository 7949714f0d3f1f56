"""Decides whose models may serve: by public keys and authorities in a folder, and a topology's policy for signatures.

A policy is `off` (signatures are not checked), `warn` (a problem is logged, and the model serves) or `require` (a model with a problem
does not serve). The check compares an artifact's digests, which are fixed when it is opened. So it happens before a byte of the model
is loaded, and what is loaded later is what was checked. The check itself needs the extra `signing` and is in
`penstock.model.signing`, which is imported when there is a signature to check.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from penstock.errors import ConfigError, ModelUntrusted
from penstock.host import read_regular
from penstock.model.artifact import BUNDLE_FILE, Artifact
from penstock.model.signer import ModelTrust, Pem, Signer

__all__ = ["EXTRA", "Policy", "Verdict", "judge", "load_trust", "signer_of"]

Policy = Literal["off", "warn", "require"]
_LIMIT: Final = 1024**2  # bytes of a file of keys or certificates
EXTRA: Final = "model signatures need an extra: pip install 'penstock[signing]'"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a version may serve. `message` is for people and empty without a problem; `signer` is set when the signature is valid."""

    accepted: bool
    message: str = ""
    signer: Signer | None = None


def load_trust(*places: Path) -> ModelTrust:
    """Reads the trusted signers, from files or folders of files: `*.pem` is a public key, `*.crt` holds certificates of authorities.

    Raises ConfigError when a place cannot be read or is empty.
    """
    files = [file for place in places for file in _files(place)]
    return ModelTrust(
        keys=tuple(_read(file) for file in files if file.suffix == ".pem"),
        authorities=tuple(_read(file) for file in files if file.suffix == ".crt"),
    )


def judge(policy: Policy, artifact: Artifact, trust: ModelTrust | None, *, now: datetime) -> Verdict:
    """Applies the policy to the version's signature at the time `now` (with a time zone). Never raises ModelUntrusted.

    Raises ConfigError when a file of `trust` is not a key or certificate, and ModelCorrupt when the signature cannot be read.
    """
    if policy == "off":
        return Verdict(True)
    try:
        return Verdict(True, signer=signer_of(artifact, trust, now=now))
    except ModelUntrusted as error:
        return Verdict(policy == "warn", str(error))


def signer_of(artifact: Artifact, trust: ModelTrust | None, *, now: datetime) -> Signer:
    """Returns the signer in `trust` that has signed the version. Raises ModelUntrusted with the reason when there is no such signer."""
    try:
        bundle = artifact.bundle()
        if bundle is None:
            raise ModelUntrusted(f"it is not signed (no {BUNDLE_FILE} in {artifact.path}): penstock model sign {artifact} --key FILE")
        if trust is None:
            raise ModelUntrusted("no key is trusted: set model_trust to the folder with the trusted public keys")
        try:
            from penstock.model.signing import check_signature  # imported here: it is slow to load and needs the extra
        except ModuleNotFoundError as error:
            raise ModelUntrusted(f"its signature cannot be checked: {EXTRA} ({error})") from error
        return check_signature(artifact.digests, bundle, trust, now=now)
    except ModelUntrusted as error:
        raise ModelUntrusted(f"model {artifact}: {error}", name=artifact.name, version=artifact.version) from error


def _files(place: Path) -> Iterable[Path]:
    found = sorted(place.iterdir()) if place.is_dir() else [place]
    chosen = [file for file in found if file.suffix in (".pem", ".crt")]
    if not chosen:
        raise ConfigError(f"model_trust: {place} has no public key (*.pem) and no certificate of an authority (*.crt)")
    return chosen


def _read(file: Path) -> Pem:
    try:
        return Pem(file, read_regular(file, _LIMIT))
    except OSError as error:
        raise ConfigError(f"model_trust: {file} cannot be read: {error.strerror}") from error
