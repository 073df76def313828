"""Draws flame graphs as plain SVG.

The SVG has no script, so that labels are shown wherever the picture is embedded. Very narrow frames are
left out. The width of a frame is the share of samples that contain it. The functions that it called are
drawn above it. There is one colour each for this project, PyTorch, environments and everything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape

WIDTH, ROW, TOP, LETTER = 1200, 17, 48, 6.3
THINNEST = 0.004
"""Frames with a smaller share of the samples are left out."""
FIRST_OF_A_LABEL = 3
COLOURS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "oatmill": ("#f2b179", ("actors/", "agent/", "deploy/", "learner/", "protocol/", "recipes/", "replay/")),
    "PyTorch": ("#9cc3e6", ("torch/",)),
    "environment": ("#a9d18e", ("gymnasium/", "mettagrid/")),
    "other": ("#d9d9d9", ()),
}
PASSED_THROUGH = ("_wrapped_call_impl", "_call_impl", "_fn", "decorate_context")
"""PyTorch's functions between a module's call and its forward. They take little time and many lines."""
ENTRY = "main ("


@dataclass
class Frame:
    """A function in a call stack.

    Attributes:
        name: the function's name and file.
        samples: the number of samples that contain the frame.
        calls: the frames that it called.
    """

    name: str
    samples: int = 0
    calls: dict[str, Frame] = field(default_factory=dict)


def main_thread(stack: str) -> list[str]:
    """The frames from the program's `main` inwards; empty for other threads."""
    names = stack.split(";")
    at = next((i for i, name in enumerate(names) if name.startswith(ENTRY)), len(names))
    return [name for name in names[at:] if name.partition(" (")[0].rpartition(".")[2] not in PASSED_THROUGH]


def tree_of(stacks: Iterable[str]) -> Frame:
    """Build the tree from lines `outermost;...;innermost samples` (`py-spy record --format raw`)."""
    root = Frame("main thread")
    for line in stacks:
        stack, _, samples = line.rpartition(" ")
        at = root
        for name in main_thread(stack):
            root.samples += int(samples) if at is root else 0
            at = at.calls.setdefault(name, Frame(name))
            at.samples += int(samples)
    return root


def colour_of(name: str) -> str:
    """The colour of a frame, by the file in its name."""
    where = name.partition("(")[2]
    return next((colour for colour, starts in COLOURS.values() if where.startswith(starts)), COLOURS["other"][0])


def drawn(frame: Frame, x: float, depth: int, total: int) -> Iterator[tuple[Frame, float, float, int]]:
    """All frames that are wide enough, each with its left edge, width and depth."""
    width = WIDTH * frame.samples / total
    if width < WIDTH * THINNEST:
        return
    yield frame, x, width, depth
    for call in sorted(frame.calls.values(), key=lambda one: one.name):
        yield from drawn(call, x, depth + 1, total)
        x += WIDTH * call.samples / total


def label(frame: Frame, width: float) -> str:
    """The part of the name that fits."""
    room = int((width - 4) / LETTER)
    return frame.name if len(frame.name) <= room else frame.name[: room - 1] + "…" if room >= FIRST_OF_A_LABEL else ""


def picture(stacks: Iterable[str], title: str) -> str:
    """The SVG of a tree."""
    root = tree_of(stacks)
    frames = list(drawn(root, 0.0, 0, max(root.samples, 1)))
    height = TOP + ROW * (1 + max((depth for *_, depth in frames), default=0)) + 6
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="DejaVu Sans Mono, Menlo, monospace" font-size="10.5">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="6" y="18" font-size="14">{escape(title)}, {root.samples:,} samples</text>',
    ]
    for number, (name, (colour, _)) in enumerate(COLOURS.items()):
        lines.append(f'<rect x="{6 + 130 * number}" y="27" width="12" height="12" fill="{colour}"/>')
        lines.append(f'<text x="{22 + 130 * number}" y="37">{name}</text>')
    for frame, x, width, depth in frames:
        y = height - 6 - ROW * (depth + 1)
        lines.append(
            f"<g><title>{escape(frame.name)}: {frame.samples / root.samples:.1%}</title>"
            f'<rect x="{x:.1f}" y="{y}" width="{max(width - 0.6, 0.4):.1f}" height="{ROW - 1}" fill="{colour_of(frame.name)}"/>'
            f'<text x="{x + 3:.1f}" y="{y + 12}">{escape(label(frame, width))}</text></g>'
        )
    return "\n".join([*lines, "</svg>", ""])
