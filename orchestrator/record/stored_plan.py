"""The plan of a sweep beside its trials: whoever reaches the storage needs nothing else."""

from pathlib import Path

import optuna

from orchestrator.plan.plan import PLAN_FILE, SweepPlan, load_plan, plan_document, read_plan
from orchestrator.record.database import open_storage, without_password
from orchestrator.record.record import Record
from orchestrator.support.did_you_mean import unknown

_ATTRIBUTE = "sweep"


def store_plan(plan: SweepPlan, record: Record) -> None:
    """Keep the plan with the first of its studies; what is kept already stays."""
    study = record.optuna_study(plan.studies[0].name)
    if _ATTRIBUTE not in study.user_attrs:
        study.set_user_attr(_ATTRIBUTE, plan_document(plan))


def find_plan(folder: Path, storage_url: str | None) -> SweepPlan:
    """The plan in a sweep folder, or else that of the sweep of this name in the storage."""
    if storage_url is None or (folder / PLAN_FILE).exists():
        return load_plan(folder)
    shown = without_password(storage_url)
    storage = open_storage(storage_url)
    names = optuna.get_all_study_names(storage)
    for name in names:
        if name.partition("/")[0] == folder.name:
            study = optuna.load_study(study_name=name, storage=storage)
            if _ATTRIBUTE in study.user_attrs:
                plan = read_plan(study.user_attrs[_ATTRIBUTE], source=f"{shown}: {folder.name}")
                if plan.name != folder.name:
                    raise ValueError(f"{shown}: {folder.name}: holds the plan of {plan.name!r}")
                return plan
    sweeps = sorted({name.partition("/")[0] for name in names})
    raise ValueError(
        f"{folder}: has no {PLAN_FILE}, and {shown}: {unknown('sweep', folder.name, sweeps)}"
    )


def holds_studies(plan: SweepPlan, storage_url: str) -> bool:
    """Whether all studies of the plan are in the storage; none is made there."""
    names = optuna.get_all_study_names(open_storage(storage_url))
    return {f"{plan.name}/{study.name}" for study in plan.studies} <= set(names)
