"""Values of hyper-parameters as people read them; exact ones are in the files."""

from collections.abc import Mapping
from typing import Any

NOTHING = "–"
"""Where there is no value."""


def value_text(value: Any) -> str:
    """A hyper-parameter: `0.0123`, `adamw`, `yes`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    return NOTHING if value is None else str(value)


def number_text(number: float) -> str:
    """Three digits, or as many as it has before the point: `0.022`, `3.33`, `1,229`."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def config_text(config: Mapping[str, Any]) -> str:
    """`num_tokens 50, lr 2.5`."""
    return ", ".join(f"{name} {value_text(value)}" for name, value in config.items())


def with_origin(config: str, origin: str | None) -> str:
    """`num_tokens 50, lr 2.5 (from photos.vpt #3 of sweep old, val 91.5 %)`."""
    return f"{config} (from {origin})" if origin and config else config
