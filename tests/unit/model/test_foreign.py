"""Files of other frameworks are recognised by how they begin, and told how they become ONNX. Nothing in them runs."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Final

import pytest

from penstock.errors import ModelCorrupt
from penstock.model.contents import check_contents
from penstock.model.foreign import FORMATS, check_place


class Trap:
    """Ends the process of whoever unpickles it."""

    def __reduce__(self) -> tuple[object, ...]:
        return (exit, (13,))


def pickled(module: str) -> bytes:
    """The beginning of a pickle of `module`.Model."""
    return b"\x80\x04\x95\x50\x00\x00\x00\x00\x00\x00\x00\x8c" + bytes([len(module)]) + module.encode() + b"\x94\x8c\x05Model\x94\x93\x94."


def zipped(*names: str) -> bytes:
    """A zip with these members, as far as their names."""
    return b"".join(b"PK\x03\x04\x14\x00\x00\x00\x00\x00" + bytes(16) + struct.pack("<HH", len(name), 0) + name.encode() for name in names)


# As xgboost 3.2, lightgbm 4.7, catboost 1.2, joblib 1.6, skops 0.16 and safetensors 0.8 write them; the others by their formats.
FILES: Final = {
    "a pickle of LightGBM": [pickled("lightgbm.sklearn")],
    "a pickle of XGBoost": [pickled("xgboost.sklearn")],
    "a pickle of CatBoost": [pickled("catboost.core")],
    "a pickle of PyTorch": [pickled("torch._utils")],
    "a pickle (joblib writes them too), which may run any code": [pickle.dumps(Trap(), protocol=version) for version in (2, 3, 4, 5)],
    "compressed, as joblib writes pickles": [
        b"\x78\x5e\x5d\x50", b"\x1f\x8b\x08\x08\x9a\x00", b"BZh31AY&SY", b"\xfd7zXZ\x00\x00\x04",
        b"\x5d\x00\x00\x08\x00\xff", b"\x04\x22\x4d\x18\x60",
    ],
    "a Keras model": [zipped("metadata.json", "config.json", "model.weights.h5")],
    "a PyTorch file (.pt, .pth or .pt2)": [zipped("net/data.pkl", "net/byteorder", "net/data/0")],
    "a PyTorch program (.pt2)": [zipped("net/archive_format", "net/models/model.json")],
    "a skops file of scikit-learn": [zipped("140281.npy", "schema.json")],
    "a zip file": [zipped("readme.txt")],
    "an HDF5 file, as Keras writes them": [b"\x89HDF\r\n\x1a\n\x00\x00"],
    "a safetensors file: weights without a computation": [
        struct.pack("<Q", 64) + b'{"w":{"dtype":"F64","shape":[50,3],"data_offsets":[0,1200]}}   ',
    ],
    "an XGBoost model": [b'{"learner":{"attributes":{}', b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner{L", b"binf\x00\x00\x00\x3f"],
    "a LightGBM model": [b"tree\nversion=v4\nnum_class=1"],
    "a CatBoost model": [b"CBM1\x08\x00\x22\x00"],
    "a TensorFlow Lite model": [b"\x1c\x00\x00\x00TFL3\x14\x00"],
    "an ORT format model": [b"\x18\x00\x00\x00ORTM\x00\x00"],
    "a GGUF file of a language model": [b"GGUF\x03\x00\x00\x00"],
    "PMML": [b'<?xml version="1.0"?>\n<PMML xmlns="http://www.dmg.org/PMML-4_4">'],
    "a pointer of Git LFS, not the file itself": [b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 4"],
    "a web page": [b"<!DOCTYPE html><html>", b"\n<html lang='en'>"],
}  # fmt: skip


@pytest.mark.parametrize("name", [one.name for one in FORMATS])
def test_a_file_of_another_format_is_named_with_the_way_to_onnx(name: str) -> None:
    advice = next(one.advice for one in FORMATS if one.name == name)
    for data in FILES[name]:
        with pytest.raises(ModelCorrupt) as caught:
            check_contents(data, label="it")
        assert str(caught.value) == f"it is {name}, not an ONNX file; {advice}"


def test_a_saved_model_and_other_folders_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelCorrupt, match=r"is a folder, not an ONNX file; push the \.onnx file of the model"):
        check_place(tmp_path)
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(ModelCorrupt, match=r"push the \.onnx file in it: .*/net\.onnx"):
        check_place(tmp_path)
    check_place(tmp_path / "net.onnx")
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ModelCorrupt, match=r"is a TensorFlow SavedModel, .* --saved-model"):
        check_place(tmp_path)
