"""What to say when a name is unknown."""

import difflib
from collections.abc import Iterable


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """`unknown task 'cifr'; did you mean 'cifar'? Known: ...` (the list only when it is short)."""
    names = sorted(known)
    message = f"unknown {kind} {name!r}"
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"{message}; did you mean {close[0]!r}?"
    return f"{message}; known: {', '.join(names) or 'none'}"
