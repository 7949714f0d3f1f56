"""The front door: what the README shows in which order, what the site holds, and that links, lines and figures are right."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import penstock
from docs import generate
from docs.links import broken
from docs.wrap import WIDTH, prose, wrapped

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SITE: dict[str, Any] = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
HOME = f"{SITE['repo_url']}/blob/main/"
RAW = f"https://raw.githubusercontent.com/{SITE['repo_name']}/main/"
DOCS = sorted((ROOT / "docs").rglob("*.md"))


def test_readme_is_in_order() -> None:
    """What it is and for whom in three sentences, a topology, how it is installed, two commands, a recording, a comparison, then links."""
    parts = [
        README.index(what)
        for what in (
            "# Penstock\n",
            "```yaml\ntopology: ",
            "pip install ./penstock",
            "make demo",
            "make test",
            "<!-- recording -->",
            "| | Penstock |",
        )
    ]
    assert parts == sorted(parts)
    first = README.removeprefix("# Penstock\n\n").partition("\n\n")[0]
    assert len(re.findall(r"\.(?=\s|$)", first)) == 3
    assert README.index("## Where to go") > parts[-1]


def test_readme_names_the_extras_that_users_install() -> None:
    """Those of the package, without those of its developers."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(re.findall(r"`penstock\[(\w+)\]`", README)) == set(declared) - {"train", "test", "check", "docs", "dev"}


def test_recording_is_short_or_a_picture() -> None:
    found = re.search(r"<!-- recording -->\n(.*?)\n<!-- /recording -->", README, re.DOTALL)
    assert found, "the README has no recording"
    assert len(found[1].splitlines()) <= 25
    picture = (ROOT / "docs/assets/demo.svg").read_text(encoding="utf-8").replace("&#160;", " ")
    assert re.search(r"penstock demo, \d+ cores of .+, Python 3\.\d+\.\d+, \d{4}-\d\d-\d\d", picture), "machine and date are its title"
    assert "https://" not in picture.replace("https://www.textualize.io", ""), "a picture fetches nothing"


def test_figures_of_the_comparison_are_those_that_were_measured() -> None:
    """A cell of the README that has a throughput or a latency repeats a row of docs/performance.md."""
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    rows = [line for line in README.splitlines() if "[measured here]" in line]
    figures = [
        figure
        for line in rows
        for figure in re.findall(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?! events/s \(p50)", line.partition("|")[2].partition("|")[2])
    ]
    assert len(figures) >= 3
    assert [figure for figure in figures if f"| {figure} |" not in page] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_into_the_repository_lead_to_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [path for path in re.findall(rf"(?:{re.escape(HOME)}|{re.escape(RAW)})([^)#\s]+)", text) if not (ROOT / path).exists()] == []


def test_readme_links_are_absolute_and_used() -> None:
    """The package index shows the README without the repository around it."""
    targets = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", README, re.MULTILINE))
    body = re.sub(r"^\[[^\]]+\]: .*$", "", README, flags=re.MULTILINE)
    assert [target for target in targets.values() if not target.startswith("https://")] == []
    assert re.findall(r"\]\((?!https://)[^)]*\)", body) == []
    assert [name for name in targets if f"[{name}]" not in body] == []


def test_package_and_site_name_the_same_repository() -> None:
    """The package's links, the README and the site lead to one place."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
    assert [url for url in urls.values() if not url.startswith(SITE["repo_url"])] == []
    assert HOME in README


def test_every_page_is_in_the_navigation() -> None:
    """Decisions are in the list that is written from them."""

    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for one in (entry.values() if isinstance(entry, dict) else entry) for page in pages(one)]

    decisions = re.findall(r"\(\.\./(decisions/[^)]+)\)", (ROOT / "docs/reference/decisions.md").read_text(encoding="utf-8"))
    assert sorted([*pages(SITE["nav"]), *decisions]) == sorted(str(page.relative_to(ROOT / "docs")) for page in DOCS)


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", *(page for page in DOCS if page.parent.name != "decisions")],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_prose_wraps(page: Path) -> None:
    """`make format` wraps it. Decisions are never edited, so they are as they were written."""
    assert [f"{page.name}:{number}" for number, line in prose(page.read_text(encoding="utf-8")) if len(line) > WIDTH] == []


def test_wrapping_keeps_words_code_and_tables() -> None:
    """Otherwise a page could be damaged by being formatted."""
    text = (
        "# "
        + "head " * 40
        + "\n\n"
        + "word `a b` " * 30
        + "\n\n- "
        + "item " * 40
        + "\n- two\n\n```sh\n"
        + "x " * 90
        + "\n```\n\n| "
        + "c " * 90
        + "|\n"
    )
    new = wrapped(text)
    assert new.split() == text.split()
    assert max(len(line) for _, line in prose(new)) <= WIDTH
    assert wrapped(new) == new
    assert "x " * 90 in new
    assert "\n- two\n" in new
    assert "`a\nb`" not in new


def test_python_page_has_every_public_name_once() -> None:
    listed = [name for names in generate.PYTHON.values() for name in names]
    assert sorted(listed) == sorted(penstock.__all__)


def test_site_builds_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    """`make site`, without make; the check of the built pages is shown to fail by a page with a wrong link and a wrong anchor."""
    pytest.importorskip("zensical", reason="the extra `docs` is not installed")
    done = subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    site = ROOT / SITE["site_dir"]
    assert list(broken(site)) == []
    assert "Publishes events to a source" in (site / "reference/python/index.html").read_text(encoding="utf-8"), "docstrings are rendered"
    (tmp_path / "index.html").write_text(
        '<a href="gone.html">1</a> <a href="#gone">2</a> <a id="here" href="#here">3</a> <img src="no.svg">'
    )
    assert len(list(broken(tmp_path))) == 3
