"""Validation accuracy in bf16 against float32: the same configurations and seeds on real tasks.

    python benchmarks/accuracy.py data/vtab-1k --tasks eurosat,cifar --device cuda \\
        --backbone deit_tiny_patch16_224 --weights deit_tiny.safetensors --epochs 100

Configurations are drawn from the shipped space of each method, the same for both precisions, and
each is trained with every seed. The line to read is the mean of the paired differences beside its
standard error, and how far two seeds of one configuration lie apart without any change.
"""

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import optuna
from step import machine
from trial import planned

from orchestrator.plan.request import SweepRequest
from orchestrator.training.config import TrialConfig
from orchestrator.training.context import TrialContext
from orchestrator.training.loop import TrialFailed
from orchestrator.training.numerics import PRECISIONS
from orchestrator.training.trial import run_trial
from orchestrator.training.worker_cache import WorkerCache


@dataclass(frozen=True, kw_only=True)
class Row:
    """One configuration on one task; accuracies in points, one per seed, None where it diverged."""

    task: str
    method: str
    config: dict[str, object]
    fp32: list[float | None]
    bf16: list[float | None]

    @property
    def differences(self) -> list[float]:
        """bf16 less float32, seed by seed."""
        pairs = zip(self.fp32, self.bf16, strict=True)
        return [b - a for a, b in pairs if a is not None and b is not None]


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    options = _parse(arguments)
    request = SweepRequest(
        suite=options.suite,
        tasks=options.tasks,
        methods=options.method,
        epochs=options.epochs,
        backbone=options.backbone,
        weights=options.weights,
        image_size=options.image_size,
        normalization=options.normalization,
        precision="fp32",
        eval_every=options.epochs,
        pruner="none",
    )
    plan, context = planned(request, device=options.device, cpu_threads=options.threads)
    worker_cache = WorkerCache(8 * 2**30)
    print(f"\n{machine()}\n\n| task | method | seeds | fp32 | bf16 | bf16 - fp32 |")
    print("|---|---|---|---|---|---|")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows = []
    for task in [planned_task.name for planned_task in plan.tasks]:
        for space in plan.parsed_spaces.values():
            study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
            for number in range(options.configs):
                drawn = space.draw(study.ask())
                config = plan.trial_config(f"{task}.{space.name}", number, drawn, seed=0)
                found = {
                    precision: [
                        _accuracy(replace(config, seed=seed), context, precision, worker_cache)
                        for seed in range(options.seeds)
                    ]
                    for precision in PRECISIONS
                }
                row = Row(task=task, method=space.name, config=dict(config.config), **found)
                rows.append(row)
                print(_text(row), flush=True)
    _summarise(rows)
    if options.json:
        document = {"machine": machine(), **vars(options), "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(document, indent=2, default=str))
    return rows


def _accuracy(
    config: TrialConfig, context: TrialContext, precision: str, worker_cache: WorkerCache
) -> float | None:
    engine = replace(context.engine, precision=precision)
    try:
        _, rows = run_trial(config, replace(context, engine=engine), worker_cache)
    except TrialFailed:
        return None
    return 100 * rows[-1]["val_accuracy"]


def _summarise(rows: list[Row]) -> None:
    differences = [difference for row in rows for difference in row.differences]
    spreads = [
        statistics.variance(values)
        for row in rows
        for kind in (row.fp32, row.bf16)
        if len(values := [value for value in kind if value is not None]) > 1
    ]
    failed = sum(value is None for row in rows for value in (*row.fp32, *row.bf16))
    if len(differences) < 2 or not spreads:
        print("\ntoo few runs for a mean")
        return
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    print(
        f"\nbf16 - fp32 over {len(differences)} pairs: {statistics.mean(differences):+.2f} points, "
        f"standard error {error:.2f}; standard deviation between two seeds of one configuration "
        f"{math.sqrt(statistics.mean(spreads)):.2f}; {failed} runs diverged"
    )


def _text(row: Row) -> str:
    return (
        f"| {row.task} | {row.method} | {len(row.fp32)} | {_mean(row.fp32)} | {_mean(row.bf16)}"
        f" | {_mean(row.differences)} |"
    )


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return f"{len(values) - len(known)} diverged"
    spread = statistics.stdev(known) if len(known) > 1 else 0.0
    return f"{statistics.mean(known):.1f} ± {spread:.1f}"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", nargs="?", default="quickstart")
    parser.add_argument("--tasks", type=lambda text: text.split(","))
    parser.add_argument("--method", nargs="+", default=["linear", "vpt_deep_adamw", "spt_deep"])
    parser.add_argument("--configs", type=int, default=2, help="drawn per task and method")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--backbone")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--normalization", help="for weights that do not say theirs")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
