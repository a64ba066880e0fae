"""A small chart in SVG: scales, axes, lines and marks, written tersely.

A page has up to a thousand figures. As matplotlib writes them they come to some 30 MB; here a
coordinate takes four characters, a line has no more corners than are seen, what looks alike has its
class of the page's style sheet once, and whatever stands in a figure can be pointed at (its name
appears) and is escaped.
"""

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Protocol

from orchestrator.support.foreign_text import visible

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 8, 36
UNSEEN = 0.5
"""So many pixels beside a line are not told from on it."""
MANY_CORNERS = 20
"""A line with more of them is drawn to whole pixels: it is rough, and a page has thousands."""

Point = tuple[float, float]
_Part = tuple[str, str]
"""Attributes that neighbours may share, and an element that has them."""

SHAPES = {
    "circle": ((-4, 0), "a4 4 0 1 0 8 0a4 4 0 1 0-8 0z"),
    "square": ((-3.5, -3.5), "h7v7h-7z"),
    "diamond": ((0, -4.8), "l4.8 4.8-4.8 4.8-4.8-4.8z"),
    "triangle": ((0, -4.5), "l4.6 8h-9.2z"),
    "plus": ((-1.5, -4.5), "h3v3h3v3h-3v3h-3v-3h-3v-3h3z"),
    "down": ((0, 4.5), "l4.6-8h-9.2z"),
    "bow": ((-4, -4), "l8 8v-8l-8 8z"),
    "cross": ((-3, -3), "l6 6m-6 0l6-6"),
}
"""Marks that are told apart without their colours: where their pen begins, and how it goes on."""

OWN_SHAPE = {"best": "diamond", "failed": "cross", "running": "square"}
"""Kinds of dots that are no circles."""


class Scale(Protocol):
    """From values to pixels."""

    def __call__(self, value: float) -> float: ...

    def ticks(self) -> Sequence[tuple[float, str]]:
        """Values worth a mark, with their names."""
        ...


@dataclass(frozen=True)
class LinearScale:
    """Equal steps, equal distances."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)

    def ticks(self) -> Sequence[tuple[float, str]]:
        span = self.high - self.low
        if span <= 0:
            return [(self.low, f"{self.low:g}")]
        step = 10 ** math.floor(math.log10(span / 3))
        step *= max(m for m in (1, 2, 5) if m * step * 2.9 <= span)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(i * step, f"{i * step:.6g}") for i in range(first, last + 1)]


@dataclass(frozen=True)
class LogScale:
    """Equal factors, equal distances; values are positive."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = math.log(self.high / self.low) or 1.0
        return self.start + math.log(value / self.low) / span * (self.end - self.start)

    def ticks(self) -> Sequence[tuple[float, str]]:
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high))
        powers = [10.0**power for power in range(first, last + 1)]
        if len(powers) < 2:
            return [(value, f"{value:.2g}") for value in (self.low, self.high)]
        if len(powers) == 2:
            steps = [m * 10.0**p for p in range(first - 1, last + 1) for m in (1, 2, 5)]
            return [(step, f"{step:g}") for step in steps if self.low <= step <= self.high]
        return [(value, f"{value:g}") for value in powers[:: math.ceil(len(powers) / 6)]]


@dataclass(frozen=True)
class StepScale:
    """Names side by side; the value of a name is its index."""

    names: Sequence[str]
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value + 0.5) / len(self.names) * (self.end - self.start)

    def ticks(self) -> Sequence[tuple[float, str]]:
        return list(enumerate(self.names))


@dataclass(frozen=True)
class PercentScale:
    """Places shares on a scale that is marked in percent."""

    scale: LinearScale

    def __call__(self, value: float) -> float:
        return self.scale(100 * value)

    def ticks(self) -> Sequence[tuple[float, str]]:
        return [(value / 100, name) for value, name in self.scale.ticks()]


def score_scale(scores: Sequence[float], start: float, end: float) -> PercentScale:
    """Of the scores that there are, with a little room on both sides."""
    low, high = min(scores), max(scores)
    room = max(0.005, 0.04 * (high - low))
    return PercentScale(
        LinearScale(100 * max(0.0, low - room), 100 * min(1.0, high + room), start, end)
    )


def clipped(text: str, length: int) -> str:
    """Without its end where it is too long for its place."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def across(width: float = WIDTH) -> tuple[float, float]:
    """First and last pixel of a horizontal axis."""
    return LEFT, width - RIGHT


def upward(height: float = HEIGHT) -> tuple[float, float]:
    """First and last pixel of a vertical axis."""
    return height - BOTTOM, TOP


@dataclass
class Chart:
    """Two axes and what is drawn between them. Later things lie on top."""

    x: Scale
    y: Scale
    x_name: str
    y_name: str
    width: float = WIDTH
    height: float = HEIGHT
    _parts: list[_Part] = field(default_factory=list)

    def line(self, points: Iterable[Point], kind: str, name: str = "") -> None:
        """A polyline of one class of the style sheet, without the corners that nobody sees."""
        corners = thinned(self._pixels(points))
        if len(corners) > MANY_CORNERS:
            corners = [(round(x), round(y)) for x, y in corners]
        self._path(corners, kind, name)

    def steps(self, points: Sequence[Point], kind: str, name: str = "") -> None:
        """A line that keeps each value until the next point."""
        corners = [points[0]] if points else []
        for (_, before), (x, y) in pairwise(points):
            corners += [(x, before), (x, y)]
        self._path(self._pixels(corners), kind, name)

    def dot(self, x: float, y: float, kind: str, name: str = "", shift: float = 0.0) -> None:
        """A mark of a kind of trial; `shift` moves it by pixels to the right."""
        if shape := OWN_SHAPE.get(kind.split()[0]):
            return self.mark(self.x(x) + shift, self.y(y), shape, f"mark {kind}", name)
        at = f'cx="{_short(self.x(x) + shift)}" cy="{_short(self.y(y))}"'
        self._add(kind, "circle", at, name)

    def mark(self, x: float, y: float, shape: str, kind: str, name: str = "") -> None:
        """One of SHAPES at a place in pixels."""
        (dx, dy), pen = SHAPES[shape]
        self._add(kind, "path", f'd="M{_short(x + dx)} {_short(y + dy)}{pen}"', name)

    def rule(self, start: Point, end: Point) -> None:
        """A line of the grid, in pixels."""
        self._path([start, end], "grid", "")

    def bar(self, low: Point, high: Point, kind: str, name: str = "") -> None:
        """A rectangle between two corners."""
        (left, bottom), (right, top) = self._pixels([low, high])
        self.bar_at(left, top, right - left, bottom - top, kind, name)

    def bars(self, corners: Iterable[tuple[Point, Point]], kind: str) -> None:
        """Rectangles that nothing is to be told of."""
        pen = []
        for low, high in corners:
            (left, bottom), (right, top) = self._pixels([low, high])
            width, height = _short(right - left), _short(bottom - top)
            pen.append(f"M{_short(left)} {_short(bottom)}v-{height}h{width}v{height}z")
        if pen:
            self._add(kind, "path", f'd="{"".join(pen)}"')

    def bar_at(
        self, left: float, top: float, width: float, height: float, kind: str, name: str = ""
    ) -> None:
        """A rectangle in pixels."""
        size = f'width="{_short(width)}" height="{_short(height)}"'
        self._add(kind, "rect", f'x="{_short(left)}" y="{_short(top)}" {size}', name)

    def label(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """Words at a place in pixels."""
        self._parts.append(_text(x, y, text, kind, anchor))

    def turned_label(self, x: float, y: float, text: str, kind: str) -> None:
        """Words that go upward from a place in pixels."""
        place = f"translate({_short(x)} {_short(y)}) rotate(-60)"
        turned = f'<text transform="{place}">{_escaped(text)}</text>'
        self._parts.append((_class(kind), turned))

    def draw(self, alternative: str, *, axes: bool = True) -> str:
        """The SVG; `alternative` says what it shows to who cannot see it."""
        inner = [*(self._axes() if axes else []), *self._parts]
        return (
            f'<svg viewBox="0 0 {_short(self.width)} {_short(self.height)}" role="img" '
            f'aria-label="{_escaped(alternative)}">{_together(inner)}</svg>'
        )

    def _add(self, kind: str, tag: str, attributes: str, name: str = "") -> None:
        """A mark of a class; its name appears where it is pointed at."""
        inner = f"><title>{_escaped(name)}</title></{tag}>" if name else "/>"
        self._parts.append((_class(kind), f"<{tag} {attributes}{inner}"))

    def _pixels(self, points: Iterable[Point]) -> list[Point]:
        return [(self.x(x), self.y(y)) for x, y in points]

    def _path(self, pixels: Sequence[Point], kind: str, name: str) -> None:
        if not pixels:
            return
        # In tenths of a pixel and relative to the point before, so that no error adds up.
        tenths = [(round(10 * x), round(10 * y)) for x, y in pixels]
        parts = [f"M{tenths[0][0] / 10:g} {tenths[0][1] / 10:g}"]
        for (x0, y0), (x1, y1) in pairwise(tenths):
            dx, dy = x1 - x0, y1 - y0
            if dx or dy:
                parts.append(_move(dx, dy))
        if len(parts) == 1:
            parts.append("h0")
        self._add(kind, "path", f'd="{"".join(parts)}"', name)

    def _axes(self) -> Iterable[_Part]:
        left, right = across(self.width)
        bottom, top = upward(self.height)
        grid = []
        for value, name in self.y.ticks():
            y = self.y(value)
            grid.append(f"M{_short(left)} {_short(y)}H{_short(right)}")
            yield _text(left - 5, y + 3.5, name, "tick", "end")
        ticks = self.x.ticks()
        shown = math.ceil(sum(len(name) + 2 for _, name in ticks) * 6 / (right - left))
        for index, (value, name) in enumerate(ticks):
            x = self.x(value)
            grid.append(f"M{_short(x)} {_short(bottom)}v4")
            if index % max(1, shown) == 0:
                yield _text(x, bottom + 15, name, "tick", "middle")
        yield _class("grid"), f'<path d="{"".join(grid)}"/>'
        yield _text((left + right) / 2, bottom + 31, self.x_name, "axis", "middle")
        turned = f"translate(10 {_short((top + bottom) / 2)}) rotate(-90)"
        y_name = f'<text transform="{turned}">{_escaped(self.y_name)}</text>'
        yield f'{_class("axis")} text-anchor="middle"', y_name


def thinned(points: Sequence[Point], tolerance: float = UNSEEN) -> list[Point]:
    """The points whose straight lines stay so near to all of them (Ramer, Douglas and Peucker)."""
    kept = {0, len(points) - 1}
    parts = [(0, len(points) - 1)]
    while parts:
        first, last = parts.pop()
        between = range(first + 1, last)
        aside = [_distance(points[index], points[first], points[last]) for index in between]
        if aside and max(aside) > tolerance:
            farthest = between[aside.index(max(aside))]
            kept.add(farthest)
            parts += [(first, farthest), (farthest, last)]
    return [point for index, point in enumerate(points) if index in kept]


def _distance(point: Point, start: Point, end: Point) -> float:
    """From a point to the nearest one between two others."""
    (x, y), (x0, y0), dx, dy = point, start, end[0] - start[0], end[1] - start[1]
    length = dx * dx + dy * dy
    along = min(1.0, max(0.0, ((x - x0) * dx + (y - y0) * dy) / length)) if length else 0.0
    return math.hypot(x - x0 - along * dx, y - y0 - along * dy)


def sample_of(kind: str) -> str:
    """A drawing of a dot of this kind, for a key."""
    chart = Chart(LinearScale(0, 1, 0, 12), LinearScale(0, 1, 12, 0), "", "", width=12, height=12)
    chart.dot(0.5, 0.5, kind)
    return chart.draw(kind, axes=False).replace("<svg ", '<svg class="dot" ')


def _move(dx: int, dy: int) -> str:
    if not dy:
        return f"h{dx / 10:g}"
    if not dx:
        return f"v{dy / 10:g}"
    return f"l{dx / 10:g}{'' if dy < 0 else ' '}{dy / 10:g}"


def _short(number: float) -> str:
    return f"{round(number, 1):g}"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> _Part:
    shared = _class(kind) + ("" if anchor == "start" else f' text-anchor="{anchor}"')
    return shared, f'<text x="{_short(x)}" y="{_short(y)}">{_escaped(text)}</text>'


def _together(parts: Iterable[_Part]) -> str:
    """In their order, with the attributes of neighbours that are alike written once."""
    groups = groupby(parts, key=lambda part: part[0])
    return "".join(f"<g{shared}>{''.join(e for _, e in each)}</g>" for shared, each in groups)


def _escaped(text: str) -> str:
    return html.escape(visible(text))
