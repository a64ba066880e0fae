"""What did well elsewhere, and a study tries first: `search_spaces/evidence/portfolio.yaml`.

An entry holds for one search space and the backbones that its patterns name, since a learning rate
that suits a small network makes a larger one diverge, and the other way round.
"""

import fnmatch
import statistics
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any, TypeVar

from orchestrator.plan.space import SearchSpace
from orchestrator.plan.start_points import StartPoint
from orchestrator.support.document import Entries, Name, read_as
from orchestrator.support.yaml_io import parse_yaml

PORTFOLIO_FILE = "evidence/portfolio.yaml"

Config = TypeVar("Config", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Of one space, for some backbones."""

    space: Annotated[str, Name()]
    backbones: Annotated[tuple[str, ...], Entries(1)]
    """Patterns of names as the shell has them, `deit_tiny*`."""
    source: str
    """Where the configurations come from, in words."""
    configs: Annotated[tuple[Mapping[str, Any], ...], Entries(1)]
    """In the order in which they are tried; what one does not name is drawn."""

    def holds_for(self, space: SearchSpace, backbone: str) -> bool:
        return space.name == self.space and any(
            fnmatch.fnmatchcase(backbone, pattern) for pattern in self.backbones
        )


def shipped_portfolio() -> tuple[Entry, ...]:
    """Those that come with this package."""
    file = resources.files("search_spaces") / PORTFOLIO_FILE
    documents = parse_yaml(file.read_text(encoding="utf-8"), source=PORTFOLIO_FILE)
    return tuple(
        read_as(Entry, document, source=f"{PORTFOLIO_FILE}: entry {number}")
        for number, document in enumerate(documents, 1)
    )


def portfolio_of(
    space: SearchSpace, backbone: str, entries: Sequence[Entry]
) -> tuple[StartPoint, ...]:
    """What a study of this space starts with, of what can be drawn from it as it is here."""
    found: list[StartPoint] = []
    for entry in entries:
        if not entry.holds_for(space, backbone):
            continue
        for config in entry.configs:
            if space.refused(config) is None and config not in [p.config for p in found]:
                found.append(StartPoint(config=config, origin=f"portfolio: {entry.source}"))
    return tuple(found)


def learn(regrets: Mapping[str, Mapping[Config, float]], size: int) -> list[tuple[Config, float]]:
    """Of configurations that were tried on every task the few that together do best.

    `regrets` has by task and configuration how much worse than the best it is (0: it is the best).
    Greedily, one after the other: that with which the mean over tasks of the least regret so far is
    the smallest (Xu et al. 2010, Hydra; Feurer et al. 2022, Auto-sklearn 2.0). When none adds
    anything, since every task has its best, those follow that do best on all: scores of few images
    and few tasks make a best one by luck. Each comes with the mean of the least regret.
    """
    tried: dict[Config, int] = defaultdict(int)
    for by_config in regrets.values():
        for config in by_config:
            tried[config] += 1
    everywhere = [config for config, count in tried.items() if count == len(regrets)]
    nothing = dict.fromkeys(regrets, float("inf"))
    least = nothing

    def mean_with(config: Config, had: Mapping[str, float]) -> float:
        return statistics.mean(min(had[task], of[config]) for task, of in regrets.items())

    chosen: list[tuple[Config, float]] = []
    while everywhere and len(chosen) < size:
        best = min(everywhere, key=lambda config: mean_with(config, least))
        if chosen and mean_with(best, least) >= chosen[-1][1]:  # none adds anything
            best = min(everywhere, key=lambda config: mean_with(config, nothing))
        chosen.append((best, mean_with(best, least)))
        everywhere.remove(best)
        least = {task: min(least[task], by_config[best]) for task, by_config in regrets.items()}
    return chosen
