"""What a search finds for its compute: samplers, pruners and starts, replayed on recorded curves.

    python benchmarks/search.py                              # the curves that come with us
    python benchmarks/search.py --sweep sweeps/mine          # a sweep of yours with --pruner none
    python benchmarks/search.py --policies "tpe" "tpe, successive_halving" --seeds 20

Queue, sampler, pruner and record are the product's own (`orchestrator/run/simulated.py`); nothing
is trained. A study, one search space on one task, is searched by each policy with each seed. Which
is the best complete trial after so many whole trainings' worth of epochs? Its normalised regret is
0 for the best configuration that was recorded and 1 for the median one.

Behind that, the epochs that all trials of a study train of what they would without pruning, and the
regret when all have ended. The last column is, for each space that is the grid of a paper, the
share of its own compute after which its best value was found, in the median task.

Numbers are means over tasks, each over its spaces and seeds; the standard error is that over tasks,
and of a difference that of the paired differences. A policy that starts with what other tasks
taught has not seen the task that it is judged on; shared winners are of the same search, in which
every task pays for what it finds.
"""

import argparse
import json
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator import Sweep
from orchestrator.api.warm_start import KEPT
from orchestrator.plan.plan import StudyPlan, SweepPlan
from orchestrator.plan.portfolio import learn
from orchestrator.plan.pruners.options import plan_pruner
from orchestrator.plan.space import parse_space
from orchestrator.plan.start_points import StartPoint
from orchestrator.plan.warm_start import OlderStudy, OlderTrial, warm_started
from orchestrator.record.curves import Curves, curves_of, plan_on, read_curves
from orchestrator.run.simulated import simulate

BUDGETS = (2, 5, 10, 20, 30)
"""In whole trainings of a study."""
SAME = 1e-9

NUM_OLDER = 20
"""Trials of a study of an older sweep, drawn by chance from those that were recorded."""

Starts = Callable[[Curves, StudyPlan, SweepPlan, int], Sequence[StartPoint]]
"""From the curves of other tasks, the study that is searched, the sweep it is of, and a seed."""


def at_nothing(
    others: Curves, study: StudyPlan, plan: SweepPlan, seed: int
) -> Sequence[StartPoint]:
    """The sampler proposes from the first trial on."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a study is searched."""

    name: str
    sampler: str
    pruner: str
    options: Mapping[str, Any] = field(default_factory=dict)
    starts: Starts = at_nothing
    share_winners: bool = False


def learned(size: int) -> Starts:
    """The portfolio that the other tasks teach."""

    def starts(
        others: Curves, study: StudyPlan, plan: SweepPlan, seed: int
    ) -> Sequence[StartPoint]:
        return [
            StartPoint(config=json.loads(config), origin="portfolio")
            for config, _ in learn(regrets_of(others, study.space), size)
        ]

    return starts


def of_an_older_sweep(
    others: Curves, study: StudyPlan, plan: SweepPlan, seed: int
) -> Sequence[StartPoint]:
    """What `--warm-start` takes from a random search over the other tasks."""
    older_studies = [replace(study, task=task) for task in others.tasks]
    tasks = plan_on(others, older_studies, pruner=plan.pruner).tasks
    older = []
    for task in tasks:
        trials = [t for t in others.of(f"{task.name}.{study.space}") if t.failure is None]
        random.Random(f"{seed}/{task.name}/{study.space}").shuffle(trials)
        best = sorted(trials[:NUM_OLDER], key=lambda trial: -trial.val_accuracy[-1])[:KEPT]
        older.append(
            OlderStudy(
                sweep="older",
                name=f"{task.name}.{study.space}",
                task=task,
                method=best[0].method,
                backbone=plan.backbone,
                best=[
                    OlderTrial(
                        number=number,
                        config={**trial.fixed, **trial.config},
                        val_accuracy=trial.val_accuracy[-1],
                    )
                    for number, trial in enumerate(best)
                ],
            )
        )
    space = plan.parsed_spaces[study.space]
    (begun,) = warm_started(
        [study],
        older,
        tasks=plan.tasks,
        spaces=[space],
        backbone=plan.backbone,
        say=lambda line: None,
    )
    return begun.start_points


def regrets_of(curves: Curves, space: str) -> dict[str, dict[str, float]]:
    """By task and configuration as JSON, the normalised regret; more than 2 counts as 2, since how
    badly a configuration fails tells nothing of how well others do."""
    found = {}
    for study in studies_of(curves, least_trials=3):
        if study.space == space:
            found[study.task] = {
                json.dumps(trial.config, sort_keys=True): min(
                    2.0, 2.0 if trial.failure else study.regret(trial.val_accuracy[-1])
                )
                for trial in curves.of(study.name)
            }
    return found


def policies() -> dict[str, Policy]:
    """By name; the first four are the controls."""
    controls = [
        Policy(name="random", sampler="random", pruner="none"),
        Policy(name="tpe", sampler="tpe", pruner="none"),
        Policy(name="random, successive_halving", sampler="random", pruner="successive_halving"),
        Policy(name="tpe, successive_halving", sampler="tpe", pruner="successive_halving"),
    ]
    found = [
        *controls,
        *(
            Policy(
                name=f"{sampler}, successive_halving, freeze",
                sampler=sampler,
                pruner="successive_halving",
                options={"freeze": True},
            )
            for sampler in ("random", "tpe")
        ),
        *(
            Policy(
                name=f"{before}{sampler}, successive_halving {rung}/{factor}",
                sampler=sampler,
                pruner="successive_halving",
                options={"first_rung_epochs": rung, "reduction_factor": factor},
                starts=starts,
            )
            for before, starts in (("", at_nothing), ("portfolio of 10, ", learned(10)))
            for sampler in ("tpe", "random")
            for rung in (2, 5, 8, 15, 20)
            for factor in (2, 3, 4)
        ),
        *(
            Policy(
                name=f"tpe, {pruner} {rung}",
                sampler="tpe",
                pruner=pruner,
                options={"first_rung_epochs": rung},
            )
            for pruner in ("median", "patient")
            for rung in (5, 15)
        ),
        *(
            Policy(
                name=f"portfolio of {size}, {control.name}",
                sampler=control.sampler,
                pruner=control.pruner,
                starts=learned(size),
            )
            for size in (3, 5, 10)
            for control in controls
        ),
        *(
            Policy(
                name=f"{control.name}, warm start",
                sampler=control.sampler,
                pruner=control.pruner,
                starts=of_an_older_sweep,
            )
            for control in controls
        ),
        *(
            Policy(
                name=f"{control.name}, shared winners",
                sampler=control.sampler,
                pruner=control.pruner,
                share_winners=True,
            )
            for control in controls
        ),
        Policy(name="tpe, median", sampler="tpe", pruner="median"),
        Policy(name="tpe, hyperband", sampler="tpe", pruner="hyperband"),
        Policy(name="tpe, patient", sampler="tpe", pruner="patient"),
    ]
    return {policy.name: policy for policy in found}


USUAL = ("random", "tpe", "random, successive_halving", "tpe, successive_halving")


@dataclass(frozen=True, kw_only=True)
class Study:
    """What was recorded of a search space on a task."""

    task: str
    space: str
    best: float
    median: float
    worst: float
    epochs: int
    num_trials: int

    @property
    def name(self) -> str:
        return f"{self.task}.{self.space}"

    def regret(self, value: float) -> float:
        return (self.best - value) / (self.best - self.median)


def studies_of(curves: Curves, least_trials: int) -> list[Study]:
    """Those with enough trials, and of which the median one is not the best."""
    found = []
    for name in sorted({trial.study for trial in curves.trials}):
        trials = curves.of(name)
        scores = sorted(trial.val_accuracy[-1] for trial in trials if trial.failure is None)
        if len(trials) < least_trials or scores[-1] - statistics.median(scores) < SAME:
            continue
        found.append(
            Study(
                task=trials[0].task,
                space=trials[0].space,
                best=scores[-1],
                median=statistics.median(scores),
                worst=scores[0],
                epochs=trials[0].epochs,
                num_trials=len(trials),
            )
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Searched:
    """How a search of a study went."""

    study: Study
    ends: Sequence[tuple[float, float]]
    """Of its complete trials: after how many whole trainings' worth of epochs, and the regret."""
    spent: float
    """Of all its trials, in whole trainings."""

    def regret(self, budget: float) -> float:
        """Of the best trial that is complete after so many whole trainings; else of the worst."""
        ended = [regret for spent, regret in self.ends if spent <= budget + SAME]
        return min(ended, default=self.study.regret(self.study.worst))

    @property
    def share_until_best(self) -> float:
        """The compute until the best value was found, as a share of that of all trials; infinite if
        the search missed it."""
        found = [spent for spent, regret in self.ends if regret <= SAME]
        return min(found, default=math.inf) / self.study.num_trials


Found = Mapping[tuple[str, str], Searched]
"""By task and space."""


def search(
    policy: Policy, curves: Curves, studies: Sequence[Study], seed: int, warmup_share: float
) -> Found:
    """All studies, searched once."""
    epochs = min(study.epochs for study in studies)
    options = dict(policy.options)
    pruner = plan_pruner(policy.pruner, options, epochs=epochs, warmup_epochs=warmup_share * epochs)
    others = {
        task: Curves(
            spaces=curves.spaces, trials=[trial for trial in curves.trials if trial.task != task]
        )
        for task in {study.task for study in studies}
    }
    planned = [
        StudyPlan(task=study.task, space=study.space, num_trials=study.num_trials)
        for study in studies
    ]
    plan = plan_on(
        curves,
        planned,
        pruner=pruner,
        sampler=policy.sampler,
        seed=seed,
        share_winners=policy.share_winners,
    )
    begun = [
        replace(one, start_points=tuple(policy.starts(others[one.task], one, plan, seed)))
        for one in planned
    ]
    plan = replace(plan, studies=tuple(begun))
    ends: dict[str, list[tuple[float, float]]] = defaultdict(list)
    spent: dict[str, int] = {}
    for end in simulate(plan, curves):
        spent[end.trial.study] = end.study_epochs
        if end.trial.state == "complete" and end.trial.val_accuracy is not None:
            ends[end.trial.study].append((end.study_epochs, end.trial.val_accuracy))
    return {
        (study.task, study.space): Searched(
            study=study,
            ends=[(after / study.epochs, study.regret(v)) for after, v in ends[study.name]],
            spent=spent[study.name] / study.epochs,
        )
        for study in studies
    }


@dataclass(frozen=True, kw_only=True)
class Row:
    """A policy at a budget."""

    policy: str
    budget: float
    regret: float
    error: float
    """Standard error over tasks."""
    less: float
    """Than the control: the mean of the differences."""
    less_error: float
    spent_share: float
    """What all trials trained, of what they would have without pruning."""
    regret_of_all: float
    """Of the best of all trials."""
    shares_until_best: Mapping[str, float]
    """Of the compute of a whole grid, by the spaces that are one."""


def over_tasks(values: Mapping[tuple[str, str], float]) -> tuple[float, float]:
    """Mean and standard error over tasks of values by task and space."""
    by_task: dict[str, list[float]] = defaultdict(list)
    for (task, _), value in values.items():
        by_task[task].append(value)
    means = [statistics.mean(of_task) for of_task in by_task.values()]
    error = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return statistics.mean(means), error


def shares_until_best(curves: Curves, runs: Sequence[Found]) -> dict[str, float]:
    """By space that is a paper's grid of which all was recorded: of the compute of the grid, until
    its best value was found; in the median task, of the median over seeds."""
    by_study: dict[tuple[str, str], list[float]] = defaultdict(list)
    for run in runs:
        for (task, space), searched in run.items():
            whole = parse_space(curves.spaces[space], name=space, source=space)
            if whole.num_combinations() == searched.study.num_trials:
                by_study[space, task].append(searched.share_until_best)
    by_space: dict[str, list[float]] = defaultdict(list)
    for (space, _), shares in by_study.items():
        by_space[space].append(statistics.median(shares))
    return {space: statistics.median(by_task) for space, by_task in by_space.items()}


def measure(
    curves: Curves,
    chosen: Sequence[Policy],
    *,
    budgets: Sequence[float],
    num_seeds: int,
    least_trials: int,
    warmup_share: float = 0.1,
    control: str = "tpe",
) -> list[Row]:
    studies = studies_of(curves, least_trials)
    tasks = {study.task for study in studies}
    print(
        f"{len(studies)} studies on {len(tasks)} tasks, {num_seeds} seeds; "
        f"normalised regret after {', '.join(f'{b:g}' for b in budgets)} whole trainings of a "
        "study; the epochs that all trials trained, of those without pruning, and the regret then; "
        "the share of the compute until a grid's best"
    )
    found: dict[str, dict[tuple[str, str], dict[float, float]]] = {}
    shares: dict[str, Mapping[str, float]] = {}
    all_trials: dict[str, tuple[float, float]] = {}
    for policy in chosen:
        runs = [search(policy, curves, studies, seed, warmup_share) for seed in range(num_seeds)]
        found[policy.name] = {
            study: {b: statistics.mean(run[study].regret(b) for run in runs) for b in budgets}
            for study in runs[0]
        }
        shares[policy.name] = shares_until_best(curves, runs)
        told = [over_tasks({s: r[b] for s, r in found[policy.name].items()}) for b in budgets]
        cells = [f"{mean:.3f} ± {error:.3f}" for mean, error in told]
        every = [searched for run in runs for searched in run.values()]
        share, regret = all_trials[policy.name] = (
            statistics.mean(one.spent / one.study.num_trials for one in every),
            statistics.mean(one.regret(math.inf) for one in every),
        )
        cells += [f"{100 * share:.0f} %: {regret:.3f}"]
        of_grids = shares[policy.name].items()
        cells += [
            ", ".join(
                f"{space} {f'{100 * share:.0f} %' if share <= 1 else 'never'}"
                for space, share in of_grids
            )
        ]
        print(f"| {policy.name} | {' | '.join(cells)} |", flush=True)
    rows = []
    for name, by_study in found.items():
        for budget in budgets:
            regret, error = over_tasks({study: r[budget] for study, r in by_study.items()})
            against = found.get(control, by_study)
            less, less_error = over_tasks(
                {study: against[study][budget] - r[budget] for study, r in by_study.items()}
            )
            rows.append(
                Row(
                    policy=name,
                    budget=budget,
                    regret=regret,
                    error=error,
                    less=less,
                    less_error=less_error,
                    spent_share=all_trials[name][0],
                    regret_of_all=all_trials[name][1],
                    shares_until_best=shares[name],
                )
            )
    print(f"less than {control}:")
    for name in found:
        cells = [f"{r.less:+.3f} ± {r.less_error:.3f}" for r in rows if r.policy == name]
        print(f"| {name} | {' | '.join(cells)} |")
    return rows


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    options = _parse(arguments)
    if options.sweep:
        sweep = Sweep.open(options.sweep)
        curves = curves_of(sweep.frozen_plan, sweep.trials())
    else:
        curves = read_curves(options.file)
    known = policies()
    rows = measure(
        curves,
        [known[name] for name in options.policies],
        budgets=options.budgets,
        num_seeds=options.seeds,
        least_trials=options.least_trials,
        control=options.control,
    )
    if options.json:
        document = {**vars(options), "rows": [vars(row) for row in rows]}
        options.json.write_text(json.dumps(document, indent=2, default=str))
    return rows


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", type=Path, help="curves, as record_curves.py writes them")
    parser.add_argument("--sweep", type=Path, help="a sweep of yours that nothing was pruned in")
    parser.add_argument("--policies", nargs="+", choices=policies(), default=list(USUAL))
    parser.add_argument("--budgets", nargs="+", type=float, default=list(BUDGETS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--least-trials", type=int, default=5, help="of a study, or it is left out")
    parser.add_argument("--control", choices=policies(), default="tpe", help="of the differences")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
