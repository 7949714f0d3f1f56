"""Tokens of an identity provider at a service, over both of its doors."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc

from penstock.serving.messages import SERVICE, message
from tests.serving.conftest import Service, ask, served
from tests.unit.access.identity import Provider, jwk, published, token

FILE = """
[callers.analysts]
may = ["read"]
topologies = ["flights"]
tokens = [{{ issuer = "company", claims = {{ groups = "analysts" }} }}]

[issuers.company]
issuer = "https://login.example.org"
audience = ["penstock"]
jwks = "{url}"
"""


def over_http(service: Service, text: str) -> int:
    return ask(service.ports["http"], "GET", "/v2/models/flights", headers={"authorization": f"Bearer {text}"}).status_code


def over_grpc(service: Service, text: str) -> str:
    with grpc.insecure_channel(service.grpc) as channel:
        asked = channel.unary_unary(f"/{SERVICE}/ModelMetadata", request_serializer=message("ModelMetadataRequest").SerializeToString)
        call = asked.future(message("ModelMetadataRequest")(name="flights"), metadata=[("authorization", f"Bearer {text}")], timeout=60)
        return str(call.code().name)


def test_tokens_admit_their_callers(tmp_path: Path) -> None:
    """The keys come from the issuer's server. Its claims choose the caller; its end, and its signature, count."""

    def made(**claims: Any) -> str:
        now = time.time()
        return token(**{"iat": now, "exp": now + 60, "groups": ["analysts"], **claims})

    with Provider.open(published(jwk("EdDSA", "one"))) as provider:
        path = tmp_path / "access.toml"
        path.write_text(FILE.format(url=provider.url))
        with served("topologies/flights.yaml", "--access", str(path)) as service:
            good, other, over, forged = made(), made(groups=["others"]), made(exp=time.time() - 100), made(number=1)
            assert [over_http(service, one) for one in (good, good, other, over, forged, "x")] == [200, 200, 401, 401, 401, 401]
            assert [over_grpc(service, one) for one in (good, other, over, forged)] == ["OK", *["UNAUTHENTICATED"] * 3]
            assert provider.asked == 1
            provider.body = published(jwk("EdDSA", "two", 1))
            assert _until(service, made(kid="two", number=1)), "a new key is fetched when a token names it"


def _until(service: Service, text: str) -> bool:
    """Whether the token is taken within the time after which an issuer may be asked again."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if over_http(service, text) == 200:
            return True
        time.sleep(0.5)
    return False
