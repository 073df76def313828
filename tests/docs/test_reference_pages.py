"""The reference pages are those that the code writes."""

from __future__ import annotations

import pytest

from deploy.reference_pages import FOLDER, pages


@pytest.mark.parametrize("name", pages())
def test_a_reference_page_is_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text() == pages()[name], "run `python -m deploy.reference_pages`"


def test_the_pages_hold_every_command_and_bound() -> None:
    assert "## oatmill cluster up" in pages()["commands.md"]
    assert "default `0.01`; a finite number of at least 0." in pages()["settings.md"]
