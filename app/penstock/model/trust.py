"""Whose models may serve: public keys and authorities that a person put into a folder, and what a topology's policy makes of a signature.

A policy is `off` (signatures are not looked at), `warn` (what is wrong with one is logged, and the model serves) or `require` (it does
not serve). What is compared is an artifact's digests, pinned when it was opened, so it is judged before a byte of the model is
loaded, and what is loaded afterwards is what was judged. The check itself needs the extra `signing` and is in
`penstock.model.signing`, which is imported when there is a signature to check.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from penstock.errors import ConfigError, ModelUntrusted
from penstock.model.artifact import BUNDLE_FILE, Artifact
from penstock.model.signer import ModelTrust, Pem, Signer

__all__ = ["EXTRA", "Policy", "Verdict", "judge", "load_trust", "signer_of"]

Policy = Literal["off", "warn", "require"]
EXTRA: Final = "model signatures need an extra: pip install 'penstock[signing]'"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a version may serve. `message` is what to tell people, empty when all is well; `signer` is known when the signature holds."""

    accepted: bool
    message: str = ""
    signer: Signer | None = None


def load_trust(*places: Path) -> ModelTrust:
    """Reads what to trust: files, or folders of them: `*.pem` is a public key, `*.crt` certificates of authorities.

    Raises ConfigError when a place cannot be read, or there is nothing in it.
    """
    files = [file for place in places for file in _files(place)]
    return ModelTrust(
        keys=tuple(_read(file) for file in files if file.suffix == ".pem"),
        authorities=tuple(_read(file) for file in files if file.suffix == ".crt"),
    )


def judge(policy: Policy, artifact: Artifact, trust: ModelTrust | None, *, now: datetime) -> Verdict:
    """What the policy makes of the version's signature at the time `now` (with a time zone). Never raises ModelUntrusted.

    Raises ConfigError when a file of `trust` is no key or certificate, and ModelCorrupt when the signature cannot be read.
    """
    if policy == "off":
        return Verdict(True)
    try:
        return Verdict(True, signer=signer_of(artifact, trust, now=now))
    except ModelUntrusted as error:
        return Verdict(policy == "warn", str(error))


def signer_of(artifact: Artifact, trust: ModelTrust | None, *, now: datetime) -> Signer:
    """Who of those that `trust` names has signed the version. Raises ModelUntrusted with the reason when none of them has."""
    try:
        bundle = artifact.bundle()
        if bundle is None:
            raise ModelUntrusted(f"it is not signed (no {BUNDLE_FILE} in {artifact.path}): penstock model sign {artifact} --key FILE")
        if trust is None:
            raise ModelUntrusted("no key is trusted: set model_trust to the folder of the keys whose models may serve")
        try:
            from penstock.model.signing import check_signature  # heavy, and only there with the extra
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
        return Pem(file, file.read_bytes())
    except OSError as error:
        raise ConfigError(f"model_trust: {file} cannot be read: {error.strerror}") from error
