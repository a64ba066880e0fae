"""What is stored and does not follow from what stood in the storage then."""

import math
from dataclasses import dataclass
from typing import Any

ROUNDING = 1e-9
"""Numbers that differ by no more of themselves are one: another processor may round otherwise."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A value that is stored and does not follow from what stood in the storage then."""

    study: str
    trial: int
    event: int
    """Its number in the order of the study."""
    what: str
    """A hyper-parameter, or what was decided."""
    stored: Any
    """None: it is not stored."""
    derived: Any
    """None: it was not derived."""


def is_same(stored: Any, derived: Any) -> bool:
    """Whether what is stored follows."""
    if isinstance(stored, float) and isinstance(derived, float):
        both_nan = math.isnan(stored) and math.isnan(derived)
        return both_nan or math.isclose(stored, derived, rel_tol=ROUNDING)
    return stored == derived
