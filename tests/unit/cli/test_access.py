"""`penstock access`, from the outside: a key is made, used, listed, replaced and revoked."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from penstock.access import Gate
from penstock.access.keys import KEY
from penstock.cli.main import main
from penstock.errors import Unauthenticated
from tests.unit.cli.done import Done, Run

SHOP = ("key", "add", "shop", "--may", "score", "--may", "read", "--topology", "flights")


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `penstock access ...` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")

    def call(*arguments: str) -> Done:
        code = main(["access", *arguments])
        return Done(code, *capfd.readouterr())

    return call


def admit(key: str) -> str:
    """Who a new service takes the key's owner for, else why it is refused."""
    try:
        return Gate.open(Path("access.toml"), time.time).admit(f"Bearer {key}", None).name
    except Unauthenticated as refused:
        return refused.code


def test_key_is_printed_once_and_works(run: Run) -> None:
    """Alone on stdout, so that a script can take it; the file has its digest only."""
    done = run(*SHOP)
    assert done.code == 0
    key = done.out.removesuffix("\n")
    assert KEY.fullmatch(key)
    assert "shop has the key" in done.err
    assert key not in done.err
    assert admit(key) == "shop"
    assert key[-43:] not in Path("access.toml").read_text()


def test_key_is_replaced_without_a_gap(run: Run) -> None:
    old = run(*SHOP, "--format", "json").json
    new = run("key", "add", "shop").out.strip()
    assert (admit(old["key"]), admit(new)) == ("shop", "shop")
    assert run("key", "revoke", old["id"]).code == 0
    assert (admit(old["key"]), admit(new)) == ("revoked", "shop")


def test_caller_is_revoked_whole(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    keys = [run(*SHOP).out.strip(), run("key", "add", "shop").out.strip()]
    assert sorted(run("key", "revoke", "shop", "--format", "json").json["revoked"]) == sorted(key.split("_")[1] for key in keys)
    assert [admit(key) for key in keys] == ["revoked", "revoked"]
    capfd.readouterr()  # the gate has logged them
    done = run("key", "revoke", "shop")
    assert (done.code, done.err) == (2, "error: access.toml: shop has no key that is not revoked (`penstock access key list` shows them)\n")


def test_revocation_may_be_announced(run: Run) -> None:
    key = run(*SHOP).out.strip()
    assert "revoked from 2999-01-01T00:00:00Z on" in run("key", "revoke", "shop", "--at", "2999-01-01T00:00:00Z").out
    assert admit(key) == "shop"


def test_list_shows_callers_and_keys(run: Run) -> None:
    made = run(
        *SHOP, "--model", "trees@2", "--only", "store=A", "--only", "store=B", "--requests", "0.5", "--rows", "100", "--request-rows", "7",
        "--expires", "2999-01-01T00:00:00Z", "--comment", "the shop's [bold]server[/bold]", "--format", "json",
    ).json  # fmt: skip
    (row,) = run("key", "list", "--format", "json").json
    assert {name: row[name] for name in row if name != "made"} == {
        "caller": "shop", "may": ["score", "read"], "topologies": ["flights"], "models": ["trees@2"], "also by": [], "key": made["id"],
        "standing": "valid", "expires": "2999-01-01T00:00:00Z", "revoked": None, "comment": "the shop's [bold]server[/bold]",
    }  # fmt: skip
    assert re.fullmatch(
        r"shop +score, read +flights +trees@2 +\w{12} +valid +2999\S+ +the shop's \[bold\]server\[/bold\]",
        run("key", "list").out.splitlines()[2],
    )
    assert 'only = { store = ["A", "B"] }\nrequests = 0.5\nrows = 100\nrequest_rows = 7\n' in Path("access.toml").read_text()


def test_caller_without_keys_is_listed(run: Run) -> None:
    Path("access.toml").write_text('[callers.web]\nmay = ["score"]\ntopologies = ["*"]\ncertificates = ["dns:web"]\n')
    (row,) = run("key", "list", "--format", "json").json
    assert (row["caller"], row["key"], row["also by"]) == ("web", None, ["dns:web"])


def test_other_file_can_be_named(run: Run) -> None:
    assert run(*SHOP, "--access", "other.toml").code == 0
    assert not Path("access.toml").exists()
    assert len(run("key", "list", "--access", "other.toml", "--format", "json").json) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("key", "add", "shop"), "there is no caller shop (known: none; --may and --topology make a new one)"),
        (("key", "add", "shop", "--may", "score"), "a new caller needs --may and --topology"),
        (("key", "add", "a b", "--may", "score", "--topology", "*"), "a name is made of letters"),
        ((*SHOP[:3], "--may", "fly", "--topology", "*"), "'fly' is not one of 'deploy', 'promote', 'rollback', 'score', 'label', 'read'"),
        ((*SHOP, "--topology", "a b"), "'a b' is not a topology's name"),
        ((*SHOP, "--model", "a@b@c"), "is neither NAME nor NAME@VERSION"),
        ((*SHOP, "--only", "store"), "'store' is not FIELD=VALUE,VALUE"),
        ((*SHOP, "--requests", "0"), "0.0 is not in the range"),
        ((*SHOP, "--expires", "2001-01-01T00:00:00Z"), "this is over already"),
        ((*SHOP, "--expires", "tomorrow"), "write it as 2026-01-31T12:00:00Z"),
        ((*SHOP, "--access", "missing/access.toml"), "cannot be written"),
        (("key", "list"), "this access file does not exist"),
        (("key", "revoke", "k3m7qa2tzx5b"), "there is no key k3m7qa2tzx5b"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(run: Run, arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert said in done.err
    assert list(Path().iterdir()) == []


def test_caller_that_exists_is_not_changed_by_a_key(run: Run) -> None:
    run(*SHOP)
    before = Path("access.toml").read_text()
    done = run(*SHOP)
    assert (done.code, Path("access.toml").read_text()) == (2, before)
    assert "there is a caller shop already (leave out --may" in done.err


def test_link_stays_a_link(run: Run) -> None:
    Path("real.toml").write_text("# kept\n")
    Path("real.toml").chmod(0o640)
    Path("access.toml").symlink_to("real.toml")
    assert run(*SHOP).code == 0
    assert Path("access.toml").is_symlink()
    assert Path("real.toml").read_text().startswith("# kept\n\n[callers.shop]\n")
    assert Path("real.toml").stat().st_mode & 0o777 == 0o640
