"""Which addresses the service may listen on: those of other hosts only with TLS and an access file, or where a setting allows it."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.settings import is_loopback

__all__ = ["exposed_to_others"]


def exposed_to_others(addresses: Iterable[str], *, tls: bool, access: bool, allowed: bool) -> str:
    """Returns all reasons why the service does not listen on these addresses, "" when it may: an address without a port, too.

    An address is HOST:PORT (without a host: every interface) or unix:PATH; `tls` and `access` are whether there is a certificate and an
    access file; `allowed` is the setting that allows both to be missing.
    """
    given = [one for one in addresses if one]
    found = [f"{one} has no port: write HOST:PORT, like 127.0.0.1:8080, or unix:PATH" for one in given if not _has_port(one)]
    far = [] if allowed else [one for one in given if not _here(one)]
    listed = ", ".join(far)
    if far and not access:
        found.append(f"every host that reaches {listed} could call the service: name an access file with the setting access")
    if far and not tls:
        found.append(f"keys and rows would go to {listed} without encryption: set serve_certfile and serve_keyfile")
    if far and not (access and tls):
        found.append("otherwise listen on 127.0.0.1, or set insecure_serve")
    return "; ".join(found)


def _has_port(address: str) -> bool:
    return address.startswith("unix:") or address.rpartition(":")[2].isdecimal()


def _here(address: str) -> bool:
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0] if _has_port(address) else address
    return is_loopback(host.strip("[]"))
