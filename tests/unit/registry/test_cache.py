"""Models are fetched whole, by digest, from nowhere but the registry roots; whatever the other side does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from penstock.binding import Binding
from penstock.errors import ModelCorrupt, ModelNotFound, SettingsError, Stopped
from penstock.model.artifact import Artifact
from penstock.registry import roots
from penstock.registry.cache import Cache
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from tests.unit.registry.web import Site, serve

LIMIT = 10_000_000


def never() -> bool:
    return False


def binding_of(artifact: Artifact) -> Binding:
    return Binding(uri=f"models:/{artifact.name}/{artifact.version}", digest=artifact.digest, manifest=artifact.manifest_digest)


@pytest.fixture
def registry(tmp_path: Path) -> DirectoryRegistry:
    """A registry with one model of some 400 kB."""
    registry = DirectoryRegistry(tmp_path / "registry")
    registry.publish("m", models.gather([0.5] * 100_000))
    return registry


@pytest.fixture
def binding(registry: DirectoryRegistry) -> Binding:
    return binding_of(registry.resolve("m", "1"))


@pytest.fixture
def site(registry: DirectoryRegistry) -> Iterator[Site]:
    with serve(registry.root) as site:
        yield site


@pytest.fixture(autouse=True)
def _no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.registry.cache._PAUSE", 0.001)


def store(tmp_path: Path, *places: object, max_bytes: int = LIMIT) -> Cache:
    return Cache(tmp_path / "cache", [str(place) for place in places], max_bytes)


def fetched(tmp_path: Path, site: Site, binding: Binding) -> Artifact:
    artifact = store(tmp_path, site.url).fetch(binding, stopped=never)
    assert len(artifact.read()) == artifact.size  # by its digest
    artifact.golden_records()
    return artifact


# --- what is found and kept --------------------------------------------------------------------------------------------


def test_a_version_of_a_folder_is_copied(tmp_path: Path, registry: DirectoryRegistry, binding: Binding) -> None:
    artifact = store(tmp_path, registry.root).fetch(binding, stopped=never)
    shutil.rmtree(registry.root)
    assert artifact.path.parent == tmp_path / "cache/models"
    assert (str(artifact), artifact.manifest_digest) == ("m@1", binding.manifest)
    assert len(artifact.read()) == artifact.size
    assert store(tmp_path, registry.root).fetch(binding, stopped=never) == artifact


def test_a_version_of_a_web_site_is_fetched_once(tmp_path: Path, site: Site, binding: Binding) -> None:
    fetched(tmp_path, site, binding)
    fetched(tmp_path, site, binding)
    assert site.asked == [(f"/models/m/1/{file}", None) for file in ("model.toml", "golden.json", "model.onnx")]


def test_roots_are_asked_in_their_order(tmp_path: Path, site: Site, registry: DirectoryRegistry, binding: Binding) -> None:
    store(tmp_path, registry.root, site.url).fetch(binding, stopped=never)
    assert site.asked == []


def test_every_root_is_named_with_its_reason(tmp_path: Path, site: Site, binding: Binding) -> None:
    elsewhere = Binding(uri="models:/other/1", digest=binding.digest, manifest=binding.manifest)
    with pytest.raises(ModelNotFound) as caught:
        store(tmp_path, tmp_path / "gone", tmp_path, site.url).fetch(elsewhere, stopped=never)
    assert str(caught.value) == (
        f"other@1 is in no registry root: {tmp_path}/gone: there is no such folder; {tmp_path}: there is no other/1/model.toml; "
        f"{site.url}: there is no other/1/model.toml"
    )
    assert (caught.value.name, caught.value.version) == ("other", "1")


def test_a_root_that_is_away_is_named(tmp_path: Path, site: Site, binding: Binding) -> None:
    port = site.url.split(":")[2].split("/")[0]
    with pytest.raises(ModelNotFound, match=r"could not be fetched from any registry root: http://localhost:1: cannot connect: "):
        store(tmp_path, "http://localhost:1").fetch(binding, stopped=never)
    with pytest.raises(ModelNotFound, match=r"https://127.0.0.1:\d+/models: cannot connect: .*wrong version number"):
        store(tmp_path, f"https://127.0.0.1:{port}/models").fetch(binding, stopped=never)


def test_what_is_damaged_in_the_cache_is_fetched_again(tmp_path: Path, site: Site, binding: Binding) -> None:
    artifact = fetched(tmp_path, site, binding)
    (artifact.path / "model.onnx").write_bytes(b"rot")
    fetched(tmp_path, site, binding)
    assert len(site.ranges_of("model.onnx")) == 2


def test_the_workers_of_a_host_fetch_it_once(tmp_path: Path, site: Site, binding: Binding) -> None:
    code = (
        "import sys; from pathlib import Path; from penstock.registry.cache import Cache; from penstock.binding import Binding\n"
        "binding = Binding(uri='models:/m/1', digest=sys.argv[3], manifest=sys.argv[4])\n"
        "Cache(Path(sys.argv[1]), [sys.argv[2]], 10**9).fetch(binding, stopped=lambda: False).read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cache"), site.url, binding.digest, binding.manifest]
    workers = [subprocess.Popen(command) for _ in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert len(site.asked) == 3


# --- what is cut, and continued ----------------------------------------------------------------------------------------


def test_what_is_cut_is_continued(tmp_path: Path, site: Site, binding: Binding) -> None:
    site.cut_after = [100_000, 200_000]
    fetched(tmp_path, site, binding)
    assert site.ranges_of("model.onnx") == [None, "bytes=100000-", "bytes=300000-"]


def test_what_another_process_began_is_continued(tmp_path: Path, site: Site, binding: Binding) -> None:
    site.cut_after = [100_000] + [0] * 5
    with pytest.raises(ModelNotFound, match="the connection was cut"):
        fetched(tmp_path, site, binding)
    site.asked.clear()
    fetched(tmp_path, site, binding)
    assert site.ranges_of("model.onnx") == ["bytes=100000-"]


def test_a_server_without_ranges_starts_over(tmp_path: Path, site: Site, binding: Binding) -> None:
    site.ranges, site.cut_after = False, [100_000]
    fetched(tmp_path, site, binding)
    assert site.ranges_of("model.onnx") == [None, "bytes=100000-"]


@pytest.mark.parametrize("beginning", [b"something else", b"x" * 1_000_000], ids=["shorter", "longer"])
@pytest.mark.parametrize("kind", ["folder", "site"])
def test_a_beginning_of_another_file_is_thrown_away(
    tmp_path: Path, site: Site, registry: DirectoryRegistry, binding: Binding, beginning: bytes, kind: str
) -> None:
    artifact = fetched(tmp_path, site, binding)
    (artifact.path / "model.onnx").unlink()
    (artifact.path / ".model.onnx.part").write_bytes(beginning)
    again = store(tmp_path, registry.root if kind == "folder" else site.url).fetch(binding, stopped=never)
    assert len(again.read()) == again.size
    assert not (artifact.path / ".model.onnx.part").exists()


def test_a_busy_server_is_asked_again(tmp_path: Path, site: Site, binding: Binding) -> None:
    def busy(handler: BaseHTTPRequestHandler, site: Site) -> None:
        del site.instead[handler.path]
        handler.send_error(503)

    site.instead["/models/m/1/model.onnx"] = busy
    fetched(tmp_path, site, binding)
    assert len(site.ranges_of("model.onnx")) == 2


# --- what is wrong -----------------------------------------------------------------------------------------------------


def test_wrong_bytes_are_refused_and_not_kept(tmp_path: Path, site: Site, registry: DirectoryRegistry, binding: Binding) -> None:
    file = registry.root / "m/1/model.onnx"
    file.chmod(0o644)
    file.write_bytes(models.gather([0.7] * 100_000))
    with pytest.raises(ModelCorrupt, match=rf"{site.url}: m/1/model.onnx is sha256:.*, not {binding.digest}"):
        fetched(tmp_path, site, binding)
    assert not [*(tmp_path / "cache").rglob("*model.onnx*")]


def test_a_release_that_contradicts_the_manifest_is_refused(tmp_path: Path, site: Site, binding: Binding) -> None:
    other = Binding(uri=binding.uri, digest="sha256:" + "0" * 64, manifest=binding.manifest)
    with pytest.raises(ModelCorrupt, match=r"model.toml gives model.onnx the digest sha256:.*, the release sha256:000"):
        fetched(tmp_path, site, other)


def test_a_model_that_is_too_large_is_not_fetched(tmp_path: Path, site: Site, binding: Binding) -> None:
    with pytest.raises(ModelCorrupt, match=r"has 400,\d+ bytes, the limit is 100,000 \(setting model_bytes\)"):
        store(tmp_path, site.url, max_bytes=100_000).fetch(binding, stopped=never)
    assert site.ranges_of("model.onnx") == []


@pytest.mark.parametrize("file", ["model.toml", "golden.json", "model.onnx"])
def test_an_endless_body_is_ended(tmp_path: Path, site: Site, binding: Binding, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(handler: BaseHTTPRequestHandler, site: Site) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not site.ended.is_set():
            handler.wfile.write(b"x" * 65_536)

    monkeypatch.setattr("penstock.registry.cache._GOLDEN_LIMIT", 1_000_000)
    site.instead[f"/models/m/1/{file}"] = endless
    with pytest.raises(ModelCorrupt, match=rf"m/1/{file} is longer than the allowed [\d,]+ bytes"):
        fetched(tmp_path, site, binding)
    assert sum(one.stat().st_size for one in (tmp_path / "cache").rglob("*")) < 2_000_000


def test_a_silent_server_is_given_up(tmp_path: Path, site: Site, binding: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roots, "SILENCE", 0.1)

    def silent(handler: BaseHTTPRequestHandler, site: Site) -> None:
        site.ended.wait()

    site.instead["/models/m/1/model.toml"] = silent
    with pytest.raises(ModelNotFound, match=r"no data for 0\.1 s"):
        fetched(tmp_path, site, binding)


@pytest.mark.parametrize("part", ["headers", "body"])
def test_who_drips_is_ended_when_time_is_up(tmp_path: Path, site: Site, binding: Binding, part: str) -> None:
    """A byte every 20 ms is never silent, and would take for ever."""

    def drip(handler: BaseHTTPRequestHandler, site: Site) -> None:
        if part == "body":
            handler.send_response(200)
            handler.end_headers()
        else:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not site.ended.wait(0.02):
            handler.wfile.write(b"x")

    site.instead["/models/m/1/model.toml"] = drip
    began = time.monotonic()
    with pytest.raises(Stopped):
        store(tmp_path, site.url).fetch(binding, stopped=lambda: time.monotonic() - began > 0.5)
    assert time.monotonic() - began < 5


def redirect(to: str) -> Callable[[BaseHTTPRequestHandler, Site], None]:
    def answer(handler: BaseHTTPRequestHandler, site: Site) -> None:
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def test_a_redirect_within_the_root_is_followed(tmp_path: Path, site: Site, registry: DirectoryRegistry, binding: Binding) -> None:
    (registry.root / "m/1/model.onnx").rename(registry.root / "blob")
    site.instead["/models/m/1/model.onnx"] = redirect("/models/blob")
    fetched(tmp_path, site, binding)


@pytest.mark.parametrize(
    "to", ["/secret", "/models/../secret", "/models/%2e%2e/secret", "http://localhost:1/models/x", "file:///etc/passwd", "/models/x?y=1"]
)
def test_a_redirect_out_of_the_root_is_refused(tmp_path: Path, site: Site, binding: Binding, to: str) -> None:
    site.instead["/models/m/1/model.toml"] = redirect(to)
    with pytest.raises(ModelNotFound, match="a redirect out of the root"):
        fetched(tmp_path, site, binding)
    assert len(site.asked) == 1


def test_redirects_in_a_circle_are_ended(tmp_path: Path, site: Site, binding: Binding) -> None:
    site.instead["/models/m/1/model.toml"] = redirect("/models/m/1/model.toml")
    with pytest.raises(ModelNotFound, match="more than 5 redirects"):
        fetched(tmp_path, site, binding)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://models.example.com", "without encryption: use https"),
        ("ftp://models.example.com", "a root is a folder or an https URL"),
        ("https://", "a root is a folder or an https URL"),
        ("https://me:secret@models.example.com/", "a URL with user, password"),
        ("https://models.example.com/?x=1", "a URL with user, password, query"),
        ("https://models.example.com/a/../b", "no .. in a root"),
        ("https://models.example.com:port/", "Port could not be cast"),
    ],
)
def test_places_that_are_no_roots(tmp_path: Path, url: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        store(tmp_path, url)


def test_a_link_out_of_a_folder_is_refused(tmp_path: Path, registry: DirectoryRegistry, binding: Binding) -> None:
    """One within the folder is not: some mounts are made of them."""
    moved = (registry.root / "m/1").rename(tmp_path / "elsewhere")
    (registry.root / "m/1").symlink_to(moved)
    with pytest.raises(ModelNotFound, match=r"m/1/model.toml leads out of the folder, to "):
        store(tmp_path, registry.root).fetch(binding, stopped=never)
    moved.rename(registry.root / "inside")
    (registry.root / "m/1").unlink()
    (registry.root / "m/1").symlink_to(registry.root / "inside")
    store(tmp_path, registry.root).fetch(binding, stopped=never)


def test_a_pipe_is_no_file(tmp_path: Path, registry: DirectoryRegistry, binding: Binding) -> None:
    (registry.root / "m/1/model.onnx").unlink()
    os.mkfifo(registry.root / "m/1/model.onnx")
    with pytest.raises(ModelNotFound, match=r"m/1/model.onnx is not a file"):
        store(tmp_path, registry.root).fetch(binding, stopped=never)


# --- the signature, and what is given back -----------------------------------------------------------------------------


def test_the_signature_is_asked_for_anew_and_the_last_one_serves(
    tmp_path: Path, site: Site, registry: DirectoryRegistry, binding: Binding
) -> None:
    asking = store(tmp_path, tmp_path / "gone", site.url)
    assert asking.fetch(binding, stopped=never, signature=True).bundle() is None
    for bundle in (b"first", b"second"):
        (registry.root / "m/1/model.sig").write_bytes(bundle)
        assert asking.fetch(binding, stopped=never, signature=True).bundle() == bundle
    (registry.root / "m/1/model.sig").unlink()
    assert asking.fetch(binding, stopped=never, signature=True).bundle() == b"second"


def test_a_signature_that_is_too_long_is_cut(tmp_path: Path, registry: DirectoryRegistry, binding: Binding) -> None:
    (registry.root / "m/1/model.sig").write_bytes(b"x" * 3_000_000)
    bundle = store(tmp_path, registry.root).fetch(binding, stopped=never, signature=True).bundle()
    assert bundle is not None
    assert len(bundle) == 1024**2 + 1


def test_what_is_long_unused_is_given_back(tmp_path: Path, registry: DirectoryRegistry) -> None:
    """Unless it is to be kept, was used today, or is being written."""
    kept = store(tmp_path, registry.root)
    found = {days: kept.fetch(binding_of(registry.publish("n", models.constant(days))), stopped=never) for days in (0, 2, 40, 41, 42)}
    for days, artifact in found.items():
        os.utime(artifact.path, (time.time() - days * 86_400,) * 2)
    keep = [found[41].manifest_digest]
    assert kept.prune(keep) == [found[40].manifest_digest, found[42].manifest_digest]
    assert kept.prune(keep, max_bytes=1) == [found[2].manifest_digest]
    assert [days for days, artifact in found.items() if artifact.path.exists()] == [0, 41]


def test_a_link_to_itself_is_no_version(tmp_path: Path, registry: DirectoryRegistry, binding: Binding) -> None:
    (registry.root / "m/1").rename(tmp_path / "elsewhere")
    (registry.root / "m/1").symlink_to(registry.root / "m/1")
    with pytest.raises(ModelNotFound, match=r"m/1/model.toml cannot be read: "):
        store(tmp_path, registry.root).fetch(binding, stopped=never)
