"""The plot, as SVG text: one dot for each operation, a bar at the median. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#d55e00", "#0072b2", "#56b4e9", "#009e73", "#9a7d0a", "#cc79a7")
"""Told apart by people who do not see all colours (Okabe and Ito, its yellow darkened)."""

INK = "#444444"
RULE = "#dddddd"

SHORTEST_S, LONGEST_S = 0.02, 25.0
"""Ends of the axis; what is beyond is drawn at its end."""

TICKS_S = (0.05, 0.2, 1, 5, 20)

PANEL_WIDTH, LANE, HEAD, FOOT, GAP, LEFT, TOP = 230, 18, 26, 26, 16, 92, 12
"""Pixels."""

DOT_RADIUS = 2.6
FONT_SIZE = 11


@dataclass(frozen=True, slots=True)
class Panel:
    """One network and one kind of operation: for each client how long each operation took."""

    title: str
    times_s: Mapping[str, Sequence[float]]


def x_of(time_s: float) -> float:
    """Pixels from the panel's left edge, on a logarithmic axis."""
    inside = min(max(time_s, SHORTEST_S), LONGEST_S)
    share = math.log(inside / SHORTEST_S) / math.log(LONGEST_S / SHORTEST_S)
    return round(share * PANEL_WIDTH, 1)


def svg(rows: Sequence[Sequence[Panel]], lanes: Sequence[str]) -> str:
    """All panels, each with a lane for every name, in the order of ``lanes``."""
    height_of_one = HEAD + LANE * len(lanes) + FOOT + GAP
    columns = max((len(row) for row in rows), default=0)
    width = LEFT + columns * (PANEL_WIDTH + GAP)
    height = TOP + len(rows) * height_of_one
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"',
        f'height="{height}" font-family="sans-serif" font-size="{FONT_SIZE}" fill="{INK}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for number, row in enumerate(rows):
        top = TOP + number * height_of_one
        parts += [
            f'<text x="{LEFT - 8}" y="{_lane_y(top, lane) + 4}" text-anchor="end">{escape(name)}'
            "</text>"
            for lane, name in enumerate(lanes)
        ]
        for column, panel in enumerate(row):
            parts += _panel(panel, lanes, LEFT + column * (PANEL_WIDTH + GAP), top)
    return "\n".join([*parts, "</svg>", ""])


def _lane_y(top: float, lane: int) -> float:
    return top + HEAD + LANE * (lane + 0.5)


def _panel(panel: Panel, lanes: Sequence[str], left: float, top: float) -> list[str]:
    bottom = top + HEAD + LANE * len(lanes)
    parts = [f'<text x="{left}" y="{top + 14}" font-weight="bold">{escape(panel.title)}</text>']
    for tick in TICKS_S:
        x = left + x_of(tick)
        parts.append(f'<path d="M{x} {top + HEAD}V{bottom}" stroke="{RULE}"/>')
        parts.append(f'<text x="{x}" y="{bottom + 14}" text-anchor="middle">{tick:g} s</text>')
    for lane, name in enumerate(lanes):
        times = panel.times_s.get(name, ())
        colour, y = COLOURS[lane % len(COLOURS)], _lane_y(top, lane)
        parts += [
            f'<circle cx="{left + x_of(time_s)}" cy="{y}" r="{DOT_RADIUS}" fill="{colour}" '
            'fill-opacity="0.45"/>'
            for time_s in times
        ]
        if times:
            x = left + x_of(statistics.median_low(times))
            parts.append(
                f'<path d="M{x} {y - LANE / 2 + 2}v{LANE - 4}" stroke="{colour}" stroke-width="2"/>'
            )
    return parts
