"""What a figure of a report is."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing with its caption; without a drawing the caption gives the reason."""

    title: str
    svg: str | None
    caption: str
