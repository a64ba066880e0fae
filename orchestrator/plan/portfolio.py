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
    the smallest (Xu et al. 2010, Hydra; Feurer et al. 2022, Auto-sklearn 2.0). Each comes with that
    mean.
    """
    tried: dict[Config, int] = defaultdict(int)
    for by_config in regrets.values():
        for config in by_config:
            tried[config] += 1
    everywhere = [config for config, count in tried.items() if count == len(regrets)]
    chosen: list[tuple[Config, float]] = []
    least = dict.fromkeys(regrets, float("inf"))
    while everywhere and len(chosen) < size:
        means = {
            config: statistics.mean(
                min(least[task], by_config[config]) for task, by_config in regrets.items()
            )
            for config in everywhere
        }
        best = min(everywhere, key=means.__getitem__)
        if chosen and means[best] >= chosen[-1][1]:
            break  # none adds anything
        chosen.append((best, means[best]))
        everywhere.remove(best)
        least = {task: min(least[task], by_config[best]) for task, by_config in regrets.items()}
    return chosen
