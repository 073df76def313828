"""A file or folder with the name of one of oatmill's packages is found and named."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from oatmill.errors import UserError
from oatmill.origin import check_packages
from oatmill.user_code import PACKAGES


def test_all_packages_share_one_folder() -> None:
    check_packages()


@pytest.mark.parametrize("name", [name for name in PACKAGES if name != "protocol"])
def test_another_package_of_the_same_name_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(UserError, match=f"oatmill needs the name `{name}` for its own package, but Python finds ") as refusal:
        check_packages()
    assert str(tmp_path / name) in str(refusal.value)


@pytest.mark.parametrize("name", ["agent", "protocol"])
def test_a_script_beside_a_file_with_a_package_name_gets_its_path(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").touch()
    (tmp_path / "script.py").write_text("import recipes.cartpole")
    root = Path(__file__).resolve().parents[2]
    shown = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert shown.returncode == 1
    expected = (
        f"oatmill needs the name `{name}` for its own package, but Python finds {tmp_path / name}.py first; rename that file, "
        "or set PYTHONSAFEPATH=1"
    )
    assert shown.stderr.splitlines()[-1].partition(": ")[2] == expected


def test_every_package_is_in_the_wheel_the_image_and_the_checks() -> None:
    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())["tool"]
    allowed = {line.removeprefix("!") for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {*PACKAGES} <= allowed
    assert project["hatch"]["build"]["targets"]["wheel"]["packages"] == [*PACKAGES]
    assert project["importlinter"]["root_packages"] == [*PACKAGES]
    assert {*PACKAGES} <= {*project["mypy"]["files"]}
