"""The access file: what it can contain, what is wrong with it, and edits that keep the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.access.file import Access, ApiKey, with_key, with_revocation
from penstock.access.keys import digest, matches, new_key
from penstock.access.meter import Limits
from penstock.access.rules import Rules
from penstock.errors import ConfigError

WHOLE = """\
# Who may call. Reviewed by two people.

[callers.shop]     # the web server
may = ["score", "read"]
topologies = ["flights"]
models = ["flights", "trees@2"]
only = { store = ["A", "B"], "origin.country" = ["DE"] }
requests = 100
rows = 20_000
request_rows = 1_000
certificates = ["dns:shop.example.org"]
tokens = [{ issuer = "company", claims = { groups = "shops" } }]
comment = '''
[callers.shop.keys.aaaaaaaaaaaa]'''

[callers.shop.keys.k3m7qa2tzx5b]
sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
made = 2026-01-31T13:00:00+01:00
expires = 2027-01-31T12:00:00Z

[issuers.company]
issuer = "https://login.example.org"
audience = ["penstock"]
jwks = "keys.json"
"""
SHOP = '[callers.shop]\nmay = ["score"]\ntopologies = ["flights"]\n'
KEY = ApiKey("abcdefgh2345", digest("x"), 1_800_000_000.7, 1_900_000_000.2)


def parse(text: str) -> Access:
    return Access.parse(text, file="folder/access.toml")


def problems(text: str) -> str:
    with pytest.raises(ConfigError) as found:
        parse(text)
    return str(found.value)


def test_whole_file_is_read() -> None:
    access = parse(WHOLE)
    shop, company = access.callers["shop"], access.issuers["company"]
    assert shop.rules == Rules(
        "shop", frozenset({"score", "read"}), frozenset({"flights"}), frozenset({"flights", "trees@2"}),
        {"store": frozenset({"A", "B"}), "origin.country": frozenset({"DE"})}, Limits(100, 20_000, 1_000),
    )  # fmt: skip
    assert [(key.id, key.made, key.revoked) for key in shop.keys.values()] == [("k3m7qa2tzx5b", 1_769_860_800.0, None)]
    assert (shop.tokens[0].issuer, shop.tokens[0].claims, shop.certificates) == ("company", {"groups": "shops"}, ("dns:shop.example.org",))
    assert company.jwks == "folder/keys.json", "a file is beside the access file"
    assert (company.algorithms, company.leeway, company.keep, company.url) == (("EdDSA", "ES256", "RS256"), 30, 3600, False)


def test_every_problem_is_listed_with_its_line() -> None:
    """What is missing, with that of its table."""
    found = problems('[callers.shop]\nmay = ["fly"]\ntopologies = []\n\n[callers.web]\nmay = ["score"]\n\n[issuers.company]\nissuer = ""\n')
    assert [line.partition(" ")[0] for line in found.splitlines()] == [
        "folder/access.toml:2:1:", "folder/access.toml:3:1:", "folder/access.toml:5:1:",
        *["folder/access.toml:8:1:"] * 2, "folder/access.toml:9:1:",
    ]  # fmt: skip
    assert "callers.shop.may: a list of deploy, promote, rollback, score, label, read is needed" in found


def test_problem_of_a_key_has_its_line_and_bad_toml_has_one() -> None:
    key = f"{SHOP}\n[callers.shop.keys.abcdefgh2345]\nsha256 = 'x'\nmade = 2026-01-31T12:00:00\n"
    assert [line.partition(" ")[0] for line in problems(key).splitlines()] == ["folder/access.toml:6:1:", "folder/access.toml:7:1:"]
    assert problems(SHOP + "rows = \n").startswith("folder/access.toml:4:8: not TOML")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "x: not known here (the file has tables [callers.NAME] and [issuers.NAME])"),
        ("callers = 1", "callers: not a table"),
        ("callers.shop = 1", "callers.shop: not a table"),
        ("not toml", "not TOML"),
        ("a = " + "1" * 5000, "not TOML"),
        ("a = " + "[" * 100_000, "not TOML"),
        ('[callers."a b"]\nmay = ["score"]\ntopologies = ["*"]', "a name is made of letters"),
        (SHOP + "mya = 1", "mya: not known here; known are may, topologies"),
        (SHOP.replace('"score"', ""), "callers.shop.may: a list of"),
        (SHOP.replace("flights", "no topology"), "callers.shop.topologies: a list of topologies' names is needed"),
        (SHOP + 'models = ["a b"]', "models: a list of models is needed"),
        (SHOP + "only = { store = [] }", "only: fields with lists of values are needed"),
        (SHOP + 'only = { store = "A" }', "only: fields"),
        (SHOP + "only = { store = [nan] }", "only: fields"),
        (SHOP + "requests = 0", "requests: a number above 0 is needed"),
        (SHOP + "requests = true", "requests: a number above 0"),
        (SHOP + "rows = inf", "rows: a number above 0"),
        (SHOP + "rows = nan", "rows: a number above 0"),
        (SHOP + "request_rows = 1.5", "request_rows: a whole number above 0"),
        (SHOP + "comment = 1", "comment: a text is needed"),
        (SHOP + 'certificates = ["shop.example.org"]', "certificates: a list is needed, such as"),
        (SHOP + 'tokens = ["company"]', "tokens: a list is needed, such as"),
        (SHOP + 'tokens = [{ issuer = "company", claims = { sub = "" } }]', "tokens: a list is needed"),
        (SHOP + 'tokens = [{ issuer = "company" }]', "tokens: there is no [issuers.company]"),
        (SHOP + "keys = 1", "keys: not a table"),
        (SHOP + "[callers.shop.keys.short]\n", "keys.short: this is no id of a key"),
        (SHOP + "[callers.shop.keys]\nabcdefgh2345 = 1\n", "keys.abcdefgh2345: not a table"),
        (SHOP + '[callers.shop.keys.abcdefgh2345]\nsha256 = "penstock_abcdefgh2345_x"\n', "64 hexadecimal digits are needed"),
        (SHOP + "[callers.shop.keys.abcdefgh2345]\nmade = 2026-01-31T12:00:00\n", "made: a time with its zone is needed"),
        (SHOP + "[callers.shop.keys.abcdefgh2345]\nexpires = 'soon'\n", "expires: a time with its zone is needed"),
        (SHOP + "[callers.shop.keys.abcdefgh2345]\nkey = 1\n", "key: not known here; known are sha256, made, expires, revoked"),
        ('[issuers.a]\naudience = []', "audience: a list of the texts"),
        ('[issuers.a]\njwks = "http://login.example.org/keys"', "keys that came without encryption could be anybody's: use https"),
        ('[issuers.a]\njwks = "ftp://login.example.org/keys"', "is not an https URL"),
        ('[issuers.a]\njwks = "https://a:b@login.example.org"', "a URL with a user would be shown"),
        ('[issuers.a]\njwks = "https://login.example.org:x/"', "is not a URL"),
        ('[issuers.a]\nalgorithms = ["HS256"]', "a list of EdDSA, ES256, RS256 is needed; no others are accepted"),
        ('[issuers.a]\nalgorithms = ["none"]', "no others are accepted"),
        ("[issuers.a]\nleeway = 3600", "leeway: seconds from 0 to 300 are needed"),
        ("[issuers.a]\nca = 1", "ca: a file of certificates"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    assert said in problems(text)


def test_key_or_certificate_of_two_callers_is_a_problem() -> None:
    """Which of them called could not be told apart."""
    key = '[callers.{0}.keys.abcdefgh2345]\nsha256 = "' + "0" * 64 + '"\nmade = 2026-01-31T12:00:00Z\n'
    web = SHOP.replace("shop", "web")
    assert "callers.web.keys.abcdefgh2345: this is also one of shop" in problems(SHOP + key.format("shop") + web + key.format("web"))
    certificates = 'certificates = ["dns:a"]\n'
    assert "callers.web.certificates: dns:a: this is also one of shop" in problems(SHOP + certificates + web + certificates)


def test_file_that_every_user_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    path.write_text(SHOP)
    path.chmod(0o666)
    with pytest.raises(ConfigError, match=r"every user of this host can change this file.*chmod o-w"):
        Access.load(path)
    path.chmod(0o644)
    assert list(Access.load(path).callers) == ["shop"]


def test_file_that_cannot_be_read_is_a_problem_and_never_a_wait(tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    with pytest.raises(ConfigError, match=r"this access file does not exist \(is its folder mounted"):
        Access.load(path)
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="it is a named pipe, not a file"):
        Access.load(path)
    (tmp_path / "latin").write_bytes(b"# caf\xe9")
    with pytest.raises(ConfigError, match="cannot be read: 'utf-8'"):
        Access.load(tmp_path / "latin")


# --- edits ------------------------------------------------------------------------------------------------------------


def test_key_is_added_and_the_rest_stays() -> None:
    text = with_key(WHOLE, None, "shop", KEY, file="f")
    assert text.startswith(WHOLE.rstrip("\n"))
    assert list(parse(text).callers["shop"].keys) == ["k3m7qa2tzx5b", "abcdefgh2345"]
    found = parse(text).key("abcdefgh2345")
    assert found is not None
    assert found[1] == ApiKey("abcdefgh2345", digest("x"), 1_800_000_000.0, 1_900_000_000.0), "times are whole seconds"


def test_new_caller_is_written_as_it_is_meant() -> None:
    rules = Rules(
        "web",
        frozenset({"read", "score"}),
        frozenset({"*"}),
        frozenset({"a@1"}),
        {'o"d': frozenset({"\x7f", 'q"', "ü"})},
        Limits(0.5, 7.0, 3),
    )
    text = with_key("", rules, "web", KEY, "one\nline", file="f")
    assert parse(text).callers["web"].rules == rules
    assert 'may = ["score", "read"]\n' in text, "in the usual order"
    assert "rows = 7\n" in text


def test_edits_that_make_no_sense_are_refused() -> None:
    rules = Rules("shop", frozenset({"score"}), frozenset({"*"}))
    with pytest.raises(ConfigError, match=r"f:3:1: there is a caller shop already"):
        with_key(WHOLE, rules, "shop", KEY, file="f")
    with pytest.raises(ConfigError, match=r"there is no caller web \(known: shop"):
        with_key(WHOLE, None, "web", KEY, file="f")
    with pytest.raises(ConfigError, match=r"there is no key web \(`penstock access key list`"):
        with_revocation(WHOLE, ["web"], 0.0, file="f")


def test_key_is_revoked_in_its_table() -> None:
    text = with_revocation(WHOLE, ["k3m7qa2tzx5b"], 1_800_000_000.9, file="f")
    assert "[callers.shop.keys.k3m7qa2tzx5b]\nrevoked = 2027-01-15T08:00:00Z\nsha256" in text
    assert [line for line in text.splitlines() if line not in WHOLE.splitlines()] == ["revoked = 2027-01-15T08:00:00Z"]
    with pytest.raises(ConfigError, match=r"f:16:1: k3m7qa2tzx5b was revoked at 2027-01-15T08:00:00Z"):
        with_revocation(text, ["k3m7qa2tzx5b"], 0.0, file="f")


def test_table_in_another_form_is_left_to_a_person() -> None:
    """TOML can write it in many ways; a wrong edit would be worse than none."""
    text = SHOP + f'keys = {{ abcdefgh2345 = {{ sha256 = "{"0" * 64}", made = 2026-01-31T12:00:00Z }} }}\n'
    with pytest.raises(ConfigError, match="cannot be edited here"):
        with_revocation(text, ["abcdefgh2345"], 0.0, file="f")
    with pytest.raises(ConfigError, match="cannot be edited here"):
        with_key(text, None, "shop", ApiKey("bbbbbbbbbbbb", digest("x"), 0.0), file="f")


# --- keys -------------------------------------------------------------------------------------------------------------


def test_keys_differ_and_only_their_own_digest_matches() -> None:
    keys = [new_key() for _ in range(100)]
    assert len({key.id for key in keys}) == len({key.text for key in keys}) == 100
    one, other = keys[:2]
    assert matches(one.text, digest(one.text))
    assert not matches(other.text, digest(one.text))
    assert not matches(one.text[:-1], digest(one.text))
    assert one.text.startswith(f"penstock_{one.id}_")
    assert len(one.text.removeprefix(f"penstock_{one.id}_")) == 43, "256 bits in base64url"
