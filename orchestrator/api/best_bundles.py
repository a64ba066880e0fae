"""Which files of best trials a sweep's folder has, for the page."""

import shlex
from pathlib import Path

from orchestrator.plan.folders import BEST_FOLDER, BY_METHOD
from orchestrator.record.record import TrialRecord, best_of
from orchestrator.report.bundle_files import Bundle, Bundles
from orchestrator.report.collect import SweepReport
from orchestrator.support.yaml_io import read_yaml


def find_bundles(report: SweepReport, folder: Path) -> Bundles:
    """Those in `best/` that are of the trials that the report calls the best of the search."""
    best_folder = folder / BEST_FOLDER
    best, of_studies, missing = {}, {}, []
    for task in report.plan.tasks:
        found = [study.best for study in report.of_task(task.name) if study.best]
        winner = best_of(found)
        if winner and (bundle := _bundle(best_folder / f"{task.name}.yaml", winner)):
            best[task.name] = bundle
        elif winner:
            missing.append(task.name)
    for study in report.studies:
        path = best_folder / BY_METHOD / study.plan.space / f"{study.plan.task}.yaml"
        if study.best and (bundle := _bundle(path, study.best)):
            of_studies[study.name] = bundle
    return Bundles(best=best, of_studies=of_studies, why_not=_why_not(missing, folder))


def _bundle(path: Path, trial: TrialRecord) -> Bundle | None:
    """None where the file is missing, cannot be read or is of another trial."""
    try:
        written = read_yaml(path, follow_link=False)
        told = written["trial"]["study"], written["trial"]["number"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return (
        Bundle(trial=trial.number, path=str(path)) if told == (trial.study, trial.number) else None
    )


def _why_not(missing: list[str], folder: Path) -> str:
    if not missing:
        return ""
    named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    command = f"orchestrator export {shlex.quote(str(folder))}"
    return f"No files of the best trial of {named} yet: `{command}` writes them."
