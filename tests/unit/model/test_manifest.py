"""What is written to model.toml is read back; what is wrong in it is named by file and key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.model.manifest import MAX_ROWS, Golden, Manifest, Source, parse, render
from penstock.signature import DTYPES, Signature, Tensor

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
number = st.floats(allow_nan=False, allow_infinity=False)
tensors = st.lists(
    st.builds(Tensor, text, st.sampled_from(DTYPES), st.lists(st.none() | st.integers(0, 2**40), max_size=3).map(tuple)),
    min_size=1,
    max_size=3,
).map(tuple)
manifests = st.builds(
    Manifest,
    name=text,
    version=text,
    created=text,
    digest=text,
    size=st.integers(0, 2**62),
    signature=st.builds(Signature, tensors, tensors),
    golden=st.builds(Golden, text, number, number, text),
    description=text,
    metrics=st.dictionaries(text, number, max_size=3),
    provenance=st.dictionaries(st.sampled_from(["author", "code"]), text, max_size=2),
    rows=st.none() | st.integers(1, MAX_ROWS),
    source=st.none() | st.builds(Source, text, st.lists(text, max_size=3).map(tuple)),
)

WRITTEN = render(
    Manifest(
        name="m",
        version="1",
        created="2026-01-01T00:00:00Z",
        digest="sha256:00",
        size=3,
        signature=Signature((Tensor("x", "float32", (2, None)),), (Tensor("y", "int64"),)),
        golden=Golden("sha256:11", 1e-5, 1e-4),
        metrics={"auc": 0.5},
        rows=2,
        source=Source("sha256:22", ("left out the output 'z'",)),
    )
)


@given(manifests)
def test_what_is_written_is_read_back(manifest: Manifest) -> None:
    assert parse(render(manifest), file="model.toml") == manifest


@given(st.text(max_size=60))
def test_any_text_is_a_manifest_or_a_config_error(content: str) -> None:
    with pytest.raises(ConfigError, match=r"^models/m/1/model\.toml: "):
        parse(content, file="models/m/1/model.toml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "m"', "", "name is missing"),
        ("size = 3", 'size = "3"', "size is '3', which is not an integer"),
        ("size = 3", "size = true", "size is True, which is not an integer"),
        ("atol = 1e-05", "atol = nan", "golden.atol is nan, which is not a finite number"),
        ('"auc" = 0.5', '"auc" = "good"', "metrics.auc is 'good', which is not a finite number"),
        ('dtype = "int64"', 'dtype = "float16"', "outputs[1].dtype is 'float16'; it is one of float32"),
        ('shape = [2, "?"]', "shape = [2, -1]", 'inputs[1].shape is [2, -1]; each axis is a size or "?"'),
        ("[golden]", "[other]", "the table [golden] is missing"),
        ("[[inputs]]", "[[others]]", "inputs must be one or more tables [[inputs]]"),
        ("size = 3", "size = = 3", "not TOML: "),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(WRITTEN.replace(old, new), file="model.toml")
    assert f"model.toml: {said}" in str(caught.value)


def test_all_problems_come_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(WRITTEN.replace('name = "m"', "").replace("size = 3", "").replace("rtol = 0.0001", "rtol = inf"), file="model.toml")
    assert len(caught.value.problems) == 3
