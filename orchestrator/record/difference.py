"""What is stored and does not follow from what stood in the storage then."""

from dataclasses import dataclass
from typing import Any


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
