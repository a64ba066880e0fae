"""Whether studies that share their trials by expected gain find more than with as many each.

    python benchmarks/allocation.py                          # the curves that come with us
    python benchmarks/allocation.py --budgets 10 20 --samplers tpe random --seeds 20

All studies of one sweep share `budget` x studies trials, replayed on recorded curves with the
product's own queue (`orchestrator/run/simulated.py`). Compared with `--allocation equal`, the
control, are the means over tasks of the normalised regret of each study (0: the best that was
recorded, 1: the median) and of what its best lacks in points; the standard errors are those over
tasks of the paired differences, each over the spaces and seeds of its task. Normalised regret
counts a flat study like any other, points do not. Nothing is pruned unless `--pruner` says so:
then trials, not epochs, are shared, and the share of the epochs that were trained stands beside.

A study needs twice the budget of recorded trials, which is what it may get at most.

    python benchmarks/allocation.py --ends                   # drawn numbers, no curves

How often a study ends although more trials are still worth it: searches of `SHARE` trials whose
scores have an exponential tail, so wide that at the floor as many trials again gain on average so
many standard errors. A study is judged after each trial, until it ends or has its ceiling. Complete
are trials that were among the best share of those before them, as under successive halving.
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from search import Study, over_tasks, studies_of

from orchestrator.plan.allocation import (
    ALLOCATIONS,
    CEILING,
    EQUAL,
    GAIN,
    SMALL,
    StudyShare,
    evidence_of,
    expected_gain,
)
from orchestrator.plan.plan import StudyPlan, SweepPlan
from orchestrator.plan.pruners.options import choices as pruner_choices
from orchestrator.plan.pruners.options import plan_pruner
from orchestrator.record.curves import Curves, plan_on, read_curves
from orchestrator.run.simulated import simulate

BUDGETS = (5, 10, 20)
"""Trials of a study, on average."""
SHARE = 20
NOISE = 0.03
"""One standard error of a validation accuracy."""

Values = dict[tuple[str, str], float]
"""By task and space."""


@dataclass(frozen=True, kw_only=True)
class Searched:
    """One search of all studies."""

    regret: Values
    points: Values
    """Accuracy points below the best that was recorded."""
    trials: int
    epochs: int
    most: int
    """Trials of the study that got most."""
    least: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """Equal shares against shares by gain."""

    sampler: str
    budget: int
    studies: int
    tasks: int
    equal: float
    gain: float
    less: float
    """Regret than with equal shares."""
    less_error: float
    fewer_points: float
    """Below the best, than with equal shares."""
    fewer_points_error: float
    trials: float
    """As a share of those of equal shares."""
    epochs: float
    least: float
    """Trials of the study that got least, and of the one that got most."""
    most: float


def search(
    curves: Curves, studies: Sequence[Study], budget: int, *, sampler: str, pruner: str, seed: int
) -> dict[str, Searched]:
    """By allocation."""
    epochs = min(study.epochs for study in studies)
    plan = plan_on(
        curves,
        [StudyPlan(task=s.task, space=s.space, num_trials=budget) for s in studies],
        pruner=plan_pruner(pruner, {}, epochs=epochs, warmup_epochs=0.1 * epochs),
        sampler=sampler,
        seed=seed,
    )
    return {
        allocation: _searched(curves, studies, replace(plan, allocation=allocation))
        for allocation in ALLOCATIONS
    }


def _searched(curves: Curves, studies: Sequence[Study], plan: SweepPlan) -> Searched:
    best = {study.name: study.worst for study in studies}
    trials: dict[str, int] = defaultdict(int)
    epochs: dict[str, int] = {}
    for end in simulate(plan, curves):
        name, value = end.trial.study, end.trial.val_accuracy
        trials[name] += 1
        epochs[name] = end.study_epochs
        if end.trial.state == "complete" and value is not None:
            best[name] = max(best[name], value)
    return Searched(
        regret={(s.task, s.space): s.regret(best[s.name]) for s in studies},
        points={(s.task, s.space): 100 * (s.best - best[s.name]) for s in studies},
        trials=sum(trials.values()),
        epochs=sum(epochs.values()),
        most=max(trials.values()),
        least=min(trials.values()),
    )


def compare(
    curves: Curves, budget: int, *, sampler: str, pruner: str = "none", num_seeds: int
) -> Row | None:
    """None: too few trials were recorded of all studies but one."""
    studies = studies_of(curves, int(CEILING * budget))
    if len(studies) < 2:
        return None
    runs = [
        search(curves, studies, budget, sampler=sampler, pruner=pruner, seed=seed)
        for seed in range(num_seeds)
    ]

    def mean(allocation: str, what: str) -> Values:
        found = [getattr(run[allocation], what) for run in runs]
        return {study: statistics.mean(one[study] for one in found) for study in found[0]}

    def share(what: str) -> float:
        return statistics.mean(getattr(r[GAIN], what) / getattr(r[EQUAL], what) for r in runs)

    def less(what: str) -> tuple[float, float]:
        equal, gain = mean(EQUAL, what), mean(GAIN, what)
        return over_tasks({study: equal[study] - gain[study] for study in equal})

    regret, regret_error = less("regret")
    points, points_error = less("points")
    return Row(
        sampler=sampler,
        budget=budget,
        studies=len(studies),
        tasks=len({study.task for study in studies}),
        equal=over_tasks(mean(EQUAL, "regret"))[0],
        gain=over_tasks(mean(GAIN, "regret"))[0],
        less=regret,
        less_error=regret_error,
        fewer_points=points,
        fewer_points_error=points_error,
        trials=share("trials"),
        epochs=share("epochs"),
        least=statistics.mean(run[GAIN].least for run in runs),
        most=statistics.mean(run[GAIN].most for run in runs),
    )


@dataclass(frozen=True, kw_only=True)
class Ends:
    """How searches ended of which more was worth something at first."""

    early: float
    """Share of them that ended while as many trials again gained more than is called small."""
    gain_left: float
    """Of as many trials again in these, on average, in standard errors; 0 if there are none."""
    ended: float
    """Share of them that ended before their ceiling."""
    trials: float
    """Of a search, on average."""


def ends(gain_at_floor: float, share_complete: float, *, num_searches: int, seed: int = 0) -> Ends:
    """`gain_at_floor` is the true one of as many trials again, in standard errors."""
    chance, ended, trials = Random(seed), 0, 0
    early: list[float] = []
    empty = StudyShare(name="drawn", share=SHARE, most=10 * SHARE, num_asked=0)
    scale = gain_at_floor * NOISE / expected_gain(1.0, empty.floor, SHARE)
    for _ in range(num_searches):
        drawn: list[float] = []
        complete: list[float] = []
        study = empty
        while study.is_open and not study.ends_now:
            score = chance.expovariate(1 / scale) if scale else 0.0
            better = sum(other > score for other in drawn)
            drawn.append(score)
            if better < max(1.0, share_complete * len(drawn)):
                complete.append(score)
            evidence = evidence_of(complete, len(drawn), NOISE)
            study = replace(study, num_asked=len(drawn), evidence=evidence)
        trials += study.num_asked
        ended += study.ends_now
        left = expected_gain(scale, study.num_asked, study.num_more) / NOISE
        if study.ends_now and left >= SMALL:
            early.append(left)
    return Ends(
        early=len(early) / num_searches,
        gain_left=statistics.mean(early) if early else 0.0,
        ended=ended / num_searches,
        trials=trials / num_searches,
    )


def print_ends(num_searches: int) -> None:
    print(
        "| gain at first, in standard errors | complete | ended too early | gain left then "
        "| ended | trials |"
    )
    for gain_at_floor in (0.0, 0.6, 1.0, 2.0):
        for share_complete in (1.0, 1 / 3, 1 / 6):
            found = ends(gain_at_floor, share_complete, num_searches=num_searches)
            print(
                f"| {gain_at_floor} | {100 * share_complete:.0f} % | {100 * found.early:.0f} % "
                f"| {found.gain_left:.2f} "
                f"| {100 * found.ended:.0f} % | {found.trials:.0f} |",
                flush=True,
            )


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    options = _parse(arguments)
    if options.ends:
        print_ends(options.ends)
        return []
    curves = read_curves(options.file)
    print(
        "| sampler | trials of a study | studies | regret, equal | gain | less | points less "
        "| trials | epochs | least to most |"
    )
    rows = []
    for sampler in options.samplers:
        for budget in options.budgets:
            row = compare(
                curves, budget, sampler=sampler, pruner=options.pruner, num_seeds=options.seeds
            )
            if row is None:
                print(f"| {sampler} | {budget} | fewer than {int(CEILING * budget)} recorded |")
                continue
            rows.append(row)
            print(
                f"| {sampler} | {budget} | {row.studies} on {row.tasks} tasks "
                f"| {row.equal:.3f} | {row.gain:.3f} | {row.less:+.3f} ± {row.less_error:.3f} "
                f"| {row.fewer_points:+.2f} ± {row.fewer_points_error:.2f} "
                f"| {100 * row.trials:.0f} % | {100 * row.epochs:.0f} % "
                f"| {row.least:.0f} to {row.most:.0f} |",
                flush=True,
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
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS))
    parser.add_argument("--samplers", nargs="+", choices=("tpe", "random"), default=["tpe"])
    parser.add_argument("--pruner", choices=pruner_choices(), default="none")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--ends",
        type=int,
        nargs="?",
        const=1000,
        default=0,
        metavar="SEARCHES",
        help="how often studies end too early, in so many drawn searches (1000)",
    )
    parser.add_argument("--json", type=Path, help="write everything to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
