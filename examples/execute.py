"""Run the notebooks of this folder and write their outputs into them: python examples/execute.py [NOTEBOOK]...

Nothing of this machine stays in them: no paths, no times of cells, no names of kernels. Each holds a digest of the
cells that made its outputs, so that a test can tell when someone changed a cell and did not run it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

EXAMPLES = Path(__file__).resolve().parent
SCRATCH = Path(".cache/notebook")  # where notebooks write, seen from the root of the repository
CELL_SECONDS = 300


def execute(notebook: NotebookNode, folder: Path) -> None:
    """Run all cells, in place, in a new process of this Python that starts in `folder`.

    Raises nbclient.exceptions.CellExecutionError for a cell that fails.
    """
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", record_timing=False, resources=where
    ).execute()


def digest(notebook: NotebookNode) -> str:
    """SHA-256 of the code cells, in their order."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def tidy(notebook: NotebookNode) -> None:
    """Leave what any machine would write, so no progress either, and say of which cells the outputs are."""
    notebook.metadata = NotebookNode(
        kernelspec={"name": "python3", "display_name": "Python 3", "language": "python"},
        language_info={"name": "python"},
        executed=digest(notebook),
    )
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]


def main(files: list[Path]) -> None:
    """Run `files`, as after `make repro`, from the beginning."""
    for file in files:
        shutil.rmtree(EXAMPLES.parent / SCRATCH, ignore_errors=True)
        notebook = nbformat.read(file, as_version=4)
        execute(notebook, EXAMPLES)
        tidy(notebook)
        nbformat.write(notebook, file)


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or sorted(EXAMPLES.glob("*.ipynb")))
