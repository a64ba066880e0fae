"""The one way of the commands to a terminal: what stands in a text is shown, never obeyed.

Names of files, classes and tasks come from anywhere. `[red]` in one of them is not a colour, and
an escape is not an order to the terminal.
"""

import contextlib
import logging
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from orchestrator.support.foreign_text import indented, visible

WIDEST = 10_000
"""Characters of a table in a file."""


class Terminal(Console):
    """Rich's console without its markup, and with every text made visible."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def print(self, *objects: Any, **how: Any) -> None:
        """Prints as Rich does; a text of several lines has its later ones indented.

        Above the line that says what is being waited for, where there is one.
        """
        shown = (_as_text(one) if isinstance(one, str) else one for one in objects)
        if _below and self.is_terminal:
            super(Terminal, _below[-1]).print(*shown, **how)
        else:
            super().print(*shown, **how)

    def say(self, line: str) -> None:
        """A line of a command, broken by the terminal alone, so that it can be copied whole."""
        self.print(line, soft_wrap=True)

    def whole_width(self, table: Table) -> int:
        """Characters of the widest line of a table of which nothing is cut."""
        return self.measure(table, options=self.options.update(max_width=WIDEST)).maximum

    def print_table(self, table: Table) -> None:
        """Whole, where it does not go to a terminal: a file has no width to cut numbers for."""
        before = self._width
        if not self.is_terminal:
            # `print` takes no width beyond that of the console.
            self.width = max(self.width, self.whole_width(table))
        try:
            self.print(table)
        finally:
            self._width = before

    def render_str(self, text: str, **how: Any) -> Text:
        """What stands in a table, as a rule a name: on one line."""
        return super().render_str(visible(text), **how)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(visible(segment.text, lines=True), segment.style)


_below: list[Terminal] = []
"""Consoles that keep a line at the bottom of the terminal, which others must print above."""


@contextlib.contextmanager
def line_at_the_bottom(console: Terminal) -> Iterator[None]:
    """While it is entered, `console` renews a line, and all that is printed goes above it."""
    _below.append(console)
    try:
        yield
    finally:
        _below.remove(console)


def _as_text(line: str) -> Text:
    return Text(visible(indented(line), lines=True))


class VisibleFormatter(logging.Formatter):
    """A log that goes to a terminal too."""

    def format(self, record: logging.LogRecord) -> str:
        return indented(visible(super().format(record), lines=True))


class LogHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Of warnings; to stderr as it is now, which may be that of a terminal with a line below."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)
