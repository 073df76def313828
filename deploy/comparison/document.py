"""The parts of a report, and two formats: Markdown with separate pictures, and one HTML file."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1e21; max-width: 68rem; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; margin-bottom: .3rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; }
p { max-width: 52rem; } img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; border-bottom: 1px solid #e3e5e8; }
td { white-space: nowrap; }
th { color: #5a6068; font-weight: 600; }
th { white-space: normal; vertical-align: bottom; } th:first-child, td:first-child, .text { text-align: left; }
td.text { white-space: normal; } code { background: #f1f2f4; padding: .1em .35em; border-radius: 3px; font-size: .9em; }
pre { background: #f1f2f4; padding: .7rem 1rem; border-radius: 4px; overflow-x: auto; } pre code { padding: 0; }
"""


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    text: str
    level: int = 2

    def markdown(self) -> str:
        """As Markdown."""
        return f"{'#' * self.level} {self.text}"

    def html(self) -> str:
        """As HTML."""
        return f"<h{self.level}>{inline(self.text)}</h{self.level}>"


@dataclass(frozen=True)
class Paragraph:
    """Text with `code` and **weight**."""

    text: str

    def markdown(self) -> str:
        """As Markdown."""
        return self.text

    def html(self) -> str:
        """As HTML."""
        return f"<p>{inline(self.text)}</p>"


@dataclass(frozen=True)
class Command:
    """Something to type."""

    text: str

    def markdown(self) -> str:
        """As Markdown."""
        return f"```sh\n{self.text}\n```"

    def html(self) -> str:
        """As HTML."""
        return f"<pre><code>{html.escape(self.text)}</code></pre>"


@dataclass(frozen=True)
class Table:
    """Rows of text; columns that `words` names are set to the left, all others hold numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[int] = (0,)

    def markdown(self) -> str:
        """As Markdown."""
        rule = ["---" if place in self.words else "---:" for place in range(len(self.columns))]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (self.columns, rule, *self.rows))

    def html(self) -> str:
        """As HTML."""
        head = "".join(self._cell("th", place, text) for place, text in enumerate(self.columns))
        body = "".join(
            f"<tr>{''.join(self._cell('td', place, text) for place, text in enumerate(row))}</tr>\n" for row in self.rows
        )
        return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}</table></div>'

    def _cell(self, tag: str, place: int, text: str) -> str:
        kind = ' class="text"' if place in self.words else ""
        return f"<{tag}{kind}>{inline(text)}</{tag}>"


@dataclass(frozen=True)
class Picture:
    """A PNG below the report's folder."""

    path: Path
    alt: str

    def markdown(self) -> str:
        """As Markdown: a link."""
        return f"![{self.alt}]({self.path.parent.name}/{self.path.name})"

    def html(self) -> str:
        """As HTML: the picture itself."""
        data = base64.b64encode(self.path.read_bytes()).decode()
        return f'<p><img alt="{html.escape(self.alt)}" src="data:image/png;base64,{data}"></p>'


Part = Heading | Paragraph | Command | Table | Picture


def to_markdown(parts: Sequence[Part]) -> str:
    """The whole report."""
    return "\n\n".join(part.markdown() for part in parts) + "\n"


def to_html(parts: Sequence[Part]) -> str:
    """The whole report as one file that needs no other."""
    title = next((part.text for part in parts if isinstance(part, Heading)), "oatmill")
    body = "\n".join(part.html() for part in parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def inline(text: str) -> str:
    """Escaped, with `code` and **weight** as tags."""
    escaped = html.escape(text)
    coded = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    return re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", coded)
