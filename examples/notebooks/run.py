"""Runs a notebook's cells in order, in one namespace and without a kernel, and compares their output with the stored one.

python examples/notebooks/run.py FILE            exits with 1 and names the first cell with another output
python examples/notebooks/run.py FILE --write    stores the cells' output

Cells are plain Python that prints its results: no magics, no pictures. So Jupyter shows the stored output, and a test can run it.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["outputs", "stored"]


def outputs(notebook: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yields each code cell with its output. An error of a cell is raised to the caller."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            source, printed = "".join(cell["source"]), io.StringIO()
            code = compile(ast.parse(source, f"cell {number}"), f"cell {number}", "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, namespace)  # noqa: S102  a notebook is code, and this one is ours
            yield cell, printed.getvalue()


def stored(cell: dict[str, Any]) -> str:
    """Returns the stored output of a code cell."""
    return "".join(line for output in cell["outputs"] for line in output["text"])


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a notebook's cells and compare what they print.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--write", action="store_true", help="store what the cells print")
    arguments = parser.parse_args()
    notebook = json.loads(arguments.file.read_text(encoding="utf-8"))
    for number, (cell, printed) in enumerate(outputs(notebook), 1):
        if arguments.write:
            cell["execution_count"] = number
            cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": printed.splitlines(keepends=True)}] if printed else []
        elif printed != stored(cell):
            print(f"cell {number} prints\n{printed}\nand the notebook shows\n{stored(cell)}")
            return 1
    if arguments.write:
        arguments.file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
