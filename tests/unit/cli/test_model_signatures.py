"""`penstock model sign`, and what show and verify tell of a signature, from the outside."""

from __future__ import annotations

import json
import os
import pty
import re
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from penstock.cli.main import main
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from tests.unit.cli.done import Done, Run
from tests.unit.model.issued import authority, issue, private_pem, public_pem

KEY = ec.generate_private_key(ec.SECP256R1())
SIG = Path("models/score/1/model.sig")


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `penstock model ...` in a folder with score@1, score@2, a key, and the folder `trusted` that trusts it."""
    monkeypatch.chdir(tmp_path)
    registry = DirectoryRegistry("models")
    registry.publish("score", models.constant(1))
    registry.publish("score", models.constant(2))
    registry.alias("score", "live", "1")
    Path("private.pem").write_bytes(private_pem(KEY))
    Path("trusted").mkdir()
    Path("trusted/us.pem").write_bytes(public_pem(KEY))

    def call(*arguments: str) -> Done:
        code = main(["model", *arguments])
        return Done(code, *capfd.readouterr())

    return call


def test_sign_show_and_verify(run: Run) -> None:
    done = run("sign", "score@live", "--key", "private.pem")
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(r"signed score@1 with key private\.pem \(sha256:\w{64}\): models/score/1/model\.sig\n", done.out)
    assert re.search(r"signature +key us\.pem \(sha256:", run("show", "score@1", "--model-trust", "trusted").out)
    verified = run("verify", "score@1", "--model-trust", "trusted", "--signatures", "require")
    assert verified.code == 0
    assert verified.out.startswith("ok     score@1: 8 golden records passed (synthetic); signed by key us.pem (sha256:")


def test_sign_tells_programs_who_signed_what(run: Run) -> None:
    told = run("sign", "score@1", "--key", "private.pem", "--format", "json").json
    assert (told["name"], told["version"], told["path"]) == ("score", "1", str(SIG))
    assert (told["signer"]["kind"], told["signer"]["name"]) == ("key", "private.pem")


def test_signature_is_there_once_and_replaced_only_on_request(run: Run) -> None:
    run("sign", "score@1", "--key", "private.pem")
    first = SIG.read_bytes()
    assert stat.S_IMODE(SIG.stat().st_mode) == 0o444
    refused = run("sign", "score@1", "--key", "private.pem")
    assert (refused.code, refused.err) == (
        3,
        f"error: model score@1 is signed already ({SIG}); replace the signature with --replace\n",
    )
    assert SIG.read_bytes() == first
    assert run("sign", "score@1", "--key", "private.pem", "--replace").code == 0
    assert SIG.read_bytes() != first, "ECDSA draws anew"
    assert sorted(os.listdir("models/score")) == ["1", "2", "aliases"], "nothing is left behind"
    assert sorted(os.listdir("models/score/1")) == ["golden.json", "model.onnx", "model.sig", "model.toml"]


def test_what_differs_from_what_was_pushed_is_not_signed(run: Run) -> None:
    for file, content in (("model.onnx", models.constant(3)), ("golden.json", b"{}")):
        path = Path("models/score/1") / file
        before = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        done = run("sign", "score@1", "--key", "private.pem")
        assert (done.code, SIG.exists()) == (3, False)
        assert f"{path} is not the file that was pushed" in done.err
        path.write_bytes(before)


def test_certificate_with_its_chain(run: Run, tmp_path: Path) -> None:
    today = datetime.now(UTC)
    root = authority("root", until=today + timedelta(days=9))
    team = authority("team", root, until=today + timedelta(days=9))
    issue("alice", team, begin=today - timedelta(days=1), until=today + timedelta(days=1)).files(tmp_path, "alice")
    team.files(tmp_path, "team")
    assert run("sign", "score@1", "--key", "alice.key", "--certificate", "alice.crt", "--chain", "team.crt").code == 0
    assert "certificate CN=alice (sha256:" not in run("show", "score@1", "--model-trust", "trusted").out
    Path("trusted/root.crt").write_bytes(root.pem)
    assert "certificate CN=alice (sha256:" in run("show", "score@1", "--model-trust", "trusted").out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["score", "--key", "private.pem"], 2, "'score': name the version to sign, as NAME@VERSION or NAME@ALIAS"),
        (["score@9", "--key", "private.pem"], 3, "version or alias '9' of score is not in models"),
        (["score@1", "--key", "absent.pem"], 2, "'absent.pem' does not exist"),
        (["score@1", "--key", "trusted/us.pem"], 2, "trusted/us.pem is not a private key in PEM"),
        (["score@1", "--key", "private.pem", "--chain", "trusted/us.pem"], 2, "give --certificate too"),
        (["score@1", "--key", "private.pem", "--certificate", "trusted/us.pem"], 2, "trusted/us.pem has no certificate in PEM"),
    ],
)
def test_what_cannot_be_signed_leaves_no_signature(run: Run, arguments: list[str], code: int, said: str) -> None:
    done = run("sign", *arguments)
    assert (done.code, done.out, SIG.exists()) == (code, "", False)
    assert said in done.err


def test_password_comes_from_a_file(run: Run) -> None:
    Path("private.pem").write_bytes(private_pem(KEY, b"open sesame"))
    Path("password").write_text("open sesame\n")
    assert run("sign", "score@1", "--key", "private.pem", "--password-file", "password").code == 0
    Path("password").write_text("close\n")
    assert (
        "private.pem is not a private key in PEM, or the password is wrong"
        in run("sign", "score@2", "--key", "private.pem", "--password-file", "password").err
    )


def test_password_is_not_waited_for_where_nobody_can_type(run: Run) -> None:
    Path("private.pem").write_bytes(private_pem(KEY, b"open sesame"))
    command = [sys.executable, "-m", "penstock", "model", "sign", "score@1", "--key", "private.pem"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: private.pem is encrypted and there is no terminal for a prompt: give --password-file\n"


def test_password_is_asked_for_on_a_terminal_and_not_shown(run: Run) -> None:
    Path("private.pem").write_bytes(private_pem(KEY, b"open sesame"))
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "penstock", "model", "sign", "score@1", "--key", "private.pem"]
    with subprocess.Popen(command, stdin=end, stdout=end, stderr=end, start_new_session=True) as signing:
        os.close(end)
        shown = b""
        while b"Password of private.pem: " not in shown:
            shown += os.read(terminal, 1000)
        os.write(terminal, b"open sesame\n")
        while b"signed score@1" not in shown:
            shown += os.read(terminal, 1000)
        assert signing.wait(60) == 0
    os.close(terminal)
    assert b"sesame" not in shown


def test_without_trust_a_signature_is_not_judged(run: Run) -> None:
    assert run("show", "score@1", "--format", "json").json["signature"] == "none"
    run("sign", "score@1", "--key", "private.pem")
    told = run("show", "score@1", "--format", "json").json["signature"]
    assert told == "not checked: give the trusted keys with --model-trust"
    assert run("verify", "score@1").out.startswith("ok     score@1: 8 golden records passed (synthetic)\n")


def test_verify_warns_of_what_is_not_signed_unless_it_must_be(run: Run) -> None:
    run("sign", "score@1", "--key", "private.pem")
    warned = run("verify", "--model-trust", "trusted")
    assert warned.code == 0
    assert "ok     score@2: 8 golden records passed (synthetic); WARNING: model score@2: it is not signed" in warned.out
    required = run("verify", "--model-trust", "trusted", "--signatures", "require", "--format", "json")
    assert required.code == 3
    assert [(one["model"], one["ok"]) for one in required.json] == [("score@1", True), ("score@2", False)]
    assert run("verify", "--model-trust", "trusted", "--signatures", "off").out.count("; ") == 0
    assert "no key is trusted: set model_trust" in run("verify", "score@1", "--signatures", "require").out


def test_summary_says_what_is_missing_and_not_that_files_have_changed(run: Run) -> None:
    last = run("verify", "--signatures", "require").out.splitlines()[-1]
    assert last == (
        "0 of 2 versions are unchanged since they were pushed and signed by a trusted key; "
        "2 lack the signature of a trusted key, and were not checked further"
    )


def test_tampering_and_strangers_are_told(run: Run) -> None:
    Path("stranger.pem").write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1())))
    run("sign", "score@1", "--key", "stranger.pem")
    told = run("show", "score@1", "--model-trust", "trusted", "--format", "json").json["signature"]
    assert told.startswith("NOT TRUSTED: model score@1: it is signed with the key 'sha256:")
    bundle = json.loads(SIG.read_bytes())
    bundle["mediaType"] = "text/plain"
    SIG.unlink()
    SIG.write_text(json.dumps(bundle))
    assert "model.sig is not a bundle of the OpenSSF" in run("verify", "score@1", "--model-trust", "trusted", "--signatures", "require").out


def test_without_the_extra_sign_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "model_signing" or name == "penstock.model.signing"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "model_signing", None)  # as Python marks what cannot be imported
    monkeypatch.delattr("penstock.model.signing", raising=False)
    done = run("sign", "score@1", "--key", "private.pem")
    assert (done.code, SIG.exists()) == (2, False)
    assert "model signatures need an extra: pip install 'penstock[signing]'" in done.err
