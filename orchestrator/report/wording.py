"""Numbers as people read them."""

import math
from collections.abc import Mapping
from typing import Any

from orchestrator.support.durations import duration_text as duration_text
from orchestrator.support.uncertainty import digits_of

NOTHING = "–"
"""Where there is no number."""


def percent(share: float | None) -> str:
    """`81.5`."""
    return NOTHING if share is None or math.isnan(share) else f"{100 * share:.1f}"


def signed(share: float, error: float | None = None) -> str:
    """`+4.0 ± 3.6`."""
    digits = 1 if error is None else digits_of(100 * error)
    value = round(100 * share, digits) + 0.0  # no -0.0
    text = f"{value:+.{digits}f}".replace("-", "−") if value else f"{value:.{digits}f}"
    return text if error is None else f"{text} ± {100 * error:.{digits}f}"


def value_text(value: Any) -> str:
    """A hyper-parameter: `0.0123`, `adamw`, `yes`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    return NOTHING if value is None else str(value)


def config_text(config: Mapping[str, Any]) -> str:
    """`num_tokens 50, lr 2.5`."""
    return ", ".join(f"{name} {value_text(value)}" for name, value in config.items())
