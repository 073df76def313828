"""A hook of the documentation site: links to files outside of docs/ become the name of the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^)#\s:]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Replace links that leave docs/: the site does not hold those files."""
    folder = Path(page.file.abs_src_path).parent

    def replace(match: re.Match[str]) -> str:
        target = (folder / match["target"]).resolve()
        inside = target.is_relative_to(ROOT / "docs") or not target.is_relative_to(ROOT)
        if inside or not target.exists():
            return match[0]
        name = f"`{target.relative_to(ROOT)}`"
        return name if match["text"].strip("`") == name.strip("`") else f"{match['text']} ({name})"

    return LINK.sub(replace, markdown)
