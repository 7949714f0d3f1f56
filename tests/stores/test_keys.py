"""The key of an event: the same in every language, and different for what is different."""

from __future__ import annotations

import math
import runpy
import shutil
import subprocess
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.schema import Field, Kind
from penstock.stores.keys import LONGEST, canonical, entity_key, input_key

EXAMPLES = Path(__file__).parents[2] / "examples" / "keys"
FINITE = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KINDS: dict[Kind, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "timestamp": st.integers(-(2**50), 2**50),
    "double": FINITE,
    "float": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "string": TEXT,
}


def test_vectors_are_those_of_python() -> None:
    made = runpy.run_path(str(EXAMPLES / "vectors.py"))
    lines = made["lines"]([*made["PICKED"], *made["drawn"](200)])
    assert (EXAMPLES / "vectors.txt").read_text("ascii").splitlines() == [*lines]


@pytest.mark.parametrize(("command", "program"), [("java", "Key.java"), ("node", "key.mjs")])
def test_other_languages_make_the_same_keys(command: str, program: str) -> None:
    if shutil.which(command) is None:
        pytest.skip(f"there is no command {command}")
    done = subprocess.run([command, program, "vectors.txt"], cwd=EXAMPLES, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("215 keys are equal\n", "")


@pytest.mark.parametrize(("command", "program"), [("java", "Key.java"), ("node", "key.mjs")])
def test_vectors_find_a_difference(tmp_path: Path, command: str, program: str) -> None:
    """One last digit of one number is another one."""
    if shutil.which(command) is None:
        pytest.skip(f"there is no command {command}")
    changed = (EXAMPLES / "vectors.txt").read_text("ascii").replace("distance long 0 2475", "distance long 0 2476")
    (tmp_path / "vectors.txt").write_text(changed)
    done = subprocess.run([command, program, str(tmp_path / "vectors.txt")], cwd=EXAMPLES, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "distance=i2476" in done.stderr


def test_canonical_form_is_as_specified() -> None:
    fields = [
        Field("b", "double"), Field("a.x", "string"), Field("n", "long", optional=True), Field("t", "timestamp", unit="ms"),
        Field("list", "array", items=Field("items", "float")), Field("yes", "boolean"),
    ]  # fmt: skip
    form = canonical(fields, {"b": 2, "list": 1})([1.005, "é\n", None, 5, [0.25, 16777217.0], True])
    assert form == "penstock-key-1\na.x=s3:é\n\nb=d1.00\nlist=[d0.2,d16777216.0,]\nn=n\nt=t5000\nyes=true\n"
    assert len(input_key(form)) == 64


@given(FINITE, st.integers(0, 15))
def test_number_is_its_exact_value_rounded_half_to_even(value: float, decimals: int) -> None:
    made = canonical([Field("x", "double")], {"x": decimals})([value]).split("=d")[1].rstrip("\n")
    with localcontext(prec=400):
        exact = Decimal(value).quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_EVEN)
    assert Decimal(made) == exact
    assert len(made.partition(".")[2]) == decimals
    assert not (exact == 0 and made.startswith("-"))


@given(FINITE, st.integers(0, 15))
def test_float_is_rounded_to_32_bits_first(value: float, decimals: int) -> None:
    with np.errstate(over="ignore"):
        single = float(np.float32(value))
        form = canonical([Field("x", "float")], {"x": decimals})
    if math.isfinite(single):
        assert form([value]) == form([single]) == canonical([Field("x", "double")], {"x": decimals})([single])
    else:
        with np.errstate(over="ignore"), pytest.raises(ValueError, match="no decimal digits"):
            form([value])


@st.composite
def vectors(draw: st.DrawFn) -> tuple[list[Field], list[Any], list[Any]]:
    """Returns fields, and two events that may be equal."""
    fields, one, other = [], [], []
    for at in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from([*KINDS]))
        values = KINDS[kind] if draw(st.booleans()) else st.sampled_from(draw(st.lists(KINDS[kind], min_size=1, max_size=2)))
        if draw(st.booleans()):
            values = st.none() | values
        fields.append(Field(f"f{at}", kind, optional=True, unit="us" if kind == "timestamp" else ""))
        one.append(draw(values))
        other.append(draw(values))
    return fields, one, other


@given(vectors(), st.randoms())
def test_events_have_one_key_only_if_their_values_are_equal(made: tuple[list[Field], list[Any], list[Any]], dice: Any) -> None:
    fields, one, other = made
    form = canonical(fields, dict.fromkeys((field.name for field in fields), 15))
    rounded = [[_at(field, value) for field, value in zip(fields, event, strict=True)] for event in (one, other)]
    assert (form(one) == form(other)) == (rounded[0] == rounded[1])
    order = list(range(len(fields)))
    dice.shuffle(order)
    assert canonical([fields[at] for at in order], dict.fromkeys((field.name for field in fields), 15))([one[at] for at in order]) == form(
        one
    )


def _at(field: Field, value: Any) -> Any:
    return value if value is None or field.kind not in ("float", "double") else Decimal(f"{value:.15f}")


@given(TEXT, TEXT, TEXT, TEXT)
def test_text_cannot_pretend_to_be_another_field(a: str, b: str, c: str, d: str) -> None:
    form = canonical([Field("a", "string"), Field("b", "string")], {})
    assert (form([a, b]) == form([c, d])) == ((a, b) == (c, d))


@pytest.mark.parametrize(("value", "key"), [("o-1", "o-1"), (17, "17"), (-(2**63), "-9223372036854775808"), ("ü" * 256, "ü" * 256)])
def test_key_of_an_entity_is_its_id(value: Any, key: str) -> None:
    assert entity_key(value) == key


@pytest.mark.parametrize("value", [None, "", "x" * (LONGEST + 1), "ü" * 257, "a\0b", "\ud800"])
def test_what_cannot_be_an_id_is_none(value: Any) -> None:
    with pytest.raises(ValueError):
        entity_key(value)
