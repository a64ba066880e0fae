"""`plan`: what a sweep will cost, before it starts; and the question before a costly one."""

import json
import sys
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from orchestrator.api.requests import PlanRequest, PriceRequest
from orchestrator.cli.options import Json, with_requests
from orchestrator.cli.pruner_options import with_pruner_options
from orchestrator.cli.terminal import Terminal
from orchestrator.run.request import RunRequest
from orchestrator.support.phases import phase
from orchestrator.support.shown_values import NOTHING, number_text

if TYPE_CHECKING:
    from orchestrator.run.forecast import Forecast

console = Terminal()

ASKED_SLOT_HOURS = 24
ASKED_PRICE = 10
"""Above one of these a person at a terminal is asked."""


@with_pruner_options
@with_requests
def plan(
    request: PlanRequest, where: RunRequest, price: PriceRequest, as_json: Json = False
) -> None:
    """What a sweep will cost: trials, epochs after pruning, hours with an interval, memory, money.

        orchestrator plan quickstart
        orchestrator plan ./photos --backbone deit_tiny_patch16_224 --trials 40
        orchestrator plan my_sweep.yaml --price-per-hour 2.50 --json

    It takes the options of `sweep` and starts nothing. Some training steps of every search space
    are timed on this machine, half a minute for all; how early trials are stopped is known from
    curves that were recorded. The last stage (`finalize`) comes on top.
    """
    with phase("loading libraries"):
        from orchestrator.api.sweep import Sweep

    stderr = Terminal(stderr=True)
    say = stderr.say if as_json else console.say
    planned = Sweep.planned(request, where, dry_run=True, say=say)
    assert planned.engine is not None
    found = planned.forecasted(planned.engine, where, price.price_per_hour)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        show_forecast(found)


def show_forecast(found: "Forecast") -> None:
    """A row for each search space, and what all of them take together."""
    table = Table(box=None, pad_edge=False)
    table.add_column("search space", overflow="fold")
    for name in ("studies", "trials", "epochs a trial", "seconds a trial", "slot-hours"):
        table.add_column(name, justify="right", overflow="fold")
    for space in found.spaces:
        table.add_row(
            space.space,
            str(space.num_studies),
            f"{space.num_trials:,}",
            f"{number_text(space.epochs)} of {space.planned_epochs}",
            NOTHING if space.trial_seconds is None else number_text(space.trial_seconds),
            NOTHING if space.slot_hours is None else number_text(space.slot_hours),
        )
    console.print_table(table)
    console.say(f"forecast: {found}")
    if found.worker_memory_mib is not None:
        console.say(f"memory: a trial takes about {found.worker_memory_mib:,.0f} MiB")


def is_wanted(found: "Forecast") -> bool:
    """Asks whoever sits at a terminal, where it will cost much; else yes."""
    hours, price = found.slot_hours or 0.0, found.price or 0.0
    is_costly = hours > ASKED_SLOT_HOURS or price > ASKED_PRICE
    if not is_costly or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    return typer.confirm("start it?")
