"""The contract of a registry, as one function: call it with an empty registry."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from penstock.errors import ConfigError, ModelCorrupt, ModelExists, ModelNotFound, PenstockError
from penstock.model.golden import GoldenRecord
from penstock.model.manifest import Source
from penstock.model.session import Session
from penstock.model.verify import verify
from penstock.registry.base import Registry
from penstock.testing import models

__all__ = ["check_registry"]

_BAD_NAMES: Final = ("", ".", "..", "../up", "a/b", "/etc", "Upper", "-dash", "a b", "a\n", "ä", "a\x00", "x" * 101)


def check_registry(registry: Registry) -> None:
    """Asserts everything that `penstock.registry.base.Registry` promises. The registry must be empty and may be written to."""
    _is_empty_at_first(registry)
    _gives_back_what_was_published(registry)
    _keeps_how_a_version_runs(registry)
    _numbers_versions_in_natural_order(registry)
    _never_changes_a_version(registry)
    _refuses_what_cannot_serve(registry)
    _moves_aliases(registry)
    _keeps_the_signature_beside_a_version(registry)
    _refuses_names_that_are_paths(registry)


def _is_empty_at_first(registry: Registry) -> None:
    assert registry.names() == []
    assert registry.versions("absent") == []
    assert registry.aliases("absent") == {}
    _raises(ModelNotFound, lambda: registry.resolve("absent", "1"))


def _gives_back_what_was_published(registry: Registry) -> None:
    model = models.linear([1.0, 2.0])
    golden = [GoldenRecord({"x": [1.0, 1.0]}, {"y": [3.0]})]
    published = registry.publish(
        "score", model, golden=golden, metrics={"auc": 0.75}, provenance={"author": "contract"}, description='a "quoted" line\nand [more] ü'
    )
    found = registry.resolve("score", "1")
    assert found == published, "publish and resolve return the same"
    assert found.read() == model
    assert (found.name, found.version, found.size) == ("score", "1", len(model))
    assert found.signature == Session.load(model).signature
    assert found.golden_records() == tuple(golden)
    assert dict(found.manifest.metrics) == {"auc": 0.75}
    assert dict(found.manifest.provenance) == {"author": "contract"}
    assert found.manifest.description == 'a "quoted" line\nand [more] ü'
    assert verify(found).records == 1
    assert registry.names() == ["score"]


def _keeps_how_a_version_runs(registry: Registry) -> None:
    golden, source = [GoldenRecord({"x": [1.0]}, {"y": [1.5]})], Source("sha256:00", ("left out the output 'z'",))
    registry.publish("piece", models.linear([1.0]), golden=golden, rows=2, tolerance=(0.5, 0.0), source=source)
    found = registry.resolve("piece", "1").manifest
    assert (found.rows, found.golden.atol, found.golden.rtol, found.source) == (2, 0.5, 0.0, source)
    _raises(ModelCorrupt, lambda: registry.publish("piece", models.linear([1.0]), golden=golden, tolerance=(0.25, 0.0)))
    _raises(ConfigError, lambda: registry.publish("piece", models.linear([1.0]), tolerance=(-1.0, 0.0)))


def _numbers_versions_in_natural_order(registry: Registry) -> None:
    assert registry.publish("count", models.constant(1), version="9").version == "9"
    assert registry.publish("count", models.constant(2)).version == "10"
    assert registry.publish("count", models.constant(3), version="2.1").version == "2.1"
    assert registry.versions("count") == ["2.1", "9", "10"]


def _never_changes_a_version(registry: Registry) -> None:
    before = registry.resolve("count", "9")
    error = _raises(ModelExists, lambda: registry.publish("count", models.constant(4), version="9"))
    assert "count@9" in str(error)
    assert registry.resolve("count", "9") == before
    assert before.read() == models.constant(1)


def _refuses_what_cannot_serve(registry: Registry) -> None:
    wrong = [GoldenRecord({"x": [1.0]}, {"y": [2.0]})]
    _raises(ModelCorrupt, lambda: registry.publish("broken", b"no model"))
    _raises(ModelCorrupt, lambda: registry.publish("broken", models.constant(1), golden=wrong))
    _raises(ConfigError, lambda: registry.publish("broken", models.constant(1), golden=[GoldenRecord({}, {"y": [1.0]})]))
    _raises(ConfigError, lambda: registry.publish("broken", models.constant(1), metrics={"auc": float("nan")}))
    _raises(ConfigError, lambda: registry.publish("broken", models.constant(1), provenance={"colour": "red"}))
    assert "broken" not in registry.names(), "a refused model leaves nothing behind"


def _moves_aliases(registry: Registry) -> None:
    registry.alias("count", "live", "9")
    assert registry.resolve("count", "live").version == "9"
    registry.alias("count", "live", "10")
    registry.alias("count", "spare", "live")
    assert registry.aliases("count") == {"live": "10", "spare": "10"}
    _raises(ModelNotFound, lambda: registry.alias("count", "live", "77"))
    _raises(ConfigError, lambda: registry.alias("count", "9lives", "9"))
    assert registry.resolve("count", "live").version == "10"
    error = _raises(ModelNotFound, lambda: registry.resolve("count", "livve"))
    assert "did you mean 'live'" in str(error)
    assert "2.1, 9, 10" in str(error), "the message lists the existing versions"


def _keeps_the_signature_beside_a_version(registry: Registry) -> None:
    signed = registry.resolve("count", "9")
    assert signed.bundle() is None
    assert str(registry.add_bundle(signed, b"first"))
    assert registry.resolve("count", "9").bundle() == b"first"
    error = _raises(ModelExists, lambda: registry.add_bundle(signed, b"second"))
    assert "count@9" in str(error)
    assert registry.resolve("count", "9").bundle() == b"first", "a signature is replaced only on request"
    registry.add_bundle(signed, b"second", replace=True)
    assert registry.resolve("count", "9").bundle() == b"second"
    assert registry.resolve("count", "9") == signed, "a signature does not change the version"
    assert registry.versions("count") == ["2.1", "9", "10"], "a signature is not a version"
    assert registry.resolve("count", "10").bundle() is None, "a signature belongs to one version"


def _refuses_names_that_are_paths(registry: Registry) -> None:
    for bad in _BAD_NAMES:
        _raises(ConfigError, partial(registry.publish, bad, models.constant(1)))
        _raises(ModelNotFound, partial(registry.resolve, bad, "1"))
        assert registry.versions(bad) == []
        assert registry.aliases(bad) == {}
    for bad in ("", ".", "..", "../up", "a/b", "/etc", "1/..", "a\x00"):
        _raises(ConfigError, partial(registry.publish, "count", models.constant(1), version=bad))
        _raises(ConfigError, partial(registry.alias, "count", bad, "9"))
        _raises(ModelNotFound, partial(registry.resolve, "count", bad))


def _raises(kind: type[PenstockError], call: Callable[[], object]) -> PenstockError:
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected")
