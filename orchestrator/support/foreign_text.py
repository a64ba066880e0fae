"""Text that is not ours, as it may be shown: names of files, classes, tasks; messages about them.

A terminal takes some characters for orders, a spreadsheet, a web page and a formula other ones.
"""

import html
import re
from typing import Any

from orchestrator.support.document import is_hidden


def visible(text: str, *, lines: bool = False) -> str:
    r"""`text` with characters that steer a terminal or the order of reading written out: \x1b.

    With `lines` it may have several, and the later ones are indented: a name with a line break in
    it cannot pass for a line of ours.
    """
    if text.isascii() and text.isprintable():
        return text
    parts = (_written_out(letter, lines=lines) for letter in text)
    return "".join(parts)


def _written_out(letter: str, *, lines: bool) -> str:
    if lines and letter in "\n\t":
        return letter
    if not is_hidden(letter):
        return letter
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")


def indented(text: str) -> str:
    """A message whose later lines cannot pass for lines of ours, whatever name stands in it."""
    first, *rest = text.split("\n")
    return "\n".join([first, *(f"  {line.removeprefix('  ')}" for line in rest)])


def table_cell(value: Any) -> Any:
    """What a spreadsheet shows as it is: it would compute a text that begins like a formula."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.lstrip()[:1] in tuple("=+-@") else text


def markdown(text: str) -> str:
    """On one line, with nothing in it that Markdown or HTML would take for its own."""
    escaped = html.escape(visible(" ".join(text.split())), quote=False)
    return _NUMBERED.sub(r"\1\\\2", _MARKDOWN.sub(r"\\\1", escaped))


# Not & and ;, which html.escape has just written. A dash or number makes a list at the start only,
# and an underscore within a word is no emphasis.
_MARKDOWN = re.compile(r"([\\`*{}\[\]|#~$!]|(?<!\w)_|_(?!\w)|^[-+=])")
_NUMBERED = re.compile(r"^(\d+)([.)])(?=\s)")


def code(text: str) -> str:
    """The text as code of Markdown, whatever backticks stand in it."""
    text = visible(" ".join(text.split()))
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    space = " " if text[:1] == "`" or text[-1:] == "`" else ""
    return f"{fence}{space}{text}{space}{fence}"
