"""What we use of Optuna that it does not promise: its tables, and what its cache asks a storage.

To read trials without an object for every row (`read_tables.py`), and to write an epoch as one
transaction (`write_tables.py`), we know Optuna's tables. That is trusted only with the version that
was tested: with any other, Optuna's own slower methods are used instead, which is said once. Our
storage (`database.py`) waits for a database that is away, so it must know which of its methods are
asked: an Optuna that asks in another way is refused.
"""

import functools
import logging

import optuna

from orchestrator.support.private_names import VALUE, differences, is_minor, refuse_another

logger = logging.getLogger(__name__)

TESTED = "5.0"
TESTED_TABLES = "v3.2.0.a"
"""Not enough by itself: Optuna 5.0 writes other times into the same columns than 4 did."""

_RDB = "optuna.storages.RDBStorage"
_MODELS = "optuna.storages._rdb.models"

RELIES_ON = {
    f"{_RDB}._create_new_trial": "(self, study_id, template_trial)",
    f"{_RDB}._get_best_trial_id": "(self, study_id, direction)",
    f"{_RDB}._get_trials": "(self, study_id, states, included_trial_ids, trial_id_greater_than)",
    f"{_RDB}._set_trial_param": (
        "(self, trial_id, param_name, param_value_internal, distribution, previous_distribution)"
    ),
    f"{_RDB}().engine": VALUE,
    f"{_RDB}().url": VALUE,
    _MODELS: VALUE,
}
"""Without these our storage is none."""

TABLES = {
    f"{_MODELS}.StudyModel.study_name": VALUE,
    f"{_MODELS}.TrialIntermediateValueModel.intermediate_value_to_stored_repr": "(value)",
    f"{_MODELS}.TrialIntermediateValueModel.stored_repr_to_intermediate_value": (
        "(value, float_type)"
    ),
    f"{_MODELS}.TrialModel.datetime_complete": VALUE,
    f"{_MODELS}.TrialModel.datetime_start": VALUE,
    f"{_MODELS}.TrialModel.number": VALUE,
    f"{_MODELS}.TrialModel.state": VALUE,
    f"{_MODELS}.TrialParamModel.distribution_json": VALUE,
    f"{_MODELS}.TrialSystemAttributeModel.value_json": VALUE,
    f"{_MODELS}.TrialUserAttributeModel.value_json": VALUE,
    f"{_MODELS}.TrialValueModel.stored_repr_to_value": "(value, float_type)",
}
"""Without these we read and write as Optuna does."""


@functools.cache
def knows_tables(version: str) -> bool:
    """Whether tables of this version may be read and written by column; said once where not."""
    reason = None
    if not is_minor(optuna.__version__, TESTED):
        reason = f"found {optuna.__version__}"
    elif version != TESTED_TABLES:
        reason = f"its tables are those of {version}, not of {TESTED_TABLES}"
    elif differ := differences(TABLES):
        reason = differ[0]
    if reason is not None:
        logger.warning(
            "tested with Optuna %s; %s: trials are read and written in Optuna's own way, "
            "which takes longer",
            TESTED,
            reason,
        )
    return reason is None


def _models():
    refuse_another("optuna", optuna.__version__, TESTED, RELIES_ON)
    from optuna.storages._rdb import models

    return models


models = _models()
"""Optuna's tables."""
