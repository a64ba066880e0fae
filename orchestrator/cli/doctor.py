"""`doctor`: whether a sweep folder is whole, and what is safe to repair."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import DataOption, Json, Storage, WeightsOption
from orchestrator.cli.terminal import Terminal
from orchestrator.support.phases import phase

console = Terminal()

BROKEN = 1


def doctor(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="SWEEP", help="The folder of a sweep, or with --storage its name."),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Write table, bundles and MLflow again from the storage; remove what a killed "
            "process left.",
        ),
    ] = False,
    data: DataOption = None,
    weights: WeightsOption = None,
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster", help="Look at no sweep, but whether storage, MLflow and Ray are reached."
        ),
    ] = False,
    storage: Storage = None,
    ray_address: Annotated[
        str | None,
        typer.Option(envvar="RAY_ADDRESS", help="With --cluster: the Ray cluster to ask."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that storage, table, bundles and MLflow of a sweep agree and that nothing is lost.

        orchestrator doctor SWEEP
        orchestrator doctor SWEEP --repair
        orchestrator doctor --cluster

    Without --repair nothing is written. Exit code 0: nothing was found. 1: something was, and with
    --repair is still there. 2: it could not be looked at.
    """
    if cluster:
        _examine_cluster(storage, ray_address, as_json)
        return
    if folder is None:
        raise ValueError("doctor needs the folder of a sweep, or --cluster")
    with phase("loading libraries"):
        from orchestrator.api.sweep import Sweep

    found = Sweep.open(folder, storage=storage, data=data, weights=weights)
    done, examination = found.repair() if repair else ([], found.doctor())
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
            console.say(line)
        for finding in examination.findings:
            console.say(f"{finding.about}: {finding.text} ({finding.remedy})")
        for line in notes:
            console.say(line)
        checks = ", ".join(f"{count} of {about}" for about, count in examination.checked.items())
        console.say(f"{len(examination.findings)} of these checks found something: {checks}")
    if examination.findings:
        raise typer.Exit(BROKEN)


def _notes(*, repair: bool) -> list[str]:
    """Notes on this machine and user, not on a sweep: they do not change the exit code."""
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
            console.say(f"privacy: {line}")
        for finding in findings:
            console.say(
                f"{finding.part}: {'' if finding.reached else 'NOT REACHED: '}{finding.text}"
            )
    if not all(finding.reached for finding in findings):
        raise typer.Exit(BROKEN)
