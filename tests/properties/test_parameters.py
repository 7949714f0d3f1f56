"""Whatever value a parameter is given, it is told apart before: one that passes is a row of its tensor, one that does not has a reason."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock.signature import DTYPES, Tensor
from penstock.topology.fit import fit
from penstock.topology.parameters import misfit

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.integers(-300, 300), st.floats(), st.floats(width=16), st.text(max_size=3))
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple), max_leaves=8)
AXES = st.lists(st.sampled_from([None, 1, 2, 3]), max_size=3).map(tuple)


@st.composite
def rows(draw: st.DrawFn, dtype: str, shape: tuple[int | None, ...]) -> Any:
    """Values with the axes of the tensor, of scalars that it may hold or just not."""
    kinds: dict[str, st.SearchStrategy[Any]] = {"bool": st.booleans(), "string": st.text(max_size=3)}
    numbers = st.integers(0, 300) if "int" in dtype else st.floats(width=32) | st.sampled_from([math.nan, math.inf, 1e39, 1])
    value = kinds.get(dtype, numbers)
    for axis in reversed(shape):
        size = axis or draw(st.integers(1, 3))
        value = st.lists(value, min_size=size, max_size=size)
    return draw(value)


@given(st.data(), st.sampled_from(DTYPES), AXES)
def test_what_passes_becomes_an_array_without_loss(data: st.DataObject, dtype: str, shape: tuple[int | None, ...]) -> None:
    tensor = Tensor("t", dtype, shape)
    value = data.draw(VALUES | rows(dtype, shape))
    if found := misfit(tensor, value):
        assert all(found)
        return
    array = np.array(value, object if dtype == "string" else dtype)
    axes = fit(array.shape, shape)
    assert axes is not None
    assert all(asked in (None, axis) for asked, axis in zip(shape, axes, strict=True))
    row = array.reshape([axis for axis in axes if axis is not None])
    if "float" in dtype:
        assert np.isfinite(row).all()
    else:
        assert row.ravel().tolist() == np.array(value, object).ravel().tolist()
