"""Counts with their noun, so that nobody reads `1 trials`."""

import re


def counted(number: int, thing: str, things: str = "") -> str:
    """`1 trial`, `60 trials`, `2 studies`, `1,200 images`; `things`: an irregular plural."""
    return f"{number:,} {thing if number == 1 else things or _plural(thing)}"


def _plural(thing: str) -> str:
    if re.search(r"[^aeiou]y$", thing):
        return f"{thing[:-1]}ies"
    # The ch of an epoch is a k.
    return f"{thing}es" if re.search(r"(s|x|(?<!o)ch|sh)$", thing) else f"{thing}s"
