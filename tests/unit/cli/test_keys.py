"""`penstock keys`, from the outside: a key is made, handed on, trusted and revoked."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from penstock.cli.main import main
from penstock.control.trust import Judge, Trust
from penstock.control.trust.keys import SigningKey
from penstock.errors import ControlError
from tests.unit.cli.done import Done, Run
from tests.unit.control.making import CONTROL, NOW_MS, entry, release, trust_file

HAND_MADE = """\
# Who may release. Reviewed by two people.

[keys.bob]     # on call
public = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
topologies = ["trains"]
trusted = 2026-01-01T01:00:00+01:00
comment = '''
[keys.alice]'''"""


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `penstock keys ...` in an empty folder, which is also the user's home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "300")

    def call(*arguments: str) -> Done:
        code = main(["keys", *arguments])
        return Done(code, *capfd.readouterr())

    return call


def own(name: str) -> Path:
    return Path.home() / f".config/penstock/keys/{name}.pem"


def test_key_is_made_handed_on_and_trusted(run: Run) -> None:
    """The line that `new` prints is the one that whoever keeps the trust file runs."""
    done = run("new", "alice", "--topology", "flights", "--topology", "trains")
    assert done.code == 0
    assert (own("alice").stat().st_mode & 0o777, own("alice").parent.stat().st_mode & 0o777) == (0o600, 0o700)
    key = SigningKey.load(own("alice"))
    assert key.kid in done.out
    (line,) = (line for line in done.out.splitlines() if line.startswith("  penstock keys trust"))
    assert run(*shlex.split(line)[2:], "--comment", 'the "first"', "--from", "2026-01-31T13:00:00+01:00").code == 0
    assert tomllib.loads(Path("trust.toml").read_text())["keys"]["alice"].keys() == {"public", "kid", "topologies", "trusted", "comment"}
    judge = Judge("flights", "cluster-1", CONTROL, Trust.load(Path("trust.toml")))
    assert judge(entry(0, release(), key)).message == release()
    (listed,) = run("ls", "--format", "json").json
    assert listed == {
        "name": "alice", "standing": "trusted", "may": ["deploy", "promote", "rollback"], "topologies": ["flights", "trains"],
        "max_share": 1.0,
        "trusted": "2026-01-31T12:00:00Z", "expires": None, "revoked": None,
        "key": key.kid, "public": key.public, "comment": 'the "first"', "private": str(own("alice")),
    }  # fmt: skip


def test_new_says_the_same_to_programs(run: Run) -> None:
    done = run("new", "ci", "--out", "secrets/ci.pem", "--format", "json").json
    key = SigningKey.load(Path("secrets/ci.pem"))
    assert done == {
        "name": "ci", "key": key.kid, "public": key.public, "file": "secrets/ci.pem",
        "trust": f"penstock keys trust ci --public {key.public} --topology TOPOLOGY",
    }  # fmt: skip


def test_key_is_never_written_over(run: Run) -> None:
    run("new", "alice")
    before = own("alice").read_bytes()
    done = run("new", "alice")
    assert (done.code, own("alice").read_bytes()) == (2, before)
    assert "the file exists already (choose another name, or --out)" in done.err


def test_public_part_is_printed_of_a_name_and_of_a_file(run: Run) -> None:
    public = run("new", "alice", "--format", "json").json["public"]
    assert run("public", "alice").out == f"{public}\n"
    assert run("public", str(own("alice"))).out == f"{public}\n"
    assert run("public", "alice", "--format", "json").json["public"] == public
    missing = run("public", "bob")
    assert missing.code == 2
    assert "bob.pem: cannot be read" in missing.err


def test_key_may_be_limited_to_a_share(run: Run) -> None:
    run("new", "steward")
    assert run("trust", "steward", "--topology", "flights", "--max-share", "25").code == 0
    assert "max_share = 0.25\n" in Path("trust.toml").read_text()
    (key,) = Trust.load(Path("trust.toml")).keys.values()
    assert key.max_share == 0.25
    assert "up to 25 % of the units" in " ".join(run("ls").out.split())
    assert run("ls", "--format", "json").json[0]["max_share"] == 0.25
    assert run("trust", "other", "--public", SigningKey.new("o").public, "--topology", "flights", "--max-share", "0").code == 2


def test_key_may_be_trusted_for_less_and_for_a_time(run: Run) -> None:
    run("new", "worker")
    done = run("trust", "worker", "--topology", "flights", "--may", "rollback", "--expires", "2999-01-01T00:00:00Z", "--format", "json")
    assert (done.json["may"], done.json["expires"]) == (["rollback"], "2999-01-01T00:00:00Z")
    assert 'may = ["rollback"]' in Path("trust.toml").read_text()
    (key,) = Trust.load(Path("trust.toml")).keys.values()
    assert (key.may, bool(key.fault(32_472_144_000_000)), key.fault(32_472_143_999_999)) == (frozenset({"rollback"}), True, None)
    shown = run("ls").out
    assert "rollback" in shown
    assert "2999-01-01T00:00:00Z" in shown
    late = run("trust", "late", "--public", SigningKey.new("late").public, "--topology", "flights", "--expires", "2020-01-01T00:00:00Z")
    assert late.code == 2
    assert "not after the time from which it is trusted" in late.err


def test_key_without_rights_in_the_file_has_all_of_them(run: Run) -> None:
    """As before there were any."""
    text = trust_file(SigningKey.new("bob"))
    Path("trust.toml").write_text(text)
    (bob,) = Trust.load(Path("trust.toml")).keys.values()
    assert (bob.may, bob.expires_ms) == (frozenset({"deploy", "promote", "rollback"}), None)
    for wrong in ("[]", '["release"]', '"deploy"', "[1]"):
        Path("trust.toml").write_text(f"{text}\nmay = {wrong}\n")
        done = run("ls")
        assert done.code == 2
        assert "keys.bob.may: a list of deploy, promote, rollback" in done.err


def test_own_key_is_trusted_by_its_name(run: Run) -> None:
    run("new", "alice")
    assert run("trust", "alice", "--topology", "*", "--trust", "other.toml", "--format", "json").json["standing"] == "trusted"
    assert Trust.load(Path("other.toml")).named("alice")


def test_key_that_begins_with_a_dash_is_taken(run: Run) -> None:
    """One in 64 does."""
    keys = (SigningKey.new("dash") for _ in range(100_000))
    public = next(key.public for key in keys if key.public.startswith("-"))
    assert run("trust", "dash", "--public", public, "--topology", "flights").code == 0


def test_revoked_key_signs_nothing_from_then_on(run: Run) -> None:
    run("new", "alice")
    run("trust", "alice", "--topology", "flights", "--from", "2026-01-01T00:00:00Z")
    done = run("revoke", "alice", "--at", "2027-01-15T08:00:00Z", "--format", "json").json
    assert (done["revoked"], done["standing"]) == ("2027-01-15T08:00:00Z", "trusted")
    judge = Judge("flights", "cluster-1", CONTROL, Trust.load(Path("trust.toml")))
    said = entry(0, release(), SigningKey.load(own("alice")))
    assert judge(said._replace(timestamp=NOW_MS - 1)).message == release()
    with pytest.raises(ControlError, match="alice was revoked"):
        judge(said)
    again = run("revoke", "alice")
    assert again.code == 2
    assert "trust.toml:1:1: alice was revoked at 2027-01-15T08:00:00Z (set another time by hand)" in again.err


def test_revoking_as_of_an_earlier_time_warns_of_the_generations_that_it_takes_back(run: Run) -> None:
    run("new", "alice")
    run("trust", "alice", "--topology", "flights", "--from", "2026-01-01T00:00:00Z")
    done = run("revoke", "alice", "--at", "2026-01-02T00:00:00Z")
    assert done.code == 0
    assert "alice may no longer release from 2026-01-02T00:00:00Z on" in done.out
    assert "generations that alice has announced since 2026-01-02T00:00:00Z" in done.err
    run("new", "bob")
    run("trust", "bob", "--topology", "flights")
    assert run("revoke", "bob").err == "", "from now on: what was released stays"


def test_rights_are_said_in_plain_words(run: Run) -> None:
    run("new", "alice")
    assert (
        "alice may deploy, promote and roll back flights, trains\n"
        in run("trust", "alice", "--topology", "flights", "--topology", "trains").out
    )
    run("new", "bob")
    assert "bob may roll back all topologies\n" in run("trust", "bob", "--topology", "*", "--may", "rollback").out


def test_each_key_has_one_line_in_a_pipe(tmp_path: Path) -> None:
    key = SigningKey.new("alice")
    (tmp_path / "trust.toml").write_text(trust_file(key))
    clean = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "penstock", "keys", "ls"]
    text = subprocess.run(
        command, cwd=tmp_path, env=clean | {"HOME": str(tmp_path / ("long" * 40))}, capture_output=True, text=True, check=True, timeout=60
    ).stdout  # fmt: skip
    (line,) = [line for line in text.splitlines() if "alice" in line]
    assert key.kid in line
    assert re.search(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line)


def test_revoked_and_future_keys_are_listed_as_such_and_ones_own(run: Run) -> None:
    for name in ("alice", "bob", "carol"):
        run("new", name)
    run("trust", "alice", "--topology", "flights", "--from", "2026-01-01T00:00:00Z")
    run("trust", "bob", "--topology", "flights", "--from", "9000-01-01T00:00:00Z")
    run("revoke", "alice", "--at", "2026-01-02T00:00:00Z")
    own("broken").write_text("junk")
    done = run("ls", "--format", "json")
    assert [(row["name"], row["standing"]) for row in done.json] == [("alice", "revoked"), ("bob", "not yet"), ("carol", "not in the file")]
    assert "broken.pem: " in done.err
    shown = run("ls").out  # a long path is folded into further lines
    assert all(
        re.search(rf"^{name} +{standing}", shown, re.MULTILINE)
        for name, standing in (("alice", "revoked"), ("bob", "not"), ("carol", "not"))
    )


def test_edits_keep_comments_other_entries_mode_and_links(run: Run) -> None:
    Path("real.toml").write_text(HAND_MADE)
    Path("real.toml").chmod(0o640)
    Path("trust.toml").symlink_to("real.toml")
    run("new", "alice")
    assert run("trust", "alice", "--topology", "flights", "--from", "2026-02-01T00:00:00Z").code == 0
    assert run("revoke", "bob", "--at", "2026-03-01T00:00:00Z").code == 0
    text = Path("real.toml").read_text()
    assert text.startswith(HAND_MADE.replace("# on call\n", "# on call\nrevoked = 2026-03-01T00:00:00Z\n") + "\n\n[keys.alice]\n")
    assert Path("trust.toml").is_symlink()
    assert Path("real.toml").stat().st_mode & 0o777 == 0o640
    assert {path.name for path in Path().iterdir()} == {".config", "real.toml", "trust.toml"}


@pytest.mark.parametrize(
    "text",
    [
        "keys.bob = {public = '11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo', topologies = ['*'], trusted = 2026-01-01T00:00:00Z}",
        HAND_MADE.replace("[keys.bob]     # on call", "[keys]\nbob.comment = '''\n[keys.bob]\n'''\n[ keys . 'bob']").replace(
            "comment = '''", "#"
        ),
        HAND_MADE.replace("[keys.bob]", "comment.x = '''\n[keys.bob]\n'''\n[keys.bob]"),
    ],
)
def test_what_cannot_be_edited_safely_is_left_alone(run: Run, text: str) -> None:
    """An edit counts only when the file then means what was meant."""
    Path("trust.toml").write_text(text)
    done = run("revoke", "bob")
    assert done.code == 2
    assert Path("trust.toml").read_text() == text
    assert "This is a bug" not in done.err


def test_key_is_not_added_where_the_file_would_be_no_toml(run: Run) -> None:
    text = "keys = {bob = {public = '11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo', topologies = ['*'], trusted = 2026-01-01T00:00:00Z}}"
    Path("trust.toml").write_text(text)
    run("new", "alice")
    done = run("trust", "alice", "--topology", "flights")
    assert (done.code, Path("trust.toml").read_text()) == (2, text)
    assert "edit it by hand" in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["new", "al/ice"], "a name is made of letters"),
        (["new", "alice", "--topology", "a b"], "'a b' is not a topology's name"),
        (["trust", "bob", "--public", "x", "--topology", "flights"], "'x' is not a public key"),
        (["trust", "nobody", "--topology", "flights"], "nobody.pem: cannot be read"),
        (["trust", "alice", "--public", "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "--topology", "x"], "there is a key alice already"),
        (["trust", "alias", "--public", "{alice}", "--topology", "x"], "trust.toml:1:1: the file has this key already, as alice"),
        (["trust", "alice", "--public", "{alice}"], "Missing option '--topology'"),
        (["trust", "alice", "--topology", "x", "--from", "2026-01-31T12:00:00"], "the zone is missing"),
        (["revoke", "bob"], "there is no key bob (known: alice)"),
        (["revoke", "alice", "--at", "yesterday"], "yesterday"),
        (["revoke", "alice", "--trust", "."], "cannot be"),
        (["ls", "--trust", "."], "cannot be read"),
        (["trust", "bob", "--public", "{bob}", "--topology", "x", "--trust", "no/such/trust.toml"], "cannot be written"),
        (["new", "bob", "--out", "trust.toml/bob.pem"], "cannot be written"),
    ],
)
def test_error_says_what_is_wrong_and_changes_nothing(run: Run, arguments: list[str], says: str) -> None:
    alice = run("new", "alice", "--format", "json").json["public"]
    run("trust", "alice", "--topology", "flights")
    before = Path("trust.toml").read_bytes()
    done = run(*(each.format(alice=alice, bob=SigningKey.new("bob").public) for each in arguments))
    assert done.code == 2
    assert says in done.err
    assert Path("trust.toml").read_bytes() == before


def test_nothing_private_is_printed(run: Run) -> None:
    run("new", "alice")
    run("trust", "alice", "--topology", "flights")
    secret = "".join(own("alice").read_text().splitlines()[1:-1])
    shown = [run("ls"), run("ls", "--format", "json"), run("public", "alice"), run("new", "bob", "--format", "json")]
    assert not any(secret in json.dumps(done.out + done.err) for done in shown)


def test_edits_at_once_lose_none(tmp_path: Path) -> None:
    """Each is a process; a revocation that another edit undoes would be the worst."""
    public = {name: SigningKey.new(name).public for name in ("carol", *(f"key-{number}" for number in range(6)))}
    trust = ["--topology", "flights", "--trust", str(tmp_path / "trust.toml")]
    assert main(["keys", "trust", "carol", "--public", public.pop("carol"), *trust]) == 0
    command = [sys.executable, "-m", "penstock", "keys"]
    edits = [["revoke", "carol", *trust[2:]], *(["trust", name, "--public", key, *trust] for name, key in public.items())]
    running = [subprocess.Popen([*command, *edit], cwd=tmp_path, stdout=subprocess.DEVNULL) for edit in edits]
    assert [one.wait(60) for one in running] == [0] * len(edits)
    found = Trust.load(tmp_path / "trust.toml")
    assert {key.name for key in found.keys.values()} == {"carol", *public}
    carol = found.named("carol")
    assert carol is not None
    assert carol.revoked_ms is not None
