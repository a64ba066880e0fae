"""A terminal as far as our commands use one, to see what a person would see."""

import re

TOKENS = r"(\x1b\[(?:(\d*)A|[?0-9;]*[a-zA-Z]))|(.)"
"""A sequence, of which `up` has a number of rows, or a character."""


class Screen:
    """Rows of characters; lines are wrapped again when its width changes, as terminals do."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.rows: list[str] = [""]
        self.goes_on: list[bool] = [False]
        """Whether the next row belongs to the same line."""
        self.row = self.column = 0

    @property
    def text(self) -> str:
        """With all that was scrolled away."""
        return "\n".join(row.rstrip() for row in self.rows).rstrip()

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        """Nothing waits."""

    def write(self, written: str) -> int:
        for code, up, character in re.findall(TOKENS, written, re.S):
            if up:
                top = max(0, len(self.rows) - self.height)
                self.row = max(top, self.row - int(up))
            elif code == "\x1b[2K":
                self.rows[self.row] = ""
                self.goes_on[self.row] = False
            elif character:
                self._put(character)
        return len(written)

    def narrowed(self, width: int) -> None:
        """The lines of the screen are wrapped again; the cursor stays at its character."""
        lines, line, cursor = [], "", (0, 0)
        for place, (row, goes_on) in enumerate(zip(self.rows, self.goes_on, strict=True)):
            if place == self.row:
                cursor = (len(lines), len(line) + self.column)
            line += row
            if not goes_on:
                lines.append(line)
                line = ""
        self.width, self.rows, self.goes_on = width, [], []
        for place, line in enumerate(lines):
            parts = [line[at : at + width] for at in range(0, max(1, len(line)), width)]
            if place == cursor[0]:
                below = min(cursor[1] // width, len(parts) - 1)
                self.row, self.column = len(self.rows) + below, cursor[1] - below * width
            self.rows += parts
            self.goes_on += [True] * (len(parts) - 1) + [False]

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self._down()
            self.column = 0
        elif character.isprintable():
            if self.column == self.width:
                self.goes_on[self.row] = True
                self._down()
                self.column = 0
            row = self.rows[self.row].ljust(self.column)
            self.rows[self.row] = row[: self.column] + character + row[self.column + 1 :]
            self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append("")
            self.goes_on.append(False)
