"""The example notebook, and how to run it."""

from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbformat import NotebookNode

from tests.factories import load_script

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = EXAMPLES / "search_and_classify.ipynb"
# What the base package does not bring, and the notebook does without.
HEAVY = "torch transformers timm mlflow dvc gradio matplotlib"


@pytest.fixture(scope="session")
def tools() -> ModuleType:
    """examples/execute.py."""
    return load_script("examples/execute.py")


def run(tools: ModuleType, folder: Path) -> NotebookNode:
    """The notebook after all its cells ran in `folder`, and without what is heavy."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    asked = nbformat.v4.new_code_cell(f"import sys\n\nsorted(set({HEAVY.split()!r}) & set(sys.modules))")
    notebook.cells.append(asked)
    tools.execute(notebook, folder)
    assert notebook.cells.pop().outputs[0].data["text/plain"] == "[]"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not any(output.output_type == "error" for output in cell.outputs)
    return notebook


def output_of(notebook: NotebookNode, source: str) -> str:
    """The text that the one cell with `source` in it gave."""
    (cell,) = (cell for cell in notebook.cells if cell.cell_type == "code" and source in cell.source)
    (result,) = (output.data for output in cell.outputs if output.output_type == "execute_result")
    return result.get("text/markdown") or result["text/plain"]
