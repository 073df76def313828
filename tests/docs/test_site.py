"""The documentation site builds without warnings, its links resolve, and what it says about the tree is true."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.results import PAGE, SOURCE, page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"\]\((?P<target>[^)\s#]*)(?:#(?P<anchor>[^)\s]*))?\)")
FENCE = re.compile(r"```.*?```", re.DOTALL)
ARCHITECTURE = DOCS / "concepts/architecture.md"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "<math" in (tmp_path / "site/concepts/losses/index.html").read_text()
    assert "settings: changes to" not in (tmp_path / "site/reference/python/index.html").read_text()  # Args: become a table


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_resolves(path: Path) -> None:
    for link in LINK.finditer(FENCE.sub("", path.read_text())):
        target, anchor = link["target"], link["anchor"]
        if re.match(r"[a-z]+:", target):
            continue
        found = path if not target else path.parent / target
        assert found.exists(), f"{path.relative_to(ROOT)}: {target}"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), f"{path.relative_to(ROOT)}: {target}#{anchor}"


def test_every_decision_is_listed() -> None:
    listed = set(re.findall(r"\]\((\d{3}-[\w-]+\.md)\)", (DOCS / "decisions/index.md").read_text()))
    assert listed == {path.name for path in (DOCS / "decisions").glob("0*.md")}


def test_the_results_page_is_the_one_that_the_json_makes() -> None:
    assert PAGE.read_text() == page(json.loads(SOURCE.read_text())), "run `python -m benchmarks.results`"


def named_paths(text: str) -> Iterator[Path]:
    """Every file that the page names; a bare file name lies in the folder that was named last."""
    folder = ROOT
    for name in re.findall(r"`([\w/.]+)`", text):
        if "/" in name and not name.startswith("/") and (ROOT / name.split("/")[0]).is_dir():
            path = ROOT / name
            folder = path.parent if path.suffix else path
            yield path
        elif name.endswith(".py"):
            yield folder / name


def test_every_file_on_the_architecture_page_exists() -> None:
    paths = list(named_paths(ARCHITECTURE.read_text()))
    assert len(paths) >= 30
    assert [str(path.relative_to(ROOT)) for path in paths if not path.exists()] == []


def test_every_name_on_the_architecture_page_is_in_the_file_beside_it() -> None:
    text = ARCHITECTURE.read_text()
    pairs = re.findall(r"`(\w+)` \(`([\w/]+\.py)`\)", text)
    assert len(pairs) >= 5
    for name, path in pairs:
        assert re.search(rf"\b(class|def) {name}\b", (ROOT / path).read_text()), f"{name} is not in {path}"


def test_the_architecture_page_has_every_package_in_the_order_of_the_layers() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", ARCHITECTURE.read_text(), re.MULTILINE)
    layers = re.search(r'^layers = \["deploy".*$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert layers
    assert [re.findall(r"\w+", row) for row in rows] == [names.split(" | ") for names in re.findall(r'"([^"]+)"', layers[0])]
