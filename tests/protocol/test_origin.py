"""A folder of the same name as one of the seven packages is found and named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from protocol.errors import UserError
from protocol.origin import check_packages
from protocol.places import PACKAGES


def test_the_seven_packages_share_one_folder() -> None:
    check_packages()


@pytest.mark.parametrize("name", [name for name in PACKAGES if name != "protocol"])
def test_another_package_of_the_same_name_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(UserError, match=f"another package named {name} comes first") as refusal:
        check_packages()
    assert str(tmp_path / name) in str(refusal.value)
