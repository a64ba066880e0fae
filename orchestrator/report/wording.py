"""Numbers as people read them."""

import math

from orchestrator.support.durations import duration_text as duration_text
from orchestrator.support.shown_values import NOTHING
from orchestrator.support.uncertainty import digits_of


def percent(share: float | None) -> str:
    """`81.5`."""
    return NOTHING if share is None or math.isnan(share) else f"{100 * share:.1f}"


def signed(share: float, error: float | None = None) -> str:
    """`+4.0 ± 3.6`."""
    digits = 1 if error is None else digits_of(100 * error)
    value = round(100 * share, digits) + 0.0  # no -0.0
    text = f"{value:+.{digits}f}".replace("-", "−") if value else f"{value:.{digits}f}"
    return text if error is None else f"{text} ± {100 * error:.{digits}f}"
