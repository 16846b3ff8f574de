"""The page that charts are drawn on, and what they are drawn with."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 900
MARGIN = 20
TITLE_HEIGHT = 44
COLOURS = ("#1f6f8b", "#e07a3f", "#6a994e", "#8d5a97", "#444444", "#c9a227")
RED, GREY = "#b00020", "#cccccc"


@dataclass(frozen=True)
class Chart:
    """Drawn from the top left."""

    height: float
    parts: Sequence[str]


def page(charts: Sequence[Chart]) -> str:
    """The document: charts below each other."""
    height = sum(chart.height for chart in charts) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}">',
        '<g font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height:g}" fill="white"/>',
    ]
    top = 0.0
    for chart in charts:
        parts += [f'<g transform="translate(0 {top:g})">', *chart.parts, "</g>"]
        top += chart.height
    return "\n".join([*parts, "</g></svg>", ""])


def title(words: str) -> str:
    return f'<text x="{MARGIN}" y="28" font-size="15" font-weight="bold">{escape(words)}</text>'


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """Around the height y."""
    return f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def line(
    points: Sequence[tuple[float, float]], colour: str = "black", width: float = 1, tip: str = ""
) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    style = f'fill="none" stroke="{colour}" stroke-width="{width:g}"'
    return f'<polyline points="{places}" {style}>{_tip(tip)}</polyline>'


def box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'


def dot(x: float, y: float, colour: str, tip: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}">{_tip(tip)}</circle>'


def colour(number: int) -> str:
    """Of the so-manieth of what is to be told apart."""
    return COLOURS[number % len(COLOURS)]


def short(value: float) -> str:
    """A number in a few characters."""
    if value >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _tip(words: str) -> str:
    return f"<title>{escape(words)}</title>" if words else ""
