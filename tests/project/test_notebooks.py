"""The notebooks in `examples` run from the first cell to the last, in a kernel of their own."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def cells(path, kind):
    return [cell["source"] for cell in nbformat.read(path, as_version=4).cells if cell["cell_type"] == kind]


# The documentation site runs all of them, too.
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[] if path.stem == "attack_your_network" else pytest.mark.slow, id=path.stem)
        for path in NOTEBOOKS
    ],
)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in str(output) for output in outputs), "it shows images"
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert first.outputs == [], "where sfi_ray is installed, it does nothing"
    assert list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs_and_opens_in_colab(path):
    stored = json.loads(path.read_text("utf-8"))
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in stored["cells"])
    nbformat.validate(nbformat.read(path, as_version=4))
    title, *_ = cells(path, "markdown")
    link = f"https://colab.research.google.com/github/OWNER/sfi_ray/blob/main/{path.relative_to(ROOT).as_posix()}"
    assert f"[Open in Colab]({link})" in title
    assert "%pip install" in cells(path, "code")[0]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_shown_code_is_code_and_linked_files_exist(path):
    text = "\n\n".join(cells(path, "markdown"))
    for block in re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE):
        ast.parse(block)
    for target in re.findall(r"https://github\.com/OWNER/sfi_ray/blob/main/([^)#]+)", text):
        assert (ROOT / target).exists(), target


def test_the_guide_names_every_notebook():
    guide = (ROOT / "docs/guides/notebooks.md").read_text("utf-8")
    assert len(NOTEBOOKS) == 3
    for path in NOTEBOOKS:
        assert f"(../../examples/{path.name})" in guide, path.name
