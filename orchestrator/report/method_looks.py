"""How each method is drawn in every figure of a sweep.

It has its colour, its mark and its dashes, so that no reader needs to tell colours apart.
"""

from dataclasses import dataclass

from orchestrator.report.collect import SweepReport
from orchestrator.report.svg import SHAPES, Chart, LinearScale

COLOURS = 7
"""Of the style sheet; the eighth method begins again, with other marks and dashes."""
MARKS = [shape for shape in SHAPES if shape != "cross"]
DASHES = 4


@dataclass(frozen=True, kw_only=True)
class Look:
    """How the lines and marks of a method are drawn."""

    space: str
    index: int

    @property
    def colour(self) -> str:
        return f"s{self.index % COLOURS}"

    @property
    def line(self) -> str:
        return f"run {self.colour} dash{self.index // 2 % DASHES}"

    @property
    def shape(self) -> str:
        # Beside the same colour another shape: the number of colours and that of shapes differ.
        return MARKS[(self.index + self.index // COLOURS) % len(MARKS)]

    @property
    def sample(self) -> str:
        """A drawing for the key."""
        middle = LinearScale(0, 1, 2, 32)
        chart = Chart(middle, LinearScale(0, 1, 6, 6), "", "", width=34, height=12)
        chart.line([(0, 0), (1, 0)], self.line)
        chart.mark(middle(0.5), 6, self.shape, f"mark {self.colour}")
        return chart.draw(self.space, axes=False)


def looks(report: SweepReport) -> list[Look]:
    """Of all methods, in the order of the plan."""
    return [Look(space=space, index=index) for index, space in enumerate(report.spaces)]
