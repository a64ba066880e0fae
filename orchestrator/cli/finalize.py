"""`finalize`: the honest number, once."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from orchestrator.cli.options import (
    INTERRUPTED,
    SOME_FAILED,
    DataOption,
    Folder,
    Json,
    Storage,
    WeightsOption,
    with_requests,
)
from orchestrator.cli.terminal import Terminal
from orchestrator.plan.final_protocol import times_opened
from orchestrator.plan.request import FinalRequest
from orchestrator.run.request import RunRequest
from orchestrator.support.counted import counted
from orchestrator.support.near import typed
from orchestrator.support.phases import phase

if TYPE_CHECKING:
    from orchestrator.api.sweep import Sweep
    from orchestrator.record.final_outcome import StudyOutcome

console = Terminal()


@with_requests
def finalize(
    folder: Folder,
    request: FinalRequest,
    where: RunRequest,
    data: DataOption = None,
    weights: WeightsOption = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Compare the finalists on folds, retrain the winners on train and val, test them once.

        orchestrator finalize SWEEP --dry-run
        orchestrator finalize SWEEP

    Stopped or killed, the same command goes on. Once done, it prints the outcome again.
    """
    with phase("loading libraries"):
        from orchestrator.api.sweep import Sweep

    found = Sweep.open(folder, storage=storage, data=data, weights=weights)
    test_winners(found, request, where, as_json=as_json)


def test_winners(
    found: "Sweep", request: FinalRequest, where: RunRequest, *, as_json: bool
) -> None:
    """The last stage of a sweep that is open, with its outcome on the terminal."""
    from orchestrator.support.stopping import stop_requested

    told = Terminal(stderr=True) if as_json else console
    outcomes = found.finalized(request, where, say=told.say)
    if request.dry_run:
        return
    if as_json:
        typer.echo(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    else:
        _show(outcomes, found.folder, request.unfinished)
    if stop_requested() or any(outcome.num_left for outcome in outcomes):
        raise typer.Exit(INTERRUPTED)
    if any(outcome.failed_seeds or outcome.winner is None for outcome in outcomes):
        raise typer.Exit(SOME_FAILED)


def _same_command(folder: Path, unfinished: bool) -> str:
    return f"orchestrator finalize {typed(folder)}{' --unfinished' if unfinished else ''}"


def _show(outcomes: "list[StudyOutcome]", folder: Path, unfinished: bool = False) -> None:
    from orchestrator.report.cautions import collapsed_sentence, tested_sentence
    from orchestrator.report.final import caveats, read_final_results
    from orchestrator.support.uncertainty import folds_text, seeds_text
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
            folds_text(outcome.cross_validation, outcome.cross_validation_interval) or "",
            "" if outcome.winner is None else f"#{outcome.winner}",
            "" if share is None else f"{100 * share:.1f}",
        )
    console.print_table(table)
    results = {f"{one.task}.{one.space}": one for one in read_final_results(folder)}
    for outcome in outcomes:
        study = f"{outcome.task}.{outcome.space}"
        console.say(f"{study}: {outcome.why}")
        for seed, reason in outcome.failed_seeds.items():
            console.say(f"{study}: seed {seed} failed and is not in the mean: {reason}")
        for caution in (tested_sentence(outcome), collapsed_sentence(outcome)):
            if caution:
                console.say(f"{study}: {caution}")
        for line in caveats(results[study]) if study in results else ():
            console.say(f"{study}: {line[:1].lower()}{line[1:].rstrip('.')}")
        if outcome.bundle_seed is not None:
            place = folder / "final" / "by_method" / outcome.space
            seed, rule = outcome.bundle_seed, outcome.seed_rule
            console.say(f"{study}: the prompts in {place} are those of seed {seed}, the {rule}")
    if any(o.num_openings for o in outcomes) and all(o.num_openings < 2 for o in outcomes):
        console.say(times_opened(1).rstrip(".").lower())
    left = sum(outcome.num_left for outcome in outcomes)
    if left:
        console.say(
            f"stopped with {counted(left, 'run')} left; "
            f"go on with: {_same_command(folder, unfinished)}"
        )
