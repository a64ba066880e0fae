"""What to say when a name is unknown."""

import difflib
from collections.abc import Iterable

_MOST_VARIANTS = 4

_MOST_CHARACTERS = 100
_MOST_NAMES = 40


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """`unknown task 'cifr'; did you mean 'cifar'? Known: ...` (the list only when it is short)."""
    names = sorted(known)
    if meant := did_you_mean(kind, name, names):
        return meant
    more = len(names) - _MOST_NAMES
    listed = ", ".join(names[:_MOST_NAMES]) or "none"
    more_told = f" and {more} more" if more > 0 else ""
    return f"unknown {kind} {_short(name)!r}; known: {listed}{more_told}"


def did_you_mean(kind: str, name: str, known: Iterable[str]) -> str | None:
    """`unknown task 'cifr'; did you mean 'cifar'?`; None where nothing is like it."""
    close = _close(_short(name), sorted(known))
    if not close:
        return None
    *others, last = map(repr, close)
    meant = f"{', '.join(others)}{' or ' if others else ''}{last}"
    return f"unknown {kind} {_short(name)!r}; did you mean {meant}?"


def _short(name: str) -> str:
    return name if len(name) <= _MOST_CHARACTERS else f"{name[:_MOST_CHARACTERS]}..."


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of the known names that was probably meant."""
    return next(iter(_close(name, sorted(known))), None)


def _close(name: str, names: list[str]) -> list[str]:
    """The variants of what was named (vpt: vpt_deep, vpt_shallow), else what is spelt alike."""
    by_spelling = {_plain(one): one for one in names}
    plain = _plain(name)
    if plain in by_spelling:
        return [by_spelling[plain]]
    if variants := [one for one in names if plain and _plain(one).startswith(f"{plain}_")]:
        return variants[:_MOST_VARIANTS]
    if variants := [one for one in names if plain and _plain(one).endswith(f"_{plain}")]:
        return variants[:_MOST_VARIANTS]  # halving: successive_halving
    return [by_spelling[one] for one in difflib.get_close_matches(plain, by_spelling, n=1)]


def _plain(name: str) -> str:
    """Without what people write differently: `VPT-Deep` is vpt_deep."""
    return name.strip().lower().replace("-", "_").replace(" ", "_")
