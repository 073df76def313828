"""Modules in the current folder are found, or an error says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from oatmill.errors import UserError
from oatmill.user_modules import load_function


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(path: str) -> str:
    with pytest.raises(UserError) as caught:
        load_function(path, what="env.factory", gives="an environment")
    return str(caught.value)


def test_a_function_of_the_main_script_is_rejected_with_advice() -> None:
    assert "is a function of your script itself" in refusal("__main__:make")
    assert "move it to a module next to the script" in refusal("__main__:make")


@pytest.mark.parametrize("name", ["agent", "queue"])
def test_a_file_hidden_by_another_module_is_named(name: str, folder: Path) -> None:
    (folder / f"{name}.py").write_text("def make(): pass")
    expected = f"; {name} in {folder} cannot be found, since Python or oatmill has a module of that name: rename yours"
    assert refusal(f"{name}:make").endswith(expected)


def test_a_hidden_file_that_a_user_module_imports_is_named(folder: Path) -> None:
    (folder / "actors.py").write_text("def make(): pass")
    (folder / "uses_actors.py").write_text("from actors import make")
    assert f"; actors in {folder} cannot be found" in refusal("uses_actors:make")
    assert "(uses_actors.py:1, in <module>)" in refusal("uses_actors:make")


def test_unrelated_files_are_not_mentioned(folder: Path) -> None:
    (folder / "agent.py").write_text("def make(): pass")
    (folder / "has_no_make.py").touch()
    assert "rename" not in refusal("has_no_make:make")
    assert "rename" not in refusal("nowhere:make")
