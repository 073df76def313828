"""The example notebook runs from its first cell to its last."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples/first_run.ipynb"


def execute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **replaced: str) -> list[Any]:
    """The notebook's cells after they were run in a kernel of this environment, with some texts replaced."""
    import nbclient
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        for old, new in replaced.items():
            cell.source = cell.source.replace(old, new)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin")
    client = nbclient.NotebookClient(notebook, timeout=110, resources={"metadata": {"path": str(NOTEBOOK.parents[1])}})
    client.execute()
    return list(notebook.cells)


def printed(cell: Any) -> str:
    """What a cell has printed."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")


def test_the_notebook_trains_shows_every_loss_and_plays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cells = execute(monkeypatch, tmp_path, **{"40_000": "2_000"})
    texts = [printed(cell) for cell in cells if cell.cell_type == "code"]
    assert "return " in texts[1]
    assert [line.split()[0] for line in texts[2].splitlines()[1:]] == [
        "ppo_critic",
        "cmpo",
        "ppo_actor",
        "dynamics",
        "muesli_model",
    ]
    assert "the episode lasted" in texts[3]


def test_the_notebook_is_stored_without_outputs() -> None:
    import nbformat

    assert all(not cell.outputs for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code")
