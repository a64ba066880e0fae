"""What a loaded bundle says of one image."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A class, and how probable the network takes it for."""

    label: int
    class_name: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The most probable class of one image, and as many more as were asked for."""

    image: str
    label: int
    class_name: str
    probability: float
    top: tuple[Candidate, ...]
    """The most probable classes, the best first: at least that one."""
