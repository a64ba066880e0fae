"""`doctor`: whether a sweep folder is whole, and what is safe to repair."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import DataOption, Storage, WeightsOption
from orchestrator.cli.terminal import Terminal

if TYPE_CHECKING:
    from orchestrator.data.suites import Suite
    from orchestrator.plan.plan import SweepPlan

console = Terminal()

BROKEN = 1


def doctor(
    folder: Annotated[Path | None, typer.Argument(help="The folder of a sweep.")] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Write table, bundles and MLflow again; remove what the dead left."
        ),
    ] = False,
    data: DataOption = None,
    weights: WeightsOption = None,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Instead: are storage, MLflow and Ray reached?")
    ] = False,
    storage: Storage = None,
    ray_address: Annotated[str | None, typer.Option(envvar="RAY_ADDRESS")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check that storage, table, bundles and MLflow of a sweep agree and that nothing is lost.

    Without --repair nothing is written. Exit code 0: nothing was found. 1: something was, and with
    --repair is still there. 2: it could not be looked at.
    """
    if cluster:
        _examine_cluster(storage, ray_address, as_json)
        return
    if folder is None:
        raise ValueError("doctor needs the folder of a sweep, or --cluster")
    from orchestrator.plan.places import at_places, find_places
    from orchestrator.plan.plan import load_plan
    from orchestrator.record.database import default_storage
    from orchestrator.record.finals import FinalRecord
    from orchestrator.record.owner import leased, owned, unowned
    from orchestrator.record.record import open_record
    from orchestrator.run.doctor import examine
    from orchestrator.run.doctor import repair as repair_folder
    from orchestrator.support.regular_file import refuse_links_within
    from orchestrator.tracking.snapshot import copied_databases
    from orchestrator.tracking.trackers import tracker_at, tracking_uri

    plan = at_places(load_plan(folder), find_places(folder, data, weights))
    uri = tracking_uri(folder)
    done: list[str] = []
    if repair:
        with owned(folder), leased(storage, plan.name):
            record = open_record(plan, folder, storage)
            finals = FinalRecord.begun(plan, record, storage or default_storage(folder))
            suite = _suite_if_there(plan, done, asked=data is not None)
            done += repair_folder(plan, record, suite, folder, uri, finals)
            examination = examine(plan, record, folder, uri, finals)
    else:
        refuse_links_within(folder)
        with unowned(folder), leased(storage, plan.name), copied_databases(folder) as copies:
            uri = tracker_at(uri).in_copy(uri, folder, copies)
            record = open_record(plan, copies, storage)
            finals = FinalRecord.begun(plan, record, storage or default_storage(copies))
            examination = examine(plan, record, folder, uri, finals, copies)
    notes = [*examination.notes, *_notes(repair=repair)]
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "checked": dict(examination.checked),
                    "findings": [asdict(finding) for finding in examination.findings],
                    "done": done,
                    "notes": notes,
                },
                indent=2,
            )
        )
    else:
        for line in done:
            _say(line)
        for finding in examination.findings:
            _say(f"{finding.about}: {finding.text} ({finding.remedy})")
        for line in notes:
            _say(line)
        checks = ", ".join(f"{count} of {about}" for about, count in examination.checked.items())
        _say(f"{len(examination.findings)} of these checks found something: {checks}")
    if examination.findings:
        raise typer.Exit(BROKEN)


def _suite_if_there(plan: "SweepPlan", done: list[str], *, asked: bool) -> "Suite | None":
    """The images may be on the machine where the sweep ran: then all but the bundles is mended."""
    from orchestrator.plan.prepare import planned_suite

    try:
        return planned_suite(plan)
    except ValueError as error:
        if asked:
            raise
        done.append(f"bundles stay as they are: {error}")
        return None


def _notes(*, repair: bool) -> list[str]:
    """Of this machine and user, not of a sweep: no part of the exit code."""
    from orchestrator.support.privacy import open_things
    from orchestrator.support.scratch import dead, remove_dead

    left = remove_dead() if repair else dead()
    what = "removed" if repair else "left, for the next sweep or --repair to remove"
    return [*open_things(), *(f"of a driver that was killed, {what}: {path}" for path in left)]


def _examine_cluster(storage: str | None, ray_address: str | None, as_json: bool) -> None:
    from orchestrator.cluster.reach import reach
    from orchestrator.support.privacy import open_things
    from orchestrator.tracking.trackers import chosen_tracker

    findings = reach(storage, os.environ.get(chosen_tracker().variable), ray_address)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for line in open_things():
            _say(f"privacy: {line}")
        for finding in findings:
            _say(f"{finding.part}: {'' if finding.reached else 'NOT REACHED: '}{finding.text}")
    if not all(finding.reached for finding in findings):
        raise typer.Exit(BROKEN)


def _say(line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
