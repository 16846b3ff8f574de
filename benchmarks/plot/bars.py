"""Bars to the right, one below the other: what several contestants reached."""

from collections.abc import Sequence
from dataclasses import dataclass

from .svg import MARGIN, RED, TITLE_HEIGHT, WIDTH, Chart, box, colour, line, short, text, title

LEFT = 440
RIGHT = 110
ROW = 24
GAP = 4


@dataclass(frozen=True)
class Bar:
    """The median; a thin line from the least to the greatest; red strokes at what is to be reached."""

    label: str
    middle: float
    least: float
    greatest: float
    kind: int = 0  # bars of one kind have one colour
    wanted: tuple[float, ...] = ()


def bars(words: str, some: Sequence[Bar], unit: str = "") -> Chart:
    most = max([max(bar.greatest, *bar.wanted, 0) for bar in some], default=0) or 1
    scale = (WIDTH - LEFT - RIGHT) / most
    parts = [title(words)]
    for row, bar in enumerate(some):
        top = TITLE_HEIGHT + ROW * row
        y = top + ROW / 2
        parts += [
            text(LEFT - 8, y, bar.label, anchor="end"),
            box(LEFT, top + GAP, bar.middle * scale, ROW - 2 * GAP, colour(bar.kind)),
            line([(LEFT + bar.least * scale, y), (LEFT + bar.greatest * scale, y)]),
        ]
        for value in bar.wanted:
            x = LEFT + value * scale
            parts.append(line([(x, top + 1), (x, top + ROW - 1)], RED, 2, tip=f"wanted: {value:g}{unit}"))
        end = max(bar.greatest, *bar.wanted, 0) * scale
        parts.append(text(LEFT + end + 6, y, f"{short(bar.middle)}{unit}"))
    return Chart(TITLE_HEIGHT + ROW * len(some) + MARGIN, parts)
