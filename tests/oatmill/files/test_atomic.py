"""Files and links are replaced atomically, and an error leaves the old ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from oatmill.files.atomic import replace_link, replacing, write_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_keeps_its_old_content_until_the_new_content_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_text("old")
    with replacing(path) as working:
        working.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["film.mp4"]


def test_an_error_while_writing_leaves_only_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as working:
            working.write_text("half")
            raise RuntimeError("the encoder failed")

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["film.mp4"]


def test_a_failed_replacement_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_file(tmp_path / "config.yaml", "new")
    assert names(tmp_path) == ["config.yaml"]


def test_a_link_is_replaced_and_never_missing(tmp_path: Path) -> None:
    for target in ("step-1", "step-2"):
        replace_link(tmp_path / "latest", target)
        assert str((tmp_path / "latest").readlink()) == target
    assert names(tmp_path) == ["latest"]
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_link(tmp_path / "taken", "step-1")
    assert names(tmp_path) == ["latest", "taken"]
