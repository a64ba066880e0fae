"""Names of classes that a reader cannot see, or cannot tell apart: one by mistake, or two."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from orchestrator.data.reading import Problems, brief


def say_unprintable(names: Sequence[str], found: Problems, file: Path) -> None:
    """An error for names that no table and no page could show."""
    for name in names:
        if not name.isprintable():
            message = f"class {brief(name)} has a name that cannot be printed; rename it"
            found.add("train", file, 0, message)


def say_alike(names: Sequence[str], found: Problems, file: Path) -> None:
    """An error for names that look the same, a warning for those that differ in capitals only."""
    by_sight: dict[str, list[str]] = {}
    for name in names:
        by_sight.setdefault(_visible(name), []).append(name)
    for group in by_sight.values():
        if len(group) > 1:
            message = (
                f"the classes {' and '.join(map(ascii, group))} differ only in blanks or in "
                "how an accent is stored: put them together, or give them other names"
            )
            found.add("train", file, 0, message)
    by_letters: dict[str, list[str]] = {}
    for name in by_sight:
        by_letters.setdefault(name.casefold(), []).append(name)
    for group in by_letters.values():
        if len(group) > 1:
            message = (
                f"the classes {' and '.join(map(ascii, group))} differ only in small and "
                "capital letters: put them together if they are one class"
            )
            found.add("train", file, 0, message, "warning")


def folded(name: str) -> str:
    """The same for names that are written in two ways."""
    return _visible(name).casefold()


def _visible(name: str) -> str:
    """What is seen of a name."""
    return " ".join(unicodedata.normalize("NFC", name).split())
