"""Which addresses the service may listen on: those of other hosts only with TLS and an access file, or where a setting allows it."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.settings import is_loopback

__all__ = ["exposed_to_others"]


def exposed_to_others(addresses: Iterable[str], *, tls: bool, access: bool, allowed: bool) -> str:
    """Returns why the service does not listen on these addresses, "" when it may: an address without a port, too.

    An address is HOST:PORT (without a host: every interface) or unix:PATH; `tls` and `access` are whether there is a certificate and an
    access file; `allowed` is the setting that allows both to be missing.
    """
    for one in filter(None, addresses := tuple(addresses)):
        if not one.startswith("unix:") and not one.rpartition(":")[2].isdecimal():
            return f"{one} has no port: write HOST:PORT, like 127.0.0.1:8080, or unix:PATH"
    far = [one for one in addresses if one and not _here(one)]
    if allowed or not far or (tls and access):
        return ""
    listed = ", ".join(far)
    otherwise = "listen on 127.0.0.1, or set insecure_serve"
    if not access:
        return f"every host that reaches {listed} could call the service: name an access file with the setting access, {otherwise}"
    return f"keys and rows would go to {listed} without encryption: set serve_certfile and serve_keyfile, {otherwise}"


def _here(address: str) -> bool:
    if address.startswith("unix:"):
        return True
    host, _, _ = address.rpartition(":")
    return is_loopback(host.strip("[]"))
