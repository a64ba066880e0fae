"""What is written about a trial at one time, as one transaction; Optuna commits each value alone.

A commit waits for the disk. One for every epoch would cost more than a short trial itself.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError

from orchestrator.record.database import MemoryDatabase, PatientStorage, wait_for
from orchestrator.record.optuna_private import models

Param = tuple[float, BaseDistribution]
"""A value as Optuna stores it, and where it was drawn from."""


def write_trial(
    database: PatientStorage | MemoryDatabase,
    trial_id: int,
    *,
    values: Mapping[int, float] | None = None,
    params: Mapping[str, Param] | None = None,
    user_attrs: Mapping[str, Any] | None = None,
    system_attrs: Mapping[str, Any] | None = None,
) -> None:
    """Write all of it or nothing. What stands there under the same step or name is replaced.

    `values` are the intermediate values, by epoch. Where Optuna's tables are not known
    (`optuna_private.py`), each is written alone, and a parameter that stands there stays.
    """
    if isinstance(database, MemoryDatabase) or not database.knows_tables:
        _write_each(database, trial_id, values, params, user_attrs, system_attrs)
        return
    kinds = (
        (
            models.TrialIntermediateValueModel,
            "step",
            [_value(*item) for item in (values or {}).items()],
        ),
        (models.TrialParamModel, "param_name", [_param(*item) for item in (params or {}).items()]),
        (models.TrialUserAttributeModel, "key", _attributes(user_attrs or {})),
        (models.TrialSystemAttributeModel, "key", _attributes(system_attrs or {})),
    )
    wait_for(lambda: _write(database.engine, trial_id, kinds))


def _write_each(
    database: PatientStorage | MemoryDatabase,
    trial_id: int,
    values: Mapping[int, float] | None,
    params: Mapping[str, Param] | None,
    user_attrs: Mapping[str, Any] | None,
    system_attrs: Mapping[str, Any] | None,
) -> None:
    for name, (value, distribution) in (params or {}).items():
        database.set_trial_param(trial_id, name, value, distribution)
    for name, told in (user_attrs or {}).items():
        database.set_trial_user_attr(trial_id, name, told)
    for name, told in (system_attrs or {}).items():
        database.set_trial_system_attr(trial_id, name, told)
    for epoch, value in (values or {}).items():
        database.set_trial_intermediate_value(trial_id, epoch, value)


def _write(
    engine: sqlalchemy.Engine,
    trial_id: int,
    kinds: Sequence[tuple[Any, str, list[dict[str, Any]]]],
) -> None:
    with engine.begin() as connection:
        asked = sqlalchemy.select(models.TrialModel.state).where(
            models.TrialModel.trial_id == trial_id
        )
        if connection.execute(asked).scalar_one().is_finished():
            raise UpdateFinishedTrialError(f"trial {trial_id} has ended")
        for model, key, rows in kinds:
            if not rows:
                continue
            column = getattr(model, key)
            replaced = model.trial_id == trial_id, column.in_([row[key] for row in rows])
            connection.execute(sqlalchemy.delete(model).where(*replaced))
            connection.execute(
                sqlalchemy.insert(model), [{"trial_id": trial_id, **row} for row in rows]
            )


def _value(step: int, value: float) -> dict[str, Any]:
    stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
    return {"step": step, "intermediate_value": stored, "intermediate_value_type": kind}


def _param(name: str, param: Param) -> dict[str, Any]:
    value, distribution = param
    return {
        "param_name": name,
        "param_value": value,
        "distribution_json": distribution_to_json(distribution),
    }


def _attributes(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]
