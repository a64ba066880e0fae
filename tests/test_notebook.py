"""The notebook in examples/ runs from its first cell to its last, as a reader runs it."""

from pathlib import Path

import nbformat
import pytest
from command_line import environment
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "first_hour.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_promises(tmp_path, monkeypatch):
    for name in ("ORCHESTRATOR_STORAGE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORCHESTRATOR_CACHE", environment(tmp_path)["ORCHESTRATOR_CACHE"])
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    NotebookClient(notebook, timeout=400, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [str(one.get("text") or one.get("data", {}).get("text/plain")) for one in shown]
    assert any("test images" in text for text in texts)
    assert any("class_name" in text for text in texts)
    assert any("image/png" in one.get("data", {}) for one in shown), "no figure"
    assert texts[-1] == "[]", "the doctor found something"
    assert (tmp_path / "sweeps" / "first-hour" / "report.html").is_file()
