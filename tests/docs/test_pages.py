"""What the pages show holds: snippets parse, links lead somewhere, make targets and commands exist."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
import yaml

from docs import generate
from penstock.topology import parse_text

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def snippets(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_snippets_parse(page: Path) -> None:
    for text in snippets(page, "python"):
        ast.parse(text)
    for text in snippets(page, "ya?ml"):
        if "topology" in yaml.safe_load(text):
            parse_text(text, file=page.name)
    for text in snippets(page, "toml"):
        tomllib.loads(text)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_relative_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_that_are_shown_exist(page: Path) -> None:
    """Every `penstock ...` and `make ...` line of a shell snippet: the command is there and knows the flags."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    lines = [line for text in snippets(page, "sh") for line in text.splitlines()]
    lines += [line.removeprefix("$ ") for text in snippets(page, "console") for line in text.splitlines() if line.startswith("$ ")]
    for words in [shlex.split(line, comments=True) for line in lines if re.search(r"\b(penstock|make)\b", line)]:
        if words[:1] == ["make"]:
            assert {word for word in words[1:] if "=" not in word} <= targets, words
        if words[:1] == ["penstock"]:
            assert {word.partition("=")[0] for word in words if word.startswith("--")} <= flags_of(words), words


def flags_of(words: list[str]) -> set[str]:
    """The flags of the command that these words call; a group alone is no command."""
    known = dict(generate.commands())
    name = max((name for name in known if words[: len(name.split())] == name.split()), key=len)
    assert not isinstance(known[name], click.Group), words
    return {flag for one in known[name].params for flag in (*one.opts, *one.secondary_opts)} | {"--help"}


@pytest.mark.parametrize("page", sorted((ROOT / "docs/decisions").glob("0*.md")), ids=lambda page: page.name)
def test_decision_has_its_date_and_headings(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.search(r"^\d{4}-\d\d-\d\d", text, re.MULTILINE)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Problem", "Success criteria", "Out of scope", "Proposal", "Alternatives"]


def test_changelog_names_the_version() -> None:
    """The version of the package, or what is not released yet."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert re.search(rf"^## \[({re.escape(version)}|Unreleased)\]", text, re.MULTILINE)
