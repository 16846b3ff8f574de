"""Lines over steps that are drawn at equal distances, as a growing number of queues, or percentiles."""

import math
from collections.abc import Iterable, Mapping, Sequence

from .svg import GREY, TITLE_HEIGHT, WIDTH, Chart, colour, dot, line, short, text, title

LEFT, RIGHT = 80, 250
TOP, BOTTOM = TITLE_HEIGHT + 10, 330
HEIGHT = 380
TICKS = 5


def lines(
    words: str, across: str, up: str, steps: Sequence[str], series: Mapping[str, Mapping[str, float]]
) -> Chart:
    """`series`: by the label of the line, its values by step; a step may be missing. The axis up is
    logarithmic if the values differ by more than a hundred times."""
    values = [value for line_ in series.values() for value in line_.values() if value > 0]
    scale = _Scale(values or [1.0])
    width = (WIDTH - LEFT - RIGHT) / max(1, len(steps) - 1)
    xs = {step: LEFT + width * number for number, step in enumerate(steps)}
    parts = [title(words), text(LEFT, TOP - 14, up), text(WIDTH - RIGHT, BOTTOM + 36, across, anchor="end")]
    for value in scale.ticks():
        y = scale.place(value)
        parts += [line([(LEFT, y), (WIDTH - RIGHT, y)], GREY), text(LEFT - 6, y, short(value), anchor="end")]
    parts += [text(x, BOTTOM + 16, step, anchor="middle") for step, x in xs.items()]
    for number, (label, line_) in enumerate(series.items()):
        points = {step: (xs[step], scale.place(value)) for step, value in line_.items() if value > 0}
        parts.append(line(list(points.values()), colour(number), 2))
        parts += [
            dot(*at, colour(number), f"{label}, {step}: {short(line_[step])}") for step, at in points.items()
        ]
        y = TOP + 18 * number
        parts += [
            line([(WIDTH - RIGHT + 14, y), (WIDTH - RIGHT + 34, y)], colour(number), 2),
            text(WIDTH - RIGHT + 40, y, label),
        ]
    return Chart(HEIGHT, parts)


class _Scale:
    """The axis up."""

    def __init__(self, values: Sequence[float]) -> None:
        self._is_log = max(values) > 100 * min(values)
        if self._is_log:
            self._low, self._high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        else:
            step = 10 ** math.floor(math.log10(max(values)))
            self._low, self._high = 0, math.ceil(max(values) / step) * step

    def place(self, value: float) -> float:
        raised = math.log10(value) if self._is_log else value
        return BOTTOM - (BOTTOM - TOP) * (raised - self._low) / (self._high - self._low)

    def ticks(self) -> Iterable[float]:
        if self._is_log:
            return (10.0**power for power in range(int(self._low), int(self._high) + 1))
        return (self._high * number / TICKS for number in range(TICKS + 1))
