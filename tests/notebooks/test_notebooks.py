"""Every notebook runs from top to bottom on a small run, and is kept without outputs."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def execute(path, folder, run):
    notebook = nbformat.read(path, as_version=4)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "MPLBACKEND": "agg", "TFLLM_RUN": str(run)}
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=env)
    return notebook


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_there_are_notebooks():
    assert NOTEBOOKS


@each_notebook
def test_it_runs_and_shows_its_figures(path, tiny_run):
    notebook = execute(path, path.parent, tiny_run)
    streams = [output for output in outputs(notebook) if output.output_type == "stream"]
    assert "".join(output.text for output in streams if output.name == "stdout")
    assert "Traceback" not in "".join(output.text for output in streams)
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.splitlines()[-1].startswith("plot_"):
            assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source


@each_notebook
def test_without_a_run_it_says_how_to_make_one(path, tmp_path):
    with pytest.raises(CellExecutionError, match=r"(?s)no run in .*nowhere.*scripts/quickstart\.sh"):
        execute(path, tmp_path, "runs/nowhere")


@each_notebook
def test_it_is_kept_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not outputs(notebook)
    assert all(cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
    assert notebook.metadata.kernelspec.name == "python3"
