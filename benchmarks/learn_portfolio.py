"""Learns from recorded curves which configurations to try first.

    python benchmarks/learn_portfolio.py            # prints the entries
    python benchmarks/learn_portfolio.py --write    # and puts them in place of those learned before

The file is `search_spaces/evidence/portfolio.yaml`; its entries from publications stand first and
stay as they are. What a portfolio gains on a task that it was not learned from is measured by
`search.py`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from search import regrets_of

from orchestrator.plan.portfolio import PORTFOLIO_FILE, learn
from orchestrator.plan.space import load_space
from orchestrator.record.curves import read_curves

FILE = Path(__file__).resolve().parent.parent / "search_spaces" / PORTFOLIO_FILE
LEARNED = "learned by benchmarks/learn_portfolio.py"
BEHIND = "# Learned; all below is written anew by the script."
BACKBONES = ["deit_tiny*", "vit_tiny*"]
"""For which rates and decays hold that were recorded on DeiT-Tiny."""


def entries(file: Path | None, size: int) -> list[dict[str, Any]]:
    curves = read_curves(file)
    found = []
    for name in curves.spaces:
        regrets = regrets_of(curves, name)
        if len(regrets) < 2:
            continue
        known = {dimension.name for dimension in load_space(name).dimensions}
        configs = [json.loads(config) for config, _ in learn(regrets, size)]
        found.append(
            {
                "space": name,
                "backbones": list(BACKBONES),
                "source": f"{LEARNED} on {len(regrets)} tasks",
                "configs": [{k: short(v) for k, v in one.items() if k in known} for one in configs],
            }
        )
    return found


def short(value: Any) -> Any:
    """A number to three digits: finer than that no rate or decay matters."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", type=Path, help="curves, as record_curves.py writes them")
    parser.add_argument("--size", type=int, default=10, help="configurations of a space at most")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    learned = entries(options.file, options.size)
    written = yaml.safe_dump(learned, sort_keys=False, default_flow_style=None, width=200)
    print(written)
    if options.write:
        published, _, _ = FILE.read_text().partition(BEHIND)
        FILE.write_text(f"{published}{BEHIND}\n{written}")


if __name__ == "__main__":
    main()
