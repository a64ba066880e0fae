"""`sweep`, `resume`, `status`: a sweep from its start to its table."""

import json
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

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
    SplitFractions,
    SplitSeed,
    Storage,
    WeightsOption,
    expanded,
    names_in,
    slots_of,
)
from orchestrator.cli.pruner_options import (
    NO_OPTIONS,
    PrunerOptions,
    listed,
    with_pruner_options,
)
from orchestrator.cli.terminal import Terminal
from orchestrator.plan.pruners.options import DEFAULT, choices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.cluster.slots import Slots
    from orchestrator.data.cache import ImageCache
    from orchestrator.data.suites import Suite
    from orchestrator.plan.places import Places
    from orchestrator.plan.plan import SweepPlan
    from orchestrator.plan.precision import PrecisionChooser
    from orchestrator.record.record import Record
    from orchestrator.report.results import StudySummary
    from orchestrator.run.sweep import Outcome

console = Terminal()


@with_pruner_options
def sweep(
    suite: Annotated[str, typer.Argument(help="vtab, fgvc, quickstart, or a folder of images.")],
    data: Annotated[
        Path | None,
        typer.Option(
            parser=expanded, metavar="PATH", help="Where the suite's folders are (default: ./data)."
        ),
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="A search space by name or .yaml path; may be given several times."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[TASK=]NAME",
            help="What is measured and maximised: top1 (the default), or mean_per_class, in which "
            "every class counts alike. TASK=NAME for one task; may be given several times.",
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Trials of each study.")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of a trial; the warm-up keeps its share.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the search and of every trial.")] = 0,
    split: SplitFractions = None,
    split_seed: SplitSeed = 0,
    backbone: Annotated[
        str | None, typer.Option(help="A timm VisionTransformer, e.g. vit_base_patch16_224.mae.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            parser=expanded, metavar="PATH", help="Its weights: .safetensors, .pth or .npz."
        ),
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Pixels; default: the backbone's.")] = None,
    resize: Annotated[
        str | None, typer.Option(help="squash (whole image, the default) or center_crop.")
    ] = None,
    normalization: Annotated[
        str | None, typer.Option(help="imagenet, inception or none; default: the backbone's.")
    ] = None,
    sampler: Annotated[str, typer.Option(help="tpe or random.")] = "tpe",
    pruner: Annotated[str, typer.Option(help=f"{listed(choices())}.")] = DEFAULT,
    pruner_options: PrunerOptions = NO_OPTIONS,
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, or auto: what is faster here, measured.")
    ] = "auto",
    eval_every: Annotated[
        int, typer.Option(help="Validate after every so many epochs, and wherever it counts.")
    ] = 1,
    frozen_cache: Annotated[
        bool, typer.Option(help="Compute what is frozen once for each image, and keep it.")
    ] = True,
    augment: Annotated[
        bool | None,
        typer.Option(help="Train on random crops and mirror images (default: fgvc only)."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Sweep folder (default: sweeps/<suite>-<time>).")
    ] = None,
    max_hours: MaxHours = None,
    slots: NumSlots = None,
    cpus_per_trial: CpusPerTrial = None,
    gpus_per_trial: GpusPerTrial = None,
    gpu_kind: GpuKind = None,
    storage: Storage = None,
    ray_address: RayAddress = None,
    finalize: Annotated[
        bool, typer.Option("--finalize", help="Then compare the finalists and test the winners.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Run it on the cluster's head, and return at once.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, show the plan, start nothing.")
    ] = False,
) -> None:
    """Search the best configuration of every method on every task of a suite."""
    from orchestrator.data.cache import ImageCache
    from orchestrator.plan.final_protocol import FinalProtocol
    from orchestrator.plan.plan import save_plan
    from orchestrator.plan.prepare import SweepRequest, plan_sweep
    from orchestrator.record.database import ask_once
    from orchestrator.record.owner import claim_folder

    folder = claim_folder(out or _default_folder(suite))
    if storage and not dry_run:
        ask_once(storage)
    if detach:
        _detach(folder, ray_address)
        return
    cache = ImageCache()
    request = SweepRequest(
        suite=suite,
        data_root=data,
        tasks=names_in(tasks),
        methods=method,
        metrics=metric or (),
        num_trials=trials,
        epochs=epochs,
        seed=seed,
        split=split,
        split_seed=split_seed,
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        resize=resize,
        normalisation=normalization,
        sampler=sampler,
        pruner=pruner,
        pruner_options=pruner_options,
        precision=precision,
        eval_every=eval_every,
        frozen_cache=frozen_cache,
        augment=augment,
        final=FinalProtocol() if finalize else None,
    )
    # Before the plan, which may wait for a machine to measure on.
    deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
    chosen = slots_of(slots, cpus_per_trial, gpus_per_trial, gpu_kind, ray_address)
    plan, opened = plan_sweep(
        request,
        name=folder.name,
        cache=cache,
        say=_say,
        device=chosen.device,
        cpu_threads=chosen.cpu_threads,
        choose=_precision_chooser(
            chosen, ray_address, folder.name, deadline=deadline, dry_run=dry_run
        ),
    )
    _show_plan(plan, chosen)
    if dry_run:
        return
    folder.mkdir(parents=True, exist_ok=True)
    save_plan(plan, folder)
    _say(f"sweep folder {folder}")
    exit_code = _run(
        plan, opened, folder, chosen, cache, storage, ray_address, _hours_until(deadline)
    )
    if finalize and exit_code != INTERRUPTED:
        from orchestrator.cli.finalize import finalize as test_winners

        test_winners(
            folder,
            slots=slots,
            cpus_per_trial=cpus_per_trial,
            gpus_per_trial=gpus_per_trial,
            gpu_kind=gpu_kind,
            storage=storage,
            ray_address=ray_address,
            max_hours=_hours_until(deadline),
        )
    elif finalize:
        _say(f"the test split stays closed until then; after it: orchestrator finalize {folder}")
    _leave(exit_code)


def resume(
    folder: Folder,
    data: DataOption = None,
    weights: WeightsOption = None,
    max_hours: MaxHours = None,
    slots: NumSlots = None,
    cpus_per_trial: CpusPerTrial = None,
    gpus_per_trial: GpusPerTrial = None,
    gpu_kind: GpuKind = None,
    storage: Storage = None,
    ray_address: RayAddress = None,
    accept_versions: Annotated[
        bool,
        typer.Option(
            "--accept-versions", help="Go on although the software changed; it is recorded."
        ),
    ] = False,
) -> None:
    """Go on with a sweep that was stopped or killed; finished trials count, others run again."""
    from orchestrator.data.cache import ImageCache
    from orchestrator.plan.places import at_places, find_places
    from orchestrator.plan.plan import PLAN_FILE, save_plan
    from orchestrator.plan.prepare import reopen_suite
    from orchestrator.record.changes import refuse_changes
    from orchestrator.record.record import open_record
    from orchestrator.record.stored_plan import find_plan

    places = find_places(folder, data, weights)
    frozen = find_plan(folder, storage)
    plan = at_places(frozen, places)
    cache = ImageCache()
    chosen = slots_of(slots, cpus_per_trial, gpus_per_trial, gpu_kind, ray_address)
    suite = reopen_suite(plan, cache)
    refuse_changes(plan, open_record(plan, folder, storage), accept_versions=accept_versions)
    if not (folder / PLAN_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        save_plan(frozen, folder)
    _say(f"resuming {folder} with {chosen}")
    _leave(_run(plan, suite, folder, chosen, cache, storage, ray_address, max_hours, places))


def status(
    folder: Folder,
    storage: Storage = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Trials done, running, pruned and failed per study, and the best so far."""
    from orchestrator.record.record import open_record
    from orchestrator.record.stored_plan import find_plan
    from orchestrator.report.results import summary_table
    from orchestrator.tracking.snapshot import readable_databases

    plan = find_plan(folder, storage)
    with readable_databases(folder) as databases:
        record = open_record(plan, databases, storage)
        if as_json:
            typer.echo(json.dumps([row.as_json() for row in summary_table(plan, record)], indent=2))
            return
        _show_summary(plan, record)
        _show_last_stage(folder, record)


def _run(
    plan: "SweepPlan",
    suite: "Suite",
    folder: Path,
    slots: "Slots",
    cache: "ImageCache",
    storage: str | None,
    ray_address: str | None,
    max_hours: float | None,
    places: "Places | None" = None,
) -> int:
    """The exit code of the command."""
    from orchestrator.cli.live import LiveView
    from orchestrator.plan.places import keep_places
    from orchestrator.record.owner import leased, owned
    from orchestrator.record.record import open_record
    from orchestrator.run.sweep import run_sweep
    from orchestrator.support.stopping import ending_in_order, going_on_with, stop_requested

    go_on = going_on_with(f"orchestrator resume {folder}")
    with owned(folder), leased(storage, plan.name), go_on, ending_in_order():
        if places is not None:
            keep_places(folder, places)
        outcome = run_sweep(
            plan,
            suite,
            folder,
            slots,
            cache=cache,
            storage_url=storage,
            ray_address=ray_address,
            max_seconds=None if max_hours is None else 3600 * max_hours,
            view=lambda progress: LiveView(progress, console),
        )
    record = open_record(plan, folder, storage)
    _show_summary(plan, record)
    _show_last_stage(folder, record)
    exit_code = _show_end(outcome, folder)
    return INTERRUPTED if stop_requested() else exit_code


def _hours_until(deadline: float | None) -> float | None:
    """By the monotonic clock; at least a second."""
    return None if deadline is None else max(1.0, deadline - time.monotonic()) / 3600


def _precision_chooser(
    slots: "Slots",
    ray_address: str | None,
    sweep: str,
    *,
    deadline: float | None,
    dry_run: bool,
) -> "PrecisionChooser":
    """On a cluster the workers are asked, not the machine of the driver."""
    from orchestrator.plan.precision import choose_precision

    if not ray_address:
        return choose_precision
    from orchestrator.run.ray.precision import on_a_worker, when_it_starts

    if dry_run:
        return when_it_starts
    return on_a_worker(slots, ray_address, sweep, deadline=deadline)


def _detach(folder: Path, ray_address: str | None) -> None:
    """Submit the command that was typed, without --detach."""
    from orchestrator.cluster.jobs import submit

    if not ray_address:
        raise ValueError("--detach needs a cluster: --ray-address or RAY_ADDRESS")
    arguments = [word for word in sys.argv[1:] if word != "--detach"]
    job = submit(
        [*arguments, "--out", str(folder.absolute())], name=folder.name, ray_address=ray_address
    )
    _say(f"job {job} runs on the cluster; what it prints: ray job logs --follow {job}")
    _say(f"how far it is: orchestrator status {folder}")


def _leave(exit_code: int) -> None:
    if exit_code:
        raise typer.Exit(exit_code)


def _show_end(outcome: "Outcome", folder: Path) -> int:
    if not outcome.tracked:
        _say(f"MLflow was away: `orchestrator resume {folder}` sends it what it missed")
    if outcome.stop_reason:
        _say(f"stopped: {outcome.stop_reason}")
    if outcome.num_finished < outcome.num_planned:
        left = outcome.num_planned - outcome.num_finished
        _say(f"stopped with {left} trials left; go on with: orchestrator resume {folder}")
        return INTERRUPTED
    _say(f"results {folder / 'results.parquet'}, best configurations and prompts {folder / 'best'}")
    _say(f"review with: orchestrator ui {folder}")
    if outcome.num_failed:
        _say(
            f"{outcome.num_failed} trials failed; `orchestrator status {folder}` names the reasons"
        )
        return SOME_FAILED
    return 0


def _default_folder(suite: str) -> Path:
    name = Path(suite).name or "sweep"
    return Path("sweeps") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _show_plan(plan: "SweepPlan", slots: "Slots") -> None:
    pruner = plan.pruner
    _say(
        f"plan: {len(plan.studies)} studies, {plan.num_trials} trials on {slots}; "
        f"sampler {plan.sampler}, pruner {pruner.name}"
        + (f" from epoch {pruner.first_epoch}" if pruner.first_epoch is not None else "")
    )


def _show_summary(plan: "SweepPlan", record: "Record") -> None:
    from orchestrator.report.cautions import cautions
    from orchestrator.report.results import summary_table

    rows = summary_table(plan, record)
    _show_studies(rows)
    for row in rows:
        if row.config_text:
            _say(f"best of {row.study}: {row.config_text}")
    for study in plan.studies:
        for caution in cautions(plan.task(study.task), record.trials(study.name)):
            _say(f"{study.name}: {caution}")
    failed = [trial for trial in record.each_trial() if trial.state == "failed"]
    for trial in failed[:10]:
        _say(f"failed: {trial.study} #{trial.number}: {trial.failure}")
    if len(failed) > 10:
        _say(f"and {len(failed) - 10} more, see results.parquet")


def _show_studies(rows: "Sequence[StudySummary]") -> None:
    """The table, with the share of the most frequent class as its last column where that fits."""
    with_majority = any(row.majority_text for row in rows)
    table = _study_table(rows, with_majority=with_majority)
    if with_majority and console.is_terminal and console.whole_width(table) > console.width:
        console.print_table(_study_table(rows, with_majority=False))
        shares = {row.task: row.majority_text for row in rows if row.majority_text}
        told = ", ".join(f"{task} {share} %" for task, share in shares.items())
        _say(f"always answering the most frequent class gives: {told}")
    else:
        console.print_table(table)


def _study_table(rows: "Sequence[StudySummary]", *, with_majority: bool) -> Table:
    from orchestrator.training.objective import DEFAULT_METRIC

    table = Table(box=None, pad_edge=False)
    for name in ("task", "method"):
        table.add_column(name, overflow="fold")
    # Plain accuracy needs no name beside it.
    with_metric = any(row.metric != DEFAULT_METRIC for row in rows)
    if with_metric:
        table.add_column("metric", overflow="fold")
    numbers = ["complete", "pruned", "failed", "left", "best val %"]
    for name in [*numbers, "majority %"] if with_majority else numbers:
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        cells = [
            row.task,
            row.space,
            *([row.metric] if with_metric else []),
            str(row.complete),
            str(row.pruned),
            Text(str(row.failed), style="red" if row.failed else ""),
            str(row.planned - row.complete - row.pruned - row.failed),
            row.best_text,
        ]
        table.add_row(*cells, row.majority_text) if with_majority else table.add_row(*cells)
    return table


def _show_last_stage(folder: Path, record: "Record") -> None:
    """Of the newest round; the numbers are in the report."""
    from orchestrator.report.final import read_final_results
    from orchestrator.report.tested import stage_lines

    for line in stage_lines(read_final_results(folder), record.trials):
        _say(line)


def _say(line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
