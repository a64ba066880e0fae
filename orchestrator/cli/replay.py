"""`replay`: whether what a search decided follows from its storage."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.options import Folder, Json, Storage
from orchestrator.cli.terminal import Terminal
from orchestrator.support.counted import counted
from orchestrator.support.phases import phase

if TYPE_CHECKING:
    from orchestrator.record.replay import Replayed

console = Terminal()

DIFFERS = 1


def replay(folder: Folder, storage: Storage = None, as_json: Json = False) -> None:
    """Draw and judge every trial again from what the storage held then, and compare.

        orchestrator replay sweeps/photos-20261121-120000

    Nothing is trained and nothing is written; the sweep may be running. Exit code 0: every
    suggestion and every decision of the pruner follows from those before it. 1: one does not. 2: it
    could not be looked at.
    """
    with phase("loading libraries"):
        from orchestrator.api.sweep import Sweep

    found = Sweep.open(folder, storage=storage).replay()
    differences = [difference for study in found for difference in study.differences]
    if as_json:
        typer.echo(json.dumps([asdict(study) for study in found], indent=2))
    else:
        _show(found)
    if differences:
        raise typer.Exit(DIFFERS)


def _show(found: "Sequence[Replayed]") -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("study", overflow="fold")
    for name in ("trials", "suggestions", "decisions", "differences"):
        table.add_column(name, justify="right", overflow="fold")
    for study in found:
        number = len(study.differences)
        numbers = (study.trials, study.suggestions, study.decisions)
        told = Text(str(number), style="red" if number else "")
        table.add_row(study.study, *(f"{count:,}" for count in numbers), told)
    console.print_table(table)
    for study in found:
        if study.not_replayed:
            console.say(f"{study.study}: not replayed: {study.not_replayed}")
        for first in study.differences[:1]:
            console.say(
                f"{study.study}: first difference: trial #{first.trial}, event {first.event}: "
                f"{first.what}: stored {first.stored!r}, derived {first.derived!r}"
            )
    if not any(study.differences for study in found):
        drawn = sum(study.suggestions for study in found)
        judged = sum(study.decisions for study in found)
        console.say(
            f"{counted(drawn, 'suggestion')} and {counted(judged, 'decision')} of the pruner "
            "follow from what the storage held then"
        )
        if found[0].choices is not None:
            console.say(
                f"so do {counted(found[0].choices, 'choice')} of a study for the next trial, or of "
                "one that ends"
            )
