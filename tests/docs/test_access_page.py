"""The page about callers: its commands run, its files are read, and its table has every reason for which a request is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from penstock import errors
from penstock.access.file import Access
from penstock.access.keys import KEY
from penstock.serving.codes import described
from penstock.settings import resolve

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/access.md").read_text(encoding="utf-8")


def blocks(head: str) -> list[str]:
    return re.findall(rf"^```{re.escape(head)}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_commands_do_what_the_page_says(tmp_path: Path) -> None:
    """A key is made, listed, replaced and revoked."""
    commands = "".join(text for text in blocks("sh") if "penstock serve" not in text)
    assert commands.count("penstock access key") == 5
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", f'penstock() {{ "{sys.executable}" -m penstock "$@"; }}\n{commands}'],
        cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert [KEY.fullmatch(tmp_path.joinpath(name).read_text().strip()) is not None for name in ("shop.key", "new.key")] == [True, True]
    (entry,) = Access.load(tmp_path / "access.toml").callers.values()
    assert [key.standing(key.made + 60) for key in entry.keys.values()] == ["revoked", "valid"]


def test_files_are_read() -> None:
    texts = blocks('toml title="access.toml"')
    assert [list(Access.parse(text, file="access.toml").callers) for text in texts] == [["shop"], ["analysts"], ["billing"]]
    assert set(Access.parse(re.sub("^# ", "", texts[1], flags=re.MULTILINE), file="access.toml").issuers) == {"company"}, (
        "the lines that are left out, too"
    )


def test_settings_are_read(tmp_path: Path) -> None:
    (text,) = blocks('toml title="penstock.toml"')
    (tmp_path / "penstock.toml").write_text(text)
    settings, _ = resolve({}, file=tmp_path / "penstock.toml", environ={})
    assert (settings.access, settings.serve_cafile) == (Path("/etc/penstock/access.toml"), Path("/etc/penstock/clients.pem"))


def is_refusal(one: object) -> bool:
    return isinstance(one, type) and issubclass(one, errors.CallRefused) and one is not errors.CallRefused


def test_table_has_every_reason() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "app/penstock/access").glob("*.py"))
    raised = set(re.findall(r'code="([\w-]+)"', code)) | set(re.findall(r'_bad\([^\n]*, "([\w-]+)"\)', code)) | {"revoked"}
    serving = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "app/penstock/serving").glob("*.py"))
    raised |= set(re.findall(r'code="([\w-]+)"', serving)) | {one.code for one in vars(errors).values() if is_refusal(one)}
    raised |= {described(one)["code"] for one in (errors.AuditLost(""), errors.TransportUnavailable(""))}
    raised -= {"unauthenticated"}  # each has a code of its own
    table = PAGE.partition("## What is refused")[2].partition("\n## ")[0]
    assert {code for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for code in re.findall(r"`(.+?)`", row)} == raised
