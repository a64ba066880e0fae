"""`doctor`: whether a sweep folder is whole, and what is safe to repair."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Storage
from orchestrator.cli.terminal import Terminal

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
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Instead: are storage, MLflow and Ray reached?")
    ] = False,
    storage: Storage = None,
    ray_address: Annotated[str | None, typer.Option(envvar="RAY_ADDRESS")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check that storage, table, bundles and MLflow of a sweep agree and that nothing is lost."""
    if cluster:
        _examine_cluster(storage, ray_address, as_json)
        return
    if folder is None:
        raise ValueError("doctor needs the folder of a sweep, or --cluster")
    from orchestrator.doctor import examine
    from orchestrator.doctor import repair as repair_folder
    from orchestrator.final_record import FinalRecord
    from orchestrator.mlflow_store import tracking_uri
    from orchestrator.owner import leased, owned
    from orchestrator.plan import load_plan
    from orchestrator.prepare import planned_suite
    from orchestrator.record import open_record
    from orchestrator.storage import default_storage

    plan = load_plan(folder)
    uri = tracking_uri(folder)
    with owned(folder), leased(storage, plan.name):
        record = open_record(plan, folder, storage)
        finals = FinalRecord.begun(plan, record, storage or default_storage(folder))
        done: list[str] = []
        if repair:
            done = repair_folder(plan, record, planned_suite(plan), folder, uri, finals)
        examination = examine(plan, record, folder, uri, finals)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "checked": dict(examination.checked),
                    "findings": [asdict(finding) for finding in examination.findings],
                    "done": done,
                },
                indent=2,
            )
        )
    else:
        for line in done:
            _say(line)
        for finding in examination.findings:
            _say(f"{finding.about}: {finding.text} ({finding.remedy})")
        checks = ", ".join(f"{count} of {about}" for about, count in examination.checked.items())
        _say(f"{len(examination.findings)} of these checks found something: {checks}")
    if examination.findings:
        raise typer.Exit(BROKEN)


def _examine_cluster(storage: str | None, ray_address: str | None, as_json: bool) -> None:
    from orchestrator.fleet import reach

    findings = reach(storage, os.environ.get("MLFLOW_TRACKING_URI"), ray_address)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            _say(f"{finding.part}: {'' if finding.reached else 'NOT REACHED: '}{finding.text}")
    if not all(finding.reached for finding in findings):
        raise typer.Exit(BROKEN)


def _say(line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
