"""Every store keeps the contract, and says what is wrong when its server is away, refuses the login, or was not set up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from penstock.errors import AccessRefused, ConfigError, SettingsError, TransportUnavailable
from penstock.settings import Secret, Settings, load
from penstock.stores.base import Store
from penstock.stores.open import open_store
from tests.stores import servers
from tests.stores.laws import LAWS
from tests.stores.servers import Server

KINDS = {"redis": servers.redis, "postgres": servers.postgres, "cassandra": servers.cassandra}
Law = Callable[[Store], None]


@pytest.fixture(scope="module", params=[*KINDS])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    made = KINDS[request.param]()
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Store]:
    store = server.client(timeout=30)
    yield store
    store.close()


@pytest.mark.parametrize("law", LAWS, ids=lambda one: cast(Law, one).__name__)
def test_server_keeps_the_contract(client: Store, law: Law) -> None:
    law(client)


@pytest.mark.parametrize("law", LAWS, ids=lambda one: cast(Law, one).__name__)
def test_sqlite_keeps_the_contract(tmp_path: Path, law: Law) -> None:
    store = open_store(Settings(store=f"sqlite:///{tmp_path}/answers %23.db"), timeout=30)
    law(store)
    store.close()


def test_wrong_password_is_refused(server: Server) -> None:
    store = open_store(server.settings(store_password=Secret("wrong-one")), timeout=30)
    with pytest.raises(AccessRefused, match="store_password_file") as refused:
        store.live("any")
    assert "wrong-one" not in str(refused.value)
    store.close()


def test_killed_server_is_unavailable_and_comes_back(server: Server, client: Store) -> None:
    """What was live before is live after; a client needs no restart."""
    number = client.begin("survivor", "a")
    client.write("survivor", number, [("a", b"1")])
    client.activate("survivor", number, since=1.0)
    server.kill()
    for _ in range(2):
        with pytest.raises(TransportUnavailable, match=r"does not answer"):
            client.read("survivor", ["a"])
    with pytest.raises(TransportUnavailable):
        server.client(timeout=5).read("survivor", ["a"])
    server.start()
    assert _read_again(client) == [b"1"]


def _read_again(client: Store) -> list[bytes | None]:
    """A client may need a moment to notice that the server is back."""
    for _ in range(200):
        try:
            return [*client.read("survivor", ["a"]).answers]
        except TransportUnavailable:
            time.sleep(0.1)
    pytest.fail("the client does not come back")


def test_keyspace_and_database_have_to_exist(server: Server) -> None:
    if server.url.startswith("redis"):
        pytest.skip("Redis has no names of databases")
    store = open_store(server.settings(store=server.url.rpartition("/")[0] + "/absent"), timeout=30)
    with pytest.raises(ConfigError, match="absent"):
        store.live("any")
    store.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://localhost", "it begins with none of redis://"),
        ("sqlite://host/x", "sqlite has a file and no host"),
        ("sqlite:///", "sqlite has a file and no host"),
        ("redis://", "a host is missing"),
        ("postgresql://localhost", "the database is missing"),
        ("cassandra://localhost/", "the database is missing"),
        ("redis://store.example:6379", "would be unencrypted"),
        ("postgresql://store.example/db", "would be unencrypted"),
        ("cassandra://127.0.0.1,10.0.0.7/ks", "10.0.0.7 would be unencrypted"),
        ("redis://localhost:port", "it is no URL"),
    ],
)
def test_address_that_is_none_is_an_error(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        open_store(Settings(store=url))


@pytest.mark.parametrize("url", ["rediss://store.example:6379", "postgresql://u@store.example/db?sslmode=verify-full"])
def test_encrypted_address_of_another_host_is_taken(url: str) -> None:
    store = open_store(Settings(store=url))
    assert store.where == url.partition("?")[0]
    store.close()


@pytest.mark.parametrize(
    "url", ["redis://u:hunter2@localhost", "postgresql://localhost/db?password=hunter2", "redis://u:hunter2@[localhost"]
)
def test_password_in_an_address_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(SettingsError, match="store_password_file") as refused:
        load({"store": url})
    assert "hunter2" not in str(refused.value)


def test_database_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, and it is long enough to be taken for one" * 100)
    with pytest.raises(ConfigError, match="not a database"):
        open_store(Settings(store=f"sqlite:///{tmp_path}/text.db")).live("any")
    with pytest.raises(ConfigError, match="unable to open"):
        open_store(Settings(store=f"sqlite:///{tmp_path}/absent/x.db")).begin("any", "a")
