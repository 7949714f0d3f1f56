"""Lets PyTorch's Linux wheel load without the libraries of CUDA that it is linked to: 2.5 GB, and no test here calls them.

It puts one library beside PyTorch's own, with a place for each name that they take from those that are absent, and links it under the
name of each. Where nothing is absent, as with a build for the CPU alone, it does nothing. Needs gcc, nm and ldd.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Final

NAMES: Final = re.compile(r"cu(?!da|pti)|nccl|nv")  # the runtime and CUPTI are called at the import, and are small: they are installed
DRIVER: Final = "libcuda.so.1"  # absent wherever there is no GPU, and then not asked for


def lines(*command: str | Path) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def main() -> None:
    found = importlib.util.find_spec("torch")
    assert found is not None, "install torch first"
    assert found.origin is not None
    folder = Path(found.origin).parent / "lib"
    libraries = sorted(folder.glob("lib*.so"))
    absent = {line.split()[0] for one in libraries for line in lines("ldd", one) if line.endswith("not found")} - {DRIVER}
    if not absent:
        return
    wanted: dict[str, set[str]] = defaultdict(set)  # names by version
    for one in libraries:
        for name, _, version in (line.split()[-1].partition("@") for line in lines("nm", "-D", "--undefined-only", one)):
            if NAMES.match(name):
                wanted[version].add(name)
    with tempfile.TemporaryDirectory() as made:
        code, versions = Path(made, "names.c"), Path(made, "names.map")
        code.write_text("".join(f"char {name}[64];\n" for names in wanted.values() for name in names))
        versions.write_text("".join(f"{version} {{ {'; '.join(names)}; }};\n" for version, names in wanted.items() if version))
        lines("gcc", "-shared", "-fPIC", code, f"-Wl,--version-script={versions}", "-o", folder / "libabsent.so")
    for name in absent:
        (folder / name).symlink_to("libabsent.so")


if __name__ == "__main__":
    main()
