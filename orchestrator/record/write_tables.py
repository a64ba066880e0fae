"""What is written about a trial at one time, as one transaction; Optuna commits each value alone.

A commit waits for the disk. One for every epoch would cost more than a short trial itself.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb.models import (
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialSystemAttributeModel,
    TrialUserAttributeModel,
)

from orchestrator.record.database import wait_for

Param = tuple[float, BaseDistribution]
"""A value as Optuna stores it, and where it was drawn from."""


def write_trial(
    storage: _CachedStorage,
    trial_id: int,
    *,
    values: Mapping[int, float] | None = None,
    params: Mapping[str, Param] | None = None,
    user_attrs: Mapping[str, Any] | None = None,
    system_attrs: Mapping[str, Any] | None = None,
) -> None:
    """Write all of it or nothing. What stands there under the same step or name is replaced.

    `values` are the intermediate values, by epoch.
    """
    kinds = (
        (TrialIntermediateValueModel, "step", [_value(*item) for item in (values or {}).items()]),
        (TrialParamModel, "param_name", [_param(*item) for item in (params or {}).items()]),
        (TrialUserAttributeModel, "key", _attributes(user_attrs or {})),
        (TrialSystemAttributeModel, "key", _attributes(system_attrs or {})),
    )
    wait_for(lambda: _write(storage._backend.engine, trial_id, kinds))


def _write(
    engine: sqlalchemy.Engine,
    trial_id: int,
    kinds: Sequence[tuple[Any, str, list[dict[str, Any]]]],
) -> None:
    with engine.begin() as connection:
        asked = sqlalchemy.select(TrialModel.state).where(TrialModel.trial_id == trial_id)
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
    stored, kind = TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
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
