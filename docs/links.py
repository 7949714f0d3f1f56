"""Checks the built site: every link, image and anchor inside it leads somewhere. The generator looks at Markdown only; this, at the result.

python docs/links.py build/site    exits with 1 and names each page with what it links to in vain
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

__all__ = ["broken"]

_BASE: Final = "http://site/"
_ATTRIBUTES: Final = {"a": "href", "link": "href", "img": "src", "script": "src"}


class _Page(HTMLParser):
    """The anchors of a page, and what it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if name := values.get("id") or (values.get("name") if tag == "a" else None):
            self.anchors.add(name)
        if (link := values.get(_ATTRIBUTES.get(tag, ""))) and "canonical" not in (values.get("rel") or ""):
            self.links.append(link)


def broken(site: Path) -> Iterator[str]:
    """One line per link that leads nowhere: "page: link". Links to other hosts are not followed."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # served for any address, so its links are absolute to where the site is published
        here = _BASE + path.relative_to(site).as_posix()
        for link in page.links:
            parts = urlsplit(urljoin(here, link))
            if f"{parts.scheme}://{parts.netloc}/" != _BASE:
                continue
            target = site / unquote(parts.path).lstrip("/")
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                yield f"{path.relative_to(site)}: {link}: no such page; a file outside docs/ is linked by its address in the repository"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{path.relative_to(site)}: {link}: no such anchor"


def main() -> int:
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "index.html").is_file():
        sys.exit("usage: python docs/links.py FOLDER_OF_THE_BUILT_SITE")
    found = list(broken(Path(sys.argv[1])))
    print("\n".join(found) if found else "every link of the site leads somewhere")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
