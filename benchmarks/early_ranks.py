"""How much the first epochs of a trial tell of its last one, and how much other tasks do.

    python benchmarks/early_ranks.py                 # the curves that come with us

Of each study of recorded curves, one search space on one task: Spearman's rank correlation between
the validation accuracy after so many epochs and that after the last, over its configurations; and
beside it the correlation with the mean rank of the same configurations on all other tasks, which is
known before anything is trained. Means over tasks with their standard errors. A pruner trusts the
first number, a portfolio and a warm start the last one.
"""

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from orchestrator.record.curves import Curves, RecordedTrial, read_curves

SHARES = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9)
"""Of the epochs of a trial."""


def on_every_task(curves: Curves, space: str) -> dict[str, list[RecordedTrial]]:
    """By task the trials of the configurations that ended well on all tasks, in one order."""
    by_task: dict[str, dict[str, RecordedTrial]] = {task: {} for task in curves.tasks}
    for trial in curves.trials:
        if trial.space == space and trial.failure is None:
            by_task[trial.task][json.dumps(trial.config, sort_keys=True)] = trial
    common = sorted(set.intersection(*map(set, by_task.values())))
    return {task: [trials[config] for config in common] for task, trials in by_task.items()}


def correlations(curves: Curves, space: str) -> dict[str, list[float]]:
    """By task: one for each share of the epochs, and last that with the other tasks."""
    trials = on_every_task(curves, space)
    final = {t: np.array([one.val_accuracy[-1] for one in of]) for t, of in trials.items()}
    ranks = {task: rankdata(values) for task, values in final.items()}
    found = {}
    for task, of_task in trials.items():
        early = [
            [one.val_accuracy[max(1, round(share * one.epochs)) - 1] for one in of_task]
            for share in SHARES
        ]
        elsewhere = np.mean([ranks[other] for other in ranks if other != task], axis=0)
        found[task] = [
            float(np.corrcoef(rankdata(known), ranks[task])[0, 1]) for known in (*early, elsewhere)
        ]
    return found


def told(values: Sequence[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.2f} ± {error:.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", type=Path, help="curves, as record_curves.py writes them")
    curves = read_curves(parser.parse_args(arguments).file)
    heads = [f"{100 * share:.0f} % of epochs" for share in SHARES]
    print(f"| space | configurations | {' | '.join(heads)} | other tasks, before any epoch |")
    print("|---" * (len(heads) + 3) + "|")
    for space in curves.spaces:
        by_task = list(correlations(curves, space).values())
        number = len(next(iter(on_every_task(curves, space).values())))
        columns = " | ".join(told(column) for column in zip(*by_task, strict=True))
        print(f"| {space} | {number} | {columns} |")


if __name__ == "__main__":
    main()
