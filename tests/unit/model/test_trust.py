"""What a policy makes of a version's signature, and whom a folder trusts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from penstock.errors import ConfigError, ModelCorrupt, ModelUntrusted
from penstock.model.artifact import Artifact, open_artifact
from penstock.model.signer import ModelTrust, Pem
from penstock.model.signing import sign
from penstock.model.trust import Policy, judge, load_trust, signer_of
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from tests.unit.model.issued import NOW, authority, private_pem, public_pem

KEY = ec.generate_private_key(ec.SECP256R1())
TRUST = ModelTrust((Pem(Path("us.pem"), public_pem(KEY)),))


@pytest.fixture
def unsigned(tmp_path: Path) -> Artifact:
    return DirectoryRegistry(tmp_path / "models").publish("score", models.linear([1, 2]))


@pytest.fixture
def artifact(tmp_path: Path, unsigned: Artifact) -> Artifact:
    """A version that KEY has signed."""
    (tmp_path / "private.pem").write_bytes(private_pem(KEY))
    signed = sign(unsigned.digests, subject="1", key=tmp_path / "private.pem", now=NOW)
    DirectoryRegistry(tmp_path / "models").add_bundle(unsigned, signed.bundle)
    return unsigned


def replace(artifact: Artifact, file: str, data: bytes) -> Artifact:
    """The version, opened again after one of its files was replaced."""
    (artifact.path / file).unlink()
    (artifact.path / file).write_bytes(data)
    return open_artifact(artifact.path, artifact.name, artifact.version)


@pytest.mark.parametrize("policy", ["warn", "require"])
def test_signed_version_is_accepted_in_silence(artifact: Artifact, policy: Policy) -> None:
    verdict = judge(policy, artifact, TRUST, now=NOW)
    assert (verdict.accepted, verdict.message) == (True, "")
    assert str(verdict.signer).startswith("key us.pem (sha256:")


def test_policy_decides_what_becomes_of_an_unsigned_version(unsigned: Artifact) -> None:
    off, warn, require = (judge(policy, unsigned, TRUST, now=NOW) for policy in ("off", "warn", "require"))
    assert (off.accepted, off.message) == (True, "")
    assert (warn.accepted, require.accepted) == (True, False)
    assert warn.message == require.message
    assert require.message.startswith(f"model score@1: it is not signed (no model.sig in {unsigned.path}): penstock model sign score@1")


def test_manifest_that_was_edited_is_no_longer_signed(artifact: Artifact) -> None:
    """Its prose too: who trained it on what is part of what somebody vouched for."""
    text = (artifact.path / "model.toml").read_text().replace('description = ""', 'description = "better"')
    with pytest.raises(ModelUntrusted, match=r"model score@1: model\.toml is not the file that was signed") as caught:
        signer_of(replace(artifact, "model.toml", text.encode()), TRUST, now=NOW)
    assert (caught.value.name, caught.value.version) == ("score", "1")


@pytest.mark.parametrize("file", ["model.onnx", "golden.json"])
def test_file_that_was_swapped_together_with_its_digest_is_no_longer_signed(tmp_path: Path, artifact: Artifact, file: str) -> None:
    """Whoever may write to the registry can make a version that is sound in itself, but not sign it."""
    other = DirectoryRegistry(tmp_path / "others").publish("score", models.linear([3, 4]))
    swapped = artifact
    for name in ("model.onnx", "golden.json", "model.toml"):
        swapped = replace(artifact, name, (other.path / name).read_bytes())
    swapped.read()
    with pytest.raises(ModelUntrusted, match=rf"{file} is not the file that was signed"):
        signer_of(swapped, TRUST, now=NOW)


def test_signature_does_not_serve_under_another_version(tmp_path: Path, artifact: Artifact) -> None:
    """A version that was found to be bad is not brought back as the next one: its manifest names it, and is signed."""
    next_one = DirectoryRegistry(tmp_path / "models").publish("score", artifact.read(), golden=artifact.golden_records())
    DirectoryRegistry(tmp_path / "models").add_bundle(next_one, artifact.bundle() or b"")
    with pytest.raises(ModelUntrusted, match=r"model score@2: model\.toml is not the file that was signed"):
        signer_of(next_one, TRUST, now=NOW)


def test_huge_signature_is_not_read_whole(artifact: Artifact) -> None:
    with open(replace(artifact, "model.sig", b"").path / "model.sig", "r+b") as file:
        file.truncate(1 << 40)
    assert "larger than 1,048,576 bytes" in judge("require", artifact, TRUST, now=NOW).message


def test_signature_that_cannot_be_read_is_no_missing_one(artifact: Artifact) -> None:
    (artifact.path / "model.sig").unlink()
    (artifact.path / "model.sig").mkdir()
    with pytest.raises(ModelCorrupt, match=r"model\.sig cannot be read: it is a folder"):
        judge("warn", artifact, TRUST, now=NOW)


def test_folder_is_read_by_the_names_of_its_files(tmp_path: Path) -> None:
    root = authority("root")
    (tmp_path / "b.pem").write_bytes(public_pem(KEY))
    (tmp_path / "a.crt").write_bytes(root.pem)
    (tmp_path / "README").write_text("whom we trust")
    trust = load_trust(tmp_path)
    assert trust == ModelTrust((Pem(tmp_path / "b.pem", public_pem(KEY)),), (Pem(tmp_path / "a.crt", root.pem),))
    assert load_trust(tmp_path / "b.pem", tmp_path / "a.crt") == trust


def test_place_with_nothing_to_trust_is_named(tmp_path: Path) -> None:
    """An empty folder is a mistake, such as a volume that is not mounted, and not the wish to trust nobody."""
    with pytest.raises(ConfigError, match=r"model_trust: .* has no public key \(\*\.pem\) and no certificate of an authority \(\*\.crt\)"):
        load_trust(tmp_path)
    with pytest.raises(ConfigError, match=r"absent\.pem cannot be read: No such file"):
        load_trust(tmp_path / "absent.pem")


WITHOUT = """
import sys
sys.modules["model_signing"] = None  # importing it fails, as it does where the extra is not installed
from datetime import UTC, datetime
from pathlib import Path
from penstock.model.artifact import open_artifact
from penstock.model.trust import judge, load_trust
found = [judge(policy, open_artifact(Path(sys.argv[1]), "score", "1"), load_trust(Path(sys.argv[2])), now=datetime.now(UTC))
         for policy in ("off", "warn", "require")]
print(*(f"{one.accepted} {one.message}" for one in found), sep="\\n")
"""


def test_without_the_extra_it_is_said_what_to_install(tmp_path: Path, artifact: Artifact) -> None:
    """Nothing else needs it; a signature that cannot be checked is none."""
    (tmp_path / "us.pem").write_bytes(public_pem(KEY))
    script = [sys.executable, "-c", WITHOUT, str(artifact.path), str(tmp_path / "us.pem")]
    off, warn, require = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    assert off == "True "
    assert warn.startswith("True model score@1: its signature cannot be checked: ")
    assert require.startswith("False model score@1: its signature cannot be checked: ")
    assert "pip install 'penstock[signing]'" in require
