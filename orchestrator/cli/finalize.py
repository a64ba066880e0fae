"""`finalize`: the honest number, once."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from orchestrator.cli.options import (
    INTERRUPTED,
    SOME_FAILED,
    CpusPerTrial,
    DataOption,
    Folder,
    GpuKind,
    GpusPerTrial,
    MaxHours,
    NumSlots,
    RayAddress,
    Storage,
    WeightsOption,
    slots_of,
)
from orchestrator.cli.terminal import Terminal
from orchestrator.plan.final_protocol import FinalProtocol, times_opened
from orchestrator.support.document import MOST_SEED

if TYPE_CHECKING:
    from orchestrator.record.final_outcome import StudyOutcome

console = Terminal()


def finalize(
    folder: Folder,
    finalists: Annotated[
        int | None,
        typer.Option(help="Of each study, the best so many by validation are compared (3)."),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="Parts of the labelled images for that (5).")
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Of the final runs, separated by commas (42,44,82,100,800)."),
    ] = None,
    unfinished: Annotated[
        bool,
        typer.Option("--unfinished", help="Although the search is not over; it is recorded."),
    ] = False,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="A new round of what is out of date or failed; both rounds are kept and told.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be run; open and start nothing.")
    ] = False,
    data: DataOption = None,
    weights: WeightsOption = None,
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

    Stopped or killed, the same command goes on. Once done, it prints the outcome again.
    """
    from orchestrator.data.cache import ImageCache
    from orchestrator.plan.places import at_places, find_places, keep_places
    from orchestrator.plan.plan import load_plan
    from orchestrator.record.database import default_storage
    from orchestrator.record.owner import leased, owned
    from orchestrator.run.finalize import FinalRequest
    from orchestrator.run.finalize import finalize as run
    from orchestrator.support.stopping import going_on_with, stop_requested

    places = find_places(folder, data, weights)
    plan = at_places(load_plan(folder), places)
    request = FinalRequest(
        protocol=_protocol(finalists, folds, seeds),
        unfinished=unfinished,
        again=again,
        dry_run=dry_run,
    )
    told = Terminal(stderr=True) if as_json else console
    go_on = going_on_with(_same_command(folder, unfinished))
    with owned(folder), leased(storage, plan.name), go_on:
        outcomes = run(
            plan,
            folder,
            request,
            lambda: slots_of(slots, cpus_per_trial, gpus_per_trial, gpu_kind, ray_address),
            cache=ImageCache(),
            storage_url=storage or default_storage(folder),
            say=lambda line: told.print(line, markup=False, soft_wrap=True),
            ray_address=ray_address,
            max_seconds=None if max_hours is None else 3600 * max_hours,
        )
        if not dry_run:
            keep_places(folder, places)
    if dry_run:
        return
    if as_json:
        typer.echo(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    else:
        _show(outcomes, folder, unfinished)
    if stop_requested() or any(outcome.num_left for outcome in outcomes):
        raise typer.Exit(INTERRUPTED)
    if any(outcome.failed_seeds or outcome.winner is None for outcome in outcomes):
        raise typer.Exit(SOME_FAILED)


def _same_command(folder: Path, unfinished: bool) -> str:
    return f"orchestrator finalize {folder}{' --unfinished' if unfinished else ''}"


def _show(outcomes: "list[StudyOutcome]", folder: Path, unfinished: bool = False) -> None:
    from orchestrator.report.cautions import tested_sentence
    from orchestrator.report.final import caveats, read_final_results
    from orchestrator.support.uncertainty import seeds_text
    from orchestrator.training.objective import DEFAULT_METRIC

    table = Table(box=None, pad_edge=False)
    with_metric = any(outcome.metric != DEFAULT_METRIC for outcome in outcomes)
    words = ("task", "method", *(["metric"] if with_metric else []))
    for name in (*words, "test %", "seeds", "folds %", "trial", "test majority %"):
        table.add_column(name, justify="left" if name in words else "right", overflow="fold")
    for outcome in outcomes:
        accuracies = list(outcome.test_accuracies.values())
        share = outcome.test_majority_share
        asked = len(accuracies) + len(outcome.failed_seeds)
        table.add_row(
            outcome.task,
            outcome.space,
            *([outcome.metric] if with_metric else []),
            seeds_text(accuracies, outcome.test_images) if accuracies else "none",
            f"{len(accuracies)}/{asked}" if outcome.failed_seeds else str(len(accuracies)),
            "" if outcome.cross_validation is None else f"{100 * outcome.cross_validation:.1f}",
            "" if outcome.winner is None else f"#{outcome.winner}",
            "" if share is None else f"{100 * share:.1f}",
        )
    console.print_table(table)
    results = {f"{found.task}.{found.space}": found for found in read_final_results(folder)}
    for outcome in outcomes:
        study = f"{outcome.task}.{outcome.space}"
        _say(f"{study}: {outcome.why}")
        for seed, reason in outcome.failed_seeds.items():
            _say(f"{study}: seed {seed} failed and is not in the mean: {reason}")
        if caution := tested_sentence(outcome):
            _say(f"{study}: {caution}")
        for line in caveats(results[study]) if study in results else ():
            _say(f"{study}: {line[:1].lower()}{line[1:].rstrip('.')}")
        if outcome.bundle_seed is not None:
            place = folder / "final" / "by_method" / outcome.space
            seed, rule = outcome.bundle_seed, outcome.seed_rule
            _say(f"{study}: the prompts in {place} are those of seed {seed}, the {rule}")
    if any(o.num_openings for o in outcomes) and all(o.num_openings < 2 for o in outcomes):
        _say(times_opened(1).rstrip(".").lower())
    left = sum(outcome.num_left for outcome in outcomes)
    if left:
        _say(f"stopped with {left} runs left; go on with: {_same_command(folder, unfinished)}")


def _protocol(finalists: int | None, folds: int | None, seeds: str | None) -> dict[str, Any]:
    """The fields that were given, checked."""
    given = {
        "num_finalists": finalists,
        "num_folds": folds,
        "seeds": None if seeds is None else _seeds(seeds),
    }
    found = {name: value for name, value in given.items() if value is not None}
    FinalProtocol(**found)
    return found


def _seeds(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"--seeds: expected numbers with commas, found {text!r}") from error
    if not all(0 <= seed <= MOST_SEED for seed in found):
        raise ValueError(f"--seeds: each must be from 0 to {MOST_SEED:,}, found {text!r}")
    return found


def _say(line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
