"""`finalize`: the honest number, once."""

import json
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from orchestrator.cli.options import (
    INTERRUPTED,
    SOME_FAILED,
    CpusPerTrial,
    Folder,
    GpuKind,
    GpusPerTrial,
    MaxHours,
    NumSlots,
    RayAddress,
    Storage,
    slots_of,
)
from orchestrator.cli.terminal import Terminal

if TYPE_CHECKING:
    from orchestrator.finalize import StudyOutcome

console = Terminal()


def finalize(
    folder: Folder,
    finalists: Annotated[
        int, typer.Option(help="Of each study, the best so many by validation are compared.")
    ] = 3,
    folds: Annotated[int, typer.Option(help="Parts of the labelled images for that.")] = 5,
    seeds: Annotated[
        str, typer.Option(help="Of the final runs, separated by commas.")
    ] = "42,44,82,100,800",
    max_hours: MaxHours = None,
    slots: NumSlots = None,
    cpus_per_trial: CpusPerTrial = None,
    gpus_per_trial: GpusPerTrial = None,
    gpu_kind: GpuKind = None,
    storage: Storage = None,
    ray_address: RayAddress = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Compare the finalists on folds, retrain the winners on train and val, test them once.

    Stopped or killed, the same command goes on.
    """
    from orchestrator.data.cache import ImageCache
    from orchestrator.final_protocol import FinalProtocol
    from orchestrator.finalize import finalize as run
    from orchestrator.owner import leased, owned
    from orchestrator.plan import load_plan
    from orchestrator.prepare import reopen_suite
    from orchestrator.storage import default_storage

    plan = load_plan(folder)
    protocol = FinalProtocol(num_finalists=finalists, num_folds=folds, seeds=_seeds(seeds))
    cache = ImageCache()
    chosen = slots_of(slots, cpus_per_trial, gpus_per_trial, gpu_kind, ray_address)
    suite = reopen_suite(plan, cache)
    told = Terminal(stderr=True) if as_json else console
    with owned(folder), leased(storage, plan.name):
        outcomes = run(
            plan,
            suite,
            folder,
            chosen,
            cache=cache,
            storage_url=storage or default_storage(folder),
            protocol=protocol,
            say=lambda line: told.print(line, markup=False, soft_wrap=True),
            ray_address=ray_address,
            max_seconds=None if max_hours is None else 3600 * max_hours,
        )
    if as_json:
        typer.echo(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    else:
        _show(outcomes, folder)
    if any(outcome.num_left for outcome in outcomes):
        raise typer.Exit(INTERRUPTED)
    if any(outcome.failed_seeds or outcome.winner is None for outcome in outcomes):
        raise typer.Exit(SOME_FAILED)


def _show(outcomes: "list[StudyOutcome]", folder: Path) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("task", "method", "test %", "seeds", "folds %", "trial"):
        table.add_column(name, justify="left" if name in ("task", "method") else "right")
    for outcome in outcomes:
        accuracies = [100 * accuracy for accuracy in outcome.test_accuracies.values()]
        spread = f" ± {stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
        asked = len(accuracies) + len(outcome.failed_seeds)
        table.add_row(
            outcome.task,
            outcome.space,
            f"{fmean(accuracies):.1f}{spread}" if accuracies else "none",
            f"{len(accuracies)}/{asked}" if outcome.failed_seeds else str(len(accuracies)),
            "" if outcome.cross_validation is None else f"{100 * outcome.cross_validation:.1f}",
            "" if outcome.winner is None else f"#{outcome.winner}",
        )
    console.print(table)
    for outcome in outcomes:
        study = f"{outcome.task}.{outcome.space}"
        _say(f"{study}: {outcome.why}")
        for seed, reason in outcome.failed_seeds.items():
            _say(f"{study}: seed {seed} failed and is not in the mean: {reason}")
        if outcome.num_finished_trials < outcome.num_planned_trials:
            _say(
                f"{study}: the search has {outcome.num_finished_trials} of "
                f"{outcome.num_planned_trials} trials; its finalists stay as they were chosen"
            )
        if outcome.bundle_seed is not None:
            place = folder / "final" / "by_method" / outcome.space
            seed = outcome.bundle_seed
            _say(f"{study}: the prompts in {place} are those of seed {seed}, the median on test")
    left = sum(outcome.num_left for outcome in outcomes)
    if left:
        _say(f"stopped with {left} runs left; go on with: orchestrator finalize {folder}")


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"--seeds: expected numbers with commas, found {text!r}") from error


def _say(line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
