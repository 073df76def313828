"""Limits on the size of folders, files, classes and functions, so that the code stays easy to navigate."""

from __future__ import annotations

import ast
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = ("actors", "agent", "benchmarks", "deploy", "learner", "oatmill", "protocol", "recipes", "replay", "runner")
ROOT = Path(__file__).parents[2]
FILES_PER_FOLDER = 17
"""Besides `__init__.py` and `__main__.py`."""
ONE_FILE_EACH = {ROOT / "deploy" / "cli", ROOT / "recipes"}
"""One file per command and per recipe."""
LARGEST_BYTES = 500_000
PACKAGED = (".whl", ".gz", ".zip", ".pt", ".safetensors")
LINES = {"file": 399, "class": 249, "function": 55}


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def pieces(path: Path) -> Iterator[tuple[str, str, int]]:
    """The kind, name and number of lines of a file and of each class and function in it."""
    source = path.read_text()
    yield "file", str(path.relative_to(ROOT)), len(source.splitlines())
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            assert node.end_lineno is not None
            yield kind, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node.end_lineno - node.lineno + 1


def test_no_file_class_or_function_is_too_long() -> None:
    found = [piece for path in modules() for piece in pieces(path)]
    assert len(found) > len(modules()), "classes and functions are counted, too"
    assert [piece for piece in found if piece[2] > LINES[piece[0]]] == []


def test_no_folder_has_too_many_files() -> None:
    counted = [path for path in modules() if not path.name.startswith("__") and ROOT / "benchmarks" not in path.parents]
    counts = Counter(path.parent for path in counted)
    assert max(counts.values()) > FILES_PER_FOLDER
    assert {folder for folder, count in counts.items() if count > FILES_PER_FOLDER} <= ONE_FILE_EACH


def test_no_tracked_file_is_large_or_a_package() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    found = [path for path in paths if path.exists() and (path.stat().st_size > LARGEST_BYTES or path.suffix in PACKAGED)]
    assert len(paths) > len(modules())
    assert found == []
