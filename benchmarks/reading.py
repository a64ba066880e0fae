"""What it costs to read a large sweep from its storage, beside Optuna's own way to read it.

    python benchmarks/reading.py --trials 5700

Trials that have ended are written into a SQLite file, over the 95 studies of `control.py`. Then all
of them are read by turns through our storage, as `status`, `report` and `resume` do, and through
Optuna's, each time with nothing in memory. Both must read the same.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from control import Case, fill, made_plan
from step import machine

from orchestrator.record.database import open_storage

WAYS: dict[str, Callable[[str], Any]] = {"ours": open_storage, "optuna": optuna.storages.RDBStorage}


@dataclass(frozen=True, kw_only=True)
class Row:
    """Seconds of CPU time to read everything."""

    way: str
    trials: int
    reports: int
    median: float
    fastest: float
    slowest: float


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    options = _parse(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    case = Case(
        system="ours",
        trials=0,
        before=options.trials,
        slots=1,
        epochs=options.epochs,
        seconds=0,
        storage=None,
        tracking=None,
    )
    with tempfile.TemporaryDirectory() as folder:
        fill(made_plan(case), case, Path(folder))
        url = f"sqlite:///{folder}/studies.db"
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            found = {}
            for way, opened in WAYS.items():
                began = time.process_time()
                found[way] = _all_trials(opened(url))
                seconds[way].append(time.process_time() - began)
            assert found["ours"] == found["optuna"], "both read the same"
    trials = found["ours"]
    rows = [
        Row(
            way=way,
            trials=len(trials),
            reports=sum(len(trial.intermediate_values) for trial in trials),
            median=statistics.median(taken),
            fastest=min(taken),
            slowest=max(taken),
        )
        for way, taken in seconds.items()
    ]
    print(f"\n{machine()}\n")
    print("| way | trials | reports | median CPU s | fastest | slowest | times ours |")
    print("|---" * 7 + "|")
    for row in rows:
        print(
            f"| {row.way} | {row.trials} | {row.reports} | {row.median:.2f} | {row.fastest:.2f}"
            f" | {row.slowest:.2f} | {row.median / rows[0].median:.2f} |"
        )
    if options.json:
        document = {"machine": machine(), "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(document, indent=2))
    return rows


def _all_trials(storage: Any) -> list[optuna.trial.FrozenTrial]:
    return [
        trial
        for study in sorted(storage.get_all_studies(), key=lambda study: study._study_id)
        for trial in storage.get_all_trials(study._study_id)
    ]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=5700)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write everything to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
