"""What a new sweep may begin with: the best of older sweeps, read from where their studies are."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.plan.plan import load_plan
from orchestrator.plan.warm_start import OlderStudy, OlderTrial
from orchestrator.record.database import STORAGE_FILE, without_password
from orchestrator.record.finalists import choose_finalists
from orchestrator.record.stored_plan import find_plan, holds_studies
from orchestrator.support.phases import phase

if TYPE_CHECKING:
    from orchestrator.api.sweep import Sweep

KEPT = 10
"""Trials of each study that are looked at: the best may be alike, or not be drawn any more."""


def older_studies(
    sweeps: Sequence[str], storage: str | None, *, open_sweep: "type[Sweep]"
) -> list[OlderStudy]:
    """Of sweeps by folder, or by name in `storage`; ValueError names one that cannot be read."""
    found: list[OlderStudy] = []
    with phase("reading older sweeps", len(sweeps)) as read:
        for name in sweeps:
            try:
                found += _studies(_opened(Path(name).expanduser(), storage, open_sweep))
            except ValueError as error:
                said = str(error).removeprefix(f"{name}: ")
                raise ValueError(f"--warm-start {name}: {said}") from error
            read.advance()
    return found


def _opened(folder: Path, storage: str | None, open_sweep: "type[Sweep]") -> "Sweep":
    """A folder with studies of its own is read there, whatever storage the new sweep has."""
    if (folder / STORAGE_FILE).is_file():
        return open_sweep(load_plan(folder), folder)
    plan = find_plan(folder, storage)
    if storage is None:
        raise ValueError(
            f"has no {STORAGE_FILE}: it was not run, or has its studies in a --storage"
        )
    if not holds_studies(plan, storage):  # or they would be made there
        raise ValueError(f"has no studies in {without_password(storage)}")
    return open_sweep(plan, folder, storage=storage)


def _studies(sweep: "Sweep") -> Iterator[OlderStudy]:
    plan = sweep.frozen_plan
    with sweep.reading() as record:
        for study in plan.studies:
            yield OlderStudy(
                sweep=plan.name,
                name=study.name,
                task=plan.task(study.task),
                method=plan.parsed_spaces[study.space].method,
                backbone=plan.backbone,
                best=[
                    OlderTrial(
                        number=trial.number,
                        config=trial.config,
                        val_accuracy=trial.val_accuracy or 0.0,
                    )
                    for trial in choose_finalists(record.trials(study.name), KEPT)
                ],
            )
