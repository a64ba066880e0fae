"""Learns from recorded curves which configurations to try first.

    python benchmarks/learn_portfolio.py            # prints the entries
    python benchmarks/learn_portfolio.py --write    # and puts them in place of those learned before

The file is `search_spaces/evidence/portfolio.yaml`. Entries whose source is a publication are kept
as they are. What a portfolio gains on a task that it
was not learned from is measured by `search.py`.
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
                "backbones": BACKBONES,
                "source": f"{LEARNED} on {len(regrets)} tasks",
                "configs": [{k: v for k, v in one.items() if k in known} for one in configs],
            }
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", type=Path, help="curves, as record_curves.py writes them")
    parser.add_argument("--size", type=int, default=5, help="configurations of a space at most")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    learned = entries(options.file, options.size)
    print(yaml.safe_dump(learned, sort_keys=False))
    if options.write:
        text = FILE.read_text()
        head = "".join(f"{line}\n" for line in text.splitlines() if line.startswith("#"))
        published = [e for e in yaml.safe_load(text) if not e["source"].startswith(LEARNED)]
        FILE.write_text(head + yaml.safe_dump([*published, *learned], sort_keys=False))


if __name__ == "__main__":
    main()
