"""A certificate authority for one test run, by the `openssl` command: strict enough for Python 3.13, which reads every extension."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

__all__ = ["Authority", "Certificate"]

_CONFIG = "[req]\ndistinguished_name = name\nprompt = no\n[name]\nCN = {name}\n"
_NEW = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]


class Certificate(NamedTuple):
    """PEM files; `chain` is key and certificate in one, as Kafka's brokers take it."""

    key: Path
    certificate: Path
    chain: Path


class Authority:
    """Signs certificates. `certificate` is what its clients are told to trust."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = folder / f"{name}.key"
        self.certificate = folder / f"{name}.pem"
        self._make(name, self._key, self.certificate, "basicConstraints=critical,CA:true", "keyUsage=critical,keyCertSign,cRLSign")

    def sign(self, name: str, host: str = "") -> Certificate:
        """A certificate for the common name `name`, valid for `host` ("IP:127.0.0.1,DNS:localhost") when one is given."""
        signed = Certificate(*(self._folder / f"{name}.{kind}" for kind in ("key", "crt", "chain")))
        extensions = ["basicConstraints=critical,CA:false", "keyUsage=critical,digitalSignature", "authorityKeyIdentifier=keyid"]
        extensions += [f"subjectAltName={host}"] if host else []
        signer = ["-CA", str(self.certificate), "-CAkey", str(self._key)]
        self._make(name, signed.key, signed.certificate, *extensions, command=signer)
        signed.chain.write_bytes(signed.key.read_bytes() + signed.certificate.read_bytes())
        return signed

    def _make(self, name: str, key: Path, certificate: Path, *extensions: str, command: list[str] | None = None) -> None:
        config = self._folder / f"{name}.conf"
        config.write_text(_CONFIG.format(name=name))
        added = [argument for extension in (*extensions, "subjectKeyIdentifier=hash") for argument in ("-addext", extension)]
        files = ["-config", str(config), "-keyout", str(key), "-out", str(certificate)]
        done = subprocess.run([*_NEW, *files, *(command or []), *added], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
