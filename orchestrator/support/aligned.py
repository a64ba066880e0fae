"""Lines for a terminal: texts beside their labels, in one column."""

import textwrap
from collections.abc import Iterable

WIDTH = 80


def aligned(facts: Iterable[tuple[str, Iterable[str]]]) -> list[str]:
    """A label with its texts, each on a line of its own, wrapped; no word is cut."""
    facts = [(label, list(texts)) for label, texts in facts]
    column = max(len(label) for label, _ in facts) + 2
    lines = []
    for label, texts in facts:
        wrapped = [
            line
            for text in texts
            for line in textwrap.wrap(
                text,
                WIDTH - 2 - column,
                subsequent_indent="  ",
                break_long_words=False,
                break_on_hyphens=False,
            )
        ]
        labels = [label, *[""] * (len(wrapped) - 1)]
        lines += [f"  {one:<{column}}{line}" for one, line in zip(labels, wrapped, strict=True)]
    return lines
