"""Records whole learning curves of prompt tuning, on which a search can be replayed.

    python benchmarks/record_curves.py DATA/vtab-1k --weights deit_tiny_patch16_224.safetensors \\
        --work sweeps/curves --slots 2 --hours 3
    python benchmarks/record_curves.py DATA/vtab-1k --weights ... --work ... --collect

A sweep of the product, with no pruning: the same 40 configurations of each space on every task,
drawn once (a grid of a paper in an order of its own), those that the file below lacks first. All
studies advance together, so that the work may be stopped at any time. Validation curves only.

Two networks and tasks compare by their ranks, not by their numbers: images are 32 pixels wide and
prompts stand in the last two of twelve blocks, so that a trial takes seconds on a CPU.

The result goes to `search_spaces/evidence/curves.parquet` (`--file`); what is there stays.
`--collect` adds what a sweep that still runs has so far.
"""

import argparse
import dataclasses
import itertools
import json
import platform
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from orchestrator import SearchSpace, Sweep
from orchestrator.plan.space import load_space, parse_space
from orchestrator.record.curves import (
    CURVES_FILE,
    Curves,
    RecordedTrial,
    curves_of,
    read_curves,
    write_curves,
)

FILE = Path(__file__).resolve().parent.parent / "search_spaces" / CURVES_FILE
TASKS = (
    *("eurosat", "sign_language_digits", "caltech101"),
    *("resisc45_12cls", "dtd_10cls", "omniglot_alphabet_8cls"),
)
BACKBONE = "deit_tiny_patch16_224"
IMAGE_SIZE = 32
EPOCHS = 30
NUM_CONFIGS = 40
BLOCKS = [10, 11]
LONGEST = 20
"""More prompts than this are left out: so small an image has four patches."""
IMPOSSIBLE = {("tuned_bases", 4)}
"""More blocks than have prompts."""

FIXED: Mapping[str, Mapping[str, Any]] = {
    "linear": {"batch_size": 64},
    "vpt_deep": {"blocks": BLOCKS, "batch_size": 64, "num_tokens": 2},
    "spt_deep": {"blocks": BLOCKS},
    "bpt": {"blocks": BLOCKS},
    "cvpt": {"blocks": BLOCKS, "batch_size": 64},
}
"""The shipped spaces that are recorded, and what is held fixed. Those of linear and vpt_deep are
then the 40 points of the grids of Jia et al. 2022. With their recipes' batch sizes, 1024 and 128,
trials of so few epochs have too few steps: accuracies are those of chance until the rate falls."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    if options.collect:
        collect(Sweep.open(options.work), options.file)
        return
    sweep = (
        Sweep.open(options.work)
        if (options.work / "sweep.yaml").exists()
        else planned(options, recorded_so_far(options.file).trials)
    )
    try:
        sweep.run(slots=options.slots, max_hours=options.hours)
    finally:
        collect(sweep, options.file)


def planned(options: argparse.Namespace, have: Sequence[RecordedTrial]) -> Sweep:
    """A sweep of what is not recorded yet on all of the tasks."""
    spaces = [_remaining(one, have, options.tasks) for one in map(recorded_space, options.spaces)]
    spaces = [space for space in spaces if space.start]
    if not spaces:
        raise SystemExit("everything is recorded")
    return Sweep.plan(
        options.data,
        tasks=options.tasks,
        methods=spaces,
        trials=max(len(space.start) for space in spaces),
        backbone=BACKBONE,
        weights=options.weights,
        normalization="imagenet",
        image_size=IMAGE_SIZE,
        epochs=EPOCHS,
        precision="fp32",
        pruner="none",
        out=options.work,
    )


def recorded_space(name: str) -> SearchSpace:
    """The shipped space with what is held fixed, and all configurations that are recorded."""
    shipped = load_space(name)
    document = {**shipped.document, "fixed": {**shipped.fixed, **FIXED[name]}}
    lines = {key: line for key, line in document["search"].items() if key not in FIXED[name]}
    if "num_tokens" in lines:
        choices = [count for count in lines["num_tokens"]["choices"] if count <= LONGEST]
        lines["num_tokens"] = {"choices": choices}
    document["search"] = lines
    space = parse_space(document, name=name, source=name)
    return parse_space({**document, "start": configs_of(space)}, name=name, source=name)


def configs_of(space: SearchSpace) -> list[dict[str, Any]]:
    """Of a grid of no more points all, in an order of chance; else as many by chance."""
    if space.num_combinations() <= NUM_CONFIGS:
        names = [dimension.name for dimension in space.dimensions]
        values = [dimension.distribution.choices for dimension in space.dimensions]  # pyright: ignore
        grid = [dict(zip(names, point, strict=True)) for point in itertools.product(*values)]
        random.Random(0).shuffle(grid)
        return grid
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn: dict[str, dict[str, Any]] = {}
    while len(drawn) < NUM_CONFIGS:  # a space of few choices draws some of them twice
        config = space.searched(space.draw(study.ask()))
        if not config.items() & IMPOSSIBLE:
            drawn.setdefault(_key(config), config)
    return list(drawn.values())


def _remaining(
    space: SearchSpace, have: Sequence[RecordedTrial], tasks: Sequence[str]
) -> SearchSpace:
    """The space with the configurations that some task lacks; first those that most tasks lack."""
    recorded = {(trial.task, trial.space, _key(trial.config)) for trial in have}

    def num_lacking(config: Mapping[str, Any]) -> int:
        return sum((task, space.name, _key(config)) not in recorded for task in tasks)

    start = sorted((dict(one) for one in space.start if num_lacking(one)), key=num_lacking)
    document = {**space.document, "start": start[::-1]}
    return parse_space(document, name=space.name, source=space.name)


def recorded_so_far(file: Path) -> Curves:
    """Without what is not recorded any more, or was with something else held fixed."""
    if not file.exists():
        return Curves(spaces={}, trials=[])
    curves = read_curves(file)
    fixed = {name: recorded_space(name).fixed for name in FIXED}
    trials = [
        trial
        for trial in curves.trials
        if trial.task in TASKS
        and trial.space in fixed
        and fixed[trial.space].items() <= trial.fixed.items()
    ]
    return dataclasses.replace(curves, trials=trials)


def collect(sweep: Sweep, file: Path) -> None:
    """Add what the sweep has to the file; where both have a trial that of the file stays."""
    # A space that lacks fewer than others draws more at the end: not the same on all tasks.
    known = {name: set(map(_key, recorded_space(name).start)) for name in FIXED}
    all_of_it = curves_of(sweep.frozen_plan, sweep.trials())
    new = dataclasses.replace(
        all_of_it, trials=[t for t in all_of_it.trials if _key(t.config) in known[t.space]]
    )
    have = recorded_so_far(file)
    merged = {
        (trial.task, trial.space, _key(trial.config)): trial
        for trial in [*new.trials, *have.trials]
    }
    trials = [merged[key] for key in sorted(merged)]
    about = {
        "made_by": "benchmarks/record_curves.py",
        "images": "tasks in the layout of VTAB-1k, train800.txt and val200.txt of each",
        "machine": f"{platform.machine()}, one thread a trial",
        "backbone": BACKBONE,
        "image_size": IMAGE_SIZE,
        "epochs": EPOCHS,
    }
    spaces = {
        name: {**have.spaces, **new.spaces}[name] for name in sorted({t.space for t in trials})
    }
    write_curves(file, Curves(spaces=spaces, trials=trials, about=about))
    print(f"{len(trials)} trials in {file}, {len(trials) - len(have.trials)} of them new")


def _key(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="folder of tasks")
    parser.add_argument("--weights", type=Path, help=f"file with the weights of {BACKBONE}")
    parser.add_argument("--work", type=Path, required=True, help="folder of the sweep")
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--spaces", nargs="+", choices=FIXED, default=list(FIXED))
    parser.add_argument("--slots", type=int)
    parser.add_argument("--hours", type=float)
    parser.add_argument("--collect", action="store_true", help="only add what the sweep has so far")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
