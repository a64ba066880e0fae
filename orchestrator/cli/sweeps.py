"""`sweep`, `resume`: a sweep from its start to its table."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from orchestrator.api.requests import PlanRequest, PriceRequest, ResumeRequest, StartRequest
from orchestrator.cli.forecast import is_wanted, show_forecast
from orchestrator.cli.next_steps import activating, after_a_search
from orchestrator.cli.options import (
    INTERRUPTED,
    SOME_FAILED,
    DataOption,
    Folder,
    Storage,
    WeightsOption,
    with_requests,
)
from orchestrator.cli.pruner_options import with_pruner_options
from orchestrator.cli.status import show_sweep
from orchestrator.cli.terminal import Terminal
from orchestrator.run.request import RunRequest, hours_until
from orchestrator.support.counted import counted
from orchestrator.support.near import near, typed
from orchestrator.support.phases import phase

if TYPE_CHECKING:
    from orchestrator.api.sweep import Sweep
    from orchestrator.run.engine import Engine
    from orchestrator.run.sweep import Outcome

console = Terminal()


@with_pruner_options
@with_requests
def sweep(
    request: PlanRequest, where: RunRequest, price: PriceRequest, start: StartRequest
) -> None:
    """Search the best configuration of every method on every task of a suite.

        orchestrator sweep quickstart
        orchestrator sweep ./photos --backbone deit_tiny_patch16_224 --dry-run
        orchestrator sweep my_sweep.yaml --max-hours 8

    The result is a folder below sweeps/, which the other commands take. Ctrl-C stops in order, and
    `orchestrator resume` goes on. A .yaml file has every option below as a key, by the same word
    (trials: 40); what is typed beside it goes before.
    """
    final = start.final
    if start.detach:
        _detach(request, where)
        return
    from dataclasses import replace

    with phase("loading libraries"):
        from orchestrator.api.sweep import Sweep
    from orchestrator.plan.final_protocol import FinalProtocol

    # Before the plan, which may wait for a machine to measure on.
    deadline = where.deadline()
    planned = Sweep.planned(
        replace(request, final=FinalProtocol(**final.protocol) if final else None),
        where,
        deadline=deadline,
        dry_run=start.dry_run,
        say=console.say,
    )
    assert planned.engine is not None
    if start.dry_run:
        show_forecast(planned.forecasted(planned.engine, where, price.price_per_hour))
        words = [word for word in sys.argv[1:] if word != "--dry-run"]
        console.say(f"nothing was started; start it with: {shlex.join(['orchestrator', *words])}")
        return
    found = planned.forecasted_at_a_glance(planned.engine, where, price.price_per_hour)
    if found is not None:
        console.say(f"forecast: {found}")
        if not start.yes and not is_wanted(found):
            console.say("nothing was started")
            return
    planned.check()
    planned.save()
    console.say(f"sweep folder {near(planned.folder)}")
    exit_code = _run(planned, replace(where, max_hours=hours_until(deadline)), planned.engine)
    if final and exit_code != INTERRUPTED:
        from orchestrator.cli.finalize import test_winners

        test_winners(planned, final, replace(where, max_hours=hours_until(deadline)), as_json=False)
    elif final:
        asked = "".join(
            f" --{name.replace('_', '-')} {value}" for name, value in final.protocol.items()
        )
        console.say(
            "the test split stays closed until then; after it: "
            f"orchestrator finalize {typed(planned.folder)}{asked}"
        )
    _leave(exit_code)


@with_requests
def resume(
    folder: Folder,
    where: ResumeRequest,
    data: DataOption = None,
    weights: WeightsOption = None,
    storage: Storage = None,
) -> None:
    """Go on with a sweep that was stopped or killed.

        orchestrator resume sweeps/photos-20261121-120000
        orchestrator resume sweeps/photos-20261121-120000 --max-hours 8

    Finished trials count, others run again. What is searched stands in its sweep.yaml; where and
    how long can be chosen anew.
    """
    with phase("loading libraries"):
        from orchestrator.api.sweep import Sweep

    found = Sweep.open(folder, storage=storage, data=data, weights=weights)
    engine = where.chosen_engine(found.frozen_plan.gpu_share)
    found.check(accept_versions=where.accept_versions)
    found.save()
    console.say(f"resuming {near(folder)} with {engine.slots}")
    _leave(_run(found, where, engine))


def _run(found: "Sweep", where: RunRequest, engine: "Engine") -> int:
    """The exit code of the command."""
    from orchestrator.cli.live import LiveView
    from orchestrator.support.stopping import stop_requested

    outcome = found.start(
        where,
        engine,
        view=lambda progress: LiveView(
            progress,
            console,
            resume=f"orchestrator resume {typed(found.folder)}",
            in_place=engine.is_apart,
        ),
    )
    show_sweep(found)
    exit_code = _show_end(outcome, found.folder)
    return INTERRUPTED if stop_requested() else exit_code


def _detach(request: PlanRequest, where: RunRequest) -> None:
    """Submit the command that was typed, without --detach."""
    from orchestrator.cluster.jobs import submit
    from orchestrator.record.database import ask_once, with_driver
    from orchestrator.record.owner import claim_folder, default_folder
    from orchestrator.run.engine import refuse_unsuited

    folder = claim_folder(request.out or default_folder(request.suite))
    if request.storage:
        ask_once(with_driver(request.storage))
    refuse_unsuited(where.engine, where.slots, where.ray_address)
    if not where.ray_address:
        raise ValueError("--detach needs a cluster: --ray-address or RAY_ADDRESS")
    arguments = [word for word in sys.argv[1:] if word != "--detach"]
    job = submit(
        [*arguments, "--out", str(folder.absolute())],
        name=folder.name,
        ray_address=where.ray_address,
    )
    console.say(f"job {job} runs on the cluster; what it prints: ray job logs --follow {job}")
    console.say(f"how far it is: orchestrator status {typed(folder)}")


def _leave(exit_code: int) -> None:
    if exit_code:
        raise typer.Exit(exit_code)


def _show_end(outcome: "Outcome", folder: Path) -> int:
    if not outcome.tracked:
        console.say(
            f"MLflow was away: `orchestrator resume {typed(folder)}` sends it what it missed"
        )
    if outcome.stop_reason:
        console.say(f"stopped: {outcome.stop_reason}")
    if outcome.num_finished < outcome.num_planned:
        left = outcome.num_planned - outcome.num_finished
        first = f"{activation} && " if (activation := activating()) else ""
        console.say(
            f"stopped with {counted(left, 'trial')} left; go on with: "
            f"{first}orchestrator resume {typed(folder)}"
        )
        return INTERRUPTED
    console.say(
        f"results {near(folder / 'results.parquet')}, "
        f"best configurations and prompts {near(folder / 'best')}"
    )
    if outcome.num_failed:
        console.say(
            f"{counted(outcome.num_failed, 'trial')} failed; "
            f"`orchestrator status {typed(folder)}` names the reasons"
        )
    for line in after_a_search(folder):
        console.say(line)
    return SOME_FAILED if outcome.num_failed else 0
