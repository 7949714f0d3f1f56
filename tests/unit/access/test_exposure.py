"""Other hosts are answered with TLS and an access file only, unless a setting allows otherwise."""

from __future__ import annotations

import pytest

from penstock.access.exposure import exposed_to_others

HERE = ["127.0.0.1:8080", "localhost:8080", "[::1]:8080", "127.8.8.8:0", "unix:/run/penstock.sock", ""]
FAR = [
    ":8080",
    "0.0.0.0:8080",
    "[::]:8080",
    "10.0.0.7:8080",
    "shop.example.org:8080",
    "localhost.example.org:8080",
    "127.0.0.1.example.org:1",
]


def test_this_host_needs_nothing() -> None:
    assert exposed_to_others(HERE, tls=False, access=False, allowed=False) == ""


@pytest.mark.parametrize("address", FAR)
def test_other_hosts_need_both(address: str) -> None:
    def why(*, tls: bool = False, access: bool = False, allowed: bool = False) -> str:
        return exposed_to_others(["127.0.0.1:1", address], tls=tls, access=access, allowed=allowed)

    assert why(tls=True, access=True) == ""
    assert why(allowed=True) == ""
    assert f"every host that reaches {address} could call the service" in why(tls=True)
    assert f"keys and rows would go to {address} without encryption" in why(access=True)
    assert "127.0.0.1:1" not in why()


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0"])
def test_address_without_a_port_is_told_what_is_missing(address: str) -> None:
    why = exposed_to_others(["127.0.0.1:1", address], tls=False, access=False, allowed=False)
    assert why.partition("; ")[0] == f"{address} has no port: write HOST:PORT, like 127.0.0.1:8080, or unix:PATH"
    assert (why.count("; "), "access file" in why, "serve_certfile" in why) == ((3, True, True) if "0.0.0.0" in why else (0, False, False))
