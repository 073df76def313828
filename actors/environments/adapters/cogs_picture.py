"""Draws cogs versus clips, which MettaGrid does not render. Needs Pillow."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from actors.environments.adapters.cogs import Board, Thing
from protocol.data.trajectory import Array

TILE = 48
BAR = 28
FLOOR, WALL, INK, PAPER = (236, 232, 222), (92, 92, 100), (30, 30, 34), (250, 250, 250)
RESOURCES = {
    "carbon": (60, 60, 60),
    "oxygen": (70, 140, 220),
    "germanium": (130, 90, 190),
    "silicon": (225, 140, 50),
    "heart": (210, 40, 70),
}
STATIONS = {
    "carbon_extractor": ("C", RESOURCES["carbon"]),
    "oxygen_extractor": ("O", RESOURCES["oxygen"]),
    "germanium_extractor": ("G", RESOURCES["germanium"]),
    "silicon_extractor": ("S", RESOURCES["silicon"]),
    "charger": ("+", (200, 170, 30)),
    "assembler": ("A", (30, 130, 90)),
    "chest": ("H", RESOURCES["heart"]),
}
UNKNOWN = ("?", (150, 150, 150))
AGENTS = (
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (214, 39, 40),
    (148, 103, 189),
    (140, 86, 75),
    (227, 119, 194),
    (23, 190, 207),
)


def draw(board: Board) -> Array:
    """Draw one step: stations as letters, agents as numbers with dots for their inventory."""
    rows, columns = board.size
    image = Image.new("RGB", (columns * TILE, rows * TILE + BAR), FLOOR)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, columns * TILE, BAR - 1), fill=PAPER)
    bar = f"step {board.step}   hearts made {board.hearts_created}, in the chest {board.hearts_deposited}"
    pen.text((8, BAR // 2), bar, fill=INK, font=font(14), anchor="lm")
    for thing in board.things:
        draw_thing(pen, thing)
    return np.asarray(image)


def draw_thing(pen: ImageDraw.ImageDraw, thing: Thing) -> None:
    """Draw a wall, a station or an agent."""
    left, top = thing.place[1] * TILE, thing.place[0] * TILE + BAR
    if thing.kind == "wall":
        pen.rectangle((left, top, left + TILE - 1, top + TILE - 1), fill=WALL)
    elif thing.agent is not None:
        pen.ellipse((left + 5, top + 2, left + TILE - 6, top + TILE - 9), fill=AGENTS[thing.agent % len(AGENTS)])
        pen.text((left + TILE // 2, top + TILE // 2 - 4), str(thing.agent), fill=PAPER, font=font(18), anchor="mm")
        draw_inventory(pen, thing, left, top + TILE - 8)
    else:
        letter, colour = STATIONS.get(thing.kind, UNKNOWN)
        pen.rounded_rectangle((left + 3, top + 3, left + TILE - 4, top + TILE - 4), 8, fill=colour)
        pen.text((left + TILE // 2, top + TILE // 2), letter, fill=PAPER, font=font(24), anchor="mm")


def draw_inventory(pen: ImageDraw.ImageDraw, thing: Thing, left: int, top: int) -> None:
    """Draw a dot for each resource that an agent carries."""
    carried = [name for name in RESOURCES if thing.inventory.get(name, 0) > 0]
    for place, name in enumerate(carried):
        pen.rectangle((left + 2 + place * 9, top, left + 8 + place * 9, top + 6), fill=RESOURCES[name])


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's built-in font."""
    return ImageFont.load_default(size)
