"""Charts as SVG text: lines and stacked bars over the rounds. No script, no style of their own, colours by class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from medprov_coordinator.watch.words import clean

WIDTH, HEIGHT = 460, 250
"""Of the drawing, in its own units."""
COLOURS = 8
"""Classes ``s0`` to ``s7``; a further series takes the first again."""
LEGEND = 16
"""Series that are named; the rest is counted."""
_LEFT, _RIGHT, _BOTTOM = 62, 12, 40
_Place = Callable[[int], float]
_Height = Callable[[float], float]


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    Parameters
    ----------
    title : str
    unit : str
        Label of the vertical axis.
    series : mapping of str to mapping of int to float
        For each name a figure by round; a round without one is a gap. Names may be foreign text.
    bars : bool
        Stacked bars from zero instead of lines.
    """

    title: str
    unit: str
    series: Mapping[str, Mapping[int, float]]
    bars: bool = False

    @property
    def rounds(self) -> list[int]:
        """Rounds that have any figure, ascending."""
        return sorted({number for values in self.series.values() for number in values})


def svg(chart: Chart) -> str:
    """The chart as one ``svg`` element; all texts are escaped."""
    rounds = chart.rounds
    title = escape(clean(chart.title, 80))
    top, names = _legend(list(chart.series))
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}"><title>{title}</title>'
    if not rounds:
        return f'{head}<text class="mid" x="{WIDTH // 2}" y="{HEIGHT // 2}">nothing yet</text></svg>'
    low, high = _span(chart, rounds)
    step = _step(high - low)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    bottom, wide = HEIGHT - _BOTTOM, WIDTH - _LEFT - _RIGHT

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    # a column for every round, so that bars at both ends stay inside
    column = wide / (rounds[-1] - rounds[0] + 1)

    def x(number: int) -> float:
        return _LEFT + (number - rounds[0] + 0.5) * column

    parts = [head, names]
    for i in range(round((high - low) / step) + 1):
        value = low + i * step
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 6}" y="{y(value) + 4:.1f}">{_tick(value, step)}</text>')
    every = max(1, math.ceil((rounds[-1] - rounds[0] + 1) / 10))
    parts += [
        f'<text class="mid" x="{x(number):.1f}" y="{bottom + 16}">{number}</text>'
        for number in range(rounds[0], rounds[-1] + 1, every)
    ]
    parts.append(f'<text class="mid" x="{_LEFT + wide / 2:.1f}" y="{HEIGHT - 6}">round</text>')
    middle = (top + bottom) / 2
    unit = escape(clean(chart.unit, 40))
    parts.append(f'<text class="mid" transform="translate(13 {middle:.1f}) rotate(-90)">{unit}</text>')
    parts += _bars(chart, x, y, column) if chart.bars else _lines(chart, rounds, x, y)
    return "".join([*parts, "</svg>"])


def _legend(names: Sequence[str]) -> tuple[int, str]:
    """Where the drawing starts below the legend, and the legend."""
    shown = [clean(name, 22) for name in names[:LEGEND]]
    if len(names) > LEGEND:
        shown.append(f"and {len(names) - LEGEND} more")
    parts, across, down = [], _LEFT, 14
    for i, name in enumerate(shown):
        long = 26 + 7 * len(name)
        if across + long > WIDTH and across > _LEFT:
            across, down = _LEFT, down + 16
        if i < LEGEND:
            parts.append(f'<rect class="f{i % COLOURS}" x="{across}" y="{down - 9}" width="10" height="10"/>')
        parts.append(f'<text x="{across + 14}" y="{down}">{escape(name)}</text>')
        across += long
    return down + 14, "".join(parts)


def _span(chart: Chart, rounds: Sequence[int]) -> tuple[float, float]:
    if chart.bars:
        high = max(sum(values.get(number, 0.0) for values in chart.series.values()) for number in rounds)
        return 0.0, high if high > 1e-300 else 1.0
    figures = [value for values in chart.series.values() for value in values.values()]
    low, high = min(figures), max(figures)
    # closer ones than floating point can put grid lines between are one figure
    if high - low <= max(abs(low), abs(high)) * 1e-9 or high - low < 1e-300:
        half = abs(low) * 0.05 if abs(low) > 1e-290 else 0.5
        return low - half, high + half
    return low, high


def _step(span: float) -> float:
    """A round distance of grid lines, three to six of them."""
    rough = span / 4
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)


def _tick(value: float, step: float) -> str:
    if abs(value) < step / 1e6:
        return "0"
    if abs(value) >= 1e5 or step < 1e-4:
        return f"{value:.3g}"
    digits = max(0, 1 - math.floor(math.log10(step)))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _lines(chart: Chart, rounds: Sequence[int], x: _Place, y: _Height) -> list[str]:
    parts = []
    for i, values in enumerate(chart.series.values()):
        pieces: list[list[str]] = [[]]
        for number in rounds:
            if number in values:
                pieces[-1].append(f"{x(number):.1f},{y(values[number]):.1f}")
            elif pieces[-1]:
                pieces.append([])
        colour = i % COLOURS
        parts += [
            f'<polyline class="line s{colour}" points="{" ".join(piece)}"/>' for piece in pieces if len(piece) > 1
        ]
        if len(rounds) <= 60:
            parts += [
                f'<circle class="f{colour}" cx="{x(number):.1f}" cy="{y(values[number]):.1f}" r="3"/>'
                for number in sorted(values)
            ]
    return parts


def _bars(chart: Chart, x: _Place, y: _Height, column: float) -> list[str]:
    parts = []
    width = min(column * 0.7, 40.0)
    for number in chart.rounds:
        reached = 0.0
        for i, values in enumerate(chart.series.values()):
            if value := values.get(number, 0.0):
                upper = y(reached + value)
                parts.append(
                    f'<rect class="f{i % COLOURS}" x="{x(number) - width / 2:.1f}" y="{upper:.1f}"'
                    f' width="{width:.1f}" height="{y(reached) - upper:.1f}"/>'
                )
                reached += value
    return parts
