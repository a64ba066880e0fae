"""Trials as Optuna's database holds them, without an object for every row.

Optuna makes one of every parameter, attribute and epoch of every trial: to read 5,700 trials took
2.6 times as long.
"""

import functools
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import orm

from orchestrator.record.optuna_private import models

_MOST_NAMED = 500
"""Trials that a question may name one by one; databases take a limited number of values."""


def read_trials(
    engine: sqlalchemy.Engine,
    study_id: int,
    *,
    states: Collection[TrialState] | None = None,
    newer_than: int = -1,
    and_these: Collection[int] = (),
) -> list[FrozenTrial]:
    """The trials of a study by age, equal to those that Optuna reads.

    Only those with an id above `newer_than`, and those with an id in `and_these`; all as they were
    at one moment. KeyError where there is no such study.
    """
    asked = [models.TrialModel.study_id == study_id]
    if states is not None:
        asked.append(models.TrialModel.state.in_(states))
    if newer_than > -1 and len(and_these) <= _MOST_NAMED:
        asked.append(
            sqlalchemy.or_(
                models.TrialModel.trial_id > newer_than, models.TrialModel.trial_id.in_(and_these)
            )
        )
    with _snapshot(engine) as session:

        def rows_of(model: Any, *columns: Any, order: Any = None) -> dict[int, list[Any]]:
            question = sqlalchemy.select(model.trial_id, *columns)
            question = question.join(
                models.TrialModel, models.TrialModel.trial_id == model.trial_id
            )
            found: dict[int, list[Any]] = defaultdict(list)
            for trial_id, *row in session.execute(question.where(*asked).order_by(order)):
                found[trial_id].append(row)
            return found

        named = sqlalchemy.select(models.StudyModel.study_name).where(
            models.StudyModel.study_id == study_id
        )
        study = session.execute(named).scalar()
        if study is None:
            raise KeyError(f"no study {study_id}")
        of_age = (
            sqlalchemy.select(models.TrialModel).where(*asked).order_by(models.TrialModel.trial_id)
        )
        trials: Sequence[Any] = session.scalars(of_age).all()
        values = rows_of(
            models.TrialValueModel,
            models.TrialValueModel.value,
            models.TrialValueModel.value_type,
            order=models.TrialValueModel.objective,
        )
        params = rows_of(
            models.TrialParamModel,
            models.TrialParamModel.param_name,
            models.TrialParamModel.param_value,
            models.TrialParamModel.distribution_json,
            order=models.TrialParamModel.param_id,
        )
        user, system = (
            rows_of(kind, kind.key, kind.value_json)
            for kind in (models.TrialUserAttributeModel, models.TrialSystemAttributeModel)
        )
        reports = rows_of(
            models.TrialIntermediateValueModel,
            models.TrialIntermediateValueModel.step,
            models.TrialIntermediateValueModel.intermediate_value,
            models.TrialIntermediateValueModel.intermediate_value_type,
        )

        def frozen(trial: Any) -> FrozenTrial:
            own = params[trial.trial_id]
            if not isinstance(trial.number, int):
                raise TypeError(f"its number is {trial.number!r}")
            return FrozenTrial(
                number=trial.number,
                state=trial.state,
                value=None,
                values=[float(_value(*row)) for row in values[trial.trial_id]] or None,
                datetime_start=trial.datetime_start,
                datetime_complete=trial.datetime_complete,
                params={n: _distribution(text).to_external_repr(v) for n, v, text in own},
                distributions={name: _distribution(text) for name, _, text in own},
                user_attrs={key: json.loads(text) for key, text in user[trial.trial_id]},
                system_attrs={key: json.loads(text) for key, text in system[trial.trial_id]},
                intermediate_values={
                    step: float(_report(value, kind))
                    for step, value, kind in reports[trial.trial_id]
                },
                trial_id=trial.trial_id,
            )

        found = []
        for trial in trials:
            if trial.trial_id > newer_than or trial.trial_id in and_these:
                try:
                    found.append(frozen(trial))
                except NOT_OURS as error:
                    raise ValueError(
                        f"trial #{trial.number} of study {study!r} is not as it was written: "
                        f"{type(error).__name__}: {error}"
                    ) from error
        return found


@contextmanager
def _snapshot(engine: sqlalchemy.Engine) -> Iterator[orm.Session]:
    """All that is asked in it is answered as of one moment, while others write."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN")  # Python's driver waits with it for the first write
        else:
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with orm.Session(connection) as session:
            yield session


NOT_OURS = (
    *(ValueError, TypeError, LookupError, AttributeError),
    *(RecursionError, OverflowError, AssertionError),
)
"""What reading raises of rows that neither Optuna nor we have written."""

_value: Callable[..., float] = models.TrialValueModel.stored_repr_to_value
_report: Callable[..., float] = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value


@functools.lru_cache(maxsize=1000)
def _distribution(text: str) -> BaseDistribution:
    """Many trials are drawn from the same few."""
    return json_to_distribution(text)
